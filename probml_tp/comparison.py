"""Statistics for comparing methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = ["MeanInterval", "mean_interval"]


@dataclass(frozen=True)
class MeanInterval:
    """A mean and its interval.

    Args:
        mean: the mean.
        interval: its two ends; ``None`` where a single value has none.
    """

    mean: float
    interval: tuple[float, float] | None


def mean_interval(values: Sequence[float], *, level: float = 0.95) -> MeanInterval:
    """The mean of values with Student's t interval.

    Args:
        values: one a seed.
        level: of the interval.

    Returns:
        Mean and interval.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return MeanInterval(mean, None)
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values))
    return MeanInterval(mean, (mean - half, mean + half))
