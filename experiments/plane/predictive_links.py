r"""From a normal logit to a probability: draws, MacKay's probit and the Laplace bridge.

In logistic regression the logit is linear in the weights, so a normal posterior makes it normal at
every point, :math:`f(x) \sim \mathcal N(m(x), v(x))`, with nothing linearised away. The probability
is then an integral in one dimension, which quadrature gives to machine precision: the ways to
approximate it can be judged by their own error alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probml_tp.experiments.plane.kit import Plane
from probml_tp.guides import LinearizedLaplace
from probml_tp.harness.experiment import Table
from probml_tp.inference import fit
from probml_tp.kit.common import Array
from probml_tp.metrics.over_runs import MeanInterval, mean_interval
from probml_tp.posterior import Posterior
from probml_tp.predictions.links import logistic_normal

EXACT_LINK = "quadrature"

LINKS: Mapping[str, str] = {
    EXACT_LINK: "Quadrature",
    "sampled": "Sampling",
    "probit": "MacKay's probit",
    "laplace-bridge": "Laplace bridge",
}
"""Ways to a probability, the exact one first, and what figures and tables call them."""

BRIDGE_READING = "for two classes its mean is the prediction of the mode, the variance cancels"
SAMPLED_RUNS = 10
RAY_POINTS = 201
OFF_BOUNDARY = 20.0
"""Degrees between the ray and the decision boundary: far enough from it to predict one class."""


@dataclass(frozen=True)
class LinkStudy:
    """How near each way to a probability is to the integral."""

    table: Table
    arrays: dict[str, Array]
    sampled: MeanInterval
    num_samples: int


def compare_links(
    laplace: Posterior, data: tuple[Tensor, Tensor], *, plane: Plane, num_samples: int
) -> LinkStudy:
    """Predict on a plane in every way, by one and the same normal posterior."""
    normal = fit(laplace.model, LinearizedLaplace, data, init=laplace, epochs=0, progress=False)
    grid, rings = plane.grid(), plane.rings()[-plane.num_angles :]
    ray, distance = _ray(normal, plane)
    points = torch.from_numpy(np.concatenate([grid, rings, ray]))
    probs = {EXACT_LINK: _exact(normal, points)}
    for link in ("sampled", "probit", "laplace-bridge"):
        predicted = normal.predict(points, link=link, num_samples=num_samples, batch_size=5000)
        probs[link] = predicted.probs[:, 1].numpy()
    ends = (len(grid), len(grid) + len(rings))
    on_grid, far, on_ray = zip(*(np.split(p, ends) for p in probs.values()), strict=True)
    gaps = {link: p - on_grid[0] for link, p in zip(probs, on_grid, strict=True)}
    runs = [_sampled_gap(normal, grid, on_grid[0], num_samples, run) for run in range(SAMPLED_RUNS)]
    sampled = mean_interval([mean for mean, _ in runs])
    table = _table(gaps, dict(zip(probs, far, strict=True)), sampled, plane)
    table.metrics[LINKS["sampled"]]["tv_max"] = float(np.mean([most for _, most in runs]))
    side = (plane.resolution, plane.resolution)
    arrays = {"ray.distance": distance, f"{EXACT_LINK}.probability": on_grid[0].reshape(side)}
    for link, values in zip(probs, on_ray, strict=True):
        arrays |= {f"ray.{link}": values, f"gap.{link}": gaps[link].reshape(side)}
    return LinkStudy(table, arrays, sampled, num_samples)


def _moments(normal: Posterior, points: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the logit at each point."""
    moments = normal.guide.function_moments(normal.model.check_inputs(points))
    assert moments is not None  # noqa: S101 - LinearizedLaplace has them
    return moments[0][:, 0], moments[1][:, 0, 0]


def _exact(normal: Posterior, points: Tensor) -> Array:
    probability: Array = logistic_normal(*_moments(normal, points)).numpy()
    return probability


def _ray(normal: Posterior, plane: Plane) -> tuple[Array, Array]:
    """Points from the centre outwards, near the boundary but on the side of class 1."""
    w = normal.guide.centre()["weight"].flatten().numpy()
    angle = np.arctan2(w[1], w[0]) + np.deg2rad(90.0 - OFF_BOUNDARY)
    distance = np.linspace(0.0, plane.radius, RAY_POINTS)
    direction = np.array([np.cos(angle), np.sin(angle)])
    return np.array(plane.centre) + distance[:, None] * direction, distance


def _sampled_gap(
    normal: Posterior, grid: Array, exact: Array, num_samples: int, run: int
) -> tuple[float, float]:
    """Mean and largest total variation of sampling with draws of its own."""
    predicted = normal.predict(
        torch.from_numpy(grid), link="sampled", num_samples=num_samples, batch_size=5000, seed=run
    )
    gap = np.abs(predicted.probs[:, 1].numpy() - exact)
    return float(gap.mean()), float(gap.max())


def _table(
    gaps: Mapping[str, Array], far: Mapping[str, Array], sampled: MeanInterval, plane: Plane
) -> Table:
    metrics = {
        LINKS[link]: {
            "tv_mean": float(np.abs(gaps[link]).mean()),
            "tv_max": float(np.abs(gaps[link]).max()),
            "far_confidence": float(np.maximum(far[link], 1 - far[link]).mean()),
        }
        for link in gaps
    }
    metrics[LINKS["sampled"]]["tv_mean"] = sampled.mean
    assert sampled.interval is not None  # noqa: S101 - of several runs
    return Table(
        title=(
            f"The predictive of the Laplace posterior in closed form and by draws: total variation "
            f"from quadrature over the map (sampling: mean of {SAMPLED_RUNS} runs with other "
            f"draws, Student's t interval at 95 %)"
        ),
        row_heading="Predictive by",
        rows=metrics,
        columns={
            "tv_mean": "Mean TV ↓",
            "tv_max": "Largest TV ↓",
            "far_confidence": f"Confidence at {plane.radius:g}",
        },
        intervals={LINKS["sampled"]: {"tv_mean": sampled.interval}},
    )


def link_sentence(study: LinkStudy) -> str:
    """Say which way is nearest to the integral, and how many draws would be as near as probit."""
    rows = study.table.metrics
    probit, bridge = (rows[LINKS[link]] for link in ("probit", "laplace-bridge"))
    assert study.sampled.interval is not None  # noqa: S101 - of several runs
    low, high = study.sampled.interval
    as_near = study.num_samples * (study.sampled.mean / probit["tv_mean"]) ** 2
    return (
        f"MacKay's probit approximation is at a total variation of {probit['tv_mean']:.4f} on "
        f"average over the map, {probit['tv_max']:.4f} at most, from the predictive of the same "
        f"Laplace posterior by quadrature; sampling with {study.num_samples} draws at "
        f"{study.sampled.mean:.4f} on average (95 % interval over {SAMPLED_RUNS} runs {low:.4f} to "
        f"{high:.4f}): it would take about {_two_digits(as_near)} draws to be as near. The Laplace "
        f"bridge is at {bridge['tv_mean']:.4f} on average, {bridge['tv_max']:.4f} at most: "
        f"{BRIDGE_READING}."
    )


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.0f}"
