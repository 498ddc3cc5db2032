"""The chains of a user's model: where they start, what a gradient costs, what the time allows."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from probml_tp.gap.checks import has_converged
from probml_tp.gap.sample import collect
from probml_tp.harness.experiment import Update, no_update
from probml_tp.inference import Mixture, sample_nuts
from probml_tp.inference.nuts.potential import Potential
from probml_tp.inference.nuts.starts import MassMatrix
from probml_tp.inference.starts import random_start
from probml_tp.model import BayesianModel
from probml_tp.posterior import Posterior
from probml_tp.streams import Stream, seeded, substream

__all__ = [
    "Allowance",
    "ChainsTooDearError",
    "functions_are_known",
    "overdispersed_starts",
    "sample_within",
]

Data = tuple[Tensor, Tensor]
Params = dict[str, Tensor]

TRIES = 20, 200
"""Draws from the prior that a start is picked from, at least and at most."""

TRIED_WORK = 10_000_000
"""Such draws times parameters times points, about."""

LEAST_GRADIENTS = 400
"""Gradients of a chain below which it is not begun."""

USUAL_GRADIENTS = 100_000
"""Gradients of a chain that a net needs, more or less, to say what a reference would cost."""

MOST_DENSE = 30
"""Parameters up to which a covariance is adapted."""

WARMUPS = (500, 250, 100, 50)
WARMUP_SHARE = 0.3
DRAWS = 150
"""So many of the longest trajectories the time has to allow."""

PILOT = 30


class ChainsTooDearError(ValueError):
    """The time does not allow chains that would tell anything."""


@dataclass(frozen=True)
class Allowance:
    """What chains are run with.

    Args:
        tree_depth: at most 2 to this power leapfrog steps a draw.
        warmup: steps of each chain.
        mass_matrix: what is adapted.
    """

    tree_depth: int
    warmup: int
    mass_matrix: MassMatrix


def overdispersed_starts(
    model: BayesianModel, data: Data, *, chains: int, fits: Mapping[str, Posterior], seed: int
) -> list[Params]:
    """Points further apart than chains could come by themselves: one a chain, from every source.

    In turn: a member of the ensemble (or the MAP estimate), the prior, another member or the net
    drawn anew, the prior again. Of several draws from the prior, or nets drawn anew, one is taken
    in proportion to its likelihood: where that many draws meet the modes, it is in one of these by
    the mode's own weight. Where the prior is improper the net is drawn anew; failing that its own
    values are moved by up to 2 in unconstrained space.

    Args:
        model: the model.
        data: checked inputs and targets.
        chains: how many.
        fits: the posteriors that are fitted already.
        seed: determines them.

    Returns:
        Values of every site, for each chain.
    """
    modes = iter(_modes(fits))
    count = int(np.clip(TRIED_WORK // (model.work(len(data[0]))), *TRIES))
    starts = []
    for chain in range(chains):
        mode = None if chain % 2 else next(modes, None)
        with seeded(substream(seed, Stream.CHAIN_CANDIDATES, chain), model.device):
            starts.append(mode or _picked(model, data, count, from_prior=bool(chain % 2)))
    return starts


def _modes(fits: Mapping[str, Posterior]) -> Iterator[Params]:
    ensemble = fits.get("deep-ensemble")
    if ensemble is not None and isinstance(ensemble.guide, Mixture):
        yield from (member.centre() for member in ensemble.guide.members)  # type: ignore[operator]
    elif "map" in fits:
        yield fits["map"].guide.centre()


@torch.no_grad()
def _picked(model: BayesianModel, data: Data, count: int, *, from_prior: bool) -> Params:
    """One of several points, by its likelihood; the net's own values where all have none."""
    anew = partial(random_start, model)
    for source in (model.sample_prior, anew) if from_prior else (anew,):
        draws, weights = [], []
        try:
            for _ in range(count):
                params = source()
                log_likelihood = float(model.log_likelihood(params, *data).sum())
                draws.append(params)
                weights.append(log_likelihood if math.isfinite(log_likelihood) else -math.inf)
        except (ValueError, NotImplementedError, RuntimeError):  # such as an improper prior
            continue
        if max(weights) > -math.inf:
            chosen = torch.distributions.Categorical(logits=torch.tensor(weights)).sample()
            return draws[int(chosen)]
    return _moved(model, data)


def _moved(model: BayesianModel, data: Data) -> Params:
    """The net's own values, moved at random."""
    u = model.layout.ravel(model.unconstrain(model.initial_params()))
    for _ in range(TRIES[0]):
        moved = u + 4 * torch.rand_like(u) - 2
        if math.isfinite(float(model.log_joint_flat(moved, *data))):
            return model.constrain(model.layout.unravel(moved))
    return model.initial_params()


def sample_within(
    model: BayesianModel,
    data: Data,
    x: Tensor,
    *,
    seconds: float,
    chains: int,
    draws: int,
    warmup: int | None,
    max_tree_depth: int | None,
    fits: Mapping[str, Posterior],
    seed: int,
    update: Update,
) -> Posterior:
    """Run chains until they know the functions at ``x``, or for as long as they may.

    Args:
        model: the model.
        data: checked inputs and targets.
        x: where predictions are compared.
        seconds: for all of it.
        chains: how many.
        draws: kept of each, at most.
        warmup: steps of each; by what the time allows if not given.
        max_tree_depth: likewise.
        fits: posteriors whose modes chains may start from.
        seed: determines them.
        update: told of the progress.

    Returns:
        The posterior.

    Raises:
        ChainsTooDearError: the time is not enough to begin.
    """
    start = time.monotonic()
    cost = _seconds_per_gradient(model, data, chains)
    if seconds < LEAST_GRADIENTS * cost:
        raise ChainsTooDearError(
            f"a gradient of {chains} chains takes {cost:.2g} s, so that {seconds:.0f} s are enough "
            f"for {seconds / cost:.0f} of them; chains of such a net need some "
            f"{USUAL_GRADIENTS:,}, about {USUAL_GRADIENTS * cost / 60:,.0f} minutes. Pass more "
            f"minutes, or a posterior as the reference."
        )
    starts = overdispersed_starts(model, data, chains=chains, fits=fits, seed=seed)
    gradients = max(seconds - (time.monotonic() - start), seconds / 2) / cost
    allowed = _allowance(model, data, starts, gradients, cost, max_tree_depth, warmup, seed)

    posterior = sample_nuts(
        model,
        data,
        draws=draws,
        warmup=allowed.warmup,
        chains=chains,
        max_tree_depth=allowed.tree_depth,
        mass_matrix=allowed.mass_matrix,
        starts=starts,
        seconds=max(seconds - (time.monotonic() - start), seconds / 3),
        enough=partial(functions_are_known, x=x),
        seed=seed,
        progress=update,
    )
    posterior.info.seconds = time.monotonic() - start
    return posterior


def functions_are_known(posterior: Posterior, x: Tensor) -> bool:
    """Whether its chains agree on the function values at ``x``, and are long enough for them."""
    found = collect(posterior, x, sites=(), num_samples=1, seed=0).convergence
    return found is not None and has_converged(found)


def _seconds_per_gradient(model: BayesianModel, data: Data, chains: int) -> float:
    """Of all chains together, the fastest of a few."""
    potential = Potential(model, *data, batch=chains)
    u = model.layout.ravel(model.unconstrain(model.initial_params())).double().cpu().numpy()
    positions = np.tile(u, (chains, 1))
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        potential(positions)
        times.append(time.perf_counter() - begin)
        if sum(times) > 1:
            break
    return min(times)


def _allowance(
    model: BayesianModel,
    data: Data,
    starts: list[Params],
    gradients: float,
    cost: float,
    max_tree_depth: int | None,
    warmup: int | None,
    seed: int,
) -> Allowance:
    """Depth by the cost of a gradient, the warm-up by that of a draw of a pilot."""
    depth = max_tree_depth or int(np.clip(math.log2(gradients / DRAWS), 3, 10))
    metric: MassMatrix = "dense" if model.num_params <= MOST_DENSE else "diagonal"
    if warmup is not None:
        return Allowance(depth, warmup, metric)
    pilot = sample_nuts(
        model,
        data,
        draws=PILOT,
        warmup=PILOT,
        chains=len(starts),
        max_tree_depth=depth,
        starts=starts,
        seconds=max(0.05 * gradients * cost, 0.05),
        enough=lambda _: True,
        seed=seed,
        progress=no_update,
    )
    steps = np.mean(pilot.info.sampler.get("n_steps") or [2.0**depth])
    allowed = WARMUP_SHARE * gradients / float(steps if np.isfinite(steps) else 2.0**depth)
    return Allowance(depth, next((w for w in WARMUPS if w <= allowed), WARMUPS[-1]), metric)
