"""What experiments share: seeds, the health of a chain, classifiers looked at on the plane."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from probml_tp.metrics import total_variation
from probml_tp.plots.style import guide_style
from probml_tp.posterior import Posterior

if TYPE_CHECKING:
    import arviz as az

__all__ = [
    "CLASSIFICATION_COLUMNS",
    "Array",
    "ChainHealth",
    "Plane",
    "PlaneView",
    "by_guide",
    "chain_health",
    "derived_seed",
    "labels_of",
    "look_at_plane",
    "rank_correlation",
]

Array = np.ndarray[Any, Any]

CLASSIFICATION_COLUMNS = {
    "accuracy": "Accuracy ↑",
    "nll": "NLL (nats/point) ↓",
    "brier": "Brier score (0 to 2) ↓",
    "ece": "ECE ↓",
}
"""Headings of what :func:`probml_tp.metrics.classification_scores` gives."""


def derived_seed(seed: int, purpose: str) -> int:
    """Make a seed for one purpose, unrelated to those for others and to ``seed`` itself.

    Args:
        seed: the experiment's seed.
        purpose: what the random numbers are for.

    Returns:
        A seed below 2**32.

    Example:
        >>> derived_seed(0, "test data") != derived_seed(1, "test data")
        True
    """
    words = [seed, *purpose.encode()]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def labels_of(guides: Iterable[str]) -> str:
    """List guides in prose.

    Args:
        guides: their names.

    Returns:
        Their labels, as figures have them.

    Example:
        >>> labels_of(["map", "laplace", "nuts"])
        'MAP, Laplace and NUTS'
    """
    labels = [guide_style(guide).label for guide in guides]
    return " and ".join(filter(None, [", ".join(labels[:-1]), labels[-1]]))


def by_guide(arrays: Mapping[str, Array], guides: Iterable[str], name: str) -> dict[str, Array]:
    """Pick one array of each guide.

    Args:
        arrays: an experiment's arrays, those of a guide under ``"<guide>.<name>"``.
        guides: the guides.
        name: which array.

    Returns:
        Guide to array, for the guides that have it.
    """
    keys = {guide: f"{guide}.{name}" for guide in guides}
    return {guide: arrays[key] for guide, key in keys.items() if key in arrays}


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's rank correlation of two arrays, flattened.

    Args:
        a: values.
        b: as many values.

    Returns:
        The correlation, in [-1, 1]; NaN if one of the arrays is constant.
    """
    from scipy.stats import spearmanr

    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a.ravel(), b.ravel()).statistic)


@dataclass(frozen=True)
class ChainHealth:
    """Whether Markov chains have converged, by the worst of the quantities watched.

    Args:
        r_hat: the largest rank-normalised split R-hat (Vehtari et al. 2021).
        ess: the smallest bulk effective sample size, in draws.
        divergences: the number of divergent transitions.
    """

    r_hat: float
    ess: float
    divergences: int

    def sentence(self, watched: str) -> str:
        """Say it in words.

        Args:
            watched: what the numbers were taken over.

        Returns:
            A sentence for the findings.
        """
        verdict = "usable as the reference" if self.r_hat < 1.05 else "a provisional reference only"
        return (
            f"NUTS is {verdict}: over {watched} the largest R-hat is {self.r_hat:.3f} and the "
            f"smallest bulk effective sample size {self.ess:.0f}, with {self.divergences} "
            f"divergent transitions."
        )


def chain_health(record: az.InferenceData, *, group: str = "posterior") -> ChainHealth:
    """Judge the chains of an ArviZ record.

    Args:
        record: of chains, with ``sample_stats``.
        group: ``"posterior"`` to watch the parameters, ``"log_likelihood"`` to watch the function
            at the data, which the permutations of a net's hidden units leave alone.

    Returns:
        The worst R-hat and effective sample size over the group.
    """
    import arviz as az

    watched = record[group]
    r_hat, ess = az.rhat(watched), az.ess(watched)
    return ChainHealth(
        r_hat=max(float(values.max()) for values in r_hat.values()),
        ess=min(float(values.min()) for values in ess.values()),
        divergences=int(record["sample_stats"]["diverging"].sum()),
    )


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
    num_radii: int = 41
    num_angles: int = 180

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
        return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)

    def rings(self) -> Array:
        """The points of the rings, from the smallest on, ``(num_radii * num_angles, 2)``."""
        angle = np.deg2rad(self.angles)
        directions = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        points = np.array(self.centre) + self.radii[:, None, None] * directions
        return points.reshape(-1, 2)

    def arrays(self) -> dict[str, Array]:
        """What figures need to know of it."""
        return {"extent": np.array(self.extent), "radii": self.radii, "angles": self.angles}


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
    def confidence_far_away(self) -> float:
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
    predictive = posterior.predict(points, num_samples=num_samples)

    def on_grid(values: Tensor) -> Array:
        return values[: len(grid)].numpy().reshape(plane.resolution, plane.resolution)

    confidence = predictive.confidence[len(grid) :].numpy()
    return PlaneView(
        probability=on_grid(predictive.probs[:, 1]),
        mutual_information=on_grid(predictive.mutual_information),
        variation_ratio=on_grid(predictive.variation_ratio),
        confidence=confidence.reshape(plane.num_radii, plane.num_angles),
    )
