"""The one line that says what is running and how long is left."""

from __future__ import annotations

import heapq
import io
import random

import pytest
from rich.console import Console

from probml_tp.harness.progress import Timeline, show_progress

PLAN = {"one": {"fit": 30.0, "predict": 10.0}, "two": {"fit": 60.0}}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_fraction_and_time_left_follow_the_weights_and_the_pace():
    clock = Clock()
    timeline = Timeline(PLAN, clock=clock)
    assert (timeline.fraction, timeline.seconds_left) == (0.0, 100.0)
    timeline.enter("one", "fit")
    timeline.advance("one", 0.5)
    clock.now = 15.0
    assert timeline.fraction == pytest.approx(0.15)
    assert timeline.seconds_left == pytest.approx(85.0)
    clock.now = 35.0  # twice as slow, the first 5 seconds counting as expected
    assert timeline.seconds_left == pytest.approx(170.0)
    timeline.enter("two", "fit")
    timeline.advance("two", 0.5)
    assert timeline.fraction == pytest.approx(0.7)
    timeline.advance("two", 7.0)
    assert timeline.fraction == 1.0
    assert timeline.seconds_left == 0.0


def test_what_is_skipped_or_unknown_is_over_or_takes_no_time_of_the_plan():
    timeline = Timeline(PLAN, clock=lambda: 0.0)
    timeline.enter("two", "fit")
    assert timeline.fraction == pytest.approx(0.4)
    timeline.advance("two", 0.5)
    timeline.enter("two", "unknown")
    timeline.advance("two", 1.0)
    assert timeline.fraction == pytest.approx(0.7)


def test_stages_that_report_nothing_go_as_planned_and_unknown_ones_tell_nothing_of_the_pace():
    clock = Clock()
    timeline = Timeline(PLAN, clock=clock)
    timeline.enter("one", "unknown")
    clock.now = 50.0
    assert timeline.seconds_left == pytest.approx(100.0)
    timeline.enter("one", "fit")
    clock.now = 70.0
    assert timeline.seconds_left == pytest.approx(80.0)
    clock.now = 95.0  # longer than planned: what follows is left
    assert timeline.seconds_left == pytest.approx(70.0)


def test_tracks_are_shared_out_among_the_processes():
    clock = Clock()
    plan = {"a": {"fit": 50.0}, "b": {"fit": 30.0}, "c": {"fit": 30.0}, "d": {"fit": 10.0}}
    tracks = [["a"], ["b", "c"], ["d"]]  # the first two at once, the third after a
    assert Timeline(plan, tracks=tracks, clock=clock).seconds_left == pytest.approx(120.0)
    timeline = Timeline(plan, tracks=tracks, jobs=2, start=4.0, clock=clock)
    assert timeline.seconds_left == pytest.approx(64.0)
    clock.now = 4.0
    assert timeline.seconds_left == pytest.approx(60.0)
    timeline.enter("a", "fit")
    timeline.enter("b", "fit")
    clock.now = 34.0
    timeline.advance("b", 1.0)
    timeline.enter("c", "fit")
    timeline.advance("a", 0.6)
    assert timeline.fraction == pytest.approx(0.5)
    assert timeline.seconds_left == pytest.approx(30.0)
    clock.now = 54.0
    timeline.advance("a", 1.0)
    timeline.enter("d", "fit")
    clock.now = 64.0
    timeline.advance("d", 1.0)
    timeline.advance("c", 1.0)
    clock.now = 100.0
    assert (timeline.fraction, timeline.seconds_left) == (1.0, 0.0)


@pytest.mark.parametrize("pace", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_the_time_left_is_right_within_a_fifth_from_a_tenth_of_the_run_on(pace, jobs):
    """A run at another pace than the record's, stages of which vary by a fifth about it."""
    rng, clock = random.Random(jobs), Clock()
    plan = {f"{e}": {f"{s}": rng.uniform(1, 20) for s in range(8)} for e in range(9)}
    truth = {
        e: {s: x * pace * rng.uniform(0.8, 1.2) for s, x in of.items()} for e, of in plan.items()
    }
    tracks = sorted(([e] for e in plan), key=lambda of: -sum(plan[of[0]].values()))
    timeline = Timeline(plan, tracks=tracks, jobs=jobs, clock=clock)
    free, events = [0.0] * jobs, []
    for (experiment,) in tracks:
        now = heapq.heappop(free)
        for stage, seconds in truth[experiment].items():
            events.append((now, "enter", experiment, stage))
            now += seconds
            events.append((now, "advance", experiment, 1.0))
        heapq.heappush(free, now)
    events.sort(key=lambda event: event[0])
    end, asked = max(free), [0.1, 0.3, 0.5, 0.8]
    for now, what, *arguments in events:
        if asked and now >= asked[0] * end:
            clock.now = asked.pop(0) * end
            left = end - clock.now
            assert timeline.seconds_left == pytest.approx(left, rel=0.2, abs=0.05 * end)
        clock.now = now
        getattr(timeline, what)(*arguments)
    assert not asked


def run_plan(console: Console, *, visible: bool = True) -> str:
    timeline = Timeline(PLAN)
    with show_progress(timeline, console=console, visible=visible) as progress:
        for experiment, stages in PLAN.items():
            for name in stages:
                with progress.experiment(experiment).stage(name) as update:
                    update(1, 2, "epoch [1/2]")
                    update(0, 0)
    return console.file.getvalue()


def test_the_line_says_how_many_others_run():
    console = Console(file=io.StringIO(), force_terminal=False)
    timeline = Timeline(PLAN, tracks=[["one"], ["two"]], jobs=2)
    with show_progress(timeline, console=console) as progress:
        one, two = map(progress.experiment, PLAN)
        with one.stage("fit"), two.stage("fit"):
            pass
        with one.stage("predict"):
            pass
    lines = [line.partition(" (")[0][7:] for line in console.file.getvalue().splitlines()]
    assert lines == ["one · fit", "two · fit + 1 more", "one · predict"]


def test_without_a_terminal_each_stage_is_one_plain_line():
    text = run_plan(Console(file=io.StringIO(), force_terminal=False, width=20))
    starts = [line.partition(" (")[0] for line in text.splitlines()]
    assert starts == ["[  0%] one · fit", "[ 30%] one · predict", "[ 40%] two · fit"]
    assert all(line.endswith("left)") for line in text.splitlines())
    assert "\x1b" not in text


def test_a_dumb_terminal_gets_plain_lines():
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    assert "\x1b" not in run_plan(console)


def test_on_a_terminal_there_is_one_bar():
    environment = {"TERM": "xterm-256color"}
    console = Console(
        file=io.StringIO(), force_terminal=True, width=100, no_color=True, _environ=environment
    )
    with show_progress(Timeline(PLAN), console=console) as progress:
        with progress.experiment("one").stage("fit") as update:
            update(1, 2, "epoch [1/2]")
        with progress.experiment("one").stage("predict"):
            pass
    text = console.file.getvalue()
    assert "one · predict" in text
    assert "40%" in text
    assert "left" in text


def test_nothing_is_shown_when_it_is_switched_off():
    console = Console(file=io.StringIO(), force_terminal=True)
    assert run_plan(console, visible=False) == ""
