"""Which posterior meets which requirement where, and what each costs, at a glance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from probml_tp.plots.style import figure, guide_style, house_style, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from probml_tp.gap import Advice

__all__ = ["VERDICT_COLORS", "advice_panels", "plot_verdicts"]

VERDICT_COLORS = {"meets": "#0072B2", "open": "#c9ccd1", "fails": "#E69F00"}
"""Verdict to colour: blue and orange of the Okabe-Ito palette, grey where draws do not tell."""

WORDS = {"meets": "meets the limit", "open": "not told apart from it", "fails": "beyond it"}
INK = {"meets": "white", "open": "#1c1e21", "fails": "#1c1e21"}

POINTS = 100.0
MANY = 1000.0
"""Factors above this one are not told apart."""

HEADS = {
    "total_variation": ("Total variation", 1.0, ".3f"),
    "kl": ("KL divergence", 1.0, ".3f"),
    "mutual_information_ratio": ("Mutual information, factor", 1.0, ".2f"),
    "w2": ("W₂ of functions", 1.0, ".3g"),
    "epistemic_ratio": ("Epistemic st. dev., factor", 1.0, ".2f"),
    "function_coverage": ("Function coverage, points off", POINTS, ".1f"),
    "target_coverage": ("Target coverage, points off", POINTS, ".1f"),
}
"""Metric to the words above its columns, what its errors are multiplied by, and their format."""


def plot_verdicts(advice: Advice, *, ax: Axes) -> Axes:
    """Draw a square for each posterior (row) and each requirement in each region (column).

    The number is the error: of a ratio ``r`` the factor ``max(r, 1/r)``, of a coverage its distance
    from the level in percentage points.

    Args:
        advice: of :func:`probml_tp.gap.recommend`.
        ax: where to draw.

    Returns:
        ``ax``.
    """
    from matplotlib.patches import Rectangle

    table = advice.table
    names = list(table["posterior"].unique())
    columns = list(table[["requirement", "region"]].drop_duplicates().itertuples(index=False))
    for line in table.itertuples(index=False):
        x = columns.index((line.requirement, line.region))
        y, verdict = names.index(line.posterior), str(line.verdict)
        color = VERDICT_COLORS[verdict]
        ax.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=color, lw=0))
        text, ink = _number(str(line.requirement), float(line.error)), INK[verdict]
        ax.text(x, y, text, ha="center", va="center", fontsize=8.5, color=ink)
    ax.set_xlim(-0.5, len(columns) - 0.5)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xticks(range(len(columns)), [str(region) for _, region in columns])
    ax.set_yticks(range(len(names)), [guide_style(name).label for name in names])
    for label, name in zip(ax.get_yticklabels(), names, strict=True):
        label.set_fontweight("bold" if name == advice.choice else "normal")
    limits = dict(zip(table["requirement"], table["limit"], strict=True))
    _head(ax, [str(requirement) for requirement, _ in columns], limits)
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    return ax


def _head(ax: Axes, requirements: list[str], limits: Mapping[str, float]) -> None:
    """Name each requirement and its limit once, above its columns."""
    start = 0
    for place in range(1, len(requirements) + 1):
        if place < len(requirements) and requirements[place] == requirements[start]:
            continue
        name = requirements[start]
        centre = (start + place - 1) / 2
        words, times, _ = HEADS.get(name, (name, 1.0, ""))
        head = f"{words}\n(limit {limits[name] * times:g})"
        ax.text(centre, -0.62, head, ha="center", va="bottom", fontsize=9)
        if start:
            ax.axvline(start - 0.5, color="white", lw=4)
        start = place


def _number(requirement: str, error: float) -> str:
    _, times, spec = HEADS.get(requirement, ("", 1.0, ".2g"))
    if math.isinf(error):
        return "∞"
    if error >= MANY:
        return f"> {MANY:,.0f}"
    return number(error * times, spec) if error < 100 else f"{error * times:,.0f}"


@house_style()
def advice_panels(advices: Mapping[str, Advice]) -> Figure:
    """Draw the verdicts beside the costs, a row of panels for each problem.

    Args:
        advices: problem to recommendation.

    Returns:
        The figure; each row's title is the recommendation.
    """
    from matplotlib.patches import Patch

    lines = [advice.table["posterior"].nunique() for advice in advices.values()]
    heights = [0.3 * count + (1.35 if any(advices) else 1.15) for count in lines]
    made, axes = figure(len(advices), 2, height=sum(heights) + 0.35)
    grid = axes[0, 0].get_gridspec()
    grid.set_height_ratios(heights)
    grid.set_width_ratios([3.2, 1])
    for (problem, advice), row in zip(advices.items(), axes, strict=True):
        plot_verdicts(advice, ax=row[0])
        _plot_costs(advice, ax=row[1])
        said = _choice(advice)
        title = f"{problem}:\n{said}" if problem else f"{said[0].upper()}{said[1:]}"
        row[0].set_title(title, loc="left", pad=34, fontweight="bold")
    patches = [Patch(color=VERDICT_COLORS[v], label=words) for v, words in WORDS.items()]
    made.legend(handles=patches, loc="outside lower center", ncols=len(patches))
    return made


def _choice(advice: Advice) -> str:
    label = guide_style(advice.choice).label
    if advice.qualified:
        text = f"use {label}, the cheapest within all limits"
    else:
        text = f"keep {label}: no approximation is shown to be within all limits"
    return f"{text} (provisional)" if advice.provisional else text


def _plot_costs(advice: Advice, *, ax: Axes) -> None:
    """One bar a posterior, in the order of the verdicts, on a log scale."""
    names = list(advice.table["posterior"].unique())
    reference = [name for name in advice.costs if name not in names]
    shown = {name: max(advice.costs[name], 1e-9) for name in names}
    colors = [guide_style(name).color for name in names]
    ax.barh(range(len(names)), list(shown.values()), color=colors, height=0.6)
    for name in reference:
        ax.axvline(advice.costs[name], color=guide_style(name).color, lw=1.4)
        ax.text(
            advice.costs[name],
            -0.62,
            guide_style(name).label,
            ha="center",
            va="bottom",
            fontsize=8.5,
        )
    ax.set_xscale("log")
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_yticks(range(len(names)), [""] * len(names))
    ax.set_xlabel("Passes of the net" if advice.cost_unit == "forward passes" else "Fit (s)")
