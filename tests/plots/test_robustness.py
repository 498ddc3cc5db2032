"""Figures of robustness: what is drawn is what was given."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from probml_tp.metrics.calibration import Reliability
from probml_tp.metrics.over_runs import critical_difference
from probml_tp.metrics.selective import RiskCoverage
from probml_tp.plots.robustness import (
    Panel,
    interval_panels,
    plot_critical_difference,
    plot_intervals,
    plot_reliability,
    plot_risk_coverage,
)
from probml_tp.plots.style import GuideStyle, guide_style

BINS = Reliability(
    low=np.array([0.4, 0.8]),
    high=np.array([0.6, 1.0]),
    count=np.array([10, 30]),
    confidence=np.array([0.55, 0.9]),
    accuracy=np.array([0.5, 1.0]),
)


@pytest.fixture
def ax():
    return Figure().subplots()


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_reliability_is_in_per_cent_beside_the_diagonal(ax):
    assert plot_reliability({"laplace": BINS}, ax=ax) is ax
    diagonal, line = ax.lines
    assert diagonal.get_slope() == 1
    np.testing.assert_allclose(line.get_xydata(), [[55, 50], [90, 100]])
    assert (line.get_color(), line.get_label()) == (guide_style("laplace").color, "Laplace")
    (points,) = ax.collections
    np.testing.assert_allclose(points.get_offsets(), [[55, 50], [90, 100]])
    np.testing.assert_allclose(points.get_sizes(), [8 + 30, 8 + 90])
    assert ax.get_xlim()[0] == 40


def test_risk_coverage_is_in_per_cent_and_scaled_by_more_than_single_points(ax):
    curve = RiskCoverage(
        coverage=np.array([0.001, 0.5, 1.0]),
        risk=np.array([1.0, 0.02, 0.1]),
        threshold=np.array([0.9, 0.5, 0.1]),
    )
    plot_risk_coverage({"swag": curve}, ax=ax)
    (line,) = ax.lines
    np.testing.assert_allclose(line.get_xydata(), [[0.1, 100], [50, 2], [100, 10]])
    assert ax.get_ylim() == pytest.approx((0, 11))
    assert line.get_label() == "SWAG"


def test_a_curve_without_errors_has_a_scale(ax):
    curve = RiskCoverage(np.array([1.0]), np.array([0.0]), np.array([0.5]))
    plot_risk_coverage({"swag": curve}, ax=ax)
    assert ax.get_ylim() == (0, 1)


def test_intervals_have_one_row_a_method_the_first_on_top(ax):
    rows = {"map": (0.5, 0.4, 0.7), "nuts": (0.6, 0.6, 0.6)}
    plot_intervals(rows, ax=ax, reference=0.55)
    reference, interval, point, *_ = ax.lines
    np.testing.assert_allclose(reference.get_xdata(), [0.55, 0.55])
    np.testing.assert_allclose(interval.get_xydata(), [[0.4, 0], [0.7, 0]])
    np.testing.assert_allclose(point.get_xydata(), [[0.5, 0]])
    assert to_hex(point.get_color()) == guide_style("map").color.lower()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["MAP", "NUTS"]
    bottom, top = ax.get_ylim()
    assert bottom > top


def test_methods_that_are_no_guides_have_the_style_that_is_passed(ax):
    style = GuideStyle("Entropy", "#123456", "-", "o")
    plot_intervals({"entropy": (1.0, 0.0, 2.0)}, ax=ax, style=lambda name: style)
    assert ax.lines[0].get_color() == "#123456"
    assert ax.get_yticklabels()[0].get_text() == "Entropy"


@pytest.mark.parametrize("k", [3, 4, 9])
def test_a_critical_difference_diagram_shows_ranks_groups_and_the_difference(k, ax):
    rng = np.random.default_rng(0)
    table = {f"method {i}": rng.normal(size=10) + 0.5 * i for i in range(k)}
    result = critical_difference(table)
    plot_critical_difference(result, ax=ax)
    names = [f"{name} ({rank:.2f})" for name, rank in result.mean_ranks.items()]
    ticks = [str(rank) for rank in range(1, k + 1)]
    assert texts(ax) == [*names, *ticks, f"critical difference {result.difference:.2f}"]
    for line, rank in zip(ax.lines, result.mean_ranks.values(), strict=False):
        assert tuple(line.get_xydata()[0]) == (rank, 0)
    bars = [line for line in ax.lines if line.get_linewidth() == 4]
    spans = [(result.mean_ranks[g[0]], result.mean_ranks[g[-1]]) for g in result.groups]
    assert [tuple(bar.get_xdata()) for bar in bars] == [
        pytest.approx((low - 0.03, high + 0.03)) for low, high in spans
    ]
    below_bars = min(line.get_ydata()[1] for line in ax.lines[:k])
    assert all(bar.get_ydata()[0] < below_bars for bar in bars)
    np.testing.assert_allclose(ax.lines[-1].get_xdata(), [1, 1 + result.difference])


def test_names_in_a_critical_difference_diagram_do_not_overlap():
    rng = np.random.default_rng(1)
    table = {f"method {i}": rng.normal(size=10) + 0.5 * i for i in range(9)}
    figure = Figure(figsize=(9, 2.4))
    ax = plot_critical_difference(critical_difference(table), ax=figure.subplots())
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts[:9]]
    overlaps = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    assert overlaps == []


def test_drawing_leaves_global_settings_alone(ax):
    before = dict(mpl.rcParams)
    plot_reliability({"map": BINS}, ax=ax)
    assert dict(mpl.rcParams) == before


def test_panels_of_intervals_leave_lines_empty_and_have_a_family_once_in_the_legend():
    families = {
        "MCP": GuideStyle("Outputs", "#E69F00", "-", "o"),
        "Energy": GuideStyle("Outputs", "#E69F00", "-", "o"),
        "ConfidNet": GuideStyle("ConfidNet", "#D55E00", "-", "D"),
    }
    columns = [
        Panel("AUROC", {"MCP": (90.0, 88.0, 92.0), "ConfidNet": (91.0, np.nan, np.nan)}),
        Panel("AUPR", {"MCP": np.array([1.0, 0.0, 2.0])}, 0.0, {"MCP": 1.5}),
    ]
    made = interval_panels(columns, families=families, published="published", x="per cent")
    first, second = made.axes
    assert [label.get_text() for label in first.get_yticklabels()] == list(families)
    assert (first.get_title(), first.get_xlabel()) == ("AUROC", "per cent")
    drawn = [line.get_xdata()[0] for line in first.lines if np.isfinite(line.get_xdata()).all()]
    assert drawn == [88.0, 90.0, 91.0]
    assert 1.5 in [line.get_xdata()[0] for line in second.lines]
    words = [text.get_text() for text in made.legends[0].get_texts()]
    assert words == ["Outputs", "ConfidNet", "published"]
