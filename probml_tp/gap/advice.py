r"""Which posterior should I use? Stated requirements, checked against a gap report.

The rules, in order:

1. A posterior **qualifies** if it meets every requirement in every region: the whole interval of
   the measured gap lies within the limit. It **fails** one if the whole interval lies beyond the
   limit and beyond the noise floor, the gap that the reference has to itself. Otherwise the draws
   do not tell, and the requirement is **open**.
2. Of those that qualify the cheapest is recommended: by passes of the net over the data where all
   were counted, else by seconds.
3. If none qualifies, the reference is recommended, and the posterior that comes nearest is named.
4. If the reference has not converged, all of this is provisional. Where it is known why, that
   decides what to use until then: chains in different modes themselves, for no other posterior
   knows more of them; else the cheapest that meets the requirements as far as the chains tell; else
   chains that are near convergence; else what predicts points left out best (PSIS-LOO), or has the
   highest ELBO.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import pandas as pd

from probml_tp.checks.arguments import checked
from probml_tp.diagnostics.step_left import StepLeft
from probml_tp.gap.checks import NOISE_FLOOR, has_converged
from probml_tp.gap.doubt import Doubt
from probml_tp.gap.report import GapReport
from probml_tp.gap.requirements import CLASSIFICATION, REGRESSION, Requirement, in_words

__all__ = ["Advice", "Verdict", "recommend"]

Verdict = Literal["meets", "open", "fails"]
"""What a gap's interval says of a requirement."""

HOPELESS = 1000.0
"""A factor beyond which an uncertainty counts as vanished."""

NEAR_R_HAT, NEAR_ESS = 1.1, 100
"""Chains so near to convergence are used themselves, provisionally."""

TRUSTED_K = 0.7
"""Above this k-hat of a point PSIS-LOO is not to be relied on."""


class _Cell(NamedTuple):
    """One requirement in one region, for one posterior."""

    requirement: Requirement
    region: str
    error: float
    needed: float
    verdict: Verdict

    @property
    def strain(self) -> float:
        """The limit that would have to be granted, in units of the one that is; ratios by logs."""
        if self.requirement.kind == "ratio":
            return math.log(self.needed) / math.log(self.requirement.limit)
        return self.needed / self.requirement.limit


@dataclass(frozen=True)
class Advice:
    """A recommendation, the numbers behind it, and what would change it.

    Args:
        choice: the recommended posterior's name.
        qualified: those that meet every requirement, the cheapest first.
        undecided: those that fail none and leave some open.
        table: one row for each ``posterior``, ``requirement`` and ``region``: the ``error`` and the
            ``limit``, the limit ``needed`` for the whole interval to be within, the ``verdict``.
        costs: posterior to cost, in the unit ``cost_unit``.
        cost_unit: ``"forward passes"`` or ``"seconds"``.
        provisional: whether the reference has not converged.
        reasons: sentences: why this one.
        changes: sentences: what would change it.
        obstacles: each cheaper posterior that is beyond a limit, the cheapest first, with a
            sentence: what keeps it from being the choice.
        requirements: what was required.
        doubt: why it is provisional, if that is known.

    Example:
        See :func:`recommend`.
    """

    choice: str
    qualified: tuple[str, ...]
    undecided: tuple[str, ...]
    table: pd.DataFrame
    costs: Mapping[str, float]
    cost_unit: str
    provisional: bool
    reasons: tuple[str, ...]
    changes: tuple[str, ...]
    obstacles: Mapping[str, str] = field(default_factory=dict)
    requirements: tuple[Requirement, ...] = ()
    doubt: Doubt | None = None

    @property
    def headline(self) -> str:
        """The recommendation in a sentence."""
        if self.doubt is not None:
            return f"Use {self.choice} (provisional: {self.doubt.kind})."
        return f"Use {self.choice}{' (provisionally)' if self.provisional else ''}."

    @property
    def limits(self) -> str:
        """What was required, in words."""
        return in_words(self.requirements)

    def __str__(self) -> str:
        """Write it as text, a sentence a line."""
        why = [self.headline, *self.reasons, *self.obstacles.values()]
        return "\n".join([*why, "What would change this:", *self.changes])


@checked()
def recommend(
    report: GapReport,
    *,
    requirements: Sequence[Requirement] | None = None,
    doubt: Doubt | None = None,
) -> Advice:
    """Recommend a posterior: the cheapest one that meets the requirements in every region.

    Args:
        report: of :func:`probml_tp.gap.compare`. Its regions should be those that matter
            to you: where the data are, between them, and beyond them. Requirements are checked in
            each of them, on all points only where no regions were given.
        requirements: default: :data:`CLASSIFICATION` or :data:`REGRESSION`.
        doubt: what is wrong with the reference, if that is known.

    Returns:
        The recommendation.

    Raises:
        ValueError: a requirement is about a metric that the report does not have.

    Example:
        >>> import torch
        >>> from probml_tp import BayesianModel, Delta, Exact, Gaussian, Laplace, NormalPrior, fit
        >>> from probml_tp.gap import compare
        >>> net = torch.nn.Linear(1, 1).double()
        >>> model = BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.1))
        >>> x = torch.linspace(0, 1, 20).unsqueeze(-1)
        >>> fits = {"exact": fit(model, Exact, (x, x)), "map": fit(model, Delta, (x, x))}
        >>> fits["laplace"] = fit(model, Laplace, (x, x))
        >>> recommend(compare(fits, "exact", x, num_samples=2000)).qualified
        ('laplace',)
    """
    defaults = CLASSIFICATION if report.is_classification else REGRESSION
    chosen = tuple(defaults if requirements is None else requirements)
    known = set(report.functions["metric"])
    for requirement in chosen:
        if requirement.metric not in known:
            raise ValueError(
                f"a requirement must be about a metric of the report, {', '.join(sorted(known))}; "
                f"got {requirement.metric!r}. Leave it out, or pass one of these."
            )
    return _Judge(report, chosen).advice(doubt)


class _Judge:
    """A report, held against requirements."""

    def __init__(self, report: GapReport, requirements: tuple[Requirement, ...]) -> None:
        self.report, self.requirements = report, requirements
        names = [n for n in report.functions["posterior"].unique() if n != NOISE_FLOOR]
        self.regions = report.regions
        self.cells = {name: list(self._cells(name)) for name in names}
        self.costs, self.unit = _costs(report)

    def _cells(self, name: str) -> Iterator[_Cell]:
        rows = self.report.functions.set_index(["posterior", "region", "metric"])
        for requirement in self.requirements:
            for region in self.regions:
                value, low, high = rows.loc[(name, region, requirement.metric)]
                if math.isnan(value):  # the reference itself is certain there
                    continue
                level = self.report.level
                least, largest = requirement.errors(low, high, level=level)
                floor_row = rows.loc[(NOISE_FLOOR, region, requirement.metric)]
                _, floor = requirement.errors(floor_row["low"], floor_row["high"], level=level)
                verdict: Verdict = "open"
                if largest <= requirement.limit:
                    verdict = "meets"
                elif least > max(requirement.limit, floor):
                    verdict = "fails"
                error = requirement.error(value, level=level)
                yield _Cell(requirement, region, error, largest, verdict)

    def status(self, name: str, cells: Iterable[_Cell] | None = None) -> Verdict:
        """The worst verdict of a posterior."""
        found = {cell.verdict for cell in (self.cells[name] if cells is None else cells)}
        return "fails" if "fails" in found else "open" if "open" in found else "meets"

    def qualified(
        self, *, region: str | None = None, about: str | None = None, status: Verdict = "meets"
    ) -> tuple[str, ...]:
        """The posteriors of a status, the cheapest first, if only some requirements counted."""
        names = []
        for name, cells in self.cells.items():
            counted = [
                cell
                for cell in cells
                if region in (None, cell.region) and about in (None, cell.requirement.about)
            ]
            if counted and self.status(name, counted) == status:
                names.append(name)
        return tuple(sorted(names, key=self.costs.__getitem__))

    def advice(self, doubt: Doubt | None) -> Advice:
        qualified, undecided = self.qualified(), self.qualified(status="open")
        reference = self.report.reference
        choice = qualified[0] if qualified else reference
        if qualified and self.costs[reference] <= self.costs[choice]:
            choice = reference
        if doubt is not None:
            return self._provisional(doubt, qualified, undecided)
        return Advice(
            choice=choice,
            qualified=qualified,
            undecided=undecided,
            table=pd.DataFrame(self._lines()),
            costs=self.costs,
            cost_unit=self.unit,
            provisional=not has_converged(self.report.costs.loc[reference]),
            reasons=tuple(self._reasons(choice, qualified, undecided)),
            changes=tuple(self._changes(choice, undecided)),
            obstacles=dict(self._obstacles(choice)),
            requirements=self.requirements,
        )

    def _provisional(
        self, doubt: Doubt, qualified: tuple[str, ...], undecided: tuple[str, ...]
    ) -> Advice:
        """What to use until there is a reference."""
        reference, choice = self.report.reference, self._best_unaided()
        if doubt.kind == "modes":
            choice = reference
        elif doubt.kind == "length" and qualified:
            choice = qualified[0]
        elif doubt.kind == "length" and self._is_near_convergence():
            choice = reference
        held = f"Held against {reference} as it is ({in_words(self.requirements)}): "
        said = [f"{', '.join(qualified) or 'none'} within every limit"]
        if undecided:
            said.append(f"{', '.join(undecided)} not told apart from them")
        return Advice(
            choice=choice,
            qualified=qualified,
            undecided=undecided,
            table=pd.DataFrame(self._lines()),
            costs=self.costs,
            cost_unit=self.unit,
            provisional=True,
            reasons=(*doubt.sentences, f"{held}{'; '.join(said)}."),
            changes=(*doubt.remedy, *self._settling()),
            requirements=self.requirements,
            doubt=doubt,
        )

    def _best_unaided(self) -> str:
        """What predicts points left out best; else the highest bound; else the reference."""
        evidence = self.report.evidence
        if not evidence.empty:
            trusted = evidence[evidence["loo_worst_k"] <= TRUSTED_K]
            for score in (trusted["elpd_loo"], evidence["elbo"]):
                if score.notna().any():
                    return str(score.idxmax())
        return self.report.reference

    def _is_near_convergence(self) -> bool:
        """Whether the chains know more than an approximation of unknown error would."""
        own = self.report.costs.loc[self.report.reference]
        return bool(own["r_hat"] <= NEAR_R_HAT and own["ess"] >= NEAR_ESS)

    def _lines(self) -> Iterator[dict[str, object]]:
        for name, cells in self.cells.items():
            for cell in cells:
                yield {
                    "posterior": name,
                    "requirement": cell.requirement.metric,
                    "region": cell.region,
                    "error": cell.error,
                    "limit": cell.requirement.limit,
                    "needed": cell.needed,
                    "verdict": cell.verdict,
                }

    # ------------------------------------------------------------------------------- sentences

    def _reasons(
        self, choice: str, qualified: tuple[str, ...], undecided: tuple[str, ...]
    ) -> Iterator[str]:
        reference = self.report.reference
        limits = in_words(self.requirements)
        where = ", ".join(self.regions)
        yield f"Required in every region ({where}), compared with {reference}: {limits}."
        if choice == reference and qualified:
            yield f"{reference}, the reference itself, costs least: {self._cost(reference)}."
        elif choice == reference:
            yield f"No approximation is shown to meet all of this, so {choice} stays."
            yield self._nearest()
        else:
            worst = max(self.cells[choice], key=lambda cell: cell.strain)
            yield (
                f"{choice} meets all of it (tightest: {worst.requirement.name}, "
                f"{worst.requirement.text(worst.error)} in region {worst.region}) at "
                f"{self._cost(choice)}; {reference} took {self._cost(reference)}."
            )
        if len(qualified) > 1:
            others = ", ".join(f"{n} ({self._cost(n)})" for n in qualified if n != choice)
            yield f"Also within the limits: {others}."
        if undecided:
            yield f"Not told apart from the limits by these draws: {', '.join(undecided)}."

    def _unsettled(self) -> Iterator[str]:
        """Variational fits that are still some way from their optimum."""
        evidence = self.report.evidence
        if "step_left" in evidence:
            for name, value, error in evidence[["step_left", "step_left_error"]].itertuples():
                if not StepLeft(value, error).is_settled:
                    yield str(name)

    def _settling(self) -> Iterator[str]:
        for name in self._unsettled():
            yield (
                f"A longer fit of {name}, or another learning rate: it has not settled, so that "
                f"its errors are not those of its kind."
            )

    def _nearest(self) -> str:
        strain = {n: max(cell.strain for cell in cells) for n, cells in self.cells.items() if cells}
        name = min(strain, key=strain.__getitem__)
        return f"{name} comes nearest: {self._obstacle(name)}."

    def _obstacle(self, name: str) -> str:
        """What keeps a posterior from qualifying, the worst of it."""
        worst = max(self.cells[name], key=lambda cell: cell.strain)
        rule = worst.requirement
        if rule.kind == "ratio" and worst.needed > HOPELESS:
            return f"{rule.name} vanishes or diverges in region {worst.region}: no limit would do"
        return (
            f"{rule.name} is off by {rule.text(worst.error)} in region {worst.region}, so it would "
            f"need a limit of {rule.text(worst.needed)} instead of {rule.text(rule.limit)}"
        )

    def _cost(self, name: str) -> str:
        return f"{self.costs[name]:,.3g} {self.unit}"

    def _obstacles(self, choice: str) -> Iterator[tuple[str, str]]:
        for name in self.qualified(status="fails"):
            if self.costs[name] < self.costs[choice]:
                obstacle = self._obstacle(name)
                yield name, f"{name} costs less ({self._cost(name)}), but: {obstacle}."

    def _changes(self, choice: str, undecided: tuple[str, ...]) -> Iterator[str]:
        for region in self.regions:
            alone = self.qualified(region=region)
            if alone and alone[0] != choice and len(self.regions) > 1:
                yield f"If only the region {region} mattered: {alone[0]}."
        predictions = self.qualified(about="predictions")
        if predictions and predictions[0] != choice:
            best = predictions[0]
            yield f"If only predictions mattered, not the uncertainty behind them: {best}."
        yield from self._settling()
        if undecided:
            names = ", ".join(undecided)
            yield f"More draws of the reference or the posterior would settle: {names}."
        if not has_converged(self.report.costs.loc[self.report.reference]):
            yield "A reference that has converged: this one has not."


def _costs(report: GapReport) -> tuple[dict[str, float], str]:
    """What each posterior cost, in passes of the net if all were counted."""
    costs = report.costs
    if "forward_passes" in costs and bool((costs["forward_passes"] > 0).all()):
        return {str(n): float(v) for n, v in costs["forward_passes"].items()}, "forward passes"
    return {str(n): float(v) for n, v in costs["seconds"].items()}, "seconds"
