"""Fresh data sets of a conjugate model, and what every guide says of the weights given each."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from probml_tp.datasets import linear_data
from probml_tp.empirical import Empirical
from probml_tp.experiments.lines import kit
from probml_tp.guides import MCDropout
from probml_tp.guides.recipes import RECIPES, Chains, FitSettings, fit_all, guides_for
from probml_tp.harness.config import ExperimentConfig, option
from probml_tp.harness.experiment import Update
from probml_tp.inference.parallel import number_of_jobs, run_tasks, single_thread
from probml_tp.kit.common import Array, derived_seed
from probml_tp.kit.knobs import knob
from probml_tp.likelihoods import Gaussian
from probml_tp.model import BayesianModel
from probml_tp.models import mlp_regressor
from probml_tp.posterior import Posterior
from probml_tp.predictions.predictive import RegressionPredictive
from probml_tp.priors import NormalPrior

PLAIN = guides_for("conjugate", without=("ensemble", "laplace-diagonal"))
GUIDES = tuple(guide for guide in RECIPES if guide in {*PLAIN, "mc-dropout"})
FEW = {"nuts", "correlated", "dropout"}
"""What takes long: fitted to the first few data sets only."""


STACKED = "factorised"
"""What is fitted to all data sets at once."""


@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Options of the experiment."""

    datasets: int = option(100, "Data sets of the fast guides.", quick=20, full=1000, minimum=2)
    fits: int = option(12, "Data sets of the slow guides.", quick=2, full=200, minimum=2)
    guides: tuple[str, ...] = knob("guides", GUIDES, choices=GUIDES)
    n: int = knob("n", 25, remark="In a data set.")
    noise: float = knob("noise", 0.2, minimum=0.01)
    prior_precision: float = knob("prior_precision", 2.0, minimum=1e-3)
    test_size: int = knob("test_size", 20, remark="Each fit is judged by them.")
    stacked_epochs: int = option(1000, "Epochs of mean-field.", quick=300, full=3000, minimum=1)
    epochs: int = knob("epochs", 300, quick=150, full=1000)
    rate: float = knob("rate", 0.05, remark="It is the input that is dropped.")
    num_samples: int = knob("num_samples", 200, minimum=50, remark=kit.RECORDS)
    warmup: int = knob("warmup", 50, quick=30, full=200)
    draws: int = knob("draws", 120, quick=50, full=400)
    jobs: int | None = knob("jobs", None, quick=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        kit.require_exact(self.guides)
        if self.fits > self.datasets:
            raise ValueError(
                f"Option fits must be at most datasets, of which it takes the first; got "
                f"{self.fits} of {self.datasets}. Lower fits."
            )

    def count(self, guide: str) -> int:
        """The number of data sets that a guide is fitted to."""
        return self.fits if RECIPES[guide].names(guide) & FEW else self.datasets

    def settings(self, guide: str, seed: int) -> FitSettings:
        """How a guide is fitted; its scale starts at the order of magnitude of the posterior's."""
        stacked = STACKED in RECIPES[guide].traits
        return FitSettings(
            epochs=self.stacked_epochs if stacked else self.epochs,
            lrs={STACKED: 0.03, "correlated": 0.1, "dropout": 0.05},
            rounds=2,
            init_scale=(1 if stacked else 4) * self.noise / self.n**0.5,
            rank=1,
            rates={"fc1": self.rate},
            from_mode=("normal", "dropout"),
            chains=Chains(chains=1, draws=self.draws, warmup=self.warmup, jobs=1),
            seed=seed,
        )


@dataclass(frozen=True)
class Simulated:
    """Data sets and what is true of each; ``D`` data sets, ``M`` fresh points each."""

    weights: Array
    x: Array
    y: Array
    x_test: Array
    y_test: Array

    def first(self, count: int) -> Simulated:
        """The first ``count`` data sets."""
        return Simulated(*(part[:count] for part in vars(self).values()))

    def data(self, index: int) -> kit.Data:
        """The training data of one data set, as ``(n, 1)`` and ``(n,)``."""
        return torch.from_numpy(self.x[index])[:, None], torch.from_numpy(self.y[index])

    def function(self, x: Array) -> Array:
        """The true function of each data set at its own inputs ``(D, M)``, or at shared ones."""
        slope, intercept = self.weights.T[..., None]
        return np.asarray(slope * x + intercept)


def _simulated(config: Config, weights: Array, x: Array, y: Array) -> Simulated:
    """Data sets of known weights, the last points of each fresh."""
    n = config.n
    return Simulated(weights, x[:, :n], y[:, :n], x[:, n:], y[:, n:])


def simulate(config: Config) -> Simulated:
    """Draw weights from the prior, and training and fresh data given them."""
    rng = np.random.default_rng(derived_seed(config.seed, "data sets"))
    count, size = config.datasets, config.n + config.test_size
    weights = rng.normal(0, config.prior_precision**-0.5, (count, 2))
    x = rng.uniform(0, 2, (count, size))
    y = weights[:, :1] * x + weights[:, 1:] + rng.normal(0, config.noise, (count, size))
    return _simulated(config, weights, x, y)


def simulate_line(config: Config) -> Simulated:
    """Draw data sets from the labs' line, which stays the same."""
    seeds = np.random.SeedSequence([config.seed, 2]).generate_state(config.datasets)
    kind: Any = {"n": config.n + config.test_size, "noise": config.noise, "dtype": torch.float64}
    made = [linear_data(seed=int(seed), **kind) for seed in seeds]
    x, y = (np.stack([kit.to_numpy(part).ravel() for part in p]) for p in zip(*made, strict=True))
    return _simulated(config, np.tile([0.5, -0.3], (len(x), 1)), x, y)


@dataclass(frozen=True)
class Weights:
    """What a guide says of slope and intercept, for each of ``D`` data sets."""

    mean: Array
    covariance: Array
    draws: Array | None = None

    def moments(self, x: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the function at inputs ``(D, M)``."""
        phi = np.stack([x, np.ones_like(x)], -1)
        variance = np.einsum("dmp,dpq,dmq->dm", phi, self.covariance, phi)
        return np.einsum("dmp,dp->dm", phi, self.mean), np.sqrt(variance.clip(0))

    def interval(self, x: Array, level: float) -> tuple[Array, Array]:
        """The central interval of the function at inputs ``(D, M)``."""
        tails = (1 - level) / 2, (1 + level) / 2
        if self.draws is not None:
            low, high = np.quantile(_lines(self.draws, x), tails, axis=0)
        else:
            mean, sd = self.moments(x)
            low, high = (mean + stats.norm.ppf(tail) * sd for tail in tails)
        return low, high

    def predictive(self, x: Array, noise: float) -> RegressionPredictive:
        """The predictive distribution at inputs ``(D, M)``, flattened to ``(D M,)``."""
        mean, sd = (torch.from_numpy(part).flatten() for part in self.moments(x))
        moments = mean, sd.square(), torch.full_like(mean, noise**2)
        if self.draws is None:
            return RegressionPredictive(0, None, *moments)
        means = torch.from_numpy(_lines(self.draws, x)).flatten(1)
        mixture: Any = {"component_means": means, "component_scales": torch.full_like(means, noise)}
        return RegressionPredictive(len(means), means.unsqueeze(-1), *moments, **mixture)


def _lines(draws: Array, x: Array) -> Array:
    """The function of each draw ``(S, D, 2)`` at inputs ``(D, M)``: ``(S, D, M)``."""
    return np.asarray(draws[..., :1] * x + draws[..., 1:])


def linear_model(config: Config) -> BayesianModel:
    """A linear layer as the net: the labs' regression, with an input that dropout can drop."""
    prior = NormalPrior.from_precision(config.prior_precision)
    return mlp_regressor(
        1, hidden=(), prior=prior, likelihood=config.noise, dtype=torch.float64, seed=config.seed
    )


def fit_one(guide: str, config: Config, data: kit.Data, seed: int) -> Posterior:
    """Fit one guide to one data set, from a mode of its own."""
    return fit_all([guide], linear_model(config), data, config.settings(guide, seed))[guide]


def _weights_of(posterior: Posterior, num_samples: int) -> tuple[Array, Array, Array | None]:
    """Mean, covariance, and draws where the guide is not normal."""
    if isinstance(posterior.guide, Empirical):
        draws = kit.stored_draws(posterior)
    elif isinstance(posterior.guide, MCDropout):
        draws = kit.to_numpy(posterior.model.layout.ravel(posterior.draws(num_samples)))
    else:
        return *kit.weight_moments(posterior), None
    return draws.mean(0), np.cov(draws, rowvar=False), draws


@single_thread()
def _fit_and_read(
    guide: str, config: Config, data: kit.Data, index: int
) -> tuple[float, tuple[Array, Array, Array | None]]:
    """The seconds of one fit, in whatever process, and its weights."""
    start = time.perf_counter()
    posterior = fit_one(guide, config, data, derived_seed(config.seed, f"{guide} {index}"))
    return time.perf_counter() - start, _weights_of(posterior, config.num_samples)


def fit_each(
    guide: str, config: Config, simulated: Simulated, update: Update
) -> tuple[Weights, float]:
    """Fit a guide to each data set apart, over processes."""
    count, found = len(simulated.x), list[Any]()

    def done(one: Any) -> None:
        found.append(one)
        update(len(found), count, f"data set {len(found)}")

    tasks = (partial(_fit_and_read, guide, config, simulated.data(i), i) for i in range(count))
    run_tasks(tasks, jobs=number_of_jobs(config.jobs, count), done=done, order="given")
    seconds, parts = zip(*found, strict=True)
    means, covariances, draws = zip(*parts, strict=True)
    stacked = None if draws[0] is None else np.stack(draws, axis=1)
    return Weights(np.stack(means), np.stack(covariances), stacked), float(np.mean(seconds))


class _Lines(nn.Module):
    """Many lines side by side: output ``d`` is that of the line of data set ``d``."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.slope, self.intercept = (
            nn.Parameter(torch.zeros(count, dtype=torch.float64)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """From inputs ``(n, D)`` to outputs ``(n, D)``."""
        return x * self.slope + self.intercept


def fit_stacked(
    guide: str, config: Config, simulated: Simulated, update: Update
) -> tuple[Weights, float]:
    """Fit a factorised normal to all data sets at once.

    The posterior of all lines is the product of those of each, and Adam's steps are taken number by
    number: each data set gets the fit that it would get alone, with other random numbers.
    """
    count = len(simulated.x)
    prior = NormalPrior.from_precision(config.prior_precision)
    model = BayesianModel(_Lines(count), prior, Gaussian(scale=config.noise))
    data = torch.from_numpy(simulated.x.T.copy()), torch.from_numpy(simulated.y.T.copy())
    how = config.settings(guide, config.seed)
    posterior = fit_all([guide], model, data, how, stage=lambda _: nullcontext(update))[guide]
    normal: Any = posterior.guide
    loc = kit.to_numpy(normal.loc).reshape(2, count).T
    variance = np.exp(2 * kit.to_numpy(normal.log_scale)).reshape(2, count).T
    covariance = variance[..., None] * np.eye(2)
    return Weights(loc, covariance), posterior.info.total_seconds / count


def fit_guide(
    guide: str, config: Config, simulated: Simulated, update: Update
) -> tuple[Weights, float]:
    """Fit a guide to as many data sets as it is meant for; also the mean seconds of a fit."""
    fits = fit_stacked if STACKED in RECIPES[guide].traits else fit_each
    return fits(guide, config, simulated.first(config.count(guide)), update)
