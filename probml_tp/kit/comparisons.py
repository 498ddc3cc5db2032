r"""Methods compared over seeds: means, intervals, and paired differences from one of them.

With one seed the intervals are of the paired bootstrap over the test points: what another draw of
test points might give, for the nets as they are. With several they are Student's t intervals of the
mean over seeds: what other runs of the same recipe might give, on the same test points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from probml_tp.kit.common import Array, Intervals, Rows, span
from probml_tp.metrics.bootstrap import Bootstrap, RankingMetric, bootstrap, paired_difference
from probml_tp.metrics.over_runs import MeanInterval, mean_interval, paired_seeds
from probml_tp.plots.style import number

__all__ = [
    "Comparison",
    "Ends",
    "Reader",
    "compare",
    "difference_words",
    "interval_words",
    "spread_words",
]

Ends = tuple[float, float, float]
"""An estimate and the two ends of its interval, NaN where there is none."""

RANKING: Mapping[str, RankingMetric] = {
    "auroc": "auroc",
    "fpr95": "fpr95",
    "aupr_success": "aupr",
    "aupr_error": "aupr_negative",
    "aupr_in": "aupr",
    "aupr_out": "aupr_negative",
    "aurc": "aurc",
    "e_aurc": "e_aurc",
    "augrc": "augrc",
}
"""Metric to what the bootstrap calls it; the positive points are the right or the own ones."""

DEFINED_WITHOUT_MISTAKES = {"aurc", "e_aurc", "augrc", "aupr"}


@dataclass(frozen=True)
class Comparison:
    """Methods on one set of points.

    Args:
        estimates: method to metric to mean and interval, over seeds or points.
        differences: for each method that others are compared with, method to metric to the paired
            difference from it.
    """

    estimates: Mapping[str, Mapping[str, Ends]]
    differences: Mapping[str, Mapping[str, Mapping[str, Ends]]]

    def scaled(self, scales: Mapping[str, float]) -> Rows:
        """The means for a table, each times a factor.

        Args:
            scales: metric to factor.

        Returns:
            Method to metric to number.
        """
        return {
            label: {m: scales[m] * ends[0] for m, ends in row.items()}
            for label, row in self.estimates.items()
        }

    def scaled_intervals(self, scales: Mapping[str, float]) -> Intervals:
        """Their intervals, likewise."""
        return {
            label: {
                m: (scales[m] * ends[1], scales[m] * ends[2])
                for m, ends in row.items()
                if np.isfinite(ends[1])
            }
            for label, row in self.estimates.items()
        }

    def arrays(self, prefix: str) -> dict[str, Array]:
        """The comparison as arrays, for figures.

        Args:
            prefix: of their names.

        Returns:
            ``<prefix>.labels``, and for each metric ``<prefix>.<metric>`` and for each reference
            ``<prefix>.<metric> - <reference>``, ``(methods, 3)``: value and ends, NaN where a
            method has none.
        """
        labels = list(self.estimates)
        names = list(dict.fromkeys(m for row in self.estimates.values() for m in row))
        nothing = (np.nan, np.nan, np.nan)
        arrays: dict[str, Array] = {f"{prefix}.labels": np.array(labels)}
        parts = {"": self.estimates} | {f" - {r}": rows for r, rows in self.differences.items()}
        for name in names:
            for suffix, rows in parts.items():
                values = [rows.get(label, {}).get(name, nothing) for label in labels]
                arrays[f"{prefix}.{name}{suffix}"] = np.array(values)
        return arrays


@dataclass(frozen=True)
class Reader:
    """Reads what :meth:`Comparison.arrays` wrote.

    Args:
        stored: the arrays of an experiment.
        prefix: of their names.
        reference: the method that the others are compared with, unless another is named.
    """

    stored: Mapping[str, Array]
    prefix: str
    reference: str = ""

    @property
    def labels(self) -> list[str]:
        """The methods, in order."""
        return [str(label) for label in self.stored[f"{self.prefix}.labels"]]

    def ends(self, metric: str, *, minus: str = "") -> dict[str, Array]:
        """Estimate and ends of every method that has them.

        Args:
            metric: which.
            minus: a method: the differences from it instead.

        Returns:
            Method to three numbers; the ends are NaN where there is no interval.
        """
        key = f"{self.prefix}.{metric}" + (f" - {minus}" if minus else "")
        values = self.stored.get(key, np.full((len(self.labels), 3), np.nan))
        named = zip(self.labels, values, strict=True)
        return {label: ends for label, ends in named if np.isfinite(ends[0])}

    def value(self, label: str, metric: str) -> float:
        """The estimate of one method."""
        return float(self.ends(metric)[label][0])

    def apart(self, metric: str, *, sign: int) -> list[str]:
        """The methods whose difference from the reference has an interval on one side of 0.

        Args:
            metric: which.
            sign: 1 for larger than the reference, -1 for smaller.

        Returns:
            Their names.
        """
        found = self.ends(metric, minus=self.reference)
        return [label for label, ends in found.items() if (sign * ends[1:] > 0).all()]

    def words(self, label: str, metric: str, *, minus: str = "") -> str:
        """The difference of a method from the reference or another method, in words.

        Args:
            label: the method.
            metric: a share; the difference is given in percentage points.
            minus: the other method.

        Returns:
            For example "1.2 points above MCP [+0.3, +2.1]".
        """
        rival = minus or self.reference
        return difference_words(self.ends(metric, minus=rival)[label], rival)


def difference_words(ends: Array, rival: str) -> str:
    """A difference of shares with its interval, in words.

    Args:
        ends: the difference and the ends of its interval, as shares.
        rival: what it is from.

    Returns:
        For example "1.2 points above MCP [0.3, 2.1]".

    Example:
        >>> difference_words(np.array([0.012, 0.003, 0.021]), "MCP")
        '1.2 points above MCP [+0.3, +2.1]'
    """
    value, low, high = (100 * float(end) for end in ends)
    side = "above" if value >= 0 else "below"
    words = f"{abs(value):.1f} points {side} {rival}"
    if np.isfinite(low):
        words += f" [{number(low, '+.1f')}, {number(high, '+.1f')}]"
    return words


def spread_words(values: Mapping[str, float], write: Callable[[float], str]) -> str:
    """The range of values, with who stands at its ends.

    Args:
        values: method to value, not empty.
        write: how to write a value.

    Returns:
        Words to follow "runs".

    Example:
        >>> spread_words({"MCP": 1.0, "ODIN, T 5": 2.0}, "{:.0f}".format)
        'from 1 (MCP) to 2 (ODIN, T 5)'
    """
    return span(values, write, name=str)


def interval_words(seeds: int) -> str:
    """Say which intervals these are.

    Args:
        seeds: the number of seeds.

    Returns:
        A noun phrase.
    """
    if seeds == 1:
        return "those of the paired bootstrap over the test images, at 95 %"
    return f"Student's t intervals of the mean over {seeds} seeds, at 95 %"


def compare(
    confidences: Sequence[Mapping[str, Tensor]],
    positives: Sequence[Tensor | Mapping[str, Tensor]],
    *,
    metrics: Sequence[str],
    references: Sequence[str] = (),
    resamples: int,
    seed: int,
) -> Comparison:
    """Compare methods by the metrics of :data:`RANKING`.

    Args:
        confidences: of each seed, method to confidences ``(N,)``.
        positives: of each seed, which points are right or in-distribution, ``(N,)``; or one for
            each method, if methods judge predictions of their own.
        metrics: their names.
        references: the methods that the others are compared with.
        resamples: of the bootstrap, where there is one seed.
        seed: of the bootstrap.

    Returns:
        The comparison; a metric that is undefined (no mistakes) is left out.
    """
    results = [
        {
            metric: _bootstrap(
                RANKING[metric],
                found,
                positive,
                resamples=resamples if len(confidences) == 1 else 1,
                seed=seed,
            )
            for metric in metrics
        }
        for found, positive in zip(confidences, positives, strict=True)
    ]
    of_seeds: dict[str, dict[str, list[float]]] = {label: {} for label in confidences[0]}
    for label, row in of_seeds.items():
        for metric in metrics:
            ofs = [r[metric].methods[label].value for r in results if label in r[metric].methods]
            if ofs:
                row[metric] = ofs
    if len(results) == 1:
        estimates = {label: _ends_of(results[0], label) for label in of_seeds}
        differences = {rival: _differences(results[0], rival) for rival in references}
    else:
        estimates = {
            label: {metric: _t_ends(mean_interval(v)) for metric, v in row.items()}
            for label, row in of_seeds.items()
        }
        differences = {rival: _seed_differences(of_seeds, rival) for rival in references}
    return Comparison(estimates, differences)


def _bootstrap(
    metric: RankingMetric,
    confidences: Mapping[str, Tensor],
    positive: Tensor | Mapping[str, Tensor],
    *,
    resamples: int,
    seed: int,
) -> Bootstrap:
    """Every method for which the metric is defined, on the same resamples."""
    labels = {x: positive[x] if isinstance(positive, Mapping) else positive for x in confidences}
    judged = {
        x: c
        for x, c in confidences.items()
        if labels[x].any() and (metric in DEFINED_WITHOUT_MISTAKES or not labels[x].all())
    }
    run = partial(bootstrap, metric, resamples=resamples, seed=seed)
    if judged and not isinstance(positive, Mapping):
        return run(judged, positive)
    parts = [run({x: c}, labels[x]).methods for x, c in judged.items()]
    return Bootstrap(metric, 0.95, {x: e for part in parts for x, e in part.items()})


def _ends_of(results: Mapping[str, Bootstrap], label: str) -> dict[str, Ends]:
    found = {metric: one.methods.get(label) for metric, one in results.items()}
    return {metric: (e.value, e.low, e.high) for metric, e in found.items() if e is not None}


def _differences(results: Mapping[str, Bootstrap], rival: str) -> dict[str, dict[str, Ends]]:
    found: dict[str, dict[str, Ends]] = {}
    for metric, one in results.items():
        for label in one.methods if rival in one.methods else ():
            gap = paired_difference(one, label, rival)
            found.setdefault(label, {})[metric] = (gap.value, gap.low, gap.high)
    return found


def _t_ends(found: MeanInterval) -> Ends:
    return (found.mean, *(found.interval or (np.nan, np.nan)))


def _seed_differences(
    of_seeds: Mapping[str, Mapping[str, list[float]]], rival: str
) -> dict[str, dict[str, Ends]]:
    return {
        label: {
            metric: _t_ends(paired_seeds(values, of_seeds[rival][metric]))
            for metric, values in row.items()
            if len(of_seeds[rival].get(metric, ())) == len(values)
        }
        for label, row in of_seeds.items()
    }
