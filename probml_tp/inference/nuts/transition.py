r"""One transition of the No-U-Turn sampler, as a coroutine that asks for gradients.

Target: :math:`\pi(q) \propto e^{-U(q)}`. With the metric :math:`M^{-1} = LL^\top` and whitened
momenta :math:`p \sim \mathcal N(0, I)` the Hamiltonian is :math:`H = U(q) + \tfrac12 p^\top p`, and

.. math:: \dot q = Lp, \qquad \dot p = -L^\top \nabla U(q),

which is the usual dynamics with mass ``M`` written in :math:`L^{-1}` times its momentum. So every
inner product of the U-turn criterion is a plain one.

The sampler is that of Stan: multinomial sampling within the trajectory, biased progressive between
subtrees, and the generalised U-turn criterion with two more checks across neighbouring subtrees.

Each function that needs a gradient is a generator: it yields a position and is sent
:math:`U` and :math:`\nabla U` there. Whoever drives it may evaluate several chains at once.

Sources: Hoffman & Gelman, *The No-U-Turn Sampler*, JMLR 15 (2014); Betancourt, *A Conceptual
Introduction to Hamiltonian Monte Carlo*, arXiv:1701.02434, appendix A.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np

from probml_tp.inference.nuts.metric import Metric

__all__ = ["Draw", "Gradients", "Point", "Transition", "leapfrog", "with_momentum"]

Array = np.ndarray[Any, np.dtype[np.float64]]
T = TypeVar("T")

Gradients = Generator[Array, tuple[float, Array], T]
"""What yields positions ``(P,)``, is sent potential and gradient there, and returns a ``T``."""

MAX_ENERGY_ERROR = 1000.0
"""Beyond this a trajectory has diverged, in nats."""


class Point(NamedTuple):
    r"""A point in phase space: ``q``, ``p``, ``U(q)``, its gradient and :math:`L^\top\nabla U`."""

    q: Array
    p: Array
    potential: float
    gradient: Array
    pull: Array

    @property
    def energy(self) -> float:
        """The Hamiltonian, in nats."""
        return self.potential + 0.5 * float(self.p.dot(self.p))


class Tree(NamedTuple):
    """Consecutive points of a trajectory, and the one picked among them by weight."""

    first: Point
    last: Point
    rho: Array
    log_weight: float
    proposal: Point

    @property
    def reversed(self) -> Tree:
        """The same points from the other end."""
        return self._replace(first=self.last, last=self.first)


class Draw(NamedTuple):
    """Where a transition ends, and how it went.

    Args:
        point: the new state, with the momentum it had in the trajectory.
        acceptance_rate: the mean Metropolis acceptance over the trajectory, for the step size.
        tree_depth: the number of doublings, an incomplete last one included.
        n_steps: leapfrog steps.
        diverging: whether the energy error passed 1000 nats.
        reached_max_treedepth: whether only the limit ended the doublings.
    """

    point: Point
    acceptance_rate: float
    tree_depth: int
    n_steps: int
    diverging: bool
    reached_max_treedepth: bool


def with_momentum(
    q: Array, potential: float, gradient: Array, metric: Metric, rng: np.random.Generator
) -> Point:
    """The position with a new momentum from the standard normal."""
    p = rng.standard_normal(len(q))
    return Point(q, p, potential, gradient, metric.pull(gradient))


def leapfrog(z: Point, step_size: float, metric: Metric) -> Gradients[Point]:
    r"""One step: half a kick, a drift, half a kick; backwards in time for a negative step size.

    .. math:: p' = p - \tfrac\epsilon2 L^\top\nabla U(q), \quad q^* = q + \epsilon L p', \quad
              p^* = p' - \tfrac\epsilon2 L^\top\nabla U(q^*).
    """
    p, q = _drift(z, step_size, metric)
    return _kick(q, p, step_size, metric, *(yield q))


def _drift(z: Point, step_size: float, metric: Metric) -> tuple[Array, Array]:
    """Momentum after half a kick, and where it leads."""
    p = z.p - 0.5 * step_size * z.pull
    return p, z.q + step_size * metric.velocity(p)


def _kick(
    q: Array, p: Array, step_size: float, metric: Metric, potential: float, gradient: Array
) -> Point:
    """The other half, by the gradient there."""
    pull = metric.pull(gradient)
    return Point(q, p - 0.5 * step_size * pull, potential, gradient, pull)


@dataclass
class Transition:
    """A trajectory that doubles forwards or backwards at random until it turns.

    Args:
        step_size: of the leapfrog steps.
        metric: the metric ``L``.
        max_tree_depth: at most so many doublings.
        rng: the chain's random numbers.
    """

    step_size: float
    metric: Metric
    max_tree_depth: int
    rng: np.random.Generator
    n_steps: int = field(default=0, init=False)
    sum_acceptance: float = field(default=0.0, init=False)
    diverging: bool = field(default=False, init=False)
    initial_energy: float = field(default=0.0, init=False)

    def run(self, z: Point) -> Gradients[Draw]:
        """The transition from a point with a new momentum."""
        self.initial_energy = z.energy
        trajectory = Tree(z, z, z.p, 0.0, z)
        depth, turning = 0, False
        while depth < self.max_tree_depth and not turning:
            forwards = self.rng.random() < 0.5
            old = trajectory if forwards else trajectory.reversed
            sign = 1 if forwards else -1
            new = yield from self._subtree(old.last, depth, sign * self.step_size)
            depth += 1
            if new is None:
                turning = True
                break
            # biased progressive sampling: the new half is preferred
            accept = self._accepts(new.log_weight - old.log_weight)
            turning = _turns(old, new)
            log_weight = _log_add(old.log_weight, new.log_weight)
            joined = _join(old, new, new.proposal if accept else old.proposal, log_weight)
            trajectory = joined if forwards else joined.reversed
        return Draw(
            trajectory.proposal,
            self.sum_acceptance / self.n_steps,
            depth,
            self.n_steps,
            self.diverging,
            not turning,
        )

    def _subtree(self, start: Point, depth: int, step_size: float) -> Gradients[Tree | None]:
        """The next ``2**depth`` points after the start, or nothing if they turn or diverge.

        Point by point in one loop, not by recursion: each request of a gradient would pass through
        as many generators as the tree is deep. Subtrees wait, the largest first, for a neighbour of
        their size, as the digits of a binary counter.
        """
        z, metric = start, self.metric
        waiting: list[Tree] = []
        for n in range(1, 2**depth + 1):
            p, q = _drift(z, step_size, metric)
            z = _kick(q, p, step_size, metric, *(yield q))
            error = z.energy - self.initial_energy
            self.n_steps += 1
            if not error <= MAX_ENERGY_ERROR:  # NaN too
                self.diverging = True
                return None
            self.sum_acceptance += min(1.0, math.exp(-error)) if error > 0 else 1.0
            tree = Tree(z, z, z.p, -error, z)
            while n % 2 == 0:
                first = waiting.pop()
                if _turns(first, tree):
                    return None
                log_weight = _log_add(first.log_weight, tree.log_weight)
                # multinomial sampling: in proportion to the weights
                accept = self._accepts(tree.log_weight - log_weight)
                proposal = tree.proposal if accept else first.proposal
                tree = _join(first, tree, proposal, log_weight)
                n //= 2
            waiting.append(tree)
        return waiting.pop()

    def _accepts(self, log_probability: float) -> bool:
        return log_probability >= 0 or self.rng.random() < math.exp(log_probability)


def _join(a: Tree, b: Tree, proposal: Point, log_weight: float) -> Tree:
    """The points of ``a``, then those of ``b``."""
    return Tree(a.first, b.last, a.rho + b.rho, log_weight, proposal)


def _turns(a: Tree, b: Tree) -> bool:
    r"""Whether ``a`` followed by ``b`` makes a U-turn.

    The ends' momenta must both have a positive product with the summed momenta :math:`\rho`; so
    must they over ``a`` with the first point of ``b``, and over the last point of ``a`` with ``b``.
    """
    if _apart(a.first.p, b.last.p, a.rho + b.rho):
        if a.first is a.last and b.first is b.last:
            return False
        return not (
            _apart(a.first.p, b.first.p, a.rho + b.first.p)
            and _apart(a.last.p, b.last.p, a.last.p + b.rho)
        )
    return True


def _apart(p_first: Array, p_last: Array, rho: Array) -> bool:
    return bool(p_first.dot(rho) > 0 and p_last.dot(rho) > 0)


def _log_add(a: float, b: float) -> float:
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))
