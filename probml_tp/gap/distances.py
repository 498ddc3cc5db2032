r"""Distances between two sets of draws, on the draws as they are and on each resample of them.

Numbers have the draws as they are in their first row and the resamples in the others. Variances
are those of the draws (divided by ``S``), so that a posterior of a few points has its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
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


def weight_measures(name: str, q: Resampled, p: Resampled) -> Mapping[str, Measure]:
    r"""How far the marginals of a site's elements are from the reference's.

    Args:
        name: the site.
        q: draws of the approximation.
        p: draws of the reference.

    Returns:
        ``mean_difference``: :math:`|E_q[\theta_i] - E_p[\theta_i]| / \mathrm{sd}_p(\theta_i)`.
        ``variance_ratio``: :math:`\mathrm{Var}_q(\theta_i) / \mathrm{Var}_p(\theta_i)`. ``w2``:
        the 2-Wasserstein distance of the two marginals, in the parameter's units.
    """
    ours, theirs = (r.sample.sites[name] for r in (q, p))
    origin = theirs.mean(0)
    mean_q, variance_q = _moments(ours - origin, q.draws)
    mean_p, variance_p = _moments(theirs - origin, p.draws)
    pairs = _sorted_pairs(ours, theirs, q.draws, p.draws)
    return {
        "mean_difference": Measure(
            _ratio(np.abs(mean_q - mean_p), np.sqrt(variance_p)), squared=True
        ),
        "variance_ratio": Measure(_ratio(variance_q, variance_p)),
        "w2": Measure(np.stack([_w2(*pair) for pair in pairs], 1), squared=True),
    }


def classification_measures(q: Resampled, p: Resampled) -> dict[str, Measure]:
    r"""How far predicted class probabilities are from the reference's, point by point.

    Args:
        q: draws of the approximation.
        p: draws of the reference.

    Returns:
        ``total_variation`` of the predictives :math:`\bar q_n`, :math:`\bar p_n`; ``kl``:
        :math:`\mathrm{KL}(\bar p_n \| \bar q_n)` in nats, the log loss that a user of the
        approximation loses if labels come as the reference says;
        ``mutual_information_ratio``: :math:`I_q(y; \theta) / I_p(y; \theta)`.
    """
    probs_q, information_q = _predictive(q)
    probs_p, information_p = _predictive(p)
    distance = total_variation(torch.from_numpy(probs_q), torch.from_numpy(probs_p)).numpy()
    kl = rel_entr(probs_p, np.maximum(probs_q, TINY)).sum(-1)
    return {
        "total_variation": Measure(distance, squared=True, highest=1.0),
        "kl": Measure(np.maximum(kl, 0.0)),
        "mutual_information_ratio": Measure(information_q, information_p),
    }


def regression_measures(q: Resampled, p: Resampled, level: float) -> dict[str, Measure]:
    r"""How far function values and targets are from the reference's, point by point.

    Args:
        q: draws of the approximation.
        p: draws of the reference.
        level: the probability of the central intervals.

    Returns:
        ``w2``: the 2-Wasserstein distance of the function values, in the units of ``y``;
        ``epistemic_ratio``: of their standard deviations; ``function_coverage``: the share of the
        reference's function values in the approximation's central interval; ``target_coverage``:
        the same of replicated targets, noise included.
    """
    ours, theirs = (r.sample.functions["mean"] for r in (q, p))
    origin = theirs.mean(0)
    deviation_q = np.sqrt(_moments(ours - origin, q.draws)[1])
    deviation_p = np.sqrt(_moments(theirs - origin, p.draws)[1])
    w2, inside = [], []
    for pair in _sorted_pairs(ours, theirs, q.draws, p.draws):
        w2.append(_w2(*pair))
        inside.append(_share_inside(*pair, level))
    our_targets, their_targets = (r.sample.functions["target"] for r in (q, p))
    pairs = _sorted_pairs(our_targets, their_targets, q.targets, p.targets)
    covered = np.stack([_share_inside(*pair, level) for pair in pairs], 1)
    return {
        "w2": Measure(np.stack(w2, 1), squared=True),
        "epistemic_ratio": Measure(deviation_q, deviation_p),
        "function_coverage": Measure(np.stack(inside, 1), highest=1.0),
        "target_coverage": Measure(covered, highest=1.0),
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


def _sorted_pairs(
    ours: Array, theirs: Array, our_counts: Array, their_counts: Array
) -> Iterator[tuple[Array, Array]]:
    """For each column, the resampled values of both in order, ``(1 + R, S)``."""
    our_draws, their_draws = _members(our_counts), _members(their_counts)
    for a, b in zip(ours.T, theirs.T, strict=True):
        yield _sorted_resamples(a, our_draws), _sorted_resamples(b, their_draws)


def _members(counts: Array) -> Array:
    """The draws of each resample, each as often as it counts, ``(1 + R, S)``."""
    resamples, size = counts.shape
    return np.tile(np.arange(size), resamples).repeat(counts.ravel()).reshape(resamples, -1)


def _sorted_resamples(values: Array, draws: Array) -> Array:
    """Each resample in order: its draws are sorted by their ranks, which takes half the time."""
    order = np.argsort(values)
    ranks = np.empty(len(values), dtype=np.int32)
    ranks[order] = np.arange(len(values))
    of_draws = ranks[draws]
    of_draws.sort(axis=1)
    resamples: Array = values[order][of_draws]
    return resamples


def _w2(ours: Array, theirs: Array) -> Array:
    r""":math:`(\int_0^1 (F^{-1} - G^{-1})^2)^{1/2}` of sorted draws, exact, ``(1 + R,)``."""
    m, n = ours.shape[1], theirs.shape[1]
    ends = np.union1d(np.arange(1, m + 1) * n, np.arange(1, n + 1) * m)  # in units of 1 / (m n)
    widths = np.diff(ends, prepend=0) / (m * n)
    difference = ours[:, (ends - 1) // n] - theirs[:, (ends - 1) // m]
    distance: Array = np.sqrt(difference**2 @ widths)
    return distance


def _share_inside(ours: Array, theirs: Array, level: float) -> Array:
    """The share of their draws in our central interval, ``(1 + R,)``."""
    low, high = (_sorted_quantile(ours, (1 + side * level) / 2) for side in (-1, 1))
    share: Array = ((theirs >= low[:, None]) & (theirs <= high[:, None])).mean(1)
    return share


def _sorted_quantile(values: Array, share: float) -> Array:
    """``numpy.quantile(values, share, axis=1)`` of rows in order, without sorting them again."""
    place = share * (values.shape[1] - 1)
    below = int(place)
    above = min(below + 1, values.shape[1] - 1)
    quantile: Array = values[:, below] + (place - below) * (values[:, above] - values[:, below])
    return quantile


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Their ratio, NaN where the denominator is 0."""
    ratio = np.full_like(numerator, np.nan)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio
