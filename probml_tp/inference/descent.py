r"""Quasi-Newton descent in double precision, and a path of it along a model's log joint.

L-BFGS needs no learning rate and converges to rounding error, if rounding leaves it alone: in
single precision it stops short on features such as years, where the curvatures of two directions
differ by more than 1e7. So it runs on a temporary copy in double precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import LBFGS

from probml_tp.checks.net_runs import widened
from probml_tp.copying import copy_module
from probml_tp.guide import Guide
from probml_tp.model import BayesianModel

__all__ = ["WORK", "Wall", "descent_path", "guide_in_double", "in_double", "make_lbfgs"]

WORK = 10_000_000
"""Multiply-adds of a pass over the data up to which a problem is small."""

ITERATIONS = 100
HISTORY = 50
HEIGHT = 1e6

T = TypeVar("T", bound=torch.nn.Module)


def make_lbfgs(parameters: Iterable[Parameter]) -> LBFGS:
    """L-BFGS with a strong Wolfe line search, of up to 100 iterations a step."""
    return LBFGS(
        parameters,
        lr=1.0,
        max_iter=ITERATIONS,
        tolerance_grad=1e-12,
        tolerance_change=1e-15,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
    )


class Wall:
    """A closure's loss, with a wall where it is not finite or far above the least one so far.

    The line search takes long first steps, and interpolates with what it finds there: a loss that
    overflows would end it.

    Args:
        evaluate: finds the loss and the gradients of the parameters.
        parameters: they.
    """

    def __init__(self, evaluate: Callable[[], Tensor], parameters: Iterable[Parameter]) -> None:
        self.evaluate, self.parameters, self.least = evaluate, list(parameters), torch.inf

    def __call__(self) -> Tensor:
        """The loss, or the height of the wall, where there is no gradient."""
        loss = self.evaluate().detach()
        wall = self.least + HEIGHT * (1 + abs(self.least))
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        finite = bool(torch.isfinite(loss)) and all(bool(g.isfinite().all()) for g in gradients)
        if self.least < torch.inf and not (finite and float(loss) <= wall):
            for gradient in gradients:
                gradient.zero_()
            return torch.full_like(loss, wall)
        self.least = min(self.least, float(loss)) if finite else self.least
        return loss


def in_double(model: BayesianModel, x: Tensor, y: Tensor) -> tuple[BayesianModel, Tensor, Tensor]:
    """A copy of a model and its data in double precision, where the net takes it."""
    if model.dtype == torch.float64:
        return model, x, y
    return _converted(model, model, x, y, lambda copied: copied.double())


def guide_in_double(guide: Guide, x: Tensor, y: Tensor) -> tuple[Guide, Tensor, Tensor]:
    """A copy of a guide, of its model and of the data likewise."""
    if guide.model.dtype == torch.float64:
        return guide, x, y

    def convert(copied: Guide) -> Guide:
        copied.model.double()
        return copied.double()

    return _converted(guide, guide.model, x, y, convert)


def _converted(
    what: T, model: BayesianModel, x: Tensor, y: Tensor, convert: Callable[[T], T]
) -> tuple[T, Tensor, Tensor]:
    wide = convert(copy_module(what))
    x64, y64 = widened({"x": x, "y": y}).values()
    wide_model: Any = getattr(wide, "model", wide)
    flat = model.layout.ravel(model.unconstrain(model.initial_params())).double()
    try:
        with torch.no_grad():
            wide_model.log_joint_flat(flat, x64[:2], y64[:2])
    except (RuntimeError, TypeError, ValueError):  # a net that makes tensors of its own type
        return what, x, y
    return wide, x64, y64


def descent_path(
    model: BayesianModel,
    flat: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    free: Tensor | None = None,
    rounds: Iterable[int],
    least: float,
) -> Iterator[tuple[Tensor, int]]:
    r"""Points on the way of L-BFGS to a mode of :math:`\log p(u, y)`, its start first.

    Args:
        model: the model, in double precision.
        flat: where it starts, ``(P,)``.
        x: all inputs.
        y: all targets.
        free: the indices of the parameters that move; default: all.
        rounds: iterations until the next point, one number a point.
        least: it ends where the log joint rises by less than this from one point to the next, in
            nats.

    Yields:
        Each point ``(P,)``, and how often the net has run over all the data.
    """
    own = Parameter((flat if free is None else flat[free]).detach().to(model.dtype, copy=True))
    base, count = flat.detach().to(model.dtype), 0

    def point(values: Tensor) -> Tensor:
        return values if free is None else base.index_copy(0, free, values)

    def evaluate() -> Tensor:
        nonlocal count
        count += 1
        optimizer.zero_grad()
        loss = -model.log_joint_flat(point(own), x, y) / len(x)
        loss.backward()
        return loss

    optimizer, last = make_lbfgs([own]), torch.inf
    wall = Wall(evaluate, [own])
    yield point(own.detach().clone()), count
    for iterations in rounds:
        optimizer.param_groups[0] |= {"max_iter": iterations, "max_eval": 2 * iterations}
        with torch.enable_grad():
            optimizer.step(wall)
        if not bool(own.isfinite().all()):
            return
        yield point(own.detach().clone()), count
        if not (last - wall.least) * len(x) > least:
            return
        last = wall.least
