"""Figures of simulation-based calibration: what is drawn is what was ranked."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy import stats

from probml_tp.diagnostics import SbcResult
from probml_tp.experiments.references.sbc_figures import (
    plot_ecdf_difference,
    plot_rank_histogram,
    rank_bins,
)
from probml_tp.plots.style import guide_style

DRAWS = 19


def result(*columns: object, num_samples: int = DRAWS) -> SbcResult:
    """Ranks of the quantities h0, h1, ..."""
    ranks = np.stack([np.asarray(column) for column in columns], axis=1)
    names = tuple(f"h{place}" for place in range(len(columns)))
    zeros = np.zeros(ranks.shape)
    return SbcResult(names, num_samples, ranks, zeros, zeros, zeros)


UNIFORM = np.repeat(np.arange(DRAWS + 1), 5)
NARROW = np.repeat([0, 1, 18, 19], 25)


@pytest.fixture
def ax():
    return Figure().subplots()


def test_the_histogram_counts_ranks_over_the_binomial_interval(ax):
    style = guide_style("laplace")
    assert plot_rank_histogram(result(NARROW), "h0", ax=ax, style=style, bins=10) is ax
    band, bars = ax.patches
    lower, upper = stats.binom.interval(0.95, 100, 0.1)
    assert (band.get_y(), band.get_y() + band.get_height()) == (lower, upper)
    counts, edges, _ = bars.get_data()
    np.testing.assert_array_equal(counts, [50, 0, 0, 0, 0, 0, 0, 0, 0, 50])
    np.testing.assert_allclose(edges, np.linspace(0, 1, 11))
    assert to_hex(bars.get_facecolor()) == style.color.lower()
    assert [line.get_ydata()[0] for line in ax.lines] == [10]
    assert ax.get_legend_handles_labels()[1] == ["95 % of uniform ranks, each bin", "Laplace"]


def test_bins_are_of_equal_probability(ax):
    assert [rank_bins(draws) for draws in (99, 19, 9, 63, 100)] == [20, 20, 10, 16, 1]
    plot_rank_histogram(result(UNIFORM), "h0", ax=ax, style=guide_style("exact"))
    np.testing.assert_array_equal(ax.patches[-1].get_data().values, 20 * [5])
    with pytest.raises(ValueError, match="bins must divide the number of ranks, 20.*got 3"):
        plot_rank_histogram(result(UNIFORM), "h0", ax=ax, style=guide_style("exact"), bins=3)


def test_all_bars_are_seen_where_axes_share_their_scale():
    axes = Figure().subplots(1, 3, sharey=True)
    for ranks, ax in zip((UNIFORM, NARROW, UNIFORM), axes, strict=True):
        plot_rank_histogram(result(ranks), "h0", ax=ax, style=guide_style("exact"))
    assert axes[0].get_ylim() == (0, pytest.approx(1.05 * 25))


def test_the_difference_is_drawn_over_the_band(ax):
    results = {"exact": result(UNIFORM), "mean-field": result(NARROW)}
    assert plot_ecdf_difference(results, "h0", ax=ax) is ax
    _, exact, narrow = ax.lines
    np.testing.assert_allclose(exact.get_ydata(), np.zeros(DRAWS + 2), atol=1e-12)
    np.testing.assert_allclose(narrow.get_ydata(), results["mean-field"].ecdf_difference("h0"))
    assert (narrow.get_color(), narrow.get_label()) == (
        guide_style("mean-field").color,
        "Mean-field",
    )
    (area,) = ax.collections
    lower, upper = results["exact"].ecdf_band()
    outline = area.get_paths()[0].vertices
    assert outline[:, 1].min() == pytest.approx(lower.min())
    assert outline[:, 1].max() == pytest.approx(upper.max())
    assert narrow.get_ydata().max() > upper.max()


def test_what_cannot_share_a_band_is_refused(ax):
    results = {"exact": result(UNIFORM), "map": result(UNIFORM[:50])}
    with pytest.raises(ValueError, match="as many simulations and draws"):
        plot_ecdf_difference(results, "h0", ax=ax)
    with pytest.raises(ValueError, match="got none"):
        plot_ecdf_difference({}, "h0", ax=ax)
    with pytest.raises(ValueError, match="got 'h7'. They are h0"):
        plot_ecdf_difference({"exact": result(UNIFORM)}, "h7", ax=ax)
