"""What the experiment conjugate-calibration says and shows, from its results alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy import stats

from probml_tp.harness.experiment import Figure, Results
from probml_tp.kit.common import FIT_COLUMN, labels_of, span
from probml_tp.plots.regression import mark_training_range
from probml_tp.plots.robustness import Panel, interval_panels
from probml_tp.plots.style import (
    TRAINING_RANGE_COLOR,
    figure,
    guide_style,
    house_style,
    number,
    shared_legend,
)

LEVELS = (0.5, 0.8, 0.95)
PREDICTIVE, FUNCTION = "predictive {:g}", "function {:g}"
PLACES = (1.0, 0.0, 4.0)
"""The mean of the inputs, the lower end of their range, and one width beyond the upper end."""

COLUMNS = {
    **{FUNCTION.format(level): f"Function in {100 * level:g} % (%)" for level in LEVELS},
    **{PREDICTIVE.format(level): f"Target in {100 * level:g} % (%)" for level in LEVELS},
    "crps": "CRPS (units of y) ↓",
    "nll": "NLL (nats/point) ↓",
    "datasets": "Data sets",
    **FIT_COLUMN,
}
"""Metric to heading: how often central intervals held the function and a target at a fresh input of
each data set, with binomial intervals; mean scores over fresh points and data sets, with t
intervals over data sets."""

DIFFERENCES = {"crps": "CRPS (10⁻³ units of y) ↓", "nll": "NLL (10⁻³ nats/point) ↓"}
LINE = {"held": "Counted (%)", "expected": "In closed form (%)"}


def place_columns() -> dict[str, str]:
    """Headings of what is counted at single inputs."""
    held = {f"held {place:g}": f"Held at x = {place:g} (%)" for place in PLACES}
    width = {f"width {place:g}": f"Width at x = {place:g} (exact: 1)" for place in PLACES}
    return held | width


# ------------------------------------------------------------------------------------- findings


def findings(results: Results[Any]) -> list[str]:
    """What the numbers say, the most important first."""
    found = [_of_exact(results), *_of_the_others(results)]
    found += [*_of_mean_field(results), *_of_map(results), *_of_dropout(results)]
    return [*found, *_costs(results), _of_the_line(results), _of_the_sizes(results)]


def _off(results: Results[Any], pattern: str) -> dict[str, list[float]]:
    """Guide to the levels that it misses beyond chance: binomial tests at 5 % over all of them."""
    found: dict[str, list[float]] = {}
    for guide, row in results.metrics.items():
        count = int(row["datasets"])
        for level in LEVELS:
            hits = round(row[pattern.format(level)] / 100 * count)
            if stats.binomtest(hits, count, level).pvalue < 0.05 / (2 * len(LEVELS)):
                found.setdefault(guide, []).append(level)
    return found


def _held(results: Results[Any], guide: str, pattern: str) -> str:
    values = [results.metrics[guide][pattern.format(level)] for level in LEVELS]
    return ", ".join(f"{value:.1f}" for value in values)


def _levels() -> str:
    return ", ".join(f"{100 * level:g}" for level in LEVELS)


def _of_exact(results: Results[Any]) -> str:
    count = results.metrics["exact"]["datasets"]
    off = [level for p in (FUNCTION, PREDICTIVE) for level in _off(results, p).get("exact", [])]
    verdict = (
        "no promise is broken beyond chance"
        if not off
        else f"{len(off)} of {2 * len(LEVELS)} promises are broken beyond chance"
    )
    return (
        f"Over {count:,.0f} data sets with weights from the prior the exact posterior's "
        f"{_levels()} % intervals hold the function in {_held(results, 'exact', FUNCTION)} % of "
        f"the data sets, and a fresh target in {_held(results, 'exact', PREDICTIVE)} %: {verdict} "
        f"(binomial tests at 5 % for all {2 * len(LEVELS)} together)."
    )


def _of_the_others(results: Results[Any]) -> list[str]:
    """Who breaks a promise at a fresh input from the training range."""
    found = []
    for pattern, what in ((FUNCTION, "function"), (PREDICTIVE, "target")):
        off = _off(results, pattern)
        others = [guide for guide in off if guide != "exact"]
        if others:
            rest = [guide for guide in results.metrics if guide not in off]
            text = f"At fresh inputs from the training range the {what}'s intervals of "
            text += f"{labels_of(others)} break a promise beyond chance"
            found.append(text + (f"; those of {labels_of(rest)} do not." if rest else "."))
    return found


def _of_mean_field(results: Results[Any]) -> list[str]:
    row = results.tables[1].metrics.get("mean-field")
    if row is None:
        return []
    parts = []
    for place in PLACES:
        width = row[f"width {place:g}"]
        word = "too wide" if width > 1 else "too narrow"
        parts.append(
            f"{word} at x = {place:g} ({width:.2f} times the exact width, "
            f"{row[f'held {place:g}']:.0f} % held)"
        )
    text = (
        f"Mean-field's 95 % interval of the function is {', '.join(parts)}: amid the data, at "
        f"their edge, and beyond them. A mean-field normal leaves out the correlation of slope and "
        f"intercept and keeps each precision, so that its variance of the function is right on "
        f"average over the training inputs (up to the prior's share) but not at each: in coverage "
        f"averaged over inputs like those of training most of the error cancels."
    )
    return [text]


def _of_map(results: Results[Any]) -> list[str]:
    if "map" not in results.metrics:
        return []
    text = (
        "MAP is one function: its interval for the function has no width and holds nothing. Its "
        f"{_levels()} % intervals for targets hold {_held(results, 'map', PREDICTIVE)} %, as most "
        f"of the predictive variance is noise here."
    )
    return [text]


def _of_dropout(results: Results[Any]) -> list[str]:
    if "mc-dropout" not in results.metrics:
        return []
    rate = results.config.dropout
    text = (
        f"Dropout in a linear regression drops inputs, as there are no hidden units: with one "
        f"input its posterior is two lines, a constant with probability {100 * rate:g} % and a "
        f"slope otherwise. That is no approximation of a posterior, and it does not contract with "
        f"more data. Its {_levels()} % intervals hold the function in "
        f"{_held(results, 'mc-dropout', FUNCTION)} % of the data sets."
    )
    return [text]


def _costs(results: Results[Any]) -> list[str]:
    table = results.tables[0]
    worse = [guide for guide in table.metrics if _ends(table.intervals, guide, "crps")[0] > 0]
    crps = {guide: table.metrics[guide]["crps"] for guide in table.metrics}
    if not crps:
        return []
    text = "The mean CRPS exceeds the exact posterior's on the same data sets by "
    text += span(crps, lambda value: f"{number(value, '.2f')}·10⁻³")
    text = text.replace("by from", "by").replace("by at", "by")
    return [f"{text}; the t interval excludes 0 for {labels_of(worse) if worse else 'none'}."]


def _ends(
    intervals: Mapping[str, Mapping[str, tuple[float, float]]], row: str, metric: str
) -> tuple[float, float]:
    return intervals.get(row, {}).get(metric, (float("nan"), float("nan")))


def _of_the_line(results: Results[Any]) -> str:
    rows = results.tables[2].metrics
    values = " / ".join(f"{row['held']:.1f}" for row in rows.values())
    expected = " / ".join(f"{row['expected']:.1f}" for row in rows.values())
    return (
        f"For weights that stay the same, the labs' line, nothing is promised: there the exact "
        f"posterior's intervals hold the function in {values} % of the data sets, by the closed "
        f"form in {expected} %. With {results.config.n} points the data outweigh the prior, so "
        f"that the shrinkage towards zero is small beside the spread, and the two kinds of "
        f"coverage nearly agree."
    )


def _of_the_sizes(results: Results[Any]) -> str:
    few = [g for g, row in results.metrics.items() if row["datasets"] < results.config.datasets]
    text = (
        "Intervals of coverages are binomial (Clopper-Pearson, one fresh input a data set), those "
        "of scores Student's t over data sets."
    )
    if few:
        text += f" {labels_of(few)} were fitted to the first {results.config.fits} data sets only"
        text += ", so that their intervals are wide"
        if "nuts" in few:
            text += (
                f"; the quantiles of NUTS come from {results.config.chain_draws} draws a data set"
            )
        text += "."
    return text


# -------------------------------------------------------------------------------------- figures


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw coverages of function and targets, coverage along x, and what it costs in scores."""
    yield _coverage(results, FUNCTION, "function", "function-coverage")
    yield _coverage(results, PREDICTIVE, "target", "target-coverage")
    yield _along(results)
    yield _scores(results)


def _coverage(results: Results[Any], pattern: str, what: str, name: str) -> Figure:
    guides = list(results.metrics)
    columns = []
    for level in LEVELS:
        key = pattern.format(level)
        rows = {g: (results.metrics[g][key], *results.intervals[g][key]) for g in guides}
        labelled = {guide_style(g).label: row for g, row in rows.items()}
        heading = f"{100 * level:g} % interval holds the {what}"
        columns.append(Panel(heading, labelled, reference=100 * level))
    made = interval_panels(columns, families=_families(guides), x="data sets (%)")
    made.legends.clear()
    off = _off(results, pattern)
    title = (
        f"The {what}'s intervals keep their promises for all guides, as far as the data sets tell"
        if not off
        else f"The {what}'s intervals break their promises for {labels_of(off)}"
    )
    caption = (
        f"Share of data sets, weights drawn from the prior, whose central interval holds the "
        f"{what} at a fresh input from the training range; bars: 95 % binomial intervals; lines: "
        f"what is promised."
    )
    return Figure(name, title, caption, made)


def _families(guides: list[str]) -> dict[str, Any]:
    return {guide_style(guide).label: guide_style(guide) for guide in guides}


@house_style()
def _along(results: Results[Any]) -> Figure:
    arrays, grid = results.arrays, results.arrays["grid"]
    made, axes = figure(1, 2, height=3.2)
    for guide in results.metrics:
        style, count = guide_style(guide), int(arrays[f"{guide}.count"])
        share = arrays[f"{guide}.along"]
        line = {"color": style.color, "ls": style.linestyle, "label": style.label}
        axes[0, 0].plot(grid, 100 * share / count, **line)
        if count == results.config.datasets:
            ends = [stats.binomtest(int(k), count).proportion_ci() for k in share]
            low, high = (100 * np.array([getattr(end, e) for end in ends]) for e in ("low", "high"))
            axes[0, 0].fill_between(grid, low, high, color=style.color, alpha=0.12, lw=0)
        axes[0, 1].plot(grid, arrays[f"{guide}.width"], **line)
    axes[0, 0].axhline(95, color=TRAINING_RANGE_COLOR, lw=1.0)
    axes[0, 1].axhline(1, color=TRAINING_RANGE_COLOR, lw=1.0)
    axes[0, 0].set_ylabel("95 % interval holds the function\n(% of data sets)")
    axes[0, 1].set_ylabel("SD of the function (exact: 1)")
    axes[0, 1].set_ylim(0, min(4.0, 1.05 * axes[0, 1].get_ylim()[1]))
    for ax in axes[0]:
        mark_training_range(np.linspace(0, 2, 21), ax=ax)
        ax.set_xlabel("x")
    shared_legend(made, axes[0])
    row = results.tables[1].metrics.get("mean-field")
    title = "Coverage of the function's 95 % interval along x"
    if row is not None:
        shares = [f"{row[f'held {place:g}']:.0f} %" for place in PLACES]
        title = (
            f"Mean-field's 95 % interval holds the function in {shares[0]} amid the data, "
            f"{shares[1]} at their edge and {shares[2]} beyond"
        )
    caption = (
        "Left: share of data sets whose 95 % interval holds the function at x; bands: pointwise "
        "binomial intervals of the guides fitted to all data sets. Right: standard deviation of "
        "the function, mean ratio to the exact one. Grey: the range of the training inputs, and "
        "what is promised."
    )
    return Figure("coverage-along-x", title, caption, made)


def _scores(results: Results[Any]) -> Figure:
    table = results.tables[0]
    guides = list(table.metrics)
    columns = [
        Panel(
            heading,
            {
                guide_style(g).label: (table.metrics[g][key], *_ends(table.intervals, g, key))
                for g in guides
            },
            reference=0.0,
        )
        for key, heading in table.columns.items()
    ]
    made = interval_panels(columns, families=_families(guides), x="difference from Exact")
    made.legends.clear()
    worst = max(table.metrics, key=lambda guide: table.metrics[guide]["crps"])
    title = f"{guide_style(worst).label} loses most against the exact posterior"
    caption = (
        "Mean over data sets of the difference from the exact posterior's score on the same fresh "
        "points; bars: 95 % t intervals over data sets."
    )
    return Figure("scores", title, caption, made)
