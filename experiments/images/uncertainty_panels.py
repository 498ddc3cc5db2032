"""Images in the order of measures of uncertainty, single images draw by draw, tables as colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from probml_tp.plots.digits import OTHER, RIGHT, WRONG, class_handles, plot_image, plot_votes
from probml_tp.plots.style import (
    WIDTH,
    figure,
    guide_style,
    house_style,
    number,
    order_of_magnitude,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

Array = np.ndarray[Any, Any]

SHORT = 2
"""Characters of a class name that fits below a bar, or twice above an image."""

MATTERS = 0.01
"""A class gets a violin if its probability exceeds this at some draw."""


@dataclass(frozen=True)
class RankedImages:
    """A few images in the order of a measure of uncertainty."""

    images: Array
    labels: Array
    predicted: Array
    values: Array


@house_style()
def ranked_panels(
    groups: Mapping[str, Mapping[str, RankedImages]], *, classes: Sequence[str], columns: int = 4
) -> Figure:
    """Draw groups of images one above the other, each by several measures side by side."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    sizes = [max(len(ranked.images) for ranked in group.values()) for group in groups.values()]
    cell = 0.98 if max(map(len, classes)) <= SHORT else 1.15  # long names take two lines
    heights = [0.55 + cell * -(-size // columns) for size in sizes]
    made = Figure(figsize=(WIDTH, sum(heights) + 0.3), layout="constrained")
    measures = list(next(iter(groups.values())))
    parts = made.subfigures(
        len(groups), len(measures), height_ratios=heights, wspace=0.04, squeeze=False
    )
    for row, (heading, group) in zip(parts, groups.items(), strict=True):
        for part, (measure, ranked) in zip(row, group.items(), strict=True):
            part.suptitle(f"{heading}\n{measure}", fontsize=9)
            _draw_ranked(ranked, part, classes, columns)
    keys = {"right: true class": RIGHT, "wrong: true → predicted class": WRONG}
    handles = [Line2D([], [], marker="s", ls="", color=c, label=key) for key, c in keys.items()]
    made.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return made


def _draw_ranked(
    ranked: RankedImages, part: SubFigure, classes: Sequence[str], columns: int
) -> None:
    axes = part.subplots(-(-len(ranked.images) // columns), columns, squeeze=False)
    for ax in axes.flat[len(ranked.images) :]:
        ax.set_visible(False)
    for k, ax in enumerate(axes.flat[: len(ranked.images)]):
        plot_image(ranked.images[k], ax=ax)
        label, predicted = classes[ranked.labels[k]], classes[ranked.predicted[k]]
        right = label == predicted
        arrow = " → " if len(label) <= SHORT and len(predicted) <= SHORT else " →\n"
        ax.set_title(
            label if right else f"{label}{arrow}{predicted}",
            fontsize=8,
            pad=2,
            color=RIGHT if right else WRONG,
        )
        ax.text(
            0.5, -0.03, _short(ranked.values[k]), transform=ax.transAxes, ha="center", va="top",
            fontsize=7.5,
        )  # fmt: skip


def _short(value: float) -> str:
    return f"{value:.2f}" if value >= 0.005 else order_of_magnitude(value)


@dataclass(frozen=True)
class DrawnImage:
    """One image with the class probabilities at each draw of a posterior."""

    heading: str
    note: str
    image: Array
    label: int
    probs: Array


def plot_violins(probs: Array, *, label: int, ax: Axes) -> Axes:
    """Draw how the draws spread over the probability of each class: a violin and its median.

    A class whose probability is at most 1 % at every draw has none. The true class is blue, a wrong
    class with the largest mean probability orange.
    """
    percent, classes = 100 * probs.astype(np.float64), range(probs.shape[1])
    colors = {int(probs.mean(0).argmax()): WRONG, label: RIGHT}
    matter = np.flatnonzero(probs.max(0) > MATTERS).tolist()
    parts: dict[str, Any] = ax.violinplot(
        [percent[:, c] for c in matter], matter, widths=0.85, showextrema=False, showmedians=True
    )
    for body, c in zip(parts["bodies"], matter, strict=True):
        body.set(color=colors.get(c, OTHER), alpha=0.65, lw=0.8)
    parts["cmedians"].set(color="black", lw=1.2, clip_on=False)
    ax.set(ylim=(0, 100), xlim=(-0.6, len(classes) - 0.4), xticks=classes)
    ax.grid(visible=False, axis="x")
    return ax


@house_style()
def drawn_panels(rows: Sequence[DrawnImage], *, classes: Sequence[str]) -> Figure:
    """Draw single images: the image, the mean prediction, the votes and the spread of the draws."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(WIDTH, 1.95 * len(rows) + 0.6), layout="constrained")
    axes = made.subplots(len(rows), 4, width_ratios=[1.1, 1.2, 1.2, 1.5], squeeze=False)
    upright = max(map(len, classes)) <= SHORT
    columns = {
        "Mean prediction": "Probability (%)",
        "Votes of the draws": "Draws (%)",
        "Spread over the draws": "Probability (%)",
    }
    for row, (left, mean, votes, violins) in zip(rows, axes, strict=True):
        plot_image(row.image, ax=left)
        left.set_title(row.heading, fontsize=9)
        left.text(0.5, -0.04, row.note, transform=left.transAxes, ha="center", va="top", fontsize=8)
        plot_votes(row.probs.mean(0), label=row.label, ax=mean)
        counts = np.bincount(row.probs.argmax(1), minlength=len(classes))
        plot_votes(counts, label=row.label, ax=votes)
        plot_violins(row.probs, label=row.label, ax=violins)
    for column, (title, unit) in zip(axes.T[1:], columns.items(), strict=True):
        column[0].set_title(title)
        for ax in column:
            ax.set_ylabel(unit)
            ax.tick_params(labelsize=8, length=0, pad=2)
        column[-1].set_xticks(range(len(classes)), classes, rotation=0 if upright else 90)
        column[-1].set_xlabel("Class")
    handles = class_handles(wrong="wrong class on top", other="other classes")
    made.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return made


def plot_cells(
    values: Array,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    ax: Axes,
    limits: tuple[float, float] | None = None,
    none: str = "",
) -> Axes:
    """Draw a table as colours with the numbers in them.

    With ``limits`` dark is high; without them bright is, from 0 or the smallest to the largest.
    """
    top = float(np.nanmax(values, initial=0.0))
    low, high = limits or (float(np.nanmin(values, initial=0.0)), top if top > 0 else 1.0)
    ax.imshow(values, cmap="Blues" if limits else "cividis", vmin=low, vmax=high, aspect="auto")
    digits = 0 if high >= 10 else 2
    for (i, j), value in np.ndenumerate(values):
        missing = np.isnan(value)
        text = none if missing else number(round(value, digits) + 0.0, f".{digits}f")
        is_high = not missing and value - low > 0.6 * (high - low)
        color = "white" if is_high == bool(limits) and not missing else "black"
        if text:
            ax.text(j, i, text, ha="center", va="center", fontsize=8, color=color)
    ax.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    return ax


@house_style()
def agreement_rows(
    tables: Mapping[str, Array], *, rows: Sequence[str], guides: Sequence[str]
) -> Figure:
    """Draw tables of agreement from 0 to 1 one above the other, a guide a column."""
    height = len(tables) * (0.45 + 0.34 * len(rows)) + 1.0
    made, axes = figure(len(tables), 1, height=height)
    columns = [guide_style(guide).label for guide in guides]
    for ax, (title, values) in zip(axes[:, 0], tables.items(), strict=True):
        plot_cells(values, rows=rows, columns=columns, ax=ax, limits=(0, 1))
        ax.set_title(title, loc="left")
    for ax in axes[:-1, 0]:
        ax.set_xticklabels([])
    return made


@house_style()
def agreement_triangles(tables: Mapping[str, Array], *, guides: Sequence[str]) -> Figure:
    """Draw symmetric tables of agreement between guides side by side, each pair once."""
    labels = [guide_style(guide).label for guide in guides]
    made, axes = figure(1, len(tables), height=0.31 * (len(guides) - 1) + 1.5, sharey=True)
    for ax, (title, values) in zip(axes[0], tables.items(), strict=True):
        below = np.where(np.tri(len(guides), k=-1, dtype=bool), values, np.nan)
        plot_cells(below[1:, :-1], rows=labels[1:], columns=labels[:-1], ax=ax, limits=(0, 1))
        ax.set_title(title)
    return made


@house_style()
def heat_map_panels(
    maps: Mapping[str, Array], *, rows: Sequence[str], columns: Sequence[str]
) -> Figure:
    """Draw tables of the same rows and columns side by side; a dash where there is no number."""
    made, axes = figure(1, len(maps), height=1.4 + 0.27 * len(rows), sharey=True)
    for ax, (heading, values) in zip(axes.flat, maps.items(), strict=True):
        plot_cells(values, rows=rows, columns=columns, ax=ax, none="\N{EN DASH}")
        ax.set_title(fill(heading, 26), fontsize=9)
    return made
