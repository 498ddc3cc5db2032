"""The one line that says what is running and how long is left."""

from __future__ import annotations

import io

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
    timeline.advance(0.5)
    clock.now = 15.0
    assert timeline.fraction == pytest.approx(0.15)
    assert timeline.seconds_left == pytest.approx(85.0)
    clock.now = 35.0  # twice as slow, the first 5 seconds counting as expected
    assert timeline.seconds_left == pytest.approx(170.0)
    timeline.enter("two", "fit")
    timeline.advance(0.5)
    assert timeline.fraction == pytest.approx(0.7)
    timeline.advance(7.0)
    assert timeline.fraction == 1.0


def test_what_is_skipped_or_unknown_is_over_or_takes_no_time_of_the_plan():
    timeline = Timeline(PLAN, clock=lambda: 0.0)
    timeline.enter("two", "fit")
    assert timeline.fraction == pytest.approx(0.4)
    timeline.advance(0.5)
    timeline.enter("two", "unknown")
    timeline.advance(1.0)
    assert timeline.fraction == pytest.approx(0.7)


def run_plan(console: Console, *, visible: bool = True) -> str:
    with show_progress(PLAN, console=console, visible=visible) as progress:
        for experiment, stages in PLAN.items():
            for name in stages:
                with progress.experiment(experiment).stage(name) as update:
                    update(1, 2, "epoch [1/2]")
                    update(0, 0)
    return console.file.getvalue()


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
    with show_progress(PLAN, console=console) as progress:
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
