"""Tables of guides by metrics: aligned numbers, directions noted, gaps shown."""

from __future__ import annotations

import io

import demo_experiment as demo
import pytest
from rich.console import Console

from probml_tp.experiment import run_experiment
from probml_tp.report import metric_table, print_results
from probml_tp.results import read_results, write_results


def texts(values, heading="x"):
    table = metric_table({str(i): {"x": v} for i, v in enumerate(values)}, {"x": heading})
    return [cells[0] for _, cells in table.rows]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.9812345, 0.05], ["0.9812", "0.0500"]),
        ([123.456, 2.0], ["123.5", "2.0"]),
        ([12345.678, 2.5], ["12,346", "2"]),
        ([3.0, 40.0], ["3", "40"]),
        ([0.0, 0.0], ["0", "0"]),
        ([-0.5, 0.25], ["−0.5000", "0.2500"]),
        ([1.5, 1e-9], ["1.500", "1.0e−09"]),
        ([0.000123, 0.0], ["0.00012", "0.00000"]),
    ],
)
def test_numbers_of_a_column_share_their_decimals(values, expected):
    assert texts(values) == expected


@pytest.mark.parametrize("heading", ["NLL ↓", "Accuracy ↑", "Time"])
def test_directions_are_noted_and_gaps_shown(heading):
    metrics = {"a": {"x": 1.0}, "b": {"x": 2.0}, "c": {}}
    table = metric_table(metrics, {"x": heading, "unused": "Never ↓"})
    assert table.header == (heading,)
    assert table.rows == (("a", ("1",)), ("b", ("2",)), ("c", ("–",)))
    assert table.has_directions is (heading != "Time")


def test_the_terminal_shows_what_was_found(tmp_path):
    results = run_experiment(demo.EXPERIMENT, demo.Config(fallback=True))
    saved = read_results(write_results(results, demo.EXPERIMENT, tmp_path))
    console = Console(file=io.StringIO(), width=100)
    print_results(saved, console=console)
    text = console.file.getvalue()
    assert "FALLBACK DATA: digits rendered" in text
    assert "- The mean of 30 draws is" in text
    assert "laplace" in text
