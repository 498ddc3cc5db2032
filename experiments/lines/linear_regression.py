r"""Every guide on the one problem whose posterior is known: Bayesian linear regression.

The data are those of the labs: a noisy line, whole or with a hole in the middle. With
:math:`\phi(x) = (1, x)`, prior :math:`w \sim \mathcal N(0, \alpha^{-1} I)` and noise precision
:math:`\beta` the posterior is :math:`\mathcal N(m, \Sigma)`,

.. math:: \Sigma^{-1} = \alpha I + \beta\Phi^\top\Phi, \qquad m = \beta\Sigma\Phi^\top y

(Bishop 2006, eqs. 3.53-3.54), and the epistemic variance of a prediction is a parabola,

.. math:: \phi(x)^\top\Sigma\,\phi(x) = \Sigma_{11}(x - x_0)^2 + c, \qquad
          x_0 = -\Sigma_{01} / \Sigma_{11}

whose vertex is the mean of the training inputs, up to the pull of the prior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from probml_tp.datasets import linear_data, linear_data_with_hole
from probml_tp.empirical import Empirical
from probml_tp.experiments.lines.kit import (
    COLUMNS,
    Data,
    RegressionConfig,
    Row,
    even_grid,
    evidence,
    predict,
    row_metrics,
    stored_draws,
    to_numpy,
    weight_moments,
)
from probml_tp.experiments.lines.line_variance import (
    HOLE,
    LIMIT,
    flat_limit,
    hole_comparison,
    line_tables,
)
from probml_tp.experiments.lines.linear_regression_figures import SEQUENCE, figures, findings
from probml_tp.guides import Exact
from probml_tp.guides.recipes import FitSettings, SwagPath, fit_one
from probml_tp.harness.config import option
from probml_tp.harness.experiment import MAIN_TABLE, Experiment, Progress, Results, Table, Update
from probml_tp.inference import fit, sample_nuts
from probml_tp.inference.parallel import single_thread
from probml_tp.kit.posterior_checks import with_posterior_checks
from probml_tp.likelihoods import Gaussian
from probml_tp.metrics.accuracy import regression_scores
from probml_tp.model import BayesianModel
from probml_tp.models import LinearBasis, linear_regression
from probml_tp.plots.regression import Band
from probml_tp.posterior import Posterior
from probml_tp.predictions.predictive import RegressionPredictive
from probml_tp.priors import NormalPrior
from probml_tp.quiet_arviz import az

Array = np.ndarray[Any, np.dtype[np.float64]]

LOW_RANK_LR = 0.1
"""The factor starts a tenth as large as the posterior is wide: it has some way to go."""

GUIDES = (
    "exact",
    "nuts",
    "laplace",
    "laplace-diagonal",
    "mean-field",
    "low-rank-normal",
    "swag",
    "map",
)
NOT_HERE = (
    "Not among the guides are those that would tell nothing here. Dropout drops the hidden units "
    "of a net, and a regression on basis functions has none. The posterior has one mode, so that "
    "every member of an ensemble would be the MAP estimate. The one layer is the last layer, and "
    "its Kronecker factors are the whole curvature: both kinds of Laplace would be the full one, "
    "the exact posterior."
)


@dataclass(frozen=True, kw_only=True)
class Config(RegressionConfig):
    """Options of the experiment."""

    n: int = option(25, "Points on the line.", minimum=3)
    n_per_side: int = option(10, "Points on each side of the hole.", minimum=2)
    data: tuple[str, ...] = option(
        ("line", "hole"),
        "Data sets: the line seen throughout, or with a hole in the middle.",
        choices=("line", "hole"),
    )
    guides: tuple[str, ...] = option(GUIDES, "Guides to compare.", choices=GUIDES)
    prior_precision: float = option(2.0, "Prior precision alpha of both weights.", minimum=1e-9)
    noise_precision: str = option(
        "standard",
        "The model's beta: 'standard' is 1/noise^2, 'labs' the labs' 1/(2 noise^2).",
        choices=("standard", "labs"),
    )
    epochs: int = option(
        2000,
        "Gradient steps of the mean-field and low-rank fits.",
        quick=500,
        full=10_000,
        minimum=1,
    )
    swag_lr: float = option(
        0.004, "Learning rate of SWAG's gradient descent, on the mean loss.", minimum=1e-6
    )
    swag_batch: int = option(2, "Points a step of SWAG, fewer than all.", minimum=1)
    swag_epochs: int = option(300, "Passes over the data of SWAG.", quick=100, full=2000, minimum=2)
    warmup: int = option(200, "Warm-up steps of a NUTS chain.", quick=50, full=1000, minimum=1)
    chain_draws: int = option(400, "Draws of a NUTS chain.", quick=100, full=1000, minimum=4)

    def __post_init__(self) -> None:
        """Check the values, and that the exact posterior is there to compare with."""
        super().__post_init__()
        if "exact" not in self.guides:
            raise ValueError(
                f"Option guides must include exact, which the others are measured by; "
                f"got {', '.join(self.guides)}. Add exact."
            )

    @property
    def noise_scale(self) -> float:
        r"""The model's noise standard deviation, :math:`\beta^{-1/2}`."""
        return self.noise * (math.sqrt(2) if self.noise_precision == "labs" else 1.0)


@dataclass(frozen=True)
class _Problem:
    """One data set and what is done with it."""

    name: str
    train: Data
    test: Data
    grid: Tensor


def _problem(name: str, config: Config) -> _Problem:
    """Make the training data, the fresh data, and the grid over the labs' prediction range."""
    kind: dict[str, Any] = {"noise": config.noise, "dtype": torch.float64}
    if name == "line":
        train = linear_data(n=config.n, seed=config.seed, **kind)
        test = linear_data(n=config.test_points, seed=config.test_seed, **kind)
        return _Problem(name, train, test, even_grid(-10, 10, num=241))
    half = -(-config.test_points // 2)
    train = linear_data_with_hole(n_per_side=config.n_per_side, seed=config.seed, **kind)
    test = linear_data_with_hole(n_per_side=half, seed=config.test_seed, **kind)
    return _Problem(name, train, test, even_grid(-12, 12, num=241))


# ----------------------------------------------------------------------------------- fitting


def _fit_nuts(model: BayesianModel, data: Data, config: Config, update: Update) -> Posterior:
    return sample_nuts(
        model,
        data,
        num_samples=config.chain_draws,
        warmup=config.warmup,
        chains=config.chains,
        mass_matrix="dense",
        jobs=config.jobs,
        seed=config.seed,
        progress=update,
    )


def _recipes(config: Config) -> FitSettings:
    swag = SwagPath(lr=config.swag_lr, epochs=config.swag_epochs, batch_size=config.swag_batch)
    return FitSettings(
        epochs=config.epochs,
        lr=1e-2,
        rounds=3,
        lrs={"low-rank-normal": LOW_RANK_LR},
        rank=1,
        swag=swag,
        seed=config.seed,
    )


def _stage(data: str, what: str) -> str:
    return f"{data}: {what}"


# ------------------------------------------------------------------------- measuring posteriors


def linear_predictive(posterior: Posterior, x: Tensor) -> RegressionPredictive:
    r"""The predictive distribution of a regression that is linear in its weights.

    For weights with mean ``m`` and covariance ``C``, the function at ``x`` has mean
    :math:`\phi(x)^\top m` and variance :math:`\phi(x)^\top C\phi(x)`, and is normal where the guide
    is: no draws are needed. A Markov chain is taken as it is, with all its draws.
    """
    if isinstance(posterior.guide, Empirical):
        return predict(posterior, x, num_samples=len(stored_draws(posterior)))
    mean, covariance = map(torch.from_numpy, weight_moments(posterior))
    phi = LinearBasis()(x)
    noise = cast("Gaussian", posterior.model.likelihood).scale
    return RegressionPredictive(
        num_samples=0,
        outputs=None,
        mean=phi @ mean,
        epistemic_variance=torch.einsum("np,pq,nq->n", phi, covariance, phi),
        aleatoric_variance=noise.double().square().expand(len(x)),
    )


def _distances(moments: tuple[Array, Array], exact: tuple[Array, Array]) -> dict[str, float]:
    """How far mean and standard deviations lie from the exact ones; see ``COLUMNS``."""
    sd, exact_sd = (np.sqrt(np.diag(m[1])) for m in (moments, exact))
    return {
        "mean_distance": float(np.abs((moments[0] - exact[0]) / exact_sd).max()),
        "sd_distance": 100 * float(np.abs(sd / exact_sd - 1).max()),
    }


def _monte_carlo_error(record: az.InferenceData, exact: tuple[Array, Array]) -> Array:
    """Standard error of a chain's means, in exact standard deviations, ``(P,)``."""
    errors = az.mcse(record, var_names=["weight"])  # type: ignore[no-untyped-call]
    return np.asarray(errors["weight"].to_numpy() / np.sqrt(np.diag(exact[1])))


# ------------------------------------------------------------------------------------- running


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit every guide to every data set and measure it against the exact posterior.

    Args:
        config: the options.
        progress: who watches.

    Returns:
        Metrics, findings, and the arrays of the figures.
    """
    results = Results(
        experiment="linear-regression",
        title="Bayesian linear regression: every guide against the exact posterior",
        config=config,
        main=Table(MAIN_TABLE, "Posterior", {}, COLUMNS),
        findings=[],
        data_source=_data_source(config),
    )
    problems = [_problem(name, config) for name in config.data]
    with progress.stage(SEQUENCE):
        results.arrays |= _sequence(problems[0], config)
    with progress.stage(LIMIT):
        results.arrays |= flat_limit(problems[0].train[0])
    if "hole" in config.data:
        with progress.stage(HOLE):
            results.arrays |= _with_and_without(config)
    results.tables = line_tables(results.arrays)
    for problem in problems:
        rows = _fit_all(problem, config, progress)
        with progress.stage(_stage(problem.name, "judge")) as update:
            _judge(problem, rows, results, update)
    results.findings = [*findings(results), NOT_HERE]
    return results


def _data_source(config: Config) -> str:
    sizes = {"line": f"{config.n} points", "hole": f"{2 * config.n_per_side} beside a hole"}
    chosen = " and ".join(sizes[name] for name in config.data)
    return f"generated: y = −0.3 + 0.5 x + noise of SD {config.noise:g}; {chosen}"


def _fit_all(problem: _Problem, config: Config, progress: Progress) -> list[Row]:
    prior = NormalPrior.from_precision(config.prior_precision)
    model = linear_regression(LinearBasis(), prior=prior, likelihood=config.noise_scale)
    recipes, done = _recipes(config), dict[str, Posterior]()
    for guide in recipes.order(config.guides):
        with progress.stage(_stage(problem.name, guide)) as update:
            if guide == "nuts":
                done[guide] = _fit_nuts(model, problem.train, config, update)
            else:
                with single_thread():
                    done[guide] = fit_one(
                        guide, model, problem.train, recipes, done=done, update=update
                    )
    return [
        Row(
            f"{problem.name}-{guide}",
            f"{problem.name} · {guide}",
            guide,
            done[guide],
            done[guide].info.total_seconds,
        )
        for guide in config.guides
    ]


def _judge(problem: _Problem, rows: list[Row], results: Results[Config], update: Update) -> None:
    """Enter the rows of one data set into the results."""
    name, (x, y) = problem.name, problem.train
    results.arrays |= {f"{name}.x": to_numpy(x[:, 0]), f"{name}.y": to_numpy(y)}
    exact = weight_moments(next(row for row in rows if row.guide == "exact").posterior)
    for done, row in enumerate(rows):
        update(done, len(rows), row.guide)
        _judge_one(row, problem, exact, results)


def _judge_one(
    row: Row, problem: _Problem, exact: tuple[Array, Array], results: Results[Config]
) -> None:
    posterior, train, draws = row.posterior, problem.train, results.config.draws
    moments = weight_moments(posterior)
    band = Band.from_predictive(problem.grid, linear_predictive(posterior, problem.grid))
    scores = regression_scores(linear_predictive(posterior, problem.test[0]), problem.test[1])
    metrics = row_metrics(band, scores, train) | evidence(posterior, train, num_samples=draws)
    metrics |= {"seconds": row.seconds}
    metrics |= {} if row.guide == "exact" else _distances(moments, exact)
    record = posterior.to_inference_data(*train, num_samples=draws)
    results.main.put(row.label, metrics)
    results.posteriors[row.key], results.inference_data[row.key] = posterior, record
    results.arrays |= band.to_arrays(row.key)
    results.arrays |= {f"{row.key}.weight_mean": moments[0]}
    results.arrays |= {f"{row.key}.weight_covariance": moments[1]}
    if row.guide == "nuts":
        results.arrays[f"{row.key}.weights"] = stored_draws(posterior)
        results.arrays[f"{row.key}.monte_carlo_error"] = _monte_carlo_error(record, exact)


def _with_and_without(config: Config) -> dict[str, Array]:
    line, hole = (_problem(name, config).train[0] for name in ("line", "hole"))
    return hole_comparison(
        line,
        hole,
        alpha=config.prior_precision,
        noise=config.noise_scale,
        seed=config.seed,
    )


def _sequence(problem: _Problem, config: Config) -> dict[str, Array]:
    """The exact posterior on a grid of weights after more and more of the points."""
    x, y = problem.train
    counts = sorted({count for count in (0, 1, 2, 10, len(x)) if count <= len(x)})
    reach = min(max(2.5 / math.sqrt(config.prior_precision), 0.8), 3.0)
    grid = np.linspace(-reach, reach, 161)
    points = np.stack(np.meshgrid(grid, grid), axis=-1)
    densities, deviations = [], []
    for count in counts:
        mean, covariance = _posterior_of(x[:count], y[:count], config)
        z = points - mean
        densities.append(-0.5 * np.einsum("hgi,ij,hgj->hg", z, np.linalg.inv(covariance), z))
        deviations.append(np.sqrt(np.diag(covariance)))
    return {
        f"{SEQUENCE}.counts": np.asarray(counts),
        f"{SEQUENCE}.grid": grid,
        f"{SEQUENCE}.log_density": np.stack(densities),
        f"{SEQUENCE}.sd": np.stack(deviations),
    }


def _posterior_of(x: Tensor, y: Tensor, config: Config) -> tuple[Array, Array]:
    """Mean and covariance after the points given; those of the prior if there are none."""
    if not len(x):
        return np.zeros(2), np.eye(2) / config.prior_precision
    prior = NormalPrior.from_precision(config.prior_precision)
    model = linear_regression(LinearBasis(), prior=prior, likelihood=config.noise_scale)
    return weight_moments(fit(model, Exact, (x, y), progress=False))


EXPERIMENT = with_posterior_checks(
    Experiment(
        name="linear-regression",
        summary="Every guide against the exact posterior of Bayesian linear regression.",
        config=Config,
        run=run,
        figures=figures,
    )
)
