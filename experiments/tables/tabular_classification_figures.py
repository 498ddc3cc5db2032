"""What the experiment tabular-classification says and shows, from its results alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from probml_tp.experiments.tables.kit import (
    LIBRARY,
    SPLIT_WORDS,
    TABLES,
    families,
    panel_rows,
    row_label,
    row_name,
)
from probml_tp.harness.experiment import Figure, Results, Table
from probml_tp.kit.common import CLASSIFICATION_COLUMNS, FIT_COLUMN, percent, span
from probml_tp.metrics.over_runs import CriticalDifference, critical_difference
from probml_tp.plots.robustness import Panel, interval_panels, plot_critical_difference
from probml_tp.plots.style import GuideStyle, figure, house_style, number

REFERENCE = row_name(LIBRARY, "LogisticRegression")
GAP_COLUMN = {"gap": "Confidence less accuracy"}
OVERALL = {
    "rank": "Mean rank by NLL ↓",
    "wins": "NLL better than LogisticRegression (% of splits) ↑",
    **CLASSIFICATION_COLUMNS,
    **GAP_COLUMN,
    **FIT_COLUMN,
}
"""Metric to heading: means over the tables, which share no units but the nats of the NLL."""


def findings(results: Results[Any]) -> list[str]:
    """What the numbers say, the most important first."""
    names = results.config.data
    found = [_spread(name, table) for name, table in zip(names, results.tables, strict=False)]
    found += [_against_reference(results), *_ranks(results), *_averaging(results)]
    settings = (
        "Methods of scikit-learn have their default settings, but for the Gaussian process: its "
        f"kernel is fixed, and it sees {results.config.gp_points} training points at most. A tuned "
        "one would do better."
    )
    return [*found, settings, f"{SPLIT_WORDS} ({results.config.splits} splits)."]


def _spread(name: str, table: Table) -> str:
    accuracy, nll = (
        {row_label(row): one[m] for row, one in table.metrics.items()} for m in ("accuracy", "nll")
    )
    return (
        f"{TABLES[name][1].capitalize()}: accuracy runs {span(accuracy, percent, name=str)}, NLL "
        f"{span(nll, '{:.3f}'.format, name=str)} nats."
    )


def _against_reference(results: Results[Any]) -> str:
    table, parts = results.tables[-1], []
    for name in results.config.data:
        ends = {row: one[name] for row, one in table.intervals.items() if name in one}
        better = [row_label(row) for row, (_, high) in ends.items() if high < 0]
        worse = [row_label(row) for row, (low, _) in ends.items() if low > 0]
        words = f"better: {' / '.join(better) or 'none'}; worse: {' / '.join(worse) or 'none'}"
        parts.append(f"{TABLES[name][1]} ({words})")
    return (
        "NLL against scikit-learn's LogisticRegression on the same splits, where the corrected "
        f"interval of the difference excludes 0: {'; '.join(parts)}."
    )


def _ranking(results: Results[Any]) -> CriticalDifference | None:
    """Ranks by NLL over the tables; none of one table."""
    tables = results.tables[: len(results.config.data)]
    if len(tables) < 2:
        return None
    rows = tables[0].metrics
    means = {row_label(row): [table.metrics[row]["nll"] for table in tables] for row in rows}
    return critical_difference(means, higher_is_better=False)


def _ranks(results: Results[Any]) -> list[str]:
    ranked = _ranking(results)
    if ranked is None:
        return []
    best, *_, worst = ranked.mean_ranks
    spread = ranked.mean_ranks[worst] - ranked.mean_ranks[best]
    verdict = (
        "tells the two apart" if spread > ranked.difference else "cannot tell even these apart"
    )
    text = (
        f"Ranked by NLL on each table, {best} is first on average ({ranked.mean_ranks[best]:.1f}) "
        f"and {worst} last ({ranked.mean_ranks[worst]:.1f}) of {len(ranked.mean_ranks)}; with "
        f"{ranked.num_blocks} tables the critical difference is {ranked.difference:.1f} ranks: "
        f"Nemenyi's test {verdict}. (Tables are the blocks; splits of one would not be "
        f"independent.)"
    )
    return [text]


def _averaging(results: Results[Any]) -> list[str]:
    """Whether guides of the net are better than its MAP estimate."""
    own = row_name("mlp", "map")
    tables = results.tables[: len(results.config.data)]
    if own not in tables[0].metrics:
        return []
    parts = []
    for name, table in zip(results.config.data, tables, strict=True):
        nll = {row: one["nll"] for row, one in table.metrics.items() if row.startswith("mlp")}
        better = sum(value < nll[own] for value in nll.values())
        parts.append(f"{better} of {len(nll) - 1} on {TABLES[name][1]}")
    gaps = {row_label(r): one["gap"] for r, one in results.metrics.items() if r.startswith("mlp")}
    sides = [table.metrics[own]["gap"] < 0 for table in tables]
    ranges = span(gaps, lambda gap: number(gap, "+.3f"), name=str, reference=row_label(own))
    under = f"{sum(sides)} of {len(sides)}"
    return [
        f"Guides of the net with a lower mean NLL than its MAP estimate: {', '.join(parts)}.",
        f"The net's mean confidence less accuracy runs {ranges}; MAP is below 0 on {under} tables.",
    ]


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the metrics of each table, differences in NLL, and mean ranks."""
    for name, table in zip(results.config.data, results.tables, strict=False):
        yield _metrics(name, table)
    yield _differences(results)
    ranked = _ranking(results)
    if ranked is not None:
        yield _rank_figure(ranked, results)


def _metrics(name: str, table: Table) -> Figure:
    columns = [
        Panel(heading, panel_rows(table.metrics, table.intervals, metric))
        for metric, heading in CLASSIFICATION_COLUMNS.items()
    ]
    made = interval_panels(columns, families=families(table.metrics))
    made.legends.clear()
    nll = {row_label(row): one["nll"] for row, one in table.metrics.items()}
    title = f"{TABLES[name][1].capitalize()}: NLL runs {span(nll, '{:.3f}'.format, name=str)}"
    caption = (
        "Means over random splits; bars: t intervals at 95 % with the variance corrected for the "
        "overlap of the splits. Grey: scikit-learn."
    )
    return Figure(name, title, caption, made)


def _differences(results: Results[Any]) -> Figure:
    table = results.tables[-1]
    columns = [
        Panel(heading, panel_rows(table.metrics, table.intervals, name), reference=0.0)
        for name, heading in table.columns.items()
    ]
    made = interval_panels(columns, families=families(table.metrics), x="less LogisticRegression")
    made.legends.clear()
    cells = [(row, name) for row, one in table.metrics.items() for name in one]
    row, name = min(cells, key=lambda cell: table.metrics[cell[0]][cell[1]])
    title = (
        f"Most is gained by {row_label(row)} on {TABLES[name][1]}: "
        f"{number(table.metrics[row][name], '+.3f')} nats against LogisticRegression"
    )
    caption = (
        "Mean over splits of the NLL less that of scikit-learn's LogisticRegression on the same "
        "test points; left of 0 is better. Bars: corrected 95 % t intervals."
    )
    return Figure("nll-differences", title, caption, made)


@house_style()
def _rank_figure(ranked: CriticalDifference, results: Results[Any]) -> Figure:
    by_label = families(results.tables[0].metrics)
    made, axes = figure(1, 1, height=0.6 + 0.15 * len(ranked.mean_ranks))

    def style(label: str) -> GuideStyle:
        own = by_label[label]
        return GuideStyle(label, own.color, own.linestyle, own.marker)

    plot_critical_difference(ranked, ax=axes[0, 0], style=style)
    best = next(iter(ranked.mean_ranks))
    title = f"{best} has the best mean rank by NLL over {ranked.num_blocks} tables"
    caption = (
        "Mean ranks by NLL over the tables (1 is best); bars join methods that Nemenyi's test at "
        "5 % cannot tell apart."
    )
    return Figure("ranks", title, caption, made)
