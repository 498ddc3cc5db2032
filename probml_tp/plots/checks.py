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
    import arviz as az
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_pit", "predictive_check_panels"]

Array = np.ndarray[Any, Any]
BINS = 10


def plot_pit(observed: Array, replicated: Array, *, guide: str, ax: Axes) -> Axes:
    r"""Draw the histogram of :math:`u_n = \frac1S\sum_s 1[y^{rep}_{sn} \le y_n]`.

    Args:
        observed: targets ``(N,)``.
        replicated: ``(S, N)``.
        guide: whose colour to use.
        ax: where to draw.

    Returns:
        ``ax``.
    """
    u = (replicated <= observed).mean(0)
    expected = len(u) / BINS
    ax.hist(u, bins=BINS, range=(0, 1), color=guide_style(guide).color, alpha=0.75)
    spread = 1.96 * np.sqrt(expected * (1 - 1 / BINS))
    low, high = max(expected - spread, 0), expected + spread
    ax.axhspan(
        low,
        high,
        color=TRAINING_RANGE_COLOR,
        alpha=0.25,
        lw=0,
        label="95 % of a flat histogram's bars",
    )
    ax.axhline(expected, color=TRAINING_RANGE_COLOR, lw=1.0)
    ax.set_xlim(0, 1)
    return ax


@house_style()
def predictive_check_panels(records: Mapping[str, az.InferenceData]) -> Figure:
    """Draw the PIT histogram of each posterior at the data of its record.

    Args:
        records: a guide's name, or a data set's and a guide's joined by "-", to ArviZ record.

    Returns:
        The figure.
    """
    made, axes, used = panels(len(records), most=5, height=1.7, sharex=True, sharey=True)
    for (name, record), ax in zip(records.items(), used, strict=True):
        (observed,) = (values.to_numpy() for values in record["observed_data"].values())
        (replicated,) = (v.to_numpy() for v in record["posterior_predictive"].values())
        plot_pit(
            observed, replicated.reshape(-1, len(observed)), guide=name.split("-", 1)[-1], ax=ax
        )
        ax.set_title(name, fontsize=8.5)
    label_outside(axes, len(records), x="PIT", y="Targets")
    shared_legend(made, used[:1])
    return made
