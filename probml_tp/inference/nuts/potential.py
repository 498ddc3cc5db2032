r"""The potential :math:`U(u) = -\log p(\theta(u), y \mid x) - \log|\partial\theta/\partial u|`.

For small nets most of a gradient's time goes into dispatching its operations. So potential and
gradient are traced once into a graph of plain tensor operations, rid of what is constant, which a
C++ interpreter replays without autograd or function transforms; and several chains share one
batched call where the net is fully connected.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor
from torch.func import functionalize, grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from probml_tp.inference.graphs import simplify
from probml_tp.model import BayesianModel

__all__ = ["Potential", "potential"]

Array = np.ndarray[Any, np.dtype[np.float64]]
GradientAndValue = Callable[[Tensor], tuple[Tensor, Tensor]]

TRACING_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError)
"""What a net raises that cannot be traced: control flow on values, exotic operations."""


def potential(model: BayesianModel, x: Tensor, y: Tensor, u: Tensor) -> Tensor:
    """The potential at one vector ``(P,)`` in nats, differentiable."""
    return -model.log_joint_flat(u, x, y)


class Potential:
    r"""Potential and gradient at flat unconstrained vectors, one of them for each chain.

    Args:
        model: the model.
        x: all inputs, checked.
        y: all targets, checked.
        batch: the number of vectors in a call, ``K``.

    Example:
        >>> from probml_tp import BayesianModel, Gaussian, NormalPrior
        >>> model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.1))
        >>> potential = Potential(model, torch.zeros(3, 1), torch.zeros(3), batch=4)
        >>> values, gradients = potential(np.zeros((4, 2)))
        >>> values.shape, gradients.shape
        ((4,), (4, 2))
    """

    def __init__(self, model: BayesianModel, x: Tensor, y: Tensor, *, batch: int = 1) -> None:
        self.batch = batch
        self.one = partial(potential, model, x, y)
        self.like = model.layout.ravel(model.unconstrain(model.initial_params()))
        one = grad_and_value(self.one)
        self.evaluate = (
            (self._traced(vmap(one)) if batch > 1 else None)
            or self._traced(_row_by_row(one))
            or self._by_autograd
        )

    def __call__(self, positions: Array) -> tuple[Array, Array]:
        """Potentials ``(K,)`` in nats and gradients ``(K, P)`` at positions ``(K, P)``."""
        with torch.no_grad():
            gradients, values = self.evaluate(torch.from_numpy(positions).to(self.like))
        return values.double().cpu().numpy(), gradients.double().cpu().numpy()

    def _by_autograd(self, u: Tensor) -> tuple[Tensor, Tensor]:
        gradients, values = [], []
        for row in u:
            leaf = row.clone().requires_grad_()
            with torch.enable_grad(), _unchecked():
                value = self.one(leaf)
                gradients.append(torch.autograd.grad(value, leaf)[0])
            values.append(value.detach())
        return torch.stack(gradients), torch.stack(values)

    def _traced(self, function: GradientAndValue) -> GradientAndValue | None:
        """The traced graph, or nothing if there is none or it is not the same function."""
        u = self.like + 0.01 * torch.arange(self.batch).to(self.like).unsqueeze(-1)
        with torch.no_grad(), _unchecked(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is no longer developed
            try:
                graph = simplify(make_fx(functionalize(function))(u), u)
                graph = torch.jit.trace(graph.eval(), (u,), check_trace=False)
                frozen: GradientAndValue = torch.jit.freeze(graph.eval())

                def traced(u: Tensor) -> tuple[Tensor, Tensor]:
                    with torch.inference_mode():  # each operation is dispatched faster
                        return frozen(u)

                found = [traced(u + 0.02) for _ in range(3)][-1]  # it optimises what it has run
            except TRACING_ERRORS:
                return None
        return traced if all(map(_close, found, self._by_autograd(u + 0.02))) else None


def _unchecked() -> AbstractContextManager[None]:
    """Distributions without argument checks: values far out are divergences, not errors."""
    context: AbstractContextManager[None] = pyro.settings.context(
        validate_distributions_torch=False, validate_distributions_pyro=False
    )
    return context


def _close(found: Tensor, expected: Tensor) -> bool:
    atol = 1e-4 * (1 + float(expected.nan_to_num(0.0, 0.0, 0.0).abs().max()))
    return torch.allclose(found, expected, rtol=1e-3, atol=atol, equal_nan=True)


def _row_by_row(one: GradientAndValue) -> GradientAndValue:
    def rows(u: Tensor) -> tuple[Tensor, Tensor]:
        gradients, values = zip(*(one(row) for row in u), strict=True)
        return torch.stack(gradients), torch.stack(values)

    return rows
