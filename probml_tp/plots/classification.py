"""Figures of classifiers on the plane: maps over a grid, the data, confidence away from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from probml_tp.plots.style import (
    TRAINING_RANGE_COLOR,
    figure,
    guide_style,
    house_style,
    label_outside,
    panels,
    shared_legend,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "CLASS_COLORS",
    "PlotMap",
    "confidence_panels",
    "map_panels",
    "plot_boundary",
    "plot_confidence",
    "plot_labelled_points",
    "plot_map",
    "plot_mutual_information",
    "plot_probability",
    "plot_variation_ratio",
]

Array = np.ndarray[Any, Any]

CLASS_COLORS = ("#2166ac", "#b2182b")
"""Colours of class 0 and class 1: the ends of the probability map, blue and red."""

CLASS_MARKERS = ("o", "^")

MAX_BINARY_ENTROPY = float(np.log(2.0))


class PlotMap(Protocol):
    """Draws one map of values over a grid on the plane."""

    def __call__(self, values: Array, *, extent: Array, ax: Axes) -> Axes:
        """Draw ``values`` of shape ``(rows, columns)``, the first row at the bottom."""


def plot_probability(values: Array, *, extent: Array, ax: Axes) -> Axes:
    """Draw a map of the probability of class 1, white where the two classes are even.

    Args:
        values: probabilities ``(rows, columns)``, the first row at the bottom.
        extent: left, right, bottom and top of the grid, in the units of the inputs.
        ax: where to draw.

    Returns:
        ``ax``.
    """
    return plot_map(values, extent=extent, ax=ax, cmap="RdBu_r", low=0.0, high=1.0)


def plot_mutual_information(values: Array, *, extent: Array, ax: Axes) -> Axes:
    """Draw a map of the mutual information of label and parameters, from 0 to log 2 nats.

    Args:
        values: nats ``(rows, columns)``, the first row at the bottom.
        extent: left, right, bottom and top of the grid, in the units of the inputs.
        ax: where to draw.

    Returns:
        ``ax``.
    """
    return plot_map(values, extent=extent, ax=ax, cmap="viridis", low=0.0, high=MAX_BINARY_ENTROPY)


def plot_variation_ratio(values: Array, *, extent: Array, ax: Axes) -> Axes:
    """Draw a map of the share of draws that vote against the majority, from 0 to 1/2.

    Args:
        values: shares ``(rows, columns)``, the first row at the bottom.
        extent: left, right, bottom and top of the grid, in the units of the inputs.
        ax: where to draw.

    Returns:
        ``ax``.
    """
    return plot_map(values, extent=extent, ax=ax, cmap="cividis", low=0.0, high=0.5)


def plot_boundary(values: Array, *, extent: Array, ax: Axes) -> Axes:
    """Draw the decision boundary: where the probability of class 1 is 1/2.

    Args:
        values: probabilities ``(rows, columns)``, the first row at the bottom.
        extent: left, right, bottom and top of the grid, in the units of the inputs.
        ax: where to draw.

    Returns:
        ``ax``.
    """
    if values.min() < 0.5 < values.max():
        left, right, bottom, top = extent
        x = np.linspace(left, right, values.shape[1])
        y = np.linspace(bottom, top, values.shape[0])
        ax.contour(x, y, values, levels=[0.5], colors="black", linewidths=1.2)
    return ax


def plot_labelled_points(x: Array, y: Array, *, ax: Axes) -> Axes:
    """Draw data points, each class with its colour and marker.

    Args:
        x: points ``(N, 2)``.
        y: labels ``(N,)``, 0 or 1.
        ax: where to draw.

    Returns:
        ``ax``.
    """
    for label, (color, marker) in enumerate(zip(CLASS_COLORS, CLASS_MARKERS, strict=True)):
        points = x[y == label]
        ax.scatter(
            points[:, 0],
            points[:, 1],
            s=7,
            c=color,
            marker=marker,
            edgecolors="white",
            linewidths=0.3,
            label=f"class {label}",
        )
    return ax


def plot_confidence(curves: Mapping[str, Array], *, at: Array, ax: Axes) -> Axes:
    """Draw the confidence of each guide along a line.

    Args:
        curves: guide to its confidences, shares of 1, ``(N,)``.
        at: positions along the line, ``(N,)``.
        ax: where to draw.

    Returns:
        ``ax``.
    """
    for guide, values in curves.items():
        style = guide_style(guide)
        ax.plot(at, 100 * values, color=style.color, linestyle=style.linestyle, label=style.label)
    ax.set_ylabel("Confidence (%)")
    return ax


@house_style()
def confidence_panels(
    by_radius: Mapping[str, Array],
    by_angle: Mapping[str, Array],
    *,
    radii: Array,
    angles: Array,
    data_radius: float,
) -> Figure:
    """Draw the confidence of each guide with distance from the data, and around them.

    Args:
        by_radius: guide to mean confidence on each ring, ``(R,)``.
        by_angle: guide to confidence on the largest ring, ``(A,)``.
        radii: of the rings, in the units of the inputs.
        angles: of the points on the largest ring, in degrees.
        data_radius: how far the training data reach from the rings' centre.

    Returns:
        The figure.
    """
    made, axes = figure(1, 2, height=3.5, sharey=True)
    left, right = axes[0]
    left.axvspan(0, data_radius, color=TRAINING_RANGE_COLOR, alpha=0.18, lw=0, label="data")
    plot_confidence(by_radius, at=radii, ax=left)
    left.set_xlim(0, radii[-1])
    left.set_xlabel("Distance from the centre of the data (units of $x$)")
    left.set_title("Mean over a ring")
    plot_confidence(by_angle, at=angles, ax=right)
    right.set_xlim(0, 360)
    right.set_xticks(range(0, 361, 45))
    right.set_xlabel("Direction (degrees)")
    right.set_ylabel("")
    right.set_title(f"On the ring at distance {radii[-1]:g}")
    left.set_ylim(48, 101)
    shared_legend(made, [left])
    return made


@house_style()
def map_panels(
    maps: Mapping[str, Array],
    *,
    extent: Array,
    plot: PlotMap,
    label: str,
    decorate: Callable[[str, Axes], object],
    columns: int = 5,
) -> Figure:
    """Draw one map a guide, side by side, with one colour bar for all.

    Args:
        maps: guide to values ``(rows, columns)``, the first row at the bottom.
        extent: left, right, bottom and top of the grid, in the units of the inputs.
        plot: draws one map; the same scale in each.
        label: what the colours mean, with the unit.
        decorate: called with each guide and its axes, to draw what lies upon the map.
        columns: panels in a row, at most.

    Returns:
        The figure.
    """
    made, axes, used = panels(
        len(maps), most=columns, height=9.25 / columns, sharex=True, sharey=True
    )
    for guide, ax in zip(maps, used, strict=True):
        plot(maps[guide], extent=extent, ax=ax)
        decorate(guide, ax)
        ax.set_title(guide_style(guide).label)
        ax.grid(visible=False)
    label_outside(axes, len(maps), x="$x_1$", y="$x_2$")
    made.colorbar(axes.flat[0].images[0], ax=axes, label=label, shrink=0.9, pad=0.015)
    return made


def plot_map(values: Array, *, extent: Array, ax: Axes, cmap: str, low: float, high: float) -> Axes:
    """Draw a map of any quantity.

    Args:
        values: ``(rows, columns)``, the first row at the bottom.
        extent: left, right, bottom and top of the grid, in the units of the inputs.
        ax: where to draw.
        cmap: the colours.
        low: the value of the first colour.
        high: the value of the last one.

    Returns:
        ``ax``.
    """
    left, right, bottom, top = (float(edge) for edge in extent)
    rows, columns = values.shape
    dx, dy = (right - left) / (columns - 1) / 2, (top - bottom) / (rows - 1) / 2
    ax.imshow(
        values,
        extent=(left - dx, right + dx, bottom - dy, top + dy),
        origin="lower",
        interpolation="bilinear",
        cmap=cmap,
        vmin=low,
        vmax=high,
    )
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    return ax
