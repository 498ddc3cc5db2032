"""Findings: rows that name a form of sentence, a selection of the frame, and a wording.

A study lists its findings as data, the most important first, and :func:`tell` makes the sentences::

    FINDINGS = (
        Range("far_confidence", "Mean confidence at distance {config.radius:g} runs {range}."),
        BestWorst("tv", "{best} predicts most like NUTS ({value}), {worst} least ({last})."),
    )
    results.findings = tell(FINDINGS, results)

There are five forms: :class:`Range` over rows, :class:`BestWorst`, :class:`Gap` between two rows
with its interval, :class:`Count` of rows that meet a rule and :class:`Chains` (their health);
:func:`together` tells several in one breath. A form whose selection is empty says nothing. What
fits none is a function of the results that returns a sentence or ``None``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from probml_tp.harness.experiment import Results
from probml_tp.harness.table import MAIN_TABLE, Ends, Table
from probml_tp.kit.common import chain_health, listed, span
from probml_tp.kit.wording import Rows, Write, any_of, plain_label, points, runs, shares

__all__ = [
    "BestWorst",
    "Chains",
    "Count",
    "Finding",
    "Gap",
    "Range",
    "Rows",
    "Write",
    "any_of",
    "points",
    "runs",
    "shares",
    "table_of",
    "tell",
    "together",
]

Rule = Callable[[float], bool]


class Finding(Protocol):
    """A form of sentence with its selection and wording, or a function of one's own."""

    def __call__(self, results: Results[Any]) -> str | None:
        """The sentence, or ``None`` where there is nothing to say."""


def tell(findings: Iterable[Finding], results: Results[Any]) -> list[str]:
    """Make the sentences of findings.

    Args:
        findings: what to say, the most important first.
        results: of a study.

    Returns:
        The sentences of those that have something to say.
    """
    said = (finding(results) for finding in findings)
    return [sentence for sentence in said if sentence]


def together(*findings: Finding, joint: str = " ", start: str = "") -> Finding:
    """Findings that are told in one breath.

    Args:
        findings: in this order; where the first has nothing to say, nothing is said.
        joint: what stands between two of them.
        start: what stands before the first.

    Returns:
        One finding.

    Example:
        >>> together(lambda _: "A, ", lambda _: None, lambda _: "b.", joint="")(None)
        'A, b.'
    """

    def said(results: Results[Any]) -> str | None:
        return start + joint.join(tell(findings, results)) if findings[0](results) else None

    return said


@dataclass(frozen=True)
class _Form:
    """What the forms over a column share.

    Args:
        metric: the column.
        words: the sentence, with the form's fields in braces; ``{config.name}`` is an option,
            ``{n}`` the number of rows, ``{values[row]}`` what a row has, whether it counts or not,
            ``{arrays[name]}`` an array of one number.
        table: the title of the table, or what it begins with.
        rows: which rows count; all by default.
        write: how to write a value.
        name: what to call a row.
    """

    metric: str
    words: str
    table: str = field(default=MAIN_TABLE, kw_only=True)
    rows: Rows = field(default=lambda row: True, kw_only=True)
    write: Write = field(default="{:.3g}".format, kw_only=True)
    name: Callable[[str], str] = field(default=plain_label, kw_only=True)

    def _column(self, results: Results[Any]) -> dict[str, float]:
        return {row: value for row, value in self._whole(results).items() if self.rows(row)}

    def _whole(self, results: Results[Any]) -> dict[str, float]:
        table = table_of(results, self.table)
        return {} if table is None else table.column(self.metric)

    def _say(
        self,
        results: Results[Any],
        column: Mapping[str, float],
        words: str | None = None,
        **fields: object,
    ) -> str:
        return (self.words if words is None else words).format(
            config=results.config,
            arrays=results.arrays,
            values={row: self.write(value) for row, value in self._whole(results).items()},
            n=len(column),
            **fields,
        )


def table_of(results: Results[Any], title: str) -> Table | None:
    """The table of a title, or whose title begins so; ``None`` where there is none."""
    return next((t for t in results.all_tables if t.title.startswith(title)), None)


@dataclass(frozen=True)
class Range(_Form):
    """Over which range rows spread: ``{range}``, with ``{low}`` and ``{high}``.

    ``{each}`` names every row with its value, the largest first; ``{runs}`` is the verb with the
    range, or with the one value that all rows have.

    Args:
        reference: a row to mention in any case, if it is there.

    Example:
        >>> from probml_tp.harness.experiment import ExperimentConfig
        >>> table = Table(MAIN_TABLE, "", {"map": {"ece": 0.1}, "laplace": {"ece": 0.2}})
        >>> results = Results("x", "X", ExperimentConfig(), table, [], "")
        >>> Range("ece", "The ECE runs {range}.", write="{:.1f}".format)(results)
        'The ECE runs from 0.1 (MAP) to 0.2 (Laplace).'
        >>> Range("ece", "ECE: {each}.", write="{:.1f}".format)(results)
        'ECE: Laplace 0.2, MAP 0.1.'
    """

    reference: str | None = field(default=None, kw_only=True)

    def __call__(self, results: Results[Any]) -> str | None:
        """The sentence."""
        column = self._column(results)
        if not column:
            return None
        low, high = min(column.values()), max(column.values())
        ranked = sorted(column, key=column.__getitem__, reverse=True)
        return self._say(
            results,
            column,
            each=", ".join(f"{self.name(row)} {self.write(column[row])}" for row in ranked),
            range=span(column, self.write, reference=self.reference, name=self.name),
            runs=runs(column, self.write, reference=self.reference, name=self.name),
            low=self.write(low),
            high=self.write(high),
        )


@dataclass(frozen=True)
class BestWorst(_Form):
    """Which rows are best and which is worst.

    Fields: ``{best}`` and ``{worst}`` (labels), ``{value}`` and ``{last}`` (their values). With
    ``tie`` rows share the first place whose values differ by that share at most.

    Args:
        higher: whether higher is better.
        tie: the share by which values may differ and count as equal.
        alone: the wording where there is nothing besides the best; ``words`` by default.
    """

    higher: bool = field(default=False, kw_only=True)
    tie: float = field(default=0.0, kw_only=True)
    alone: str | None = field(default=None, kw_only=True)

    def __call__(self, results: Results[Any]) -> str | None:
        """The sentence."""
        column = self._column(results)
        if not column:
            return None
        order = sorted(column, key=lambda row: column[row], reverse=self.higher)
        top = column[order[0]]
        near = [row for row in column if abs(column[row] - top) <= self.tie * abs(top) + 1e-300]
        last = order[-1]
        return self._say(
            results,
            column,
            self.alone if last in near else None,
            best=listed(self.name(row) for row in near),
            value=" and ".join(self.write(column[row]) for row in near),
            verb="" if len(near) > 1 else "s",
            worst=self.name(last),
            last=self.write(column[last]),
        )


@dataclass(frozen=True)
class Gap(_Form):
    """A difference with its interval: ``{row}`` is ``{size}`` ``{side}`` another, ``{interval}``.

    The column holds differences; each row makes a clause, joined by semicolons in ``{gaps}``. Those
    of rows named "group · own" stand together behind their group with ``grouped``. ``{below}`` and
    ``{above}`` are the rows whose interval lies on that side of 0, or "none"; ``{n_below}``
    and ``{n_above}`` how many these are.

    Args:
        clause: the words of one row, with ``{row}``, ``{value}``, ``{size}``, ``{side}`` ("above"
            or "below") and ``{interval}``, empty where there is none.
        grouped: whether rows stand together by what precedes the dot in their names.
        apart: only rows whose interval excludes 0 make a clause.
        none: the wording where no row makes one; nothing is said by default.

    Example:
        >>> from probml_tp.harness.experiment import ExperimentConfig
        >>> table = Table(MAIN_TABLE, "", {"line · map": {"d": 0.1}, "line · nuts": {"d": -0.2}})
        >>> table.put("line · nuts", {"d": -0.2}, {"d": (-0.3, -0.1)})
        >>> results = Results("x", "X", ExperimentConfig(), table, [], "")
        >>> Gap("d", "{gaps}.", grouped=True)(results)
        'line: MAP 0.1, NUTS -0.2 [-0.3, -0.1].'
        >>> Gap("d", "Better: {below}; worse: {above}.")(results)
        'Better: line · nuts; worse: none.'
    """

    clause: str = field(default="{row} {value}{interval}", kw_only=True)
    grouped: bool = field(default=False, kw_only=True)
    apart: bool = field(default=False, kw_only=True)
    none: str | None = field(default=None, kw_only=True)

    def __call__(self, results: Results[Any]) -> str | None:
        """The sentence."""
        column, table = self._column(results), table_of(results, self.table)
        if not column or table is None:
            return None
        ends = table.ends(self.metric)
        below = [row for row in column if row in ends and ends[row][1] < 0]
        above = [row for row in column if row in ends and ends[row][0] > 0]
        told = [row for row in column if not self.apart or row in (*below, *above)]
        if not told:
            return self.none and self.none.format(config=results.config, n=len(column))
        return self._say(
            results,
            column,
            gaps=self._clauses({row: column[row] for row in told}, ends),
            below="; ".join(map(self.name, below)) or "none",
            above="; ".join(map(self.name, above)) or "none",
            n_below=len(below),
            n_above=len(above),
        )

    def _clauses(self, column: Mapping[str, float], ends: Mapping[str, Ends]) -> str:
        groups: dict[str, list[str]] = {}
        for row, value in column.items():
            group, own = row.split(" · ", 1) if self.grouped else (row, row)
            groups.setdefault(group, []).append(self._clause(own, value, ends.get(row)))
        return "; ".join(
            f"{group}: {', '.join(clauses)}" if self.grouped else clauses[0]
            for group, clauses in groups.items()
        )

    def _clause(self, row: str, value: float, ends: tuple[float, float] | None) -> str:
        interval = "" if ends is None else f" [{', '.join(map(self.write, ends))}]"
        return self.clause.format(
            row=self.name(row),
            value=self.write(value),
            size=self.write(abs(value)),
            side="above" if value >= 0 else "below",
            interval=interval,
        )


@dataclass(frozen=True)
class Count(_Form):
    """How many rows meet a rule: ``{count}`` of ``{n}``, and ``{which}``.

    Args:
        rule: whether a value counts.
        none: the wording where no row counts; nothing is said by default.
    """

    rule: Rule = field(kw_only=True)
    none: str | None = field(default=None, kw_only=True)

    def __call__(self, results: Results[Any]) -> str | None:
        """The sentence."""
        column = self._column(results)
        met = [row for row, value in column.items() if self.rule(value)]
        if not column or (not met and self.none is None):
            return None
        return self._say(
            results,
            column,
            None if met else self.none,
            count=len(met),
            which=listed(map(self.name, met)) if met else "none",
        )


@dataclass(frozen=True)
class Chains:
    """Whether chains are to be trusted, by their record.

    Args:
        watched: what the figures are taken over, in words.
        record: the name of the record.
        group: ``"posterior"`` for the parameters, ``"log_likelihood"`` for the function.
    """

    watched: str
    record: str = "nuts"
    group: str = "posterior"

    def __call__(self, results: Results[Any]) -> str | None:
        """The sentence."""
        found: Any = results.inference_data.get(self.record)
        if found is None:
            return None
        return chain_health(found, group=self.group).sentence(self.watched)
