"""The study of a user's problem within a budget of time: it answers, whatever the chains do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from probml_tp.empirical import Empirical
from probml_tp.gap import GapReport, compare, recommend
from probml_tp.gap.chains import ChainsTooDearError, sample_within
from probml_tp.gap.checks import check_same_data
from probml_tp.gap.doubt import Doubt, agreement, doubt_of_chains, unaided_scores
from probml_tp.gap.evidence import evidence_tables
from probml_tp.gap.report import draw_seeds
from probml_tp.gap.sample import collect
from probml_tp.gap.study import (
    NUTS,
    Comparison,
    GapProblem,
    GapStudy,
    check_something_to_compare,
    part_of,
)
from probml_tp.guides.recipes import RECIPES, FitSettings, fit_one
from probml_tp.harness.experiment import Update
from probml_tp.inference.parallel import single_thread
from probml_tp.inference.progress import ProgressCallback
from probml_tp.inference.starts import check_same_model
from probml_tp.model import BayesianModel
from probml_tp.posterior import Posterior

__all__ = ["Clock", "study_own"]

Data = tuple[Tensor, Tensor]

FITS, CHAINS, COMPARED = 0.3, 0.65, 0.9
"""Shares of the time that have gone when fits, then chains, then the comparison should be over."""

LATE, LEAST_SECONDS = 3.0, 6.0
"""How many times its share a fit may take, and how long at least, before it is given up."""

ROUND = 130
"""Gradients of a round of L-BFGS, at most about."""

FEWEST_EPOCHS = 5
BATCH = 256
"""Points a step where the time allows so few epochs that single steps count."""

PASSES = 12
"""Passes of a draw over the data that a comparison takes of each posterior, about."""

LEAST_DRAWS = 100

MOST_WEIGHTS = 1000
"""Parameters up to which the marginals of weights are compared, too."""

FEWEST_RESAMPLES, TRIED_RESAMPLES, SHARE_OF_RESAMPLES = 20, 5, 0.6
"""Of the bootstrap: at least, to see what one takes, and their share of the time left."""


class _LateError(ValueError):
    """A fit has taken far more than its share of the time."""


@dataclass
class Clock:
    """How much of the time has gone.

    Args:
        seconds: the budget.
    """

    seconds: float
    start: float = field(default_factory=time.monotonic)

    def left(self, share: float = 1.0) -> float:
        """Seconds until a share of the budget has gone; negative after."""
        return self.start + share * self.seconds - time.monotonic()


@dataclass
class _Work:
    """What has been done so far."""

    problem: GapProblem
    clock: Clock
    tolerant: bool
    num_samples: int
    seed: int
    done: dict[str, Posterior]
    refused: dict[str, str] = field(default_factory=dict)
    cut: list[str] = field(default_factory=list)
    doubt: Doubt | None = None

    def attempt(self, guide: str, make: Callable[[], Posterior]) -> None:
        """Fit one; where it may be left out, note what it raises, whatever that is."""
        try:
            self.done[guide] = make()
        except Exception as error:  # a user's net may raise anything
            if not self.tolerant:
                raise
            self.refused[guide] = _reason(error)

    @property
    def posteriors(self) -> dict[str, Posterior]:
        """Those to compare, in the problem's order."""
        return {guide: self.done[guide] for guide in self.problem.guides if guide in self.done}


def study_own(
    problem: GapProblem,
    *,
    comparison: Comparison,
    minutes: float,
    warmup: int | None,
    max_tree_depth: int | None,
    given: Mapping[str, Posterior],
    tolerant: bool,
    seed: int,
    update: ProgressCallback,
) -> GapStudy:
    """Fit the guides, run the chains, compare and recommend, each in its share of the time.

    Args:
        problem: which.
        comparison: how posteriors are compared.
        minutes: the budget.
        warmup: steps of each chain; by what the time allows if not given.
        max_tree_depth: of the chains, likewise.
        given: posteriors by guide that are fitted already.
        tolerant: go on without guides that fail.
        seed: of chains, draws and resamples.
        update: told of the progress.

    Returns:
        What was found; provisional where there is no reference that has converged.

    Raises:
        ValueError: the problem's parts do not go together.
    """
    for posterior in given.values():
        check_same_model(posterior, problem.model)
    if given:
        check_same_data(given, next(iter(given)), problem.data)
    clock = Clock(60 * minutes)
    work = _Work(problem, clock, tolerant, comparison.num_samples, seed, dict(given))
    order = sorted(problem.order(given), key=lambda guide: guide == NUTS)
    for place, guide in enumerate(order):
        step = part_of(update, place, len(order), guide)
        if guide == NUTS:
            _run_chains(work, warmup, max_tree_depth, step)
        else:
            has_chains = NUTS in order
            share = clock.left(FITS if has_chains else CHAINS) / (len(order) - place - has_chains)
            _fit(work, guide, max(share, 0.02 * clock.seconds), step)
    return _judge(work, comparison)


# ------------------------------------------------------------------------------------- the fits


def _fit(work: _Work, guide: str, seconds: float, update: Update) -> None:
    problem = work.problem
    begin, limit = time.monotonic(), max(LATE * seconds, LEAST_SECONDS)

    def told(done: int, total: int, message: str = "") -> None:
        update(done, total, message)
        if time.monotonic() - begin > limit:
            raise _LateError(f"it takes more than {limit:.0f} s. Pass more minutes.")

    def make() -> Posterior:
        fixed = guide == problem.reference or RECIPES[guide].cost == "curvature"
        how = problem.how if fixed else _affordable(work, guide, seconds)
        return fit_one(guide, problem.model, problem.data, how, done=work.done, update=told)

    if guide == problem.reference:
        work.done[guide] = make()
    else:
        work.attempt(guide, make)


def _affordable(work: _Work, guide: str, seconds: float) -> FitSettings:
    """The settings with as many epochs as the time allows."""
    how, (x, _) = work.problem.how, work.problem.data
    if guide == "map" and how.rounds is not None:
        if ROUND * _gradient_seconds(work.problem.model, work.problem.data) < seconds:
            cost = _seconds_of(work, guide, replace(how, rounds=1))
            return replace(how, rounds=int(min(max(seconds / cost, 1), how.rounds)))
        how = replace(how, rounds=None)
    cost = _epoch_seconds(work, how, guide, seconds)
    if cost * how.epochs <= seconds:
        return how
    epochs = max(int(seconds / cost), FEWEST_EPOCHS)
    work.cut.append(f"{guide} {epochs:,} epochs instead of {how.epochs:,}")
    by_batches = how.batch_size is None and len(x) > 2 * BATCH
    return replace(how, epochs=epochs, batch_size=BATCH if by_batches else how.batch_size)


def _epoch_seconds(work: _Work, how: FitSettings, guide: str, seconds: float) -> float:
    """Of one epoch; the first is slower than the others, so it counts only where it is long."""
    cost = _seconds_of(work, guide, replace(how, epochs=1))
    if cost > seconds / 100:
        return cost
    return _seconds_of(work, guide, replace(how, epochs=10)) / 10


def _seconds_of(work: _Work, guide: str, how: FitSettings) -> float:
    begin = time.monotonic()
    fit_one(guide, work.problem.model, work.problem.data, how, done=work.done)
    return max(time.monotonic() - begin, 1e-6)


def _gradient_seconds(model: BayesianModel, data: Data) -> float:
    times = []
    for _ in range(3):
        u = model.layout.ravel(model.unconstrain(model.initial_params())).requires_grad_()
        begin = time.monotonic()
        with torch.enable_grad(), single_thread():
            torch.autograd.grad(model.log_joint_flat(u, *data), u)
        times.append(time.monotonic() - begin)
    return min(times)


# ----------------------------------------------------------------------------------- the chains


def _run_chains(
    work: _Work, warmup: int | None, max_tree_depth: int | None, update: Update
) -> None:
    problem, chains = work.problem, work.problem.how.chains
    try:
        work.done[NUTS] = sample_within(
            problem.model,
            problem.data,
            problem.x,
            seconds=max(work.clock.left(CHAINS), 0.1),
            chains=chains.chains,
            draws=chains.draws,
            warmup=warmup,
            max_tree_depth=max_tree_depth,
            fits=work.done,
            seed=work.seed,
            update=update,
        )
    except Exception as error:  # whatever keeps chains from running, the others are judged
        work.refused[NUTS] = _reason(error)
        if problem.reference == NUTS:
            lead = "There are no chains to compare with"
            kept = ("A posterior that is known to be right, passed as the reference.",)
            if isinstance(error, ChainsTooDearError):
                kept = ("More minutes, or a faster machine.",)
            work.doubt = Doubt("no reference", (f"{lead}: {_reason(error)}",), kept)


def _reason(error: Exception) -> str:
    """What was raised, in a line."""
    line = (str(error).strip().splitlines() or [""])[0]
    return line if isinstance(error, ValueError) and line else f"{type(error).__name__}: {line}"


# ------------------------------------------------------------------------------- the comparison


def _judge(work: _Work, comparison: Comparison) -> GapStudy:
    problem, reference = work.problem, work.problem.reference
    for guide in [guide for guide in work.posteriors if guide != reference]:
        _try_predictions(work, guide)
    check_something_to_compare(work.posteriors, work.refused)
    if reference in work.done and work.doubt is None:
        work.doubt = doubt_of_chains(reference, work.done[reference], problem.x)
    count = _affordable_draws(work)
    seeds = draw_seeds(work.seed, work.posteriors)
    tables: Any = ()
    if work.doubt and work.doubt.kind == "no reference":  # the scores say which one stands in
        tables = _evidence(work, count, seeds)
        reference = _stand_in(work, tables[0])
    report = _compared(work, reference, count, comparison)
    evidence, layers, errors = tables or _evidence(work, count, seeds)
    report = replace(report, evidence=evidence, layers=layers, layer_errors=errors)
    doubt = _completed(work, report)
    advice = recommend(report, requirements=comparison.requirements, doubt=doubt)
    shown = replace(problem, notes=[*problem.notes, *_cut(work)])
    return GapStudy(shown, work.posteriors, report, advice, work.refused, doubt)


def _compared(work: _Work, reference: str, count: int, comparison: Comparison) -> GapReport:
    """The comparison with as many resamples as the time allows, by what a few of them take."""
    others = [name for name in work.posteriors if name != reference]

    def run(names: list[str], resamples: int) -> GapReport:
        return compare(
            {name: work.done[name] for name in names},
            reference,
            work.problem.x,
            regions=work.problem.regions,
            sites=_sites(work),
            num_samples=count,
            resamples=resamples,
            level=comparison.level,
            accept_reference=True,
            seed=work.seed,
        )

    with single_thread():
        begin = time.monotonic()
        run([reference, others[0]], TRIED_RESAMPLES)
        cost = (time.monotonic() - begin) / TRIED_RESAMPLES * (1 + len(others)) / 2
        allowed = int(SHARE_OF_RESAMPLES * max(work.clock.left(COMPARED), 1.0) / cost)
        resamples = max(min(allowed, comparison.resamples), FEWEST_RESAMPLES)
        if resamples < comparison.resamples:
            work.cut.append(f"intervals {resamples} resamples instead of {comparison.resamples}")
        return run(list(work.posteriors), resamples)


def _try_predictions(work: _Work, guide: str) -> None:
    """Leave a posterior out that cannot predict where the others are compared."""
    posterior = work.done[guide]
    if not isinstance(posterior.guide, Empirical):
        try:
            collect(posterior, work.problem.x, sites=(), num_samples=2, seed=0)
        except Exception as error:  # a user's net may raise anything
            if not work.tolerant:
                raise
            work.refused[guide] = _reason(error)
            del work.done[guide]


def _affordable_draws(work: _Work) -> int:
    """Draws of each posterior such that what is left of the time is enough."""
    model, (x, _) = work.problem.model, work.problem.data
    times = []
    for _ in range(3):
        begin = time.monotonic()
        with torch.no_grad():
            model.outputs(model.initial_params(), x)
        times.append(time.monotonic() - begin)
    cost = min(times) * PASSES * len(work.posteriors)
    count = int(max(work.clock.left(COMPARED), 1.0) / cost)
    count = max(min(count, work.num_samples), LEAST_DRAWS)
    if count < work.num_samples:
        work.cut.append(f"comparisons {count:,} draws instead of {work.num_samples:,}")
    return count


def _sites(work: _Work) -> tuple[str, ...] | None:
    """All sites; of a large net none: its weights are not identified, and take long to compare."""
    return () if work.problem.model.num_params > MOST_WEIGHTS else None


def _evidence(work: _Work, count: int, seeds: Mapping[str, int]) -> Any:
    with single_thread():
        return evidence_tables(
            work.posteriors,
            work.problem.data,
            num_samples=count,
            seeds=seeds,
            until=time.monotonic() + max(work.clock.left(COMPARED), 0.1 * work.clock.seconds),
        )


def _stand_in(work: _Work, evidence: Any) -> str:
    """The posterior that others are held against where there is no reference: the best by itself.

    Raises:
        ValueError: all consist of points.
    """
    spread = [name for name, p in work.posteriors.items() if p.guide.num_atoms is None]
    if not spread:
        raise ValueError(
            f"there must be a posterior with a spread to compare with; got "
            f"{', '.join(work.posteriors)}. {work.refused.get(NUTS, '')} Pass more minutes, or a "
            f"posterior as the reference."
        )
    for score in ("elpd_loo", "elbo"):
        known = evidence.loc[spread, score].dropna()
        if len(known):
            return str(known.idxmax())
    return spread[0]


def _completed(work: _Work, report: GapReport) -> Doubt | None:
    """The doubt, with what needs no reference."""
    if work.doubt is None:
        return None
    scores = unaided_scores(work.posteriors, report.evidence)
    near: Iterable[str] = ()
    if work.clock.left() > 0:
        near = agreement(work.posteriors, work.problem.x, seed=work.seed)
    return replace(work.doubt, sentences=(*work.doubt.sentences, *near, *scores))


def _cut(work: _Work) -> Iterator[str]:
    if work.cut:
        yield f"Cut to keep the time: {'; '.join(work.cut)}. Pass more minutes for all of it."
