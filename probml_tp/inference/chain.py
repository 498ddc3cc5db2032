"""One Markov chain, from its start through warm-up to its draws, as a coroutine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from probml_tp.inference.hmc_adaptation import (
    DualAveraging,
    MetricEstimator,
    find_step_size,
    windows,
)
from probml_tp.inference.nuts import Draw, Gradients, Point, Transition, with_momentum

__all__ = ["Chain", "ChainSettings", "sample_chain"]

Array = np.ndarray[Any, np.dtype[np.float64]]

ATTEMPTS = 100
"""How many starting points are tried before the chain gives up."""


@dataclass(frozen=True)
class ChainSettings:
    """What the user chose for every chain; see :func:`~probml_tp.inference.mcmc.sample_nuts`."""

    num_samples: int
    warmup: int
    target_accept: float
    max_tree_depth: int


@dataclass
class Chain:
    """The draws of one chain and how each came about.

    Args:
        draws: positions ``(num_samples, P)``.
        step_size: after warm-up.
        gradients: evaluations of potential and gradient, warm-up included.
        stats: by ArviZ's name, one entry a draw.
    """

    draws: Array
    step_size: float = 0.0
    gradients: int = 0
    stats: dict[str, list[Any]] = field(default_factory=dict)

    def record(self, index: int, draw: Draw) -> None:
        """Enter a draw."""
        self.draws[index] = draw.point.q
        entry = {
            "lp": -draw.point.potential,
            "energy": draw.point.energy,
            "acceptance_rate": draw.acceptance_rate,
            "tree_depth": draw.tree_depth,
            "n_steps": draw.n_steps,
            "diverging": draw.diverging,
            "reached_max_treedepth": draw.reached_max_treedepth,
        }
        for name, value in entry.items():
            self.stats.setdefault(name, []).append(value)


def sample_chain(
    start: Array,
    jitter: Array,
    estimator: MetricEstimator,
    settings: ChainSettings,
    rng: np.random.Generator,
    tick: Callable[[Draw], None],
) -> Gradients[Chain]:
    """Warm up, then draw.

    Args:
        start: where the chain starts, ``(P,)``.
        jitter: standard deviations of the noise added to it, ``(P,)``.
        estimator: adapts the metric, and knows the first one.
        settings: of the sampler.
        rng: the chain's random numbers.
        tick: called after every transition.
    """
    chain = Chain(draws=np.empty((settings.num_samples, len(start))))
    first = _first_point(start, jitter, estimator, rng)
    yield from _counting(_run(first, estimator, settings, rng, chain, tick), chain)
    return chain


def _run(
    first: Gradients[Point],
    estimator: MetricEstimator,
    settings: ChainSettings,
    rng: np.random.Generator,
    chain: Chain,
    tick: Callable[[Draw], None],
) -> Gradients[None]:
    z = yield from first
    metric = estimator.metric()
    step_size = yield from find_step_size(z, 1.0, metric, rng)
    adaptation = DualAveraging(step_size, target=settings.target_accept)
    begin, ends = windows(settings.warmup)
    for t in range(settings.warmup + settings.num_samples):
        warming = t < settings.warmup
        step_size = adaptation.step_size if warming else chain.step_size
        z = with_momentum(z.q, z.potential, z.gradient, metric, rng)
        transition = Transition(step_size, metric, settings.max_tree_depth, rng)
        draw = yield from transition.run(z)
        z = draw.point
        tick(draw)
        if not warming:
            chain.record(t - settings.warmup, draw)
            continue
        adaptation.update(draw.acceptance_rate)
        if ends and begin <= t:
            estimator.add(z.q)
        if t + 1 in ends:
            metric = estimator.metric()
            estimator.reset()
            step_size = yield from find_step_size(z, adaptation.step_size, metric, rng)
            adaptation = DualAveraging(step_size, target=settings.target_accept)
        chain.step_size = adaptation.average


def _counting(run: Gradients[None], chain: Chain) -> Gradients[None]:
    """The same coroutine, its requests counted."""
    try:
        q = next(run)
        while True:
            answer = yield q
            chain.gradients += 1
            q = run.send(answer)
    except StopIteration:
        return


def _first_point(
    start: Array, jitter: Array, estimator: MetricEstimator, rng: np.random.Generator
) -> Gradients[Point]:
    for _ in range(ATTEMPTS):
        q = start + jitter * rng.standard_normal(len(start))
        potential, gradient = yield q
        if np.isfinite(potential) and np.isfinite(gradient).all():
            return with_momentum(q, potential, gradient, estimator.metric(), rng)
    raise ValueError(
        f"a chain must start where log joint and gradient are finite; {ATTEMPTS} points around "
        f"its start have none. Start from a fitted posterior with init, or lower init_scale."
    )
