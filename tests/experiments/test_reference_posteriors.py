"""The experiment on posteriors with known answers: known biases show, impossible fits are told."""

from __future__ import annotations

import pytest

from probml_tp.experiment import run_experiment
from probml_tp.experiments.reference_posteriors import EXPERIMENT, Config


@pytest.fixture(scope="module")
def results():
    config = Config(
        posteriors=("dugongs-line", "eight-schools-centered"),
        guides=("map", "laplace", "mean-field"),
        epochs=1500,
        lr=0.05,
    )
    return run_experiment(EXPERIMENT, config)


def test_laplace_is_exact_where_the_posterior_is_normal(results):
    errors, narrow = results.metrics["dugongs-line"], results.tables[0].metrics["dugongs-line"]
    assert errors["laplace"] < 0.1
    assert narrow["laplace"] == pytest.approx(1, abs=0.06)


def test_mean_field_is_too_narrow_where_parameters_are_correlated(results):
    narrow, wide = (table.metrics["dugongs-line"]["mean-field"] for table in results.tables)
    assert 0.3 < narrow <= wide < 0.85  # the optimum is 0.43 for both; a short run is above it


def test_laplace_without_a_mode_is_a_finding_and_no_row(results):
    assert "laplace" not in results.metrics["eight-schools-centered"]
    told = [s for s in results.findings if "eight-schools-centered is refused" in s]
    assert len(told) == 1
    assert "positive definite" in told[0]


def test_a_point_mass_has_no_spread(results):
    assert results.tables[0].metrics["dugongs-line"]["map"] == 0


def test_the_figure_is_drawn_from_the_results(results):
    made, *_ = EXPERIMENT.figures(results)
    assert "Laplace" in made.title
    assert len(made.figure.axes) == 2
