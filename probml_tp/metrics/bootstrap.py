r"""How far a ranking metric would move with other test points: the paired bootstrap.

Every method is judged on the *same* resamples of the test points, so that differences between
methods, whose errors are much the same points, are far better known than each value alone.

A resample only changes how often each point counts. Each method's points are therefore sorted
once, and its metric on all resamples comes from cumulative sums of integer weights.

The interval of one method is not made of percentiles: near 0 or 1 a metric's distribution is skew,
and they lie too close to the end (of 400 points, a tenth of them errors, 95 % intervals held the
AUROC of .96 in 92 % of simulations). It is symmetric on the logit scale,

.. math:: \mathrm{logit}^{-1}\big(\mathrm{logit}(v) \pm z\, \mathrm{sd}_r[\mathrm{logit}(v_r)]\big)

with the value :math:`v` and its resampled values :math:`v_r`, as Pepe (2003) advises for
AUROC, and Boyd et al. (2013) for average precision. The FPR at 95 % TPR has steps and takes any
value down to 0; percentiles do well there. ``benchmarks/interval_coverage.py`` counts how often
each holds the true value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import (
    finite_vector,
    flag_vector,
    positive_integer,
    strictly_between_0_and_1,
    valid_seed,
)
from probml_tp.metrics.selective import (
    area_of_generalised_risk,
    area_of_selective_risk,
    optimal_aurc,
)

__all__ = ["Bootstrap", "Difference", "Estimate", "RankingMetric", "bootstrap", "paired_difference"]

Array = np.ndarray[Any, Any]
RankingMetric = Literal["auroc", "aupr", "aupr_negative", "fpr95", "aurc", "e_aurc", "augrc"]


@dataclass(frozen=True)
class Estimate:
    """A metric of one method.

    Args:
        value: on the test points as they are.
        low: lower end of the interval.
        high: upper end.
        draws: on each resample, ``(R,)``; the same resamples for all methods.
    """

    value: float
    low: float
    high: float
    draws: Array


@dataclass(frozen=True)
class Bootstrap:
    """A metric of several methods on the same resamples.

    Args:
        metric: which.
        level: of the intervals.
        methods: method to its estimate.
    """

    metric: RankingMetric
    level: float
    methods: Mapping[str, Estimate]


@dataclass(frozen=True)
class Difference:
    """A metric of one method less that of another.

    Args:
        value: on the test points as they are.
        low: lower end of the interval.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


@checked()
def bootstrap(
    metric: RankingMetric,
    confidences: Mapping[str, object],
    positive: object,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Bootstrap:
    """Intervals of a ranking metric over test points, paired over methods.

    They are symmetric on the logit scale, of ``"fpr95"`` percentiles of the resamples; a value of
    0 or 1 exactly (a perfect order) has percentiles too, which may all be that value. They presume
    some points of each kind: with fewer than about 10 errors no interval is to be trusted.

    The metrics are those of :mod:`probml_tp.metrics.detection` and
    :mod:`probml_tp.metrics.selective`, ties included: ``"auroc"``; ``"aupr"``, average precision of
    the positives; ``"aupr_negative"``, that of the negatives by the negative confidence
    (AUPR-Error, AUPR-Out); ``"fpr95"``; ``"aurc"``, ``"e_aurc"`` and ``"augrc"``, for which
    positives are right predictions.

    Resamples without any positive, or any negative, point are drawn again if the test points have
    both; with the same seed, all metrics and methods see the same resamples.

    Args:
        metric: which metric.
        confidences: method to one number per point ``(N,)``, higher where more likely positive.
        positive: whether each point is positive, ``(N,)``, such as whether its prediction is right.
        resamples: ``R``.
        level: of the intervals.
        seed: determines the resamples.

    Returns:
        Each method's estimate, with its draws.

    Raises:
        ValueError: there is no method, the shapes do not fit, a confidence is not finite, or the
            metric is not known or undefined since all points are of one kind.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> right = rng.uniform(size=500) < 0.8
        >>> good, poor = (right + scale * rng.normal(size=500) for scale in (0.5, 2.0))
        >>> result = bootstrap("auroc", {"good": good, "poor": poor}, right, resamples=200)
        >>> [round(result.methods[name].value, 2) for name in ("good", "poor")]
        [0.92, 0.62]
        >>> paired_difference(result, "good", "poor").excludes_zero
        True
    """
    labels = _checked_labels(metric, confidences, positive)
    rankings = {name: Ranking.of(name, c, len(labels)) for name, c in confidences.items()}
    count = positive_integer("resamples", resamples)
    tails = (1 - strictly_between_0_and_1("level", level)) / 2
    draws = {name: np.empty(count) for name in rankings}
    for r, weights in enumerate(_resampled_weights(labels, count, valid_seed(seed))):
        for name, ranking in rankings.items():
            draws[name][r] = ranking.evaluate(metric, weights)
    as_is = _by_kind(labels, np.ones_like(labels, dtype=int))
    methods = {}
    for name, ranking in rankings.items():
        value = ranking.evaluate(metric, as_is)
        low, high = _interval(metric, value, draws[name], tails, len(labels))
        methods[name] = Estimate(value, low, high, draws[name])
    return Bootstrap(metric, level, methods)


@checked()
def paired_difference(result: Bootstrap, a: str, b: str) -> Difference:
    """How much larger the metric of one method is than that of another, on the same resamples.

    Args:
        result: of :func:`bootstrap`.
        a: a method.
        b: the method whose value is subtracted.

    Returns:
        The difference and its percentile interval, of the level of ``result``.

    Raises:
        ValueError: a method is not in the result.
    """
    for name in (a, b):
        if name not in result.methods:
            raise ValueError(
                f"a difference needs methods of the result, {', '.join(result.methods)}; got "
                f"{name!r}. Pass one of them."
            )
    first, second = result.methods[a], result.methods[b]
    tails = (1 - result.level) / 2
    low, high = np.quantile(first.draws - second.draws, [tails, 1 - tails])
    return Difference(first.value - second.value, float(low), float(high))


def _interval(
    metric: RankingMetric, value: float, draws: Array, tail: float, num_points: int
) -> tuple[float, float]:
    """The interval that leaves out ``tail`` on either side."""
    if metric == "fpr95" or not 0 < value < 1:
        low, high = np.quantile(draws, [tail, 1 - tail])
        return float(low), float(high)
    least = min(1 / (8 * num_points), value / 2, (1 - value) / 2)
    spread = logit(draws.clip(least, 1 - least)).std()
    ends = expit(logit(value) + norm.ppf([tail, 1 - tail]) * spread)
    return float(ends[0]), float(ends[1])


@dataclass(frozen=True)
class Ranking:
    """The points of one method, sorted once.

    Args:
        order: points by falling confidence, ``(N,)``.
        last: the place in that order of the last point of each group of ties, ``(G,)``.
    """

    order: Array
    last: Array

    @classmethod
    def of(cls, name: str, confidence: object, num_points: int) -> Ranking:
        """Sort a method's points."""
        values = finite_vector(f"confidence of {name}", confidence)
        if len(values) != num_points:
            raise ValueError(
                f"every method must be judged on the same {num_points} points; {name} has "
                f"{len(values)} confidences. Pass one for each entry of positive."
            )
        order = np.argsort(-values, kind="stable")
        last = np.append(np.flatnonzero(np.diff(values[order])), num_points - 1)
        return cls(order, last)

    def evaluate(self, metric: RankingMetric, weights: Array) -> float:
        """The metric where positives and negatives count as often as the rows say, ``(2, N)``."""
        hits, misses = weights.take(self.order, axis=1).cumsum(1).take(self.last, axis=1)
        return METRICS[metric](hits, misses)


def _auroc(hits: Array, misses: Array) -> float:
    """A negative is outranked by all positives above it and half of those beside it."""
    doubled = np.dot(np.diff(misses, prepend=0), 2 * hits - np.diff(hits, prepend=0))
    return float(doubled / (2 * hits[-1] * misses[-1]))


def _average_precision(hits: Array, misses: Array) -> float:
    precision = hits / np.maximum(hits + misses, 1)
    return float(np.dot(np.diff(hits, prepend=0), precision) / hits[-1])


def _average_precision_of_negatives(hits: Array, misses: Array) -> float:
    """The same from below: what lies at or below each confidence, lowest first."""
    below = [np.cumsum(np.diff(c, prepend=0)[::-1]) for c in (misses, hits)]
    return _average_precision(*below)


def _fpr95(hits: Array, misses: Array) -> float:
    return float(misses[np.argmax(hits / hits[-1] >= 0.95)] / misses[-1])


def _excess_aurc(hits: Array, misses: Array) -> float:
    area = area_of_selective_risk(hits + misses, misses)
    return area - optimal_aurc(float(misses[-1] / (hits[-1] + misses[-1])))


METRICS: Mapping[RankingMetric, Callable[[Array, Array], float]] = {
    "auroc": _auroc,
    "aupr": _average_precision,
    "aupr_negative": _average_precision_of_negatives,
    "fpr95": _fpr95,
    "aurc": lambda hits, misses: area_of_selective_risk(hits + misses, misses),
    "e_aurc": _excess_aurc,
    "augrc": lambda hits, misses: area_of_generalised_risk(hits + misses, misses),
}
"""Each from the numbers of positives and negatives down to each group of ties, ``(G,)``."""


def _by_kind(labels: Array, weights: Array) -> Array:
    """How often each point counts as a positive, and as a negative, ``(2, N)``."""
    return np.stack([weights * labels, weights * ~labels])


def _resampled_weights(labels: Array, count: int, seed: int) -> Iterator[Array]:
    rng = np.random.default_rng(seed)
    n, both = len(labels), labels.any() and not labels.all()
    for _ in range(count):
        chosen = rng.integers(n, size=n)
        while both and labels[chosen].all() == labels[chosen].any():
            chosen = rng.integers(n, size=n)
        yield _by_kind(labels, np.bincount(chosen, minlength=n))


def _checked_labels(metric: str, confidences: Mapping[str, object], positive: object) -> Array:
    if metric not in get_args(RankingMetric):
        raise ValueError(
            f"metric must be one of {', '.join(get_args(RankingMetric))}; got {metric!r}. Pass "
            f"'auroc'."
        )
    if not confidences:
        raise ValueError("a bootstrap needs at least one method; got none. Pass its confidences.")
    labels = flag_vector("positive", positive, len(finite_vector("positive", positive)))
    missing = {
        "auroc": labels.all() or not labels.any(),
        "fpr95": labels.all() or not labels.any(),
        "aupr": not labels.any(),
        "aupr_negative": labels.all(),
    }
    if missing.get(metric, False):
        raise ValueError(
            f"{metric} is undefined where all points are of one kind; got {int(labels.sum())} "
            f"positive of {len(labels)}. Judge more points, or leave it out."
        )
    return labels
