"""The command as a process: signals, readers that go away, streams that are full or closed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import slow_command
from marked_command import MarkedCommand, await_end, read

from probml_tp.harness.process import SIGNALS, Ended, as_a_command

LINUX = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads Linux's /proc")
KEPT = "what was saved before is kept"


class Command(MarkedCommand):
    """The slow command."""

    def __init__(self, folder: Path, checkout: Path, *arguments: str, **pipes: object) -> None:
        super().__init__(
            slow_command, folder, checkout, [*arguments, "--results", "results"],
            settings={"OMP_NUM_THREADS": "1"}, **pipes,
        )  # fmt: skip

    def await_importing(self, count: int) -> list[int]:
        """The numbers of its child processes, when so many of them are importing modules."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        while self.process.poll() is None:
            found = [n for task in tasks.iterdir() for n in read(task / "children").split()]
            importing = [n for n in found if "numpy" in read(Path(f"/proc/{n}/maps"))]
            if len(importing) >= count:
                return [int(n) for n in found]
            time.sleep(0.005)
        raise AssertionError(self.process.communicate())


def test_a_hangup_removes_the_staging_folder(tmp_path: Path, checkout: Path) -> None:
    command = Command(tmp_path, checkout, "run", "--no-progress", "demo")
    command.await_marks(1)
    assert list(command.results.glob(".probml-tp-*"))
    command.process.send_signal(signal.SIGHUP)
    code, out, err = command.end()
    assert (code, out, err) == (129, "", f"probml-tp: ended by SIGHUP; {KEPT}\n")
    assert os.listdir(command.results) == []


@LINUX
def test_termination_ends_the_workers_too(tmp_path: Path, checkout: Path) -> None:
    command = Command(tmp_path, checkout, "run", "--no-progress", "demo", "--wait", "in-processes")
    workers = command.await_marks(2)
    command.process.send_signal(signal.SIGTERM)
    code, out, err = command.end()
    assert (code, out, err) == (143, "", f"probml-tp: ended by SIGTERM; {KEPT}\n")
    assert os.listdir(command.results) == []
    await_end(workers)


@LINUX
def test_an_interruption_while_workers_start_prints_one_line(
    tmp_path: Path, checkout: Path
) -> None:
    command = Command(tmp_path, checkout, "run", "--no-progress", "demo", "--wait", "in-processes")
    workers = command.await_importing(2)
    os.killpg(command.process.pid, signal.SIGINT)
    code, out, err = command.end()
    assert (code, out, err.strip()) == (130, "", f"probml-tp: interrupted; {KEPT}")
    assert os.listdir(command.results) == []
    await_end(workers)


@LINUX
def test_workers_end_with_a_killed_command_and_the_next_one_tidies_up(
    tmp_path: Path, checkout: Path
) -> None:
    command = Command(tmp_path, checkout, "run", "--no-progress", "demo", "--wait", "in-processes")
    workers = command.await_marks(2)
    command.process.kill()
    assert command.end()[0] == -signal.SIGKILL
    await_end(workers)
    assert list(command.results.glob(".probml-tp-*"))
    reader, writer = os.pipe()
    os.close(reader)  # as ``| head -1`` does when it has seen enough
    with open(writer, "w") as nobody:
        streams = {"stdout": nobody, "stderr": nobody}
        again = Command(tmp_path, checkout, "run", "demo", "--wait", "nowhere", **streams)
        assert again.end()[0] == 0
    assert sorted(os.listdir(command.results)) == ["demo", "report.html"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no full device")
def test_a_full_standard_output_is_one_line_and_a_full_standard_error_none():
    with open("/dev/full", "w") as out, open("/dev/full", "w") as err, as_a_command_with(out, err):
        say(sys.stderr)
        with pytest.raises(OSError, match="No space left"):
            say(sys.stdout)
        say(sys.stdout)  # dropped from here on


def test_nobody_reading_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as nobody, as_a_command_with(nobody, nobody):
        say(sys.stdout)
        say(sys.stderr)


def test_closed_streams_are_nowhere():
    with as_a_command_with(None, None):
        say(sys.stdout)
        say(sys.stderr)


def say(stream):
    stream.write("x" * 100_000)
    stream.flush()


ONE_TASK = """
import time
from functools import partial
from probml_tp.inference.parallel import run_tasks
run_tasks([partial(time.sleep, 300)], jobs=2, done=print)
"""


@LINUX
def test_workers_without_work_end_with_their_parent_too(checkout: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", ONE_TASK], cwd=checkout)
    tasks = Path(f"/proc/{parent.pid}/task")
    workers: list[str] = []
    while len(workers) < 2:
        assert parent.poll() is None
        children = [n for task in tasks.iterdir() for n in read(task / "children").split()]
        workers = [n for n in children if "LokyProcess" in read(Path(f"/proc/{n}/cmdline"))]
        workers = [n for n in workers if "torch" in read(Path(f"/proc/{n}/maps"))]
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    await_end([int(n) for n in workers])


@contextmanager
def as_a_command_with(out, err):
    """A command with other standard streams."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with as_a_command():
            yield


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_leave_blocks_in_order_unless_they_are_ignored(number):
    handler = signal.getsignal(number)
    left = []
    try:
        block = ExitStack()
        block.callback(left.append, number)
        with pytest.raises(Ended), as_a_command(), block:
            signal.raise_signal(number)
        assert signal.getsignal(number) is handler
        signal.signal(number, signal.SIG_IGN)  # as nohup does
        with as_a_command():
            signal.raise_signal(number)
    finally:
        signal.signal(number, handler)
    assert left == [number]


def test_signals_have_the_exit_codes_of_the_shell() -> None:
    assert [Ended(number).exit_code for number in (signal.SIGTERM, signal.SIGHUP)] == [143, 129]
