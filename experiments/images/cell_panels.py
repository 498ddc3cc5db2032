"""Tables as colours with the numbers in them: agreement of measures and guides, guides by shift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from probml_tp.plots.style import figure, guide_style, house_style, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]


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
