"""Classifiers on the plane: several posteriors of one model, seen near the data and far away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from probml_tp.diagnostics import to_inference_data
from probml_tp.empirical import Empirical
from probml_tp.guides.recipes import FitSettings, one_of_each_family
from probml_tp.harness.experiment import Figure, Progress, Results, Update
from probml_tp.inference.parallel import single_thread
from probml_tp.kit.common import (
    CLASSIFICATION_COLUMNS,
    Array,
    by_guide,
    labels_of,
    percent,
    span,
)
from probml_tp.metrics.accuracy import classification_metrics, total_variation
from probml_tp.plots.classification import (
    PlotMap,
    confidence_panels,
    map_panels,
    plot_boundary,
    plot_labelled_points,
)
from probml_tp.posterior import Posterior

if TYPE_CHECKING:
    import arviz as az
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

REFERENCE = "nuts"
"""The posterior that the others are compared with."""

NO_INFORMATION = 1e-6
"""Mutual information, in nats, below which a map of it is rounding noise (MAP has none)."""

TIE = 0.1
"""Distances to NUTS count as equal if they differ by this share: draws alone move them so far."""

Data = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Plane:
    """Where a classifier on the plane is looked at: on a grid, and on rings around the data.

    Args:
        extent: left, right, bottom and top of the grid, in the units of the inputs.
        resolution: grid points along each axis.
        centre: of the rings.
        radius: of the largest ring.
        num_radii: rings, evenly spaced from radius 0 on.
        num_angles: points on each ring.
    """

    extent: tuple[float, float, float, float]
    resolution: int
    centre: tuple[float, float]
    radius: float
    num_radii: int = 31
    num_angles: int = 360

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

    def rings(self) -> Array:
        """The points of the rings, from the smallest on, ``(num_radii * num_angles, 2)``."""
        angle = np.deg2rad(self.angles)
        directions: Array = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        points: Array = np.array(self.centre) + self.radii[:, None, None] * directions
        return points.reshape(-1, 2)

    def arrays(self) -> dict[str, Array]:
        """What figures need to know of it."""
        return {
            "extent": np.array(self.extent),
            "centre": np.array(self.centre),
            "radii": self.radii,
            "angles": self.angles,
        }


def ring(centre: Array | Sequence[float], *, radius: float, points: int) -> Array:
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
        probability: of class 1, ``(resolution, resolution)``, the first row at the bottom.
        mutual_information: in nats, likewise.
        variation_ratio: likewise.
        confidence: on the rings, ``(num_radii, num_angles)``.
    """

    probability: Array
    mutual_information: Array
    variation_ratio: Array
    confidence: Array

    @property
    def far_confidence(self) -> float:
        """Mean confidence on the largest ring."""
        return float(self.confidence[-1].mean())

    def distance(self, reference: PlaneView) -> float:
        """Mean total variation distance of the predictive to another one's over the grid."""
        p, q = (
            torch.from_numpy(np.stack([1 - view.probability, view.probability], axis=-1))
            for view in (self, reference)
        )
        return float(total_variation(p, q).mean())

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
        num_samples: draws to average over, the same for all points.

    Returns:
        Probabilities and uncertainties.
    """
    grid, rings = plane.grid(), plane.rings()
    points = torch.from_numpy(np.concatenate([grid, rings]))
    predictive = posterior.predict(points, num_samples=num_samples, batch_size=5000)

    def on_grid(values: Tensor) -> Array:
        return values[: len(grid)].numpy().reshape(plane.resolution, plane.resolution)

    confidence = predictive.confidence[len(grid) :].numpy()
    return PlaneView(
        probability=on_grid(predictive.probs[:, 1]),
        mutual_information=on_grid(predictive.mutual_information),
        variation_ratio=on_grid(predictive.variation_ratio),
        confidence=confidence.reshape(plane.num_radii, plane.num_angles),
    )


@dataclass(frozen=True)
class PlaneStudy:
    """Several posteriors of one model, and what they say of the plane.

    Args:
        posteriors: by guide.
        views: by guide.
        metrics: guide to metric to value, for the columns of :func:`plane_columns`.
        records: ArviZ records at the training data, by guide.
        arrays: what the figures need, under the names that :func:`by_guide` expects.
    """

    posteriors: dict[str, Posterior]
    views: dict[str, PlaneView]
    metrics: dict[str, dict[str, float]]
    records: dict[str, az.InferenceData]
    arrays: dict[str, Array]


def plane_stages(seconds: Mapping[str, float], *, predict: float) -> dict[str, float]:
    """The stages of :func:`study_on_plane`.

    Args:
        seconds: guide to the seconds expected of its fit, in the order of the fits.
        predict: seconds expected of all predictions.

    Returns:
        Stage to seconds.
    """
    fits = {f"fit {guide}": value for guide, value in seconds.items()}
    return {**fits, "predict": predict, "records for ArviZ": 0.3 * len(fits)}


def study_on_plane(
    guides: Sequence[str],
    fit_guide: Callable[[str, Mapping[str, Posterior], Update], Posterior],
    *,
    recipes: FitSettings,
    plane: Plane,
    train: Data,
    test: Data,
    num_samples: int,
    progress: Progress,
) -> PlaneStudy:
    """Fit posteriors, look at the plane with each, and compare them with NUTS if it is there.

    Args:
        guides: which.
        fit_guide: fits one; called with its name, with the posteriors found before, and with what
            to report progress to.
        recipes: know the order of the fits.
        plane: where to look.
        train: training data.
        test: fresh data to judge the predictions by.
        num_samples: draws for each prediction; of chains all draws are used.
        progress: told of the stages that :func:`plane_stages` lists.

    Returns:
        All that was found.
    """
    fitted: dict[str, Posterior] = {}
    for guide in recipes.order(guides):
        with progress.stage(f"fit {guide}") as update:
            fitted[guide] = fit_guide(guide, fitted, update)
    posteriors = {guide: fitted[guide] for guide in guides}
    with progress.stage("predict"), single_thread():
        draws = {g: number_of_draws(posterior, num_samples) for g, posterior in posteriors.items()}
        views = {
            guide: look_at_plane(posterior, plane, num_samples=draws[guide])
            for guide, posterior in posteriors.items()
        }
        rows = {
            guide: classification_metrics(posterior, *test, num_samples=draws[guide])
            | _plane_metrics(guide, views)
            | {"seconds": fitted[guide].info.total_seconds}
            for guide, posterior in posteriors.items()
        }
    with progress.stage("records for ArviZ"):
        records = {
            guide: to_inference_data(posterior, *train, num_samples=num_samples)
            for guide, posterior in posteriors.items()
        }
    arrays = {"x": train[0].numpy(), "y": train[1].numpy(), **plane.arrays()}
    for guide, view in views.items():
        arrays |= view.arrays(guide)
    return PlaneStudy(posteriors, views, rows, records, arrays)


def number_of_draws(posterior: Posterior, num_samples: int) -> int:
    """The draws to predict with: all that chains have, else as many as are asked for."""
    guide = posterior.guide
    return len(guide.flat.flatten(0, 1)) if isinstance(guide, Empirical) else num_samples


def compared_with(view: PlaneView, reference: PlaneView) -> dict[str, float]:
    """How far one view is from another.

    Args:
        view: what a posterior predicts.
        reference: what the reference predicts.

    Returns:
        ``far_confidence``; ``tv``, the mean total variation distance over the grid;
        ``mi_ratio`` and ``mi_correlation`` of the mutual information, where there is some.
    """
    row = {"far_confidence": view.far_confidence, "tv": view.distance(reference)}
    own, other = (v.mutual_information.ravel() for v in (view, reference))
    if own.max() > NO_INFORMATION < other.max():
        row["mi_correlation"] = float(np.corrcoef(own, other)[0, 1])
        row["mi_ratio"] = float(own.mean() / other.mean())
    return row


def _plane_metrics(guide: str, views: Mapping[str, PlaneView]) -> dict[str, float]:
    if REFERENCE not in views or guide == REFERENCE:
        return {"far_confidence": views[guide].far_confidence}
    return compared_with(views[guide], views[REFERENCE])


def plane_columns(plane: Plane) -> dict[str, str]:
    """Headings of the metrics of a study.

    Args:
        plane: where it looked.

    Returns:
        Metric to heading.
    """
    return {
        **CLASSIFICATION_COLUMNS,
        "far_confidence": f"Confidence at {plane.radius:g}",
        "tv": "TV to NUTS ↓",
        "mi_correlation": "MI corr. with NUTS ↑",
        "mi_ratio": "Mean MI over NUTS's",
    }


def far_away(metrics: Mapping[str, Mapping[str, float]], radius: float) -> str:
    """Say how confident the guides are far from the data.

    Args:
        metrics: of a study.
        radius: the distance.

    Returns:
        A sentence.
    """
    confidence = {guide: row["far_confidence"] for guide, row in metrics.items()}
    spread = span(confidence, percent, reference=REFERENCE)
    return f"Mean confidence at distance {radius:g} from the centre of the data runs {spread}."


def closest_to_reference(metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Say whose predictions are nearest to those of NUTS, and whose are furthest from them.

    Guides whose distances differ by a tenth at most share the first place.

    Args:
        metrics: of a study.

    Returns:
        One sentence; none without NUTS or without anything to compare it with.
    """
    tv = {guide: row["tv"] for guide, row in metrics.items() if "tv" in row}
    if not tv:
        return []
    least, most = min(tv.values()), max(tv, key=tv.__getitem__)
    near = [guide for guide in tv if tv[guide] <= least * (1 + TIE)]
    distances = " and ".join(f"{tv[guide]:.3f}" for guide in near)
    sentence = (
        f"Over the map {labels_of(near)} predict{'s' if len(near) == 1 else ''} most like NUTS "
        f"(mean total variation distance {distances})"
    )
    rest = "" if most in near else f", {labels_of([most])} least ({tv[most]:.3f})"
    return [f"{sentence}{rest}."]


def share_of_map(
    arrays: Mapping[str, Array],
    guides: Sequence[str],
    quantity: str,
    holds: Callable[[Array], Array],
) -> str:
    """Say on how much of the map something holds.

    Args:
        arrays: of a study.
        guides: which posteriors.
        quantity: the map to look at, for example ``"variation_ratio"``.
        holds: gives truth values for a map.

    Returns:
        Words to follow "runs": the range of the shares over the guides.
    """
    maps = by_guide(arrays, guides, quantity)
    shares = {guide: float(np.mean(holds(values))) for guide, values in maps.items()}
    return span(shares, lambda share: percent(share, 0), reference=REFERENCE)


def map_figure(
    arrays: Mapping[str, Array], guides: Sequence[str], quantity: str, *, plot: PlotMap, label: str
) -> MatplotlibFigure:
    """Draw the maps of one quantity, with the data and the decision boundaries.

    Args:
        arrays: of a study.
        guides: which posteriors, in this order.
        quantity: for example ``"probability"``.
        plot: draws one map.
        label: what the colours mean, with the unit.

    Returns:
        The figure.
    """
    probability = by_guide(arrays, guides, "probability")

    def decorate(guide: str, ax: Axes) -> None:
        plot_labelled_points(arrays["x"], arrays["y"], ax=ax)
        plot_boundary(probability[guide], extent=arrays["extent"], ax=ax)

    return map_panels(
        by_guide(arrays, guides, quantity),
        extent=arrays["extent"],
        plot=plot,
        label=label,
        decorate=decorate,
    )


def confidence_figure(results: Results[Any], remark: str) -> Figure:
    """Draw the confidence with distance from the data, and on the largest ring.

    Of many guides only one of each family is drawn.

    Args:
        results: with the arrays and metrics of a study, and options ``guides`` and ``radius``.
        remark: what the caption says of the right panel besides.

    Returns:
        The figure, its title the range of confidences far away.
    """
    arrays, config = results.arrays, results.config
    distance = np.linalg.norm(arrays["x"] - arrays["centre"], axis=1)
    drawn = one_of_each_family(config.guides)
    made = confidence_panels(
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
    title = far_away(results.metrics, config.radius)
    return Figure("confidence-far-away", title, caption, made)
