"""What the experiment two-moons shows, from its results alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from probml_tp.experiments.plane import kit_figures, repeated_fits
from probml_tp.experiments.plane.kit import NEAREST, TO_REFERENCE
from probml_tp.experiments.plane.single_draws import SINGLE, rougher
from probml_tp.harness.experiment import Figure, Results
from probml_tp.kit.common import Array
from probml_tp.kit.sentences import Range
from probml_tp.metrics.over_runs import mean_interval
from probml_tp.plots.classification import (
    map_panels,
    plot_labelled_points,
    plot_mutual_information,
    plot_probability,
    plot_variation_ratio,
)
from probml_tp.plots.robustness import plot_intervals
from probml_tp.plots.style import figure, guide_style, house_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

NOTHING = (np.nan, np.nan)
DISTANCES = Range(
    "tv",
    "Mean total variation to NUTS: {each}",
    table=repeated_fits.TITLE,
    write="{:.3f}".format,
    name=str,
)


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the maps, the confidence away from the data, repeated fits and single draws."""
    yield kit_figures.map_figure(
        results,
        "probability",
        plot=plot_probability,
        label="Probability of class 1",
        title=NEAREST(results) or "Probability of class 1",
        caption=kit_figures.MAP_CAPTION,
    )
    information = kit_figures.spread_over_map(
        results, "mutual_information", np.asarray, "{:.3f}".format
    )
    yield kit_figures.map_figure(
        results,
        "mutual_information",
        plot=plot_mutual_information,
        label="Mutual information (nats)",
        title=f"Mean mutual information over the map, in nats, runs {information}",
        caption="Epistemic uncertainty: the mutual information of a label and the parameters, at "
        "most log 2 = 0.69 nats. It should grow away from the data, where nothing has been seen.",
    )
    dissent = kit_figures.spread_over_map(results, "variation_ratio", lambda ratio: ratio > 0.05)
    yield kit_figures.map_figure(
        results,
        "variation_ratio",
        plot=plot_variation_ratio,
        label="Variation ratio",
        title=f"The share of the map where over 5 % of the draws dissent runs {dissent}",
        caption="The share of draws whose most probable class is not the one that most draws vote "
        "for, at most 1/2.",
    )
    yield kit_figures.confidence_figure(
        results, ". Of many guides one of each family is drawn; the table has all."
    )
    if len(repeated_fits.repeated_values(results, repeated_fits.HALVES)):
        yield _repeats(results)
    if title := rougher(results):
        yield _single(results, title)


def _repeats(results: Results[Any]) -> Figure:
    rows = [
        r
        for r in (*repeated_fits.REPEATED, repeated_fits.HALVES, repeated_fits.ANOTHER_RUN)
        if len(repeated_fits.repeated_values(results, r))
    ]
    panels = {
        heading: {row: repeated_fits.repeated_values(results, row, metric) for row in rows}
        for metric, heading in TO_REFERENCE.items()
    }
    caption = (
        f"Small points: fits of the same model to the same data from {results.config.seeds} "
        "seeds, each compared with the first run of NUTS over the map; large points and lines: "
        "their means and Student's t intervals at 95 %. Below, NUTS against itself: one half of "
        "its chains with the other, and another run with the first. What is no further than these "
        "cannot be told from the reference."
    )
    return Figure("repeated-fits", DISTANCES(results) or "", caption, _repeat_panels(panels))


@house_style()
def _repeat_panels(panels: Mapping[str, Mapping[str, Array]]) -> MatplotlibFigure:
    """Each run as a small point, and the mean of several runs with its interval."""
    rows = max(len(row) for row in panels.values())
    made, axes = figure(1, len(panels), height=0.32 * rows + 0.9, sharey=True)
    for (heading, runs), ax in zip(panels.items(), axes[0], strict=True):
        ends = {name: _ends(values) for name, values in runs.items()}
        plot_intervals(ends, ax=ax)
        for place, (name, values) in enumerate(runs.items()):
            if len(values) > 1:
                color, height = guide_style(name).color, np.full(len(values), place + 0.25)
                ax.plot(values, height, ".", color=color, markersize=4)
        every = np.concatenate(list(runs.values()))
        low, high = every.min(), every.max()
        margin = max(high - low, 0.05 * abs(high), 1e-9)
        seen = [end for found in ends.values() for end in found if np.isfinite(end)]
        ax.set_xlim(
            max(min(seen), low - margin) - 0.05 * margin,
            min(max(seen), high + margin) + 0.05 * margin,
        )
        ax.set_xlabel(heading)
    return made


def _ends(values: Array) -> tuple[float, float, float]:
    if not len(values):
        return (np.nan, *NOTHING)
    found = mean_interval(values)
    return (found.mean, *(found.interval or NOTHING))


def _single(results: Results[Any], title: str) -> Figure:
    arrays = results.arrays
    words = {
        "one_draw": "one draw for all points",
        "draw_a_point": "a draw a point",
        "probability": "average",
    }
    maps = {
        f"{guide_style(guide).label}:\n{text}": arrays[f"{guide}.{name}"]
        for guide in SINGLE
        if f"{guide}.draw_a_point" in arrays
        for name, text in words.items()
    }

    def decorate(_: str, ax: Axes) -> None:
        plot_labelled_points(arrays["x"], arrays["y"], ax=ax)

    made = map_panels(
        maps,
        extent=arrays["extent"],
        plot=plot_probability,
        label="Probability of class 1",
        decorate=decorate,
        columns=3,
    )
    caption = (
        "Left: the probability of class 1 at one draw of the parameters, the same at all points: "
        "one function. Middle: another draw (for dropout, another mask) at each point of the grid, "
        "as dropout layers do with the examples of a batch: right at each point, but no function. "
        "Right: the average over many draws, which is the same for both."
    )
    return Figure("single-draws", title, caption, made)
