"""The tables of a gap study: posteriors by what they predict, say of themselves, and weigh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from probml_tp.gap import GapReport
from probml_tp.gap.study import GapStudy
from probml_tp.harness.experiment import Table
from probml_tp.kit.common import HALF_WIDTH, labels_of

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


def predictions_table(study: GapStudy, *, main: str | None = None) -> Table:
    """How far each posterior's predictions are from the reference's, by region.

    Args:
        study: what was found.
        main: another title.

    Returns:
        Posteriors by metric and region, the noise floor first, with the report's intervals.
    """
    report, metrics = study.report, metrics_of(study.report)
    columns = {
        f"{metric}.{region}": f"{words}, {region}{' ↓' if metric in DISTANCES else ''}"
        for metric, words in metrics.items()
        for region in report.regions
    }
    title = (
        f"{study.problem.title}: distance of the predictions from {labels_of([report.reference])}, "
        f"{report.level:.0%} bootstrap intervals (ratios: 1 is right, coverages: {report.level:g})"
    )
    table = Table(title if main is None else main, "Posterior", columns=columns)
    for region in report.regions:
        found = report.table(of=region)
        for name in found.index:
            for metric in metrics:
                _put(table, str(name), f"{metric}.{region}", found.loc[name, metric])
    return table


def evidence_table(study: GapStudy) -> Table:
    """What each posterior says of itself, and what it cost.

    Args:
        study: what was found.

    Returns:
        Posteriors by k-hat, bounds, evidence, leave-one-out and costs; intervals are 1.96 standard
        errors to either side.
    """
    report = study.report
    title = (
        f"{study.problem.title}: what needs no reference, ± 1.96 standard errors, and the costs "
        f"(k-hat is to be trusted up to {report.evidence['k_threshold'].max():.2f}; a dash where "
        f"it is minus infinity: all weights equal)"
    )
    table = Table(title, "Posterior", columns={**WITH_ERRORS, **COSTS})
    for name in study.posteriors:
        own = report.evidence.loc[name]
        for key in WITH_ERRORS:
            half = HALF_WIDTH * own[f"{key}_error"]
            ends = {"value": own[key], "low": own[key] - half, "high": own[key] + half}
            _put(table, name, key, ends)
        for key in COSTS:
            value = own[key] if key in own else report.costs.loc[name, key]
            _put(table, name, key, {"value": value})
    return table


def weights_table(study: GapStudy) -> Table:
    """How far each posterior's marginals are from the reference's, by site.

    Args:
        study: what was found.

    Returns:
        Posteriors by site and metric, the noise floor first, with the report's intervals.
    """
    report = study.report
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
    table = Table(title, "Posterior", columns=columns)
    for line in report.weights.itertuples(index=False):
        ends = {"value": line.value, "low": line.low, "high": line.high}
        _put(table, str(line.posterior), f"{line.site}.{line.metric}", ends)
    return table


def limits_table(studies: Sequence[GapStudy], title: str) -> Table:
    """How many of the requirements each posterior is shown to meet, by problem.

    Args:
        studies: what was found.
        title: of the table.

    Returns:
        Posteriors by problem.
    """
    table = Table(title, "Posterior")
    judged = {name for study in studies for name in study.advice.table["posterior"]}
    for name in dict.fromkeys(name for study in studies for name in study.posteriors):
        if name in judged:
            table.put(name, {})
    for study in studies:
        verdicts = study.advice.table
        met = verdicts[verdicts["verdict"] == "meets"].groupby("posterior").size()
        asked = verdicts.groupby("posterior").size()
        words = f"{study.problem.title}: limits met (of {int(asked.max())}) ↑"
        table.columns[study.problem.name] = words
        for name in asked.index:
            table.put(str(name), {study.problem.name: float(met.get(name, 0))})
    return table


def _put(table: Table, row: str, metric: str, found: Mapping[str, float] | pd.Series[Any]) -> None:
    """Enter a number if it is one, and its interval if it has one."""
    value, *ends = (float(found[end]) for end in ("value", "low", "high") if end in found)
    if np.isfinite(value):
        spread = len(ends) == 2 and np.isfinite(ends).all() and ends[1] > ends[0]
        table.put(row, {metric: value}, {metric: (ends[0], ends[1])} if spread else None)


def metrics_of(report: GapReport) -> Mapping[str, str]:
    """The metrics of a report to their words."""
    return CLASSIFICATION_METRICS if report.is_classification else REGRESSION_METRICS
