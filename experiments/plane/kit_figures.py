"""Maps of classifiers on the plane, and their confidence far from the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from probml_tp.experiments.plane.kit import FAR_AWAY, REFERENCE
from probml_tp.guides.recipes import one_of_each_family
from probml_tp.harness.experiment import Figure, Results
from probml_tp.kit import sentences
from probml_tp.kit.common import Array, by_guide, span
from probml_tp.plots import classification as plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PERCENT = sentences.shares(0)
MAP_CAPTION = (
    "Probability of class 1 (red) over a range well past the data (points); the black line is the "
    "decision boundary."
)
MAPS = {
    "probability": (plots.plot_probability, "Probability of class 1"),
    "mutual_information": (plots.plot_mutual_information, "Mutual information (nats)"),
    "variation_ratio": (plots.plot_variation_ratio, "Variation ratio"),
}
"""How each map is drawn, and what its colours mean."""


def spread_over_map(
    results: Results[Any],
    quantity: str,
    summary: Callable[[Array], Any],
    write: sentences.Write = PERCENT,
) -> str:
    """Say over which range guides spread in a summary of their maps."""
    maps = by_guide(results.arrays, results.main.rows, quantity)
    means = {guide: float(np.mean(summary(values))) for guide, values in maps.items()}
    return span(means, write, reference=REFERENCE)


def map_figure(
    results: Results[Any], quantity: str, title: str, caption: str = MAP_CAPTION
) -> Figure:
    """Draw the maps of one quantity, with the data and the decision boundaries."""
    arrays, guides = results.arrays, results.main.rows
    probability = by_guide(arrays, guides, "probability")

    def decorate(guide: str, ax: Axes) -> None:
        plots.plot_labelled_points(arrays["x"], arrays["y"], ax=ax)
        plots.plot_boundary(probability[guide], extent=arrays["extent"], ax=ax)

    plot, label = MAPS[quantity]
    maps = by_guide(arrays, guides, quantity)
    made = plots.map_panels(
        maps, extent=arrays["extent"], plot=plot, label=label, decorate=decorate
    )
    return Figure(f"{quantity.replace('_', '-')}-maps", title, caption, made)


def confidence_figure(results: Results[Any], remark: str) -> Figure:
    """Draw the confidence with distance from the data, and on the largest ring."""
    arrays, drawn = results.arrays, one_of_each_family(results.main.rows)
    distance = np.linalg.norm(arrays["x"] - arrays["centre"], axis=1)
    made = plots.confidence_panels(
        by_guide(arrays, drawn, "confidence_by_radius"),
        by_guide(arrays, drawn, "confidence_by_angle"),
        radii=arrays["radii"],
        angles=arrays["angles"],
        data_radius=float(distance.max()),
    )
    caption = (
        "Left: the probability of the predicted class, averaged over a ring about the centre of "
        "the data; grey marks how far the data reach. Right: the same on the largest ring, by "
        f"direction{remark}"
    )
    return Figure("confidence-far-away", FAR_AWAY(results) or "", caption, made)
