"""What each posterior says of itself: Pareto k-hat by layer, bounds and estimates of evidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from probml_tp.plots.style import (
    TRAINING_RANGE_COLOR,
    figure,
    guide_style,
    house_style,
    number,
    shared_legend,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from probml_tp.gap import GapReport

__all__ = ["evidence_figure", "k_hat_figure", "plot_evidence", "plot_k_hat", "plot_loo"]

ALL_SITES = "All sites"
UNRELIABLE = 0.7

LARGEST_K = 2.0
"""Larger k-hats stand at the right edge, with their value."""

ERRORS = 2
"""Half the length of an error bar, in standard errors."""

KINDS: Mapping[str, tuple[str, str, float]] = {
    "elbo": ("ELBO", "none", -0.2),
    "iwelbo": ("IWELBO, 50 draws", "left", 0.0),
    "log_evidence": ("Log evidence (closed form or bridge)", "full", 0.2),
}
"""A number of the report to its words, how its marker is filled, and its place in a row."""


def plot_k_hat(report: GapReport, *, ax: Axes) -> Axes:
    """Draw k-hat of each posterior with a density, of all sites and of each layer.

    Bars are two standard errors to either side. A dashed line marks the largest k-hat to be trusted
    at so many draws; beyond 0.7 the axis is shaded. Minus infinity (equal weights) stands at the
    left edge, what is above 2 at the right edge with its value.

    Args:
        report: of :func:`probml_tp.gap.compare` with data.
        ax: where to draw.

    Returns:
        ``ax``.

    Raises:
        ValueError: the report has no posterior with a density, or was made without data.
    """
    table, errors = _k_hats(report), _k_errors(report)
    values = table.to_numpy(float)
    low, high = _k_range(values)
    for place, (name, row) in enumerate(table.iterrows()):
        s = guide_style(str(name))
        offset = 0.6 * ((place + 0.5) / len(table) - 0.5)
        k, y = row.to_numpy(float), np.arange(len(row)) + offset
        shown = np.where(np.isneginf(k), low, np.minimum(k, high))
        bars = np.where(shown == k, ERRORS * errors.loc[name].to_numpy(float), 0.0)
        ax.hlines(y, shown - bars, np.minimum(shown + bars, high), color=s.color, lw=1.2, alpha=0.6)
        ax.plot(
            shown, y, color=s.color, marker=s.marker, ls="none", label=s.label, clip_on=False,
            zorder=3,
        )  # fmt: skip
        for beyond in np.flatnonzero(k > high):
            _note(ax, f"{k[beyond]:.1f} ▸", high, y[beyond], color=s.color, side="right")
    limit = float(report.evidence["k_threshold"].max())
    for at in sorted({round(limit, 6), UNRELIABLE}):
        ax.axvline(at, color=TRAINING_RANGE_COLOR, lw=1.0, ls="--" if at < UNRELIABLE else "-")
    ax.axvspan(UNRELIABLE, high, color=TRAINING_RANGE_COLOR, alpha=0.15, lw=0, zorder=0)
    ax.set_xlim(low, high)
    ax.set_yticks(range(table.shape[1]), list(table.columns))
    ax.set_ylim(table.shape[1] - 0.5, -0.5)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel(
        "Pareto k-hat (left edge: equal weights; dashed: limit at so many draws; shaded: bad)"
    )
    return ax


def plot_evidence(report: GapReport, *, ax: Axes) -> Axes:
    """Draw bounds and estimates of the log evidence of each posterior beside each other.

    Bars are two standard errors to either side. A line marks the reference's log evidence, if it
    has one. The axis begins at the lowest number that is no ELBO; an ELBO below it stands at the
    left edge with its value.

    Args:
        report: of :func:`probml_tp.gap.compare` with data.
        ax: where to draw.

    Returns:
        ``ax``.

    Raises:
        ValueError: the report was made without data.
    """
    table = _evidence(report)
    truth = float(table["log_evidence"][report.reference])
    if np.isfinite(truth):
        ax.axvline(truth, color=TRAINING_RANGE_COLOR, lw=1.0, zorder=0)
    low, high = _evidence_range(table)
    for place, name in enumerate(table.index):
        s = guide_style(str(name))
        for kind, (_, fill, offset) in KINDS.items():
            value, error = float(table[kind][name]), ERRORS * float(table[f"{kind}_error"][name])
            if value < low:
                _note(ax, f"◂ {number(value, ',.0f')}", low, place + offset, color=s.color,
                      side="left")  # fmt: skip
            else:
                _point(ax, value, place + offset, error, color=s.color, fill=fill)
    ax.set_xlim(low, high)
    for label, fill, _ in KINDS.values():
        ax.plot(
            [], [], color="#333333", marker="o", markersize=6, ls="none", fillstyle=fill,
            markerfacecoloralt="white", label=label,
        )  # fmt: skip
    _name_rows(ax, table.index)
    ax.set_xlabel("Log evidence (nats)")
    return ax


@house_style()
def k_hat_figure(report: GapReport) -> Figure:
    """Draw :func:`plot_k_hat` alone; the title says which posteriors can be reweighted.

    Args:
        report: of :func:`probml_tp.gap.compare` with data.

    Returns:
        The figure.
    """
    table = _k_hats(report)
    made, axes = figure(height=0.42 * table.shape[1] + 0.09 * table.size + 1.2)
    plot_k_hat(report, ax=axes[0, 0])
    limit = float(report.evidence["k_threshold"].max())
    k = table[ALL_SITES]
    good = _names(k.index[k <= limit])
    worst = str(k.idxmax())
    made.suptitle(
        f"Draws can be reweighted to the posterior (k-hat at most {limit:.2f}): {good}\n"
        f"{guide_style(worst).label} is farthest from it, k-hat {number(float(k[worst]), '.2f')}",
        fontsize=10.5,
    )
    shared_legend(made, axes.flat)
    return made


def plot_loo(report: GapReport, *, ax: Axes) -> Axes:
    """Draw the predictive density of points left out, bars of two standard errors over points.

    A marker is hollow where the k-hat of a point is above 0.7, so that the number cannot be relied
    on.

    Args:
        report: of :func:`probml_tp.gap.compare` with data.
        ax: where to draw.

    Returns:
        ``ax``.

    Raises:
        ValueError: the report was made without data.
    """
    table = _evidence(report)
    for place, (name, row) in enumerate(table.iterrows()):
        fill = "none" if row["loo_worst_k"] > UNRELIABLE else "full"
        color = guide_style(str(name)).color
        _point(ax, row["elpd_loo"], place, ERRORS * row["elpd_loo_error"], color=color, fill=fill)
    _name_rows(ax, table.index)
    ax.set_xlabel("elpd of points left out (nats; hollow: k-hat above 0.7)")
    return ax


@house_style()
def evidence_figure(report: GapReport) -> Figure:
    """Draw :func:`plot_evidence` and :func:`plot_loo` side by side; the title compares bounds.

    Args:
        report: of :func:`probml_tp.gap.compare` with data.

    Returns:
        The figure.
    """
    table = _evidence(report)
    made, axes = figure(1, 2, height=0.42 * len(table) + 1.6, sharey=True)
    plot_evidence(report, ax=axes[0, 0])
    plot_loo(report, ax=axes[0, 1])
    made.suptitle(_finding(report), fontsize=10.5)
    shared_legend(made, axes[0, :1])
    return made


def _point(ax: Axes, x: float, y: float, error: float, *, color: str, fill: Any) -> None:
    ax.errorbar(
        x, y, xerr=error, color=color, marker="o", markersize=6, fillstyle=fill,
        markerfacecoloralt="white", lw=1.6,
    )  # fmt: skip


def _name_rows(ax: Axes, names: Any) -> None:
    ax.set_yticks(range(len(names)), [guide_style(str(name)).label for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")


def _evidence_range(table: Any) -> tuple[float, float]:
    """Around all numbers but ELBOs; around these where there is nothing else."""
    kinds = [k for k in ("iwelbo", "log_evidence", "elbo") if table[k].notna().any()][:2]
    values = table[kinds].to_numpy(float)
    errors = ERRORS * table[[f"{k}_error" for k in kinds]].to_numpy(float)
    low, high = float(np.nanmin(values - errors)), float(np.nanmax(values + errors))
    margin = 0.08 * (high - low) + 0.1
    return low - margin, high + margin


def _finding(report: GapReport) -> str:
    """How far the bounds are from the reference's evidence."""
    table = report.evidence
    truth = float(table["log_evidence"][report.reference])
    bounds = table["elbo"].drop(index=report.reference, errors="ignore").dropna()
    if not np.isfinite(truth) or not len(bounds):
        return "Bounds and estimates of the log evidence, bars of two standard errors"
    gap = bounds - truth
    tight, loose = str(gap.idxmax()), str(gap.idxmin())
    reference = guide_style(report.reference).label
    text = f"Log evidence by {reference}: {number(truth, '.2f')} nats. ELBO minus it: "
    text += f"{number(float(gap[tight]), '+.2f')} ({guide_style(tight).label})"
    if tight != loose:
        text += f" to {number(float(gap[loose]), '+,.2f')} ({guide_style(loose).label})"
    return text


def _evidence(report: GapReport) -> Any:
    if report.evidence.empty:
        raise ValueError(
            "a figure of evidence needs a report with it; this one was made without data. Pass "
            "compare(..., data=(x, y))."
        )
    return report.evidence


def _k_hats(report: GapReport) -> Any:
    """Posteriors with a density by all sites and layers."""
    found = _evidence(report)["pareto_k"].dropna()
    if not len(found):
        raise ValueError(
            "a figure of Pareto k-hat needs a posterior with a density; the report has none. "
            "Compare Laplace or mean-field, say."
        )
    return found.to_frame(ALL_SITES).join(_several(report.layers))


def _k_errors(report: GapReport) -> Any:
    """Standard errors of these, of the same shape."""
    whole = report.evidence["pareto_k_error"].to_frame(ALL_SITES)
    return whole.join(_several(report.layer_errors))


def _several(layers: Any) -> Any:
    """A column for each layer; none where a single one is the whole."""
    return layers if layers.shape[1] > 1 else layers.iloc[:, :0]


def _k_range(values: Any) -> tuple[float, float]:
    """From what is to be seen, equal weights at the left edge."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return min(-0.2, low - 0.1), min(max(high + 0.1, 1.05), LARGEST_K)


def _note(ax: Axes, text: str, x: float, y: float, *, color: str, side: str) -> None:
    """A number inside an edge of the axes, of what lies beyond it."""
    shift = -7 if side == "right" else 7
    ax.annotate(
        text, (x, y), (shift, 0), textcoords="offset points", ha=side, va="center", fontsize=8,
        color=color,
    )  # fmt: skip


def _names(names: Any) -> str:
    return ", ".join(guide_style(str(name)).label for name in names) or "none"
