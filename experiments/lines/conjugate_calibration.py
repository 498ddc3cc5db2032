r"""Do intervals hold what they promise? Every guide of one conjugate model on many fresh data sets.

For each data set the weights are drawn from the prior and the targets from the likelihood,

.. math:: w \sim \mathcal N(0, \alpha^{-1} I), \qquad y_n = w_0 + w_1 x_n + \varepsilon_n,
          \qquad x_n \sim U(0, 2), \qquad \varepsilon_n \sim \mathcal N(0, \sigma^2).

Given the data the function at any ``x`` is then a draw from the exact posterior, whose central
intervals hold it with just the probability that they promise. That is so on average over the prior
alone: over data sets from one line :math:`w` the exact posterior's mean is
:math:`\mathcal N(f - \alpha\phi^\top\Sigma w, \beta\phi^\top\Sigma\Phi^\top\Phi\Sigma\phi)`, which
gives its coverage in closed form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.lines import conjugate_calibration_figures as shown
from probml_tp.experiments.lines import conjugate_fits as fits
from probml_tp.experiments.lines.conjugate_calibration_figures import FUNCTION, LEVELS, PREDICTIVE
from probml_tp.experiments.lines.conjugate_fits import Config, Simulated, Weights
from probml_tp.experiments.lines.kit import put_mean
from probml_tp.harness.experiment import MAIN_TABLE, Experiment, Progress, Results, Table, Update
from probml_tp.inference.parallel import single_thread
from probml_tp.kit.common import FIT_COLUMN, Array, derived_seed
from probml_tp.kit.posterior_checks import with_posterior_checks
from probml_tp.kit.sentences import tell
from probml_tp.metrics.accuracy import crps

NAME = "conjugate-calibration"
GRID = np.linspace(-2.0, 4.0, 61)
"""Where the function's intervals are looked at: the training range and a width on either side."""

COLUMNS = {
    **{FUNCTION.format(level): f"Function in {100 * level:g} % (%)" for level in LEVELS},
    **{PREDICTIVE.format(level): f"Target in {100 * level:g} % (%)" for level in LEVELS},
    "crps": "CRPS (units of y) ↓",
    "nll": "NLL (nats/point) ↓",
    "datasets": "Data sets",
    **FIT_COLUMN,
}
"""Metric to heading: how often central intervals held the function and a target at a fresh input of
each data set, and mean scores over fresh points and data sets."""


def binomial_interval(hits: Array) -> tuple[float, float, float]:
    """The share of hits in percent, with the 95 % interval of Clopper and Pearson."""
    found = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(method="exact")
    return 100 * float(hits.mean()), 100 * float(found.low), 100 * float(found.high)


def held(weights: Weights, simulated: Simulated, x: Array, level: float) -> Array:
    """Whether the central interval holds the true function, at inputs ``(D, M)``."""
    low, high = weights.interval(x, level)
    true = simulated.function(x)
    return np.asarray((low <= true) & (true <= high))


def _put_share(table: Table, row: str, metric: str, hits: Array) -> None:
    """Enter a share of hits with its binomial interval."""
    share, *ends = binomial_interval(hits)
    table.put(row, {metric: share}, {metric: (ends[0], ends[1])})


@dataclass(frozen=True)
class _Judged:
    """Trials and scores of one guide, a number a data set; along the grid ``(D, G)``."""

    hits: Mapping[str, Array]
    scores: Mapping[str, Array]
    along: Array
    sd: Array


def _judge(weights: Weights, simulated: Simulated, noise: float) -> _Judged:
    x, y = simulated.x_test, torch.from_numpy(simulated.y_test).flatten()
    predictive, hits = weights.predictive(x, noise), {}
    below = predictive.cdf(y).numpy().reshape(x.shape)[:, 0]
    for level in LEVELS:
        tail = (1 - level) / 2
        hits[PREDICTIVE.format(level)] = (below >= tail) & (below <= 1 - tail)
        hits[FUNCTION.format(level)] = held(weights, simulated, x[:, :1], level)[:, 0]
    each = {"crps": crps(predictive, y), "nll": -predictive.log_prob(y)}
    scores = {metric: v.numpy().reshape(x.shape).mean(1) for metric, v in each.items()}
    grid = np.tile(GRID, (len(x), 1))
    return _Judged(hits, scores, held(weights, simulated, grid, 0.95), weights.moments(grid)[1])


def _enter(results: Results[Config], guide: str, one: _Judged, exact: _Judged) -> None:
    """Enter a guide into the tables: coverages and scores, differences from exact, places."""
    count, (differences, places) = len(one.along), results.tables
    for metric, hits in one.hits.items():
        _put_share(results.main, guide, metric, hits)
    for metric, values in one.scores.items():
        put_mean(results.main, guide, metric, values)
        if one is not exact:
            more = 1000 * values - 1000 * exact.scores[metric][:count]
            put_mean(differences, guide, metric, more)
    results.main.put(guide, {"datasets": count})
    width = (one.sd / exact.sd[:count]).mean(0)
    for place in shown.PLACES:
        at = int(np.abs(GRID - place).argmin())
        _put_share(places, guide, f"held {place:g}", one.along[:, at])
        places.put(guide, {f"width {place:g}": width[at]})
    results.arrays |= {f"{guide}.along": one.along.sum(0), f"{guide}.width": width}


def line_coverage(config: Config, simulated: Simulated, x: Array, level: float) -> Array:
    """The probability that the exact posterior's interval holds a fixed line, in closed form."""
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
    simulated = fits.simulate_line(config)
    weights, _ = fits.fit_each("exact", config, simulated, update)
    table = Table(
        "The labs' line, the same in every data set: how often the exact posterior's intervals "
        "hold it",
        "Interval",
        columns={"held": "Counted (%)", "expected": "In closed form (%)"},
    )
    for level in LEVELS:
        row, x = f"{100 * level:.0f} %", simulated.x_test
        _put_share(table, row, "held", held(weights, simulated, x[:, :1], level)[:, 0])
        table.put(row, {"expected": 100 * line_coverage(config, simulated, x, level).mean()})
    return table


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit every guide to many data sets and count how often its intervals hold the truth."""
    simulated, weights = fits.simulate(config), dict[str, Weights]()
    results = _nothing_yet(config)
    for guide in config.guides:
        with progress.stage(f"fit {guide}") as update:
            weights[guide], seconds = fits.fit_guide(guide, config, simulated, update)
        results.main.put(guide, {"seconds": seconds})
    with progress.stage("exact on the labs' line") as update:
        line = _line_table(config, update)
    with progress.stage("judge"), single_thread():
        judged = {
            guide: _judge(found, simulated.first(config.count(guide)), config.noise)
            for guide, found in weights.items()
        }
        for guide, one in judged.items():
            _enter(results, guide, one, judged["exact"])
    results.tables.append(line)
    with progress.stage("records for ArviZ"), single_thread():
        data = simulated.data(0)
        for guide in config.guides:
            posterior = fits.fit_one(guide, config, data, derived_seed(config.seed, f"{guide} 0"))
            record = posterior.to_inference_data(*data, num_samples=config.num_samples)
            results.posteriors[guide], results.inference_data[guide] = posterior, record
    results.findings = tell(shown.FINDINGS, results)
    return results


def _nothing_yet(config: Config) -> Results[Config]:
    """The results with empty tables."""
    held = {f"held {place:g}": f"Held at x = {place:g} (%)" for place in shown.PLACES}
    width = {f"width {place:g}": f"Width at x = {place:g} (exact: 1)" for place in shown.PLACES}
    worse = "Worse than the exact posterior by, on the same data sets (95 % t intervals)"
    at = "The function's 95 % interval in the middle of the data, at their edge, and beyond them"
    differences = {"crps": "CRPS (10⁻³ units of y) ↓", "nll": "NLL (10⁻³ nats/point) ↓"}
    return Results(
        NAME,
        "Intervals of a conjugate model: what each guide promises and holds",
        config,
        Table(MAIN_TABLE, "Posterior", columns=COLUMNS),
        findings=[],
        data_source=f"generated: {config.datasets:,} data sets of {config.n} points, y = w0 + w1 x "
        f"+ noise of SD {config.noise:g}, w from the prior, x uniform on [0, 2]",
        arrays={"grid": GRID},
        tables=[
            Table(worse, "Posterior", columns=differences),
            Table(at, "Posterior", columns=held | width),
        ],
    )


EXPERIMENT = with_posterior_checks(
    Experiment(NAME, EXPERIMENTS.summary(NAME), Config, run, shown.figures)
)
