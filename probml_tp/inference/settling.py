r"""Whether a variational normal is at its optimum: the step that is left, from fresh draws.

The evidence lower bound of a normal :math:`q` with mean ``m``, covariance :math:`\Sigma` and
standard deviations ``s`` over the density :math:`\log p(u, y)` of unconstrained values has zero
slope in the mean and, for every family that one may stretch along a coordinate (independent
normals, low rank plus diagonal), in the stretch:

.. math:: \mathbb E_q[g] = 0, \qquad \mathbb E_q[(u_i - m_i)\,g_i] = -1,
          \qquad g = \nabla_u\log p(u, y).

What is left of a Newton step, exact for independent normals on a normal target, is

.. math:: \delta_i = (\Sigma\,\mathbb E_q[g])_i / s_i, \qquad
          \lambda_i = \tfrac12\left(1 + \mathbb E_q[(u_i - m_i)\,g_i]\right)

of the mean in standard deviations of :math:`q`, and of the logarithm of the standard deviation. The
expectations are over pairs of draws on both sides of the mean, in which the error of a normal
target cancels. The losses of the last steps do not tell this: where the learning rate falls to
zero, they stand still wherever the fit is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from probml_tp.convergence import Convergence
from probml_tp.guide import Guide
from probml_tp.inference.descent import WORK
from probml_tp.model import BayesianModel

__all__ = ["StepLeft", "normal_convergence", "step_left_of"]

SETTLED = 0.3
"""The step left, with three standard errors off, up to which a fit counts as settled."""

CHUNK_WORK = 50_000_000
"""Draws times parameters times points whose gradients are taken at a time, at most."""

MAX_PARAMS, SMALL = 2000, 500_000
DRAWS = (400, 3200)
"""First so many, and if they leave it open more, where they are cheap."""

REMEDY = "Leave out lr, optimizer and schedule, or train longer."


@dataclass(frozen=True)
class StepLeft:
    """The largest step left over all coordinates.

    Args:
        value: its size, in standard deviations of the guide or in units of their logarithm.
        se: its Monte Carlo standard error.
    """

    value: float
    se: float

    @property
    def is_settled(self) -> bool:
        """Whether no step longer than 0.3 is shown to be left, by three standard errors."""
        return not self.value - 3 * self.se > SETTLED


def normal_convergence(guide: Guide, x: Tensor, y: Tensor) -> Convergence | None:
    """Whether a variational normal has settled, by some draws; ``None`` of large ones.

    The limit is 0.3 and three standard errors of the figure, but at most 0.6.
    """
    work = guide.model.work(len(x))
    if not guide.is_variational_normal or guide.model.num_params > MAX_PARAMS or work > WORK // 5:
        return None
    for num_samples in DRAWS if work <= SMALL else DRAWS[:1]:
        found = step_left_of(guide, x, y, num_samples=num_samples, seed=0)
        if abs(found.value - SETTLED) > 3 * found.se:
            break
    limit = SETTLED + min(3 * found.se, SETTLED)
    return Convergence("step left (SDs)", found.value, limit, REMEDY)


@torch.no_grad()
def step_left_of(guide: Guide, x: Tensor, y: Tensor, *, num_samples: int, seed: int) -> StepLeft:
    """The largest step left of a variational normal; see the module.

    Args:
        guide: the normal.
        x: checked inputs.
        y: checked targets.
        num_samples: draws that the expectations are over.
        seed: determines them.
    """
    model, loc = guide.model, cast("Tensor", guide.loc)
    generator = torch.Generator(model.device).manual_seed(seed)
    draws = guide.sample(-(-num_samples // 2), generator=generator)
    u = model.layout.ravel(model.unconstrain(draws))
    u = torch.cat([u, 2 * loc - u])
    g = _gradients(model, u, x, y).double()
    deviation = (u - loc).double()
    delta = guide.covariance_times(g) / deviation.square().mean(0).sqrt()
    steps = torch.cat([delta, 0.5 * (1 + deviation * g)], dim=-1)
    pairs = steps.unflatten(0, (2, -1)).mean(0)
    mean, se = pairs.mean(0), pairs.std(0) / len(pairs) ** 0.5
    worst = int(mean.abs().argmax())
    return StepLeft(float(mean[worst].abs()), float(se[worst]))


def _gradients(model: BayesianModel, u: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of the log joint density at each of some points, ``(S, P)``."""

    def log_joint(point: Tensor) -> Tensor:
        return model.log_joint_flat(point, x, y)

    chunk = max(1, min(len(u), CHUNK_WORK // (u.shape[1] * len(x))))
    gradient = torch.func.vmap(torch.func.grad(log_joint), chunk_size=chunk)
    try:
        found: Tensor = gradient(u)
    except Exception:  # what vmap cannot batch; what is wrong raises again in the loop
        found = torch.stack([torch.func.grad(log_joint)(point) for point in u])
    return found
