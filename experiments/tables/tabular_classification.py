r"""Real classification tables: guides of a small net beside scikit-learn, on the same splits.

The tables ship with scikit-learn: breast cancer (569 points, 30 inputs, 2 classes), wine (178, 13,
3) and digits of 8 x 8 pixels (1797, 64, 10). A net with one hidden layer and multinomial logistic
regression stand beside scikit-learn's ``LogisticRegression``, whose penalty ``C = 1`` is the prior
:math:`\mathcal N(0, 1)` of the logistic regression here, a random forest, and a Gaussian process
with a kernel that is not tuned: one of length scale :math:`\sqrt d` for ``d`` standardised inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import RBF, ConstantKernel
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.tables.kit import (
    FIRST,
    OTHERS,
    RECORDS,
    TABLES,
    Split,
    TabularConfig,
    differences,
    fit_guides,
    judge_rows,
    keep_split,
    make_split,
    over_splits,
    run_splits,
    split_sizes,
)
from probml_tp.experiments.tables.tabular_classification_figures import (
    GAP_COLUMN,
    OVERALL,
    REFERENCE,
    figures,
    findings,
)
from probml_tp.guides.recipes import FitSettings, SwagPath
from probml_tp.harness.config import option
from probml_tp.harness.experiment import MAIN_TABLE, Experiment, Progress, Results, Table
from probml_tp.inference.parallel import single_thread
from probml_tp.kit.common import CLASSIFICATION_COLUMNS, FIT_COLUMN, Rows, derived_seed
from probml_tp.kit.posterior_checks import with_posterior_checks
from probml_tp.metrics.accuracy import classification_scores
from probml_tp.metrics.over_runs import critical_difference, win_rates
from probml_tp.model import BayesianModel
from probml_tp.models import logistic_regression, mlp_classifier
from probml_tp.posterior import Posterior
from probml_tp.predictions.predictive import ClassificationPredictive
from probml_tp.priors import FanInNormalPrior, NormalPrior

NAME = "tabular-classification"
DATA = ("breast-cancer", "wine", "digits")
NET = (
    "laplace-kronecker",
    "laplace-last-layer",
    "mean-field",
    "low-rank-normal",
    "swag",
    "mc-dropout",
    "deep-ensemble",
    "map",
)
LOGISTIC = ("laplace-linearized", "map")
MODE_ROUNDS = 2
TREES = 100


@dataclass(frozen=True, kw_only=True)
class Config(TabularConfig):
    """Options of the experiment."""

    data: tuple[str, ...] = option(DATA, "Tables.", quick=DATA[:2], choices=DATA)
    splits: int = option(4, "Random splits of each table.", quick=2, full=10, minimum=1)
    net_guides: tuple[str, ...] = option(NET, "Guides of the net.", choices=NET)
    logistic_guides: tuple[str, ...] = option(
        LOGISTIC, "Guides of logistic regression.", choices=LOGISTIC
    )
    hidden: int = option(16, "Hidden units of the net.", quick=8, full=50, minimum=1)
    prior_scale: float = option(
        2.0, "Prior SD of a unit's input, for inputs of unit variance.", minimum=1e-3
    )
    epochs: int = option(
        120,
        "Gradient steps of the variational guides and of the ensemble.",
        quick=40,
        full=1000,
        minimum=1,
    )
    members: int = option(5, "Members of the ensemble.", quick=3, minimum=2)
    swag_epochs: int = option(20, "Passes over the data of SWAG.", quick=5, full=100, minimum=2)
    gp_points: int = option(
        300, "Training points that the Gaussian process sees, at most.", full=1000, minimum=20
    )


# -------------------------------------------------------------------------------------- fitting


def models(split: Split, config: Config) -> dict[str, BayesianModel]:
    """The net and logistic regression for a split, by the name of their rows."""
    x, y = split.train
    shape: dict[str, Any] = {"num_features": x.shape[1], "num_classes": int(y.max()) + 1}
    net = mlp_classifier(
        **shape,
        hidden=(config.hidden,),
        prior=FanInNormalPrior(config.prior_scale),
        seed=config.seed,
        dtype=torch.float64,
    )
    prior = {"weight": NormalPrior(1.0), "bias": NormalPrior(10.0)}
    return {"mlp": net, "logistic": logistic_regression(**shape, prior=prior)}


def _recipes(config: Config, seed: int) -> FitSettings:
    return FitSettings(
        epochs=config.epochs,
        lr=0.05,
        rounds=MODE_ROUNDS,
        init_scale=0.05,
        rank=config.rank,
        rates={"fc2": config.dropout},
        members=config.members,
        from_mode=("mean-field", "low-rank-normal"),
        swag=SwagPath(lr=0.02, epochs=config.swag_epochs, batch_size=64, rank=10),
        seed=seed,
    )


def fit_split(
    split: Split, config: Config, index: int
) -> tuple[dict[str, Posterior], dict[str, float]]:
    """Fit all guides of both models to a split."""
    recipes = _recipes(config, derived_seed(config.seed, f"fit {index}"))
    guides = {"mlp": config.net_guides, "logistic": config.logistic_guides}
    posteriors: dict[str, Posterior] = {}
    seconds: dict[str, float] = {}
    for family, model in models(split, config).items():
        found, took = fit_guides(family, model, split.train, guides[family], recipes)
        posteriors |= found
        seconds |= took
    return posteriors, seconds


def library_methods(num_features: int, seed: int) -> dict[str, Callable[[], Any]]:
    """What makes each method of scikit-learn."""
    kernel = ConstantKernel(4.0) * RBF(num_features**0.5)
    return {
        "LogisticRegression": partial(LogisticRegression, C=1.0, max_iter=2000),
        "RandomForest": partial(RandomForestClassifier, TREES, random_state=seed),
        "GaussianProcess": partial(
            GaussianProcessClassifier, kernel, optimizer=None, random_state=seed
        ),
    }


def library_predictive(method: Any, split: Split, config: Config) -> ClassificationPredictive:
    """Fit a method of scikit-learn and predict class probabilities.

    The votes of a forest, which may be 0 for a class, are smoothed by one vote for each class, so
    that its NLL is finite. The Gaussian process sees the first ``gp_points`` training points, as
    its cost grows with their cube.
    """
    x, y = (part.numpy() for part in split.train)
    if isinstance(method, GaussianProcessClassifier):
        x, y = x[: config.gp_points], y[: config.gp_points]
    probs = torch.from_numpy(method.fit(x, y).predict_proba(split.test[0].numpy()))
    if isinstance(method, RandomForestClassifier):
        probs = (TREES * probs + 1) / (TREES + probs.shape[-1])
    return ClassificationPredictive(0, None, probs, None, None)


# -------------------------------------------------------------------------------------- judging


def scores(predictive: ClassificationPredictive, y: Tensor) -> dict[str, float]:
    """Scores on the test points, and how far mean confidence exceeds accuracy."""
    found = classification_scores(predictive, y)
    return found | {"gap": float(predictive.confidence.mean()) - found["accuracy"]}


def judge_split(
    split: Split,
    posteriors: Mapping[str, Posterior],
    seconds: Mapping[str, float],
    config: Config,
) -> Rows:
    """Judge the posteriors of a split, with scikit-learn's methods beside them."""
    x, y = split.test
    return judge_rows(
        posteriors,
        seconds,
        library_methods(x.shape[1], config.seed),
        predict=lambda posterior: posterior.predict(x, num_samples=config.draws),
        fit_and_predict=lambda method: library_predictive(method, split, config),
        scores=lambda predictive: scores(predictive, y),
    )


def _run_cell(config: Config, index: int) -> Rows:
    """One split of one table: cells are numbered table by table."""
    which, number = divmod(index, config.splits)
    split = make_split(config.data[which], number, config)
    return judge_split(split, *fit_split(split, config, number), config)


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit everything to every split of every table and compare it on the test points.

    Args:
        config: the options.
        progress: who watches.

    Returns:
        Metrics, findings and the arrays of the figures.
    """
    split = make_split(config.data[0], 0, config)
    with progress.stage(FIRST), single_thread():
        posteriors, seconds = fit_split(split, config, 0)
        cells = [judge_split(split, posteriors, seconds, config)]
    with progress.stage(OTHERS) as update:
        rest = range(1, len(config.data) * config.splits)
        cells += run_splits(partial(_run_cell, config), rest, jobs=config.jobs, update=update)
    runs = {
        name: cells[place * config.splits : (place + 1) * config.splits]
        for place, name in enumerate(config.data)
    }
    tables = [_table(name, runs[name], config) for name in config.data]
    results = Results(
        experiment=NAME,
        title="Classification of three tables, beside scikit-learn",
        config=config,
        main=Table(MAIN_TABLE, "Model and posterior", _overall(runs, tables), OVERALL),
        tables=[*tables, _difference_table(runs, config)],
        findings=[],
        data_source=_data_source(config),
    )
    with progress.stage(RECORDS), single_thread():
        keep_split(results, posteriors, split, draws=config.draws)
    results.findings = findings(results)
    return results


def _table(name: str, runs: list[Rows], config: Config) -> Table:
    metrics, intervals = over_splits(runs, split_sizes(name, config))
    title = f"{TABLES[name][1]}: means over {config.splits} splits, corrected 95 % t intervals"
    columns = CLASSIFICATION_COLUMNS | GAP_COLUMN | FIT_COLUMN
    return Table(title, "Model and posterior", metrics, columns, intervals)


def _overall(runs: Mapping[str, list[Rows]], tables: list[Table]) -> Rows:
    """Means over the tables, mean ranks over tables, and wins over all their splits, by NLL."""
    rows = list(tables[0].metrics)
    cells = [run for part in runs.values() for run in part]
    nll = {row: [cell[row]["nll"] for cell in cells] for row in rows}
    wins = win_rates(nll, higher_is_better=False)
    overall: Rows = {
        row: {
            metric: float(np.mean([table.metrics[row][metric] for table in tables]))
            for metric in (*CLASSIFICATION_COLUMNS, *GAP_COLUMN, "seconds")
        }
        for row in rows
    }
    for row in rows:
        if row != REFERENCE:
            overall[row]["wins"] = 100 * wins[row][REFERENCE]
    if len(tables) > 1:
        means = {row: [table.metrics[row]["nll"] for table in tables] for row in rows}
        ranked = critical_difference(means, higher_is_better=False)
        for row, rank in ranked.mean_ranks.items():
            overall[row]["rank"] = rank
    return overall


def _difference_table(runs: Mapping[str, list[Rows]], config: Config) -> Table:
    """NLL less that of scikit-learn's logistic regression, table by table."""
    metrics: Rows = {}
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    for name, part in runs.items():
        found, ends = differences(part, REFERENCE, ["nll"], split_sizes(name, config))
        for row, one in found.items():
            metrics.setdefault(row, {})[name] = one["nll"]
            if row in ends:
                intervals.setdefault(row, {})[name] = ends[row]["nll"]
    columns = {name: f"{TABLES[name][1]}: NLL (nats) ↓" for name in runs}
    title = "Less scikit-learn's LogisticRegression on the same splits (below 0: better)"
    return Table(title, "Model and posterior", metrics, columns, intervals)


def _data_source(config: Config) -> str:
    sizes = {name: split_sizes(name, config) for name in config.data}
    parts = [
        f"{TABLES[name][1]} ({size['train_size']} + {size['test_size']})"
        for name, size in sizes.items()
    ]
    return (
        f"{', '.join(parts)} of scikit-learn: points to train and to test on, {config.splits} "
        f"stratified random splits each, inputs standardised on the training points"
    )


EXPERIMENT = with_posterior_checks(
    Experiment(
        name=NAME,
        summary=EXPERIMENTS.summary(NAME),
        config=Config,
        run=run,
        figures=figures,
    )
)
