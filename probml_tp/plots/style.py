"""How every figure looks: one colour and label for each guide, and no trace in global state.

Figures are plain :class:`matplotlib.figure.Figure` objects: no pyplot, nothing to close. The
settings of a figure hold inside :func:`house_style` and are gone after it, so importing the
package or drawing with it changes no one else's figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import ScalarFormatter

from probml_tp.guides.recipes import RECIPES

__all__ = [
    "DATA_COLOR",
    "PANEL_HEIGHT",
    "TRAINING_RANGE_COLOR",
    "WIDTH",
    "GuideStyle",
    "figure",
    "guide_style",
    "house_style",
    "label_outside",
    "number",
    "order_of_magnitude",
    "panels",
    "shared_legend",
]

WIDTH = 9.0
"""Width of a figure that fills the report's column, in inches."""

PANEL_HEIGHT = 2.6
"""Height of one row of panels, in inches."""

DATA_COLOR = "#333333"
"""Colour of observations that belong to no class."""

TRAINING_RANGE_COLOR = "#8a8f98"
"""Colour of what marks the range of the training data."""


@dataclass(frozen=True)
class GuideStyle:
    """How one guide is drawn, in every figure.

    Args:
        label: what legends and panels call it.
        color: of the Okabe-Ito palette, or one of Tol's.
        linestyle: of its lines, so that it is told apart without colour as well.
        marker: of its points, likewise.
    """

    label: str
    color: str
    linestyle: str | tuple[int, tuple[float, ...]]
    marker: str


_SETTINGS: Any = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#5c6269",
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e6e9",
    "grid.linewidth": 0.7,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.color": "#5c6269",
    "ytick.color": "#5c6269",
    "xtick.labelcolor": "#1c1e21",
    "ytick.labelcolor": "#1c1e21",
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "image.cmap": "viridis",
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
}


def guide_style(name: str) -> GuideStyle:
    """The style of a guide.

    Args:
        name: as in tables and files, such as ``"mean-field"``.

    Returns:
        Its style. A name that ends in a guide's, such as ``"line-nuts"``, has the guide's colour
        and its own label; a guide of the user's own has a grey line.

    Example:
        >>> guide_style("mc-dropout").label, guide_style("my-guide").label
        ('MC dropout', 'my-guide')
    """
    if name not in RECIPES:
        ends = [guide for guide in RECIPES if name.endswith(f"-{guide}")]
        own = GuideStyle(name, "#7f7f7f", "-", ".")
        return replace(guide_style(max(ends, key=len)), label=name) if ends else own
    recipe = RECIPES[name]
    return GuideStyle(recipe.label, recipe.color, recipe.linestyle, recipe.marker)


class _PlainNumbers(ScalarFormatter):
    """Numbers at ticks as plain text: mathtext takes milliseconds a number; powers have it."""

    def __init__(self) -> None:
        super().__init__(useMathText=False)

    def get_offset(self) -> str:
        self.set_useMathText(True)
        offset = super().get_offset()
        self.set_useMathText(False)
        return offset


@contextmanager
def house_style() -> Iterator[None]:
    """The settings of this package's figures, while the context (or decorated function) lasts.

    Text takes its size when it is made: put all of a figure's making inside.

    Yields:
        Nothing.

    Example:
        >>> @house_style()
        ... def draw() -> Figure:
        ...     made, axes = figure(1, 2)
        ...     axes[0, 0].set_title("one")
        ...     return made
        >>> before = dict(matplotlib.rcParams)
        >>> _ = draw()
        >>> dict(matplotlib.rcParams) == before
        True
    """
    with matplotlib.rc_context(_SETTINGS):
        yield


def figure(
    rows: int = 1,
    columns: int = 1,
    *,
    width: float = WIDTH,
    height: float | None = None,
    sharex: bool = False,
    sharey: bool | Literal["row"] = False,
) -> tuple[Figure, np.ndarray[tuple[int, int], Any]]:
    """Make a figure with a grid of axes whose labels never overlap.

    Args:
        rows: rows of panels.
        columns: columns of panels.
        width: in inches; the default fills the column of the report.
        height: in inches; default :data:`PANEL_HEIGHT` for each row.
        sharex: whether all panels share their x axis.
        sharey: whether all panels, or those of a row, share their y axis.

    Returns:
        The figure and its axes, an array ``(rows, columns)``.

    Example:
        >>> made, axes = figure(2, 3, sharey=True)
        >>> axes.shape, made.get_size_inches().tolist()
        ((2, 3), [9.0, 5.2])
    """
    size = (width, rows * PANEL_HEIGHT if height is None else height)
    with house_style():
        made = Figure(figsize=size, layout="constrained")
        axes: np.ndarray[tuple[int, int], Any] = made.subplots(
            rows, columns, sharex=sharex, sharey=sharey, squeeze=False
        )
    for axis in (axis for ax in axes.flat for axis in (ax.xaxis, ax.yaxis)):
        axis.set_major_formatter(_PlainNumbers())
    return made, axes


def panels(
    count: int, *, most: int, height: float, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, np.ndarray[tuple[int, int], Any], list[Axes]]:
    """Make a figure with so many panels, in rows as even as can be.

    Args:
        count: how many.
        most: panels in a row, at most.
        height: of a row, in inches.
        sharex: whether all panels share their x axis.
        sharey: whether all panels share their y axis.

    Returns:
        The figure, all its axes ``(rows, columns)``, and those that are used, in their order; the
        rest is hidden.

    Example:
        >>> made, axes, used = panels(5, most=4, height=2.0)
        >>> axes.shape, len(used)
        ((2, 3), 5)
    """
    rows = -(-count // most)
    columns = -(-count // rows)
    made, axes = figure(rows, columns, height=rows * height + 0.4, sharex=sharex, sharey=sharey)
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    return made, axes, list(axes.flat[:count])


def label_outside(axes: np.ndarray[tuple[int, int], Any], count: int, *, x: str, y: str) -> None:
    """Label the axes of a grid of panels along its left edge and below the lowest of each column.

    Args:
        axes: all panels ``(rows, columns)``.
        count: how many of them are used.
        x: label of the x axes.
        y: label of the y axes.
    """
    columns = axes.shape[1]
    for place, ax in enumerate(axes.flat[:count]):
        lowest = place + columns >= count
        ax.set_xlabel(x if lowest else "")
        ax.set_ylabel(y if place % columns == 0 else "")
        if lowest:
            ax.xaxis.set_tick_params(labelbottom=True)


def shared_legend(figure: Figure, axes: Iterable[Axes], *, columns: int | None = None) -> Legend:
    """Put one legend for all panels below them, each label once.

    Args:
        figure: the figure.
        axes: the panels whose labelled artists it lists, in their order.
        columns: entries a row; default: five at most.

    Returns:
        The legend.

    Example:
        >>> made, grid = figure(1, 2)
        >>> for ax in grid.flat:
        ...     _ = ax.plot([0, 1], label="data")
        >>> [text.get_text() for text in shared_legend(made, grid.flat).get_texts()]
        ['data']
    """
    entries: dict[str, Artist] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    with house_style():
        return figure.legend(
            list(entries.values()),
            list(entries),
            loc="outside lower center",
            ncols=columns or min(max(len(entries), 1), 5),
        )


def number(value: float, spec: str) -> str:
    """A number for a title or a sentence, with a minus sign instead of a hyphen.

    Args:
        value: the number.
        spec: how to format it.

    Returns:
        The text.

    Example:
        >>> number(-0.9, "+.2f")
        '−0.90'
    """
    return format(value, spec).replace("-", "\N{MINUS SIGN}")


def order_of_magnitude(value: float) -> str:
    """A positive number as the nearest power of ten; 0 as it is.

    Args:
        value: the number.

    Returns:
        The text.

    Example:
        >>> order_of_magnitude(2.5e6), order_of_magnitude(1.1e-8)
        ('10⁶', '10⁻⁸')
    """
    if value == 0:
        return "0"
    superscripts = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
    return "10" + str(round(np.log10(value))).translate(superscripts)
