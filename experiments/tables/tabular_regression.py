r"""Real regression data: the diabetes table, every guide beside scikit-learn on the same splits.

The target is the progression of the disease a year later, from ten measurements of 442 patients
(Efron et al. 2004, "Least angle regression"). A linear model and a small net of tanh units have
noise with a prior, :math:`\sigma \sim \mathrm{HalfNormal}(1)` in standard deviations of the target,
which every guide infers with the weights. The exact posterior needs known noise: it gets the prior
precisions and the noise of largest evidence (MacKay 1992), found by
:func:`probml_tp.guides.fit_evidence`, as scikit-learn's ``BayesianRidge`` finds its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import ARDRegression, BayesianRidge

from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.lines.kit import predict
from probml_tp.experiments.tables import kit
from probml_tp.guides import Exact, fit_evidence
from probml_tp.guides.recipes import Chains, FitSettings, guides_for
from probml_tp.harness.config import option
from probml_tp.harness.experiment import MAIN_TABLE, Experiment, Figure, Progress, Results, Table
from probml_tp.inference import fit
from probml_tp.kit.common import FIT_COLUMN, derived_seed
from probml_tp.kit.knobs import knob
from probml_tp.kit.posterior_checks import with_posterior_checks
from probml_tp.kit.sentences import BestWorst, Gap, Range, any_of, tell
from probml_tp.likelihoods import Gaussian
from probml_tp.metrics.accuracy import crps, regression_scores
from probml_tp.model import BayesianModel
from probml_tp.models import mlp_regressor
from probml_tp.plots.style import number
from probml_tp.posterior import Posterior
from probml_tp.predictions.predictive import RegressionPredictive
from probml_tp.priors import FanInNormalPrior, NormalPrior, Prior

NAME, TABLE = "tabular-regression", "diabetes"
LINEAR = (*guides_for("conjugate", without=(*kit.UNUSED, "ensemble")), "mc-dropout")
NET = guides_for(
    "layers",
    without=(*kit.UNUSED, "reference", "laplace-kronecker", "laplace-last-layer", "ensemble"),
)
LEVELS = (0.5, 0.8, 0.95)
REFERENCE, CHAIN = "scikit-learn · BayesianRidge", "linear · nuts"
LESS = "Less scikit-learn's BayesianRidge on the same splits (below 0: better)"
ERRORS = {"rmse": "RMSE (units of y) ↓", "nll": "NLL (nats/point) ↓", "crps": "CRPS (units of y) ↓"}
INSIDE = {f"coverage {level:g}": 100 * level for level in LEVELS}
"""Metric to the per cent of targets that a central interval promises to hold."""

COLUMNS = {
    **ERRORS,
    **{metric: f"Inside {held:g} % interval (%)" for metric, held in INSIDE.items()},
    **FIT_COLUMN,
}


@dataclass(frozen=True, kw_only=True)
class Config(kit.TabularConfig):
    """Options of the experiment."""

    nuts_splits: int = option(2, "The first splits get NUTS.", quick=1, full=20, minimum=1)
    linear_guides: tuple[str, ...] = knob("guides", LINEAR, choices=LINEAR)
    net_guides: tuple[str, ...] = knob("guides", NET, choices=NET, remark="Of the net.")
    hidden: int = knob("hidden", 16)
    epochs: int = knob("epochs", 200, quick=50, full=2000)
    warmup: int = knob("warmup", 50, quick=10, full=500)
    draws: int = knob("draws", 100, quick=20, full=500)
    max_tree_depth: int = knob("max_tree_depth", 4, full=10)


def model(split: kit.Split, prior: Prior, noise: Gaussian | float, **net: Any) -> BayesianModel:
    """A net for a split, or a linear model if it has no hidden units."""
    features = split.train[0].shape[1]
    return mlp_regressor(features, prior=prior, likelihood=noise, dtype=torch.float64, **net)


def fit_exact(split: kit.Split, seed: int) -> Posterior:
    """The exact posterior under the prior precisions and the noise of largest evidence."""
    found = fit_evidence(
        model(split, NormalPrior(1.0), 1.0, hidden=()), split.train, precision="layer", noise=True,
        epochs=8, burn_in=2, every=2, optimizer="lbfgs", seed=seed, progress=False,
    )  # fmt: skip
    exact = fit(found.model, Exact, split.train, seed=seed, progress=False)
    exact.info.seconds += found.info.seconds
    return exact


def fits(split: kit.Split, config: Config, index: int) -> dict[str, kit.Fits]:
    """What is fitted of both models to a split."""
    seed = derived_seed(config.seed, f"fit {index}")
    how = partial(
        FitSettings,
        epochs=config.epochs,
        lr=0.02,
        rounds=3,
        init_scale=0.1,
        rank=config.rank,
        from_mode=("normal", "dropout"),
        chains=Chains.of(config, chains=1, jobs=1),
        seed=seed,
    )
    noise = Gaussian(scale=dist.HalfNormal(torch.tensor(1.0, dtype=torch.float64)))
    linear = model(split, NormalPrior(1.0), noise, hidden=())
    net = model(split, FanInNormalPrior(1.0), noise, hidden=(config.hidden,), seed=config.seed)
    asked = [g for g in config.linear_guides if g != "nuts" or index < config.nuts_splits]
    exact = {"exact": fit_exact(split, seed)} if "exact" in asked else {}
    return {
        # it is inputs that are dropped: a linear model has no other units
        "linear": kit.Fits(linear, asked, how(rates={"fc1": 0.05}), exact),
        "mlp": kit.Fits(net, config.net_guides, how(rates={"fc2": config.rate})),
    }


def library_methods(split: kit.Split, config: Config) -> dict[str, Callable[[], Any]]:
    """What makes each method of scikit-learn; all of them predict a standard deviation."""
    kernel = ConstantKernel(1.0) * RBF(3.0) + WhiteKernel(0.5)
    return {
        "BayesianRidge": BayesianRidge,
        "ARDRegression": ARDRegression,
        "GaussianProcess": partial(GaussianProcessRegressor, kernel, random_state=config.seed),
    }


def library_predictive(method: Any, split: kit.Split, config: Config) -> RegressionPredictive:
    """Fit a method of scikit-learn and predict: a normal distribution at each test point."""
    method.fit(split.train[0].numpy(), split.train[1].numpy())
    mean, sd = method.predict(split.test[0].numpy(), return_std=True)
    mean, sd = torch.from_numpy(mean), torch.from_numpy(np.asarray(sd))
    return RegressionPredictive(0, None, mean, torch.zeros_like(mean), sd.square())


def scores(predictive: RegressionPredictive, split: kit.Split) -> dict[str, float]:
    """Scores on the test points, in the target's own units."""
    y, scale = split.test[1], split.y_scale
    found = regression_scores(predictive, y)
    row = {
        "rmse": scale * found["rmse"],
        "nll": found["nll"] + math.log(scale),
        "crps": scale * float(crps(predictive, y).mean()),
    }
    below = predictive.cdf(y.double())
    for metric, level in zip(INSIDE, LEVELS, strict=True):
        inside = (below >= (1 - level) / 2) & (below <= 1 - (1 - level) / 2)
        row[metric] = 100 * float(inside.double().mean())
    return row


TASK = kit.Task(fits, library_methods, predict, library_predictive, scores)


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit everything to every split and compare it on the test points."""
    sizes = kit.split_sizes(TABLE, config)
    main, less = Table(MAIN_TABLE, kit.ROWS, columns=COLUMNS), Table(LESS, kit.ROWS, columns=ERRORS)
    results = Results(
        NAME,
        "Regression on the diabetes table, beside scikit-learn",
        config,
        main,
        findings=[],
        data_source=f"diabetes of scikit-learn (Efron et al. 2004): {sizes['train_size']} patients "
        f"to train and {sizes['test_size']} to test on, {config.splits} random splits, "
        f"standardised on the training points; metrics in the target's own units",
        tables=[less],
    )
    runs = kit.run_splits(TASK, [TABLE], results, progress)[TABLE]
    kit.put_means(main, runs, {m: m for m in COLUMNS}, sizes)
    kit.put_means(less, runs, {m: m for m in ERRORS}, sizes, less=REFERENCE)
    results.findings = findings(results)
    return results


def _whole(results: Results[Any]) -> Callable[[str], bool]:
    """Which rows are means over all splits, and can be compared as they are."""
    few = results.config.nuts_splits < results.config.splits
    return lambda row: not (few and row == CHAIN)


def findings(results: Results[Any]) -> list[str]:
    """What the numbers say, the most important first."""
    whole = _whole(results)
    few = f"; {kit.row_label(CHAIN)}: the first {results.config.nuts_splits}"
    some = CHAIN in results.main.rows and not whole(CHAIN)
    errors = partial(kit.row_range, rows=whole, reference=REFERENCE)
    same = Gap(
        "nll",
        "The exact posterior with the evidence's noise and prior is the model of BayesianRidge up "
        "to its hyperpriors and the intercept: its NLL differs by {gaps} nats a point.",
        table=LESS,
        rows=any_of(["linear · exact"]),
        clause="{value}{interval}",
        write=lambda value: number(value, "+.4f"),
    )
    findings = (
        errors("rmse", "RMSE runs {range}.", write="{:.1f}".format),
        errors("nll", "NLL runs {range} nats a point.", write="{:.3f}".format),
        kit.against(REFERENCE, "nll", "diabetes"),
        same,
        _held("95 % intervals hold {range} of the test points.", whole, "{:.1f} %".format),
        kit.split_words(few if some else ""),
    )
    return tell(findings, results)


def _held(words: str, rows: Callable[[str], bool], write: Callable[[float], str]) -> Range:
    return kit.row_range("coverage 0.95", words, rows=rows, write=write)


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the differences from BayesianRidge, and the coverage of intervals."""
    best = BestWorst(
        "nll",
        "{best} has the lowest NLL: {value} nats a point against BayesianRidge",
        table=LESS,
        rows=_whole(results),
        write=lambda value: number(value, "+.3f"),
        name=kit.row_label,
    )
    held = _held("95 % intervals hold {range}", _whole(results), "{:.0f} %".format)
    lowest, inside = tell((best, held), results)
    yield kit.difference_figure("differences", lowest, results.tables[0], REFERENCE)
    yield kit.table_figure(
        "coverage",
        inside,
        "Share of test points inside central predictive intervals; lines: what is promised.",
        results.main,
        {metric: f"{promised:g} % interval" for metric, promised in INSIDE.items()},
        references=INSIDE,
        x="test points inside (%)",
    )


EXPERIMENT = with_posterior_checks(
    Experiment(NAME, EXPERIMENTS.summary(NAME), Config, run, figures)
)
