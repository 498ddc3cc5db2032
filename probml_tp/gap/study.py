"""The posteriors of one problem: fitted, held against a reference, and judged."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from probml_tp.gap import Advice, GapReport, Requirement, compare, recommend
from probml_tp.gap.checks import check_reference, check_same_data
from probml_tp.gap.doubt import Doubt
from probml_tp.guides.recipes import FitSettings, fit_all, order_of
from probml_tp.harness.experiment import Update
from probml_tp.inference.parallel import single_thread
from probml_tp.inference.progress import ProgressCallback
from probml_tp.inference.starts import check_same_model
from probml_tp.model import BayesianModel
from probml_tp.posterior import Posterior

__all__ = [
    "Comparison",
    "GapProblem",
    "GapStudy",
    "check_something_to_compare",
    "fit_problem",
    "in_regions",
    "part_of",
    "study_gap",
]

NUTS = "nuts"

Data = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class GapProblem:
    """A model, its data, and what is to be compared where.

    Args:
        name: a word, for files.
        title: what tables and figures call it.
        model: the model.
        data: inputs and targets of every fit.
        x: inputs where predictions are compared, ``(N, ...)``.
        regions: name to a boolean array ``(N,)`` or to indices of points.
        guides: the posteriors to compare, the reference among them; their order is that of tables.
        how: the settings of their fits, chains among them.
        reference: ``"exact"`` or ``"nuts"``, or any name under which a fitted one is given.
        identified: whether weights are, so that a figure compares them.
        notes: sentences on where is compared, for the page.
    """

    name: str
    title: str
    model: BayesianModel
    data: Data
    x: Tensor
    regions: Mapping[str, object]
    guides: Sequence[str]
    how: FitSettings
    reference: str = NUTS
    identified: bool = False
    notes: Sequence[str] = ()

    def order(self, given: Collection[str] = ()) -> list[str]:
        """What is fitted, in this order: starts first, then the reference, then the others.

        Args:
            given: the guides that are fitted already.

        Returns:
            Guides, each once.
        """
        left = [guide for guide in self.guides if guide not in given]
        first = [guide for guide in left if guide == self.reference]
        return list(
            dict.fromkeys(
                [*order_of(first, self.how, given=given), *order_of(left, self.how, given=given)]
            )
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How posteriors are compared; see :func:`probml_tp.gap.compare`.

    Args:
        num_samples: draws of each posterior that is not a chain.
        resamples: of the bootstrap.
        level: of intervals, and of the central intervals whose coverage is counted.
        accept_reference: compare with chains that have not converged, too.
        requirements: what is asked of a posterior; by default those of
            :mod:`probml_tp.gap.advice`.
    """

    num_samples: int = 1000
    resamples: int = 200
    level: float = 0.95
    accept_reference: bool = False
    requirements: Sequence[Requirement] | None = None


@dataclass(frozen=True)
class GapStudy:
    """What was found of a problem.

    Args:
        problem: which.
        posteriors: by guide, in the problem's order.
        report: the comparison with the reference.
        advice: which one to use.
        refused: the guides that refused the model, with their reasons.
        doubt: why the recommendation is provisional, if it is and that is known.
    """

    problem: GapProblem
    posteriors: Mapping[str, Posterior]
    report: GapReport
    advice: Advice
    refused: Mapping[str, str] = field(default_factory=dict)
    doubt: Doubt | None = None


def in_regions(parts: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, object]]:
    """Put the points of several regions together.

    Args:
        parts: region to its points ``(n, ...)``.

    Returns:
        All points ``(N, ...)``, and region to which of them are its own, a boolean array ``(N,)``.

    Example:
        >>> import torch
        >>> x, regions = in_regions({"data": torch.zeros(2, 1), "far": torch.ones(1, 1)})
        >>> len(x), regions["far"].tolist()
        (3, [False, False, True])
    """
    where = np.repeat(np.arange(len(parts)), [len(points) for points in parts.values()])
    return torch.cat(list(parts.values())), {name: where == k for k, name in enumerate(parts)}


def fit_problem(
    problem: GapProblem,
    *,
    given: Mapping[str, Posterior] | None = None,
    check: bool = False,
    refused: dict[str, str] | None = None,
    update: ProgressCallback,
) -> dict[str, Posterior]:
    """Fit every guide of a problem; those that they start from, and the reference, first.

    Args:
        problem: which.
        given: posteriors by guide that are fitted already.
        check: refuse a reference that has not converged before the others are fitted.
        refused: where to note a guide that refuses the model, with its reason, and go on without
            it; by default its error is raised. The reference may not be refused.
        update: told of the progress.

    Returns:
        Guide to posterior, those that others start from included.

    Raises:
        ValueError: the reference has not converged.
    """
    done = dict(given or {})
    order = problem.order(done)

    def stage(guide: str) -> AbstractContextManager[Update]:
        return nullcontext(part_of(update, order.index(guide), len(order), guide))

    fit = partial(fit_all, model=problem.model, data=problem.data, how=problem.how, stage=stage)
    if problem.reference in order:
        done = fit([problem.reference], given=done)
        if check:
            check_reference(problem.reference, done[problem.reference], problem.x)
    return fit(problem.guides, given=done, refused=refused)


def study_gap(
    problem: GapProblem,
    *,
    comparison: Comparison,
    given: Mapping[str, Posterior] | None = None,
    tolerant: bool = False,
    seed: int,
    update: ProgressCallback,
) -> GapStudy:
    """Fit every guide, compare what they say with the reference, and recommend one.

    Args:
        problem: which.
        comparison: how they are compared.
        given: posteriors by guide that are fitted already.
        tolerant: go on without guides that refuse the model.
        seed: of chains, draws and resamples.
        update: told of the progress.

    Returns:
        What was found.

    Raises:
        ValueError: the reference has not converged, or the problem's parts do not go together.
    """
    for posterior in (given or {}).values():
        check_same_model(posterior, problem.model)
    if given:
        check_same_data(given, next(iter(given)), problem.data)
    refused: dict[str, str] = {}
    done = fit_problem(
        problem,
        given=given,
        check=not comparison.accept_reference,
        refused=refused if tolerant else None,
        update=update,
    )
    posteriors = {guide: done[guide] for guide in problem.guides if guide in done}
    check_something_to_compare(posteriors, refused)
    with single_thread():
        report = compare(
            posteriors,
            problem.reference,
            problem.x,
            data=problem.data,
            regions=problem.regions,
            num_samples=comparison.num_samples,
            resamples=comparison.resamples,
            level=comparison.level,
            accept_reference=comparison.accept_reference,
            seed=seed,
        )
    advice = recommend(report, requirements=comparison.requirements)
    return GapStudy(problem, posteriors, report, advice, refused)


def check_something_to_compare(
    posteriors: Mapping[str, Posterior], refused: Mapping[str, str]
) -> None:
    """Check that there are at least two posteriors.

    Args:
        posteriors: those that there are.
        refused: guide to the reason why it is none of them.

    Raises:
        ValueError: there are fewer.
    """
    if len(posteriors) > 1:
        return
    reasons = " ".join(f"{guide}: {reason}" for guide, reason in refused.items())
    raise ValueError(
        f"there must be a posterior to compare with the reference; got none, for all refuse "
        f"the model. {reasons} Fit one yourself, and pass it as one of the posteriors."
    )


def part_of(update: ProgressCallback, place: int, parts: int, guide: str) -> Update:
    """What reports one of several fits as a share of all.

    Args:
        update: told of all.
        place: which fit it is, from 0.
        parts: how many there are.
        guide: its name.

    Returns:
        What to tell of the fit.
    """

    def tell(done: int, total: int, message: str = "") -> None:
        share = done / total if total else 1.0
        update(round(1000 * (place + share)), 1000 * parts, f"{guide} {message}".strip())

    return tell
