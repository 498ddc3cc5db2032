r"""The potential :math:`U(u) = -\log p(\theta(u), y \mid x) - \log|\partial\theta/\partial u|`.

Potential and gradient are replayed from a trace (:mod:`~probml_tp.inference.traced`), and several
chains share one batched call where the net is fully connected.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from probml_tp.inference.traced import traced, unchecked
from probml_tp.model import BayesianModel

__all__ = ["Potential", "potential"]

Array = np.ndarray[Any, np.dtype[np.float64]]
GradientAndValue = Callable[[Tensor], tuple[Tensor, ...]]


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
        u = torch.from_numpy(positions).to(self.like)
        with torch.inference_mode():  # each operation is dispatched faster
            gradients, values = self.evaluate(u)
        return values.double().cpu().numpy(), gradients.double().cpu().numpy()

    def _by_autograd(self, u: Tensor) -> tuple[Tensor, Tensor]:
        gradients, values = [], []
        for row in u:
            with torch.inference_mode(mode=False), torch.enable_grad(), unchecked():
                leaf = row.clone().requires_grad_()
                value = self.one(leaf)
                gradients.append(torch.autograd.grad(value, leaf)[0])
            values.append(value.detach())
        return torch.stack(gradients), torch.stack(values)

    def _traced(self, function: GradientAndValue) -> GradientAndValue | None:
        """The traced graph, or nothing if there is none or it is not the same function."""
        u = self.like + 0.01 * torch.arange(self.batch).to(self.like).unsqueeze(-1)
        return traced(function, [u], self._by_autograd)


def _row_by_row(one: GradientAndValue) -> GradientAndValue:
    def rows(u: Tensor) -> tuple[Tensor, Tensor]:
        gradients, values = zip(*(one(row) for row in u), strict=True)
        return torch.stack(gradients), torch.stack(values)

    return rows
