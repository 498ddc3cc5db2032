"""The command with an experiment that waits while it saves its results.

Run as ``python slow_command.py ARGUMENTS``; whatever process waits leaves its number in the folder
that the environment variable MARKS names.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import demo_experiment as demo

from probml_tp import experiments
from probml_tp.cli import main
from probml_tp.harness.experiment import Entry, Registry, Results, option


@dataclass(frozen=True, kw_only=True)
class Config(demo.Config):
    """Options of the demonstration, and where it waits."""

    wait: str = option("here", "Where to wait.", choices=("here", "in-processes", "nowhere"))


def wait() -> None:
    """Leave a mark, and wait to be ended."""
    Path(os.environ["MARKS"], f"waiting-{os.getpid()}").touch()
    time.sleep(300)


def figures(results: Results[Any]) -> Iterator[Any]:
    """Wait in the midst of saving."""
    yield from demo.figures(results)
    if results.config.wait == "in-processes":
        from probml_tp.inference.parallel import run_tasks

        run_tasks([wait, wait], jobs=2, done=print)
    elif results.config.wait == "here":
        wait()


EXPERIMENT = replace(demo.EXPERIMENT, config=Config, figures=figures)

if __name__ == "__main__":
    experiments.EXPERIMENTS = Registry({"demo": Entry("slow_command:EXPERIMENT", "Waits.")})
    main()
