"""Divergences, evidence and costs of approximations, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D

from probml_tp.plots.robustness import PUBLISHED, plot_intervals
from probml_tp.plots.style import (
    DATA_COLOR,
    TRAINING_RANGE_COLOR,
    figure,
    guide_style,
    house_style,
    number,
    shared_legend,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]
Ends = Mapping[str, Sequence[float] | Array]

LEAST_KL = 1e-6

WIDE = 100.0
"""Nats from which on bounds are drawn on a logarithmic axis."""


@house_style()
def divergence_panels(rows: Sequence[Mapping[str, Ends]], *, floor: str) -> Figure:
    """Draw divergences with their intervals on logarithmic axes, one row of panels a problem."""
    lines = [max(len(panel) - 1 for panel in row.values()) for row in rows]
    made, axes = figure(
        len(rows), max(map(len, rows)), height=0.22 * sum(lines) + 0.9 * len(rows), sharey="row"
    )
    grid = axes[0, 0].get_gridspec()
    grid.set_height_ratios(lines)
    for panels, row in zip(rows, axes, strict=True):
        for (heading, values), ax in zip(panels.items(), row, strict=True):
            ends = {n: _clipped(v) for n, v in values.items() if n != floor}
            at, low, high = _clipped(values[floor])
            ax.axvspan(low, high, color=TRAINING_RANGE_COLOR, alpha=0.3, lw=0, zorder=0)
            ax.axvline(at, color=TRAINING_RANGE_COLOR, lw=1.2, zorder=0, label=floor)
            plot_intervals(ends, ax=ax)
            ax.set_xscale("log")
            smallest = min(min(e[0] for e in ends.values()), max(at, high / 100))
            ax.set_xlim(smallest / 3, 2 * max(e[2] for e in ends.values()))
            ax.set_title(heading, fontsize=9)
            if row is axes[-1]:
                ax.set_xlabel("KL from NUTS (nats)")
    return made


def _clipped(ends: Sequence[float] | Array) -> tuple[float, float, float]:
    value, low, high = (max(float(end), LEAST_KL) for end in ends)
    return value, low, high


@house_style()
def evidence_panels(panels: Mapping[str, tuple[Ends, Mapping[str, float]]]) -> Figure:
    """Draw lower bounds on the evidence and estimates of it, one panel a problem."""
    most = max(len(bounds) for bounds, _ in panels.values())
    made, axes = figure(1, len(panels), height=0.25 * most + 1.2)
    for (title, (bounds, estimates)), ax in zip(panels.items(), axes[0], strict=True):
        ends = {name: (float(v[0]), float(v[1]), float(v[2])) for name, v in bounds.items()}
        plot_intervals(ends, ax=ax, published=estimates)
        seen = [*(end[0] for end in ends.values()), *estimates.values()]
        if max(seen) - min(seen) > WIDE:
            ax.set_xscale("symlog", linthresh=10.0)
        ax.set_title(title)
        ax.set_xlabel("Log evidence (nats)")
    kinds = {
        "lower bound": Line2D([], [], color=DATA_COLOR, marker="o", linestyle="-"),
        "Laplace's estimate": Line2D([], [], **PUBLISHED),
    }
    made.legend(list(kinds.values()), list(kinds), loc="outside lower center", ncols=2)
    return made


@house_style()
def cost_panels(
    costs: Mapping[str, Array],
    *,
    exponents: Mapping[str, tuple[float, float]],
    limit_mib: float,
) -> Figure:
    """Draw time and memory against the number of parameters, on logarithmic axes."""
    made, axes = figure(1, 2, height=4.2)
    for guide, values in costs.items():
        style = guide_style(guide)
        grown = ", ".join("–" if np.isnan(a) else number(a, ".1f") for a in exponents[guide])
        for column, ax in enumerate(axes[0], start=1):
            ax.plot(
                values[:, 0],
                values[:, column],
                color=style.color,
                linestyle=style.linestyle,
                marker=style.marker,
                markersize=5,
                label=f"{style.label} ({grown})",
            )
    axes[0, 1].axhline(limit_mib, color=TRAINING_RANGE_COLOR, linestyle=":", lw=1.2, label="bound")
    for ax, label in zip(axes[0], ("Time of the fit (s)", "Memory of the fit (MiB)"), strict=True):
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("Number of parameters")
        ax.set_ylabel(label)
    shared_legend(made, axes[0], columns=3)
    return made
