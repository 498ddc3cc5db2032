"""Figures of simulation-based calibration: rank histograms and differences of the ranks' ECDF."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from probml_tp.plots.style import (
    TRAINING_RANGE_COLOR,
    GuideStyle,
    guide_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from probml_tp.diagnostics import SbcResult

Array = np.ndarray[Any, Any]
Style = Callable[[str], GuideStyle]

BAND_COLOR = TRAINING_RANGE_COLOR
BAND_ALPHA = 0.28
MOST_BINS = 20


def rank_bins(num_samples: int, *, most: int = MOST_BINS) -> int:
    """The number of bins of equal width that ranks from 0 to ``num_samples`` are counted in."""
    return max(bins for bins in range(1, most + 1) if (num_samples + 1) % bins == 0)


def plot_rank_histogram(
    result: SbcResult,
    quantity: str,
    *,
    ax: Axes,
    style: GuideStyle,
    bins: int | None = None,
    level: float = 0.95,
) -> Axes:
    """Draw how many ranks fall into each bin, over the interval of one bin of uniform ranks.

    The interval is binomial and pointwise: of 20 bins one is expected outside its 95 % interval.
    :func:`plot_ecdf_difference` has bounds that hold at once.
    """
    places = result.num_samples + 1
    bins = rank_bins(result.num_samples) if bins is None else bins
    if bins < 1 or places % bins:
        raise ValueError(
            f"bins must divide the number of ranks, {places}, for uniform ranks to fill them "
            f"equally; got {bins}. Leave it out for {rank_bins(result.num_samples)}, or draw one "
            f"less than a number with more divisors, such as 99."
        )
    before = ax.get_ylim()[1]  # of axes that share theirs: what is there already has to fit
    edges = np.linspace(0, 1, bins + 1)
    counts = np.bincount(result.ranks_of(quantity), minlength=places).reshape(bins, -1).sum(1)
    lower, upper = stats.binom.interval(level, result.simulations, 1 / bins)
    ax.axhspan(
        lower, upper, color=BAND_COLOR, alpha=BAND_ALPHA, linewidth=0,
        label=f"{percent(level)} of uniform ranks, each bin",
    )  # fmt: skip
    ax.axhline(result.simulations / bins, color=BAND_COLOR, linewidth=1.0)
    ax.stairs(counts, edges, fill=True, color=style.color, alpha=0.55, label=style.label)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, max(before, 1.05 * max(upper, counts.max())))
    ax.set_xlabel("Rank of the truth (share of draws)")
    ax.set_ylabel("Simulations")
    return ax


def plot_ecdf_difference(
    results: Mapping[str, SbcResult],
    quantity: str,
    *,
    ax: Axes,
    level: float = 0.95,
    style: Style = guide_style,
) -> Axes:
    """Draw the ECDF of the ranks less that of uniform ones, over its simultaneous band.

    A posterior that is too narrow rises above the band, then falls below it; one that is too wide
    does the opposite; one that lies below the truth stays below the band.
    """
    first = _checked(results)
    lower, upper = first.ecdf_band(level=level)
    ax.fill_between(
        first.grid, lower, upper, color=BAND_COLOR, alpha=BAND_ALPHA, linewidth=0,
        label=f"{percent(level)} of uniform ranks, everywhere",
    )  # fmt: skip
    ax.axhline(0, color=BAND_COLOR, linewidth=1.0)
    for name, result in results.items():
        s = style(name)
        difference = result.ecdf_difference(quantity)
        ax.plot(result.grid, difference, color=s.color, linestyle=s.linestyle, label=s.label)
    ax.set_xlim(0, 1)
    ax.set_xlabel("Rank of the truth (share of draws)")
    ax.set_ylabel("ECDF − uniform")
    return ax


def percent(level: float) -> str:
    """A probability in per cent, such as ``95 %``."""
    return f"{100 * level:g} %"


def _checked(results: Mapping[str, SbcResult]) -> SbcResult:
    sizes = {name: (r.simulations, r.num_samples) for name, r in results.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(
            f"methods in one panel need results of as many simulations and draws, to share a band; "
            f"got {sizes or 'none'}. Run them alike, or draw them in panels of their own."
        )
    return next(iter(results.values()))
