"""A command as a process, whose own processes leave marks of what they do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

PATIENCE = 120
"""Seconds, on a machine that is busy: a worker that is importing modules ends when it has done so.

Less than a task of these tests lasts: none ends because its work is done.
"""


class MarkedCommand:
    """A script of this folder in a process group of its own, in an empty folder.

    Args:
        script: the module; the variable MARKS names it the folder of marks.
        folder: where it runs.
        checkout: whose modules it imports.
        arguments: of the script.
        python: arguments of the interpreter.
        settings: more variables of its environment.
        pipes: its streams, if they are others than pipes.
    """

    def __init__(
        self,
        script: ModuleType,
        folder: Path,
        checkout: Path,
        arguments: Sequence[str],
        *,
        python: Sequence[str] = (),
        settings: dict[str, str] | None = None,
        **pipes: object,
    ) -> None:
        file = str(script.__file__)
        path = os.pathsep.join([str(checkout), str(Path(file).parent)])
        self.marks, self.results = folder / "marks", folder / "results"
        self.marks.mkdir(parents=True, exist_ok=True)
        own = {"PYTHONPATH": path, "MARKS": str(self.marks), **(settings or {})}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | pipes
        self.process = subprocess.Popen(
            [sys.executable, *python, file, *arguments], cwd=folder, env=os.environ | own,
            text=True, start_new_session=True, **streams,
        )  # type: ignore[call-overload]  # fmt: skip

    def await_marks(self, count: int) -> list[int]:
        """The numbers of the processes that wait, when there are so many."""
        while self.process.poll() is None:
            found = [int(path.name.split("-")[1]) for path in self.marks.glob("waiting-*")]
            if len(found) == count:
                return found
            time.sleep(0.01)
        raise AssertionError(self.process.communicate())

    def end(self) -> tuple[int, str, str]:
        """The exit code, and what was written to both streams."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


def read(path: Path) -> str:
    """A file of /proc; nothing once the process is gone."""
    try:
        return path.read_text()
    except OSError:
        return ""


def is_alive(number: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    return read(Path(f"/proc/{number}/stat")).rpartition(")")[2].split()[:1] not in ([], ["Z"])


def await_end(numbers: Sequence[int], *, within: float = PATIENCE) -> None:
    """Return when none of the processes is alive any more; fail if they stay."""
    until = time.monotonic() + within
    while any(map(is_alive, numbers)):
        assert time.monotonic() < until, "processes stay alive"
        time.sleep(0.01)
