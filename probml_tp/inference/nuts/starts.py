r"""Where chains start, and the first metric: around the net's parameters, or from a posterior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from probml_tp.inference.nuts.adaptation import (
    PRIOR_VARIANCE,
    CovarianceEstimator,
    MetricEstimator,
    VarianceEstimator,
    WhitenedEstimator,
)
from probml_tp.inference.nuts.potential import potential
from probml_tp.inference.starts import check_same_model
from probml_tp.model import BayesianModel
from probml_tp.posterior import Posterior
from probml_tp.streams import Stream, substream

__all__ = ["MassMatrix", "Starts", "check_mass_matrix", "find_starts"]

Array = np.ndarray[Any, np.dtype[np.float64]]

MassMatrix = Literal["diagonal", "dense", "laplace"]
"""What is adapted: variances, a covariance, or variances along the curvature's axes."""

OVERDISPERSION = 2.0
"""How many times as far from the mean as a draw of ``init`` a chain starts."""

DRAWS = 100
"""How many draws of ``init`` give the variances of the first metric."""

MAX_CURVATURE_PARAMS = 2000
"""Beyond so many parameters, Hessian and dense products cost more than they save."""


@dataclass(frozen=True)
class Starts:
    """Starting points and first metric.

    Args:
        positions: one a chain, ``(chains, P)``.
        jitter: standard deviations of the noise to be added to them, ``(P,)``.
        variances: of the posterior that the chains start from, ``(P,)``; ``None`` if unknown.
        curvature: principal axes ``(P, P)`` and standard deviations ``(P,)`` along them.
    """

    positions: Array
    jitter: Array
    variances: Array | None = None
    curvature: tuple[Array, Array] | None = None

    @property
    def gradients(self) -> int:
        """How many the curvature took, one a row of the Hessian."""
        return 0 if self.curvature is None else len(self.curvature[1])

    def estimator(self, mass_matrix: MassMatrix) -> MetricEstimator:
        """What adapts the metric of a chain."""
        if self.curvature is not None:
            return WhitenedEstimator(*self.curvature)
        start, prior = self.variances, self.variances
        if start is None or prior is None:
            start = np.ones(self.positions.shape[1])
            prior = PRIOR_VARIANCE * start
        kind = CovarianceEstimator if mass_matrix == "dense" else VarianceEstimator
        return kind(start, prior=prior)


def check_mass_matrix(mass_matrix: str, model: BayesianModel, init: Posterior | None) -> None:
    """Check that ``init`` is of the model, and that the mass matrix is known and goes with it.

    Raises:
        ValueError: they are not.
    """
    if mass_matrix not in get_args(MassMatrix):
        raise ValueError(
            f"mass_matrix must be one of {get_args(MassMatrix)}; got {mass_matrix!r}. Use "
            f"'diagonal' unless parameters are few and strongly correlated."
        )
    if init is not None:
        check_same_model(init, model)
    if mass_matrix != "laplace":
        return
    if init is None or not isinstance(getattr(init.guide, "loc", None), Tensor):
        given = "none" if init is None else f"the {init.name} posterior, which has none"
        raise ValueError(
            f"mass_matrix='laplace' takes the curvature at the centre of init, such as MAP's; got "
            f"{given}. Pass init=fit(model, Delta, data), or choose mass_matrix='dense'."
        )
    if model.num_params > MAX_CURVATURE_PARAMS:
        raise ValueError(
            f"mass_matrix='laplace' needs a Hessian of at most {MAX_CURVATURE_PARAMS} parameters; "
            f"{model.name} has {model.num_params:,}. Choose mass_matrix='diagonal'; init still "
            f"gives the starting points and, unless it is a point, the variances."
        )


def find_starts(
    model: BayesianModel,
    x: Tensor,
    y: Tensor,
    *,
    chains: int,
    init: Posterior | None,
    init_scale: float,
    starts: Sequence[Mapping[str, Tensor]] | None = None,
    mass_matrix: MassMatrix,
    seed: int,
) -> Starts:
    """Starting points and first metric, as :func:`sample_nuts` documents them."""
    found = _around(model, x, y, chains, init, init_scale, mass_matrix, seed)
    if starts is None:
        return found
    return replace(found, positions=np.stack([_flat(model, params) for params in starts]))


def _around(
    model: BayesianModel,
    x: Tensor,
    y: Tensor,
    chains: int,
    init: Posterior | None,
    init_scale: float,
    mass_matrix: MassMatrix,
    seed: int,
) -> Starts:
    """The same around the net's own values, or as a posterior says."""
    if init is None:
        centre = _flat(model, model.initial_params())
        jitter = np.full_like(centre, init_scale)
        return Starts(np.tile(centre, (chains, 1)), jitter)
    draws = [_draw(init, 1, substream(seed, Stream.CHAINS, c, 1)) for c in range(chains)]
    positions = np.concatenate(draws)
    curvature = _curvature(x, y, init) if mass_matrix == "laplace" else None
    if init.guide.num_atoms is not None:
        jitter = np.full(model.num_params, init_scale)
        return Starts(positions, jitter, curvature=curvature)
    sample = _draw(init, DRAWS, substream(seed, Stream.CHAINS))
    mean, variances = sample.mean(0), sample.var(0)
    variances[variances == 0] = np.exp(np.log(variances[variances > 0]).mean())  # point masses
    positions = mean + OVERDISPERSION * (positions - mean)
    return Starts(positions, init_scale * np.sqrt(variances), variances, curvature)


def _draw(init: Posterior, count: int, seed: int) -> Array:
    """Draws in unconstrained space, ``(count, P)``."""
    generator = torch.Generator(device=init.model.device).manual_seed(seed)
    return _flat(init.model, init.guide.sample(count, generator=generator))


def _curvature(x: Tensor, y: Tensor, init: Posterior) -> tuple[Array, Array]:
    r"""Axes of the Hessian at the mode and standard deviations :math:`|\lambda|^{-1/2}`.

    The absolute value keeps the metric positive definite where the point is a saddle.
    """
    model = init.model
    u = model.layout.ravel(model.unconstrain(init.guide.centre()))
    with torch.enable_grad():
        hessian = torch.autograd.functional.hessian(partial(potential, model, x, y), u)
    eigenvalues, axes = np.linalg.eigh(hessian.double().cpu().numpy())
    size = np.abs(eigenvalues)
    return axes, np.maximum(size, 1e-6 * size.max()) ** -0.5


def _flat(model: BayesianModel, params: Any) -> Array:
    flat: Array = model.layout.ravel(model.unconstrain(params)).detach().double().cpu().numpy()
    return flat
