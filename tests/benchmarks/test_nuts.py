"""The benchmark of NUTS runs, and its report says what it must."""

from __future__ import annotations

import importlib

import numpy as np
import pytest


@pytest.fixture
def bench(checkout, monkeypatch):
    monkeypatch.syspath_prepend(str(checkout / "benchmarks"))
    return importlib.import_module("nuts")


def test_a_tiny_run_reports_every_sampler(bench):
    size = bench.Size(logistic=(8, 8))
    text = bench.run(size, ("logistic",), numpyro=False)
    for name in ("ours", "ours, from Laplace, half the warm-up", "Pyro"):
        assert f"| {name} |" in text
    assert text.count("(aim: ") == 2


def test_rates_count_warm_up_or_not(bench):
    draws = np.random.default_rng(0).standard_normal((4, 50, 2))
    run = bench.Run(draws, warmup_seconds=3.0, seconds=1.0, gradients=20.0, gradients_kept=10.0)
    assert run.rate_kept == pytest.approx(4 * run.rate) == pytest.approx(run.ess)
