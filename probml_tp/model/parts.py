"""What net, prior and likelihood have to be, to make a model together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from probml_tp.likelihoods import Likelihood
from probml_tp.priors import (
    SiteDistribution,
)

__all__ = ["check_names", "check_parts", "check_support"]

RESERVED = {
    "y": "the data use",
    "data": "the data use",
    "chain": "records of draws use as a dimension",
    "draw": "records of draws use as a dimension",
}


def check_parts(net: object, likelihood: object) -> None:
    """Check that a net and a likelihood are what they are called.

    Raises:
        ValueError: one of them is something else.
    """
    for name, part, kind, remedy in (
        ("net", net, nn.Module, "torch.nn.Linear(1, 1)"),
        ("likelihood", likelihood, Likelihood, "Gaussian(scale=0.1)"),
    ):
        if not isinstance(part, kind):
            raise ValueError(
                f"{name} must be a {kind.__name__}; got {part!r}. Pass for example {remedy}."
            )


def check_names(parameters: Iterable[str], own: Iterable[str]) -> None:
    """Check that names of a net's parameters can be those of sites.

    Args:
        parameters: their names.
        own: the names of the likelihood's sites.

    Raises:
        ValueError: a name is taken, or not fit for files of draws.
    """
    for name in parameters:
        user = "the likelihood uses" if name in own else RESERVED.get(name)
        if user is not None:
            raise ValueError(
                f"site names must be unique; the net has a parameter named {name!r}, a name that "
                f"{user}. Rename the net's."
            )
        if "/" in name:
            raise ValueError(
                f"site names must be fit for files of draws, where / parts a group from what is in "
                f"it; got a parameter named {name!r}. Rename it."
            )


def check_support(sites: Mapping[str, SiteDistribution], parameters: Mapping[str, Tensor]) -> None:
    """Check that a net's own values are possible under their priors.

    Args:
        sites: the prior of each.
        parameters: the values by name.

    Raises:
        ValueError: one lies outside its prior's support.
    """
    for name, parameter in parameters.items():
        site, value = sites[name], parameter.detach()
        if not bool(site.support.check(value).all()):
            raise ValueError(
                f"a net's initial values must lie in their prior's support; {name!r} has "
                f"{site.describe()} and values from {float(value.min()):g} to "
                f"{float(value.max()):g}. Initialise {name!r} inside the support."
            )
