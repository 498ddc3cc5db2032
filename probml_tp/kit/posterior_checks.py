"""Diagnostics of every posterior of an experiment, from the ArviZ records that it saves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import kstest

from probml_tp.diagnostics.record import pit_values, record_diagnostics
from probml_tp.harness.experiment import ConfigT, Experiment, Figure, Progress, Results, Table
from probml_tp.kit.common import Array, arrays_under
from probml_tp.kit.pit_panels import pit_panels
from probml_tp.plots.training import loss_panels

__all__ = ["CHECK_FIGURES", "COLUMNS", "with_posterior_checks"]

PIT, LOSSES = "predictive-checks", "training-losses"
CHECK_FIGURES = (PIT, LOSSES)
"""The names of the figures, and the prefixes of the arrays that they are drawn from."""

COLUMNS = {
    "unsettled": "Figure of convergence over its limit ↓",
    "pareto_k": "Pareto k-hat ↓",
    "elpd_loo": "PSIS-LOO elpd (nats) ↑",
    "p_loo": "Effective parameters",
    "worst_k": "Worst k-hat of a point ↓",
    "r_hat": "Largest R-hat of a parameter ↓",
    "ess": "Smallest bulk ESS of a parameter ↑",
    "divergences": "Divergences ↓",
}
"""Headings of what :func:`probml_tp.diagnostics.record.record_diagnostics` gives."""

TITLE = "Posterior diagnostics, at the training data (not to be trusted: k-hat > 0.7, figure > 1)"


def with_posterior_checks(experiment: Experiment[ConfigT]) -> Experiment[ConfigT]:
    """The same experiment with diagnostics of its posteriors: a table and figures.

    Args:
        experiment: one whose results have ``inference_data``.

    Returns:
        It, with ``checks`` in its results and figures of the training losses and of the predictive
        checks after its own.
    """

    def run(config: ConfigT, progress: Progress) -> Results[ConfigT]:
        results = experiment.run(config, progress)
        results.checks = _table(results)
        results.arrays |= _arrays(results)
        return results

    def figures(results: Results[ConfigT]) -> Iterator[Figure]:
        yield from experiment.figures(results)
        yield from _figures(results.arrays)

    return replace(experiment, run=run, figures=figures)


def _table(results: Results[Any]) -> Table | None:
    """The diagnostics of each record that tells any, a row a posterior."""
    records: dict[str, Any] = dict(results.inference_data)
    rows = {name: record_diagnostics(record) for name, record in records.items()}
    rows = {name: row for name, row in rows.items() if row}
    return Table(TITLE, "Posterior", rows, COLUMNS) if rows else None


def _arrays(results: Results[Any]) -> dict[str, Array]:
    """What the figures are drawn from: PIT values at the training data, losses by epoch."""
    arrays: dict[str, Array] = {}
    records: dict[str, Any] = dict(results.inference_data)
    for name, record in records.items():
        values = pit_values(record)
        if values is not None and record.attrs["training_data"]:
            arrays[f"{PIT}.{name}"] = values
    posteriors: dict[str, Any] = dict(results.posteriors)
    for name, posterior in posteriors.items():
        if len(posterior.info.losses) > 1:
            arrays[f"{LOSSES}.{name}"] = np.asarray(posterior.info.losses)
    return arrays


def _figures(arrays: Mapping[str, Array]) -> Iterator[Figure]:
    if values := arrays_under(arrays, PIT):
        yield Figure(
            PIT,
            _uniformity(values),
            "Probability integral transform (PIT): the share of replicated targets below each "
            "observed one; a calibrated predictive gives a flat histogram, one that is too narrow "
            "a U, one too wide a hump. These are the data of the fit, so a slight hump is to be "
            "expected.",
            pit_panels(values),
        )
    if losses := arrays_under(arrays, LOSSES):
        yield Figure(
            LOSSES,
            _settled(losses),
            "Each guide's own objective, an upper bound on or part of −log evidence per point: "
            "levels are not comparable between guides; what counts is that each has flattened out.",
            loss_panels(losses),
        )


def _uniformity(values: Mapping[str, Array]) -> str:
    """Whose PIT values are farthest from uniform, by the Kolmogorov-Smirnov distance."""
    distance = {name: float(kstest(own, "uniform").statistic) for name, own in values.items()}
    worst, best = (pick(distance, key=distance.__getitem__) for pick in (max, min))
    return (
        f"PIT values at the training targets are farthest from uniform under {worst} "
        f"(Kolmogorov-Smirnov distance {distance[worst]:.2f}), nearest under {best} "
        f"({distance[best]:.2f})"
    )


def _settled(losses: Mapping[str, Array]) -> str:
    """How much the objective that moves most still moves at the end."""
    moves = {name: _last_move(own) for name, own in losses.items()}
    most = max(moves, key=moves.__getitem__)
    return (
        f"From the last tenth but one of its epochs to the last the mean objective moves by at "
        f"most {moves[most]:.2g} nats a point ({most})"
    )


def _last_move(losses: Array) -> float:
    """From the mean of the last tenth but one to that of the last."""
    tenth = max(1, len(losses) // 10)
    return abs(float(losses[-tenth:].mean() - losses[-2 * tenth : -tenth].mean()))
