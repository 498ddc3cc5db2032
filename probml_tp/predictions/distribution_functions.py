r"""Distribution functions :math:`P(Y \le y)`, element by element of torch's and Pyro's.

Torch has them for few distributions. Here are those of counts, of Student's t, of beta and F, and
how they follow for expanded and zero-inflated ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyro.distributions as dist
import scipy.special
import torch
import torch.distributions as td
from torch import Tensor

__all__ = [
    "distribution_function",
    "has_log_prob_of",
    "independent_parts",
    "is_discrete",
    "lowest",
    "marginals",
    "summed_probabilities",
]

MAX_STEPS = 2**15
"""Integers, at most, over which probabilities are summed up."""

TOO_MANY = 2**22
"""Probabilities that are held in memory at once."""

REST = 1e-10
"""What may be left of the probability where summing up ends."""

Function = Callable[[Tensor], Tensor]


def independent_parts(distribution: Any) -> Any:
    """The distribution without what only joins independent elements to one target."""
    if isinstance(distribution, td.Independent):
        return independent_parts(distribution.base_dist)
    return distribution


def marginals(distribution: Any) -> Any:
    """The distributions of the elements of a target, or ``None`` where they are not known.

    Example:
        >>> marginals(dist.Normal(torch.zeros(3), 1.0).to_event(1)).batch_shape
        torch.Size([3])
    """
    distribution = independent_parts(distribution)
    if not distribution.event_shape:
        return distribution
    if has_log_prob_of(distribution, td.MultivariateNormal, td.LowRankMultivariateNormal):
        return dist.Normal(distribution.mean, distribution.variance.sqrt())
    return None


def has_log_prob_of(distribution: Any, *kinds: type) -> bool:
    """Whether the density is one of these, not one that a subclass has put in its place."""
    return any(type(distribution).log_prob is kind.log_prob for kind in kinds)  # type: ignore[attr-defined]


def is_discrete(distribution: Any) -> bool:
    """Whether the targets are integers; not if the support is not known."""
    try:
        return bool(distribution.support.is_discrete)
    except NotImplementedError:
        return False


def lowest(distribution: Any) -> Tensor | None:
    """The lower end of the support, if it has one."""
    return _bounds(distribution)[0]


def distribution_function(distribution: Any, example: Tensor) -> Function | None:
    """The distribution function of every element, in float64.

    Args:
        distribution: of elements, of batch shape ``(draws, ...)``.
        example: values ``(...)`` at which it is tried out.

    Returns:
        A function of values ``(...)`` that gives ``(draws, ...)``, 0 below and 1 above the support,
        or ``None`` where there is no formula.

    Example:
        >>> poisson = dist.Poisson(torch.ones(1, 2, dtype=torch.float64))
        >>> cdf = distribution_function(poisson, torch.zeros(2))
        >>> cdf(torch.tensor([-1.0, 0.0])).round(decimals=4)
        tensor([[0.0000, 0.3679]], dtype=torch.float64)
    """
    if has_log_prob_of(distribution, dist.ZeroInflatedDistribution):
        return _zero_inflated(distribution, example)
    formula = FORMULAS.get(type(distribution).log_prob) or _own(distribution)
    if formula is None:
        return None
    low, high = _bounds(distribution)
    discrete = is_discrete(distribution)

    def function(y: Tensor) -> Tensor:
        y = (y.floor() if discrete else y).double()
        inner = y if low is None else y.maximum(low.to(y))
        inner = inner if high is None else inner.minimum(high.to(y))
        value = formula(distribution, inner).expand(distribution.batch_shape)
        value = value if low is None else torch.where(y < low, 0.0, value)
        return value if high is None else torch.where(y >= high, 1.0, value)

    try:
        function(example)
    except NotImplementedError:
        return None
    return function


def summed_probabilities(
    components: Sequence[Any], count: int, example: Tensor
) -> tuple[float, Tensor] | None:
    """The mixture's distribution function at integers, by summing up probabilities.

    Args:
        components: discrete distributions, by chunk of draws, of batch shape ``(draws, ...)``.
        count: draws in all.
        example: values ``(draws, ...)``.

    Returns:
        The first integer, and the probabilities of not exceeding it, the next and so on,
        ``(J, ...)``; ``None`` where the support has no known lower end, or too many integers share
        the probability.

    Example:
        >>> low, high = (dist.Poisson(torch.tensor([[rate]])) for rate in (1.0, 3.0))
        >>> first, shares = summed_probabilities([low, high], 2, torch.zeros(1, 1))
        >>> first, [round(share, 3) for share in shares[:3, 0].tolist()]
        (0.0, [0.209, 0.467, 0.671])
    """
    bounds = [_bounds(c) for c in components]
    if not all(is_discrete(c) for c in components) or any(low is None for low, _ in bounds):
        return None
    first = min(float(low.min()) for low, _ in bounds if low is not None)
    ends = [float(high.max()) for _, high in bounds if high is not None]
    last = max(ends) if len(ends) == len(bounds) else np.inf
    shape = example.shape[1:]
    rows: list[Tensor] = []
    total = torch.zeros(shape, dtype=torch.float64)
    step = max(1, min(32, TOO_MANY // max(1, count * total.numel())))
    while len(rows) * step < MAX_STEPS and first + len(rows) * step <= last:
        k = (
            first
            + len(rows) * step
            + torch.arange(step, dtype=torch.float64, device=example.device)
        )
        shares = sum(_probabilities(c, k.clamp_max(last)) for c in components) / count
        shares = torch.where((k <= last).reshape(-1, *[1] * len(shape)), shares, 0.0)
        rows.append(total.to(shares) + shares.cumsum(0))
        total = rows[-1][-1]
        if bool((total >= 1 - REST).all()):
            break
    if not bool((total >= 1 - REST).all()):
        return None
    return first, torch.cat(rows)


def _probabilities(component: Any, k: Tensor) -> Any:
    """Probabilities of integers, summed over the draws, ``(len(k), ...)``; 0 off the support."""
    low, high = _bounds(component)
    value = k.reshape(-1, *[1] * len(component.batch_shape))
    inner = value if low is None else value.maximum(low.to(value))
    inner = inner if high is None else inner.minimum(high.to(value))
    probs = component.log_prob(inner.expand(len(k), *component.batch_shape)).double().exp()
    return torch.where(inner == value, probs, 0.0).sum(1)


def _bounds(distribution: Any) -> tuple[Tensor | None, Tensor | None]:
    """Lower and upper end of the support, where it has one that is known."""
    try:
        support = distribution.support
    except NotImplementedError:
        return None, None
    while isinstance(support, td.constraints.independent):
        support = support.base_constraint
    ends = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    low, high = (None if end is None else torch.as_tensor(end) for end in ends)
    if isinstance(distribution, td.Bernoulli):
        low, high = torch.zeros(()), torch.ones(())
    return low, high


def _own(distribution: Any) -> Callable[[Any, Tensor], Tensor] | None:
    """The distribution's ``cdf``, unless a subclass has another density than the one it is of."""
    classes = type(distribution).__mro__
    of = [next(c for c in classes if name in vars(c)) for name in ("cdf", "log_prob")]
    if of[0] is td.Distribution or classes.index(of[0]) > classes.index(of[1]):
        return None
    return _without_checks


def _without_checks(distribution: Any, y: Tensor) -> Tensor:
    """The ``cdf`` at ends of the support too, which torch takes to lie outside of it."""
    checked = vars(distribution).get("_validate_args")
    distribution._validate_args = False
    try:
        value: Tensor = distribution.cdf(y)
    finally:
        if checked is None:
            del distribution._validate_args
        else:
            distribution._validate_args = checked
    return value.double()


def _zero_inflated(distribution: Any, example: Tensor) -> Function | None:
    base, gate = distribution_function(distribution.base_dist, example), distribution.gate.double()
    if base is None:
        return None
    return lambda y: torch.where(y >= 0, gate, 0.0) + (1 - gate) * base(y)


def _scipy(function: Any, *arguments: Tensor) -> Tensor:
    arrays = [a.detach().double().cpu().numpy() for a in arguments]
    with np.errstate(all="ignore"):
        return torch.from_numpy(np.asarray(function(*arrays))).to(arguments[0].device)


def _negative_binomial(count: Tensor, failure: Tensor, k: Tensor) -> Tensor:
    return _scipy(scipy.special.betainc, count, k + 1, failure)


def _binomial(d: Any, k: Tensor) -> Tensor:
    below = _scipy(scipy.special.betainc, (d.total_count - k).clamp_min(1), k + 1, 1 - d.probs)
    return torch.where(k >= d.total_count, 1.0, below)


FORMULAS: Mapping[Any, Callable[[Any, Tensor], Tensor]] = {
    kind.log_prob: formula
    for kinds, formula in (
        (
            (td.Poisson, dist.Poisson),
            lambda d, k: torch.special.gammaincc(k + 1, d.rate.double().expand_as(k + d.rate)),
        ),
        (
            (td.NegativeBinomial, dist.NegativeBinomial),
            lambda d, k: _negative_binomial(d.total_count, 1 - d.probs, k),
        ),
        (
            (dist.GammaPoisson,),
            lambda d, k: _negative_binomial(d.concentration, d.rate / (1 + d.rate), k),
        ),
        ((td.Binomial, dist.Binomial), _binomial),
        (
            (td.Geometric, dist.Geometric),
            lambda d, k: -torch.expm1((k + 1) * torch.log1p(-d.probs.double())),
        ),
        (
            (td.Bernoulli, dist.Bernoulli),
            lambda d, k: torch.where(k >= 1, 1.0, 1 - d.probs.double()),
        ),
        (
            (td.StudentT, dist.StudentT),
            lambda d, y: _scipy(scipy.special.stdtr, d.df, (y - d.loc) / d.scale),
        ),
        (
            (td.Beta, dist.Beta),
            lambda d, y: _scipy(scipy.special.betainc, d.concentration1, d.concentration0, y),
        ),
        (
            (td.FisherSnedecor, dist.FisherSnedecor),
            lambda d, y: _scipy(scipy.special.fdtr, d.df1, d.df2, y),
        ),
        ((dist.Delta,), lambda d, y: (y >= d.v).double()),
    )
    for kind in kinds
}
"""Where torch has none: by the function that gives the density, so that no subclass with another
density is taken for it."""
