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

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy import stats

from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.lines.conjugate_calibration_figures import (
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
from probml_tp.experiments.lines.conjugate_fits import (
    Config,
    Simulated,
    Weights,
    fit_each,
    fit_mean_field,
    fit_one,
    simulate,
    simulate_line,
)
from probml_tp.harness.experiment import MAIN_TABLE, Experiment, Progress, Results, Table, Update
from probml_tp.inference.parallel import single_thread
from probml_tp.kit.common import Array, Intervals, Rows, derived_seed
from probml_tp.kit.posterior_checks import with_posterior_checks
from probml_tp.metrics.accuracy import crps
from probml_tp.metrics.over_runs import mean_interval, paired_seeds

NAME = "conjugate-calibration"
JUDGE, ON_THE_LINE, RECORDS = "judge", "exact on the labs' line", "records for ArviZ"
GRID = np.linspace(-2.0, 4.0, 61)
"""Where the function's intervals are looked at: the training range and a width on either side."""

SECONDS = {"exact": 0.02, "laplace": 0.04, "map": 0.03}


# -------------------------------------------------------------------------------------- judging


def binomial_interval(hits: Array) -> tuple[float, float, float]:
    """The share of hits in percent, with the 95 % interval of Clopper and Pearson."""
    found = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(method="exact")
    return 100 * float(hits.mean()), 100 * float(found.low), 100 * float(found.high)


def held(weights: Weights, simulated: Simulated, x: Array, level: float) -> Array:
    """Whether the central interval holds the true function, at inputs ``(D, M)``."""
    low, high = weights.interval(x, level)
    true = simulated.function(x)
    return np.asarray((low <= true) & (true <= high))


@dataclass(frozen=True)
class _Judged:
    """Trials and scores of one guide."""

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
        main=Table(
            MAIN_TABLE,
            "Posterior",
            {g: row | {"seconds": seconds[g]} for g, (row, _) in rows.items()},
            COLUMNS,
            {guide: ends for guide, (_, ends) in rows.items()},
        ),
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
        run=run,
        figures=figures,
    )
)
