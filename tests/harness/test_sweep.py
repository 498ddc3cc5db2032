"""A grid of experiments, options and seeds, run once and summed up in one table."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from scipy import stats

from probml_tp import experiments
from probml_tp.cli import cli
from probml_tp.harness.experiment import Entry, Registry
from probml_tp.harness.results import read_results

ROWS = ("map", "laplace")
GRID = ("--seeds", "0-2", "--vary", "n=8", "--vary", "n=9", "--set", "limit=none")


@pytest.fixture(autouse=True)
def _demo(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry({"demo": Entry("demo_experiment:EXPERIMENT", "Shows the contract.")})
    monkeypatch.setattr(experiments, "EXPERIMENTS", registry)


def sweep(folder: Path, *arguments: str, jobs: int = 1) -> Result:
    command = ["sweep", "demo", "--results", str(folder), "--jobs", str(jobs), *arguments]
    return CliRunner().invoke(cli, command)


def lines(folder: Path) -> list[dict[str, str]]:
    with open(folder / "sweep.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_one_table_of_means_over_seeds_with_student_s_interval(tmp_path: Path) -> None:
    ended = sweep(tmp_path, *GRID)
    assert ended.exit_code == 0, ended.output
    found = lines(tmp_path)
    assert len(found) == 2 * len(ROWS) * 2, "two values of n, two metrics"
    runs = [read_results(tmp_path / f"n=9,seed={seed}" / "demo") for seed in range(3)]
    assert [run.config["n"] for run in runs] == [9, 9, 9]
    values = [run.main["laplace", "sd"] for run in runs]
    own = next(line for line in found
               if (line["n"], line["row"], line["metric"]) == ("9", "laplace", "sd"))  # fmt: skip
    mean = sum(values) / 3
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / 2)
    half = stats.t.ppf(0.975, 2) * spread / math.sqrt(3)
    assert float(own["mean"]) == pytest.approx(mean)
    assert float(own["low"]) == pytest.approx(mean - half)
    assert float(own["high"]) == pytest.approx(mean + half)
    assert (own["seeds"], own["unit"]) == ("3", "m")
    assert "laplace (n=9)" in ended.output


def test_what_is_done_is_not_run_again_and_what_is_damaged_or_other_is(tmp_path: Path) -> None:
    sweep(tmp_path, *GRID)
    kept = tmp_path / "n=8,seed=0" / "demo" / "manifest.json"
    damaged = tmp_path / "n=9,seed=0" / "demo" / "metrics.json"
    before = kept.stat().st_mtime_ns
    damaged.write_text("[]", "utf-8")
    ended = sweep(tmp_path, *GRID)
    assert ended.exit_code == 0, ended.output
    assert "5 of 6 are done already." in ended.output
    assert kept.stat().st_mtime_ns == before
    assert damaged.read_text("utf-8") != "[]"
    other = sweep(tmp_path, *GRID, "--set", "scale=2")
    assert "done already" not in other.output


def test_two_processes_give_the_same_numbers(tmp_path: Path) -> None:
    for jobs in (1, 2):
        assert sweep(tmp_path / str(jobs), "--seeds", "0-1", jobs=jobs).exit_code == 0
    assert lines(tmp_path / "1") == lines(tmp_path / "2")


def test_a_point_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    ended = sweep(tmp_path, "--seeds", "0", "--vary", "mode=refuse", "--vary", "mode=crash",
                  "--vary", "mode=fine")  # fmt: skip
    assert ended.exit_code == 2
    assert "2 of 3 failed; demo mode=refuse,seed=0: ValueError: n must be even; got" in ended.output
    assert "demo mode=crash,seed=0: failed: RuntimeError: a bug" in ended.output
    assert {line["mode"] for line in lines(tmp_path)} == {"fine"}
    assert lines(tmp_path)[0]["low"] == "", "one seed says nothing of the spread"


def test_values_that_are_no_folder_names_have_their_own_all_the_same(tmp_path: Path) -> None:
    ended = sweep(tmp_path, "--seeds", "0", "--vary", "guides=map,laplace", "--vary", "guides=nuts")
    assert ended.exit_code == 0, ended.output
    assert {line["row"] for line in lines(tmp_path)} == {"map", "laplace", "nuts"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seeds", "3-1"), "from a lower to a higher"),
        (("--seeds", "x"), "such as 0-9"),
        (("--seeds", "0-99999999"), "at most 10,000"),
        (("--vary", "n"), "NAME=VALUE"),
        (("--vary", "n=many"), "many"),
        (("--vary", "m=3"), "must be those of its experiments; got m"),
        (("--vary", "n=-1"), "Option n must be at least"),
        (("--vary", "n=8", "--set", "n=9"), "n is given twice"),
        (("--set", "n=8", "--set", "n=9"), "n is given twice"),
        (("--set", "seed=9"), "seed is given twice"),
        (("--full", "--quick"), "exclude each other"),
    ],
)
def test_wrong_calls_are_refused_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    ended = sweep(tmp_path / "none", *arguments)
    assert ended.exit_code == 2
    assert message in ended.output
    assert len(ended.output.splitlines()) == 1
    assert not (tmp_path / "none").exists()


def test_an_unknown_experiment_is_refused() -> None:
    ended = CliRunner().invoke(cli, ["sweep", "dema"])
    assert ended.exit_code == 2
    assert "Did you mean demo?" in ended.output
