"""One Markov chain, from its start through warm-up to its draws, as a coroutine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from probml_tp.inference.nuts.adaptation import (
    DualAveraging,
    MetricEstimator,
    find_step_size,
    windows,
)
from probml_tp.inference.nuts.transition import Draw, Gradients, Point, Transition, with_momentum

__all__ = ["Chain", "ChainSettings", "Watch", "in_step", "sample_chain"]

Array = np.ndarray[Any, np.dtype[np.float64]]

ATTEMPTS = 100
"""How many starting points are tried before the chain gives up."""

FIRST_LOOK = 125
"""Transitions of every chain before it is asked whether they are enough."""

LEAST_DRAWS = 8
"""Of every chain, whatever the time."""

REPORT_EVERY = 0.5
"""Seconds between reports of progress."""

WARMUP_SHARE = 0.4
"""Of the time of chains, at most, that goes into the warm-up."""


@dataclass(frozen=True)
class ChainSettings:
    """What the user chose for every chain; see :func:`~probml_tp.sample_nuts`."""

    num_samples: int
    warmup: int
    target_accept: float
    max_tree_depth: int


@dataclass
class Chain:
    """The draws of one chain and how each came about.

    A chain that goes on beyond what it can hold keeps every second draw, then every fourth.

    Args:
        draws: room for positions, ``(num_samples, P)``.
        step_size: after warm-up.
        gradients: evaluations of potential and gradient, warm-up included.
        stats: by ArviZ's name, one entry a draw.
        seen: transitions after warm-up.
        stride: every how many of them a draw is kept.
    """

    draws: Array
    step_size: float = 0.0
    gradients: int = 0
    stats: dict[str, list[Any]] = field(default_factory=dict)
    seen: int = 0
    stride: int = 1

    @property
    def kept(self) -> int:
        """How many draws there are."""
        return -(-self.seen // self.stride)

    def record(self, draw: Draw) -> None:
        """Enter a draw."""
        if self.kept == len(self.draws):
            count, half = self.kept, self.first(self.seen, 2 * self.stride)
            self.draws[: -(-count // 2)] = half.draws
            self.stats, self.stride = half.stats, half.stride
        if self.seen % self.stride == 0:
            self.draws[self.kept] = draw.point.q
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
        self.seen += 1

    def first(self, seen: int, stride: int) -> Chain:
        """The chain as it was after so many transitions, every so many of them kept."""
        count, every = -(-seen // self.stride), stride // self.stride
        stats = {name: values[:count:every] for name, values in self.stats.items()}
        draws = self.draws[:count:every].copy()
        return Chain(draws, self.step_size, self.gradients, stats, seen, stride)


def in_step(chains: Sequence[Chain], seen: int | None = None) -> list[Chain]:
    """Chains cut to equal lengths: the shortest one's, or what all have had by then."""
    length = min(chain.seen for chain in chains) if seen is None else seen
    stride = max(chain.stride for chain in chains)
    return [chain.first(length, stride) for chain in chains]


@dataclass
class Watch:
    """When chains that may end early do: their time is over, or they are enough.

    Whether they are enough is asked after 125 transitions of every chain and then each time that
    there are half as many more, of exactly those: the answer is a function of the seed.

    Args:
        seconds: of all chains; without a limit they end after their ``num_samples``, if not before.
        enough: told of the chains, in step; without it they are never asked.
        report: told of the seconds gone.
        chains: those that are watched, all of them begun before the first ends.
    """

    seconds: float | None = None
    enough: Callable[[list[Chain]], bool] | None = None
    report: Callable[[float], None] = lambda _: None
    chains: list[Chain] = field(default_factory=list)
    start: float = field(default_factory=time.monotonic)
    next_look: int = FIRST_LOOK
    next_report: float = 0.0
    found: list[Chain] = field(default_factory=list)

    @property
    def gone(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.start

    def _tell(self) -> None:
        if self.gone >= self.next_report:
            self.next_report = self.gone + REPORT_EVERY
            self.report(self.gone)

    def hurries(self) -> bool:
        """Whether a warm-up has to end now."""
        self._tell()
        return self.seconds is not None and self.gone > WARMUP_SHARE * self.seconds

    def ends(self, chain: Chain) -> bool:
        """Whether this chain has to."""
        if not self.ends_early:
            return chain.seen == len(chain.draws)
        least = min(chain.seen for chain in self.chains)
        while self.enough is not None and least >= self.next_look and not self.found:
            own = in_step(self.chains, self.next_look)
            self.next_look += self.next_look // 2
            self.found = own if self.enough(own) else []
        if self.found:
            return True
        if self.seconds is None:
            return chain.seen == len(chain.draws)
        self._tell()
        return self.gone > self.seconds and least >= LEAST_DRAWS

    @property
    def ends_early(self) -> bool:
        """Whether chains may end before their ``num_samples``."""
        return self.seconds is not None or self.enough is not None

    def result(self) -> list[Chain]:
        """What is kept of the chains."""
        return self.found or in_step(self.chains)


def sample_chain(
    start: Array,
    jitter: Array,
    estimator: MetricEstimator,
    settings: ChainSettings,
    rng: np.random.Generator,
    tick: Callable[[Draw], None],
    watch: Watch | None = None,
) -> Gradients[Chain]:
    """Warm up, then draw.

    Args:
        start: where the chain starts, ``(P,)``.
        jitter: standard deviations of the noise added to it, ``(P,)``.
        estimator: adapts the metric, and knows the first one.
        settings: of the sampler.
        rng: the chain's random numbers.
        tick: called after every transition.
        watch: says when the chain ends; by default after ``settings.num_samples`` draws.
    """
    watch = watch or Watch()
    chain = Chain(draws=np.empty((settings.num_samples, len(start))))
    watch.chains.append(chain)
    first = _first_point(start, jitter, estimator, rng)
    yield from _counting(_run(first, estimator, settings, rng, chain, tick, watch), chain)
    return chain


def _run(
    first: Gradients[Point],
    estimator: MetricEstimator,
    settings: ChainSettings,
    rng: np.random.Generator,
    chain: Chain,
    tick: Callable[[Draw], None],
    watch: Watch,
) -> Gradients[None]:
    z = yield from first
    metric = estimator.metric()

    def step(step_size: float) -> Gradients[Draw]:
        start = with_momentum(z.q, z.potential, z.gradient, metric, rng)
        draw = yield from Transition(step_size, metric, settings.max_tree_depth, rng).run(start)
        tick(draw)
        return draw

    step_size = yield from find_step_size(z, 1.0, metric, rng)
    adaptation = DualAveraging(step_size, target=settings.target_accept)
    begin, ends = windows(settings.warmup)
    for t in range(settings.warmup):
        if watch.hurries():
            break
        draw = yield from step(adaptation.step_size)
        z = draw.point
        adaptation.update(draw.acceptance_rate)
        if ends and begin <= t:
            estimator.add(z.q)
        if t + 1 in ends:
            metric = estimator.metric()
            estimator.reset()
            step_size = yield from find_step_size(z, adaptation.step_size, metric, rng)
            adaptation = DualAveraging(step_size, target=settings.target_accept)
    chain.step_size = adaptation.average
    while not watch.ends(chain):
        draw = yield from step(chain.step_size)
        z = draw.point
        chain.record(draw)


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
