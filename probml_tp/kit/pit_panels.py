"""Predictive checks of several posteriors beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from probml_tp.plots.style import (
    TRAINING_RANGE_COLOR,
    guide_style,
    house_style,
    label_outside,
    panels,
    shared_legend,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["pit_panels", "plot_pit"]

Array = np.ndarray[Any, Any]
BINS = 10


def plot_pit(values: Array, *, guide: str, ax: Axes) -> Axes:
    """Draw the histogram of PIT values, and where 95 % of the bars of a flat one lie.

    Args:
        values: one a target, from 0 to 1, ``(N,)``.
        guide: whose colour to use.
        ax: where to draw.

    Returns:
        ``ax``.
    """
    style, expected = guide_style(guide), len(values) / BINS
    ax.hist(values, bins=BINS, range=(0, 1), color=style.color, alpha=0.75)
    spread = 1.96 * np.sqrt(expected * (1 - 1 / BINS))
    low, high = max(expected - spread, 0), expected + spread
    label = "95 % of a flat histogram's bars"
    ax.axhspan(low, high, color=TRAINING_RANGE_COLOR, alpha=0.25, lw=0, label=label)
    ax.axhline(expected, color=TRAINING_RANGE_COLOR, lw=1.0)
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1])
    ax.set_title(style.label, fontsize=8.5)
    return ax


@house_style()
def pit_panels(values: Mapping[str, Array]) -> Figure:
    """Draw the PIT histogram of each posterior in a panel of its own.

    Args:
        values: a guide's name, or a data set's and a guide's joined by "-", to its PIT values.

    Returns:
        The figure.
    """
    made, axes, used = panels(len(values), most=5, height=1.7, sharex=True, sharey=True)
    for (name, own), ax in zip(values.items(), used, strict=True):
        plot_pit(own, guide=name, ax=ax)
    label_outside(axes, len(values), x="PIT", y="Targets")
    shared_legend(made, used[:1])
    return made
