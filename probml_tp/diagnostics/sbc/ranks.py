r"""Are ranks uniform? The simultaneous test of their ECDF, and the test of their symmetry.

``N`` ranks among ``L`` draws are uniform on :math:`0, \dots, L`. Let :math:`R_i` be the number of
ranks below :math:`i`; then :math:`R_i \sim \mathrm{Bin}(N, z_i)` at :math:`z_i = i / (L + 1)`, and

.. math:: \gamma = 2 \min_i \min\{P(\mathrm{Bin}(N, z_i) \le R_i), P(\mathrm{Bin}(N, z_i) \ge R_i)\}

is the test statistic of Säilynoja, Bürkner & Vehtari (2022, "Graphical test for discrete uniformity
and its applications in goodness-of-fit evaluation and multiple sample comparison"). Its
distribution is exact here, not simulated: :math:`R_1, R_2, \dots` has the law of a Poisson process
given its ``N`` points, so that the probability to stay within bounds is a chain of convolutions
(Moscovich & Nadler 2017, "Fast calculation of boundary crossing probabilities for Poisson
processes").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from scipy import stats

from probml_tp.checks.values import (
    finite_vector,
    positive_integer,
    strictly_between_0_and_1,
    valid_seed,
)

__all__ = [
    "RankUniformity",
    "Verdict",
    "ecdf_band",
    "rank_uniformity",
    "symmetry_p_value",
    "uniform_p_value",
]

Array = np.ndarray[Any, Any]

ROUNDING = 1e-9
"""Relative differences below it do not count: tails that are equal by symmetry stay so."""

Verdict = Literal["uniform", "biased low", "biased high", "too narrow", "too wide"]
"""What ranks say of a posterior."""

FLIPS = 999
"""Random reflections of the ranks that the symmetry test compares with."""


@dataclass(frozen=True)
class RankUniformity:
    r"""How far the ranks of one quantity are from uniform, and in which direction.

    Args:
        p_value: of the simultaneous ECDF test: small where the posterior is not calibrated.
        symmetry_p_value: of the test that ranks are symmetric about their middle: small where the
            posterior is biased, whatever its width (Yao et al. 2018).
        location: mean of :math:`(r + \tfrac12) / (L + 1)` less 1/2: above 0 where the posterior
            lies below the truth, between -1/2 and 1/2.
        dispersion: mean square of the ranks about the middle, over that of uniform ranks: above 1
            where the posterior is too narrow (or biased), below 1 where it is too wide.
    """

    p_value: float
    symmetry_p_value: float
    location: float
    dispersion: float

    def verdict(self, *, level: float = 0.95) -> Verdict:
        """In words what the tests say of this quantity.

        Args:
            level: of both tests.

        Returns:
            ``"uniform"`` where the ECDF stays within its band; else ``"biased low"`` (the posterior
            lies below the truth) or ``"biased high"`` where ranks are not symmetric; else ``"too
            narrow"`` or ``"too wide"``.

        Raises:
            ValueError: ``level`` is not between 0 and 1.

        Example:
            >>> rank_uniformity([0, 0, 0, 3, 6, 9, 9, 9] * 20, 9).verdict()
            'too narrow'
        """
        alpha = 1 - strictly_between_0_and_1("level", level)
        if self.p_value > alpha:
            return "uniform"
        if self.symmetry_p_value <= alpha:
            return "biased low" if self.location > 0 else "biased high"
        return "too narrow" if self.dispersion > 1 else "too wide"


def rank_uniformity(ranks: object, num_samples: int, *, seed: int = 0) -> RankUniformity:
    """Test the ranks of one quantity, and say how they differ from uniform ones.

    Args:
        ranks: ``(N,)``, whole numbers from 0 to ``num_samples``.
        num_samples: the draws that each was ranked among, ``L``.
        seed: of the random reflections of the symmetry test.

    Returns:
        Both p-values, location and dispersion.

    Raises:
        ValueError: a rank is not a whole number from 0 to ``num_samples``.

    Example:
        >>> ranks = np.tile([0, 0, 1, 2, 7, 8, 9, 9], 20)
        >>> result = rank_uniformity(ranks, 9)
        >>> result.p_value < 1e-6, result.symmetry_p_value > 0.5, round(result.dispersion, 2)
        (True, True, 1.79)
    """
    r = _checked(ranks, num_samples)
    centred = (r + 0.5) / (num_samples + 1) - 0.5
    uniform_variance = (1 - (num_samples + 1.0) ** -2) / 12
    return RankUniformity(
        p_value=uniform_p_value(r, num_samples),
        symmetry_p_value=symmetry_p_value(r, num_samples, seed=seed),
        location=float(centred.mean()),
        dispersion=float(np.mean(centred**2) / uniform_variance),
    )


def uniform_p_value(ranks: object, num_samples: int) -> float:
    r"""The exact p-value of :math:`\gamma`: how likely uniform ranks leave bounds so wide.

    Args:
        ranks: ``(N,)``, whole numbers from 0 to ``num_samples``.
        num_samples: ``L``.

    Returns:
        The probability that uniform ranks have a :math:`\gamma` at most the one observed. It
        is at most 0.05 where the ECDF leaves the 95 % band of :func:`ecdf_band`, and only there.

    Raises:
        ValueError: a rank is not a whole number from 0 to ``num_samples``.

    Example:
        >>> round(uniform_p_value(np.zeros(3), 1), 3)  # 1/4: all on either side
        0.25
    """
    r = _checked(ranks, num_samples)
    below = np.bincount(r, minlength=num_samples + 1).cumsum()[:-1]
    gamma = _tails(len(r), num_samples)[np.arange(num_samples), below].min()
    return _p_value(float(gamma), len(r), num_samples)


def ecdf_band(simulations: int, num_samples: int, *, level: float = 0.95) -> tuple[Array, Array]:
    """Bounds that the whole ECDF of uniform ranks stays within, with probability ``level``.

    At each point the bounds are quantiles of a binomial; their common probability is as small as
    it can be for the simultaneous one to be at least ``level``.

    Args:
        simulations: the number of ranks, ``N``.
        num_samples: the draws that each was ranked among, ``L``.
        level: the simultaneous probability.

    Returns:
        Lower and upper bound ``(L,)`` of the share of ranks below ``i = 1, ..., L``.

    Raises:
        ValueError: a number is not positive, or ``level`` not between 0 and 1.

    Example:
        >>> lower, upper = ecdf_band(100, 3)
        >>> lower.tolist(), upper.tolist()
        ([0.15, 0.39, 0.65], [0.35, 0.61, 0.85])
    """
    n = positive_integer("simulations", simulations)
    count = positive_integer("num_samples", num_samples)
    inside = _inside(_critical_gamma(n, count, strictly_between_0_and_1("level", level)), n, count)
    lower = inside.argmax(1)
    return lower / n, (lower + inside.sum(1) - 1) / n


def symmetry_p_value(ranks: object, num_samples: int, *, seed: int = 0) -> float:
    r"""Test whether ranks are symmetric about their middle: else the posterior is biased.

    Yao et al. (2018, "Yes, but did it work?: Evaluating variational inference") compare the
    probabilities :math:`p = P(\theta < \theta^*)` with :math:`1 - p` by the two-sample
    Kolmogorov-Smirnov statistic: a variational posterior may be too narrow, but of a good one it is
    symmetric. The two samples are each other's reflection, not independent, so that the usual
    table does not hold (200 uniform ranks: 8 % are below 0.05); the p-value here is that of 999
    random reflections :math:`p \to 1 - p` of each rank by itself, which is exact.

    Args:
        ranks: ``(N,)``, whole numbers from 0 to ``num_samples``.
        num_samples: ``L``.
        seed: of the reflections.

    Returns:
        The p-value.

    Raises:
        ValueError: a rank is not a whole number from 0 to ``num_samples``.

    Example:
        >>> symmetry_p_value([0, 9] * 50, 9) > 0.5, symmetry_p_value([6, 7] * 50, 9)
        (True, 0.001)
    """
    r = _checked(ranks, num_samples)
    rng = np.random.default_rng(valid_seed(seed))
    reflected = np.vstack([np.zeros(len(r), bool), rng.random((FLIPS, len(r))) < 0.5])
    rows = (num_samples + 1) * np.arange(FLIPS + 1)[:, None]
    places = rows + np.where(reflected, num_samples - r, r)
    counts = np.bincount(places.ravel(), minlength=rows.size * (num_samples + 1))
    counts = counts.reshape(rows.size, num_samples + 1)
    distances = np.abs((counts - counts[:, ::-1]).cumsum(1)).max(1)
    return float(np.mean(distances >= distances[0]))


# ---------------------------------------------------------------------- the distribution of gamma


@lru_cache(maxsize=8)
def _tails(n: int, num_samples: int) -> Array:
    """Twice the smaller tail of ``Bin(n, z_i)`` from each count on, ``(L, n + 1)``."""
    z = np.arange(1, num_samples + 1)[:, None] / (num_samples + 1)
    counts = np.arange(n + 1)
    smaller = np.minimum(stats.binom.cdf(counts, n, z), stats.binom.sf(counts - 1, n, z))
    return np.asarray(2 * smaller)


def _inside(gamma: float, n: int, num_samples: int) -> Array:
    """The counts within the bounds: those of a larger tail than ``gamma``, ``(L, n + 1)``."""
    inside: Array = _tails(n, num_samples) > gamma * (1 + ROUNDING)
    return inside


def _p_value(gamma: float, n: int, num_samples: int) -> float:
    r""":math:`P(\exists i: R_i \text{ outside})`, summed over where the path first leaves.

    ``mass[r]`` is the probability that a Poisson process of rate ``n`` has been inside so far and
    has ``r`` points; what leaves has to come to ``n`` points in the end, as all paths do.
    """
    cells = num_samples + 1
    step = stats.poisson.pmf(np.arange(n + 1), n / cells)
    mass, left = np.ones(1), 0.0
    low = 0
    for i, inside in enumerate(_inside(gamma, n, num_samples), start=1):
        mass = np.convolve(mass, step)[: n + 1 - low]
        r = np.arange(low, n + 1)
        out = ~inside[low:]
        left += mass[out] @ stats.poisson.pmf(n - r[out], n * (cells - i) / cells)
        kept = np.flatnonzero(inside[low:])
        if len(kept) == 0:
            break
        mass, low = mass[kept[0] : kept[-1] + 1], low + int(kept[0])
    return float(min(left / stats.poisson.pmf(n, n), 1.0))


@lru_cache(maxsize=32)
def _critical_gamma(n: int, num_samples: int, level: float) -> float:
    """The largest ``gamma`` whose bounds hold the whole path with probability ``level``."""
    low, high = 0.0, 1.0
    while high - low > ROUNDING * high:
        middle = (low + high) / 2
        if _p_value(middle, n, num_samples) <= 1 - level:
            low = middle
        else:
            high = middle
    return low


def _checked(ranks: object, num_samples: int) -> Array:
    count = positive_integer("num_samples", num_samples)
    r = finite_vector("ranks", ranks)
    if (r != r.round()).any() or r.min() < 0 or r.max() > count:
        raise ValueError(
            f"ranks among {count} draws must be whole numbers from 0 to {count}; got values from "
            f"{r.min():g} to {r.max():g}. Count the draws below each true value."
        )
    return r.astype(int)
