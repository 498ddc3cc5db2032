"""What the experiment tabular-regression says and shows, from its results alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from probml_tp.experiments.tables.kit import (
    LIBRARY,
    SPLIT_WORDS,
    families,
    panel_rows,
    row_label,
    row_name,
)
from probml_tp.harness.experiment import Figure, Results
from probml_tp.kit.common import FIT_COLUMN, span
from probml_tp.plots.robustness import Panel, interval_panels
from probml_tp.plots.style import number

LEVELS = (0.5, 0.8, 0.95)
REFERENCE = row_name(LIBRARY, "BayesianRidge")
COLUMNS = {
    "rmse": "RMSE (units of y) ↓",
    "nll": "NLL (nats/point) ↓",
    "crps": "CRPS (units of y) ↓",
    **{f"coverage {level:g}": f"Inside {100 * level:g} % interval (%)" for level in LEVELS},
    **FIT_COLUMN,
}
DIFFERENCES = {"rmse": COLUMNS["rmse"], "nll": COLUMNS["nll"], "crps": COLUMNS["crps"]}


def findings(results: Results[Any]) -> list[str]:
    """What the numbers say, the most important first."""
    metrics = results.metrics
    rmse, nll = (_values(results, metric) for metric in ("rmse", "nll"))
    ranges = (
        f"RMSE runs {span(rmse, '{:.1f}'.format, reference=row_label(REFERENCE), name=str)}, NLL "
        f"{span(nll, '{:.3f}'.format, reference=row_label(REFERENCE), name=str)} nats a point."
    )
    found = [
        ranges,
        _against_reference(results),
        *_same_model(results),
        _coverage(results),
    ]
    count = results.config.splits
    few = [row_label(row) for row in metrics if row not in _on_all_splits(results)]
    words = f"{SPLIT_WORDS} ({count} splits"
    if few:
        words += f"; {', '.join(few)}: the first {results.config.nuts_splits}"
    return [*found, words + ")."]


def _on_all_splits(results: Results[Any]) -> list[str]:
    """The rows whose means are over all splits, hence can be compared as they are."""
    count = results.config.splits
    return [row for row in results.metrics if int(results.arrays[f"{row}.count"]) == count]


def _values(results: Results[Any], metric: str) -> dict[str, float]:
    return {row_label(row): results.metrics[row][metric] for row in _on_all_splits(results)}


def _against_reference(results: Results[Any]) -> str:
    """Who is better or worse than BayesianRidge beyond chance."""
    table = results.tables[0]
    ends = {row: one["nll"] for row, one in table.intervals.items() if "nll" in one}
    better = [row_label(row) for row, (_, high) in ends.items() if high < 0]
    worse = [row_label(row) for row, (low, _) in ends.items() if low > 0]
    return (
        f"NLL against BayesianRidge on the same splits, where the corrected interval of the "
        f"difference excludes 0: better: {'; '.join(better) or 'none'}. Worse: "
        f"{'; '.join(worse) or 'none'}."
    )


def _same_model(results: Results[Any]) -> list[str]:
    """How far the exact posterior by evidence is from scikit-learn's version of it."""
    row = results.tables[0].metrics.get(row_name("linear", "exact"))
    if row is None:
        return []
    text = (
        f"The exact posterior with the evidence's noise and prior is the model of BayesianRidge up "
        f"to its hyperpriors and the intercept: its RMSE differs by {number(row['rmse'], '+.3f')}, "
        f"its NLL by {number(row['nll'], '+.4f')} nats a point."
    )
    return [text]


def _coverage(results: Results[Any]) -> str:
    held = _values(results, "coverage 0.95")
    return f"95 % intervals hold {span(held, '{:.1f} %'.format, name=str)} of the test points."


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the differences from BayesianRidge, and the coverage of intervals."""
    table = results.tables[0]
    columns = [
        Panel(heading, panel_rows(table.metrics, table.intervals, metric), reference=0.0)
        for metric, heading in DIFFERENCES.items()
    ]
    made = interval_panels(columns, families=families(table.metrics), x="less BayesianRidge")
    made.legends.clear()
    whole = [row for row in _on_all_splits(results) if row in table.metrics]
    best = min(whole, key=lambda row: table.metrics[row]["nll"])
    title = (
        f"{row_label(best)} has the lowest NLL: {number(table.metrics[best]['nll'], '+.3f')} nats "
        f"a point against BayesianRidge"
    )
    caption = (
        "Mean over splits of the difference from scikit-learn's BayesianRidge on the same test "
        "points; left of 0 is better. Bars: corrected 95 % t intervals."
    )
    yield Figure("differences", title, caption, made)
    yield _coverages(results)


def _coverages(results: Results[Any]) -> Figure:
    columns = [
        Panel(
            f"{100 * level:g} % interval",
            panel_rows(results.metrics, results.intervals, f"coverage {level:g}"),
            reference=100 * level,
        )
        for level in LEVELS
    ]
    made = interval_panels(columns, families=families(results.metrics), x="test points inside (%)")
    made.legends.clear()
    held = _values(results, "coverage 0.95")
    title = f"95 % intervals hold {span(held, '{:.0f} %'.format, name=str)}"
    caption = (
        "Share of test points inside central predictive intervals, mean over splits; bars: "
        "corrected 95 % t intervals; lines: what is promised."
    )
    return Figure("coverage", title, caption, made)
