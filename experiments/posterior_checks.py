"""Diagnostics of every posterior of an experiment, from the ArviZ records that it saves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import numpy as np

from probml_tp.diagnostics.record import record_diagnostics
from probml_tp.experiment import ConfigT, Experiment, Figure, Progress, Results, Table
from probml_tp.plots.checks import predictive_check_panels
from probml_tp.plots.training import loss_panels

__all__ = ["COLUMNS", "with_posterior_checks", "without_checks"]

PIT, LOSSES = "predictive-checks", "training-losses"


COLUMNS = {
    "pareto_k": "Pareto k-hat ↓",
    "elpd_loo": "PSIS-LOO elpd (nats) ↑",
    "p_loo": "Effective parameters",
    "worst_k": "Worst k-hat of a point ↓",
    "r_hat": "Largest R-hat ↓",
    "ess": "Smallest bulk ESS ↑",
    "divergences": "Divergences ↓",
}
"""Headings of what :func:`probml_tp.diagnostics.record.record_diagnostics` gives."""

TITLE = "Posterior diagnostics, at the training data (k-hat above 0.7: not to be trusted)"


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
        results.checks = checks_table(results)
        return results

    def figures(results: Results[ConfigT]) -> Iterator[Figure]:
        yield from experiment.figures(results)
        yield from _figures(results)

    return replace(experiment, run=run, figures=figures)


class Named(Protocol):
    """A figure, drawn or saved."""

    @property
    def name(self) -> str:
        """Its file name."""


NamedT = TypeVar("NamedT", bound=Named)


def without_checks(figures: Iterable[NamedT]) -> list[NamedT]:
    """An experiment's own figures, less those of the posteriors' diagnostics."""
    return [figure for figure in figures if figure.name not in (PIT, LOSSES)]


def checks_table(results: Results[Any]) -> Table | None:
    """The diagnostics of each record, a row a posterior.

    Args:
        results: of an experiment.

    Returns:
        The table; none if no record tells anything.
    """
    records: dict[str, Any] = dict(results.inference_data)
    rows = {name: record_diagnostics(record) for name, record in records.items()}
    rows = {name: row for name, row in rows.items() if row}
    return Table(TITLE, "Posterior", rows, COLUMNS) if rows else None


def _figures(results: Results[Any]) -> Iterator[Figure]:
    records: dict[str, Any] = dict(results.inference_data)
    at_training = {n: r for n, r in records.items() if r.attrs.get("training_data")}
    continuous = {n: r for n, r in at_training.items() if _is_continuous(r)}
    if continuous:
        yield Figure(
            PIT,
            "Probability integral transform of the training targets, by posterior",
            "The share of replicated targets below each observed one; a calibrated predictive "
            "gives a flat histogram, one that is too narrow a U, one too wide a hump. These are "
            "the data of the fit, so a slight hump is to be expected.",
            predictive_check_panels(continuous),
        )
    posteriors: dict[str, Any] = dict(results.posteriors)
    losses = {n: np.asarray(p.info.losses) for n, p in posteriors.items() if len(p.info.losses) > 1}
    if losses:
        yield Figure(
            LOSSES,
            "Training objective of each fit, by epoch",
            "Each guide's own objective, an upper bound on or part of −log evidence per point: "
            "levels are not comparable between guides; what counts is that each has flattened out.",
            loss_panels(losses),
        )


def _is_continuous(record: Any) -> bool:
    (observed,) = record["observed_data"].values()
    values = observed.to_numpy()
    return bool(values.ndim == 1 and np.issubdtype(values.dtype, np.floating)
                and not np.isin(values, (0.0, 1.0)).all())  # fmt: skip
