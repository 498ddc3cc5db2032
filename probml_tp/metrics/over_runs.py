r"""Which of several methods is better, over seeds and over data sets.

:mod:`probml_tp.metrics.bootstrap` tells how far a value would move with other test points; here it
is how far it moves with another run (:func:`mean_interval`, :func:`paired_seeds`), another split of
the same data (:func:`resampled_interval`) or another data set (:func:`win_rates`,
:func:`critical_difference`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import finite_vector, positive_integer, strictly_between_0_and_1

__all__ = [
    "CriticalDifference",
    "MeanInterval",
    "critical_difference",
    "mean_interval",
    "paired_seeds",
    "resampled_interval",
    "win_rates",
]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class MeanInterval:
    """A mean over runs and what is known of it.

    Args:
        mean: of the values.
        interval: its lower and upper end; ``None`` for a single run, which says nothing about
            the spread.
        count: the number of runs.
    """

    mean: float
    interval: tuple[float, float] | None
    count: int

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval that lies on one side of 0."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


def mean_interval(values: object, level: float = 0.95) -> MeanInterval:
    r"""The mean over runs with Student's t interval.

    .. math:: \bar v \pm t_{n-1, (1 + \text{level}) / 2}\, s / \sqrt n

    Args:
        values: one per run ``(n,)``, independent and about normal.
        level: the probability with which the interval covers the expectation.

    Returns:
        The mean and the interval, which a single run does not have.

    Raises:
        ValueError: there is no value, one is not finite, or ``level`` is not between 0 and 1.

    Example:
        >>> result = mean_interval([0.91, 0.93, 0.95])
        >>> round(result.mean, 3), [round(end, 3) for end in result.interval]
        (0.93, [0.88, 0.98])
        >>> mean_interval([0.91])
        MeanInterval(mean=0.91, interval=None, count=1)
    """
    runs = finite_vector("values", values)
    n, mean = len(runs), float(runs.mean())
    upper = (1 + strictly_between_0_and_1("an interval's level", level)) / 2
    if n == 1:
        return MeanInterval(mean, None, n)
    half = float(stats.t.ppf(upper, n - 1) * runs.std(ddof=1) / math.sqrt(n))
    return MeanInterval(mean, (mean - half, mean + half), n)


def paired_seeds(a: object, b: object, level: float = 0.95) -> MeanInterval:
    """The mean difference of two methods over the same runs, with Student's t interval.

    Args:
        a: values of one method, one per run ``(n,)``.
        b: values of the other at the same seeds, in the same order; they are subtracted.
        level: the probability with which the interval covers the expected difference.

    Returns:
        The mean difference and the interval, which a single run does not have.

    Raises:
        ValueError: the two have different numbers of runs, a value is not finite, or ``level`` is
            not between 0 and 1.

    Example:
        >>> result = paired_seeds([0.91, 0.93, 0.95], [0.90, 0.92, 0.939])
        >>> round(result.mean, 4), result.excludes_zero
        (0.0103, True)
    """
    first, second = finite_vector("a", a), finite_vector("b", b)
    if len(first) != len(second):
        raise ValueError(
            f"paired differences need the same seeds of both methods; got {len(first)} and "
            f"{len(second)} values. Pass the seeds that both have, in the same order."
        )
    return mean_interval(first - second, level)


def resampled_interval(
    values: object, *, train_size: int, test_size: int, level: float = 0.95
) -> MeanInterval:
    r"""The mean over random splits of one data set, with the corrected t interval.

    .. math:: \bar v \pm t_{n-1, (1 + \text{level}) / 2}\,
              s\,\sqrt{\tfrac1n + \tfrac{N_{\text{test}}}{N_{\text{train}}}}

    The splits share most of their training points, so their values are not independent:
    :func:`mean_interval` would shrink to nothing with more splits of the same data. The second term
    under the root stands for their correlation (Nadeau & Bengio 2003, "Inference for the
    generalization error"). For two methods, pass the differences of their values.

    Args:
        values: one per split ``(n,)``, or the difference of two methods on each.
        train_size: points that each fit sees.
        test_size: points that each value is computed on.
        level: the probability of the interval.

    Returns:
        The mean and the interval, which a single split does not have.

    Raises:
        ValueError: there is no value, one is not finite, a size is below 1, or ``level`` is not
            between 0 and 1.

    Example:
        >>> values = [0.91, 0.93, 0.95]
        >>> wide = resampled_interval(values, train_size=90, test_size=10)
        >>> narrow = mean_interval(values)
        >>> [[round(end, 3) for end in result.interval] for result in (wide, narrow)]
        [[0.873, 0.987], [0.88, 0.98]]
    """
    ratio = positive_integer("test_size", test_size) / positive_integer("train_size", train_size)
    plain = mean_interval(values, level)
    if plain.interval is None:
        return plain
    half = (plain.interval[1] - plain.mean) * math.sqrt(1 + plain.count * ratio)
    return MeanInterval(plain.mean, (plain.mean - half, plain.mean + half), plain.count)


@checked()
def win_rates(
    table: Mapping[str, object], *, higher_is_better: bool = True
) -> dict[str, dict[str, float]]:
    """How often each method beats each other one.

    Args:
        table: method to its values, one per cell (of seed and data set) ``(B,)``, the cells in
            the same order.
        higher_is_better: the direction of the metric.

    Returns:
        Row to column to the share of cells in which the row beats the column, ties counting one
        half; without the diagonal.

    Raises:
        ValueError: there are fewer than two methods, they have different cells, or a value is not
            finite.

    Example:
        >>> win_rates({"a": [3, 2, 1], "b": [1, 2, 0]})
        {'a': {'b': 0.8333333333333334}, 'b': {'a': 0.16666666666666666}}
    """
    values = _table(table, least_methods=2, least_cells=1, name="win rates")
    signed = values if higher_is_better else -values
    shares = ((np.sign(signed[:, None] - signed[None]) + 1) / 2).mean(-1)
    names = list(table)
    return {
        row: {column: float(shares[i, j]) for j, column in enumerate(names) if j != i}
        for i, row in enumerate(names)
    }


@dataclass(frozen=True)
class CriticalDifference:
    """Mean ranks of methods and how far apart two of them must be to differ.

    Args:
        mean_ranks: method to its mean rank over the blocks, best (lowest) first.
        difference: the critical difference of Nemenyi's test.
        statistic: Friedman's chi-square, corrected for ties.
        p_value: of the hypothesis that all methods are alike.
        alpha: the level of the tests.
        num_blocks: how many blocks were ranked.
    """

    mean_ranks: Mapping[str, float]
    difference: float
    statistic: float
    p_value: float
    alpha: float
    num_blocks: int

    @property
    def groups(self) -> list[list[str]]:
        """The largest groups of two or more methods that the test cannot tell apart."""
        names, ranks = list(self.mean_ranks), np.array(list(self.mean_ranks.values()))
        groups: list[list[str]] = []
        reached = 0
        for start, rank in enumerate(ranks):
            end = int(np.searchsorted(ranks, rank + self.difference, side="right"))
            if end > max(reached, start + 1):
                groups.append(names[start:end])
            reached = max(reached, end)
        return groups


@checked()
def critical_difference(
    table: Mapping[str, object], alpha: float = 0.05, *, higher_is_better: bool = True
) -> CriticalDifference:
    r"""Rank methods within each block and test the mean ranks (Demšar 2006).

    Friedman's test says whether any methods differ; by Nemenyi's, two of the ``k`` methods differ
    if their mean ranks over ``B`` blocks are more than

    .. math:: \mathrm{CD} = \frac{q_{\alpha, k, \infty}}{\sqrt 2} \sqrt{\frac{k (k + 1)}{6 B}}

    apart, with the quantile ``q`` of the studentised range. Blocks have to be independent: data
    sets, not seeds on the same data.

    Args:
        table: method to its values, one per block ``(B,)``, the blocks in the same order.
        alpha: the level of the tests.
        higher_is_better: the direction of the metric; rank 1 is the best, ties share their
            mean rank.

    Returns:
        Mean ranks, the critical difference and Friedman's test.

    Raises:
        ValueError: there are fewer than three methods or two blocks, they do not fit together, a
            value is not finite, or ``alpha`` is not between 0 and 1.

    Example:
        >>> result = critical_difference({"a": [9, 8, 9, 7], "b": [5, 6, 7, 6], "c": [1, 2, 3, 1]})
        >>> dict(result.mean_ranks), round(result.difference, 2), round(result.p_value, 3)
        ({'a': 1.0, 'b': 2.0, 'c': 3.0}, 1.66, 0.018)
        >>> result.groups
        [['a', 'b'], ['b', 'c']]
    """
    level = strictly_between_0_and_1("alpha", alpha)
    values = _table(table, least_methods=3, least_cells=2, name="a critical difference")
    k, num_blocks = values.shape
    ranks = stats.rankdata(-values if higher_is_better else values, axis=0)
    statistic, p_value = 0.0, 1.0  # Friedman's, where all methods tie in every block: 0 / 0
    if np.ptp(ranks, axis=0).any():
        statistic, p_value = (float(value) for value in stats.friedmanchisquare(*values))
    q = float(stats.studentized_range.ppf(1 - level, k, np.inf)) / math.sqrt(2)
    means = dict(zip(table, ranks.mean(1).tolist(), strict=True))
    return CriticalDifference(
        mean_ranks=dict(sorted(means.items(), key=lambda item: item[1])),
        difference=q * math.sqrt(k * (k + 1) / (6 * num_blocks)),
        statistic=statistic,
        p_value=p_value,
        alpha=level,
        num_blocks=num_blocks,
    )


def _table(
    table: Mapping[str, object], *, least_methods: int, least_cells: int, name: str
) -> Array:
    """The values as an array of methods and cells."""
    if len(table) < least_methods:
        raise ValueError(
            f"{name} needs at least {least_methods} methods; got {len(table)}. Compare two "
            f"methods by paired_seeds, or pass more."
        )
    rows = {method: finite_vector(f"values of {method}", row) for method, row in table.items()}
    lengths = {method: len(row) for method, row in rows.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"{name} needs every method in every cell; got {lengths} values. Drop the cells that "
            f"a method lacks."
        )
    values = np.stack(list(rows.values()))
    if values.shape[1] < least_cells:
        raise ValueError(
            f"{name} needs at least {least_cells} blocks; got {values.shape[1]}. Pass results on "
            f"more data sets."
        )
    return values
