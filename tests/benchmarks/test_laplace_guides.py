"""The benchmark of the Laplace guides runs: it agrees with laplace-torch and reports its aims."""

from __future__ import annotations

import importlib

import pytest
import torch
from click.testing import CliRunner

from probml_tp import NormalPrior
from probml_tp.models import mlp_classifier

TINY = {
    "rounds": 1,
    "jacobian_fit": 6,
    "jacobian_predict": 5,
    "fit": 12,
    "predict": 7,
    "fitted": 4,
}

pytestmark = [
    pytest.mark.filterwarnings("ignore::probml_tp.datasets.DataFallbackWarning"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture
def bench(checkout, monkeypatch):
    monkeypatch.syspath_prepend(str(checkout / "benchmarks"))
    module = importlib.import_module("laplace_guides")
    monkeypatch.setitem(module.MODELS, "MLP", small_model)
    return module


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small_model():
    return mlp_classifier(784, hidden=(3,), prior=NormalPrior(1.0), num_classes=10)


def test_a_tiny_run_reports_every_contender(bench, monkeypatch):
    asked = []
    monkeypatch.setattr(bench, "fresh_process_mib", lambda _, options: asked.append(options) or 7.0)
    size = bench.Size(**TINY)
    text = bench.run(size, None, nets=("MLP",), only=tuple(bench.tasks(size)), quick=True)
    for task in bench.tasks(size).values():
        for settings in task.peers:
            assert f"| {settings.name} |" in text
    assert text.count("(aim: ") == 2 * 2 + 3
    assert text.count("| ours | 7 |") == 5
    assert ["--quick", "--memory-of", "MLP|diagonal fit|ours"] in asked


def test_posteriors_that_differ_are_not_timed(bench, monkeypatch):
    monkeypatch.setattr(importlib.import_module("laplace_torch"), "PRIOR_SCALE", 1.01)
    size = bench.Size(**TINY)
    digits = bench.load_digits(size.digits, None)
    with pytest.raises(RuntimeError, match="variances differ"):
        bench.time_task("diagonal fit", "MLP", bench.tasks(size)["diagonal fit"], digits, size)


def test_the_memory_of_a_process_is_printed(bench, monkeypatch):
    monkeypatch.setattr(bench, "QUICK", bench.Size(**TINY))
    options = ["--quick", "--memory-of", "MLP|Kronecker GLM prediction|ours"]
    result = CliRunner().invoke(bench.main, options)
    assert result.exit_code == 0, result.output
    assert 0 <= float(result.output.split()[-1]) < 1000


def test_speed_and_memory_are_held_to_the_usual_setting_and_speed_also_to_the_fastest(bench):
    timing = importlib.import_module("timing")
    task = bench.tasks(bench.Size())["diagonal fit"]
    names = ["ours", *(s.name for s in task.peers)]
    seconds = dict(zip(names, ([1.0], [20.0], [8.0], [2.0]), strict=True))
    added = dict(zip(names, (50.0, 400.0, 90.0, 60.0), strict=True))
    result = bench.Result(task, timing.Comparison("fit", seconds), added)
    usual, fastest, memory = bench.verdicts(result)
    assert usual.endswith(
        "20.0 times as fast as laplace-torch, batches of 50 (aim: at least 10): met."
    )
    assert "fit: 2 times as fast as laplace-torch, BackPackGGN" in fastest
    assert "0.125 times the added memory" in memory and memory.endswith("**missed**.")


def test_other_tasks_are_held_to_the_fastest_peer(bench):
    timing = importlib.import_module("timing")
    task = bench.tasks(bench.Size())["Kronecker fit"]
    names = ["ours", *(s.name for s in task.peers)]
    seconds = dict(zip(names, ([1.2], [4.0], [1.0]), strict=True))
    (line,) = bench.verdicts(bench.Result(task, timing.Comparison("fit", seconds), {}))
    assert "1.20 times the time of laplace-torch, batches of 500" in line
    assert line.endswith("(aim: at most 1.1): **missed**.")
