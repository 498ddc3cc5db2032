"""Progress of a run of experiments: one line that says what is running and how long is left.

The time left is foretold from what the stages took in the last recorded run and from the pace so
far. On a terminal the line is a bar; elsewhere each stage prints one plain line as it begins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from probml_tp.harness.experiment import Progress, Update

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Task
    from rich.text import Text

__all__ = ["RunProgress", "Timeline", "show_progress"]

PRIOR_SECONDS = 5.0
"""How long the record is believed before the pace of this machine counts as much."""


class Timeline:
    """Where a run stands, and how long is left of it.

    Args:
        plan: experiment to stage to the seconds expected, in the order of the run.
        clock: seconds that pass; another one in tests.

    Example:
        >>> timeline = Timeline({"demo": {"fit": 30.0, "predict": 10.0}}, clock=lambda: 0.0)
        >>> timeline.enter("demo", "fit")
        >>> timeline.advance(0.5)
        >>> timeline.fraction
        0.375
    """

    def __init__(
        self,
        plan: Mapping[str, Mapping[str, float]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._start = clock()
        self._begins: dict[tuple[str, str], tuple[float, float]] = {}
        total = 0.0
        for experiment, stages in plan.items():
            for stage, seconds in stages.items():
                self._begins[experiment, stage] = total, seconds
                total += seconds
        self._total = total
        self._begin = self._weight = self._share = 0.0

    def enter(self, experiment: str, stage: str) -> None:
        """Begin a stage: all that is planned before it is over.

        A stage that the record does not know takes no time of the plan.

        Args:
            experiment: the experiment's name.
            stage: the stage's name.
        """
        self._begin, self._weight = self._begins.get((experiment, stage), (self._done, 0.0))
        self._share = 0.0

    def advance(self, share: float) -> None:
        """Say how far the stage has got.

        Args:
            share: between 0 and 1; what lies outside is clipped.
        """
        self._share = min(max(share, 0.0), 1.0)

    @property
    def _done(self) -> float:
        return self._begin + self._weight * self._share

    @property
    def fraction(self) -> float:
        """How much of the whole plan is done, between 0 and 1."""
        return min(self._done / self._total, 1.0) if self._total > 0 else 0.0

    @property
    def seconds_left(self) -> float:
        """Seconds that the rest of the plan will take, foretold from the pace so far."""
        elapsed = self._clock() - self._start
        pace = (elapsed + PRIOR_SECONDS) / (self._done + PRIOR_SECONDS)
        return max(self._total - self._done, 0.0) * pace


def words(seconds: float) -> str:
    """Put a time left into words, no more exact than it is known.

    Args:
        seconds: the time left.

    Returns:
        For example "about 3 min left".

    Example:
        >>> words(4), words(44), words(200), words(7300)
        ('a few s left', 'about 40 s left', 'about 3 min left', 'about 2 h 2 min left')
    """
    if seconds < 10:
        return "a few s left"
    if seconds < 90:
        return f"about {round(seconds / 10) * 10} s left"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"about {minutes} min left"
    return f"about {minutes // 60} h {minutes % 60} min left"


Show = Callable[[str, bool], None]
"""Called with the line, and whether a stage begins with it."""


class RunProgress:
    """The progress of a whole run.

    Args:
        timeline: keeps the time.
        show: shows the line.
    """

    def __init__(self, timeline: Timeline, show: Show) -> None:
        self.timeline, self.show = timeline, show

    def experiment(self, name: str) -> Progress:
        """Give the progress that one experiment reports to.

        Args:
            name: the experiment's name, as in the plan.

        Returns:
            Its progress.
        """
        return _ExperimentProgress(name, self)


class _ExperimentProgress:
    def __init__(self, name: str, run: RunProgress) -> None:
        self._name, self._run = name, run

    @contextmanager
    def stage(self, name: str) -> Iterator[Update]:
        timeline, show = self._run.timeline, self._run.show
        timeline.enter(self._name, name)
        show(f"{self._name} · {name}", True)

        def update(done: int, total: int, message: str = "") -> None:
            timeline.advance(done / total if total > 0 else 0.0)
            show(" · ".join(filter(None, (self._name, name, message))), False)

        yield update
        timeline.advance(1.0)
        show(f"{self._name} · {name}", False)


@contextmanager
def show_progress(
    plan: Mapping[str, Mapping[str, float]], *, console: Console, visible: bool = True
) -> Iterator[RunProgress]:
    """Show the progress of a run while the context lasts.

    Args:
        plan: experiment to stage to expected seconds.
        console: where to; a bar if it is a terminal, else a plain line for each stage.
        visible: whether to show anything.

    Yields:
        The progress to hand to each experiment.
    """
    timeline = Timeline(plan)
    if visible and console.is_terminal and not console.is_dumb_terminal:
        with _bar(timeline, console) as show:
            yield RunProgress(timeline, show)
        return

    def line(text: str, begins: bool) -> None:
        if visible and begins:
            left = f"[{timeline.fraction:4.0%}] {text} ({words(timeline.seconds_left)})"
            print(left, file=console.file, flush=True)

    yield RunProgress(timeline, line)


@contextmanager
def _bar(timeline: Timeline, console: Console) -> Iterator[Show]:
    from rich.progress import BarColumn, ProgressColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Column
    from rich.text import Text

    class TimeLeft(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(words(timeline.seconds_left), style="progress.remaining")

    one_line = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    what = TextColumn("{task.description}", markup=False, table_column=one_line)
    columns = (what, BarColumn(bar_width=24), TaskProgressColumn(), TimeLeft())
    with RichProgress(*columns, console=console, transient=True, expand=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda text, _: bar.update(task, description=text, completed=timeline.fraction)
