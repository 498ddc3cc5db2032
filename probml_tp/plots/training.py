"""Figures of fits as they went."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from probml_tp.plots.style import guide_style, house_style, label_outside, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["loss_panels", "plot_loss"]

Array = np.ndarray[Any, Any]

TITLE_WIDTH = 22
"""Characters in a line of a panel's title: four panels stand side by side."""


def plot_loss(losses: Array, *, guide: str, ax: Axes) -> Axes:
    """Draw the training objective by epoch.

    Args:
        losses: in nats per data point, ``(epochs,)``.
        guide: whose colour to use.
        ax: where to draw.

    Returns:
        ``ax``.
    """
    style = guide_style(guide)
    marker = style.marker if len(losses) <= 30 else ""
    ax.plot(np.arange(1, len(losses) + 1), losses, color=style.color, marker=marker, markersize=4.5)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    ax.set_xlabel("Epoch")
    ax.set_title(fill(style.label, TITLE_WIDTH))
    return ax


@house_style()
def loss_panels(losses: Mapping[str, Array]) -> Figure:
    """Draw the training objective of each guide in a panel of its own, on its own scale.

    Args:
        losses: guide to its losses in nats per data point, ``(epochs,)``.

    Returns:
        The figure.
    """
    made, axes, used = panels(len(losses), most=4, height=2.1)
    for guide, ax in zip(losses, used, strict=True):
        plot_loss(losses[guide], guide=guide, ax=ax)
    label_outside(axes, len(losses), x="Epoch", y="Loss (nats/point)")
    return made
