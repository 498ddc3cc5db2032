r"""Single draws of a classifier as maps: one function, or another draw at every point.

A dropout net with a fresh mask for each example has the right distribution at every single point,
so its averages are those of consistent draws; but what it draws is no function: neighbouring points
are unrelated. The same holds of any posterior whose parameters are drawn anew for each point.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.func import vmap

from probml_tp.experiments.plane.kit import Plane, PlaneView, put_mean
from probml_tp.harness.experiment import Figure, Results, Table
from probml_tp.kit.common import Array, labels_of
from probml_tp.kit.sentences import table_of
from probml_tp.plots.classification import map_panels, plot_labelled_points, plot_probability
from probml_tp.plots.style import guide_style
from probml_tp.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from probml_tp.likelihoods import ClassificationLikelihood

SINGLE = ("mc-dropout", "mean-field")
"""The guides whose single draws are shown."""

NUM_MAPS = 8
TITLE = "Single draws over the map"


def single_draws(results: Results[Any], views: Mapping[str, PlaneView], plane: Plane) -> None:
    """The roughness of both kinds of maps of each posterior, and one map of each kind."""
    table = Table(
        f"{TITLE}: mean absolute difference of neighbouring points ({NUM_MAPS} draws of each kind, "
        f"Student's t intervals at 95 %), and how far apart the averages of the two kinds are",
        "Posterior",
        columns={
            "one_draw": "One draw for all points",
            "draw_a_point": "A draw a point",
            "times": "Ratio",
            "means_apart": "Mean TV of averages",
        },
    )
    for guide in (guide for guide in SINGLE if guide in views):
        functions, points = (
            draw(views[guide].posterior, plane, num_maps=NUM_MAPS, seed=results.config.seed)
            for draw in (function_maps, pointwise_maps)
        )
        for name, maps in (("one_draw", functions), ("draw_a_point", points)):
            put_mean(table, guide, name, roughness(maps))
            results.arrays[f"{guide}.{name}"] = maps[0].astype(np.float32)
        times = table[guide, "draw_a_point"] / table[guide, "one_draw"]
        apart = np.abs(functions.mean(0) - points.mean(0)).mean()
        table.put(guide, {"times": times, "means_apart": apart})
    results.tables.append(table)


def function_maps(posterior: Posterior, plane: Plane, *, num_maps: int, seed: int) -> Array:
    """Maps of the probability of class 1, each of one draw of the parameters."""
    predicted = posterior.predict(
        plane.grid(), num_samples=num_maps, keep_outputs=True, batch_size=5000, seed=seed
    )
    return plane.on_grid(_probability(posterior, predicted.require_outputs()))


@torch.no_grad()
def pointwise_maps(posterior: Posterior, plane: Plane, *, num_maps: int, seed: int) -> Array:
    """The same with parameters drawn anew at every point of the grid."""
    model = posterior.model
    x = model.check_inputs(plane.grid())
    draws = posterior.draws(num_maps * len(x), seed=seed)

    def at_one(params: Mapping[str, torch.Tensor], point: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = model.outputs(params, point.unsqueeze(0))
        return outputs[0]

    outputs = vmap(at_one, chunk_size=10_000)(draws, x.repeat(num_maps, 1))
    return plane.on_grid(_probability(posterior, outputs).reshape(num_maps, -1))


def _probability(posterior: Posterior, outputs: torch.Tensor) -> Array:
    likelihood = cast("ClassificationLikelihood", posterior.model.likelihood)
    probability: Array = likelihood.log_probs(outputs)[..., 1].exp().numpy()
    return probability


def roughness(maps: Array) -> Array:
    """The mean absolute difference of neighbouring points of each map."""
    across, along = np.abs(np.diff(maps, axis=2)), np.abs(np.diff(maps, axis=1))
    total = across.sum((1, 2)) + along.sum((1, 2))
    mean: Array = total / (across[0].size + along[0].size)
    return mean


def rougher(results: Results[Any]) -> str | None:
    """How much rougher a draw a point is."""
    table = table_of(results, TITLE)
    if table is None:
        return None
    one, anew, times = map(table.column, ("one_draw", "draw_a_point", "times"))
    parts = [
        f"{anew[guide]:.4f} instead of {one[guide]:.4f} under {labels_of([guide])} "
        f"({times[guide]:.0f} times)"
        for guide in table.rows
    ]
    return (
        "Drawn anew at every point, neighbouring points of a single map differ on average by "
        f"{' and '.join(parts)}: averages are the same, but such a draw is no function."
    )


def single_figure(results: Results[Any], title: str) -> Figure:
    """Draw one map of each kind beside the average."""
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
        "Left: the probability of class 1 at one draw of the parameters, the same at all points. "
        "Middle: another draw (for dropout, another mask) at each point of the grid, as dropout "
        "layers do with the examples of a batch; right: the average over many draws."
    )
    return Figure("single-draws", title, caption, made)
