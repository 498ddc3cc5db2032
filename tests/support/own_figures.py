"""An experiment's own figures, and whether they need no more than what is saved."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from probml_tp.harness.experiment import Experiment, Results
from probml_tp.kit.posterior_checks import CHECK_FIGURES


def own_figures(figures: Iterable[Any]) -> list[Any]:
    """Those, drawn or saved, that are not diagnostics."""
    return [figure for figure in figures if figure.name not in CHECK_FIGURES]


def assert_drawn_from_arrays(
    experiment: Experiment[Any], results: Results[Any], saved: Results[Any]
) -> None:
    """The saved arrays, without posteriors and records, give the figures that were saved."""
    bare = replace(results, arrays=saved.arrays, posteriors={}, inference_data={})
    for again, first in zip(experiment.figures(bare), saved.figures, strict=True):
        assert (again.title, again.caption) == (first.title, first.caption)
