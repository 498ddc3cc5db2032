"""Figures of robustness: calibration, selective prediction, and comparisons of methods.

Methods are drawn in the style of their guide; pass ``style`` to draw something else by name, such
as confidence scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D

from probml_tp.plots.style import (
    DATA_COLOR,
    TRAINING_RANGE_COLOR,
    GuideStyle,
    figure,
    guide_style,
    house_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from probml_tp.metrics.calibration import Reliability
    from probml_tp.metrics.over_runs import CriticalDifference
    from probml_tp.metrics.selective import RiskCoverage

__all__ = [
    "Panel",
    "interval_panels",
    "plot_critical_difference",
    "plot_intervals",
    "plot_reliability",
    "plot_risk_coverage",
]

Array = np.ndarray[Any, Any]
Style = Callable[[str], GuideStyle]

PUBLISHED: Any = {
    "color": DATA_COLOR,
    "marker": "D",
    "markersize": 6.5,
    "markerfacecolor": "none",
    "linestyle": "none",
}
"""How values from elsewhere are drawn."""

LINE_HEIGHT = 0.2
"""Height of one line of intervals, in inches."""

SHOWN_COVERAGE = 0.02
"""Below it a risk is that of a handful of points, and does not set the scale."""


def plot_reliability(
    bins: Mapping[str, Reliability], *, ax: Axes, style: Style = guide_style
) -> Axes:
    """Draw accuracy against confidence; on the diagonal predictions are calibrated.

    Args:
        bins: method to its bins, as :func:`probml_tp.metrics.calibration.reliability` gives them.
        The
            area of a marker grows with the share of the points in its bin.
        ax: where to draw.
        style: a method's colour, line and label.

    Returns:
        ``ax``.
    """
    ax.axline((0, 0), slope=1, color=TRAINING_RANGE_COLOR, lw=1.0, zorder=0)
    for name, b in bins.items():
        s = style(name)
        share = b.count / b.count.sum()
        x, y = 100 * b.confidence, 100 * b.accuracy
        ax.plot(x, y, color=s.color, linestyle=s.linestyle, label=s.label)
        ax.scatter(x, y, s=8 + 120 * share, color=s.color, linewidths=0, alpha=0.8)
    lowest = min(100 * float(b.low.min()) for b in bins.values())
    ax.set_xlim(lowest, 101)
    ax.set_ylim(0, 103)
    ax.set_xlabel("Confidence (%)")
    ax.set_ylabel("Accuracy (%)")
    return ax


def plot_risk_coverage(
    curves: Mapping[str, RiskCoverage], *, ax: Axes, style: Style = guide_style
) -> Axes:
    """Draw the error rate among the points answered against the share answered.

    Args:
        curves: method to its curve, as :func:`probml_tp.metrics.selective.risk_coverage` gives it.
        ax: where to draw. The scale fits what lies above a coverage of 2 %.
        style: a method's colour, line and label.

    Returns:
        ``ax``.
    """
    highest = 0.0
    for name, curve in curves.items():
        s = style(name)
        x, y = 100 * curve.coverage, 100 * curve.risk
        ax.plot(x, y, color=s.color, linestyle=s.linestyle, label=s.label)
        highest = max(highest, float(y[curve.coverage >= SHOWN_COVERAGE].max()))
    ax.set_xlim(0, 100)
    ax.set_ylim(0, 1.1 * highest or 1.0)
    ax.set_xlabel("Coverage (% of points answered)")
    ax.set_ylabel("Errors (% of answered)")
    return ax


def plot_intervals(
    rows: Mapping[str, tuple[float, float, float]],
    *,
    ax: Axes,
    reference: float | None = None,
    published: Mapping[str, float] | None = None,
    style: Style = guide_style,
) -> Axes:
    """Draw an estimate and its interval for each method, the first on top.

    Args:
        rows: method to estimate, lower and upper end, in the units of the x axis; the ends are NaN
            where there is no interval, all three where a line is to stay empty.
        ax: where to draw; its x label is left to the caller.
        reference: a value to mark, such as 0 for differences.
        published: method to a value from elsewhere, drawn as a hollow diamond.
        style: a method's colour, marker and label.

    Returns:
        ``ax``.
    """
    if reference is not None:
        ax.axvline(reference, color=TRAINING_RANGE_COLOR, lw=1.0, zorder=0)
    places = range(len(rows))
    for place, (name, (value, low, high)) in zip(places, rows.items(), strict=True):
        s = style(name)
        ax.plot([low, high], [place, place], color=s.color, lw=1.8, solid_capstyle="butt")
        ax.plot([value], [place], color=s.color, marker=s.marker, markersize=6, label=s.label)
        if published and name in published:
            ax.plot([published[name]], [place], **PUBLISHED)
    ax.set_yticks(places, [style(name).label for name in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")
    return ax


@dataclass(frozen=True)
class Panel:
    """One metric of all methods.

    Args:
        heading: the metric, its unit, and an arrow for the better direction.
        rows: method to estimate and the ends of its interval, as :func:`plot_intervals` takes
            them; methods without the metric are left out.
        reference: a value to mark.
        published: method to a value from elsewhere.
    """

    heading: str
    rows: Mapping[str, Sequence[float] | Array]
    reference: float | None = None
    published: Mapping[str, float] = field(default_factory=dict)


@house_style()
def interval_panels(
    columns: Sequence[Panel],
    *,
    families: Mapping[str, GuideStyle],
    published: str = "",
    x: str = "",
) -> Figure:
    """Draw several metrics side by side, the methods' names on the left, families in the legend.

    Args:
        columns: the metrics.
        families: method to the style and the label of its family, in the order of the lines.
        published: the legend's words for published values, if there are some.
        x: label of all x axes, where the headings are not enough.

    Returns:
        The figure.
    """
    made, axes = figure(1, len(columns), height=LINE_HEIGHT * len(families) + 1.1, sharey=True)
    nothing = (np.nan, np.nan, np.nan)
    for column, ax in zip(columns, axes[0], strict=True):
        plot_intervals(
            {name: _three(column.rows.get(name, nothing)) for name in families},
            ax=ax,
            reference=column.reference,
            published=column.published,
            style=lambda name: replace(families[name], label=name),
        )
        ax.tick_params(axis="y", length=0)
        ax.set_title(column.heading, fontsize=9)
        ax.set_xlabel(x)
    kinds = {style.label: style for style in families.values()}
    handles = [
        Line2D([], [], color=style.color, marker=style.marker, markersize=6, label=label)
        for label, style in kinds.items()
    ]
    if any(column.published for column in columns):
        handles.append(Line2D([], [], label=published, **PUBLISHED))
    made.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
    return made


def _three(ends: Sequence[float] | Array) -> tuple[float, float, float]:
    value, low, high = (float(end) for end in ends)
    return value, low, high


def plot_critical_difference(
    result: CriticalDifference, *, ax: Axes, style: Style = guide_style
) -> Axes:
    """Draw mean ranks on a line, with a bar over methods that the test cannot tell apart.

    The diagram of Demšar (2006), the best rank on the left. Give it about 0.6 inches of height and
    0.12 more per method.

    Args:
        result: of :func:`probml_tp.metrics.over_runs.critical_difference`.
        ax: where to draw.
        style: a method's colour and label.

    Returns:
        ``ax``.
    """
    k = len(result.mean_ranks)
    half = (k + 1) // 2
    first_row = 0.6 + 0.45 * len(result.groups)
    for place, (name, rank) in enumerate(result.mean_ranks.items()):
        left = place < half
        depth = first_row + (place if left else k - 1 - place)
        _rank_label(ax, rank, depth, end=0.7 if left else k + 0.3, style=style(name), left=left)
    for level, group in enumerate(result.groups):
        ends = [result.mean_ranks[group[0]] - 0.03, result.mean_ranks[group[-1]] + 0.03]
        y = 0.4 + 0.45 * level
        ax.plot(ends, [y, y], color=DATA_COLOR, lw=4, solid_capstyle="butt")
    _rank_axis(ax, k, result.difference)
    ax.set_xlim(-0.1 * k + 0.5, 1.1 * k + 0.5)
    ax.set_ylim(first_row + half - 0.4, -2.2)
    ax.axis("off")
    return ax


def _rank_label(
    ax: Axes, rank: float, depth: float, *, end: float, style: GuideStyle, left: bool
) -> None:
    """A line from a mean rank down and sideways to the method's name."""
    ax.plot([rank, rank, end], [0, depth, depth], color=style.color, lw=1.3)
    ax.annotate(
        f"{style.label} ({rank:.2f})",
        (end, depth),
        xytext=(-4 if left else 4, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="center",
        fontsize=8.5,
    )


def _rank_axis(ax: Axes, k: int, difference: float) -> None:
    """The line of ranks with its ticks, and the critical difference above it."""
    ax.plot([1, k], [0, 0], color=DATA_COLOR, lw=1.0)
    for rank in range(1, k + 1):
        ax.plot([rank, rank], [0, -0.2], color=DATA_COLOR, lw=1.0)
        ax.text(rank, -0.3, str(rank), ha="center", va="bottom", fontsize=8.5)
    ax.plot([1, 1 + difference], [-1.5, -1.5], color=DATA_COLOR, lw=1.5, marker="|")
    text = f"critical difference {difference:.2f}"
    ax.annotate(
        text,
        (1 + difference, -1.5),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
    )
