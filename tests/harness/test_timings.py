"""What the last run took, and what it foretells."""

from __future__ import annotations

import json

import demo_experiment as demo
import pytest

from probml_tp.experiments import EXPERIMENTS
from probml_tp.harness import timings
from probml_tp.harness.experiment import SharedStage, run_experiment
from probml_tp.harness.results import write_results
from probml_tp.harness.timings import foretold, recorded

SHIPPED = {
    "default": {
        "one": {"stages": {"fit": 9.0, "score": 1.0}, "shared": ["fit"]},
        "two": {"stages": {"fit": 0.0, "score": 2.0}, "shared": ["fit"]},
    },
}


@pytest.fixture
def shipped(monkeypatch):
    monkeypatch.setattr(timings, "_shipped", lambda size: SHIPPED["default"])


def test_there_is_a_record_of_every_experiment_in_both_sizes():
    for size in ("quick", "default"):
        known = timings._shipped(size)
        assert set(known) == set(EXPERIMENTS)
        assert all(sum(entry["stages"].values()) > 0 for entry in known.values())
    assert timings._shipped("full") == timings._shipped("default")
    assert timings._shipped("quick") != timings._shipped("default")


def test_shared_work_costs_its_time_once_wherever_it_comes_first(shipped, tmp_path):
    both = foretold([("one", "default", ""), ("two", "default", "")], tmp_path)
    assert both == {"one": {"fit": 9.0, "score": 1.0}, "two": {"fit": 0.0, "score": 2.0}}
    other = foretold([("two", "default", ""), ("one", "default", "")], tmp_path)
    assert other == {"two": {"fit": 9.0, "score": 2.0}, "one": {"fit": 0.0, "score": 1.0}}
    assert isinstance(next(iter(other["two"])), SharedStage)


def test_an_experiment_without_a_record_has_an_empty_plan(shipped, tmp_path):
    assert foretold([("new", "default", "")], tmp_path) == {"new": {}}


def test_a_run_in_the_same_folder_knows_better(shipped, tmp_path):
    config = demo.Config()
    results = run_experiment(demo.EXPERIMENT, config)
    results.timings = {"make data": 1.5, "fit": 2.5}
    write_results(results, demo.EXPERIMENT, tmp_path)
    preset = config.describe()
    assert foretold([("demo", "default", preset)], tmp_path) == {"demo": results.timings}
    assert foretold([("demo", "quick", "quick preset")], tmp_path) == {"demo": {}}


@pytest.mark.parametrize(
    "content",
    [
        {"timings": 3}, {"timings": {"fit": float("nan")}}, {"timings": {"fit": 1e308}},
        {"timings": {"fit": -1.0}}, {"timings": {"fit": "long"}}, {"shared_stages": 3}, [],
    ],
)  # fmt: skip
def test_a_damaged_record_foretells_nothing(tmp_path, content):
    (tmp_path / "demo").mkdir()
    path = tmp_path / "demo" / "manifest.json"
    whole = {"preset": "default preset", "timings": {"fit": 1.0}, "shared_stages": []}
    path.write_text(json.dumps(whole))
    assert recorded(tmp_path)["demo"]["stages"] == {"fit": 1.0}
    path.write_text(json.dumps(whole | content if isinstance(content, dict) else content))
    assert recorded(tmp_path) == {}
    path.write_text("[" * 100_000)
    assert recorded(tmp_path) == {}
