"""Figures of out-of-distribution detection and of mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from probml_tp.plots.digits import plot_image
from probml_tp.plots.style import (
    WIDTH,
    figure,
    house_style,
    label_outside,
    panels,
    shared_legend,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

__all__ = [
    "accepted_panels",
    "distribution_panels",
    "grid_panels",
    "mistake_panels",
    "plot_distribution",
    "plot_grid",
]

Array = np.ndarray[Any, Any]

INSIDE, OUTSIDE = "#0072B2", "#D55E00"
"""Colours of in-distribution and of foreign images."""

BINS = 21


def plot_grid(
    differences: Array,
    *,
    temperatures: Sequence[float],
    epsilons: Sequence[float],
    most: float,
    ax: Axes,
) -> AxesImage:
    """Draw a map of differences over temperatures and steps; those beyond chance are in bold.

    Args:
        differences: estimate and ends of the interval, ``(temperatures, epsilons, 3)``, in
            percentage points.
        temperatures: of the rows.
        epsilons: of the columns.
        most: the difference at the ends of the colour scale.
        ax: where to draw.

    Returns:
        The image, for a colour bar; blue where the difference is positive.
    """
    estimate, low, high = np.moveaxis(differences, -1, 0)
    image = ax.imshow(estimate, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
    for row, column in np.ndindex(estimate.shape):
        value = estimate[row, column]
        certain = low[row, column] > 0 or high[row, column] < 0
        ax.text(
            column,
            row,
            f"{value:+.1f}".replace("-", "\N{MINUS SIGN}"),
            ha="center",
            va="center",
            fontsize=8,
            fontweight="bold" if certain else "normal",
            color="white" if abs(value) > 0.6 * most else "black",
        )
    ax.set_xticks(range(len(epsilons)), [f"{e:g}" for e in epsilons])
    ax.set_yticks(range(len(temperatures)), [f"{t:g}" for t in temperatures])
    ax.grid(visible=False)
    return image


@house_style()
def grid_panels(
    maps: Mapping[str, Mapping[str, Array]],
    *,
    temperatures: Sequence[float],
    epsilons: Sequence[float],
) -> Figure:
    """Draw maps of differences: a row for each foreign set with its colour scale, a column a rival.

    Args:
        maps: rival to foreign set to differences as in :func:`plot_grid`.
        temperatures: of a map's rows.
        epsilons: of a map's columns.

    Returns:
        The figure.
    """
    sets = list(next(iter(maps.values())))
    made, axes = figure(len(sets), len(maps), height=1.35 * len(sets) + 0.6)
    most = {
        name: max(float(np.abs(of_sets[name][..., 0]).max()) for of_sets in maps.values())
        for name in sets
    }
    for column, (rival, of_sets) in zip(axes.T, maps.items(), strict=True):
        for ax, name in zip(column, sets, strict=True):
            plot_grid(
                of_sets[name],
                temperatures=temperatures,
                epsilons=epsilons,
                most=max(most[name], 1e-9),
                ax=ax,
            )
            ax.set_title(f"{name}: ODIN − {rival}", fontsize=9)
    for ax in axes[:-1].flat:
        ax.set_xticklabels([])
    label_outside(axes, axes.size, x="Step ε", y="Temperature T")
    return made


def plot_distribution(inside: Array, outside: Array, *, ax: Axes) -> Axes:
    """Draw how a confidence is distributed over in-distribution and over foreign images.

    The confidences are replaced by their ranks among all, which leaves every metric of detection
    as it is: equal distributions are both flat, a perfect score has no overlap.

    Args:
        inside: confidences of in-distribution images.
        outside: those of foreign images.
        ax: where to draw.

    Returns:
        ``ax``.
    """
    joined = np.concatenate([inside, outside])
    values = np.sort(joined)
    low, high = (np.searchsorted(values, joined, side=side) for side in ("left", "right"))
    ranks = (low + high) / 2 / len(joined)
    edges = np.linspace(0, 1, BINS).tolist()
    parts = {
        "in-distribution": (ranks[: len(inside)], INSIDE),
        "foreign": (ranks[len(inside) :], OUTSIDE),
    }
    for label, (part, color) in parts.items():
        ax.hist(part, edges, density=True, color=color, alpha=0.55, label=label)
    ax.set_xlim(0, 1)
    return ax


@house_style()
def distribution_panels(scores: Mapping[str, tuple[Array, Array]]) -> Figure:
    """Draw the distributions of several scores.

    Args:
        scores: label to confidences of in-distribution and of foreign images.

    Returns:
        The figure.
    """
    made, axes, used = panels(len(scores), most=4, height=1.9)
    for (label, (inside, outside)), ax in zip(scores.items(), used, strict=True):
        plot_distribution(inside, outside, ax=ax)
        ax.set_title(label)
    label_outside(axes, len(scores), x="Rank of the confidence", y="Density")
    shared_legend(made, used)
    return made


@house_style()
def accepted_panels(rows: Mapping[str, Array]) -> Figure:
    """Draw foreign images, a row for each set.

    Args:
        rows: set to images ``(K, height, width)``.

    Returns:
        The figure.
    """
    columns = max(len(images) for images in rows.values())
    made, axes = figure(len(rows), columns, height=1.05 * len(rows) + 0.2)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for ax in line:
            ax.set_axis_off()
        for ax, image in zip(line, images, strict=False):
            plot_image(image, ax=ax)
        line[0].set_title(name, loc="left")
    return made


@house_style()
def mistake_panels(images: Array, *, titles: Sequence[str], columns: int = 8) -> Figure:
    """Draw misclassified images, each under a few words.

    Args:
        images: pixels ``(K, height, width)``.
        titles: the words, of one to three lines.
        columns: images a row.

    Returns:
        The figure.
    """
    from matplotlib.figure import Figure

    rows = -(-len(images) // columns)
    made = Figure(figsize=(WIDTH, 1.6 * rows), layout="constrained")
    axes = made.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, image, title in zip(axes.flat, images, titles, strict=False):
        plot_image(image, ax=ax)
        ax.set_title(title, fontsize=7.5)
    return made
