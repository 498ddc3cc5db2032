"""What can happen to an attack, and how many tries ended in what: each runs in a forked child."""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

__all__ = ["OUTCOMES", "Tally", "in_children", "judged"]

T = TypeVar("T")

OUTCOMES = {
    "refused": "refused in one line",
    "intact": "right all the same",
    "silent": "**taken silently**",
    "traceback": "**raw traceback**",
    "lost": "**lost**",
}
"""How a try can end: the last three must not happen."""
BAD = ("silent", "traceback", "lost")


@dataclass
class Tally:
    """How the tries of one kind ended.

    Args:
        kind: what was tried.
        counts: outcome to number.
        examples: what the bad ones were.
    """

    kind: str
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    examples: list[str] = field(default_factory=list)

    def add(self, name: object, outcome: str) -> None:
        """Count one try."""
        word = outcome.split(":")[0]
        self.counts[word] += 1
        if word in BAD:
            self.examples.append(f"{name}: {outcome}")

    @property
    def tried(self) -> int:
        """The number of tries."""
        return sum(self.counts.values())

    @property
    def bad(self) -> int:
        """The number of tries that ended as none must."""
        return sum(self.counts[word] for word in BAD)


def judged(read: Callable[[], str], *allowed: str) -> str:
    """What reading comes to: an error of one line, the content it must be, or something else.

    Args:
        read: reads, and returns the content as text.
        allowed: what the content may be.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = read()
    except ValueError as error:
        message = str(error)
        return f"traceback: {message!r}" if "\n" in message else f"refused: {message}"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {error}".replace("\n", " ")[:300]
    return "intact" if content in allowed else "silent: other content"


def in_children(tries: Sequence[T], judge: Callable[[T], str], *, seconds: float = 30) -> list[str]:
    """Judge each try in a forked child, which may crash, hang or be killed.

    Args:
        tries: what to try.
        judge: tries it and returns the outcome.
        seconds: for one try; then it counts as hanging.

    Returns:
        The outcomes in order.
    """
    found: list[str] = []
    while len(found) < len(tries):
        found += _one_child(tries[len(found) :], judge, seconds)
    return found


def _one_child(tries: Sequence[T], judge: Callable[[T], str], seconds: float) -> list[str]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _silence()
        with os.fdopen(writing, "w") as out:
            for one in tries:
                signal.setitimer(signal.ITIMER_REAL, seconds)
                print(json.dumps(judge(one)), file=out, flush=True)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as lines:
        found = [json.loads(line) for line in lines if line.endswith("\n")]
    _, status = os.waitpid(child, 0)
    if len(found) < len(tries):
        found.append(_death(status))
    return found


def _death(status: int) -> str:
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return "lost: it hangs" if name == "SIGALRM" else f"lost: crashed by {name}"
    return f"lost: it ended with {os.waitstatus_to_exitcode(status)}"


def _silence() -> None:
    """Send what a child prints nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)


def table(tallies: Sequence[Tally]) -> str:
    """The outcomes as a Markdown table."""
    heads = ["What was tried", "Tries", *OUTCOMES.values()]
    rows = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    total = Tally("**All**")
    for tally in tallies:
        rows.append([tally.kind, f"{tally.tried:,}", *(f"{n:,}" for n in tally.counts.values())])
        for word, count in tally.counts.items():
            total.counts[word] += count
    rows.append([total.kind, f"{total.tried:,}", *(f"{n:,}" for n in total.counts.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
