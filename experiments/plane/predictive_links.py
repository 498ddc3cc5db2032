r"""From a normal logit to a probability: draws, MacKay's probit and the Laplace bridge.

In logistic regression the logit is linear in the weights, so a normal posterior makes it normal at
every point, :math:`f(x) \sim \mathcal N(m(x), v(x))`, with nothing linearised away. The probability
is then an integral in one dimension, which quadrature gives to machine precision: the ways to
approximate it can be judged by their own error alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from probml_tp.experiments.plane.kit import Data, Plane, put_mean
from probml_tp.guides import LinearizedLaplace
from probml_tp.harness.experiment import Figure, Results, Table
from probml_tp.inference import fit
from probml_tp.kit.common import Array
from probml_tp.kit.sentences import table_of
from probml_tp.plots.classification import plot_map
from probml_tp.plots.style import figure, house_style
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

LINES = (("#000000", "-"), ("#D55E00", ":"), ("#0072B2", "--"), ("#009E73", "-."))
"""Their colours and lines."""

SAMPLED_RUNS = 10
RAY_POINTS = 201
OFF_BOUNDARY = 20.0
"""Degrees between the ray and the decision boundary: far enough from it to predict one class."""

TITLE = "The predictive of the Laplace posterior in closed form and by draws"


def compare_links(results: Results[Any], laplace: Posterior, data: Data, *, plane: Plane) -> None:
    """Predict on a plane in every way, by one and the same normal posterior."""
    num_samples = results.config.num_samples
    normal = fit(laplace.model, LinearizedLaplace, data, init=laplace, epochs=0, progress=False)
    grid, rings = plane.grid(), plane.rings()[-plane.num_angles :]
    ray, distance = _ray(normal, plane)
    points = np.concatenate([grid, rings, ray])
    ends = (len(grid), len(grid) + len(rings))
    table = Table(
        f"{TITLE}: total variation from quadrature over the map (sampling: mean of {SAMPLED_RUNS} "
        f"runs with other draws, Student's t interval at 95 %)",
        "Predictive by",
        columns={
            "tv_mean": "Mean TV ↓",
            "tv_max": "Largest TV ↓",
            "far_confidence": f"Confidence at {plane.radius:g}",
        },
    )
    exact, arrays = _exact(normal, points), results.arrays
    arrays["ray.distance"] = distance
    arrays[f"{EXACT_LINK}.probability"] = plane.on_grid(exact[: len(grid)])
    for link, name in LINKS.items():
        probs = exact if link == EXACT_LINK else _by_link(normal, points, link, num_samples)
        on_grid, far, on_ray = np.split(probs, ends)
        gap = on_grid - exact[: len(grid)]
        arrays |= {f"ray.{link}": on_ray, f"gap.{link}": plane.on_grid(gap)}
        tv = {"tv_mean": np.abs(gap).mean(), "tv_max": np.abs(gap).max()}
        table.put(name, {**tv, "far_confidence": np.maximum(far, 1 - far).mean()})
    gaps = [
        np.abs(_by_link(normal, grid, "sampled", num_samples, seed=run) - exact[: len(grid)])
        for run in range(SAMPLED_RUNS)
    ]
    put_mean(table, LINKS["sampled"], "tv_mean", [gap.mean() for gap in gaps])
    table.put(LINKS["sampled"], {"tv_max": np.mean([gap.max() for gap in gaps])})
    results.tables.append(table)


def _by_link(
    normal: Posterior, points: Array, link: str, num_samples: int, seed: int | None = None
) -> Array:
    """The probability of class 1 in one way."""
    where = torch.from_numpy(points)
    options: Any = {"link": link, "num_samples": num_samples, "batch_size": 5000, "seed": seed}
    probability: Array = normal.predict(where, **options).probs[:, 1].numpy()
    return probability


def _exact(normal: Posterior, points: Array) -> Array:
    """The same by quadrature over the logit."""
    moments = normal.guide.function_moments(normal.model.check_inputs(points))
    assert moments is not None  # noqa: S101 - LinearizedLaplace has them
    probability: Array = logistic_normal(moments[0][:, 0], moments[1][:, 0, 0]).numpy()
    return probability


def _ray(normal: Posterior, plane: Plane) -> tuple[Array, Array]:
    """Points from the centre outwards, near the boundary but on the side of class 1."""
    w = normal.guide.centre()["weight"].flatten().numpy()
    angle = np.arctan2(w[1], w[0]) + np.deg2rad(90.0 - OFF_BOUNDARY)
    distance = np.linspace(0.0, plane.radius, RAY_POINTS)
    direction = np.array([np.cos(angle), np.sin(angle)])
    return np.array(plane.centre) + distance[:, None] * direction, distance


def nearest_link(results: Results[Any]) -> str | None:
    """Which way is nearest to the integral, and how many draws would be as near as probit."""
    table = table_of(results, TITLE)
    if table is None:
        return None
    mean, most, draws = table.column("tv_mean"), table.column("tv_max"), results.config.num_samples
    sampled, probit, bridge = (LINKS[link] for link in ("sampled", "probit", "laplace-bridge"))
    low, high = table.ends("tv_mean")[sampled]
    as_near = float(f"{draws * (mean[sampled] / mean[probit]) ** 2:.2g}")
    return (
        f"MacKay's probit approximation is at a total variation of {mean[probit]:.4f} on "
        f"average over the map, {most[probit]:.4f} at most, from the predictive of the same "
        f"Laplace posterior by quadrature; sampling with {draws} draws at {mean[sampled]:.4f} on "
        f"average (95 % interval over {SAMPLED_RUNS} runs {low:.4f} to {high:.4f}): it would take "
        f"about {as_near:,.0f} draws to be as near. The Laplace bridge is at {mean[bridge]:.4f} on "
        f"average, {most[bridge]:.4f} at most: for two classes its mean is the prediction of the "
        f"mode, the variance cancels."
    )


@house_style()
def link_figure(results: Results[Any]) -> Figure:
    """Draw probabilities along a ray, and maps of their differences from the exact ones."""
    arrays = results.arrays
    made, axes = figure(2, 2, height=6.0)
    ray, *maps = axes.flat
    distance = arrays["ray.distance"]
    for (link, name), (color, line) in zip(LINKS.items(), LINES, strict=True):
        ray.plot(distance, arrays[f"ray.{link}"], color=color, linestyle=line, label=name)
    ray.set(xlabel="Distance from the centre of the data (units of $x$)", xlim=(0, distance[-1]))
    ray.set(ylabel="Probability of class 1", title="Along a ray")
    ray.legend()
    gaps = {name: arrays[f"gap.{link}"] for link, name in LINKS.items() if link != EXACT_LINK}
    for (name, gap), ax in zip(gaps.items(), maps, strict=True):
        most = float(np.abs(gap).max())
        plot_map(gap, extent=arrays["extent"], ax=ax, cmap="PuOr", low=-most, high=most)
        ax.set(title=f"{name} less {EXACT_LINK}", xlabel="$x_1$", ylabel="$x_2$")
        ax.grid(visible=False)
        made.colorbar(ax.images[0], ax=ax, label="Difference of probability")
    caption = (
        "Left: the predictive of one Laplace posterior along a ray 20 degrees off the decision "
        "boundary. Right: the probability of class 1 less that by quadrature, over the map; "
        f"sampling with {results.config.num_samples} draws, the same at all points."
    )
    mean = {name: float(np.abs(gap).mean()) for name, gap in gaps.items()}
    values = ", ".join(f"{mean[name]:.4f} ({name})" for name in sorted(mean, key=mean.__getitem__))
    title = f"Mean total variation from quadrature over the map: {values}"
    return Figure("predictive-links", title, caption, made)
