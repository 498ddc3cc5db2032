r"""Real classification tables: guides of a small net beside scikit-learn, on the same splits.

The tables ship with scikit-learn: breast cancer (569 points, 30 inputs, 2 classes), wine (178, 13,
3) and digits of 8 x 8 pixels (1797, 64, 10). A net with one hidden layer and logistic regression
stand beside scikit-learn's ``LogisticRegression``, whose penalty ``C = 1`` is the prior
:math:`\mathcal N(0, 1)` of the one here, a random forest, and a Gaussian process with the length
scale :math:`\sqrt d` for ``d`` standardised inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import RBF, ConstantKernel
from sklearn.linear_model import LogisticRegression

from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.tables import kit
from probml_tp.guides.recipes import FitSettings, SwagPath, guides_for
from probml_tp.harness.config import option
from probml_tp.harness.experiment import MAIN_TABLE, Experiment, Figure, Progress, Results, Table
from probml_tp.kit.common import CLASSIFICATION_COLUMNS, FIT_COLUMN, derived_seed, percent
from probml_tp.kit.knobs import knob
from probml_tp.kit.posterior_checks import with_posterior_checks
from probml_tp.kit.sentences import Finding, tell, together
from probml_tp.metrics.accuracy import classification_scores
from probml_tp.metrics.over_runs import CriticalDifference, critical_difference, win_rates
from probml_tp.models import logistic_regression, mlp_classifier
from probml_tp.plots.robustness import plot_critical_difference
from probml_tp.plots.style import figure, house_style, number
from probml_tp.posterior import Posterior
from probml_tp.predictions.predictive import ClassificationPredictive
from probml_tp.priors import FanInNormalPrior, NormalPrior

NAME = "tabular-classification"
DATA = ("breast-cancer", "wine", "digits")
NET = guides_for("layers", without=(*kit.UNUSED, "reference", "laplace", "laplace-linearized"))
LOGISTIC = ("laplace-linearized", "map")
TREES = 100

REFERENCE, MODE = "scikit-learn · LogisticRegression", "mlp · map"
SETTINGS = "scikit-learn has its defaults, but for the Gaussian process, whose kernel is fixed."
LESS = "Less scikit-learn's LogisticRegression on the same splits (below 0: better)"
COLUMNS = {**CLASSIFICATION_COLUMNS, "gap": "Confidence less accuracy", **FIT_COLUMN}
OVERALL = {
    "rank": "Mean rank by NLL ↓",
    "wins": "NLL better than LogisticRegression (% of splits) ↑",
    **COLUMNS,
}
"""Metric to heading: means over the tables, which share no units but the nats of the NLL."""


@dataclass(frozen=True, kw_only=True)
class Config(kit.TabularConfig):
    """Options of the experiment."""

    data: tuple[str, ...] = knob("data", DATA, quick=DATA[:2], choices=DATA)
    splits: int = knob("splits", 4, quick=2, full=10, minimum=1, remark="Of each table.")
    net_guides: tuple[str, ...] = knob("guides", NET, choices=NET, remark="Of the net.")
    logistic_guides: tuple[str, ...] = knob("guides", LOGISTIC, choices=LOGISTIC)
    hidden: int = knob("hidden", 16, quick=8, full=50)
    prior_scale: float = knob("prior_scale", 2.0, remark="Of a unit's inputs together.")
    epochs: int = knob("epochs", 120, quick=20, full=1000)
    members: int = knob("members", 5, quick=3)
    swag_epochs: int = knob("swag_epochs", 20, quick=5, full=100)
    gp_points: int = option(300, "Training points of the process.", full=1000, minimum=20)


def fits(split: kit.Split, config: Config, index: int) -> dict[str, kit.Fits]:
    """What is fitted of the net and of logistic regression to a split."""
    x, y = split.train
    shape: dict[str, Any] = {"num_features": x.shape[1], "num_classes": int(y.max()) + 1}
    kind: dict[str, Any] = shape | {"seed": config.seed, "dtype": torch.float64}
    prior = FanInNormalPrior(config.prior_scale)
    net = mlp_classifier(**kind, hidden=(config.hidden,), prior=prior)
    how = FitSettings(
        epochs=config.epochs,
        lr=0.05,
        rounds=2,
        init_scale=0.05,
        rank=config.rank,
        rates={"fc2": config.rate},
        members=config.members,
        from_mode=("normal",),
        swag=SwagPath(lr=0.02, epochs=config.swag_epochs, batch_size=64, rank=10),
        seed=derived_seed(config.seed, f"fit {index}"),
    )
    own = {"weight": NormalPrior(1.0), "bias": NormalPrior(10.0)}
    logistic = logistic_regression(**shape, prior=own)
    return {
        "mlp": kit.Fits(net, config.net_guides, how),
        "logistic": kit.Fits(logistic, config.logistic_guides, how),
    }


def library_methods(split: kit.Split, config: Config) -> dict[str, Callable[[], Any]]:
    """What makes each method of scikit-learn."""
    kernel, seed = ConstantKernel(4.0) * RBF(split.train[0].shape[1] ** 0.5), config.seed
    fixed: dict[str, Any] = {"optimizer": None, "random_state": seed}
    return {
        "LogisticRegression": partial(LogisticRegression, C=1.0, max_iter=2000),
        "RandomForest": partial(RandomForestClassifier, TREES, random_state=seed),
        "GaussianProcess": partial(GaussianProcessClassifier, kernel, **fixed),
    }


def library_predictive(method: Any, split: kit.Split, config: Config) -> ClassificationPredictive:
    """Fit a method of scikit-learn and predict class probabilities.

    The votes of a forest are smoothed by one vote for each class, so that its NLL is finite; the
    Gaussian process sees the first ``gp_points`` training points.
    """
    x, y = (part.numpy() for part in split.train)
    if isinstance(method, GaussianProcessClassifier):
        x, y = x[: config.gp_points], y[: config.gp_points]
    probs = torch.from_numpy(method.fit(x, y).predict_proba(split.test[0].numpy()))
    if isinstance(method, RandomForestClassifier):
        probs = (TREES * probs + 1) / (TREES + probs.shape[-1])
    return ClassificationPredictive(0, None, probs, None, None)


def scores(predictive: ClassificationPredictive, split: kit.Split) -> dict[str, float]:
    """Scores on the test points, and how far mean confidence exceeds accuracy."""
    found = classification_scores(predictive, split.test[1])
    return found | {"gap": float(predictive.confidence.mean()) - found["accuracy"]}


TASK = kit.Task(fits, library_methods, Posterior.predict, library_predictive, scores)


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit everything to every split of every table and compare it on the test points."""
    words = {name: kit.TABLES[name][1] for name in config.data}
    sizes = {name: kit.split_sizes(name, config) for name in words}
    parts = [f"{words[n]} ({s['train_size']} + {s['test_size']})" for n, s in sizes.items()]
    over = f"means over {config.splits} splits, corrected 95 % t intervals"
    tables = [Table(f"{on}: {over}", kit.ROWS, columns=COLUMNS) for on in words.values()]
    headings = {name: f"{on}: NLL (nats) ↓" for name, on in words.items()}
    less = Table(LESS, kit.ROWS, columns=headings)
    results = Results(
        NAME,
        "Classification of three tables, beside scikit-learn",
        config,
        Table(MAIN_TABLE, kit.ROWS, columns=OVERALL),
        findings=[],
        data_source=f"{', '.join(parts)} of scikit-learn: points to train and to test on, "
        f"{config.splits} stratified random splits each, inputs standardised on the training "
        f"points",
        tables=[*tables, less],
    )
    judged = kit.run_splits(TASK, config.data, results, progress)
    for (name, runs), table in zip(judged.items(), tables, strict=True):
        kit.put_means(table, runs, {metric: metric for metric in COLUMNS}, sizes[name])
        kit.put_means(less, runs, {name: "nll"}, sizes[name], less=REFERENCE)
    _overall(results.main, [run for runs in judged.values() for run in runs], tables)
    results.findings = findings(results)
    return results


def _overall(main: Table, runs: list[Table], tables: list[Table]) -> None:
    """Enter means and mean ranks over the tables, and wins over all their splits, by NLL."""
    nll = {row: [run[row, "nll"] for run in runs] for row in tables[0].rows}
    wins = win_rates(nll, higher_is_better=False)
    ranked = _ranking(tables)
    for row in tables[0].rows:
        main.put(row, {m: float(np.mean([table[row, m] for table in tables])) for m in COLUMNS})
        if row != REFERENCE:
            main.put(row, {"wins": 100 * wins[row][REFERENCE]})
        if ranked:
            main.put(row, {"rank": ranked.mean_ranks[row]})


def _ranking(tables: list[Table]) -> CriticalDifference | None:
    """Ranks by NLL over the tables; none of one table."""
    if len(tables) < 2:
        return None
    nll = {row: [table[row, "nll"] for table in tables] for row in tables[0].rows}
    return critical_difference(nll, higher_is_better=False)


def _of(results: Results[Any]) -> dict[str, Table]:
    """What each table of data is called, to its numbers."""
    return {table.title.split(":")[0]: table for table in results.tables[:-1]}


def findings(results: Results[Any]) -> list[str]:
    """What the numbers say, the most important first."""
    ranges, row_range = [], kit.row_range
    for on in _of(results):
        words = f"{on.capitalize()}: accuracy runs {{range}}"
        accuracy = row_range("accuracy", words, table=on, write=percent)
        nll = row_range("nll", "NLL {range} nats.", table=on, write="{:.3f}".format)
        ranges.append(together(accuracy, nll, joint=", "))
    rivals = [kit.against(REFERENCE, name, kit.TABLES[name][1]) for name in results.config.data]
    gaps = row_range(
        "gap",
        "The net's mean confidence less accuracy, over the tables, runs {range}.",
        rows=lambda row: row.startswith("mlp"),
        write=lambda gap: number(gap, "+.3f"),
        reference=MODE,
    )
    about: list[Finding] = [_ranks, _averaging, gaps, lambda _: SETTINGS, kit.split_words()]
    return tell([*ranges, *rivals, *about], results)


def _ranks(results: Results[Any]) -> str | None:
    """Which method is first over the tables, and whether that is beyond chance."""
    ranked = _ranking([*_of(results).values()])
    if ranked is None:
        return None
    (best, first), *_, (worst, last) = ranked.mean_ranks.items()
    apart = "tells the two apart"
    if last - first <= ranked.difference:
        apart = "cannot tell even these apart"
    return (
        f"Ranked by NLL on each table, {kit.row_label(best)} is first on average ({first:.1f}) "
        f"and {kit.row_label(worst)} last ({last:.1f}) of {len(ranked.mean_ranks)}; with "
        f"{ranked.num_blocks} tables the critical difference is {ranked.difference:.1f} ranks: "
        f"Nemenyi's test {apart}."
    )


def _averaging(results: Results[Any]) -> str | None:
    """Whether guides of the net are better than its MAP estimate."""
    if MODE not in results.main.rows:
        return None
    parts = []
    for on, table in _of(results).items():
        nll = {row: v for row, v in table.column("nll").items() if row.startswith("mlp")}
        parts.append(f"{sum(v < nll[MODE] for v in nll.values())} of {len(nll) - 1} on {on}")
    return f"Guides of the net with a lower mean NLL than its MAP estimate: {', '.join(parts)}."


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the metrics of each table, differences in NLL, and mean ranks."""
    for name, (on, table) in zip(results.config.data, _of(results).items(), strict=True):
        words = f"{on.capitalize()}: NLL runs {{range}}"
        nll = kit.row_range("nll", words, table=on, write="{:.3f}".format)
        (title,) = tell([nll], results)
        yield kit.table_figure(name, title, "", table, CLASSIFICATION_COLUMNS)
    less = results.tables[-1]
    cells = {(row, name): less[row, name] for row in less.rows for name in results.config.data}
    row, name = min(cells, key=cells.__getitem__)
    title = (
        f"Most is gained by {kit.row_label(row)} on {kit.TABLES[name][1]}: "
        f"{number(cells[row, name], '+.3f')} nats against LogisticRegression"
    )
    yield kit.difference_figure("nll-differences", title, less, REFERENCE)
    ranked = _ranking([*_of(results).values()])
    if ranked is not None:
        yield _rank_figure(ranked)


@house_style()
def _rank_figure(ranked: CriticalDifference) -> Figure:
    made, axes = figure(1, 1, height=0.6 + 0.15 * len(ranked.mean_ranks))
    plot_critical_difference(ranked, ax=axes[0, 0], style=kit.row_style)
    best = kit.row_label(next(iter(ranked.mean_ranks)))
    return Figure(
        "ranks",
        f"{best} has the best mean rank by NLL over {ranked.num_blocks} tables",
        "Mean ranks by NLL over the tables (1 is best); bars join methods that Nemenyi's test at "
        "5 % cannot tell apart.",
        made,
    )


EXPERIMENT = with_posterior_checks(
    Experiment(NAME, EXPERIMENTS.summary(NAME), Config, run, figures)
)
