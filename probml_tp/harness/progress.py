"""Progress of a run of experiments: one line that says what is running and how long is left.

The time left is foretold from what the stages took in the last recorded run and from the pace so
far. On a terminal the line is a bar; elsewhere each stage prints one plain line as it begins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from heapq import heapify, heapreplace
from typing import TYPE_CHECKING

from probml_tp.harness.experiment import Progress, Update

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Task
    from rich.text import Text

__all__ = ["Plan", "RunProgress", "Timeline", "ToldProgress", "show_progress"]

PRIOR_SECONDS = 5.0
"""How long the record is believed before the pace of this machine counts as much."""

BEFORE_ITS_END = 0.999
"""The most that is done of a stage before it ends."""

Plan = Mapping[str, Mapping[str, float]]
"""Experiment to stage to the seconds expected."""


class _Track:
    """Experiments one after the other: which of their stages runs, and what is left of them."""

    def __init__(self, plan: Plan) -> None:
        self._begins: dict[tuple[str, str], tuple[float, float]] = {}
        self.total = 0.0
        for experiment, stages in plan.items():
            for stage, seconds in stages.items():
                self._begins[experiment, stage] = self.total, seconds
                self.total += seconds
        self._begin = self._weight = self._share = self._entered = 0.0
        self._ended: float | None = None
        self.runs = False

    def enter(self, experiment: str, stage: str, now: float) -> None:
        """Begin a stage: all that is planned before it is over."""
        self._begin, self._weight = self._begins.get((experiment, stage), (self.reported, 0.0))
        self._share, self._entered, self._ended, self.runs = 0.0, now, None, True

    def advance(self, share: float, now: float) -> None:
        """Take how far the stage has got."""
        self._share = min(max(share, 0.0), 1.0)
        self._ended = now if self._share == 1.0 else None

    @property
    def reported(self) -> float:
        """The seconds of the plan that are done, by what was reported."""
        return self._begin + self._weight * self._share

    @property
    def over(self) -> bool:
        """Whether the last stage has ended."""
        return self._ended is not None and self.reported >= self.total

    def spent(self, now: float) -> tuple[float, float]:
        """Seconds spent in the stage, and those of the plan for what is reported of it."""
        expected = self._weight * self._share
        until = now if self._ended is None else self._ended
        return (until - self._entered, expected) if expected > 0 else (0.0, 0.0)

    def left(self, now: float, pace: float) -> float:
        """The seconds of the plan that are left; a stage that reports nothing goes as planned."""
        if not self.runs:
            return self.total
        unreported = self._weight if self._share == 0 else 0.0
        done = min((now - self._entered) / pace, unreported)
        return max(self.total - self.reported - done, 0.0)


class Timeline:
    """Where a run stands, and how long is left of it.

    Tracks of experiments are shared out among processes in their order, each to the first process
    that is free; the time left is that of the last process to end, at the pace so far.

    Args:
        plan: experiment to stage to the seconds expected, in the order of the run.
        tracks: the experiments that run one after the other; all by default.
        jobs: the tracks that run at once.
        start: the seconds that a process takes before its first stage.
        clock: seconds that pass; another one in tests.

    Example:
        >>> timeline = Timeline({"demo": {"fit": 30.0, "predict": 10.0}}, clock=lambda: 0.0)
        >>> timeline.enter("demo", "fit")
        >>> timeline.advance("demo", 0.5)
        >>> timeline.fraction
        0.375
    """

    def __init__(
        self,
        plan: Plan,
        *,
        tracks: Sequence[Sequence[str]] | None = None,
        jobs: int = 1,
        start: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._jobs = clock, jobs
        self._starts = clock() + start
        names = [list(plan)] if tracks is None else tracks
        self._tracks = [_Track({name: plan[name] for name in of}) for of in names]
        self._track_of = {name: t for t, of in zip(self._tracks, names, strict=True) for name in of}
        self._spent = self._expected = 0.0

    def enter(self, experiment: str, stage: str) -> None:
        """Begin a stage: all that is planned before it in its track is over.

        A stage that the record does not know takes no time of the plan.

        Args:
            experiment: the experiment's name.
            stage: the stage's name.
        """
        now, track = self._clock(), self._track_of[experiment]
        spent, expected = track.spent(now)
        self._spent, self._expected = self._spent + spent, self._expected + expected
        track.enter(experiment, stage, now)

    def advance(self, experiment: str, share: float) -> None:
        """Say how far the stage of an experiment has got.

        Args:
            experiment: the experiment's name.
            share: between 0 and 1; what lies outside is clipped.
        """
        self._track_of[experiment].advance(share, self._clock())

    @property
    def fraction(self) -> float:
        """How much of the whole plan is done, between 0 and 1."""
        total = sum(track.total for track in self._tracks)
        done = sum(track.reported for track in self._tracks)
        return min(done / total, 1.0) if total > 0 else 0.0

    @property
    def seconds_left(self) -> float:
        """Seconds that the rest of the plan will take, foretold from the pace so far."""
        now, pace = self._clock(), self._pace()
        left = [track.left(now, pace) * pace for track in self._tracks]
        running = [t for t, track in enumerate(self._tracks) if track.runs and not track.over]
        free = [left[t] for t in running][: self._jobs]
        free += [max(self._starts - now, 0.0)] * (self._jobs - len(free))
        heapify(free)
        for seconds, track in zip(left, self._tracks, strict=True):
            if not track.runs:
                heapreplace(free, free[0] + seconds)
        return max(free) if any(left) else 0.0

    def _pace(self) -> float:
        """Seconds that pass for one of the plan; only stages that the plan knows tell."""
        now = self._clock()
        running = [track.spent(now) for track in self._tracks]
        spent = self._spent + sum(seconds for seconds, _ in running)
        expected = self._expected + sum(seconds for _, seconds in running)
        return (spent + PRIOR_SECONDS) / (expected + PRIOR_SECONDS)


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
        self._running: set[str] = set()

    def experiment(self, name: str) -> Progress:
        """Give the progress that one experiment of this process reports to.

        Args:
            name: the experiment's name, as in the plan.

        Returns:
            Its progress.
        """
        return ToldProgress(partial(self.take, name))

    def take(self, experiment: str, stage: str, share: float | None, message: str) -> None:
        """Take what an experiment tells of its progress.

        Args:
            experiment: its name.
            stage: that which it is in.
            share: how much of it is done; ``None`` as it begins.
            message: a few words on the step.
        """
        if share is None:
            self.timeline.enter(experiment, stage)
        else:
            self.timeline.advance(experiment, share)
        self._running.add(experiment)
        others = len(self._running) - 1
        if share == 1.0:
            self._running.remove(experiment)
        text = " · ".join(filter(None, (experiment, stage, message)))
        self.show(f"{text} + {others} more" if others else text, share is None)


Tell = Callable[[str, float | None, str], None]
"""Called with the stage, how much of it is done (``None`` as it begins), and a few words."""


class ToldProgress:
    """A progress that tells each step to someone.

    Args:
        tell: who.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    @contextmanager
    def stage(self, name: str) -> Iterator[Update]:
        """Enter a stage.

        Args:
            name: what it is called.

        Yields:
            What takes how far it has got.
        """
        self._tell(name, None, "")

        def update(done: int, total: int, message: str = "") -> None:
            share = done / total if total > 0 else 0.0
            self._tell(name, min(share, BEFORE_ITS_END), message)

        yield update
        self._tell(name, 1.0, "")


@contextmanager
def show_progress(
    timeline: Timeline, *, console: Console, visible: bool = True
) -> Iterator[RunProgress]:
    """Show the progress of a run while the context lasts.

    Args:
        timeline: of the run.
        console: where to; a bar if it is a terminal, else a plain line for each stage.
        visible: whether to show anything.

    Yields:
        The progress to hand to each experiment.
    """
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
