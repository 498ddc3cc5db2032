"""The runner of NUTS: chains batched within a process, groups of chains spread over processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import (
    data_pair,
    positive,
    positive_integer,
    strictly_between_0_and_1,
    valid_seed,
)
from probml_tp.digest import digest
from probml_tp.empirical import Empirical
from probml_tp.fit_info import FitInfo
from probml_tp.inference.memory import peak_memory_mib
from probml_tp.inference.mixing import chains_convergence
from probml_tp.inference.nuts.chain import Chain, ChainSettings, Watch, sample_chain
from probml_tp.inference.nuts.potential import Potential
from probml_tp.inference.nuts.starts import (
    MassMatrix,
    Starts,
    check_mass_matrix,
    find_starts,
)
from probml_tp.inference.nuts.transition import Draw, Gradients
from probml_tp.inference.parallel import number_of_jobs, run_tasks, single_thread
from probml_tp.inference.progress import ProgressCallback, progress_reporter
from probml_tp.model import BayesianModel, check_model
from probml_tp.posterior import Posterior
from probml_tp.streams import Stream, substream

__all__ = ["drive", "sample_nuts"]

T = TypeVar("T")

Report = Callable[[int, int], None]
"""Told of transitions and divergences since the last time."""

BATCHED_WORK = 1_000_000
"""Parameters times points up to which dispatch, not arithmetic, is what a gradient costs."""

BATCH = 4
"""Chains evaluated together up to there: the time of a call hardly grows with them."""

REPORTS = 50
"""How often a chain in this process reports."""


@checked()
def sample_nuts(
    model: BayesianModel,
    data: tuple[object, object],
    *,
    draws: int = 1000,
    warmup: int = 1000,
    chains: int = 4,
    target_accept: float = 0.8,
    max_tree_depth: int = 10,
    mass_matrix: MassMatrix = "diagonal",
    init: Posterior | None = None,
    init_scale: float = 0.1,
    starts: Sequence[Mapping[str, Tensor]] | None = None,
    seconds: float | None = None,
    enough: Callable[[Posterior], bool] | None = None,
    chains_per_batch: int | None = None,
    jobs: int | None = None,
    seed: int = 0,
    progress: bool | ProgressCallback = True,
) -> Posterior:
    r"""Sample the posterior with the No-U-Turn sampler (Hoffman & Gelman 2014).

    The target is :math:`e^{-U(u)}` with
    :math:`U(u) = -\log p(\theta(u), y \mid x) - \log|\partial\theta/\partial u|` over one flat
    unconstrained vector. The sampler is Stan's: multinomial over the trajectory, generalised U-turn
    criterion, step size by dual averaging, metric in doubling windows of the warm-up. Potential and
    gradient are traced once into plain tensor operations, and chains of small nets
    are evaluated in batches, whatever the depth of their trees.

    R-hat tells whether chains agree only if they start further apart than the posterior is wide.
    Without ``init`` they start close to the net's own parameters, which does not ensure that: for a
    multimodal posterior it is worth running several nets, or starting from an ensemble. With an
    ``init`` that has a spread each chain starts at the mean plus twice a draw's deviation from it;
    with a point (MAP) or points (an ensemble), at one of them. Or say with ``starts`` where each
    begins.

    With ``enough`` chains end as soon as they are, and after ``draws`` at the latest. With
    ``seconds`` they run as long as that, or until they are enough: the warm-up ends
    after its steps or 40 % of the time, and ``draws`` is the most that is kept of a chain,
    every second draw or fewer once there are more. How many draws the time allows depends on the
    machine; what chains that were enough return is a function of the seed.

    Args:
        model: the model.
        data: inputs and targets; every step uses all of them.
        draws: kept from each chain.
        warmup: steps that adapt the step size and the mass matrix, not kept.
        chains: the number of chains; R-hat needs at least 2.
        target_accept: the acceptance probability that the step size aims at.
        max_tree_depth: at most ``2**max_tree_depth`` leapfrog steps a draw.
        mass_matrix: ``"diagonal"`` adapts variances, ``"dense"`` a covariance, ``"laplace"``
            variances along the axes of the curvature at the mode, which ``init`` gives; it needs
            the shortest warm-up where the posterior is nearly normal.
        init: a posterior of the same model to start from; its variances, if it has any, are the
            first metric, and what the adapted one is pulled towards.
        init_scale: standard deviation of the noise added to each starting point; in units of the
            standard deviations of ``init`` if it has any.
        starts: values of every site for each chain to start at, instead of ``init``'s.
        seconds: how long, at most but for one transition.
        enough: asked after 125 draws of every chain, and each time that there are half as many
            more, whether this posterior will do. With it or ``seconds`` all chains run in one
            batch in this process.
        chains_per_batch: chains evaluated together, in one process. Default: 4 where parameters
            times data points are at most a million, for there four chains cost little more than
            one, else 1. Draws depend on it through rounding.
        jobs: processes; default: one a batch of chains, at most one a core. 1 runs them here.
        seed: determines every chain, however many chains and processes run.
        progress: show a bar (on terminals), or a callback ``(done, total, message)`` that counts
            transitions; from other processes it hears only when a batch of chains is done.

    Returns:
        The posterior: an :class:`Empirical` guide named ``"nuts"``. ``info.sampler`` has for each
        chain and draw ``lp`` (the log density in unconstrained space), ``energy``,
        ``acceptance_rate``, ``tree_depth``, ``n_steps``, ``diverging`` and
        ``reached_max_treedepth``, and for each chain ``step_size``; ``info.forward_passes`` counts
        gradients over all chains, warm-up and curvature included.

    Raises:
        ValueError: the data do not fit the model, or an option is invalid. (A flat prior is fine
            as long as the data make the posterior proper.)

    Example:
        >>> from probml_tp import BayesianModel, Gaussian, NormalPrior
        >>> model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.1))
        >>> x = torch.linspace(-1, 1, 20).unsqueeze(-1)
        >>> posterior = sample_nuts(model, (x, x), draws=20, warmup=20, chains=1)
        >>> posterior.guide.chains["weight"].shape
        torch.Size([1, 20, 1, 1])
    """
    x, y = check_model(model).check_data(*data_pair("data", data))
    counts = {"draws": draws, "warmup": warmup, "chains": chains}
    counts |= {"max_tree_depth": max_tree_depth}
    draws, warmup, chains, max_tree_depth = (
        positive_integer(name, value) for name, value in counts.items()
    )
    if chains_per_batch is None:
        chains_per_batch = BATCH if model.work(len(x)) <= BATCHED_WORK else 1
    positive_integer("chains_per_batch", chains_per_batch)
    seed = valid_seed(seed)
    positive("init_scale", init_scale)
    strictly_between_0_and_1("target_accept", target_accept)
    check_mass_matrix(mass_matrix, model, init)
    _check_ends(chains, starts, seconds)
    start = time.perf_counter()
    settings = ChainSettings(draws, warmup, target_accept, max_tree_depth)
    if seconds is not None or enough is not None:
        chains_per_batch, jobs = chains, 1
    batches = [
        list(range(c, min(c + chains_per_batch, chains)))
        for c in range(0, chains, chains_per_batch)
    ]
    jobs = number_of_jobs(jobs, len(batches))
    with progress_reporter(progress, "nuts", unit="draw") as report, single_thread():
        begin = find_starts(
            model, x, y,
            chains=chains, init=init, init_scale=init_scale, starts=starts,
            mass_matrix=mass_matrix, seed=seed,
        )  # fmt: skip
        watch = _watch(model, seconds, enough, report, seed)
        batch = _Batch(model, x, y, chains_per_batch, begin, mass_matrix, settings, seed, watch)
        total = 0 if seconds else chains * (warmup + draws)
        done = _run(batch, batches, jobs, _counter(report, total))
    info = FitInfo(
        options={
            "chains": chains,
            "seed": seed,
            **vars(settings),
            "mass_matrix": mass_matrix,
            "init": init.name if init else None,
            "init_scale": init_scale,
            "chains_per_batch": chains_per_batch,
        },
        seconds=time.perf_counter() - start,
        peak_memory_mib=peak_memory_mib(),
        sampler=_sampler_stats(done),
        data=digest([x, y]),
        forward_passes=float(begin.gradients + sum(chain.gradients for chain in done)),
        convergence=chains_convergence(
            model, x, [chain.draws for chain in done], [chain.stats["lp"] for chain in done]
        ),
    )
    if init is not None:
        info.begin_from(init.info)
    return Posterior(_guide(model, done), seed=seed, info=info)


def _check_ends(
    chains: int,
    starts: Sequence[object] | None,
    seconds: float | None,
) -> None:
    if starts is not None and len(starts) != chains:
        raise ValueError(
            f"starts must be one a chain, {chains}; got {len(starts)}. Pass chains={len(starts)}."
        )
    if seconds is not None:
        positive("seconds", seconds)


def _watch(
    model: BayesianModel,
    seconds: float | None,
    enough: Callable[[Posterior], bool] | None,
    report: ProgressCallback,
    seed: int,
) -> Watch:
    if seconds is None and enough is None:
        return Watch()

    def will_do(chains: list[Chain]) -> bool:
        return enough is not None and enough(Posterior(_guide(model, chains), seed=seed))

    def tell(gone: float) -> None:
        if seconds is not None:
            share = min(gone / seconds, 1.0)
            report(round(1000 * share), 1000, f"{gone:.0f} of {seconds:.0f} s")

    return Watch(seconds, None if enough is None else will_do, tell)


# ------------------------------------------------------------------------- batches of chains


def _run(batch: _Batch, indices: list[list[int]], jobs: int, report: Report) -> list[Chain]:
    """All batches of chains, in this process or in others."""
    if jobs == 1:
        results = [(own, batch.run(own, report)) for own in indices]
    else:
        results = []

        def done(result: tuple[list[int], list[Chain]]) -> None:
            results.append(result)
            stats = [chain.stats["diverging"] for chain in result[1]]
            report(len(result[0]) * batch.transitions, sum(map(sum, stats)))

        run_tasks([partial(batch.run_apart, own) for own in indices], jobs=jobs, done=done)
    return [chain for _, chains in sorted(results, key=lambda r: r[0]) for chain in chains]


@dataclass(frozen=True)
class _Batch:
    """What a batch of chains needs to run in any process."""

    model: BayesianModel
    x: Tensor
    y: Tensor
    size: int
    starts: Starts
    mass_matrix: MassMatrix
    settings: ChainSettings
    seed: int
    watch: Watch = field(default_factory=Watch)

    @property
    def transitions(self) -> int:
        """How many a chain makes."""
        return self.settings.warmup + self.settings.num_samples

    def run_apart(self, indices: list[int]) -> tuple[list[int], list[Chain]]:
        """In another process, on one thread: the cores have other chains."""
        with single_thread():
            return indices, self.run(indices, lambda *_: None)

    def run(self, indices: list[int], report: Report) -> list[Chain]:
        """The chains of these indices."""
        potential = Potential(self.model, self.x, self.y, batch=self.size)
        tick = _Tick(report, every=max(1, len(indices) * self.transitions // REPORTS))
        done = drive([self._chain(index, tick) for index in indices], potential)
        tick.flush()
        return self.watch.result() if self.watch.ends_early else done

    def _chain(self, index: int, tick: _Tick) -> Gradients[Chain]:
        return sample_chain(
            self.starts.positions[index],
            self.starts.jitter,
            self.starts.estimator(self.mass_matrix),
            self.settings,
            np.random.default_rng(substream(self.seed, Stream.CHAINS, index)),
            tick,
            self.watch,
        )


def drive(chains: list[Gradients[T]], potential: Potential) -> list[T]:
    """Run coroutines to their ends, answering the requests of all of them by one evaluation.

    Rows of the batch beyond the chains that are left stay where they were: the others' answers
    then are the same to the last bit, however many chains run.

    Args:
        chains: at most as many as the potential takes at a time.
        potential: the potential.

    Returns:
        What each coroutine returns.
    """
    first = [next(chain) for chain in chains]
    padding = [first[0]] * (potential.batch - len(chains))
    positions = np.stack(first + padding)
    left = dict(enumerate(chains))
    results: dict[int, T] = {}
    with np.errstate(over="ignore", invalid="ignore"):  # of trajectories that diverge
        while left:
            potentials, gradients = potential(positions)
            for k, chain in list(left.items()):
                try:
                    positions[k] = chain.send((float(potentials[k]), gradients[k]))
                except StopIteration as end:
                    results[k] = end.value
                    del left[k]
    return [results[k] for k in range(len(chains))]


class _Tick:
    """Adds up transitions and reports every so many."""

    def __init__(self, report: Report, *, every: int) -> None:
        self.report, self.every = report, every
        self.count = self.divergences = 0

    def __call__(self, draw: Draw) -> None:
        self.count += 1
        self.divergences += draw.diverging
        if self.count == self.every:
            self.flush()

    def flush(self) -> None:
        """Report what has not been."""
        if self.count:
            self.report(self.count, self.divergences)
        self.count = self.divergences = 0


def _counter(report: ProgressCallback, total: int) -> Report:
    done = divergences = 0

    def add(transitions: int, diverging: int) -> None:
        nonlocal done, divergences
        done += transitions
        divergences += diverging
        if total:
            report(done, total, f"{divergences} divergences")

    return add


# -------------------------------------------------------------------------------- the record


def _guide(model: BayesianModel, chains: list[Chain]) -> Empirical:
    flat = torch.from_numpy(np.stack([chain.draws for chain in chains]))
    draws = model.constrain(model.layout.unravel(flat.to(model.dtype).to(model.device)))
    return Empirical(model, method="nuts", draws=draws)


def _sampler_stats(chains: list[Chain]) -> dict[str, Any]:
    stats = {name: [chain.stats[name] for chain in chains] for name in chains[0].stats}
    return stats | {"step_size": [chain.step_size for chain in chains]}
