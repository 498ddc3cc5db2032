"""What the experiment logistic-regression shows, from its results alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from probml_tp.experiments.plane.kit import (
    confidence_figure,
    map_figure,
    share_of_map,
)
from probml_tp.experiments.plane.link_panels import link_panels
from probml_tp.experiments.plane.predictive_links import EXACT_LINK, LINKS
from probml_tp.harness.experiment import Figure, Results
from probml_tp.plots.classification import plot_probability

AT_THE_BOUNDARY = "; it dips to 50 % where the ring crosses the boundary."
"""What the caption of the confidence far away ends in."""


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the maps, the confidence away from the data, and the ways to a probability."""
    yield _maps(results)
    yield confidence_figure(results, AT_THE_BOUNDARY)
    if f"ray.{EXACT_LINK}" in results.arrays:
        yield _links(results)


def _maps(results: Results[Any]) -> Figure:
    arrays, guides = results.arrays, results.config.guides
    made = map_figure(
        arrays, guides, "probability", plot=plot_probability, label="Probability of class 1"
    )
    caption = (
        "Probability of class 1 (red) over a range well past the data (points); the black line is "
        "the decision boundary. Averaging over boundaries turns the sharp edge of a single one "
        "into a fan: doubt grows with distance."
    )
    doubt = share_of_map(arrays, guides, "probability", lambda p: (p > 0.1) & (p < 0.9))
    title = f"The share of the map where confidence is below 90 % runs {doubt}"
    return Figure("probability-maps", title, caption, made)


def _links(results: Results[Any]) -> Figure:
    arrays = results.arrays
    gaps = {LINKS[link]: arrays[f"gap.{link}"] for link in LINKS if link != EXACT_LINK}
    made = link_panels(
        {LINKS[link]: arrays[f"ray.{link}"] for link in LINKS},
        gaps,
        distance=arrays["ray.distance"],
        extent=arrays["extent"],
        exact=LINKS[EXACT_LINK],
    )
    caption = (
        "The predictive of one Laplace posterior, whose logits are exactly normal. Left: along a "
        "ray 20 degrees off the decision boundary. Right: the probability of class 1 less that "
        f"by quadrature, over the map; sampling with {results.config.num_samples} draws, the "
        "same at all points. Each map has its own scale."
    )
    mean = {name: float(np.abs(gap).mean()) for name, gap in gaps.items()}
    values = ", ".join(f"{mean[name]:.4f} ({name})" for name in sorted(mean, key=mean.__getitem__))
    title = f"Mean total variation from quadrature over the map: {values}"
    return Figure("predictive-links", title, caption, made)
