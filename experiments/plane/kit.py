"""Classifiers on the plane: several posteriors of one model, seen near the data and far away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probml_tp.diagnostics import elbo, to_inference_data
from probml_tp.empirical import Empirical
from probml_tp.guides.gaussian import StructuredNormal
from probml_tp.guides.recipes import FitSettings, fit_all
from probml_tp.harness.experiment import MAIN_TABLE, Progress, Results, Table
from probml_tp.inference.parallel import single_thread
from probml_tp.kit.common import CLASSIFICATION_COLUMNS, FIT_COLUMN, Array
from probml_tp.kit.sentences import BestWorst, Range, shares
from probml_tp.metrics.accuracy import classification_metrics, total_variation
from probml_tp.metrics.over_runs import mean_interval
from probml_tp.model import BayesianModel
from probml_tp.posterior import Posterior

REFERENCE = "nuts"
"""The posterior that the others are compared with."""

NO_INFORMATION = 1e-6
"""Mutual information, in nats, below which a map of it is rounding noise (MAP has none)."""

TO_REFERENCE = {
    "tv": "TV to NUTS ↓",
    "mi_correlation": "MI corr. with NUTS ↑",
    "mi_ratio": "Mean MI over NUTS's",
}
"""Headings of how far a posterior is from the reference."""

FAR_AWAY = Range(
    "far_confidence",
    "Mean confidence at distance {config.radius:g} from the centre of the data runs {range}.",
    write=shares(),
    reference=REFERENCE,
)
_NEAREST = (
    "Over the map {best} predict{verb} most like NUTS (mean total variation distance {value})"
)
NEAREST = BestWorst(
    "tv",
    f"{_NEAREST}, {{worst}} least ({{last}}).",
    alone=f"{_NEAREST}.",
    tie=0.1,  # draws alone move distances so far
    write="{:.3f}".format,
)

Data = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Plane:
    """Where a classifier on the plane is looked at: on a grid, and on rings around the data.

    Args:
        centre: of the grid and of the rings, in the units of the inputs.
        half_width: of the grid.
        resolution: grid points along each axis.
        radius: of the largest ring.
        num_radii: rings, evenly spaced from radius 0 on.
        num_angles: points on each ring.
    """

    centre: tuple[float, float]
    half_width: float
    resolution: int
    radius: float
    num_radii: int = 31
    num_angles: int = 120

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of the grid."""
        (x, y), e = self.centre, self.half_width
        return x - e, x + e, y - e, y + e

    @property
    def radii(self) -> Array:
        """Radii of the rings, ``(num_radii,)``."""
        return np.linspace(0.0, self.radius, self.num_radii)

    @property
    def angles(self) -> Array:
        """Directions of the points on a ring, in degrees, ``(num_angles,)``."""
        return np.arange(self.num_angles) * 360.0 / self.num_angles

    def grid(self) -> Array:
        """The points of the grid, row by row from the bottom, ``(resolution**2, 2)``."""
        left, right, bottom, top = self.extent
        x, y = np.linspace(left, right, self.resolution), np.linspace(bottom, top, self.resolution)
        points: Array = np.stack(np.meshgrid(x, y), axis=-1)
        return points.reshape(-1, 2)

    def on_grid(self, values: Array) -> Array:
        """Values at the points of the grid, ``(..., resolution**2)``, as maps."""
        return values.reshape(*values.shape[:-1], self.resolution, self.resolution)

    def rings(self) -> Array:
        """The points of the rings, from the smallest on, ``(num_radii * num_angles, 2)``."""
        return np.concatenate([ring(self.centre, r, self.num_angles) for r in self.radii])


def ring(centre: Array | Sequence[float], radius: float, points: int) -> Array:
    """Points on a circle, evenly spaced.

    Args:
        centre: its centre, ``(2,)``.
        radius: its radius.
        points: how many.

    Returns:
        ``(points, 2)``, the first to the right of the centre.
    """
    angle = 2 * np.pi * np.arange(points) / points
    circle: Array = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return np.asarray(centre) + radius * circle


@dataclass(frozen=True)
class PlaneView:
    """What a posterior predicts on a plane.

    Args:
        posterior: whose view it is.
        probability: of class 1, ``(resolution, resolution)``, the first row at the bottom.
        mutual_information: in nats, likewise.
        variation_ratio: likewise.
        confidence: on the rings, ``(num_radii, num_angles)``.
    """

    posterior: Posterior
    probability: Array
    mutual_information: Array
    variation_ratio: Array
    confidence: Array

    def distance(self, reference: PlaneView) -> float:
        """Mean total variation distance of the predictive to another one's over the grid."""
        p, q = (
            torch.from_numpy(np.stack([1 - view.probability, view.probability], axis=-1))
            for view in (self, reference)
        )
        return float(total_variation(p, q).mean())

    def metrics(self, reference: PlaneView | None = None) -> dict[str, float]:
        """What tables have of it.

        Args:
            reference: the view that it is compared with, if it is.

        Returns:
            ``far_confidence``, the mean on the largest ring; ``tv``, the :meth:`distance`;
            ``mi_ratio`` and ``mi_correlation`` of the mutual information, where there is some.
        """
        row = {"far_confidence": float(self.confidence[-1].mean())}
        if reference is None:
            return row
        row["tv"] = self.distance(reference)
        own, other = (view.mutual_information.ravel() for view in (self, reference))
        if own.max() > NO_INFORMATION < other.max():
            row["mi_correlation"] = float(np.corrcoef(own, other)[0, 1])
            row["mi_ratio"] = float(own.mean() / other.mean())
        return row

    def arrays(self, guide: str) -> dict[str, Array]:
        """What figures need of it, under the guide's name."""
        kept = {
            "probability": self.probability,
            "mutual_information": self.mutual_information,
            "variation_ratio": self.variation_ratio,
            "confidence_by_radius": self.confidence.mean(axis=1),
            "confidence_by_angle": self.confidence[-1],
        }
        return {f"{guide}.{name}": values.astype(np.float32) for name, values in kept.items()}


def look_at_plane(posterior: Posterior, plane: Plane, *, num_samples: int) -> PlaneView:
    """Predict on the grid and on the rings of a plane.

    Args:
        posterior: of a classifier with two classes and inputs of length 2.
        plane: where to look.
        num_samples: draws to average over, the same for all points; of chains all are used.

    Returns:
        Probabilities and uncertainties.
    """
    grid, rings = plane.grid(), plane.rings()
    points = torch.from_numpy(np.concatenate([grid, rings]))
    count = _number_of_draws(posterior, num_samples)
    predictive = posterior.predict(points, num_samples=count, batch_size=5000)

    def on_grid(values: Tensor) -> Array:
        return plane.on_grid(values[: len(grid)].numpy())

    confidence = predictive.confidence[len(grid) :].numpy()
    return PlaneView(
        posterior,
        probability=on_grid(predictive.probs[:, 1]),
        mutual_information=on_grid(predictive.mutual_information),
        variation_ratio=on_grid(predictive.variation_ratio),
        confidence=confidence.reshape(plane.num_radii, plane.num_angles),
    )


def _number_of_draws(posterior: Posterior, num_samples: int) -> int:
    """The draws to predict with: all that chains have, else as many as are asked for."""
    guide = posterior.guide
    return len(guide.flat.flatten(0, 1)) if isinstance(guide, Empirical) else num_samples


def plane_table(plane: Plane, **columns: str) -> Table:
    """The table of a study, still empty.

    Args:
        plane: where it looks.
        columns: headings of more metrics.

    Returns:
        A table with a row a posterior.
    """
    headings = {**CLASSIFICATION_COLUMNS, **compared_columns(plane), **columns, **FIT_COLUMN}
    return Table(MAIN_TABLE, "Posterior", columns=headings)


def compared_columns(plane: Plane) -> dict[str, str]:
    """Headings of what :meth:`PlaneView.metrics` gives."""
    return {"far_confidence": f"Confidence at {plane.radius:g}", **TO_REFERENCE}


def study_on_plane(
    results: Results[Any],
    model: BayesianModel,
    how: FitSettings,
    *,
    plane: Plane,
    train: Data,
    test: Data,
    progress: Progress,
) -> dict[str, PlaneView]:
    """Fit posteriors, look at the plane with each, and compare them with NUTS if it is there.

    Args:
        results: where all is entered; its config says which ``guides``, and ``num_samples``, the
            draws for each prediction.
        model: a classifier.
        how: the settings of the fits.
        plane: where to look.
        train: training data.
        test: fresh data to judge the predictions by.
        progress: told of the stages.

    Returns:
        What each guide predicts.
    """
    guides, num_samples = results.config.guides, results.config.num_samples
    fitted = fit_all(guides, model, train, how, stage=lambda guide: progress.stage(f"fit {guide}"))
    results.arrays |= {"x": train[0].numpy(), "y": train[1].numpy()}
    for name in ("extent", "centre", "radii", "angles"):
        results.arrays[name] = np.array(getattr(plane, name))
    with progress.stage("predict"), single_thread():
        views = {g: look_at_plane(fitted[g], plane, num_samples=num_samples) for g in guides}
        for guide, view in views.items():
            posterior = view.posterior
            count = _number_of_draws(posterior, num_samples)
            row = classification_metrics(posterior, *test, num_samples=count)
            row |= view.metrics(None if guide == REFERENCE else views.get(REFERENCE))
            results.main.put(guide, {**row, "seconds": posterior.info.total_seconds})
            results.arrays |= view.arrays(guide)
            results.posteriors[guide] = posterior
    with progress.stage("records for ArviZ"):
        for guide, view in views.items():
            record = to_inference_data(view.posterior, *train, num_samples=num_samples)
            results.inference_data[guide] = record
    return views


def evidence(posterior: Posterior, data: Data, *, num_samples: int) -> dict[str, float]:
    """The evidence as far as a guide knows it.

    Args:
        posterior: of any model.
        data: that it was fitted to.
        num_samples: draws for the bound.

    Returns:
        ``elbo`` and ``elbo_error``, its standard error, of a guide with a density; ``log_evidence``
        by Laplace's approximation, of a guide that has it.
    """
    guide = posterior.guide
    row = {"log_evidence": guide.log_evidence()} if isinstance(guide, StructuredNormal) else {}
    if guide.no_density is None:
        bound = elbo(posterior, *data, num_samples=num_samples)
        row |= {"elbo": bound.value, "elbo_error": bound.standard_error}
    return row


def put_mean(table: Table, row: str, metric: str, values: object) -> None:
    """Enter the mean over runs with Student's t interval at 95 %.

    Args:
        table: where.
        row: its name.
        metric: which.
        values: one a run, ``(n,)``; a single one has no interval.
    """
    found = mean_interval(values)
    table.put(row, {metric: found.mean}, {metric: found.interval} if found.interval else None)
