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
from collections.abc import Callable, Mapping
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
from probml_tp.experiments.tables.kit import (
    FIRST,
    OTHERS,
    RECORDS,
    Split,
    TabularConfig,
    differences,
    fit_guides,
    judge_rows,
    keep_split,
    make_split,
    over_splits,
    row_name,
    run_splits,
    split_sizes,
)
from probml_tp.experiments.tables.tabular_regression_figures import (
    COLUMNS,
    DIFFERENCES,
    LEVELS,
    REFERENCE,
    figures,
    findings,
)
from probml_tp.guides import Exact, fit_evidence
from probml_tp.guides.recipes import FitSettings
from probml_tp.harness.config import option
from probml_tp.harness.experiment import MAIN_TABLE, Experiment, Progress, Results, Table
from probml_tp.inference import fit, sample_nuts
from probml_tp.inference.parallel import single_thread
from probml_tp.kit.common import Rows, derived_seed
from probml_tp.kit.posterior_checks import with_posterior_checks
from probml_tp.likelihoods import Gaussian
from probml_tp.metrics.accuracy import crps, regression_scores
from probml_tp.model import BayesianModel
from probml_tp.models import mlp_regressor
from probml_tp.posterior import Posterior
from probml_tp.predictions.predictive import RegressionPredictive
from probml_tp.priors import FanInNormalPrior, NormalPrior

NAME, TABLE = "tabular-regression", "diabetes"
LINEAR = ("exact", "nuts", "laplace", "mean-field", "low-rank-normal", "mc-dropout", "map")
NET = ("laplace-linearized", "laplace", "mean-field", "low-rank-normal", "mc-dropout", "map")
MODE_ROUNDS = 3
INPUT_DROPOUT = 0.05
"""Rate at which the linear model's inputs are dropped: it has no other units."""


@dataclass(frozen=True, kw_only=True)
class Config(TabularConfig):
    """Options of the experiment."""

    splits: int = option(6, "Random splits.", quick=2, full=20, minimum=1)
    nuts_splits: int = option(
        2, "Splits that NUTS is run on: the first ones.", quick=1, full=20, minimum=1
    )
    linear_guides: tuple[str, ...] = option(LINEAR, "Guides of the linear model.", choices=LINEAR)
    net_guides: tuple[str, ...] = option(NET, "Guides of the net.", choices=NET)
    hidden: int = option(16, "Hidden units of the net.", minimum=1)
    epochs: int = option(
        200, "Gradient steps of the variational guides.", quick=100, full=2000, minimum=1
    )
    warmup: int = option(50, "Warm-up steps of the NUTS chain.", quick=20, full=500, minimum=1)
    chain_draws: int = option(100, "Draws of the NUTS chain.", quick=40, full=500, minimum=4)
    tree_depth: int = option(
        4, "A NUTS draw takes at most 2 to this power steps.", full=10, minimum=1
    )


# -------------------------------------------------------------------------------------- fitting


def linear_model(num_features: int, likelihood: Gaussian | float) -> BayesianModel:
    """Linear regression with an intercept, standard normal priors of all weights."""
    return mlp_regressor(
        num_features, hidden=(), prior=NormalPrior(1.0), likelihood=likelihood, dtype=torch.float64
    )


def net_model(num_features: int, config: Config) -> BayesianModel:
    """A net with one hidden layer of tanh units."""
    return mlp_regressor(
        num_features,
        hidden=(config.hidden,),
        prior=FanInNormalPrior(1.0),
        likelihood=unknown_noise(),
        seed=config.seed,
        dtype=torch.float64,
    )


def unknown_noise() -> Gaussian:
    """Noise of half-normal prior, in standard deviations of the target."""
    return Gaussian(scale=dist.HalfNormal(torch.tensor(1.0, dtype=torch.float64)))


def fit_exact(split: Split, seed: int) -> Posterior:
    """The exact posterior under the prior precisions and the noise of largest evidence."""
    model = linear_model(split.train[0].shape[1], 1.0)
    found = fit_evidence(
        model, split.train, precision="layer", noise=True, epochs=8, burn_in=2, every=2,
        optimizer="lbfgs", seed=seed, progress=False,
    )  # fmt: skip
    exact = fit(found.model, Exact, split.train, seed=seed, progress=False)
    exact.info.seconds += found.info.seconds
    return exact


def _recipes(config: Config, layer: str, rate: float, seed: int) -> FitSettings:
    return FitSettings(
        epochs=config.epochs,
        lr=0.02,
        rounds=MODE_ROUNDS,
        init_scale=0.1,
        rank=config.rank,
        rates={layer: rate},
        from_mode=("mean-field", "low-rank-normal", "mc-dropout"),
        seed=seed,
    )


def fit_split(
    split: Split, config: Config, index: int
) -> tuple[dict[str, Posterior], dict[str, float]]:
    """Fit all guides of both models to a split."""
    seed, features = derived_seed(config.seed, f"fit {index}"), split.train[0].shape[1]
    posteriors: dict[str, Posterior] = {}
    seconds: dict[str, float] = {}
    linear = linear_model(features, unknown_noise())
    if "exact" in config.linear_guides:
        posteriors[row_name("linear", "exact")] = fit_exact(split, seed)
    if "nuts" in config.linear_guides and index < config.nuts_splits:
        posteriors[row_name("linear", "nuts")] = sample_nuts(
            linear, split.train, num_samples=config.chain_draws, warmup=config.warmup, chains=1,
            max_tree_depth=config.tree_depth, jobs=1, seed=seed, progress=False,
        )  # fmt: skip
    seconds |= {row: posterior.info.seconds for row, posterior in posteriors.items()}
    by_model: list[tuple[str, BayesianModel, Any, str, float]] = [
        ("linear", linear, config.linear_guides, "fc1", INPUT_DROPOUT),
        ("mlp", net_model(features, config), config.net_guides, "fc2", config.dropout),
    ]
    for family, model, guides, layer, rate in by_model:
        asked = [guide for guide in guides if guide not in ("exact", "nuts")]
        recipes = _recipes(config, layer, rate, seed)
        found, took = fit_guides(family, model, split.train, asked, recipes)
        posteriors |= found
        seconds |= took
    return posteriors, seconds


def library_methods(seed: int) -> dict[str, Callable[[], Any]]:
    """What makes each method of scikit-learn; all of them predict a standard deviation."""
    kernel = ConstantKernel(1.0) * RBF(3.0) + WhiteKernel(0.5)
    return {
        "BayesianRidge": BayesianRidge,
        "ARDRegression": ARDRegression,
        "GaussianProcess": partial(GaussianProcessRegressor, kernel, random_state=seed),
    }


# -------------------------------------------------------------------------------------- judging


def scores(predictive: RegressionPredictive, split: Split) -> dict[str, float]:
    """Scores on the test points, in the target's own units."""
    y, scale = split.test[1], split.y_scale
    found = regression_scores(predictive, y)
    row = {
        "rmse": scale * found["rmse"],
        "nll": found["nll"] + math.log(scale),
        "crps": scale * float(crps(predictive, y).mean()),
    }
    below = predictive.cdf(y.double())
    for level in LEVELS:
        tail = (1 - level) / 2
        inside = (below >= tail) & (below <= 1 - tail)
        row[f"coverage {level:g}"] = 100 * float(inside.double().mean())
    return row


def library_predictive(method: Any, split: Split) -> RegressionPredictive:
    """Fit a method of scikit-learn and predict: a normal distribution at each test point."""
    method.fit(split.train[0].numpy(), split.train[1].numpy())
    mean, sd = method.predict(split.test[0].numpy(), return_std=True)
    mean, sd = torch.from_numpy(mean), torch.from_numpy(np.asarray(sd))
    return RegressionPredictive(0, None, mean, torch.zeros_like(mean), sd.square())


def judge_split(
    split: Split,
    posteriors: Mapping[str, Posterior],
    seconds: Mapping[str, float],
    config: Config,
) -> Rows:
    """Judge the posteriors of a split, with scikit-learn's methods beside them."""
    return judge_rows(
        posteriors,
        seconds,
        library_methods(config.seed),
        predict=lambda posterior: predict(posterior, split.test[0], num_samples=config.draws),
        fit_and_predict=lambda method: library_predictive(method, split),
        scores=lambda predictive: scores(predictive, split),
    )


def _run_split(config: Config, index: int) -> Rows:
    split = make_split(TABLE, index, config)
    return judge_split(split, *fit_split(split, config, index), config)


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit everything to every split and compare it on the test points.

    Args:
        config: the options.
        progress: who watches.

    Returns:
        Metrics, findings and the arrays of the figures.
    """
    split = make_split(TABLE, 0, config)
    with progress.stage(FIRST), single_thread():
        posteriors, seconds = fit_split(split, config, 0)
        runs = [judge_split(split, posteriors, seconds, config)]
    with progress.stage(OTHERS) as update:
        rest = range(1, config.splits)
        runs += run_splits(partial(_run_split, config), rest, jobs=config.jobs, update=update)
    sizes = split_sizes(TABLE, config)
    metrics, intervals = over_splits(runs, sizes)
    results = Results(
        experiment=NAME,
        title="Regression on the diabetes table, beside scikit-learn",
        config=config,
        main=Table(MAIN_TABLE, "Model and posterior", metrics, COLUMNS, intervals),
        tables=[_difference_table(runs, sizes)],
        findings=[],
        data_source=_data_source(config, sizes),
        arrays={f"{row}.count": np.asarray(sum(row in one for one in runs)) for row in metrics},
    )
    with progress.stage(RECORDS), single_thread():
        keep_split(results, posteriors, split, draws=config.draws)
    results.findings = findings(results)
    return results


def _difference_table(runs: list[Rows], sizes: Mapping[str, int]) -> Table:
    metrics, intervals = differences(runs, REFERENCE, DIFFERENCES, sizes)
    title = "Less scikit-learn's BayesianRidge on the same splits (below 0: better)"
    return Table(title, "Model and posterior", metrics, DIFFERENCES, intervals)


def _data_source(config: Config, sizes: Mapping[str, int]) -> str:
    return (
        f"diabetes of scikit-learn (Efron et al. 2004): {sizes['train_size']} patients to train "
        f"and {sizes['test_size']} to test on, {config.splits} random splits, standardised on the "
        f"training points; metrics in the target's own units"
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
