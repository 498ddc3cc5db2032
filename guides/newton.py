r"""How far a point is from a mode: the Newton decrement, in nats.

.. math:: \tfrac12\lambda^2 = \tfrac12\, g^\top A^{-1} g, \qquad g = -\nabla_u\log p(u, y)

with the precision ``A`` of a Laplace posterior there: what the log joint would rise by in one
Newton step, and half the squared length of that step in posterior standard deviations (Boyd &
Vandenberghe 2004, section 9.5.1).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from probml_tp.convergence import Convergence
from probml_tp.guides.cholesky import stable_cholesky
from probml_tp.guides.curvature import DenseCurvature, DiagonalCurvature
from probml_tp.guides.factors import DenseFactor, DiagonalFactor
from probml_tp.guides.fisher import likelihood_curvature, prior_hessian, prior_precision
from probml_tp.inference.descent import WORK, in_double
from probml_tp.model import BayesianModel

__all__ = ["at_a_mode", "gradient_of", "mode_convergence", "precision_diagonal"]

LIMIT = 0.01
"""Nats: no direction is off by more than 0.14 standard deviations."""

DENSE_PARAMS, DENSE_WORK = 500, 100_000_000
BATCH = 1000
HALVINGS = 12


def at_a_mode(value: float, remedy: str, *, diagonal: bool = False) -> Convergence:
    """The record of a Newton decrement.

    Args:
        value: it, in nats.
        remedy: what to do where it is too large.
        diagonal: whether it is by the diagonal of the curvature alone.
    """
    kind = ", diagonal curvature" if diagonal else ""
    return Convergence(f"Newton decrement (nats{kind})", value, LIMIT, remedy)


def attainable(
    decrement: float, step: Tensor, model: BayesianModel, flat: Tensor, x: Tensor, y: Tensor
) -> tuple[float, int]:
    r"""The Newton decrement, or what a line search along the step gains where that is less.

    Where the log joint is smooth the two agree near a mode. On a kink, as of a relu net, no
    gradient is zero, and yet no step gains anything: that is a mode, too.

    Args:
        decrement: in nats.
        step: to the mode, if the log joint were quadratic, ``(P,)``.
        model: the model.
        flat: where it is, ``(P,)``.
        x: all inputs.
        y: all targets.

    Returns:
        That, and the passes of the net over the data that it took.
    """
    if decrement <= LIMIT or model.work(len(x)) > WORK:
        return decrement, 0
    model, x, y = in_double(model, x, y)
    start, step = flat.detach().to(model.dtype), step.detach().to(model.dtype)
    with torch.no_grad():
        now = float(model.log_joint_flat(start, x, y))
        moved = (start + step / 2**k for k in range(HALVINGS))
        gains = [float(model.log_joint_flat(flat, x, y)) - now for flat in moved]
    return min(decrement, max(0.0, *(gain for gain in gains if gain == gain))), 1 + HALVINGS


def gradient_of(model: BayesianModel, flat: Tensor, x: Tensor, y: Tensor) -> Tensor:
    r""":math:`-\nabla_u\log p(u, y)` over all the data, ``(P,)``, float64.

    It is found in double precision where the problem is small, else in the model's own.
    """
    if model.work(len(x)) <= WORK:
        model, x, y = in_double(model, x, y)
    flat = flat.detach().to(model.dtype)

    def log_likelihood(flat: Tensor, x: Tensor, y: Tensor) -> Tensor:
        params = model.constrain(model.layout.unravel(flat))
        return model.log_likelihood(params, x, y).sum()

    batches = zip(x.split(BATCH), y.split(BATCH), strict=True)
    total: Tensor = sum(
        (_grad(log_likelihood, flat, *batch).double() for batch in batches),
        start=_grad(model.log_prior_flat, flat).double(),
    )
    return -total


def _grad(function: object, flat: Tensor, *data: Tensor) -> Tensor:
    """By autograd: ``torch.func`` does not take every net."""
    leaf = flat.clone().requires_grad_()
    with torch.enable_grad():
        value: Tensor = function(leaf, *data)  # type: ignore[operator]
        if not value.requires_grad:  # data that say nothing
            return torch.zeros_like(leaf)
        return torch.autograd.grad(value, leaf)[0]


def precision_diagonal(model: BayesianModel, flat: Tensor, x: Tensor, y: Tensor) -> Tensor:
    r"""The diagonal of the generalised Gauss-Newton matrix and the prior's precision, ``(P,)``."""
    factor = DiagonalFactor(model, list(model.sites))
    (found,) = likelihood_curvature(model, flat, x, y, factors=[factor])
    prior = prior_hessian(model, flat).diagonal() if model.conditional_sites else None
    own = prior_precision(model, flat) if prior is None else prior
    return cast("DiagonalCurvature", found).diagonal + own


def mode_convergence(
    model: BayesianModel, flat: Tensor, x: Tensor, y: Tensor, remedy: str
) -> Convergence | None:
    """Whether a point is a mode: by all of the curvature of a small model, else by its diagonal.

    Args:
        model: the model.
        flat: the point ``(P,)``.
        x: all inputs.
        y: all targets.
        remedy: what to do where it is none.

    Returns:
        The record; ``None`` where the problem is large, or its curvature cannot be had.
    """
    size, dense = model.num_params, model.num_params <= DENSE_PARAMS
    dense = dense and size**2 * len(x) <= DENSE_WORK
    if not dense and model.work(len(x)) > WORK:
        return None
    g = gradient_of(model, flat, x, y)
    try:
        if dense:
            step = _newton_step(model, flat, x, y, g)
        else:
            step = g / precision_diagonal(model, flat, x, y).clamp_min(0)
    except (RuntimeError, ValueError):  # of nets and likelihoods without such a curvature
        return None
    decrement = float(0.5 * (g @ step.nan_to_num(0.0)))
    return at_a_mode(decrement, remedy, diagonal=not dense)


def _newton_step(model: BayesianModel, flat: Tensor, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
    """:math:`A^{-1}g`; infinite where ``A`` is not positive definite."""
    everything = DenseFactor(model, list(model.sites))
    (found,) = likelihood_curvature(model, flat, x, y, factors=[everything])
    A = cast("DenseCurvature", found).matrix
    if model.conditional_sites:
        A = A + prior_hessian(model, flat)
    else:
        A = A + torch.diag(prior_precision(model, flat))
    root = stable_cholesky(A)
    if root is None:
        return torch.where(g == 0, 0.0, g.sign() * torch.inf)
    return torch.cholesky_solve(g.unsqueeze(-1), root).squeeze(-1)
