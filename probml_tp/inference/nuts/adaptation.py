r"""Warm-up of Hamiltonian Monte Carlo, as in Stan: step size, metric, and when each is adapted.

Sources: Nesterov's dual averaging in Hoffman & Gelman, JMLR 15 (2014), section 3.2; windows and
regularisation as in Stan's reference manual, section "Automatic parameter tuning".
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from probml_tp.inference.nuts.metric import DenseMetric, DiagonalMetric, Metric
from probml_tp.inference.nuts.transition import Gradients, Point, leapfrog, with_momentum

__all__ = [
    "CovarianceEstimator",
    "DualAveraging",
    "MetricEstimator",
    "VarianceEstimator",
    "WhitenedEstimator",
    "find_step_size",
    "windows",
]

Array = np.ndarray[Any, np.dtype[np.float64]]

PRIOR_DRAWS = 5
"""How many draws the metric's prior guess counts for."""

PRIOR_VARIANCE = 1e-3
"""Stan's guess of every variance where nothing is known."""


class DualAveraging:
    r"""The step size at which transitions accept with the target probability :math:`\delta`.

    .. math:: \log\epsilon_{t+1} = \mu - \frac{\sqrt t}{\gamma} \bar H_t, \qquad
              \bar H_t = \bigl(1 - \tfrac1{t+t_0}\bigr) \bar H_{t-1}
              + \tfrac1{t+t_0} (\delta - \alpha_t),

    with :math:`\mu = \log 10\epsilon_1`; :attr:`average` weighs the iterates by
    :math:`t^{-\kappa}`.

    Args:
        step_size: where to start.
        target: the acceptance probability to aim at.

    Example:
        >>> rarely, often = (DualAveraging(1.0, target=0.8) for _ in range(2))
        >>> rarely.update(0.1)
        >>> often.update(1.0)
        >>> rarely.step_size < often.step_size
        True
    """

    gamma, t0, kappa = 0.05, 10, 0.75

    def __init__(self, step_size: float, *, target: float) -> None:
        self.step_size = step_size
        self.target = target
        self.mu = math.log(10 * step_size)
        self.t = 0
        self.mean_error = 0.0
        self.log_average = math.log(step_size)

    def update(self, acceptance: float) -> None:
        """Take in the acceptance rate of a transition."""
        self.t += 1
        weight = 1 / (self.t + self.t0)
        self.mean_error += weight * (self.target - acceptance - self.mean_error)
        log_step = self.mu - self.t**0.5 / self.gamma * self.mean_error
        self.log_average += self.t**-self.kappa * (log_step - self.log_average)
        self.step_size = math.exp(log_step)

    @property
    def average(self) -> float:
        """The step size to use once adaptation is over."""
        return math.exp(self.log_average)


def find_step_size(
    z: Point, step_size: float, metric: Metric, rng: np.random.Generator
) -> Gradients[float]:
    """Double or halve the step size until one step's acceptance crosses 0.8."""
    direction = 0
    for _ in range(100):
        start = with_momentum(z.q, z.potential, z.gradient, metric, rng)
        end = yield from leapfrog(start, step_size, metric)
        now = 1 if start.energy - end.energy > math.log(0.8) else -1  # -1 for NaN, too
        if direction not in (0, now):
            break
        direction = now
        step_size *= 2.0**now
    return step_size


def windows(warmup: int) -> tuple[int, list[int]]:
    """When the metric is adapted: after which step to begin, and after which to take it over.

    Stan's: 75 steps at first and 50 at the end adapt only the step size; between them windows
    double from 25 steps. Fewer than 150 steps are divided 15 : 45 : 40 (Stan's 15 : 75 : 10 leave
    the step size too few to settle after the metric has changed); fewer than 20 adapt the step size
    alone.

    Args:
        warmup: the number of warm-up steps.

    Example:
        >>> windows(1000)
        (75, [100, 150, 250, 450, 950])
        >>> windows(10)
        (10, [])
    """
    if warmup < 20:
        return warmup, []
    begin, end, size = (75, warmup - 50, 25) if warmup >= 150 else (
        int(0.15 * warmup), warmup - int(0.4 * warmup), warmup,
    )  # fmt: skip
    ends: list[int] = []
    start = begin
    while start < end:
        stop = start + size
        if stop + 2 * size > end:  # the next window would not fit: this one takes the rest
            stop = end
        ends.append(stop)
        start, size = stop, 2 * size
    return begin, ends


class MetricEstimator(ABC):
    """Draws of a warm-up window, and the metric they make."""

    @abstractmethod
    def add(self, q: Array) -> None:
        """Take in a draw ``(P,)``."""

    @abstractmethod
    def metric(self) -> Metric:
        """The metric of the draws so far; without any, that of the prior guess."""

    @abstractmethod
    def reset(self) -> None:
        """Forget the draws: a new window begins."""


class VarianceEstimator(MetricEstimator):
    r"""Variances by Welford's algorithm, pulled towards a prior guess :math:`v_0`.

    .. math:: v = \frac{n}{n+5} s^2 + \frac{5}{n+5} v_0

    Args:
        start: the variances of the first metric, ``(P,)``.
        prior: the prior guess :math:`v_0`; Stan's is 0.001.

    Example:
        >>> estimator = VarianceEstimator(np.ones(1), prior=np.array([2.0]))
        >>> for q in (-1.0, 0.0, 1.0):
        ...     estimator.add(np.array([q]))
        >>> round(float(estimator.metric().scales[0] ** 2), 3)  # (3 * 1 + 5 * 2) / 8
        1.625
    """

    def __init__(self, start: Array, *, prior: Array | float = PRIOR_VARIANCE) -> None:
        self.start, self.prior = start, prior
        self.reset()

    def reset(self) -> None:
        """Forget the draws."""
        self.n, self.mean, self.squares = 0, np.zeros_like(self.start), np.zeros_like(self.start)

    def add(self, q: Array) -> None:
        """Take in a draw."""
        self.n += 1
        delta = q - self.mean
        self.mean = self.mean + delta / self.n
        self.squares += delta * (q - self.mean)

    def variance(self) -> Array:
        """The regularised variances ``(P,)``."""
        if self.n < 2:
            return self.start
        n = self.n
        variance: Array = (n * self.squares / (n - 1) + PRIOR_DRAWS * self.prior) / (
            n + PRIOR_DRAWS
        )
        return variance

    def metric(self) -> DiagonalMetric:
        """Scales by coordinate."""
        return DiagonalMetric(np.sqrt(self.variance()))


class CovarianceEstimator(MetricEstimator):
    """The same for a full covariance, pulled towards a diagonal one.

    Args:
        start: the variances of the first metric, ``(P,)``.
        prior: the prior guess of the variances.

    Example:
        >>> estimator = CovarianceEstimator(np.full(2, 4.0))
        >>> estimator.metric().root.tolist()
        [[2.0, 0.0], [0.0, 2.0]]
    """

    def __init__(self, start: Array, *, prior: Array | float = PRIOR_VARIANCE) -> None:
        self.start, self.prior = start, np.broadcast_to(prior, start.shape)
        self.reset()

    def reset(self) -> None:
        """Forget the draws."""
        size = len(self.start)
        self.n, self.mean, self.squares = 0, np.zeros(size), np.zeros((size, size))

    def add(self, q: Array) -> None:
        """Take in a draw."""
        self.n += 1
        delta = q - self.mean
        self.mean = self.mean + delta / self.n
        self.squares += np.outer(delta, q - self.mean)

    def metric(self) -> DenseMetric:
        """The Cholesky factor of the regularised covariance."""
        n = self.n
        if n < 2:
            return DenseMetric(np.diag(np.sqrt(self.start)))
        covariance = (n * self.squares / (n - 1) + PRIOR_DRAWS * np.diag(self.prior)) / (
            n + PRIOR_DRAWS
        )
        return DenseMetric(np.linalg.cholesky(covariance))


class WhitenedEstimator(MetricEstimator):
    r"""Variances of :math:`L_0^{-1}q` for a fixed root :math:`L_0`, pulled towards one.

    With :math:`L_0` from the curvature at the mode the metric is Laplace's covariance, corrected
    along its principal axes by what the draws show.

    Args:
        axes: orthonormal columns ``Q``, ``(P, P)``.
        scales: ``s``, so that :math:`L_0 = Q \operatorname{diag}(s)`, ``(P,)``.

    Example:
        >>> estimator = WhitenedEstimator(np.eye(2), np.array([3.0, 0.1]))
        >>> estimator.metric().root.diagonal().tolist()
        [3.0, 0.1]
    """

    def __init__(self, axes: Array, scales: Array) -> None:
        self.axes, self.scales = axes, scales
        self.whitened = VarianceEstimator(np.ones_like(scales), prior=1.0)

    def reset(self) -> None:
        """Forget the draws."""
        self.whitened.reset()

    def add(self, q: Array) -> None:
        """Take in a draw."""
        self.whitened.add((q @ self.axes) / self.scales)

    def metric(self) -> DenseMetric:
        """The corrected root."""
        return DenseMetric(self.axes * (self.scales * np.sqrt(self.whitened.variance())))
