"""Forests of how far posteriors are from a reference, the noise floor marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from probml_tp.plots.robustness import plot_intervals
from probml_tp.plots.style import TRAINING_RANGE_COLOR, figure, guide_style, house_style, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from probml_tp.gap import GapReport

__all__ = ["gap_forest", "plot_gap", "weight_forest"]

NOISE_FLOOR = "noise floor"

LABELS: Mapping[str, tuple[str, float]] = {
    "total_variation": ("Total variation", 0.0),
    "kl": ("KL from the reference (nats)", 0.0),
    "mutual_information_ratio": ("Mutual information, ratio", 1.0),
    "w2": ("W₂ of function values (units of y)", 0.0),
    "epistemic_ratio": ("Epistemic st. dev., ratio", 1.0),
    "function_coverage": ("Reference functions covered", np.nan),
    "target_coverage": ("Reference targets covered", np.nan),
}
"""Metric to its words and its value where nothing differs; that of coverages is their level."""

WEIGHT_LABELS: Mapping[str, tuple[str, float]] = {
    "mean_difference": ("Means apart (st. dev. of the reference)", 0.0),
    "variance_ratio": ("Variance, ratio", 1.0),
    "w2": ("W₂ (units of the weight)", 0.0),
}
"""The same of the marginals of weights."""


def plot_gap(
    report: GapReport,
    metric: str,
    *,
    ax: Axes,
    region: str = "all",
    site: str | None = None,
) -> Axes:
    """Draw one metric of all posteriors with its intervals.

    A grey band is the interval of the reference against itself, a line the value where nothing
    differs.

    Args:
        report: of :func:`probml_tp.gap.compare`.
        metric: one of the report's, of functions or, with a site, of weights.
        ax: where to draw.
        region: which points.
        site: of which site's weights, instead of functions.

    Returns:
        ``ax``.

    Raises:
        ValueError: the report has no such metric, region or site.
    """
    table = report.table(of=region) if site is None else report.table("weights", of=site)
    known = list(dict.fromkeys(table.columns.get_level_values(0)))
    if metric not in known:
        raise ValueError(f"metric must be one of {', '.join(known)}; got {metric!r}.")
    rows: dict[str, Any] = {n: tuple(row) for n, row in table[metric].iterrows()}
    _, low, high = rows.pop(NOISE_FLOOR)
    ax.axvspan(low, high, color=TRAINING_RANGE_COLOR, alpha=0.3, lw=0, zorder=0)
    label, same = (LABELS if site is None else WEIGHT_LABELS)[metric]
    plot_intervals(rows, ax=ax, reference=report.level if np.isnan(same) else same)
    ax.set_xlabel(label)
    return ax


@house_style()
def gap_forest(
    report: GapReport, metrics: Sequence[str], *, regions: Sequence[str] = ("all",)
) -> Figure:
    """Draw metrics side by side, regions one above the other; the title states what was found.

    Args:
        report: of :func:`probml_tp.gap.compare`.
        metrics: the columns; the title is about the first.
        regions: the rows.

    Returns:
        The figure.
    """
    made, axes = _forest(report, len(regions), len(metrics))
    for region, row in zip(regions, axes, strict=True):
        for metric, ax in zip(metrics, row, strict=True):
            plot_gap(report, metric, ax=ax, region=region)
        row[0].set_title(f"Points: {region}", loc="left")
    _finish(made, axes, report)
    made.suptitle(finding(report, metrics[0], regions), fontsize=10.5)
    return made


@house_style()
def weight_forest(report: GapReport) -> Figure:
    """Draw how far the marginals of weights are from the reference's, a row of panels each site.

    Args:
        report: of :func:`probml_tp.gap.compare`, with weights.

    Returns:
        The figure; the title is about the variances.
    """
    sites = [str(site) for site in report.weights["site"].unique()]
    made, axes = _forest(report, len(sites), len(WEIGHT_LABELS))
    for site, row in zip(sites, axes, strict=True):
        for metric, ax in zip(WEIGHT_LABELS, row, strict=True):
            plot_gap(report, metric, ax=ax, site=site)
        row[0].set_title(f"Site: {site}", loc="left")
    _finish(made, axes, report)
    made.suptitle(_variances(report, sites), fontsize=10.5)
    return made


def _variances(report: GapReport, sites: Sequence[str]) -> str:
    """Whose marginal variances are farthest from the reference's."""
    lines = [f"Variances of the weights over those of {guide_style(report.reference).label}"]
    for site in sites:
        ratio = report.table("weights", of=site)["variance_ratio", "value"]
        ratio = ratio.drop(index=NOISE_FLOOR).dropna()
        low, high = str(ratio.idxmin()), str(ratio.idxmax())
        lines.append(
            f"{site}: from {number(float(ratio[low]), '.2f')} ({guide_style(low).label}) to "
            f"{number(float(ratio[high]), '.2f')} ({guide_style(high).label})"
        )
    return "\n".join(lines)


def _forest(report: GapReport, rows: int, columns: int) -> tuple[Figure, Any]:
    """Panels with a line for each posterior."""
    lines = report.costs.index.size - 1
    height = rows * (0.24 * lines + 0.75) + 0.9
    return figure(rows, columns, height=height, sharex=False, sharey=True)


def _finish(made: Figure, axes: Any, report: GapReport) -> None:
    """One scale a column, its name below the lowest panel, and what the grey is."""
    from matplotlib.patches import Patch

    for column in axes.T:
        _share_x(column)
        for ax in column[:-1]:
            ax.set_xlabel("")
    label = f"{guide_style(report.reference).label}, one half against the other"
    r_hat = report.costs["r_hat"][report.reference]
    if np.isfinite(r_hat):
        label += (
            f" (R-hat {r_hat:.3f}, effective draws {report.costs['ess'][report.reference]:.0f})"
        )
    floor = Patch(color=TRAINING_RANGE_COLOR, alpha=0.3, lw=0, label=label)
    made.legend(handles=[floor], loc="outside lower center")


def finding(report: GapReport, metric: str, regions: Sequence[str]) -> str:
    """What a metric says: who is farthest from the reference where, and who is not told from it.

    Args:
        report: of :func:`probml_tp.gap.compare`.
        metric: the metric.
        regions: where.

    Returns:
        The metric, and a line for each region. A posterior counts as at the noise floor if its
        interval meets that of the reference against itself.
    """
    label, same = LABELS[metric]
    same = report.level if np.isnan(same) else same
    lines = [f"{label}: distance from {guide_style(report.reference).label}"]
    for region in regions:
        rows = report.table(of=region)[metric]
        floor, rows = rows.loc[NOISE_FLOOR], rows.drop(index=NOISE_FLOOR)
        at_floor = rows[(rows["low"] <= floor["high"]) & (rows["high"] >= floor["low"])]
        names = [guide_style(str(name)).label for name in at_floor.index]
        named = ", ".join(names) if len(names) <= 3 else f"{len(names)} of {len(rows)}"
        worst = (rows["value"] - same).abs().idxmax()
        value = number(float(rows["value"][worst]), ".3g")
        lines.append(
            f"{region}: {guide_style(str(worst)).label} is farthest ({value}), "
            f"{named or 'none'} at the noise floor"
        )
    return "\n".join(lines)


def _share_x(column: Any) -> None:
    """Give the panels of a metric the same scale."""
    low = min(ax.get_xlim()[0] for ax in column)
    high = max(ax.get_xlim()[1] for ax in column)
    for ax in column:
        ax.set_xlim(low, high)
