r"""Do intervals hold what they promise? Every guide of one conjugate model on many fresh data sets.

For each data set the weights are drawn from the prior and the targets from the likelihood,

.. math:: w \sim \mathcal N(0, \alpha^{-1} I), \qquad y_n = w_0 + w_1 x_n + \varepsilon_n,
          \qquad x_n \sim U(0, 2), \qquad \varepsilon_n \sim \mathcal N(0, \sigma^2),

the inputs and the noise being those of the labs' line. Given the data, the function at any ``x`` is
then a draw from the exact posterior, so that the exact posterior's central intervals hold it with
just the probability that they promise: for a normal guide with its mean and the standard deviation
:math:`s_q(x)` the probability is :math:`2\Phi(z\,s_q(x) / s(x)) - 1`.

The guarantee is one on average over the prior. For weights that stay the same it need not hold:
over data sets from the line :math:`w = (-0.3, 0.5)` the exact posterior's mean is
:math:`\mathcal N(f - \alpha\phi^\top\Sigma w, \beta\phi^\top\Sigma\Phi^\top\Phi\Sigma\phi)`, which
gives its coverage in closed form.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from scipy import stats
from torch import Tensor, nn

from probml_tp.comparison import mean_interval, paired_seeds
from probml_tp.config import ExperimentConfig, option
from probml_tp.datasets import linear_data
from probml_tp.experiment import Experiment, Progress, Results, Table, Update
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.common import Array, Intervals, Rows, derived_seed
from probml_tp.experiments.conjugate_calibration_figures import (
    COLUMNS,
    DIFFERENCES,
    FUNCTION,
    LEVELS,
    LINE,
    PLACES,
    PREDICTIVE,
    figures,
    findings,
    place_columns,
)
from probml_tp.experiments.posterior_checks import with_posterior_checks
from probml_tp.experiments.regression import stored_draws, to_numpy, weight_moments
from probml_tp.guides import Delta, Exact, Laplace, LowRankNormal, MCDropout, MeanFieldNormal
from probml_tp.inference import fit, sample_nuts
from probml_tp.inference.empirical import Empirical
from probml_tp.inference.parallel import number_of_jobs, single_thread
from probml_tp.likelihoods import Gaussian
from probml_tp.metrics import crps
from probml_tp.model import BayesianModel
from probml_tp.models import mlp_regressor
from probml_tp.posterior import Posterior
from probml_tp.predictive import RegressionPredictive
from probml_tp.priors import NormalPrior

__all__ = ["EXPERIMENT", "Config", "Simulated", "Weights", "run", "stages"]

NAME = "conjugate-calibration"
GUIDES = ("exact", "nuts", "laplace", "mean-field", "low-rank-normal", "mc-dropout", "map")
FEW = ("nuts", "low-rank-normal", "mc-dropout")
"""Guides that take long: fitted to the first few data sets only."""

LAYER = "fc1"
MODE_ROUNDS = 2
JUDGE, ON_THE_LINE, RECORDS = "judge", "exact on the labs' line", "records for ArviZ"
GRID = np.linspace(-2.0, 4.0, 61)
"""Where the function's intervals are looked at: the training range and a width on either side."""

SECONDS = {"exact": 0.02, "laplace": 0.04, "map": 0.03}


@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Options of the experiment."""

    datasets: int = option(
        200, "Data sets of the guides that are fitted fast.", quick=30, full=1000, minimum=2
    )
    fits: int = option(
        12,
        "Data sets of NUTS, the low-rank normal and dropout: the first of the others'.",
        quick=3,
        full=200,
        minimum=2,
    )
    guides: tuple[str, ...] = option(GUIDES, "Guides to compare.", choices=GUIDES)
    n: int = option(25, "Training points of a data set.", minimum=2)
    noise: float = option(0.2, "Noise standard deviation, in units of y.", minimum=0.01)
    prior_precision: float = option(2.0, "Prior precision alpha of both weights.", minimum=1e-3)
    test_points: int = option(20, "Fresh points that each fit is judged by.", minimum=1)
    stacked_epochs: int = option(
        1000, "Gradient steps of the mean-field fits.", quick=300, full=3000, minimum=1
    )
    epochs: int = option(300, "Gradient steps of a low-rank or dropout fit.", full=1000, minimum=1)
    dropout: float = option(0.05, "Rate at which the input is dropped.", minimum=0.001, maximum=0.9)
    draws: int = option(200, "Draws of dropout, and of each ArviZ record.", minimum=50)
    warmup: int = option(50, "Warm-up steps of a NUTS chain.", quick=30, full=200, minimum=1)
    chain_draws: int = option(120, "Draws of a NUTS chain.", quick=50, full=400, minimum=4)
    jobs: int | None = option(
        None, "Processes that fit data sets; none for one a core.", quick=1, minimum=1
    )

    def __post_init__(self) -> None:
        """Check the values, and that they go together.

        Raises:
            ValueError: a value breaks a rule of its option, the exact guide is left out, or there
                are fewer data sets than fits.
        """
        super().__post_init__()
        if "exact" not in self.guides:
            raise ValueError(
                f"Option guides must include exact, which the others are compared with; "
                f"got {', '.join(self.guides)}. Add exact."
            )
        if self.fits > self.datasets:
            raise ValueError(
                f"Option fits must be at most datasets, of which it takes the first; got "
                f"{self.fits} of {self.datasets}. Lower fits."
            )

    def count(self, guide: str) -> int:
        """The number of data sets that a guide is fitted to."""
        return self.fits if guide in FEW else self.datasets


def stages(config: Config) -> dict[str, float]:
    """Name the stages with their expected seconds on 2 cores.

    Args:
        config: the options.

    Returns:
        Stage to seconds, in the order of the run.
    """
    jobs = number_of_jobs(config.jobs, config.fits)
    each = SECONDS | {
        "nuts": 8e-3 * (config.warmup + config.chain_draws),
        "low-rank-normal": 1.6e-3 * config.epochs,
        "mc-dropout": 1.4e-3 * config.epochs,
    }
    plan = {f"fit {g}": each[g] * config.count(g) / jobs + 0.5 for g in config.guides if g in each}
    if "mean-field" in config.guides:
        plan["fit mean-field"] = 1e-3 * config.stacked_epochs * (1 + config.datasets / 500)
    if "laplace" in config.guides:
        plan["fit laplace"] += 3.0  # importing what its curvature needs
    plan = {f"fit {guide}": plan[f"fit {guide}"] for guide in config.guides}
    plan[ON_THE_LINE] = SECONDS["exact"] * config.datasets / jobs
    return plan | {JUDGE: 2.0, RECORDS: 0.3 * len(config.guides)}


# ----------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Simulated:
    """Data sets and what is true of each; ``D`` data sets, ``M`` fresh points each.

    Args:
        weights: slope and intercept, ``(D, 2)``.
        x: training inputs, ``(D, n)``.
        y: training targets, ``(D, n)``.
        x_test: fresh inputs from the training range, ``(D, M)``.
        y_test: their targets, ``(D, M)``.
    """

    weights: Array
    x: Array
    y: Array
    x_test: Array
    y_test: Array

    def first(self, count: int) -> Simulated:
        """The first ``count`` data sets."""
        return Simulated(*(part[:count] for part in vars(self).values()))

    def data(self, index: int) -> tuple[Tensor, Tensor]:
        """The training data of one data set, as ``(n, 1)`` and ``(n,)``."""
        return torch.from_numpy(self.x[index])[:, None], torch.from_numpy(self.y[index])

    def function(self, x: Array) -> Array:
        """The true function of each data set at its own inputs ``(D, M)``, or at shared ones."""
        slope, intercept = self.weights.T[..., None]
        return np.asarray(slope * x + intercept)


def simulate(config: Config) -> Simulated:
    """Draw weights from the prior, and training and fresh data given them.

    Args:
        config: the options.

    Returns:
        ``config.datasets`` data sets.
    """
    rng = np.random.default_rng(derived_seed(config.seed, "data sets"))
    count, size = config.datasets, config.n + config.test_points
    weights = rng.normal(0, config.prior_precision**-0.5, (count, 2))
    x = rng.uniform(0, 2, (count, size))
    y = weights[:, :1] * x + weights[:, 1:] + rng.normal(0, config.noise, (count, size))
    n = config.n
    return Simulated(weights, x[:, :n], y[:, :n], x[:, n:], y[:, n:])


def simulate_line(config: Config) -> Simulated:
    """Draw data sets from the labs' line, which stays the same."""
    seeds = np.random.SeedSequence([config.seed, 2]).generate_state(config.datasets)
    size = config.n + config.test_points
    made = [
        linear_data(n=size, seed=int(seed), noise=config.noise, dtype=torch.float64)
        for seed in seeds
    ]
    x = np.stack([to_numpy(inputs[:, 0]) for inputs, _ in made])
    y = np.stack([to_numpy(targets) for _, targets in made])
    n, weights = config.n, np.tile([0.5, -0.3], (config.datasets, 1))
    return Simulated(weights, x[:, :n], y[:, :n], x[:, n:], y[:, n:])


# -------------------------------------------------------------------------------------- fitting


@dataclass(frozen=True)
class Weights:
    """What a guide says of slope and intercept, for each of ``D`` data sets.

    Args:
        mean: ``(D, 2)``; of draws their mean.
        covariance: ``(D, 2, 2)``.
        draws: ``(S, D, 2)`` where the guide is not normal.
    """

    mean: Array
    covariance: Array
    draws: Array | None = None

    def first(self, count: int) -> Weights:
        """Those of the first data sets."""
        draws = None if self.draws is None else self.draws[:, :count]
        return Weights(self.mean[:count], self.covariance[:count], draws)

    def moments(self, x: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the function at inputs ``(D, M)``."""
        phi = np.stack([x, np.ones_like(x)], -1)
        variance = np.einsum("dmp,dpq,dmq->dm", phi, self.covariance, phi)
        return np.einsum("dmp,dp->dm", phi, self.mean), np.sqrt(variance.clip(0))

    def interval(self, x: Array, level: float) -> tuple[Array, Array]:
        """The central interval of the function at inputs ``(D, M)``."""
        if self.draws is not None:
            low, high = np.quantile(
                _lines(self.draws, x), [(1 - level) / 2, (1 + level) / 2], axis=0
            )
            return low, high
        mean, sd = self.moments(x)
        half = stats.norm.ppf((1 + level) / 2) * sd
        return mean - half, mean + half

    def predictive(self, x: Array, noise: float) -> RegressionPredictive:
        """The predictive distribution at inputs ``(D, M)``, flattened to ``(D M,)``."""
        mean, sd = (torch.from_numpy(part).flatten() for part in self.moments(x))
        variance = torch.full_like(mean, noise**2)
        if self.draws is None:
            return RegressionPredictive(0, None, mean, sd.square(), variance)
        means = torch.from_numpy(_lines(self.draws, x)).flatten(1)
        return RegressionPredictive(
            num_samples=len(means),
            outputs=means.unsqueeze(-1),
            mean=mean,
            epistemic_variance=sd.square(),
            aleatoric_variance=variance,
            component_means=means,
            component_scales=torch.full_like(means, noise),
        )


def _lines(draws: Array, x: Array) -> Array:
    """The function of each draw ``(S, D, 2)`` at inputs ``(D, M)``: ``(S, D, M)``."""
    return np.asarray(draws[..., :1] * x + draws[..., 1:])


def linear_model(config: Config) -> BayesianModel:
    """A linear layer as the net: the labs' regression, with an input that dropout can drop."""
    prior = NormalPrior.from_precision(config.prior_precision)
    return mlp_regressor(
        1, hidden=(), prior=prior, likelihood=config.noise, dtype=torch.float64, seed=config.seed
    )


def fit_one(guide: str, config: Config, data: tuple[Tensor, Tensor], seed: int) -> Posterior:
    """Fit one guide to one data set.

    Args:
        guide: its name.
        config: the options.
        data: inputs and targets.
        seed: of the fit.

    Returns:
        The posterior.
    """
    model = linear_model(config)
    run: Any = partial(fit, model, data=data, seed=seed, progress=False)
    if guide == "exact":
        return run(Exact)  # type: ignore[no-any-return]
    if guide == "nuts":
        return sample_nuts(
            model, data, num_samples=config.chain_draws, warmup=config.warmup, chains=1, jobs=1,
            seed=seed, progress=False,
        )  # fmt: skip
    if guide == "laplace":
        return run(Laplace, epochs=MODE_ROUNDS, optimizer="lbfgs")  # type: ignore[no-any-return]
    mode = run(Delta, epochs=MODE_ROUNDS, optimizer="lbfgs")
    if guide == "map":
        return mode  # type: ignore[no-any-return]
    factory, lr, epochs = {
        "mean-field": (_mean_field(config), 0.03, config.stacked_epochs),
        "low-rank-normal": (_low_rank(config), 0.1, config.epochs),
        "mc-dropout": (partial(MCDropout, rates={LAYER: config.dropout}), 0.05, config.epochs),
    }[guide]
    return run(factory, init=mode, epochs=epochs, lr=lr, schedule="cosine")  # type: ignore[no-any-return]


def _spread(config: Config) -> float:
    """The order of magnitude of a weight's posterior standard deviation."""
    return float(config.noise / np.sqrt(config.n))


def _mean_field(config: Config) -> Callable[[BayesianModel], MeanFieldNormal]:
    return partial(MeanFieldNormal, init_scale=_spread(config))


def _low_rank(config: Config) -> Callable[[BayesianModel], LowRankNormal]:
    return partial(LowRankNormal, rank=1, init_scale=4 * _spread(config))


def _weights_of(posterior: Posterior, config: Config) -> tuple[Array, Array, Array | None]:
    """Mean, covariance, and draws where the guide is not normal."""
    if isinstance(posterior.guide, MCDropout | Empirical):
        is_chain = isinstance(posterior.guide, Empirical)
        draws = stored_draws(posterior) if is_chain else _flat_draws(posterior, config.draws)
        return draws.mean(0), np.cov(draws, rowvar=False), draws
    return *weight_moments(posterior), None


def _flat_draws(posterior: Posterior, count: int) -> Array:
    return to_numpy(posterior.model.layout.ravel(posterior.draws(count)))


@single_thread()
def _fit_and_read(
    guide: str, config: Config, data: tuple[Tensor, Tensor], index: int
) -> tuple[int, float, tuple[Array, Array, Array | None]]:
    """One fit, in whatever process."""
    start = time.perf_counter()
    posterior = fit_one(guide, config, data, derived_seed(config.seed, f"{guide} {index}"))
    return index, time.perf_counter() - start, _weights_of(posterior, config)


def fit_each(
    guide: str, config: Config, simulated: Simulated, update: Update
) -> tuple[Weights, float]:
    """Fit a guide to each data set apart, over processes.

    Args:
        guide: its name.
        config: the options.
        simulated: the data sets.
        update: told of the progress.

    Returns:
        What it says of the weights, and the mean seconds of a fit.
    """
    count = len(simulated.x)
    pool = Parallel(n_jobs=number_of_jobs(config.jobs, count), return_as="generator_unordered")
    tasks = (delayed(_fit_and_read)(guide, config, simulated.data(i), i) for i in range(count))
    found = []
    for one in pool(tasks):
        found.append(one)
        update(len(found), count, f"data set {len(found)}")
    found.sort(key=lambda one: one[0])
    means, covariances, draws = zip(*(parts for _, _, parts in found), strict=True)
    stacked = None if draws[0] is None else np.stack(draws, axis=1)
    seconds = float(np.mean([one[1] for one in found]))
    return Weights(np.stack(means), np.stack(covariances), stacked), seconds


class _Lines(nn.Module):
    """Many lines side by side: output ``d`` is that of the line of data set ``d``."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(count, dtype=torch.float64))
        self.intercept = nn.Parameter(torch.zeros(count, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """From inputs ``(n, D)`` to outputs ``(n, D)``."""
        return x * self.slope + self.intercept


def fit_mean_field(config: Config, simulated: Simulated, update: Update) -> tuple[Weights, float]:
    """Fit mean-field normals to all data sets at once.

    The posterior of all lines is the product of those of each, a mean-field normal is a product
    anyway, and Adam's steps are taken number by number: each data set gets the fit that it would
    get alone, with other random numbers.

    Args:
        config: the options.
        simulated: the data sets.
        update: told of the progress.

    Returns:
        What the fits say of the weights, and the seconds of a fit: of all, over their number.
    """
    count = len(simulated.x)
    prior = NormalPrior.from_precision(config.prior_precision)
    model = BayesianModel(_Lines(count), prior, Gaussian(scale=config.noise))
    data = torch.from_numpy(simulated.x.T.copy()), torch.from_numpy(simulated.y.T.copy())
    with single_thread():
        mode = fit(model, Delta, data, epochs=MODE_ROUNDS, optimizer="lbfgs", progress=False)
        posterior = fit(
            model, _mean_field(config), data, init=mode, epochs=config.stacked_epochs, lr=0.03,
            schedule="cosine", seed=config.seed, progress=update,
        )  # fmt: skip
    guide: Any = posterior.guide
    loc = to_numpy(guide.loc).reshape(2, count).T
    variance = np.exp(2 * to_numpy(guide.log_scale)).reshape(2, count).T
    covariance = variance[..., None] * np.eye(2)
    return Weights(loc, covariance), (mode.info.seconds + posterior.info.seconds) / count


# -------------------------------------------------------------------------------------- judging


def binomial_interval(hits: Array) -> tuple[float, float, float]:
    """The share of hits in percent, with the 95 % interval of Clopper and Pearson.

    Args:
        hits: truth values of independent trials.

    Returns:
        Share and the ends of the interval, in percent.
    """
    found = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(method="exact")
    return 100 * float(hits.mean()), 100 * float(found.low), 100 * float(found.high)


def held(weights: Weights, simulated: Simulated, x: Array, level: float) -> Array:
    """Whether the central interval holds the true function, at inputs ``(D, M)``.

    Args:
        weights: what a guide says.
        simulated: the data sets.
        x: the inputs.
        level: of the interval.

    Returns:
        Truth values ``(D, M)``.
    """
    low, high = weights.interval(x, level)
    true = simulated.function(x)
    return np.asarray((low <= true) & (true <= high))


@dataclass(frozen=True)
class _Judged:
    """Trials and scores of one guide.

    Args:
        hits: metric to whether the interval held the truth, one trial a data set ``(D,)``.
        scores: metric to the mean over a data set's fresh points, ``(D,)``.
        along: whether the 95 % interval held the function on the grid, ``(D, G)``.
        sd: the function's standard deviation on the grid, ``(D, G)``.
    """

    hits: Mapping[str, Array]
    scores: Mapping[str, Array]
    along: Array
    sd: Array


def _judge(weights: Weights, simulated: Simulated, noise: float) -> _Judged:
    x, y = simulated.x_test, torch.from_numpy(simulated.y_test).flatten()
    predictive = weights.predictive(x, noise)
    below = predictive.cdf(y).numpy().reshape(x.shape)[:, 0]
    hits = {}
    for level in LEVELS:
        tail = (1 - level) / 2
        hits[PREDICTIVE.format(level)] = (below >= tail) & (below <= 1 - tail)
        hits[FUNCTION.format(level)] = held(weights, simulated, x[:, :1], level)[:, 0]
    scores = {
        "crps": crps(predictive, y).numpy().reshape(x.shape).mean(1),
        "nll": -predictive.log_prob(y).numpy().reshape(x.shape).mean(1),
    }
    grid = np.tile(GRID, (len(x), 1))
    return _Judged(hits, scores, held(weights, simulated, grid, 0.95), weights.moments(grid)[1])


def _row(judged: _Judged) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Coverages and mean scores, with their intervals."""
    row: dict[str, float] = {}
    ends: dict[str, tuple[float, float]] = {}
    for name, hits in judged.hits.items():
        share, low, high = binomial_interval(hits)
        row[name], ends[name] = share, (low, high)
    for name, values in judged.scores.items():
        found = mean_interval(values)
        row[name] = found.mean
        if found.interval is not None:
            ends[name] = found.interval
    return row | {"datasets": float(len(judged.along))}, ends


def _differences(judged: Mapping[str, _Judged]) -> Table:
    """Scores less those of the exact posterior on the same data sets."""
    metrics: Rows = {}
    intervals: Intervals = {}
    for guide, one in judged.items():
        if guide == "exact":
            continue
        for name, values in one.scores.items():
            reference = judged["exact"].scores[name][: len(values)]
            found = paired_seeds(1000 * values, 1000 * reference)
            metrics.setdefault(guide, {})[name] = found.mean
            if found.interval is not None:
                intervals.setdefault(guide, {})[name] = found.interval
    title = "Worse than the exact posterior by, on the same data sets (95 % t intervals)"
    return Table(title, "Posterior", metrics, DIFFERENCES, intervals)


def _places(judged: Mapping[str, _Judged]) -> Table:
    """Coverage of the function's 95 % interval, and its width, at single inputs."""
    metrics: Rows = {}
    intervals: Intervals = {}
    for guide, one in judged.items():
        row, ends = metrics.setdefault(guide, {}), intervals.setdefault(guide, {})
        for place in PLACES:
            at = int(np.abs(GRID - place).argmin())
            share, low, high = binomial_interval(one.along[:, at])
            row[f"held {place:g}"], ends[f"held {place:g}"] = share, (low, high)
            exact = judged["exact"].sd[: len(one.sd), at]
            row[f"width {place:g}"] = float((one.sd[:, at] / exact).mean())
    title = "The function's 95 % interval in the middle of the data, at their edge, and beyond them"
    return Table(title, "Posterior", metrics, place_columns(), intervals)


def line_coverage(config: Config, simulated: Simulated, x: Array, level: float) -> Array:
    r"""The probability that the exact posterior's interval holds a fixed line, in closed form.

    Over the noise, given the training inputs: the posterior mean at ``x`` is
    :math:`\mathcal N(f - \alpha\phi^\top\Sigma w, \beta\phi^\top\Sigma\Phi^\top\Phi\Sigma\phi)`
    and the half width of the interval :math:`z\sqrt{\phi^\top\Sigma\phi}`.

    Args:
        config: the options.
        simulated: data sets whose weights are the line's.
        x: inputs ``(D, M)``.
        level: of the interval.

    Returns:
        Probabilities ``(D, M)``.
    """
    alpha, beta = config.prior_precision, config.noise**-2
    design = np.stack([simulated.x, np.ones_like(simulated.x)], -1)
    gram = np.einsum("dnp,dnq->dpq", design, design)
    covariance = np.linalg.inv(alpha * np.eye(2) + beta * gram)
    phi = np.stack([x, np.ones_like(x)], -1)
    shrunk = np.einsum("dmp,dpq->dmq", phi, covariance)
    bias = -alpha * np.einsum("dmp,dp->dm", shrunk, simulated.weights)
    sampling = np.sqrt(beta * np.einsum("dmp,dpq,dmq->dm", shrunk, gram, shrunk))
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt(np.einsum("dmp,dmp->dm", shrunk, phi))
    upper, lower = (half - bias) / sampling, (-half - bias) / sampling
    return np.asarray(stats.norm.cdf(upper) - stats.norm.cdf(lower))


def _line_table(config: Config, update: Update) -> Table:
    """The exact posterior's coverage of the labs' line, counted and in closed form."""
    simulated = simulate_line(config)
    weights, _ = fit_each("exact", config, simulated, update)
    metrics: Rows = {}
    intervals: Intervals = {}
    for level in LEVELS:
        label = f"{100 * level:.0f} %"
        share, low, high = binomial_interval(
            held(weights, simulated, simulated.x_test[:, :1], level)[:, 0]
        )
        expected = 100 * line_coverage(config, simulated, simulated.x_test, level).mean()
        metrics[label] = {"held": share, "expected": float(expected)}
        intervals[label] = {"held": (low, high)}
    title = "The labs' line, the same in every data set: how often the exact posterior's intervals "
    title += "hold it"
    return Table(title, "Interval", metrics, LINE, intervals)


# -------------------------------------------------------------------------------------- running


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit every guide to many data sets and count how often its intervals hold the truth.

    Args:
        config: the options.
        progress: who watches.

    Returns:
        Metrics, findings, and the arrays of the figures.
    """
    simulated = simulate(config)
    weights: dict[str, Weights] = {}
    seconds: dict[str, float] = {}
    for guide in config.guides:
        with progress.stage(f"fit {guide}") as update:
            part = simulated.first(config.count(guide))
            fits = fit_mean_field if guide == "mean-field" else partial(fit_each, guide)
            weights[guide], seconds[guide] = fits(config, part, update)
    with progress.stage(ON_THE_LINE) as update:
        line = _line_table(config, update)
    with progress.stage(JUDGE), single_thread():
        judged = {
            guide: _judge(found, simulated.first(config.count(guide)), config.noise)
            for guide, found in weights.items()
        }
    rows = {guide: _row(one) for guide, one in judged.items()}
    results = Results(
        experiment=NAME,
        title="Intervals of a conjugate model: what each guide promises and holds",
        config=config,
        metrics={g: row | {"seconds": seconds[g]} for g, (row, _) in rows.items()},
        intervals={guide: ends for guide, (_, ends) in rows.items()},
        columns=COLUMNS,
        tables=[_differences(judged), _places(judged), line],
        findings=[],
        data_source=_data_source(config),
        arrays=_arrays(judged),
    )
    with progress.stage(RECORDS), single_thread():
        for guide in config.guides:
            seed = derived_seed(config.seed, f"{guide} 0")
            posterior = fit_one(guide, config, simulated.data(0), seed)
            record = posterior.to_inference_data(*simulated.data(0), num_samples=config.draws)
            results.posteriors[guide], results.inference_data[guide] = posterior, record
    results.findings = findings(results)
    return results


def _data_source(config: Config) -> str:
    return (
        f"generated: {config.datasets:,} data sets of {config.n} points, y = w0 + w1 x + noise of "
        f"SD {config.noise:g}, w from the prior, x uniform on [0, 2]"
    )


def _arrays(judged: Mapping[str, _Judged]) -> dict[str, Array]:
    arrays: dict[str, Array] = {"grid": GRID}
    exact = judged["exact"].sd
    for guide, one in judged.items():
        arrays[f"{guide}.along"] = one.along.sum(0)
        arrays[f"{guide}.count"] = np.asarray(len(one.along))
        arrays[f"{guide}.width"] = (one.sd / exact[: len(one.sd)]).mean(0)
    return arrays


EXPERIMENT = with_posterior_checks(
    Experiment(
        name=NAME,
        summary=EXPERIMENTS.summary(NAME),
        config=Config,
        stages=stages,
        run=run,
        figures=figures,
    )
)
