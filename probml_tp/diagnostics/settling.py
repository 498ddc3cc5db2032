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
losses of the last steps do not tell this: where the learning rate falls to zero, they stand still
wherever the fit is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probml_tp.arguments import checked
from probml_tp.batching import OverRows
from probml_tp.guide import check_num_samples
from probml_tp.model import BayesianModel
from probml_tp.posterior import Posterior

__all__ = ["StepLeft", "step_left"]

SETTLED = 0.3
"""The step left, with three standard errors off, up to which a fit counts as settled."""

CHUNK_WORK = 50_000_000
"""Draws times parameters times points whose gradients are taken at a time, at most."""


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


@checked()
@torch.no_grad()
def step_left(
    posterior: Posterior, data: tuple[Tensor, Tensor], *, num_samples: int = 4000, seed: int = 0
) -> StepLeft:
    r"""How far a variational normal is from the best of its kind.

    Args:
        posterior: of a guide with a centre ``loc`` in unconstrained space.
        data: inputs and targets that it was fitted to.
        num_samples: draws that the expectations are over.
        seed: determines them.

    Returns:
        The largest of all :math:`|\delta_i|` and :math:`|\lambda_i|`.

    Raises:
        ValueError: the guide is no normal trained by the evidence lower bound.

    Example:
        >>> from probml_tp import MeanFieldNormal, fit
        >>> from probml_tp.models import dugongs_line
        >>> classic = dugongs_line()
        >>> start = fit(classic.model, MeanFieldNormal, classic.data, epochs=0)
        >>> step_left(start, classic.data).value > 10
        True
    """
    guide, model = posterior.guide, posterior.model
    if not guide.is_variational_normal:
        raise ValueError(
            f"the step left is of a normal that maximises the evidence lower bound; got the "
            f"{posterior.name} posterior. Pass mean-field or a low-rank normal."
        )
    generator = torch.Generator(model.device).manual_seed(seed)
    draws = guide.sample(check_num_samples(num_samples), generator=generator)
    u = model.layout.ravel(model.unconstrain(draws))
    g = _gradients(model, u, *model.check_data(*data)).double()
    deviation = (u - guide.loc).double()  # type: ignore[operator]
    covariance = deviation.mT @ deviation / len(u)
    delta = g @ covariance / covariance.diagonal().sqrt()
    steps = torch.cat([delta, 0.5 * (1 + deviation * g)], dim=-1)
    mean, se = steps.mean(0), steps.std(0) / len(u) ** 0.5
    worst = int(mean.abs().argmax())
    return StepLeft(float(mean[worst].abs()), float(se[worst]))


def _gradients(model: BayesianModel, u: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of the log joint density at each of some points, ``(S, P)``."""

    def log_joint(point: Tensor) -> Tensor:
        return model.log_joint_flat(point, x, y)

    chunk = max(1, min(len(u), CHUNK_WORK // (u.shape[1] * len(x))))
    found: Tensor = OverRows(torch.func.grad(log_joint), chunk_size=chunk)(u)
    return found
