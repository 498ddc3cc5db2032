"""Progress of a run of experiments: one line that says what is running and how long is left.

The time left is foretold from the weights of the stages (their expected seconds on 2 cores) and
the pace so far, elapsed seconds over finished weight. On a terminal the line is a bar; elsewhere
each stage prints one plain line as it begins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from probml_tp.harness.experiment import Progress, SharedStage, Update

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Task
    from rich.text import Text

__all__ = ["Plan", "RunProgress", "Timeline", "show_progress", "without_repeats"]

Plan = Mapping[str, Mapping[str, float]]

PRIOR_SECONDS = 5.0
"""How long the weights are believed before the pace of this machine counts as much."""


def without_repeats(plan: Plan) -> dict[str, dict[str, float]]:
    """Let work that several experiments share cost its time in the first of them only.

    Args:
        plan: experiment to stage to expected seconds, in the order of the run.

    Returns:
        The same, with the repeated ones among the :class:`SharedStage` stages at no cost.

    Example:
        >>> fit = SharedStage("fit", key="net")
        >>> without_repeats({"one": {fit: 9.0}, "two": {fit: 9.0, "predict": 1.0}})
        {'one': {'fit': 9.0}, 'two': {'fit': 0.0, 'predict': 1.0}}
    """
    met: set[tuple[str, Hashable]] = set()
    thinned: dict[str, dict[str, float]] = {}
    for experiment, stages in plan.items():
        thinned[experiment] = {}
        for stage, seconds in stages.items():
            key = (str(stage), stage.key) if isinstance(stage, SharedStage) else None
            thinned[experiment][stage] = 0.0 if key in met else seconds
            if key is not None:
                met.add(key)
    return thinned


class Timeline:
    """Where a run stands, and how long is left of it.

    Args:
        plan: experiment to stage to weight, the expected seconds.
        clock: seconds that pass; another one in tests.

    Example:
        >>> timeline = Timeline({"demo": {"fit": 30.0, "predict": 10.0}}, clock=lambda: 0.0)
        >>> timeline.enter("demo", "fit")
        >>> timeline.advance(0.5)
        >>> timeline.fraction
        0.375
    """

    def __init__(self, plan: Plan, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._plan = plan
        self._clock = clock
        self._start = clock()
        self._total = sum(sum(stages.values()) for stages in plan.values())
        self._finished = 0.0
        self._stage_weight = 0.0
        self._stage_fraction = 0.0

    def enter(self, experiment: str, stage: str) -> None:
        """Begin a stage.

        Args:
            experiment: the experiment's name.
            stage: the stage's name.

        Raises:
            ValueError: the plan does not know the stage.
        """
        stages = self._plan[experiment]
        if stage not in stages:
            raise ValueError(
                f"A stage of {experiment} must be one that its plan lists; got {stage!r}. "
                f"Add it to the experiment's stages(); known are: {', '.join(stages)}."
            )
        self._stage_weight = stages[stage]
        self._stage_fraction = 0.0

    def advance(self, fraction: float) -> None:
        """Say how far the stage has got.

        Args:
            fraction: between 0 and 1; what lies outside is clipped.
        """
        self._stage_fraction = min(max(fraction, 0.0), 1.0)

    def leave(self) -> None:
        """End the stage."""
        self._finished += self._stage_weight
        self._stage_weight = 0.0

    @property
    def _done(self) -> float:
        return self._finished + self._stage_weight * self._stage_fraction

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


class Display(Protocol):
    """Where the one line is shown."""

    def begin(self, line: str) -> None:
        """Show that a stage begins."""

    def refresh(self, line: str) -> None:
        """Show how far it has got."""


class RunProgress:
    """The progress of a whole run.

    Args:
        timeline: keeps the time.
        display: shows the line.
    """

    def __init__(self, timeline: Timeline, display: Display) -> None:
        self._timeline = timeline
        self._display = display

    def experiment(self, name: str) -> Progress:
        """Give the progress that one experiment reports to.

        Args:
            name: the experiment's name, as in the plan.

        Returns:
            Its progress.
        """
        return _ExperimentProgress(name, self._timeline, self._display)


class _ExperimentProgress:
    def __init__(self, name: str, timeline: Timeline, display: Display) -> None:
        self._name = name
        self._timeline = timeline
        self._display = display

    @contextmanager
    def stage(self, name: str) -> Iterator[Update]:
        self._timeline.enter(self._name, name)
        self._display.begin(f"{self._name} · {name}")

        def update(done: int, total: int, message: str = "") -> None:
            self._timeline.advance(done / total if total > 0 else 0.0)
            self._display.refresh(" · ".join(filter(None, (self._name, name, message))))

        yield update
        self._timeline.leave()
        self._display.refresh(f"{self._name} · {name}")


class _Silent:
    def begin(self, line: str) -> None:
        pass

    def refresh(self, line: str) -> None:
        pass


class _PlainLines:
    def __init__(self, timeline: Timeline, write: Callable[[str], None]) -> None:
        self._timeline = timeline
        self._write = write

    def begin(self, line: str) -> None:
        left = words(self._timeline.seconds_left)
        self._write(f"[{self._timeline.fraction:4.0%}] {line} ({left})")

    def refresh(self, line: str) -> None:
        pass


@contextmanager
def _plain(timeline: Timeline, console: Console) -> Iterator[RunProgress]:
    def write(line: str) -> None:
        print(line, file=console.file, flush=True)

    yield RunProgress(timeline, _PlainLines(timeline, write))


@contextmanager
def _bar(timeline: Timeline, console: Console) -> Iterator[RunProgress]:
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

        class Line:
            def begin(self, line: str) -> None:
                self.refresh(line)

            def refresh(self, line: str) -> None:
                bar.update(task, description=line, completed=timeline.fraction)

        yield RunProgress(timeline, Line())


@contextmanager
def _silent(timeline: Timeline) -> Iterator[RunProgress]:
    yield RunProgress(timeline, _Silent())


def show_progress(
    plan: Plan, *, console: Console, visible: bool = True
) -> AbstractContextManager[RunProgress]:
    """Show the progress of a run while the context lasts.

    Args:
        plan: experiment to stage to expected seconds.
        console: where to; a bar if it is a terminal, else a plain line for each stage.
        visible: whether to show anything.

    Returns:
        A context that gives the progress to hand to each experiment.
    """
    timeline = Timeline(plan)
    if not visible:
        return _silent(timeline)
    if console.is_terminal and not console.is_dumb_terminal:
        return _bar(timeline, console)
    return _plain(timeline, console)
