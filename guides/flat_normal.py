"""A normal distribution of flat vectors, by a root of its covariance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from probml_tp.priors.normal_sites import LOG_2PI

__all__ = ["Block", "FlatNormal", "Root", "standard_normal"]


class Root(Protocol):
    """A root ``C`` of a covariance of flat vectors."""

    @property
    def log_det(self) -> Tensor:
        r""":math:`\log|C|`."""

    def spread(self, epsilon: Tensor) -> Tensor:
        r""":math:`C\varepsilon` for standard normal vectors ``(S, p)``."""

    def whiten(self, deviation: Tensor) -> Tensor:
        """The inverse of :meth:`spread`."""


@dataclass(frozen=True)
class Block:
    """A lower triangular root, float64.

    Args:
        scale_tril: the root, ``(p, p)``.
    """

    scale_tril: Tensor

    def spread(self, epsilon: Tensor) -> Tensor:
        """See :meth:`Root.spread`."""
        return epsilon.double() @ self.scale_tril.mT

    def whiten(self, deviation: Tensor) -> Tensor:
        """See :meth:`Root.whiten`."""
        flat = deviation.double().mT
        white: Tensor = torch.linalg.solve_triangular(self.scale_tril, flat, upper=False)
        return white.mT

    @property
    def log_det(self) -> Tensor:
        """See :attr:`Root.log_det`."""
        return self.scale_tril.diagonal().log().sum()


class FlatNormal(TorchDistribution):
    """A flat normal distribution of any float type, whose root is in float64.

    Args:
        loc: the mean, ``(p,)``.
        factor: the covariance.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, factor: Root) -> None:
        self.loc, self.factor = loc, factor
        super().__init__(torch.Size(), loc.shape, validate_args=False)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draw vectors."""
        shape = (*sample_shape, len(self.loc))
        epsilon = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.factor.spread(epsilon).to(self.loc)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density, ``(*draws,)``."""
        deviation = (value - self.loc).reshape(-1, len(self.loc))
        log_prob = standard_normal(self.factor.whiten(deviation)) - self.factor.log_det
        return log_prob.reshape(value.shape[:-1]).to(value)


def standard_normal(white: Tensor) -> Tensor:
    """The log density of standard normal vectors ``(*draws, p)``."""
    return -0.5 * white.square().sum(-1) - 0.5 * LOG_2PI * white.shape[-1]
