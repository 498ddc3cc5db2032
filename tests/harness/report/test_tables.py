"""Tables of guides by metrics: aligned numbers, directions noted, gaps shown."""

from __future__ import annotations

import io

import demo_experiment as demo
import pytest
from rich.console import Console

from probml_tp.harness.experiment import Table, run_experiment
from probml_tp.harness.report import metric_table, print_results
from probml_tp.harness.results import read_results, write_results


def table_of(metrics, columns, intervals=None):
    return metric_table(Table("Metrics", "Posterior", metrics, columns, intervals or {}))


def texts(values, heading="x"):
    table = table_of({str(i): {"x": v} for i, v in enumerate(values)}, {"x": heading})
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
    table = table_of(metrics, {"x": heading, "unused": "Never ↓"})
    assert table.header == (heading,)
    assert table.rows == (("a", ("1",)), ("b", ("2",)), ("c", ("–",)))
    assert table.has_directions is (heading != "Time")


def test_intervals_stand_behind_their_numbers():
    metrics = {"a": {"x": 0.5, "y": 1.5}, "b": {"x": -0.25}}
    intervals = {"a": {"x": (0.45, 0.55)}, "b": {"x": (-0.3, 0.0)}}
    table = table_of(metrics, {"x": "X", "y": "Y"}, intervals)
    assert table.rows[0] == ("a", ("0.50 [0.45, 0.55]", "1.500"))
    assert table.rows[1] == ("b", ("−0.25 [−0.30, 0.00]", "–"))
    assert table.has_intervals
    assert not table_of(metrics, {"x": "X"}).has_intervals


def test_digits_follow_the_width_of_the_typical_interval():
    metrics = {name: {"x": 98.7654} for name in "abc"}
    intervals = {"a": {"x": (98.7, 98.8)}, "b": {"x": (97.0, 100.0)}, "c": {"x": (98.0, 99.5)}}
    table = table_of(metrics, {"x": "X"}, intervals)
    assert [cells for _, cells in table.rows] == [
        ("98.77 [98.70, 98.80]",),
        ("98.77 [97.00, 100.00]",),
        ("98.77 [98.00, 99.50]",),
    ]


def test_the_terminal_shows_what_was_found(tmp_path):
    results = run_experiment(demo.EXPERIMENT, demo.Config(fallback=True))
    saved = read_results(write_results(results, demo.EXPERIMENT, tmp_path))
    console = Console(file=io.StringIO(), width=100)
    print_results(saved, console=console)
    text = console.file.getvalue()
    assert "FALLBACK DATA: digits rendered" in text
    assert "- The mean of 30 draws is" in text
    assert "laplace" in text
