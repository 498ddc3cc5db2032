"""Errors of means and standard deviations against known ones, a row of dots a posterior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from probml_tp.plots.style import figure, guide_style, house_style, shared_legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]
SIDES = (
    ("mean_error", (-3.0, 3.0), 0, "Error of the mean (true standard deviations)"),
    ("sd_ratio", (0.1, 10.0), 1, "Standard deviation over the true one"),
)
"""Column, limits of the axis, what is right, and the axis' label."""


def plot_moment_errors(
    values: Mapping[str, Mapping[str, Array]],
    *,
    guides: Sequence[str],
    limits: tuple[float, float],
    ax: Axes,
) -> Axes:
    """Draw a dot for each quantity, posteriors in rows, guides one below the other in each."""
    for i, row in enumerate(values.values()):
        for guide, value in row.items():
            style = guide_style(guide)
            y = i + 0.72 * ((guides.index(guide) + 0.5) / len(guides) - 0.5)
            ax.plot(
                np.clip(value, *limits), np.full(len(value), y), linestyle="none",
                marker=style.marker, color=style.color, markersize=4, alpha=0.75,
                markeredgewidth=0, label=style.label, clip_on=False,
            )  # fmt: skip
        if i:
            ax.axhline(i - 0.5, color="#c9ccd1", linewidth=0.7)
    ax.set_yticks(range(len(values)), list(values))
    ax.set_ylim(len(values) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    return ax


@house_style()
def moments_figure(
    arrays: Mapping[str, Array], *, posteriors: Sequence[str], guides: Sequence[str]
) -> Figure:
    """Draw errors of means on the left, ratios of standard deviations on the right."""

    def chosen(column: str) -> dict[str, dict[str, Array]]:
        return {
            name: {
                guide: arrays[key]
                for guide in guides
                if (key := f"{name}.{guide}.{column}") in arrays
                and not (column == "sd_ratio" and bool((arrays[key] == 0).all()))
            }
            for name in posteriors
        }

    made, axes = figure(1, 2, height=0.75 + 0.55 * len(posteriors) + 0.6, sharey=True)
    for ax, (column, limits, truth, words) in zip(axes[0], SIDES, strict=True):
        plot_moment_errors(chosen(column), guides=guides, limits=limits, ax=ax)
        ax.axvline(truth, color="black", linewidth=1)
        ax.set(xscale="log" if truth else "linear", xlabel=words, xlim=limits)
    shared_legend(made, axes.flat)
    return made
