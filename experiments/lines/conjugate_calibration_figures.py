"""What the experiment conjugate-calibration says and shows, from its results alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import stats

from probml_tp.experiments.lines.kit import plot_line
from probml_tp.harness.experiment import Figure, Results
from probml_tp.kit.common import labels_of, span
from probml_tp.kit.comparisons import table_panels
from probml_tp.kit.sentences import Finding, Range, any_of
from probml_tp.plots import style
from probml_tp.plots.regression import mark_training_range
from probml_tp.plots.style import guide_style, house_style, number

LEVELS = (0.5, 0.8, 0.95)
PREDICTIVE, FUNCTION = "predictive {:g}", "function {:g}"
PLACES = (1.0, 0.0, 4.0)
"""The mean of the inputs, the lower end of their range, and one width beyond the upper end."""


def _off(results: Results[Any], pattern: str) -> dict[str, list[float]]:
    """Guide to the levels that it misses beyond chance: binomial tests at 5 % over all of them."""
    found: dict[str, list[float]] = {}
    for guide, datasets in results.main.column("datasets").items():
        count = int(datasets)
        for level in LEVELS:
            hits = round(results.main[guide, pattern.format(level)] / 100 * count)
            if stats.binomtest(hits, count, level).pvalue < 0.05 / (2 * len(LEVELS)):
                found.setdefault(guide, []).append(level)
    return found


def _of_exact(results: Results[Any]) -> str:
    off = [level for p in (FUNCTION, PREDICTIVE) for level in _off(results, p).get("exact", [])]
    broken = f"{len(off)} of {2 * len(LEVELS)} promises are" if off else "no promise is"
    held = {}
    for pattern in (FUNCTION, PREDICTIVE):
        shares = [results.main["exact", pattern.format(level)] for level in LEVELS]
        held[pattern] = ", ".join(f"{share:.1f}" for share in shares)
    return (
        f"Over {results.config.datasets:,.0f} data sets with weights from the prior the exact "
        f"posterior's 50, 80, 95 % intervals hold the function in {held[FUNCTION]} % of them, and "
        f"a fresh target in {held[PREDICTIVE]} %: {broken} broken beyond chance (binomial tests at "
        f"5 % for all {2 * len(LEVELS)} together)."
    )


def _broken(pattern: str, what: str) -> Finding:
    """Who breaks a promise at a fresh input from the training range."""

    def say(results: Results[Any]) -> str | None:
        off = _off(results, pattern)
        others = [guide for guide in off if guide != "exact"]
        rest = [guide for guide in results.main.rows if guide not in off]
        if not others:
            return None
        return (
            f"At fresh inputs from the training range the {what}'s intervals of "
            f"{labels_of(others)} break a promise beyond chance"
            + (f"; those of {labels_of(rest)} do not." if rest else ".")
        )

    return say


def _of_mean_field(results: Results[Any]) -> str | None:
    if "mean-field" not in results.main.rows:
        return None
    row, parts = results.tables[1].row("mean-field"), []
    for place in PLACES:
        width, held = row[f"width {place:g}"], row[f"held {place:g}"]
        word = "too wide" if width > 1 else "too narrow"
        parts.append(f"{word} at x = {place:g} ({width:.2f} times the exact, {held:.0f} % held)")
    return (
        f"Mean-field's 95 % interval of the function is {', '.join(parts)}: amid the data, at "
        f"their edge, and beyond them. It keeps each precision but not the correlation, so that "
        f"its variance of the function is right on average over the training inputs, not at each."
    )


def _costs(results: Results[Any]) -> str | None:
    ends = results.tables[0].ends("crps")
    worse = [guide for guide, (low, _) in ends.items() if low > 0]
    if not (crps := results.tables[0].column("crps")):
        return None
    by = span(crps, lambda value: f"{number(value, '.2f')}·10⁻³").split(" ", 1)[1]
    return (
        f"The mean CRPS exceeds the exact posterior's on the same data sets by {by}; the t "
        f"interval excludes 0 for {labels_of(worse) if worse else 'none'}."
    )


def _of_the_line(results: Results[Any]) -> str:
    values, expected = (
        " / ".join(f"{share:.1f}" for share in results.tables[2].column(metric).values())
        for metric in ("held", "expected")
    )
    return (
        f"For weights that stay the same, the labs' line, nothing is promised: there the exact "
        f"posterior's intervals hold the function in {values} % of the data sets, by the closed "
        f"form in {expected} %."
    )


def _of_the_sizes(results: Results[Any]) -> str:
    sizes = results.main.column("datasets")
    few = [guide for guide, size in sizes.items() if size < results.config.datasets]
    only = f"; {labels_of(few)}: of the first {results.config.fits} data sets only" if few else ""
    return (
        "Intervals of coverages are binomial (Clopper-Pearson, one fresh input a data set), those "
        f"of scores Student's t over data sets{only}."
    )


FINDINGS = (
    _of_exact,
    _broken(FUNCTION, "function"),
    _broken(PREDICTIVE, "target"),
    _of_mean_field,
    Range(
        "predictive 0.95",
        "MAP is one function, whose interval has no width and holds nothing; its 95 % interval for "
        "targets holds {high} %, as most of the predictive variance is noise here.",
        rows=any_of(["map"]),
        write="{:.1f}".format,
    ),
    Range(
        "function 0.95",
        "Dropout in a linear regression drops the input, as there are no hidden units: its "
        "posterior is two lines, a constant with probability {config.rate:g} and a slope "
        "otherwise, and its 95 % interval holds the function in {high} % of the data sets.",
        rows=any_of(["mc-dropout"]),
        write="{:.1f}".format,
    ),
    _costs,
    _of_the_line,
    _of_the_sizes,
)


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw coverages of function and targets, coverage along x, and what it costs in scores."""
    yield _coverage(results, FUNCTION, "function")
    yield _coverage(results, PREDICTIVE, "target")
    yield _along(results)
    yield _scores(results)


def _coverage(results: Results[Any], pattern: str, what: str) -> Figure:
    off = _off(results, pattern)
    title = f"The {what}'s intervals keep their promises for all guides, up to chance"
    if off:
        title = f"The {what}'s intervals break their promises for {labels_of(off)}"
    promised = {pattern.format(level): 100 * level for level in LEVELS}
    headings = {m: f"{level:g} % interval holds the {what}" for m, level in promised.items()}
    return Figure(
        f"{what}-coverage",
        title,
        f"Share of data sets, weights drawn from the prior, whose central interval holds the "
        f"{what} at a fresh input from the training range. Bars: 95 % binomial intervals; lines: "
        f"what is promised.",
        table_panels(results.main, headings, references=promised, x="data sets (%)"),
    )


@house_style()
def _along(results: Results[Any]) -> Figure:
    arrays, grid = results.arrays, results.arrays["grid"]
    made, ((left, right),) = style.figure(1, 2, height=3.2)
    for guide, datasets in results.main.column("datasets").items():
        look, count, held = guide_style(guide), int(datasets), arrays[f"{guide}.along"]
        plot_line(grid, 100 * held / count, look, ax=left)
        if count == results.config.datasets:
            ends = [stats.binomtest(int(k), count).proportion_ci() for k in held]
            low, high = 100 * np.array(ends).T
            left.fill_between(grid, low, high, color=look.color, alpha=0.12, lw=0)
        plot_line(grid, arrays[f"{guide}.width"], look, ax=right)
    left.set_ylabel("95 % interval holds the function\n(% of data sets)")
    right.set_ylabel("SD of the function (exact: 1)")
    right.set_ylim(0, min(4.0, 1.05 * right.get_ylim()[1]))
    for ax, promised in ((left, 95), (right, 1)):
        ax.axhline(promised, color=style.TRAINING_RANGE_COLOR, lw=1.0)
        mark_training_range(np.linspace(0, 2, 21), ax=ax)
        ax.set_xlabel("x")
    style.shared_legend(made, [left, right])
    title = _of_mean_field(results) or "Coverage of the function's 95 % interval along x"
    return Figure(
        "coverage-along-x",
        title.split(":")[0],
        "Left: share of data sets whose 95 % interval holds the function at x, with binomial "
        "intervals of the guides fitted to all; right: standard deviation of the function over the "
        "exact one. Grey: the range of the training inputs, and what is promised.",
        made,
    )


def _scores(results: Results[Any]) -> Figure:
    table = results.tables[0]
    crps, zeros = table.column("crps"), dict.fromkeys(table.columns, 0.0)
    return Figure(
        "scores",
        f"{guide_style(max(crps, key=crps.__getitem__)).label} loses most against the exact "
        f"posterior",
        "Mean over data sets of the difference from the exact posterior's score on the same fresh "
        "points; bars: 95 % t intervals over data sets.",
        table_panels(table, table.columns, references=zeros, x="difference from Exact"),
    )
