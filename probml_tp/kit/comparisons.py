r"""Tables of methods compared over seeds: means, intervals, paired differences from one of them.

With one seed the intervals are of the paired bootstrap over the test points: what another draw of
test points might give, for the nets as they are. With several they are Student's t intervals of the
mean over seeds: what other runs of the same recipe might give, on the same test points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from probml_tp.harness.table import Table
from probml_tp.metrics.bootstrap import Bootstrap, RankingMetric, bootstrap, paired_difference
from probml_tp.metrics.over_runs import MeanInterval, mean_interval, paired_seeds
from probml_tp.plots.robustness import Panel, interval_panels
from probml_tp.plots.style import GuideStyle, guide_style

__all__ = [
    "Ends",
    "compare",
    "interval_words",
    "minus",
    "scale",
    "table_panels",
    "with_ends",
]

Ends = tuple[float, float, float]
"""An estimate and the two ends of its interval, NaN where there is none."""

RANKING: Mapping[str, RankingMetric] = {
    "auroc": "auroc",
    "fpr95": "fpr95",
    "aupr_success": "aupr",
    "aupr_error": "aupr_negative",
    "aupr_in": "aupr",
    "aupr_out": "aupr_negative",
    "aurc": "aurc",
    "e_aurc": "e_aurc",
    "augrc": "augrc",
}
"""Metric to what the bootstrap calls it; the positive points are the right or the own ones."""

DEFINED_WITHOUT_MISTAKES = {"aurc", "e_aurc", "augrc", "aupr"}


def scale(metric: str) -> float:
    """What a metric is multiplied by in tables: areas under risk are per mille, others per cent.

    Example:
        >>> scale("aurc"), scale("auroc")
        (1000.0, 100.0)
    """
    return 1000.0 if metric in ("aurc", "e_aurc", "augrc") else 100.0


def minus(title: str, reference: str) -> str:
    """The title of the table of differences from one method.

    Example:
        >>> minus("Metrics", "MCP")
        'Metrics, minus MCP'
    """
    return f"{title}, minus {reference}"


def with_ends(table: Table, metric: str) -> dict[str, Ends]:
    """One metric for :func:`probml_tp.plots.robustness.interval_panels`.

    Args:
        table: of a comparison.
        metric: which.

    Returns:
        Row to value and ends, of the rows that have it.
    """
    ends = table.ends(metric)
    nothing = (np.nan, np.nan)
    return {row: (v, *ends.get(row, nothing)) for row, v in table.column(metric).items()}


def table_panels(
    table: Table,
    headings: Mapping[str, str],
    *,
    style: Callable[[str], GuideStyle] = guide_style,
    references: Mapping[str, float] | None = None,
    x: str = "",
) -> Figure:
    """Draw columns of a table side by side with their intervals, a line a row and no legend.

    Args:
        table: the numbers.
        headings: column to what stands above it.
        style: of a row; its label names the line.
        references: column to a value to mark.
        x: label of all x axes.

    Returns:
        The figure.
    """
    styles, marked = {row: style(row) for row in table.rows}, references or {}
    panels = []
    for metric, heading in headings.items():
        ends = {styles[row].label: ends for row, ends in with_ends(table, metric).items()}
        panels.append(Panel(heading, ends, reference=marked.get(metric)))
    made = interval_panels(panels, families={s.label: s for s in styles.values()}, x=x)
    made.legends.clear()
    return made


def interval_words(seeds: int) -> str:
    """Say which intervals these are.

    Args:
        seeds: the number of seeds.

    Returns:
        A noun phrase.
    """
    if seeds == 1:
        return "those of the paired bootstrap over the test images, at 95 %"
    return f"Student's t intervals of the mean over {seeds} seeds, at 95 %"


def compare(
    title: str,
    confidences: Sequence[Mapping[str, Tensor]],
    positives: Sequence[Tensor | Mapping[str, Tensor]],
    *,
    columns: Mapping[str, str],
    row_heading: str = "Score",
    references: Sequence[str] = (),
    resamples: int,
    seed: int,
) -> list[Table]:
    """Compare methods by the metrics of :data:`RANKING`.

    Args:
        title: of the table.
        confidences: of each seed, method to confidences ``(N,)``.
        positives: of each seed, which points are right or in-distribution, ``(N,)``; or one for
            each method, if methods judge predictions of their own.
        columns: metric to heading, empty for those that are not shown.
        row_heading: what the methods are.
        references: the methods that the others are compared with.
        resamples: of the bootstrap, where there is one seed.
        seed: of the bootstrap.

    Returns:
        The table, by :func:`scale`, and for each reference the table of paired differences from it,
        titled by :func:`minus` and not shown. A metric that is undefined (no mistakes) is left out.
    """
    found = {
        metric: [
            _bootstrap(
                RANKING[metric],
                of_seed,
                positive,
                resamples=resamples if len(confidences) == 1 else 1,
                seed=seed,
            )
            for of_seed, positive in zip(confidences, positives, strict=True)
        ]
        for metric in columns
    }
    main = Table(title, row_heading, columns=columns)
    hidden = dict.fromkeys(columns, "")
    others = {x: Table(minus(title, x), row_heading, columns=hidden) for x in references}
    for label in confidences[0]:
        main.put(label, {})
        for metric, runs in found.items():
            _put(main, label, metric, _estimate(runs, label))
            for rival, table in others.items():
                _put(table, label, metric, _difference(runs, label, rival))
    return [main, *others.values()]


def _put(table: Table, label: str, metric: str, ends: Ends | None) -> None:
    """Enter an estimate, if there is one, with its interval, if there is one."""
    if ends is not None:
        value, low, high = (scale(metric) * end for end in ends)
        table.put(label, {metric: value}, {metric: (low, high)} if np.isfinite(low) else None)


def _bootstrap(
    metric: RankingMetric,
    confidences: Mapping[str, Tensor],
    positive: Tensor | Mapping[str, Tensor],
    *,
    resamples: int,
    seed: int,
) -> Bootstrap:
    """Every method for which the metric is defined, on the same resamples."""
    labels = {x: positive[x] if isinstance(positive, Mapping) else positive for x in confidences}
    judged = {
        x: c
        for x, c in confidences.items()
        if labels[x].any() and (metric in DEFINED_WITHOUT_MISTAKES or not labels[x].all())
    }
    run = partial(bootstrap, metric, resamples=resamples, seed=seed)
    if judged and not isinstance(positive, Mapping):
        return run(judged, positive)
    parts = [run({x: c}, labels[x]).methods for x, c in judged.items()]
    return Bootstrap(metric, 0.95, {x: e for part in parts for x, e in part.items()})


def _estimate(runs: Sequence[Bootstrap], label: str) -> Ends | None:
    """Of the bootstrap where there is one seed, else the mean over those that have it."""
    known = [one.methods[label] for one in runs if label in one.methods]
    if not known:
        return None
    if len(runs) == 1:
        return known[0].value, known[0].low, known[0].high
    return _t_ends(mean_interval([one.value for one in known]))


def _difference(runs: Sequence[Bootstrap], label: str, rival: str) -> Ends | None:
    """The same of paired differences; none if a seed has one of the two alone."""
    both = [one for one in runs if label in one.methods and rival in one.methods]
    either = [one for one in runs if label in one.methods or rival in one.methods]
    if not both or len(both) < len(either):
        return None
    if len(runs) == 1:
        gap = paired_difference(both[0], label, rival)
        return gap.value, gap.low, gap.high
    mine, theirs = ([one.methods[x].value for one in both] for x in (label, rival))
    return _t_ends(paired_seeds(mine, theirs))


def _t_ends(found: MeanInterval) -> Ends:
    return (found.mean, *(found.interval or (np.nan, np.nan)))
