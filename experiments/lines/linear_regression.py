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
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from probml_tp.datasets import linear_data, linear_data_with_hole
from probml_tp.empirical import Empirical
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.lines import kit
from probml_tp.experiments.lines import line_variance as line
from probml_tp.experiments.lines.linear_regression_figures import FINDINGS, SEQUENCE, figures
from probml_tp.guides.recipes import Chains, FitSettings, SwagPath, fit_all, guides_for
from probml_tp.harness.config import option
from probml_tp.harness.experiment import MAIN_TABLE, Experiment, Progress, Results, Table
from probml_tp.kit.common import Array
from probml_tp.kit.knobs import knob
from probml_tp.kit.posterior_checks import with_posterior_checks
from probml_tp.kit.sentences import tell
from probml_tp.likelihoods import Gaussian
from probml_tp.models import LinearBasis, linear_regression
from probml_tp.posterior import Posterior
from probml_tp.predictions.predictive import RegressionPredictive
from probml_tp.priors import NormalPrior
from probml_tp.quiet_arviz import az

NAME = "linear-regression"
GUIDES = guides_for("conjugate")
Moments = tuple[Array, Array]


@dataclass(frozen=True, kw_only=True)
class Config(kit.RegressionConfig):
    """Options of the experiment."""

    n: int = knob("n", 25, minimum=3, remark="On the line.")
    n_per_side: int = option(10, "Points on each side of the hole.", minimum=2)
    data: tuple[str, ...] = knob(
        "data",
        ("line", "hole"),
        choices=("line", "hole"),
        remark="The line seen throughout, or with a hole in the middle.",
    )
    guides: tuple[str, ...] = knob("guides", GUIDES, choices=GUIDES)
    prior_precision: float = knob("prior_precision", 2.0)
    noise_precision: str = option(
        "standard",
        "The model's beta: 'standard' is 1/noise^2, 'labs' the labs' 1/(2 noise^2).",
        choices=("standard", "labs"),
    )
    epochs: int = knob("epochs", 2000, quick=400, full=10_000)

    def __post_init__(self) -> None:
        super().__post_init__()
        kit.require_exact(self.guides)

    @property
    def noise_scale(self) -> float:
        r"""The model's noise standard deviation, :math:`\beta^{-1/2}`."""
        return self.noise * (math.sqrt(2) if self.noise_precision == "labs" else 1.0)

    @property
    def prior(self) -> NormalPrior:
        """The prior of both weights."""
        return NormalPrior.from_precision(self.prior_precision)

    @property
    def settings(self) -> FitSettings:
        """How the guides are fitted."""
        return FitSettings(
            epochs=self.epochs,
            rounds=3,
            lrs={"correlated": 0.1},
            rank=1,
            swag=SwagPath.of(self),
            chains=Chains.of(self, mass_matrix="dense"),
            seed=self.seed,
        )


def _problem(name: str, config: Config) -> kit.Problem:
    """Make the training data, the fresh data, and the grid over the labs' prediction range."""
    kind: dict[str, Any] = {"noise": config.noise, "dtype": torch.float64}
    if name == "line":
        train = linear_data(n=config.n, seed=config.seed, **kind)
        test = linear_data(n=config.test_size, seed=config.test_seed, **kind)
        return kit.Problem(train, test, kit.even_grid(-10, 10, num=241))
    half = -(-config.test_size // 2)
    train = linear_data_with_hole(n_per_side=config.n_per_side, seed=config.seed, **kind)
    test = linear_data_with_hole(n_per_side=half, seed=config.test_seed, **kind)
    return kit.Problem(train, test, kit.even_grid(-12, 12, num=241))


def linear_predictive(posterior: Posterior, x: Tensor) -> RegressionPredictive:
    r"""The predictive distribution of a regression that is linear in its weights.

    The function at ``x`` has mean :math:`\phi(x)^\top m` and variance
    :math:`\phi(x)^\top C\phi(x)`; a Markov chain is taken as it is, with all its draws.
    """
    if isinstance(posterior.guide, Empirical):
        return kit.predict(posterior, x, num_samples=len(kit.stored_draws(posterior)))
    mean, covariance = map(torch.from_numpy, kit.weight_moments(posterior))
    phi = LinearBasis()(x)
    noise = cast("Gaussian", posterior.model.likelihood).scale
    epistemic = torch.einsum("np,pq,nq->n", phi, covariance, phi)
    aleatoric = noise.double().square().expand(len(x))
    return RegressionPredictive(0, None, phi @ mean, epistemic, aleatoric)


def _distances(moments: Moments, exact: Moments) -> dict[str, float]:
    """How far mean and standard deviations lie from the exact ones; see ``COLUMNS``."""
    sd, exact_sd = (np.sqrt(np.diag(m[1])) for m in (moments, exact))
    return {
        "mean_distance": float(np.abs((moments[0] - exact[0]) / exact_sd).max()),
        "sd_distance": 100 * float(np.abs(sd / exact_sd - 1).max()),
    }


def _fit_and_judge(
    name: str, problem: kit.Problem, results: Results[Config], progress: Progress
) -> None:
    """Fit every guide to one data set, and enter them into the results."""
    config, (x, y) = results.config, problem.train
    model = linear_regression(LinearBasis(), prior=config.prior, likelihood=config.noise_scale)
    how, data = config.settings, problem.train
    posteriors = fit_all(
        config.guides, model, data, how, stage=lambda guide: progress.stage(f"{name}: {guide}")
    )
    results.arrays |= {f"{name}.x": kit.to_numpy(x[:, 0]), f"{name}.y": kit.to_numpy(y)}
    exact = kit.weight_moments(posteriors["exact"])
    with progress.stage(f"{name}: judge") as update:
        for done, guide in enumerate(config.guides):
            update(done, len(config.guides), guide)
            posterior, key = posteriors[guide], f"{name}-{guide}"
            moments = kit.weight_moments(posterior)
            own = {} if guide == "exact" else _distances(moments, exact)
            predictor = partial(linear_predictive, posterior)
            kit.enter(results, name, guide, problem, posterior, predictor=predictor, own=own)
            results.arrays[f"{key}.weight_mean"] = moments[0]
            results.arrays[f"{key}.weight_covariance"] = moments[1]
            if isinstance(posterior.guide, Empirical):
                results.arrays[f"{key}.weights"] = kit.stored_draws(posterior)
                record: Any = results.inference_data[key]
                error = az.mcse(record, var_names=["weight"])["weight"]  # type: ignore[no-untyped-call]
                exact_sd = np.sqrt(np.diag(exact[1]))
                results.arrays[f"{key}.monte_carlo_error"] = error.to_numpy() / exact_sd


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit every guide to every data set and measure it against the exact posterior."""
    sizes = {"line": f"{config.n} points", "hole": f"{2 * config.n_per_side} beside a hole"}
    results = Results(
        NAME,
        "Bayesian linear regression: every guide against the exact posterior",
        config,
        Table(MAIN_TABLE, "Posterior", columns=kit.COLUMNS),
        findings=[],
        data_source=f"generated: y = −0.3 + 0.5 x + noise of SD {config.noise:g}; "
        f"{' and '.join(sizes[name] for name in config.data)}",
    )
    problems = {name: _problem(name, config) for name in ("line", "hole")}
    first = problems[config.data[0]].train
    with progress.stage(SEQUENCE):
        results.arrays |= _sequence(first, config)
    if "hole" in config.data:
        with progress.stage(line.HOLE):
            inputs = {name: kit.to_numpy(p.train[0][:, 0]) for name, p in problems.items()}
            line.compare_designs(results, **inputs, noise=config.noise_scale)
    with progress.stage(line.LIMIT):
        line.flatten_prior(results, kit.to_numpy(first[0][:, 0]))
    for name in config.data:
        _fit_and_judge(name, problems[name], results, progress)
    results.findings = tell(FINDINGS, results)
    return results


def _sequence(data: kit.Data, config: Config) -> dict[str, Array]:
    """The exact posterior on a grid of weights after more and more of the points."""
    x, y = data
    counts = sorted({count for count in (0, 1, 2, 10, len(x)) if count <= len(x)})
    reach = min(max(2.5 / math.sqrt(config.prior_precision), 0.8), 3.0)
    grid = np.linspace(-reach, reach, 161)
    points = np.stack(np.meshgrid(grid, grid), axis=-1)
    known: Any = {"prior": config.prior, "noise": config.noise_scale}
    densities, deviations = [], []
    for count in counts:
        mean, covariance = np.zeros(2), np.eye(2) / config.prior_precision
        if count:
            mean, covariance = line.line_moments(x[:count], y[:count], **known)
        z = points - mean
        densities.append(-0.5 * np.einsum("hgi,ij,hgj->hg", z, np.linalg.inv(covariance), z))
        deviations.append(np.sqrt(np.diag(covariance)))
    found = {"counts": counts, "grid": grid, "log_density": densities, "sd": deviations}
    return {f"{SEQUENCE}.{name}": np.asarray(value) for name, value in found.items()}


EXPERIMENT = with_posterior_checks(
    Experiment(NAME, EXPERIMENTS.summary(NAME), Config, run, figures)
)
