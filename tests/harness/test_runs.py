"""Experiments that run at once: the same results, one line of progress, an end in order."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import many_commands
import pytest
from marked_command import MarkedCommand, await_end

from probml_tp.harness.results import read_results

WITHIN = 20
"""Seconds in which the processes of a run have ended."""


class Run(MarkedCommand):
    """The command with three experiments."""

    def __init__(self, folder: Path, checkout: Path, *arguments: str) -> None:
        python = ("-W", "error")
        super().__init__(many_commands, folder, checkout, ["run", *arguments], python=python)

    def ran(self) -> dict[str, list[int]]:
        """Of each experiment its process, its threads, and the processes it may start."""
        marks = [path for path in self.marks.iterdir() if not path.name.startswith("waiting-")]
        return {path.name: [int(n) for n in path.read_text().split()] for path in marks}


def test_results_do_not_depend_on_the_number_of_jobs(tmp_path: Path, checkout: Path) -> None:
    alone = Run(tmp_path / "alone", checkout, "--jobs", "1", "--no-progress")
    at_once = Run(tmp_path / "at once", checkout, "--jobs", "2")
    (code, out, err), (other_code, other_out, other_err) = alone.end(), at_once.end()
    assert (code, other_code, err) == (0, 0, ""), err + other_err
    assert out.splitlines()[:-1] == other_out.splitlines()[:-1]  # in the order of the registry
    for name in ("one", "two", "three"):
        files = [run.results / name / "metrics.json" for run in (alone, at_once)]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert sorted(os.listdir(at_once.results)) == ["one", "report.html", "three", "two"]

    here = alone.ran()
    assert {(process, threads) for process, threads, _ in here.values()} == {(alone.process.pid, 1)}
    assert here["one"][2] == 9
    there = at_once.ran()
    assert there["one"][0] == there["three"][0] != there["two"][0]  # they share what they fit
    assert alone.process.pid not in [process for process, *_ in there.values()]
    assert [rest for _, *rest in there.values()] == [[1, 1]] * 3
    lines = other_err.splitlines()
    stages = {line.partition("] ")[2].partition(" (")[0].partition(" + ")[0] for line in lines}
    assert stages == {
        f"{name} · {stage}"
        for name in ("one", "two", "three")
        for stage in ("make data", "fit", "save results")
    }
    assert all(line.endswith("left)") for line in lines)
    assert read_results(at_once.results / "one").timings["save results"] > 0


def test_an_error_in_one_process_ends_the_run(tmp_path: Path, checkout: Path) -> None:
    arguments = ("--jobs", "2", "--no-progress", "one", "--wait", "two", "--mode", "refuse")
    run = Run(tmp_path, checkout, *arguments)
    code, out, err = run.end()
    assert (code, out) == (2, "")
    assert err == "probml-tp: error: n must be even; got an odd one. Give another.\n"
    assert os.listdir(run.results) == []
    await_end([process for process, *_ in run.ran().values()], within=WITHIN)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGINT, 130, "interrupted; what was saved before is kept"),
        (signal.SIGTERM, 143, "ended by SIGTERM; what was saved before is kept"),
        (None, 2, "error: processes must live until their work is done; one of 2 was killed"),
    ],
)
def test_signals_and_killed_processes_end_the_run_in_order(
    tmp_path: Path, checkout: Path, number: signal.Signals | None, code: int, message: str
) -> None:
    run = Run(tmp_path, checkout, "--jobs", "2", "--no-progress", "one", "--wait", "two", "--wait")
    workers = run.await_marks(2)
    if number is None:
        os.kill(workers[0], signal.SIGKILL)
    elif number == signal.SIGINT:
        os.killpg(run.process.pid, number)  # as a terminal does
    else:
        run.process.send_signal(number)
    found, out, err = run.end()
    assert (found, out, len(err.strip().splitlines())) == (code, "", 1), err
    assert err.strip().startswith(f"probml-tp: {message}")
    assert os.listdir(run.results) == []
    await_end(workers, within=WITHIN)
