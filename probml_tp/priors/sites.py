"""The distribution of one site: a prior once the parameter's shape, type and device are known."""

from __future__ import annotations

import math
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Distribution, biject_to

__all__ = ["SiteDistribution", "two_places"]


class SiteDistribution(nn.Module):
    """A distribution whose tensor arguments are buffers, so that it moves with its module.

    Args:
        name: the site's name, for error messages.
        distribution: an element-wise distribution (empty event shape) that broadcasts to ``like``.
        like: a tensor of the site's shape; its type and device are taken over.

    Raises:
        ValueError: the distribution is discrete, has an event shape, does not broadcast, or is not
            determined by its tensor arguments.

    Attributes:
        shape: the site's shape.
        support: where the distribution lives.
        given: the sites that it depends on, none here; where there are some, their values are
            arguments of the methods that follow.
    """

    shape: torch.Size
    support: Any
    given: tuple[str, ...] = ()

    def __init__(self, name: str, distribution: Any, like: Tensor) -> None:
        super().__init__()
        distribution = _of_pyro(distribution)
        _check_elementwise(name, distribution, like.shape)
        self.shape = like.shape
        self._family: Any = type(distribution)
        improper = isinstance(distribution, dist.ImproperUniform)
        self._arguments = () if improper else tuple(distribution.arg_constraints)
        for argument in self._arguments:
            value = torch.as_tensor(getattr(distribution, argument)).to(like).detach().clone()
            self.register_buffer(argument, value, persistent=False)
        self.support = distribution.support
        self._check_rebuilds(name)
        if self._family.__module__.split(".")[0] not in ("torch", "pyro"):
            self._check_density(name, distribution, like)

    def _check_density(self, name: str, distribution: Any, like: Tensor) -> None:
        """A family of the user's: its density is one for each element, and survives rebuilding."""
        places = two_places(like, self.shape, self.support)
        wanted, found = distribution.log_prob(places), self.base().log_prob(places)
        shape = getattr(wanted, "shape", None)
        if shape != places.shape:
            raise ValueError(
                f"log_prob of a prior must give one density for each element, of shape (draws, "
                f"*parameter), here {tuple(places.shape)}; that of {self._family.__name__} for "
                f"{name!r} gave {type(wanted).__name__ if shape is None else tuple(shape)}. Do "
                f"not sum over elements."
            )
        if not torch.allclose(found.to(wanted), wanted, rtol=0.02, atol=0.02):
            raise ValueError(
                f"a prior must be determined by its arg_constraints, {list(self._arguments)}; that "
                f"for {name!r}, a {self._family.__name__}, has another density when it is made "
                f"anew from them. List every argument of its constructor there."
            )

    def _check_rebuilds(self, name: str) -> None:
        try:
            self.elementwise()
            biject_to(self.support)
        except (TypeError, NotImplementedError) as error:
            raise ValueError(
                f"a prior must be a family determined by its tensor arguments, on an interval of "
                f"the real line; the one for {name!r} is a {self._family.__name__}, which is not. "
                f"Use a plain family such as Normal, Laplace, StudentT or LogNormal."
            ) from error

    @property
    def is_normal(self) -> bool:
        """Whether the site is normal, hence its KL divergence to a normal guide analytic.

        A conditional prior is not: its parameters are random.
        """
        return self._family is dist.Normal and not self.given

    @property
    def is_proper(self) -> bool:
        """Whether the density integrates to one (the flat prior's does not)."""
        return self._family is not dist.ImproperUniform

    def _arguments_now(self) -> dict[str, Tensor]:
        return {argument: getattr(self, argument) for argument in self._arguments}

    def base(self, *given: Tensor) -> TorchDistribution:
        """The distribution with its arguments as they are, which broadcast to ``shape``."""
        if not self.is_proper:
            return dist.ImproperUniform(self.support, self.shape, torch.Size())
        return cast("TorchDistribution", self._family(**self._arguments_now(), validate_args=False))

    def elementwise(self, *given: Tensor) -> TorchDistribution:
        """The distribution with batch shape ``shape`` and scalar events."""
        return cast("TorchDistribution", self.base(*given).expand(self.shape))

    def forward(self, *given: Tensor) -> TorchDistribution:
        """The distribution over the whole site: event shape ``shape``, empty batch shape."""
        return cast("TorchDistribution", self.elementwise(*given).to_event(len(self.shape)))

    def log_prob(self, value: Tensor, *given: Tensor) -> Tensor:
        """Log density of ``value`` with shape ``(*batch, *shape)``, summed to ``(*batch,)``."""
        if not self.is_proper:
            return value.new_zeros(value.shape[: value.ndim - len(self.shape)])
        log_prob: Tensor = self.base(*given).log_prob(value)
        return log_prob.sum(dim=tuple(range(-len(self.shape), 0))) if self.shape else log_prob

    def describe(self) -> str:
        """A text such as ``Normal(loc=0, scale=1)``, for specs and error messages."""
        parts = [f"{a}={_describe(getattr(self, a))}" for a in self._arguments]
        return f"{self._family.__name__}({', '.join(parts)})"


def _of_pyro(distribution: Any) -> Any:
    """The same of Pyro's family where it is of torch's."""
    if isinstance(distribution, TorchDistributionMixin):
        return distribution
    family = getattr(dist, type(distribution).__name__, None)
    if not isinstance(family, type) or not isinstance(distribution, Distribution):
        return distribution
    try:
        arguments = {name: getattr(distribution, name) for name in distribution.arg_constraints}
        return family(**arguments, validate_args=False)
    except (TypeError, ValueError, NotImplementedError):  # no family of scalars
        return distribution


def _check_elementwise(name: str, distribution: Any, shape: torch.Size) -> None:
    if not isinstance(distribution, TorchDistributionMixin):
        raise ValueError(
            f"a prior must be or give a distribution of pyro.distributions; that of {name!r} gave "
            f"{type(distribution).__name__}. Use for example pyro.distributions.Normal(0, 1)."
        )
    support: Any = distribution.support
    if distribution.event_shape or support.is_discrete:
        raise ValueError(
            f"a prior must be continuous and independent over elements (empty event shape); "
            f"the one for {name!r} is {type(distribution).__name__} with event shape "
            f"{tuple(distribution.event_shape)}. Use an element-wise distribution."
        )
    try:
        broadcast = torch.broadcast_shapes(distribution.batch_shape, shape)
    except RuntimeError:
        broadcast = None
    if broadcast != shape:
        raise ValueError(
            f"a prior must broadcast to its parameter; the one for {name!r} has batch shape "
            f"{tuple(distribution.batch_shape)}, the parameter {tuple(shape)}. "
            f"Give the distribution's arguments a shape that broadcasts."
        )


def two_places(like: Tensor, shape: torch.Size, support: Any) -> Tensor:
    """Two fixed places in a support, at which densities are compared.

    Args:
        like: a tensor whose type and device they get.
        shape: of the site.
        support: of the distribution.

    Returns:
        The places, ``(2, *shape)``.
    """
    count = 2 * math.prod(shape)
    u = torch.sin(1 + torch.arange(count, dtype=torch.float64)).reshape(2, *shape)
    place: Tensor = biject_to(support)(u).to(like)
    return place


def _describe(value: Tensor) -> str:
    if value.numel() == 1:
        return f"{value.item():g}"
    return f"tensor{tuple(value.shape)} in [{value.min().item():g}, {value.max().item():g}]"
