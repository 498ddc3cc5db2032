"""What the experiment logistic-regression shows, from its results alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from probml_tp.experiments.plane import kit_figures
from probml_tp.experiments.plane.predictive_links import EXACT_LINK, LINKS
from probml_tp.harness.experiment import Figure, Results
from probml_tp.kit.common import Array
from probml_tp.plots.classification import plot_map, plot_probability
from probml_tp.plots.style import figure, house_style, label_outside

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

LINES = (("#000000", "-"), ("#D55E00", ":"), ("#0072B2", "--"), ("#009E73", "-."))
"""Colour and line of each way to a probability, the exact one first."""


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the maps, the confidence away from the data, and the ways to a probability."""
    doubt = kit_figures.spread_over_map(results, "probability", lambda p: (p > 0.1) & (p < 0.9))
    yield kit_figures.map_figure(
        results,
        "probability",
        plot=plot_probability,
        label="Probability of class 1",
        title=f"The share of the map where confidence is below 90 % runs {doubt}",
        caption=f"{kit_figures.MAP_CAPTION} Averaging over boundaries turns the sharp edge of a "
        "single one into a fan: doubt grows with distance.",
    )
    yield kit_figures.confidence_figure(
        results, "; it dips to 50 % where the ring crosses the boundary."
    )
    if f"ray.{EXACT_LINK}" in results.arrays:
        yield _links(results)


def _links(results: Results[Any]) -> Figure:
    gaps = {name: results.arrays[f"gap.{link}"] for link, name in LINKS.items()}
    gaps.pop(LINKS[EXACT_LINK])
    caption = (
        "The predictive of one Laplace posterior, whose logits are exactly normal. Left: along a "
        "ray 20 degrees off the decision boundary. Right: the probability of class 1 less that "
        f"by quadrature, over the map; sampling with {results.config.num_samples} draws, the "
        "same at all points. Each map has its own scale."
    )
    mean = {name: float(np.abs(gap).mean()) for name, gap in gaps.items()}
    values = ", ".join(f"{mean[name]:.4f} ({name})" for name in sorted(mean, key=mean.__getitem__))
    title = f"Mean total variation from quadrature over the map: {values}"
    return Figure("predictive-links", title, caption, _link_panels(results.arrays, gaps))


@house_style()
def _link_panels(arrays: Mapping[str, Array], gaps: Mapping[str, Array]) -> MatplotlibFigure:
    """Probabilities along a ray, and maps of their differences from the exact ones."""
    made, axes = figure(2, 2, height=6.0)
    ray, *maps = axes.flat
    distance = arrays["ray.distance"]
    for (link, name), (color, line) in zip(LINKS.items(), LINES, strict=True):
        ray.plot(distance, arrays[f"ray.{link}"], color=color, linestyle=line, label=name)
    ray.set_xlabel("Distance from the centre of the data (units of $x$)")
    ray.set_ylabel("Probability of class 1")
    ray.set_xlim(0, distance[-1])
    ray.set_title("Along a ray")
    ray.legend()
    for (name, gap), ax in zip(gaps.items(), maps, strict=True):
        most = float(np.abs(gap).max())
        plot_map(gap, extent=arrays["extent"], ax=ax, cmap="PuOr", low=-most, high=most)
        ax.set_title(f"{name} less {EXACT_LINK}")
        ax.grid(visible=False)
        made.colorbar(ax.images[0], ax=ax, label="Difference of probability")
    label_outside(np.array([maps]), len(gaps), x="$x_1$", y="$x_2$")
    for ax in maps[1:]:
        ax.set_ylabel("$x_2$")
    return made
