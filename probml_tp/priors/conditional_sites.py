"""The distribution of a site whose prior depends on other sites, in a hierarchical model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from probml_tp.priors.families import ConditionalPrior
from probml_tp.priors.sites import SiteDistribution, two_places

__all__ = ["ConditionalSite"]


class ConditionalSite(SiteDistribution):
    """The distribution of a site given others, from a :class:`ConditionalPrior`.

    Two are taken for the same if family and sites are, and the log density at two fixed places.

    Args:
        name: the site's name, for error messages.
        prior: the prior.
        like: a tensor of the site's shape; its type and device are taken over.
        sites: the sites known so far; those given are among them.

    Raises:
        ValueError: the family has no scalar events or a support that depends on its arguments, or
            the function of the arguments does not work, or not with draws in front.
    """

    def __init__(
        self,
        name: str,
        prior: ConditionalPrior,
        like: Tensor,
        sites: Mapping[str, SiteDistribution],
    ) -> None:
        nn.Module.__init__(self)
        self.name, self.prior = name, prior
        self.shape, self.given = like.shape, tuple(prior.given)
        self._family, self._arguments = prior.family, ()
        self._given_shapes = [sites[g].shape for g in self.given]
        self.support = _fixed_support(name, prior.family)
        values = two_places(like, self.shape, self.support)
        given = [two_places(like, sites[g].shape, sites[g].support) for g in self.given]
        places = self._check(values, given)
        self._text = (
            f"{prior.family.__name__} given {', '.join(self.given)}, of log density "
            f"{' and '.join(f'{place:.6g}' for place in places.tolist())} at two fixed places"
        )

    def base(self, *given: Tensor) -> TorchDistribution:
        """The distribution at values of the sites given, ``(*draws, *their shapes)``."""
        if len(given) != len(self.given):
            raise ValueError(
                f"the prior of {self.name!r} depends on {', '.join(self.given)}; got "
                f"{len(given)} values. Pass theirs, or use the model's log_prior()."
            )
        pairs = zip(given, self._given_shapes, strict=True)
        aligned = [_aligned(value, shape, len(self.shape)) for value, shape in pairs]
        made = self._family(*self.prior.arguments(*aligned), validate_args=False)
        return cast("TorchDistribution", made)

    def describe(self) -> str:
        """A text that identifies the distribution, for specs and error messages."""
        return self._text

    def _check(self, values: Tensor, given: list[Tensor]) -> Tensor:
        """The log density at two places; both at once has to be the same as one by one."""
        try:
            one_by_one = torch.stack(
                [self(*(g[k] for g in given)).log_prob(values[k]) for k in range(2)]
            )
            together = self.log_prob(values, *given)
            same = bool(torch.allclose(together, one_by_one, rtol=1e-4, atol=1e-6))
        except (RuntimeError, TypeError, IndexError, ValueError) as error:
            raise ValueError(
                f"a conditional prior's arguments must be a function of the sites given that "
                f"broadcasts to the parameter, and index from the end (mu[..., group]); that of "
                f"{self.name!r}, of shape {tuple(self.shape)} given {', '.join(self.given)}, "
                f"failed: {error}. Change the function."
            ) from error
        if not same:
            raise ValueError(
                f"a conditional prior's arguments must be the same whether draws are given one by "
                f"one or together; those of {self.name!r} are not. Index and sum from the end, as "
                f"in mu[..., group] and mu.mean(-1)."
            )
        return one_by_one


def _fixed_support(name: str, family: Any) -> Any:
    """The support of a family, if it is one for all arguments and of scalar events."""
    constraints = torch.distributions.constraints
    support = getattr(family, "support", None)
    if not isinstance(family, type) or not issubclass(family, TorchDistributionMixin):
        reason = "is not a class of pyro.distributions"
    elif support is None or constraints.is_dependent(support):
        reason = "has a support that depends on its arguments"
    elif support.is_discrete or support.event_dim:
        reason = "is discrete, or not of scalar events"
    else:
        return support
    raise ValueError(
        f"the family of a conditional prior must be a class of pyro.distributions on a fixed "
        f"interval of the real line; that of {name!r}, "
        f"{getattr(family, '__name__', repr(family))}, {reason}. Use for example dist.Normal, "
        f"dist.Gamma or dist.Beta, and rescale in the net."
    )


def _aligned(value: Tensor, shape: torch.Size, ndim: int) -> Tensor:
    """A value ``(*draws, *shape)`` with ones put between, so that ``ndim`` follow the draws."""
    missing = ndim - len(shape)
    if missing <= 0:
        return value
    draws = value.shape[: value.ndim - len(shape)]
    return value.reshape(*draws, *(1,) * missing, *shape)
