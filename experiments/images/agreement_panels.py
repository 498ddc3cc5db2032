"""Tables of how far measures and guides agree, as heat maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from probml_tp.plots.style import WIDTH, guide_style, house_style, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]


def plot_agreement(values: Array, *, rows: Sequence[str], columns: Sequence[str], ax: Axes) -> Axes:
    """Draw a table of agreements from 0 to 1, each cell coloured by its value."""
    ax.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            color = "white" if value > 0.6 else "black"
            ax.text(j, i, number(value, ".2f"), ha="center", va="center", fontsize=7.5, color=color)
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
    """Draw tables of agreement one above the other, a guide a column."""
    from matplotlib.figure import Figure

    height = len(tables) * (0.45 + 0.34 * len(rows)) + 1.0
    made = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = made.subplots(len(tables), 1, squeeze=False)[:, 0]
    columns = [guide_style(guide).label for guide in guides]
    for ax, (title, values) in zip(axes, tables.items(), strict=True):
        plot_agreement(values, rows=rows, columns=columns, ax=ax)
        ax.set_title(title, loc="left")
    for ax in axes[:-1]:
        ax.set_xticklabels([])
    return made


@house_style()
def agreement_triangles(tables: Mapping[str, Array], *, guides: Sequence[str]) -> Figure:
    """Draw symmetric tables of agreement between guides side by side, each pair once."""
    from matplotlib.figure import Figure

    labels = [guide_style(guide).label for guide in guides]
    height = 0.31 * (len(guides) - 1) + 1.5
    made = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = made.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for ax, (title, values) in zip(axes, tables.items(), strict=True):
        below = np.where(np.tri(len(guides), k=-1, dtype=bool), values, np.nan)
        plot_agreement(below[1:, :-1], rows=labels[1:], columns=labels[:-1], ax=ax)
        ax.set_title(title)
    return made
