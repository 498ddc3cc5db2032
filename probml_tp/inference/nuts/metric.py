r"""Metrics of Hamiltonian Monte Carlo: the inverse mass :math:`M^{-1} = LL^\top`, by its root."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

__all__ = ["DenseMetric", "DiagonalMetric", "Metric"]

Array = np.ndarray[Any, np.dtype[np.float64]]


class Metric(ABC):
    r"""The root ``L`` of the inverse mass matrix, ideally of the posterior covariance."""

    @abstractmethod
    def velocity(self, p: Array) -> Array:
        """``L p``, the velocity that belongs to a whitened momentum ``(P,)``."""

    @abstractmethod
    def pull(self, gradient: Array) -> Array:
        r""":math:`L^\top g`, a gradient ``(P,)`` with respect to whitened positions."""


class DiagonalMetric(Metric):
    """Scales by coordinate.

    Args:
        scales: standard deviations, ``(P,)``.

    Example:
        >>> DiagonalMetric(np.array([2.0, 0.5])).velocity(np.ones(2)).tolist()
        [2.0, 0.5]
    """

    def __init__(self, scales: Array) -> None:
        self.scales = scales

    def velocity(self, p: Array) -> Array:
        """``L p``."""
        return self.scales * p

    def pull(self, gradient: Array) -> Array:
        r""":math:`L^\top g`."""
        return self.scales * gradient


class DenseMetric(Metric):
    """Any root: lower triangular, or principal axes times their scales.

    Args:
        root: ``L``, ``(P, P)``.

    Example:
        >>> DenseMetric(np.array([[1.0, 0.0], [3.0, 1.0]])).velocity(np.ones(2)).tolist()
        [1.0, 4.0]
    """

    def __init__(self, root: Array) -> None:
        self.root = root

    def velocity(self, p: Array) -> Array:
        """``L p``."""
        velocity: Array = self.root @ p
        return velocity

    def pull(self, gradient: Array) -> Array:
        r""":math:`L^\top g`."""
        pull: Array = gradient @ self.root
        return pull
