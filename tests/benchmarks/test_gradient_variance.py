"""The benchmark of gradient variances runs, and its figures are what they say."""

from __future__ import annotations

import importlib

import pytest
import torch


@pytest.fixture
def bench(checkout, monkeypatch):
    monkeypatch.syspath_prepend(str(checkout / "benchmarks"))
    return importlib.import_module("gradient_variance")


@pytest.mark.filterwarnings("ignore::probml_tp.datasets.DataFallbackWarning")
def test_a_tiny_run_reports_every_estimator(bench):
    size = bench.Size(
        digits=16, points=16, epochs=1, batch=8, repeats=3, losses=2, rounds=1, steps=1
    )
    text, figure = bench.run(size, None)
    rows = [line for line in text.splitlines() if line.count(" | ") == 9]
    assert len(rows) == 1 + 3 * 3 + 3 * 4  # a heading, the MLP's, LeNet's
    assert bench.POSITIONS in text.split(bench.BIAS)[1]
    assert len(figure.axes) == 4
    assert all(ax.get_ylabel() and ax.get_xlabel() and ax.lines for ax in figure.axes)


def test_the_trace_is_that_of_the_covariance(bench):
    rows = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)).double()
    trace, error = bench.trace_of_covariance(rows)
    assert trace == pytest.approx(rows.T.cov().trace().item())
    assert abs(trace - 4) < 5 * error < 1


def test_figures_are_relative_to_the_shared_draw_of_the_same_stage(bench):
    shared = bench.Row("m", "end", bench.SHARED, (4.0, 8.0), (0.1, 0.1), 10.0, 0.001, 1.0)
    other = bench.Row("m", "end", bench.FLIPOUT, (1.0, 1.0), (0.1, 0.1), 5.0, 0.003, 2.0)
    line = bench.table([shared, other]).splitlines()[-1]
    assert line == "|  |  | flipout | 1 ± 0.1 | 1 ± 0.1 | 3 | 0.5 | 0.25 | 0.5 | 1 |"


def test_the_page_has_the_markers(bench):
    text = bench.PAGE.read_text("utf-8")
    assert text.index(bench.BEGIN) < text.index(bench.END)
