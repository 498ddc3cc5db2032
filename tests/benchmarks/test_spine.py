"""The benchmark of the spine runs: its contenders agree, and its report says what it must."""

from __future__ import annotations

import importlib
import re

import pytest
import torch
from click.testing import CliRunner

TINY = {"rounds": 1, "steps": 1, "batch": 8, "predict_rounds": 1, "digits": 16, "draws": 20}


@pytest.fixture
def spine(checkout, monkeypatch):
    monkeypatch.syspath_prepend(str(checkout / "benchmarks"))
    return importlib.import_module("spine")


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore::probml_tp.datasets.DataFallbackWarning")
def test_a_tiny_run_reports_every_contender(spine, monkeypatch):
    asked = []
    monkeypatch.setattr(spine, "peak_memory", lambda _, **options: asked.append(options) or PEAKS)
    text = spine.run(spine.Size(**TINY, leapfrogs=2), None)
    for name in ("ours", "by hand, Adam", "Pyro AutoNormal, fused Adam", "plain loop", "vmap"):
        assert f"| {name} |" in text
    assert text.count("(aim: ") == 6
    assert text.count("Leapfrog step") == 2
    assert "ours 10 MiB, plain loop 20 MiB" in text
    assert asked == [{"digits": 16, "draws": 20, "root": None}]


PEAKS = {"ours": 10.0, "plain loop": 20.0}


@pytest.mark.filterwarnings("ignore::probml_tp.datasets.DataFallbackWarning")
def test_the_memory_of_a_process_is_printed(spine):
    options = ["--memory-of", "ours", "--digits", "16", "--draws", "3"]
    result = CliRunner().invoke(spine.main, options)
    assert result.exit_code == 0, result.output
    assert 0 <= float(result.output.split()[-1]) < 1000


def test_contenders_that_differ_are_not_timed(spine):
    setups = importlib.import_module("setups")
    with pytest.raises(RuntimeError, match="losses differ"):
        setups.check_close("losses", torch.tensor(1.0), torch.tensor(1.01))


def test_ratios_are_taken_within_rounds(spine):
    timing = importlib.import_module("timing")
    comparison = timing.Comparison("task", {"ours": [1.0, 2.0, 9.0], "peer": [2.0, 4.0, 6.0]})
    assert comparison.ratio("peer") == 0.5
    assert comparison.median("ours") == 2.0
    assert "| task | ours | 2000 | 1000–9000 | 1.00 |" in timing.markdown([comparison])


def test_rounds_are_interleaved_and_rotated(spine):
    timing = importlib.import_module("timing")
    calls = []
    contenders = [timing.Contender(n, lambda n=n: calls.append(n)) for n in "ABC"]
    timing.compare("task", contenders, rounds=3, steps=1, warmup=0)
    assert "".join(calls) == "ABCBCACAB"


def test_missed_aims_are_said_so(spine):
    timing = importlib.import_module("timing")
    seconds = {"ours": [1.2], "by hand, Adam": [2.0], "by hand, fused Adam": [1.0]}
    (line,) = spine.verdicts(timing.Comparison("step", seconds))
    assert re.search(r"1\.20 times .* \(aim: at most 1\.1\): \*\*missed\*\*", line)
