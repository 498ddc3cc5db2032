"""Values of several runs of one fit, their means and intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from probml_tp.plots.robustness import plot_intervals
from probml_tp.plots.style import figure, guide_style, house_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Runs = tuple[Sequence[float], tuple[float, float, float]]
"""The values of all runs, and their mean with the ends of its interval (NaN for one run)."""


@house_style()
def repeat_panels(panels: Mapping[str, Mapping[str, Runs]]) -> Figure:
    """Draw each run as a small point, and the mean of several runs with its interval."""
    rows = max(len(row) for row in panels.values())
    made, axes = figure(1, len(panels), height=0.32 * rows + 0.9, sharey=True)
    for (heading, runs), ax in zip(panels.items(), axes[0], strict=True):
        values = {name: found for name, (found, _) in runs.items()}
        ends = {name: three for name, (_, three) in runs.items()}
        plot_intervals(ends, ax=ax)
        seen = [end for found in ends.values() for end in found if np.isfinite(end)]
        for place, (name, found) in enumerate(values.items()):
            if len(found) < 2:
                continue
            ax.plot(
                found,
                np.full(len(found), place + 0.25),
                color=guide_style(name).color,
                marker=".",
                markersize=4,
                linestyle="none",
            )
        ax.set_xlim(_limits(seen, [v for found in values.values() for v in found]))
        ax.set_xlabel(heading)
    return made


def _limits(ends: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """All values, and what of the intervals is within three times their range."""
    low, high = min(values), max(values)
    margin = max(high - low, 0.05 * abs(high), 1e-9)
    return max(min(ends), low - margin) - 0.05 * margin, min(
        max(ends), high + margin
    ) + 0.05 * margin
