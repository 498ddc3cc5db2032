"""Approximations of a predictive probability beside the integral: along a ray, and over a map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from probml_tp.plots.classification import plot_map
from probml_tp.plots.style import figure, house_style, label_outside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]

LINES = (("#000000", "-"), ("#D55E00", ":"), ("#0072B2", "--"), ("#009E73", "-."))
"""Colour and line of each way, the exact one first."""


@house_style()
def link_panels(
    along: Mapping[str, Array],
    gaps: Mapping[str, Array],
    *,
    distance: Array,
    extent: Array,
    exact: str,
) -> Figure:
    """Draw probabilities along a ray, and maps of their differences from the exact ones.

    Each map has a scale of its own: the differences are not of one size.
    """
    made, axes = figure(2, 2, height=6.0)
    ray, *maps = axes.flat
    for (name, values), (color, line) in zip(along.items(), LINES, strict=False):
        ray.plot(distance, values, color=color, linestyle=line, label=name)
    ray.set_xlabel("Distance from the centre of the data (units of $x$)")
    ray.set_ylabel("Probability of class 1")
    ray.set_xlim(0, distance[-1])
    ray.set_title("Along a ray")
    ray.legend()
    for (name, gap), ax in zip(gaps.items(), maps, strict=False):
        most = float(np.abs(gap).max())
        plot_map(gap, extent=extent, ax=ax, cmap="PuOr", low=-most, high=most)
        ax.set_title(f"{name} less {exact[0].lower()}{exact[1:]}")
        ax.grid(visible=False)
        made.colorbar(ax.images[0], ax=ax, label="Difference of probability")
    label_outside(np.array([maps]), len(gaps), x="$x_1$", y="$x_2$")
    for ax in maps[1:]:
        ax.set_ylabel("$x_2$")
    return made
