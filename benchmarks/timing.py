"""Contenders timed side by side: interleaved rounds, medians, ratios within a round."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Comparison", "Contender", "added_mib", "compare", "fresh_process_mib", "markdown"]


@dataclass(frozen=True)
class Contender:
    """Something to time.

    Args:
        name: what the table calls it.
        run: does ``units`` units of work.
        units: how many; times are reported per unit.
    """

    name: str
    run: Callable[[], object]
    units: int = 1


@dataclass(frozen=True)
class Comparison:
    """Seconds per unit of each contender, round by round; the first contender is ours.

    Args:
        task: what was timed.
        seconds: by contender, one entry a round.
    """

    task: str
    seconds: dict[str, list[float]]

    @property
    def ours(self) -> str:
        """The name of the first contender."""
        return next(iter(self.seconds))

    def median(self, name: str) -> float:
        """The median over rounds, in seconds."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str) -> float:
        """Our time over the contender's: the median of the ratios within each round."""
        pairs = zip(self.seconds[self.ours], self.seconds[name], strict=True)
        return statistics.median(mine / other for mine, other in pairs)

    def fastest(self, names: Iterable[str]) -> str:
        """Which of the contenders has the lowest median."""
        return min(names, key=self.median)


def compare(
    task: str, contenders: Sequence[Contender], *, rounds: int, steps: int, warmup: int = 1
) -> Comparison:
    """Time contenders in rounds A B C, B C A, C A B, ..., so that drifts hit all alike.

    Args:
        task: what is timed.
        contenders: ours first.
        rounds: how often each is timed.
        steps: runs a round.
        warmup: runs before the first round.
    """
    seconds: dict[str, list[float]] = {c.name: [] for c in contenders}
    for contender in contenders:
        for _ in range(warmup):
            contender.run()
    for turn in range(rounds):
        first = turn % len(contenders)
        for contender in (*contenders[first:], *contenders[:first]):
            start = time.perf_counter()
            for _ in range(steps):
                contender.run()
            elapsed = time.perf_counter() - start
            seconds[contender.name].append(elapsed / (steps * contender.units))
    return Comparison(task, seconds)


def markdown(comparisons: Iterable[Comparison]) -> str:
    """A table of all comparisons, times in milliseconds."""
    lines = [
        "| Task | Contender | Median (ms) | Min–max (ms) | Ours ÷ this |",
        "|---|---|--:|--:|--:|",
    ]
    for comparison in comparisons:
        task = comparison.task
        for name, seconds in comparison.seconds.items():
            median, low, high = (
                f"{1e3 * v:.4g}" for v in (comparison.median(name), min(seconds), max(seconds))
            )
            ratio = f"{comparison.ratio(name):.2f}"
            lines.append(f"| {task} | {name} | {median} | {low}–{high} | {ratio} |")
            task = ""
    return "\n".join(lines)


def added_mib(run: Callable[[], object]) -> float:
    """How far a call raises the process's resident memory at its peak, in MiB.

    Linux forgets earlier peaks when asked to. Elsewhere the earlier peak is what counts as the
    start, so that a call that stays below it seems to need nothing.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    before = _peak_mib()
    run()
    return _peak_mib() - before


def fresh_process_mib(script: Path, arguments: Sequence[str]) -> float:
    """The number of MiB that a script prints last when run with arguments that ask for it."""
    command = [sys.executable, str(script), *arguments]
    child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(child.stdout.split()[-1])


def _peak_mib() -> float:
    """Peak resident memory; not ``ru_maxrss`` on Linux, where a child's starts at its parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text("utf-8").splitlines())
        return int(fields["VmHWM"].split()[0]) / 2**10
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
