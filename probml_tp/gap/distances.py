r"""Distances between sets of draws, on the draws as they are and on each resample of them.

Numbers have the draws as they are in their first row and the resamples in the others. Variances
are those of the draws (divided by ``S``), so that a posterior of a few points has its own. Several
posteriors are held against the reference at once, so that its resamples are sorted once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.special import entr, rel_entr

from probml_tp.gap.sample import Resampled
from probml_tp.metrics.accuracy import total_variation

__all__ = [
    "Measure",
    "classification_measures",
    "reflected_interval",
    "regression_measures",
    "weight_measures",
]

Array = np.ndarray[Any, Any]
TINY = np.finfo(np.float64).tiny

PART = 2**17
"""Numbers of the reference's resamples that are in order at a time: they stay in the cache."""


@dataclass(frozen=True)
class Measure:
    """One measure at every point (or element of a site), on every resample.

    Args:
        values: ``(1 + R, M)``; of a ratio its numerator.
        divisor: of a ratio its denominator, of the same shape: over several points the two are
            averaged before they are divided.
        squared: whether the interval is found for squares: that of a distance that behaves like
            the length of a vector of differences.
        highest: the largest value that there can be.
    """

    values: Array
    divisor: Array | None = None
    squared: bool = False
    highest: float = np.inf

    def over(self, index: Array) -> Array:
        """The mean over some points, on every resample: ``(1 + R,)``."""
        mean: Array = self.values[:, index].mean(1)
        if self.divisor is None:
            return mean
        return _ratio(mean, self.divisor[:, index].mean(1))

    def each(self) -> Array:
        """The values at each point, ``(1 + R, M)``."""
        return self.values if self.divisor is None else _ratio(self.values, self.divisor)


def reflected_interval(values: Array, measure: Measure, level: float) -> tuple[Array, Array, Array]:
    r"""Estimate and reflected bootstrap interval along the first dimension.

    .. math:: [\,2\hat t - t^*_{(1+\text{level})/2},\; 2\hat t - t^*_{(1-\text{level})/2}\,]

    with ``t`` the measure, or its square (Davison and Hinkley 1997, section 5.2). A distance of
    resampled draws is too long by as much as the distance of the draws themselves: the reflection
    takes that off, where a percentile interval would count it twice.

    Args:
        values: ``(1 + R, ...)``, the first row on the draws as they are.
        measure: what they are values of.
        level: the probability of the interval.

    Returns:
        Estimate, lower and upper end.
    """
    t = values**2 if measure.squared else values
    tail = (1 - level) / 2
    upper, lower = np.quantile(t[1:], [1 - tail, tail], axis=0)
    ends = np.clip([2 * t[0] - upper, 2 * t[0] - lower], 0, measure.highest)
    low, high = np.sqrt(ends) if measure.squared else ends
    return values[0], low, high


def weight_measures(
    name: str, qs: Mapping[str, Resampled], p: Resampled
) -> dict[str, dict[str, Measure]]:
    r"""How far the marginals of a site's elements are from the reference's.

    Args:
        name: the site.
        qs: posterior to draws of it.
        p: draws of the reference.

    Returns:
        For each posterior ``mean_difference``:
        :math:`|E_q[\theta_i] - E_p[\theta_i]| / \mathrm{sd}_p(\theta_i)`; ``variance_ratio``:
        :math:`\mathrm{Var}_q(\theta_i) / \mathrm{Var}_p(\theta_i)`; ``w2``: the 2-Wasserstein
        distance of the two marginals, in the parameter's units.
    """
    theirs = p.sample.sites[name]
    ours = {q: draws.sample.sites[name] for q, draws in qs.items()}
    origin = theirs.mean(0)
    mean_p, variance_p = _moments(theirs - origin, p.draws)
    w2, _ = _ordered_measures(
        ours, theirs, {q: draws.draws for q, draws in qs.items()}, p.draws, distance=True
    )
    found = {}
    for q, draws in qs.items():
        mean, variance = _moments(ours[q] - origin, draws.draws)
        difference = _ratio(np.abs(mean - mean_p), np.sqrt(variance_p))
        found[q] = {
            "mean_difference": Measure(difference, squared=True),
            "variance_ratio": Measure(_ratio(variance, variance_p)),
            "w2": Measure(w2[q], squared=True),
        }
    return found


def classification_measures(
    qs: Mapping[str, Resampled], p: Resampled
) -> dict[str, dict[str, Measure]]:
    r"""How far predicted class probabilities are from the reference's, point by point.

    Args:
        qs: posterior to draws of it.
        p: draws of the reference.

    Returns:
        For each posterior ``total_variation`` of the predictives :math:`\bar q_n`,
        :math:`\bar p_n`; ``kl``: :math:`\mathrm{KL}(\bar p_n \| \bar q_n)` in nats, the log loss
        that a user of the approximation loses if labels come as the reference says;
        ``mutual_information_ratio``: :math:`I_q(y; \theta) / I_p(y; \theta)`.
    """
    probs_p, information_p = _predictive(p)
    found = {}
    for name, q in qs.items():
        probs, information = _predictive(q)
        distance = total_variation(torch.from_numpy(probs), torch.from_numpy(probs_p)).numpy()
        kl = rel_entr(probs_p, np.maximum(probs, TINY)).sum(-1)
        found[name] = {
            "total_variation": Measure(distance, squared=True, highest=1.0),
            "kl": Measure(np.maximum(kl, 0.0)),
            "mutual_information_ratio": Measure(information, information_p),
        }
    return found


def regression_measures(
    qs: Mapping[str, Resampled], p: Resampled, level: float
) -> dict[str, dict[str, Measure]]:
    r"""How far function values and targets are from the reference's, point by point.

    Args:
        qs: posterior to draws of it.
        p: draws of the reference.
        level: the probability of the central intervals.

    Returns:
        For each posterior ``w2``: the 2-Wasserstein distance of the function values, in the units
        of ``y``; ``epistemic_ratio``: of their standard deviations; ``function_coverage``: the
        share of the reference's function values in the approximation's central interval;
        ``target_coverage``: the same of replicated targets, noise included.
    """
    draws = {name: q.draws for name, q in qs.items()}
    ours = {name: q.sample.functions["mean"] for name, q in qs.items()}
    theirs = p.sample.functions["mean"]
    w2, inside = _ordered_measures(ours, theirs, draws, p.draws, distance=True, level=level)
    _, covered = _ordered_measures(
        {name: q.sample.functions["target"] for name, q in qs.items()},
        p.sample.functions["target"],
        {name: q.targets for name, q in qs.items()},
        p.targets,
        level=level,
    )
    origin = theirs.mean(0)
    deviation_p = np.sqrt(_moments(theirs - origin, p.draws)[1])
    return {
        name: {
            "w2": Measure(w2[name], squared=True),
            "epistemic_ratio": Measure(
                np.sqrt(_moments(ours[name] - origin, draws[name])[1]), deviation_p
            ),
            "function_coverage": Measure(inside[name], highest=1.0),
            "target_coverage": Measure(covered[name], highest=1.0),
        }
        for name in qs
    }


def _predictive(resampled: Resampled) -> tuple[Array, Array]:
    """Mean probabilities ``(1 + R, N, C)`` and mutual information ``(1 + R, N)``."""
    probs, entropy = (resampled.sample.functions[name] for name in ("probs", "entropy"))
    weights = resampled.draws / len(probs)
    mean = (weights @ probs.reshape(len(probs), -1)).reshape(-1, *probs.shape[1:])
    return mean, np.maximum(entr(mean).sum(-1) - weights @ entropy, 0.0)


def _moments(values: Array, counts: Array) -> tuple[Array, Array]:
    """Means and variances ``(1 + R, M)`` of values ``(S, M)``."""
    weights, centre = counts / len(values), values.mean(0)
    mean = weights @ values
    variance = weights @ (values - centre) ** 2 - (mean - centre) ** 2
    return mean, np.maximum(variance, 0.0)


def _ordered_measures(
    ours: Mapping[str, Array],
    theirs: Array,
    our_counts: Mapping[str, Array],
    their_counts: Array,
    *,
    distance: bool = False,
    level: float | None = None,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """By columns, what needs draws in order: distances, shares in our intervals, ``(1 + R, M)``."""
    shape = len(their_counts), theirs.shape[1]
    w2 = {name: np.empty(shape) for name in ours if distance}
    inside = {name: np.empty(shape) for name in ours if level is not None}
    our_members = {name: _members(counts) for name, counts in our_counts.items()}
    their_members = _members(their_counts)
    size = max(1, PART // their_members.shape[1])
    for column in range(shape[1]):
        p_values = Ranked.of(theirs[:, column])
        q_values = {name: Ranked.of(values[:, column]) for name, values in ours.items()}
        for start in range(0, shape[0], size):
            part = slice(start, start + size)
            p = InOrder.of(p_values, their_members[part])
            for name, values in q_values.items():
                q = InOrder.of(values, our_members[name][part])
                if distance:
                    w2[name][part, column] = q.w2(p)
                if level is not None:
                    low, high = (q.quantile((1 + side * level) / 2) for side in (-1, 1))
                    inside[name][part, column] = p.share_between(low, high)
    return w2, inside


def _members(counts: Array) -> Array:
    """The draws of each resample, each as often as it counts, ``(1 + R, S)``."""
    resamples, size = counts.shape
    return np.tile(np.arange(size), resamples).repeat(counts.ravel()).reshape(resamples, -1)


@dataclass(frozen=True)
class Ranked:
    """Numbers in order.

    Args:
        values: in order, ``(S,)``.
        places: where among these each of the numbers is, ``(S,)``.
    """

    values: Array
    places: Array

    @classmethod
    def of(cls, numbers: Array) -> Ranked:
        """Sort numbers ``(S,)``."""
        order = np.argsort(numbers)
        places = np.empty(len(order), dtype=np.int32)
        places[order] = np.arange(len(order))
        return cls(numbers[order], places)


@dataclass(frozen=True)
class InOrder:
    """Resamples of numbers, each in order.

    They are sorted as places among all the numbers, which takes half the time.

    Args:
        values: the numbers in order, ``(S,)``.
        places: of each resample's numbers among these, in order, ``(R, S)``.
    """

    values: Array
    places: Array
    _steps: dict[int, tuple[Array, Array]] = field(default_factory=dict)

    @classmethod
    def of(cls, numbers: Ranked, members: Array) -> InOrder:
        """Sort the resamples that have these members, ``(R, S)``."""
        places = numbers.places[members]
        places.sort(axis=1)
        return cls(numbers.values, places)

    @cached_property
    def columns(self) -> Array:
        """The numbers of each resample in order, a column each, ``(S, R)``."""
        columns: Array = self.values[np.ascontiguousarray(self.places.T)]
        return columns

    def quantile(self, share: float) -> Array:
        """``numpy.quantile(columns, share, axis=0)``."""
        place = share * (self.places.shape[1] - 1)
        below = int(place)
        above = min(below + 1, self.places.shape[1] - 1)
        low, high = self.values[self.places[:, below]], self.values[self.places[:, above]]
        quantile: Array = low + (place - below) * (high - low)
        return quantile

    def share_between(self, low: Array, high: Array) -> Array:
        """The share of each resample in an interval of its own, ends included, ``(R,)``."""
        resamples, size = self.places.shape
        first = np.arange(resamples) * len(self.values)
        ends = np.searchsorted(self.values, low), np.searchsorted(self.values, high, "right")
        below, upto = (np.searchsorted(self._in_a_row, first + end) for end in ends)
        share: Array = np.maximum(upto - below, 0) / size
        return share

    @cached_property
    def _in_a_row(self) -> Array:
        """All places in order, those of a resample beyond those of the one before."""
        first = np.arange(len(self.places))[:, None] * len(self.values)
        return (self.places + first).ravel()

    def w2(self, other: InOrder) -> Array:
        r"""The 2-Wasserstein distance of each resample from the other's, exact, ``(R,)``.

        Our quantile function :math:`F^{-1}` is a constant on each of ``S`` equal steps, so that
        with the mean of the other's over a step, :math:`\bar g`,

        .. math:: \int (F^{-1} - G^{-1})^2 = \int (F^{-1} - \bar g)^2 + \int (G^{-1} - \bar g)^2

        of which the mean and the last term depend on the other and on ``S`` alone.
        """
        size = self.places.shape[1]
        means, rest = other.steps(size)
        distance: Array = np.sqrt(np.full(size, 1 / size) @ (self.columns - means) ** 2 + rest)
        return distance

    def steps(self, count: int) -> tuple[Array, Array]:
        """Means of the quantile function over equal steps, and its variance about them.

        Args:
            count: the number of steps, ``m``.

        Returns:
            The means ``(m, R)`` and the variance, averaged over the steps, ``(R,)``.
        """
        if count not in self._steps:
            number, step, width, average = _pieces(self.places.shape[1], count)
            means = average @ self.columns
            deviation = self.columns[number]
            deviation -= means[step]
            self._steps[count] = means, width @ np.square(deviation, out=deviation) / count
        return self._steps[count]


@lru_cache(maxsize=16)
def _pieces(size: int, count: int) -> tuple[Array, Array, Array, csr_array]:
    """Where the quantile function of numbers is constant within each of equal steps.

    Returns:
        Of each piece the number and the step that it is of, and its width in steps; and the matrix
        that maps numbers to their means over the steps, ``(count, size)``.
    """
    ends = np.union1d(np.arange(1, count + 1) * size, np.arange(1, size + 1) * count)
    width = np.diff(ends, prepend=0) / size  # ends are in units of 1 / (count * size)
    number, step = (ends - 1) // count, (ends - 1) // size
    return number, step, width, csr_array((width, (step, number)), (count, size))


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Their ratio, NaN where the denominator is 0."""
    ratio = np.full_like(numerator, np.nan)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio
