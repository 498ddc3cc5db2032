"""From what a user states to a distribution for each site, in an order that can be sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from probml_tp.checks.arguments import checked
from probml_tp.priors.conditional_sites import ConditionalSite
from probml_tp.priors.families import ConditionalPrior, Prior, PriorSpec
from probml_tp.priors.sites import SiteDistribution

__all__ = ["resolve_priors"]


@checked(prior=None)
def resolve_priors(
    prior: PriorSpec,
    parameters: Mapping[str, Tensor],
    own: Mapping[str, SiteDistribution] | None = None,
    *,
    constants: Sequence[str] = (),
) -> dict[str, SiteDistribution]:
    """Give every parameter its distribution.

    Args:
        prior: one prior for all, or a mapping from a name or shell-style pattern
            (``"fc1.*"``, ``"*.bias"``) to a prior; an exact name wins over patterns, and among
            patterns the first that matches wins.
        parameters: the net's parameters by name.
        own: the likelihood's own sites.
        constants: names of the net's frozen parameters, which have no prior.

    Returns:
        A distribution for each site: the parameters, then the likelihood's own, but each after the
        sites that it depends on.

    Raises:
        ValueError: a pattern matches no parameter, or a parameter has no prior; conditional priors
            depend on unknown sites, or on each other in a circle.

    Example:
        >>> import torch
        >>> from probml_tp.priors import NormalPrior
        >>> spec = {"bias": NormalPrior(10.0), "*": NormalPrior(1.0)}
        >>> sites = resolve_priors(spec, dict(torch.nn.Linear(2, 1).named_parameters()))
        >>> sites["bias"].describe()
        'Normal(loc=0, scale=10)'
    """
    own = own or {}
    lookup = _lookup(prior, list(parameters), constants) if isinstance(prior, Mapping) else None
    made: dict[str, Any] = {}
    for name, parameter in parameters.items():
        chosen = lookup[name] if lookup is not None else prior
        if isinstance(chosen, Distribution):
            made[name] = chosen
            continue
        if isinstance(chosen, type) or not callable(chosen):
            raise ValueError(
                f"a prior is a callable (name, parameter) -> distribution, or a distribution; got "
                f"{'the class ' if isinstance(chosen, type) else ''}"
                f"{getattr(chosen, '__name__', repr(chosen))} for {name!r}. Pass for example "
                f"NormalPrior(scale=1.0)."
            )
        made[name] = chosen(name, parameter)
    given = {n: tuple(p.given) for n, p in made.items() if isinstance(p, ConditionalPrior)}
    sites: dict[str, SiteDistribution] = {}
    for name in _in_order([*parameters, *own], given):
        if name in own:
            sites[name] = own[name]
        elif name in given:
            sites[name] = ConditionalSite(name, made[name], parameters[name], sites)
        else:
            sites[name] = SiteDistribution(name, made[name], parameters[name])
    return sites


def _in_order(names: Sequence[str], given: Mapping[str, Sequence[str]]) -> list[str]:
    """The names in their order, but each after those it depends on."""
    order: list[str] = []

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            circle = " -> ".join((*above[above.index(name) :], name))
            raise ValueError(
                f"priors must not depend on each other in a circle; got {circle}. Give one of them "
                f"a prior of its own."
            )
        for other in given.get(name, ()):
            if other not in names:
                raise ValueError(
                    f"a conditional prior depends on sites of the model; that of {name!r} names "
                    f"{other!r}. They are {', '.join(names)}."
                )
            visit(other, (*above, name))
        if name not in order:
            order.append(name)

    for name in names:
        visit(name, ())
    return order


def _lookup(
    priors: Mapping[str, Prior], names: list[str], constants: Sequence[str]
) -> dict[str, Prior]:
    for pattern in priors:
        if pattern not in names and not any(fnmatchcase(n, pattern) for n in names):
            if frozen := [n for n in constants if n == pattern or fnmatchcase(n, pattern)]:
                raise ValueError(
                    f"a prior must name a random parameter of the net; {pattern!r} matches only "
                    f"{frozen[0]!r}, which is frozen (requires_grad is False). Leave the entry "
                    f"out, or call requires_grad_(True) on its layer."
                )
            raise ValueError(
                f"a prior must name a parameter of the net; {pattern!r} matches none. "
                f"The net's parameters are {', '.join(names)}."
            )
    chosen: dict[str, Prior] = {}
    for name in names:
        patterns = [name] if name in priors else [p for p in priors if fnmatchcase(name, p)]
        if not patterns:
            raise ValueError(
                f"every parameter needs an explicit prior; {name!r} has none. "
                f"Add an entry for it, or a '*' entry for the rest."
            )
        chosen[name] = priors[patterns[0]]
    return chosen
