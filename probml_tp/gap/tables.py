"""The tables of a gap study: posteriors by what they predict, say of themselves, and weigh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from probml_tp.gap import GapReport
from probml_tp.gap.study import GapStudy
from probml_tp.harness.experiment import Table
from probml_tp.kit.common import HALF_WIDTH, Intervals, Rows, labels_of

__all__ = [
    "evidence_table",
    "limits_table",
    "metrics_of",
    "predictions_table",
    "weights_table",
]

CLASSIFICATION_METRICS = {
    "total_variation": "Total variation",
    "kl": "KL (nats)",
    "mutual_information_ratio": "Mutual information ratio",
}
REGRESSION_METRICS = {
    "w2": "W₂ (units of y)",
    "epistemic_ratio": "Epistemic sd ratio",
    "function_coverage": "Function coverage",
    "target_coverage": "Target coverage",
}
DISTANCES = ("total_variation", "kl", "w2")
WEIGHT_METRICS = {
    "mean_difference": "mean off by (sd) ↓",
    "variance_ratio": "variance ratio",
    "w2": "W₂ ↓",
}
WITH_ERRORS = {
    "step_left": "Step left to its optimum (sd) ↓",
    "pareto_k": "Pareto k-hat ↓",
    "elbo": "ELBO (nats) ↑",
    "iwelbo": "IWELBO, 50 draws (nats) ↑",
    "log_evidence": "Log evidence (nats)",
    "elpd_loo": "PSIS-LOO elpd (nats) ↑",
}
COSTS = {
    "loo_worst_k": "Worst k-hat of a point ↓",
    "forward_passes": "Passes of the net ↓",
    "seconds": "Time (s) ↓",
    "peak_memory_mib": "Peak memory (MiB) ↓",
    "draws": "Draws",
    "r_hat": "R-hat ↓",
    "ess": "Bulk ESS ↑",
    "tail_ess": "Tail ESS ↑",
}


def predictions_table(study: GapStudy) -> Table:
    """How far each posterior's predictions are from the reference's, by region.

    Args:
        study: what was found.

    Returns:
        Posteriors by metric and region, the noise floor first, with the report's intervals.
    """
    report, metrics = study.report, metrics_of(study.report)
    rows: Rows = {}
    intervals: Intervals = {}
    for region in report.regions:
        table = report.table(of=region)
        for name in table.index:
            for metric in metrics:
                key = f"{metric}.{region}"
                _put(rows, intervals, str(name), key, table.loc[name, metric])
    columns = {
        f"{metric}.{region}": f"{words}, {region}{' ↓' if metric in DISTANCES else ''}"
        for metric, words in metrics.items()
        for region in report.regions
    }
    title = (
        f"{study.problem.title}: distance of the predictions from {labels_of([report.reference])}, "
        f"{report.level:.0%} bootstrap intervals (ratios: 1 is right, coverages: {report.level:g})"
    )
    return Table(title, "Posterior", rows, columns, intervals)


def evidence_table(study: GapStudy) -> Table:
    """What each posterior says of itself, and what it cost.

    Args:
        study: what was found.

    Returns:
        Posteriors by k-hat, bounds, evidence, leave-one-out and costs; intervals are 1.96 standard
        errors to either side.
    """
    report = study.report
    rows: Rows = {}
    intervals: Intervals = {}
    for name in study.posteriors:
        own = report.evidence.loc[name]
        for key in WITH_ERRORS:
            half = HALF_WIDTH * own[f"{key}_error"]
            ends = {"value": own[key], "low": own[key] - half, "high": own[key] + half}
            _put(rows, intervals, name, key, ends)
        for key in COSTS:
            value = own[key] if key in own else report.costs.loc[name, key]
            _put(rows, intervals, name, key, {"value": value})
    title = (
        f"{study.problem.title}: what needs no reference, ± 1.96 standard errors, and the costs "
        f"(k-hat is to be trusted up to {report.evidence['k_threshold'].max():.2f}; a dash where "
        f"it is minus infinity: all weights equal)"
    )
    return Table(title, "Posterior", rows, {**WITH_ERRORS, **COSTS}, intervals)


def weights_table(study: GapStudy) -> Table:
    """How far each posterior's marginals are from the reference's, by site.

    Args:
        study: what was found.

    Returns:
        Posteriors by site and metric, the noise floor first, with the report's intervals.
    """
    report = study.report
    rows: Rows = {}
    intervals: Intervals = {}
    for line in report.weights.itertuples(index=False):
        ends = {"value": line.value, "low": line.low, "high": line.high}
        _put(rows, intervals, str(line.posterior), f"{line.site}.{line.metric}", ends)
    columns = {
        f"{site}.{metric}": f"{site}: {words}"
        for site in report.weights["site"].unique()
        for metric, words in WEIGHT_METRICS.items()
    }
    title = (
        f"{study.problem.title}: distance of the weights' marginals from "
        f"{labels_of([report.reference])}, means over a site's elements (the hidden weights of a "
        f"net are not identified: there this says little)"
    )
    return Table(title, "Posterior", rows, columns, intervals)


def limits_table(studies: Sequence[GapStudy]) -> tuple[Rows, dict[str, str]]:
    """How many of the requirements each posterior is shown to meet, by problem.

    Args:
        studies: what was found.

    Returns:
        Rows and columns of a table.
    """
    rows: Rows = {}
    columns = {}
    for study in studies:
        table = study.advice.table
        met = table[table["verdict"] == "meets"].groupby("posterior").size()
        asked = table.groupby("posterior").size()
        columns[study.problem.name] = f"{study.problem.title}: limits met (of {int(asked.max())}) ↑"
        for name in asked.index:
            rows.setdefault(str(name), {})[study.problem.name] = float(met.get(name, 0))
    order = dict.fromkeys(name for study in studies for name in study.posteriors)
    return {name: rows[name] for name in order if name in rows}, columns


def _put(
    rows: Rows, intervals: Intervals, row: str, key: str, ends: Mapping[str, float] | pd.Series[Any]
) -> None:
    """Enter a number if it is one, and its interval if it has one."""
    value = float(ends["value"])
    if not np.isfinite(value):
        return
    rows.setdefault(row, {})[key] = value
    found = tuple(float(ends[end]) for end in ("low", "high") if end in ends)
    if len(found) == 2 and all(map(np.isfinite, found)) and found[1] > found[0]:
        intervals.setdefault(row, {})[key] = found


def metrics_of(report: GapReport) -> Mapping[str, str]:
    """The metrics of a report to their words."""
    return CLASSIFICATION_METRICS if report.is_classification else REGRESSION_METRICS
