r"""Single draws of a classifier as maps: one function, or another draw at every point.

A dropout net with a fresh mask for each example has the right distribution at every single point,
so its averages are those of consistent draws; but what it draws is no function: neighbouring points
are unrelated. The same holds of any posterior whose parameters are drawn anew for each point.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch.func import vmap

from probml_tp.experiments.plane.kit import Plane
from probml_tp.harness.experiment import Table
from probml_tp.kit.common import Array, Intervals, Rows, labels_of
from probml_tp.metrics.over_runs import mean_interval
from probml_tp.posterior import Posterior

if TYPE_CHECKING:
    from probml_tp.likelihoods import ClassificationLikelihood

SINGLE = ("mc-dropout", "mean-field")
"""The guides whose single draws are shown."""


def function_maps(posterior: Posterior, plane: Plane, *, num_maps: int, seed: int) -> Array:
    """Maps of the probability of class 1, each of one draw of the parameters."""
    predicted = posterior.predict(
        plane.grid(), num_samples=num_maps, keep_outputs=True, batch_size=5000, seed=seed
    )
    return _as_maps(_probability(posterior, predicted.require_outputs()), plane)


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
    return _as_maps(_probability(posterior, outputs).reshape(num_maps, -1), plane)


def _probability(posterior: Posterior, outputs: torch.Tensor) -> Array:
    likelihood = cast("ClassificationLikelihood", posterior.model.likelihood)
    probability: Array = likelihood.log_probs(outputs)[..., 1].exp().numpy()
    return probability


def _as_maps(values: Array, plane: Plane) -> Array:
    return values.reshape(len(values), plane.resolution, plane.resolution)


def roughness(maps: Array) -> Array:
    """The mean absolute difference of neighbouring points of each map."""
    across, along = np.abs(np.diff(maps, axis=2)), np.abs(np.diff(maps, axis=1))
    total = across.sum((1, 2)) + along.sum((1, 2))
    mean: Array = total / (across[0].size + along[0].size)
    return mean


def roughness_table(maps: Mapping[str, tuple[Array, Array]]) -> Table:
    """The roughness of both kinds of maps."""
    metrics: Rows = {}
    intervals: Intervals = {}
    for guide, (functions, points) in maps.items():
        metrics[guide], intervals[guide] = {}, {}
        for name, drawn in (("one_draw", functions), ("draw_a_point", points)):
            found = mean_interval(roughness(drawn))
            metrics[guide][name] = found.mean
            if found.interval is not None:
                intervals[guide][name] = found.interval
        metrics[guide]["times"] = metrics[guide]["draw_a_point"] / metrics[guide]["one_draw"]
        metrics[guide]["means_apart"] = float(np.abs(functions.mean(0) - points.mean(0)).mean())
    return Table(
        title=(
            f"Single draws over the map: mean absolute difference of neighbouring points "
            f"({len(next(iter(maps.values()))[0])} draws of each kind, Student's t intervals at "
            f"95 %), and how far apart the averages of the two kinds are"
        ),
        row_heading="Posterior",
        rows=metrics,
        columns={
            "one_draw": "One draw for all points",
            "draw_a_point": "A draw a point",
            "times": "Ratio",
            "means_apart": "Mean TV of averages",
        },
        intervals=intervals,
    )


def rougher(metrics: Mapping[str, Mapping[str, float]], guides: Iterable[str] = SINGLE) -> str:
    """Say how much rougher a draw a point is."""
    parts = [
        f"{metrics[guide]['draw_a_point']:.4f} instead of {metrics[guide]['one_draw']:.4f} under "
        f"{labels_of([guide])} ({metrics[guide]['times']:.0f} times)"
        for guide in guides
        if guide in metrics
    ]
    return (
        "Drawn anew at every point, neighbouring points of a single map differ on average by "
        f"{' and '.join(parts)}: averages are the same, but such a draw is no function."
    )
