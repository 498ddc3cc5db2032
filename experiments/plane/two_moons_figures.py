"""What the experiment two-moons shows, from its results alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from probml_tp.experiments.plane.kit import (
    REFERENCE,
    closest_to_reference,
    confidence_figure,
    map_figure,
    share_of_map,
)
from probml_tp.experiments.plane.repeat_panels import repeat_panels
from probml_tp.experiments.plane.repeated_fits import ANOTHER_RUN, HALVES, REPEATED
from probml_tp.experiments.plane.single_draws import SINGLE, rougher
from probml_tp.harness.experiment import Figure, Results
from probml_tp.kit.common import by_guide, span
from probml_tp.metrics.over_runs import mean_interval
from probml_tp.plots.classification import (
    map_panels,
    plot_labelled_points,
    plot_mutual_information,
    plot_probability,
    plot_variation_ratio,
)
from probml_tp.plots.style import guide_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OF_EACH_FAMILY = ". Of many guides one of each family is drawn; the table has all."
"""What the caption of the confidence far away ends in."""

NOTHING = np.zeros(0)


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the maps, the confidence away from the data, repeated fits and single draws."""
    yield _probability(results)
    yield _mutual_information(results)
    yield _variation_ratio(results)
    yield confidence_figure(results, OF_EACH_FAMILY)
    if f"repeats.{HALVES}.tv" in results.arrays:
        yield _repeats(results)
    if any(f"{guide}.draw_a_point" in results.arrays for guide in SINGLE):
        yield _single(results)


def _probability(results: Results[Any]) -> Figure:
    made = map_figure(
        results.arrays,
        results.config.guides,
        "probability",
        plot=plot_probability,
        label="Probability of class 1",
    )
    caption = (
        "Probability of class 1 (red) over a range well past the data (points); the black line is "
        "the decision boundary."
    )
    compared = closest_to_reference(results.metrics)
    title = compared[0] if compared else "Probability of class 1"
    return Figure("probability-maps", title, caption, made)


def _mutual_information(results: Results[Any]) -> Figure:
    arrays, guides = results.arrays, results.config.guides
    made = map_figure(
        arrays,
        guides,
        "mutual_information",
        plot=plot_mutual_information,
        label="Mutual information (nats)",
    )
    maps = by_guide(arrays, guides, "mutual_information")
    mean = {guide: float(values.mean()) for guide, values in maps.items()}
    caption = (
        "Epistemic uncertainty: the mutual information of a label and the parameters, at most "
        "log 2 = 0.69 nats. It should grow away from the data, where nothing has been seen."
    )
    spread = span(mean, "{:.3f}".format, reference=REFERENCE)
    title = f"Mean mutual information over the map, in nats, runs {spread}"
    return Figure("mutual-information-maps", title, caption, made)


def _variation_ratio(results: Results[Any]) -> Figure:
    arrays, guides = results.arrays, results.config.guides
    made = map_figure(
        arrays, guides, "variation_ratio", plot=plot_variation_ratio, label="Variation ratio"
    )
    caption = (
        "The share of draws whose most probable class is not the one that most draws vote for, "
        "at most 1/2."
    )
    split = share_of_map(arrays, guides, "variation_ratio", lambda ratio: ratio > 0.05)
    title = f"The share of the map where over 5 % of the draws dissent runs {split}"
    return Figure("variation-ratio-maps", title, caption, made)


def _repeats(results: Results[Any]) -> Figure:
    rows = [row for row in (*REPEATED, HALVES, ANOTHER_RUN) if _values(results, row, "tv")]
    panels = {
        heading: {row: _runs(results, row, metric) for row in rows}
        for metric, heading in (
            ("tv", "Mean total variation to NUTS"),
            ("mi_correlation", "Correlation of the MI with NUTS's"),
            ("mi_ratio", "Mean MI over NUTS's"),
        )
    }
    made = repeat_panels(panels)
    caption = (
        f"Small points: fits of the same model to the same data from {results.config.seeds} "
        "seeds, each compared with the first run of NUTS over the map; large points and lines: "
        "their means and Student's t intervals at 95 %. Below, NUTS against itself: one half of "
        "its chains with the other, and another run with the first. What is no further than these "
        "cannot be told from the reference."
    )
    means = [
        f"{guide_style(row).label} {mean_interval(_values(results, row, 'tv')).mean:.3f}"
        for row in rows
    ]
    title = f"Mean total variation to NUTS: {', '.join(means)}"
    return Figure("repeated-fits", title, caption, made)


def _runs(
    results: Results[Any], row: str, metric: str
) -> tuple[list[float], tuple[float, float, float]]:
    values = _values(results, row, metric)
    if not values:
        return [], (np.nan, np.nan, np.nan)
    found = mean_interval(values)
    return values, (found.mean, *(found.interval or (np.nan, np.nan)))


def _values(results: Results[Any], row: str, metric: str) -> list[float]:
    found: list[float] = results.arrays.get(f"repeats.{row}.{metric}", NOTHING).tolist()
    return found


def _single(results: Results[Any]) -> Figure:
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
    table = next(t for t in results.tables if "draw_a_point" in t.columns)
    return Figure("single-draws", rougher(table.metrics), caption, made)
