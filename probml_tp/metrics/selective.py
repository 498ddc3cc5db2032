r"""Selective prediction: what is gained by answering only where the confidence is high.

A selective classifier answers the points whose confidence exceeds a threshold. *Coverage* is the
share that it answers, *selective risk* the share of errors among those, *generalised risk* the
share of points that it answers and gets wrong. In all of it a confidence is a number per point,
higher where the prediction is more likely right, and only the order that it gives counts.

Points that tie in confidence enter together: no threshold can tell them apart. The areas give
each coverage in between the expectation over a random order of the tied points, so they do not
depend on the order of the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.stats import beta

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import (
    finite_vector,
    flag_vector,
    positive_integer,
    share,
    strictly_between_0_and_1,
)

__all__ = [
    "RiskCoverage",
    "SelectiveThreshold",
    "augrc",
    "aurc",
    "excess_aurc",
    "optimal_aurc",
    "risk_coverage",
    "selective_threshold",
]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class RiskCoverage:
    """The risk-coverage curve, one entry for each distinct confidence, highest first.

    Args:
        coverage: share of the points with at least this confidence, ``(K,)``, rising to 1.
        risk: share of errors among those points, ``(K,)``; the last is the error rate.
        threshold: the confidences, ``(K,)``, falling: answer where the confidence is at least it.
    """

    coverage: Array
    risk: Array
    threshold: Array


def risk_coverage(confidence: object, correct: object) -> RiskCoverage:
    """The share of errors among the most confident points, for every share of them.

    Args:
        confidence: one number per point ``(N,)``, higher where more likely right.
        correct: whether each prediction is right, ``(N,)``.

    Returns:
        The curve; tied points enter together.

    Raises:
        ValueError: a confidence is not finite, or the two do not fit together.

    Example:
        >>> curve = risk_coverage([0.9, 0.8, 0.8, 0.3], [1, 1, 0, 0])
        >>> curve.coverage.tolist(), curve.risk.round(3).tolist(), curve.threshold.tolist()
        ([0.25, 0.75, 1.0], [0.0, 0.333, 0.5], [0.9, 0.8, 0.3])
    """
    confidences, errors = _checked(confidence, correct)
    threshold, accepted, wrong = _accepted(confidences, errors)
    return RiskCoverage(accepted / len(errors), wrong / accepted, threshold)


def aurc(confidence: object, correct: object) -> float:
    r"""The area under the risk-coverage curve (Geifman et al. 2019).

    .. math:: \mathrm{AURC} = \frac1N \sum_{i=1}^N
              \frac{\mathbb E[\text{errors among the } i \text{ most confident}]}{i}

    The expectation is over a random order of tied points. (fd-shifts integrates the same curve by
    trapezoids over distinct confidences, which differs by order ``1/N`` without ties.)

    Args:
        confidence: one number per point ``(N,)``, higher where more likely right.
        correct: whether each prediction is right, ``(N,)``.

    Returns:
        The area, from 0 (no errors) to 1 (errors only); lower is better.

    Raises:
        ValueError: a confidence is not finite, or the two do not fit together.

    Example:
        >>> aurc([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1])  # (0 + 0 + 1/3 + 1/4) / 4
        0.14583333333333331
    """
    _, accepted, wrong = _accepted(*_checked(confidence, correct))
    return area_of_selective_risk(accepted, wrong)


def excess_aurc(confidence: object, correct: object) -> float:
    r"""How far the AURC is above that of a perfect order, errors last (Geifman et al. 2019).

    .. math:: \text{E-AURC} = \mathrm{AURC} - \left[e + (1 - e)\ln(1 - e)\right]

    with the error rate ``e``. What is subtracted is the integral
    :math:`\int_{1-e}^1 \left(1 - \tfrac{1-e}{c}\right) dc` over coverages, the optimum in the limit
    of many points: with ``N`` points even a perfect order keeps about :math:`e / 2N`.

    Args:
        confidence: one number per point ``(N,)``, higher where more likely right.
        correct: whether each prediction is right, ``(N,)``.

    Returns:
        The excess, at least 0; 0 where all predictions are right, or none. Lower is better.

    Raises:
        ValueError: a confidence is not finite, or the two do not fit together.

    Example:
        >>> round(excess_aurc([0.9, 0.8, 0.7, 0.6], [1, 1, 1, 0]), 4)  # 0.0625 - 0.0342
        0.0283
    """
    confidences, errors = _checked(confidence, correct)
    return aurc(confidences, ~errors) - optimal_aurc(float(errors.mean()))


@checked(risk=share)
def optimal_aurc(risk: float) -> float:
    r"""The AURC of a perfect order, in the limit of many points: :math:`r + (1-r)\ln(1-r)`.

    Args:
        risk: the share ``r`` of errors.

    Returns:
        The area.

    Example:
        >>> optimal_aurc(0.0), optimal_aurc(1.0)
        (0.0, 1.0)
    """
    right = 1.0 - risk
    return risk + (right * math.log(right) if right > 0 else 0.0)


def augrc(confidence: object, correct: object) -> float:
    r"""The area under the generalised risk-coverage curve (Traub et al. 2024).

    .. math:: \mathrm{AUGRC} = \int_0^1 P(\text{answered and wrong}) \, d\,\text{coverage}
              = (1 - \mathrm{AUROC})\, a (1 - a) + \tfrac12 (1 - a)^2

    with the accuracy ``a``; by trapezoids from (0, 0), which makes the second form exact, ties
    included. Unlike the AURC it does not weigh the few most confident points above all others.

    Args:
        confidence: one number per point ``(N,)``, higher where more likely right.
        correct: whether each prediction is right, ``(N,)``.

    Returns:
        The area, from 0 (no errors) to 1/2 (errors only); lower is better.

    Raises:
        ValueError: a confidence is not finite, or the two do not fit together.

    Example:
        >>> augrc([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1])  # AUROC 2/3, accuracy 3/4
        0.09375
    """
    _, accepted, wrong = _accepted(*_checked(confidence, correct))
    return area_of_generalised_risk(accepted, wrong)


@dataclass(frozen=True)
class SelectiveThreshold:
    """Where to stop answering.

    Args:
        threshold: answer where the confidence is *above* it; ``-inf`` answers everything, ``inf``
            nothing.
        coverage: share of the calibration points that are answered.
        risk: share of errors among those.
        bound: upper bound of the true selective risk; 0 where nothing is answered.
        met: whether any threshold meets the target; if not, nothing is answered.
    """

    threshold: float
    coverage: float
    risk: float
    bound: float
    met: bool


def selective_threshold(
    confidence: object,
    correct: object,
    *,
    risk: float,
    delta: float = 0.05,
    num_thresholds: int = 100,
) -> SelectiveThreshold:
    r"""The threshold of largest coverage whose error rate is guaranteed (Geifman, El-Yaniv 2017).

    Over draws of the calibration points, independent and from the distribution of the test points,

    .. math:: P\left(P(\text{wrong} \mid \text{confidence} > \text{threshold}) \le
              \text{risk}\right) \ge 1 - \delta

    Candidates are the confidences at ``K`` ranks fixed beforehand, evenly spread over coverage.
    Given the confidence at a rank, the points above it are independent draws from those above it,
    ties or not, so their errors are binomial and the exact bound of Clopper and Pearson at level
    :math:`\delta / K` holds; the union bound over the ``K`` ranks does the rest. The paper finds
    its thresholds by bisection, where the data choose the ranks to be tested; fixed ranks let the
    union bound apply as it stands.

    Args:
        confidence: of calibration points that trained nothing, ``(N,)``.
        correct: whether each prediction is right, ``(N,)``.
        risk: the largest error rate allowed among the answered points.
        delta: the probability with which the guarantee may fail.
        num_thresholds: ``K``; more gives finer coverage, and slightly wider bounds.

    Returns:
        The threshold, its coverage, empirical risk and bound. Where no threshold meets the
        target, ``met`` is false and nothing is answered.

    Raises:
        ValueError: ``risk`` or ``delta`` is not between 0 and 1, a confidence is not finite, or the
            two do not fit together.

    Example:
        >>> found = selective_threshold(range(1000), [i >= 100 for i in range(1000)], risk=0.05)
        >>> found.threshold, found.coverage, round(found.bound, 3)
        (79.0, 0.92, 0.042)
    """
    confidences, errors = _checked(confidence, correct)
    target = strictly_between_0_and_1("risk", risk)
    n = len(errors)
    ranks = min(positive_integer("num_thresholds", num_thresholds), n)
    falling = np.append(np.sort(confidences)[::-1], -np.inf)
    candidates = falling[np.arange(1, ranks + 1) * n // ranks]
    answered = confidences > candidates[:, None]
    accepted, wrong = answered.sum(1), (answered & errors).sum(1)
    bound = _binomial_bound(wrong, accepted, strictly_between_0_and_1("delta", delta) / ranks)
    if not (bound <= target).any():
        return SelectiveThreshold(math.inf, 0.0, 0.0, 0.0, met=False)
    best = int(np.flatnonzero(bound <= target)[-1])
    return SelectiveThreshold(
        threshold=float(candidates[best]),
        coverage=float(accepted[best] / n),
        risk=float(wrong[best] / accepted[best]),
        bound=float(bound[best]),
        met=True,
    )


def area_of_selective_risk(accepted: Array, wrong: Array) -> float:
    r"""The AURC from counts at each distinct confidence.

    A group of ``m`` tied points with error rate :math:`\rho` that follows ``n`` points with ``w``
    errors adds :math:`\sum_{j=1}^m \frac{w + j\rho}{n + j} = m\rho + (w - n\rho)(H_{n+m} - H_n)`,
    with the harmonic numbers ``H``.

    Args:
        accepted: points down to each confidence, highest first, ``(K,)``.
        wrong: errors among them, ``(K,)``.

    Returns:
        The area.
    """
    m, errors = np.diff(accepted, prepend=0), np.diff(wrong, prepend=0)
    n, w = accepted - m, wrong - errors
    harmonic = _harmonic_numbers(int(accepted[-1]))
    rho = errors / np.maximum(m, 1)
    spread = np.dot(w - n * rho, harmonic[accepted] - harmonic[n])
    return float((wrong[-1] + spread) / accepted[-1])


def area_of_generalised_risk(accepted: Array, wrong: Array) -> float:
    """The AUGRC from the same counts."""
    m = np.diff(accepted, prepend=0)
    doubled = np.dot(m, 2 * wrong - np.diff(wrong, prepend=0))
    return float(doubled / (2 * accepted[-1] ** 2))


@lru_cache(maxsize=4)
def _harmonic_numbers(n: int) -> Array:
    """``H_0`` to ``H_n``."""
    return np.append(0.0, np.cumsum(1 / np.arange(1, n + 1)))


def _checked(confidence: object, correct: object) -> tuple[Array, Array]:
    """Confidences and whether each prediction is wrong."""
    confidences = finite_vector("confidence", confidence)
    return confidences, ~flag_vector("correct", correct, len(confidences))


def _accepted(confidences: Array, errors: Array) -> tuple[Array, Array, Array]:
    """Distinct confidences, highest first; points and errors down to each."""
    order = np.argsort(-confidences, kind="stable")
    falling = confidences[order]
    last = np.append(np.flatnonzero(np.diff(falling)), len(order) - 1)
    return falling[last], last + 1, np.cumsum(errors[order])[last]


def _binomial_bound(wrong: Array, accepted: Array, delta: float) -> Array:
    """The largest error rate that gives so few errors with probability ``delta`` or more."""
    all_wrong = wrong == accepted
    bound: Array = beta.ppf(1 - delta, wrong + 1, np.where(all_wrong, 1, accepted - wrong))
    return np.where(all_wrong, 1.0, bound)
