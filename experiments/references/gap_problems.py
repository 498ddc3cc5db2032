"""Four small problems whose reference posterior is known: exactly, or by chains that agree.

Every problem has a gap in its data, and is looked at in three regions: ``data``, fresh inputs such
as those of training; ``between``, inside the gap; and ``far``, well outside the data. The nets are
so small that chains converge in their functions within seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from probml_tp.datasets import blobs, linear_data_with_hole, sine_data, two_moons
from probml_tp.experiments.lines.kit import even_grid
from probml_tp.experiments.plane.kit import ring
from probml_tp.gap.study import GapProblem, in_regions
from probml_tp.guides.recipes import Chains, FitSettings, SwagPath, guides_for
from probml_tp.kit.common import derived_seed
from probml_tp.models import LinearBasis, linear_regression, logistic_regression
from probml_tp.models.mlp import mlp_classifier, mlp_regressor
from probml_tp.priors import FanInNormalPrior, NormalPrior

REGIONS = ("data", "between", "far")
"""Where posteriors are compared."""

NET_GUIDES = guides_for(
    "layers",
    without=(
        "laplace-kronecker", "laplace-diagonal", "laplace-last-layer", "concrete-dropout",
        "gaussian-dropout", "multi-swag",
    ),
)  # fmt: skip
POINTS = 24
"""In each region."""

NET: Mapping[str, Any] = {"hidden": (10,), "dtype": torch.float64}
Data = tuple[Tensor, Tensor]


def linear_problem(*, epochs: int, draws: int, warmup: int, seed: int) -> GapProblem:
    r"""A line seen on both sides of a hole, with the posterior :math:`\mathcal N(m, \Lambda^{-1})`.

    Its best mean-field has the variances :math:`1/\Lambda_{ii}`; a low-rank normal of rank 1 can be
    the posterior itself.
    """
    noise, prior = 0.2, NormalPrior.from_precision(2.0)
    chains = _chains(draws, warmup, mass_matrix="dense")
    return _problem(
        "linear",
        "Line with a hole, linear regression",
        model=linear_regression(LinearBasis(), prior=prior, likelihood=noise),
        data=linear_data_with_hole(noise=noise, seed=seed, dtype=torch.float64),
        where=_two_sides((-3, -1), (1, 3)),
        between=even_grid(-0.9, 0.9, num=POINTS),
        far=_two_sides((-12, -6), (6, 12)),
        guides=guides_for("conjugate", without=("ensemble",)),
        how=_settings(epochs, seed, init_scale=0.05, rank=1, chains=chains),
        reference="exact",
        identified=True,
    )


def logistic_problem(*, epochs: int, draws: int, warmup: int, seed: int) -> GapProblem:
    """Two blobs under logistic regression: one mode, but not a normal one; held against NUTS."""
    gap = _disc(0.8)
    made: dict[str, Any] = {"std": 1.8, "dtype": torch.float64}
    chains = _chains(draws, warmup, mass_matrix="dense", target_accept=0.9)
    return _problem(
        "logistic",
        "Two blobs, logistic regression",
        model=logistic_regression(2, prior=NormalPrior.from_precision(0.25)),
        data=_away_from(gap, 0.2, blobs(n=80, seed=seed, **made)),
        where=blobs(n=POINTS, seed=derived_seed(seed, "data region"), **made)[0],
        between=gap,
        far=torch.from_numpy(ring((0.0, 0.0), radius=12.0, points=POINTS)),
        guides=guides_for(without=("ensemble",)),
        how=_settings(epochs, seed, init_scale=0.3, rank=1, chains=chains),
        identified=True,
    )


def moons_problem(*, epochs: int, draws: int, warmup: int, seed: int) -> GapProblem:
    """Two moons under a net of ten tanh units, held against NUTS."""
    gap = _between_moons()
    made: dict[str, Any] = {"noise": 0.15, "dtype": torch.float64}
    how = _settings(
        epochs, seed, init_scale=0.1, rank=10, rates={"fc2": 0.1},
        swag=SwagPath(lr=0.3, epochs=100, batch_size=20),
        chains=_chains(draws, warmup, max_tree_depth=7, target_accept=0.7),
    )  # fmt: skip
    return _problem(
        "moons",
        "Two moons, a net of 10 units",
        model=mlp_classifier(2, prior=NormalPrior(1.0), activation="tanh", seed=seed, **NET),
        data=_away_from(gap, 0.1, two_moons(n=60, seed=seed, **made)),
        where=two_moons(n=POINTS, seed=derived_seed(seed, "data region"), **made)[0],
        between=gap,
        far=torch.from_numpy(ring((0.5, 0.25), radius=6.0, points=POINTS)),
        guides=NET_GUIDES,
        how=how,
    )


def sine_problem(*, epochs: int, draws: int, warmup: int, seed: int) -> GapProblem:
    """A sine with a hole in its inputs under a net of ten tanh units, held against NUTS."""
    noise, gap = 0.4, even_grid(0.4, 0.7, num=POINTS)
    prior: Any = {"fc1.*": NormalPrior(3.0), "fc2.*": FanInNormalPrior(1.0, bias_scale=0.5)}
    data = sine_data(n=30, noise=noise, seed=seed, dtype=torch.float64)
    how = _settings(
        epochs, seed, lrs={"correlated": 0.03}, init_scale=0.1, rank=5, rates={"fc2": 0.05},
        from_mode=("normal", "dropout"), swag=SwagPath(lr=0.02, epochs=100, batch_size=5),
        chains=_chains(draws, warmup, max_tree_depth=5, target_accept=0.7),
    )  # fmt: skip
    return _problem(
        "sine",
        "Sine with a hole, a net of 10 units",
        model=mlp_regressor(1, prior=prior, likelihood=noise, seed=seed, **NET),
        data=_away_from(gap, 0.01, data),
        where=_two_sides((0.0, 0.35), (0.75, 1.0)),
        between=gap,
        far=_two_sides((-1.0, -0.5), (1.5, 2.0)),
        guides=NET_GUIDES,
        how=how,
    )


PROBLEMS: Mapping[str, Callable[..., GapProblem]] = {
    "linear": linear_problem,
    "logistic": logistic_problem,
    "moons": moons_problem,
    "sine": sine_problem,
}
DRAWS: Mapping[str, int] = {"linear": 400, "logistic": 500, "moons": 350, "sine": 600}
"""Draws of a chain, after 200 of warm-up, enough for references of seeds 0 to 4."""


def _problem(
    name: str, title: str, *, where: Tensor, between: Tensor, far: Tensor, **parts: Any
) -> GapProblem:
    """A problem with the points of its regions put together."""
    x, regions = in_regions(dict(zip(REGIONS, (where, between, far), strict=True)))
    return GapProblem(name=name, title=title, x=x, regions=regions, **parts)


def _settings(epochs: int, seed: int, **options: Any) -> FitSettings:
    """Settings whose mode is found by L-BFGS, and whose normals start there."""
    own: dict[str, Any] = {"lr": 0.05, "rounds": 5, "from_mode": ("normal",)} | options
    return FitSettings(epochs=epochs, seed=seed, **own)


def _chains(draws: int, warmup: int, **options: Any) -> Chains:
    """Four chains evaluated together, on one core."""
    return Chains(draws=draws, warmup=warmup, per_batch=4, jobs=1, **options)


def _two_sides(*sides: tuple[float, float]) -> Tensor:
    """Inputs on two intervals, evenly spaced."""
    return torch.cat([even_grid(low, high, num=POINTS // 2) for low, high in sides])


def _away_from(gap: Tensor, distance: float, data: Data) -> Data:
    """The data without the points closer than a distance to any of a gap's."""
    x, y = data
    kept = torch.cdist(x, gap).min(dim=1).values > distance
    return x[kept], y[kept]


def _disc(radius: float) -> Tensor:
    """Points spread evenly over a disc about the origin, by the golden angle."""
    k = torch.arange(POINTS, dtype=torch.float64)
    angle = k * torch.pi * (3 - 5**0.5)
    r = radius * ((k + 0.5) / POINTS).sqrt()
    return torch.stack([r * angle.cos(), r * angle.sin()], dim=-1)


def _between_moons() -> Tensor:
    """Points as far from one moon as from the other, and close to both."""
    arcs, labels = two_moons(n=400, noise=0.0, dtype=torch.float64)
    side = torch.linspace(-0.5, 1.5, 81, dtype=torch.float64)
    lattice = torch.cartesian_prod(side, side)
    first, second = (torch.cdist(lattice, arcs[labels == k]).min(dim=1).values for k in (0, 1))
    between = lattice[((first - second).abs() < 0.02) & (first < 0.35)]
    return between[torch.linspace(0, len(between) - 1, POINTS).long()]
