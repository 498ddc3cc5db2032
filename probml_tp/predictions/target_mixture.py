r"""The distribution of a target, averaged over draws: a finite mixture of a likelihood's own.

.. math:: p(y_n \mid x_n) = \tfrac1S \sum_s p(y_n \mid f_s(x_n), \theta_s)

Each component is the distribution that the likelihood gives, whichever it is: a Poisson, a
Student-t, a zero-inflated one. Nothing is taken to be normal, and of discrete targets a quantile is
the smallest value whose probability of not being exceeded reaches the level.

How the distribution function is found, in this order: by formula
(:mod:`probml_tp.predictions.distribution_functions`, or the distribution's own ``cdf``); by summing
up probabilities, for integers from a smallest one on; by draws from the components.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from probml_tp.predictions.distribution_functions import (
    distribution_function,
    is_discrete,
    lowest,
    marginals,
    summed_probabilities,
)
from probml_tp.streams import Stream, seeded, substream

__all__ = ["NUM_DRAWS", "TargetMixture"]

NUM_DRAWS = 10_000
"""Draws of a target, at each point, where there is no distribution function."""

START = 16
"""Draws between which the search for a quantile starts."""

SLACK = 1 - 1e-12
"""What rounding may take from a level that a step of the distribution function meets exactly."""

TOLERANCE = 1e-13
STEPS = 1100
"""More halvings or doublings than a double has exponents."""


class _Law(Protocol):
    """The distribution of the targets of a batch of points, element by element of a target."""

    def cdf(self, y: Tensor) -> Tensor: ...

    def quantile(self, level: float) -> Tensor: ...


@dataclass(frozen=True)
class TargetMixture:
    """Equally likely distributions of the targets, one for each draw.

    Args:
        num_samples: how many draws, ``S``.
        parts: for each batch of points its place among all of them and, chunk by chunk of draws,
            the distributions, of batch shape ``(draws, batch)``.
        event_shape: the shape of one target: ``()``, or ``(d,)``.
        device: where the distributions live.
    """

    num_samples: int
    parts: Sequence[tuple[slice, Sequence[Any]]]
    event_shape: torch.Size
    device: torch.device

    def log_prob(self, y: Tensor) -> Tensor:
        r""":math:`\log\tfrac1S\sum_s p_s(y_n)` in nats, ``(N,)``, or minus infinity."""
        rows = []
        for points, components in self.parts:
            value = self._targets(y, points)
            terms = [_log_prob(c, value).double().logsumexp(0) for c in components]
            rows.append(torch.stack(terms).logsumexp(0))
        return torch.cat(rows) - math.log(self.num_samples)

    def cdf(self, *values: Tensor, num_draws: int) -> list[Tensor]:
        """The distribution function of each target at some values, each of the targets' shape."""
        rows = [
            [law.cdf(self._targets(y, points)) for y in values]
            for points, law in self._laws(num_draws)
        ]
        columns = zip(*rows, strict=True)
        return [torch.cat(c).reshape(y.shape) for c, y in zip(columns, values, strict=True)]

    def quantile(self, *levels: float, num_draws: int) -> list[Tensor]:
        """The smallest value that each target does not exceed with each probability."""
        rows = [[law.quantile(p) for p in levels] for _, law in self._laws(num_draws)]
        return [torch.cat(column) for column in zip(*rows, strict=True)]

    def sample(self, num_draws: int, *, seed: int) -> Tensor:
        """Draws of the targets, ``(at least num_draws, N, *event shape)``, as many of each one."""
        return torch.cat([draws for _, draws in self._draws(num_draws, seed)], dim=1)

    def crps(self, y: Tensor, *, num_draws: int) -> Tensor:
        r""":math:`E|Y - y| - \tfrac12 E|Y - Y'|` by draws, of the shape of ``y``."""
        rows = []
        for points, draws in self._draws(num_draws, 0):
            count = len(draws)
            rank = torch.arange(1 - count, count, 2, dtype=draws.dtype, device=draws.device)
            apart = torch.tensordot(rank, draws.sort(0).values, 1) / (count * (count - 1))
            rows.append((draws - self._targets(y, points)).abs().mean(0) - apart)
        return torch.cat(rows).reshape(y.shape)

    # ----------------------------------------------------------------------------- internals

    def _targets(self, y: Tensor, points: slice) -> Tensor:
        return y[points].reshape(-1, *self.event_shape)

    def _draws(self, num_draws: int, seed: int) -> Iterator[tuple[slice, Tensor]]:
        """Draws at each batch of points, as many from every component: ``(count, batch, ...)``."""
        repeats = max(2, -(-num_draws // self.num_samples))
        for points, components in self.parts:
            own = substream(seed, Stream.TARGETS, points.start)
            with torch.no_grad(), seeded(own, self.device):
                drawn = [c.sample((repeats,)).flatten(0, 1).double() for c in components]
            yield points, torch.cat(drawn)

    def _laws(self, num_draws: int) -> Iterator[tuple[slice, _Law]]:
        """How the targets of each batch of points are distributed."""
        starts = self._draws(START, 0)
        for (points, components), (_, some) in zip(self.parts, starts, strict=True):
            inner = [marginals(c) for c in components]
            known = [None if c is None else distribution_function(c, some[0]) for c in inner]
            functions = [f for f in known if f is not None]
            if len(functions) == len(components):
                yield points, _Function(functions, self.num_samples, some, inner[0])
                continue
            table = None if None in inner else summed_probabilities(inner, self.num_samples, some)
            if table is not None:
                yield points, _Table(*table)
                continue
            part = replace(self, parts=[(points, components)])
            yield points, _Draws(next(part._draws(num_draws, 0))[1].sort(0).values)


@dataclass(frozen=True)
class _Function:
    """By the components' distribution functions, inverted by bisection.

    Args:
        functions: by chunk of draws.
        count: draws in all.
        some: a few draws at every point, between which the search starts.
        like: a component, which tells whether targets are discrete and where they begin.
    """

    functions: Sequence[Callable[[Tensor], Tensor]]
    count: int
    some: Tensor
    like: Any

    def cdf(self, y: Tensor) -> Tensor:
        """The mean of the components'."""
        return torch.stack([f(y).sum(0) for f in self.functions]).sum(0) / self.count

    def quantile(self, level: float) -> Tensor:
        """The root of the distribution function less the level, or the first integer beyond it."""
        wanted = level * SLACK
        low, high = self._bracket(wanted, discrete=is_discrete(self.like))
        if is_discrete(self.like):
            while bool((high - low > 1).any()):
                middle = ((low + high) / 2).floor()
                below = self.cdf(middle) < wanted
                low, high = torch.where(below, middle, low), torch.where(below, high, middle)
            return high
        root = _root(lambda y: self.cdf(y) - wanted, low, high)
        first = lowest(self.like)
        if first is None:
            return root
        first = first.to(root).expand(self.some.shape).amin(0)
        return torch.where(self.cdf(first) >= wanted, first, root)

    def _bracket(self, wanted: float, *, discrete: bool) -> tuple[Tensor, Tensor]:
        """A value whose probability is too small, and one whose is not."""
        low, high = self.some.amin(0), self.some.amax(0)
        width = (high - low).clamp_min(1.0 if discrete else 0.0)
        width = torch.where(width > 0, width, high.abs().clamp_min(1e-12))
        for _ in range(STEPS):
            short, far = self.cdf(high) < wanted, self.cdf(low) >= wanted
            if not bool((short | far).any()):
                break
            low, high = torch.where(far, low - width, low), torch.where(short, high + width, high)
            width = 2 * width
        return low, high


@dataclass(frozen=True)
class _Table:
    """Integers from the first one on.

    Args:
        first: the smallest.
        shares: the probability of not exceeding it, the next, and so on, ``(J, batch, ...)``.
    """

    first: float
    shares: Tensor

    def cdf(self, y: Tensor) -> Tensor:
        """By the integer at or below ``y``."""
        place = (y.floor() - self.first).clamp(-1, len(self.shares) - 1).long().unsqueeze(0)
        share = self.shares.gather(0, place.clamp_min(0))
        return torch.where(place < 0, 0.0, share).squeeze(0)

    def quantile(self, level: float) -> Tensor:
        """The first integer that reaches the level."""
        return self.first + (self.shares < level * SLACK).sum(0)


@dataclass(frozen=True)
class _Draws:
    """By draws.

    Args:
        values: in ascending order, ``(J, batch, ...)``.
    """

    values: Tensor

    def cdf(self, y: Tensor) -> Tensor:
        """The share of draws up to ``y``."""
        rows, value = self.values.movedim(0, -1).contiguous(), y.to(self.values).unsqueeze(-1)
        return torch.searchsorted(rows, value, right=True).squeeze(-1) / len(self.values)

    def quantile(self, level: float) -> Tensor:
        """The first draw that reaches the level."""
        return self.values[math.ceil(level * SLACK * len(self.values)) - 1]


def _root(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Where an increasing function changes sign, by Chandrupatla (1997): the end not below zero.

    Inverse quadratic interpolation where it is safe, else bisection.
    """
    spread = TOLERANCE * (high - low)
    a, b, t = high, low, torch.full_like(low, 0.5)
    f_a, f_b = function(a), function(b)
    for _ in range(STEPS):
        x = a + t * (b - a)
        f = function(x)
        same = (f < 0) == (f_a < 0)
        c, f_c = torch.where(same, a, b), torch.where(same, f_a, f_b)
        b, f_b = torch.where(same, b, a), torch.where(same, f_b, f_a)
        a, f_a = x, f
        least = (TOLERANCE * a.abs()).maximum(spread) / (b - a).abs().clamp_min(1e-300)
        if bool((least > 0.5).all()) or bool(f.isnan().any()):
            break
        xi, phi = (a - b) / (c - b), (f_a - f_b) / (f_c - f_b)
        smooth = (phi.square() < xi) & ((1 - phi).square() < 1 - xi)
        step = f_a / (f_b - f_a) * f_c / (f_b - f_c)
        step = step + (c - a) / (b - a) * f_a / (f_c - f_a) * f_b / (f_c - f_b)
        t = torch.where(smooth & step.isfinite(), step, 0.5)
        t = t.maximum(least).minimum(1 - least)
        t = torch.where(least > 0.5, 0.5, t)
    found = torch.where(f_a < 0, b, a)
    return torch.where(f_a.isnan() | f_b.isnan(), torch.nan, found)


def _log_prob(component: Any, y: Tensor) -> Tensor:
    """The log density, minus infinity where a value is impossible."""
    try:
        inside = component.support.check(y)
    except NotImplementedError:
        inside = torch.ones((), dtype=torch.bool)
    if bool(inside.all()):
        density: Tensor = component.log_prob(y)
        return density
    inside = inside.expand(component.batch_shape)
    mask = inside.reshape(*inside.shape, *[1] * len(component.event_shape))
    with seeded(0, y.device):
        possible = torch.where(mask, y, component.sample().to(y))
    return torch.where(inside, component.log_prob(possible), -torch.inf)
