"""The ood-detection experiment at a tiny size: letters and noise, as nothing else can be had."""

from __future__ import annotations

import numpy as np
import pytest
from image_experiments import offline, run_tiny
from sklearn.metrics import average_precision_score, roc_auc_score

from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.images.ood_detection import EXPERIMENT, Config
from probml_tp.experiments.images.ood_detection_figures import (
    EPSILONS,
    GRID_REFERENCES,
    TEMPERATURES,
    against,
    cell,
    figures,
    grid_title,
    verdict,
)
from probml_tp.experiments.images.score_rows import ODIN_LAB, ODIN_PAPER, gap_to
from probml_tp.harness.experiment import Results, Table, run_experiment
from probml_tp.harness.results import read_results, write_results
from probml_tp.kit.comparisons import minus, with_ends
from probml_tp.kit.sentences import table_of
from probml_tp.metrics.detection import fpr_at_tpr

SETS = ("letters", "noise")


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results[Config]:
    return run_tiny(EXPERIMENT, tmp_path_factory.mktemp("no-data"), ood_size=100, resamples=50)


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory) -> Results[Config]:
    options = {"ood_size": 60, "seeds": 2, "guides": ("mc-dropout",), "epochs": 1}
    return run_tiny(EXPERIMENT, tmp_path_factory.mktemp("no-data"), **options)


def test_it_is_the_registered_experiment():
    assert EXPERIMENTS["ood-detection"] is EXPERIMENT


def test_sets_that_cannot_be_had_are_named(results):
    assert tuple(results.main.columns) == SETS
    assert "could not be had: KMNIST, Fashion-MNIST" in results.findings[-1]
    assert results.data_is_fallback


def test_a_corrupt_set_is_an_error_and_not_a_missing_one(tmp_path):
    raw = tmp_path / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-images-idx3-ubyte").write_bytes(b"<html>404 not found</html>")
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"")
    config = Config.preset("quick", data_root=str(tmp_path), ood_size=50)
    with (
        offline(),
        pytest.raises(ValueError, match=r"KMNIST/raw/t10k-images-idx3-ubyte must be a complete"),
    ):
        run_experiment(EXPERIMENT, config)


@pytest.mark.parametrize("name", SETS)
def test_metrics_are_scikit_learns_with_the_classes_they_name(results, name):
    table = table_of(results, against(name))
    assert len(table.rows) > 20
    for label in table.rows:
        inside, outside = (
            results.arrays[key] for key in (f"inside.{label}", f"outside.{name}.{label}")
        )
        confidence = np.concatenate([inside, outside])
        own = np.repeat([True, False], [len(inside), len(outside)])
        expected = {
            "auroc": roc_auc_score(own, confidence),
            "aupr_in": average_precision_score(own, confidence),
            "aupr_out": average_precision_score(~own, -confidence),
            "fpr95": fpr_at_tpr(confidence, own),
        }
        for metric, value in expected.items():
            found = table[label, metric]
            assert found == pytest.approx(100 * value, abs=1e-10), (label, metric)


def test_tables_hold_the_same_numbers_and_intervals_that_contain_them(results):
    shown = [table for table in results.tables if table.is_shown]
    for name, table in zip(SETS, shown, strict=True):
        assert results.main.ends(name) == table.ends("auroc")
        for label in table.rows:
            assert results.main[label, name] == table[label, "auroc"]
            for metric, value in table.row(label).items():
                low, high = table.ends(metric)[label]
                assert low <= high
                assert 0 <= value <= 100


def test_odin_without_a_step_at_temperature_1_is_mcp(results):
    """The grid and the rows are the same score on the same net, with dropout off."""
    for name in SETS:
        grid, rows = (table_of(results, title(name)) for title in (grid_title, against))
        for label, at in (("MCP", "1, 0"), (ODIN_LAB, "5, 0.0014"), (ODIN_PAPER, "1000, 0.0014")):
            assert grid[at, "aupr_out"] == rows[label, "aupr_out"]


def test_the_same_step_is_taken_of_own_and_foreign_images(results):
    """The bug of published solutions: another eps for foreign data."""
    grid = table_of(results, grid_title(SETS[0]))
    assert set(grid.rows) >= {cell(t, e) for t in TEMPERATURES for e in EPSILONS}


def test_the_answer_quotes_the_paired_differences(results):
    answer = next(f for f in results.findings if f.startswith("Does ODIN beat MCP"))
    for name in SETS:
        table = table_of(results, minus(against(name), "MCP"))
        value, (low, high) = table[ODIN_LAB, "aupr_out"], table.ends("aupr_out")[ODIN_LAB]
        side = "above" if value >= 0 else "below"
        words = f"{abs(value):.1f} points {side} MCP [{low:.1f}, {high:.1f}]"
        assert words.replace("-", "\N{MINUS SIGN}") in answer
    assert f"{2 * len(TEMPERATURES) * len(EPSILONS)} cells" in answer


@pytest.mark.parametrize(
    ("above", "below", "words"),
    [
        (60, 10, "ODIN mostly beats MCP"),
        (10, 60, "ODIN mostly loses to MCP"),
        (45, 30, "whether ODIN beats MCP depends on the foreign set"),
        (10, 20, "whether ODIN beats MCP cannot be told from chance"),
    ],
)
def test_the_verdict_follows_the_cells_beyond_their_intervals(above, below, words):
    grid = {"cells": 100}
    for rival in GRID_REFERENCES:
        grid |= {f"above {rival}": above, f"below {rival}": below}
    assert words in verdict(grid)


def test_odins_choice_is_in_the_grids_and_told(results):
    (t, e), (t_validated, e_validated) = results.arrays["odin.chosen"]
    assert t == 1000
    assert t_validated in TEMPERATURES
    assert e_validated in EPSILONS
    assert any(f"ε = {e:g}" in finding for finding in results.findings)


def test_a_difference_in_words():
    table = Table("T, minus MCP", "", {"a": {"auroc": -2.0}, "b": {"auroc": 2.0}})
    table.put("a", {"auroc": -2.0}, {"auroc": (-3.0, 1.0)})
    results = Results("x", "X", Config(), table, [], "")
    first, second = (gap_to("MCP", "auroc", row, table="T")(results) for row in ("a", "b"))
    assert first == "2.0 points below MCP [\N{MINUS SIGN}3.0, 1.0]"
    assert second == "2.0 points above MCP"


def test_seeds_give_t_intervals(two_seeds):
    assert "Student's t intervals of the mean over 2 seeds" in two_seeds.findings[-1]
    for value, low, high in with_ends(table_of(two_seeds, against("letters")), "auroc").values():
        assert value - low == pytest.approx(high - value)
    differences = table_of(two_seeds, minus(against("letters"), "MCP"))
    assert with_ends(differences, "auroc")["MCP"] == (0, 0, 0)


def test_figures_need_the_arrays_only_and_results_can_be_saved(results, tmp_path):
    drawn = list(figures(results))
    names = ["auroc", "odin-grid", "distributions", "accepted"]
    assert [f.name for f in drawn if f.name != "ranking"] == names
    saved = read_results(write_results(results, EXPERIMENT, tmp_path))
    assert saved.all_tables == results.all_tables
    assert sum(table.is_shown for table in saved.all_tables) == 1 + len(SETS)
