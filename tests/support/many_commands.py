"""The command with several experiments, two of which share what they fit.

Run as ``python many_commands.py ARGUMENTS``; the folder that the environment variable MARKS names
says which process ran which.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import demo_experiment as demo
import torch

from probml_tp import experiments
from probml_tp.cli import main
from probml_tp.harness.experiment import Entry, Progress, Registry, Results, option
from probml_tp.inference.parallel import number_of_jobs


@dataclass(frozen=True, kw_only=True)
class Config(demo.Config):
    """Options of the demonstration, and whether it waits."""

    wait: bool = option(False, "Whether to wait to be ended.")


def run(name: str, config: Config, progress: Progress) -> Results[demo.Config]:
    """Leave a mark, say how much of the machine there is, and do what the demonstration does."""
    marks = Path(os.environ["MARKS"])
    (marks / name).write_text(f"{os.getpid()} {torch.get_num_threads()} {number_of_jobs(9, 9)}")
    if config.wait:
        (marks / f"waiting-{os.getpid()}").touch()
        time.sleep(300)
    results = demo.run(config, progress)
    results.experiment = name
    return results


def experiment(name: str) -> object:
    return replace(demo.EXPERIMENT, name=name, config=Config, run=partial(run, name))


ONE, TWO, THREE = map(experiment, ("one", "two", "three"))

if __name__ == "__main__":
    experiments.EXPERIMENTS = Registry(
        {
            "one": Entry("many_commands:ONE", "Is first.", shares="nets"),
            "two": Entry("many_commands:TWO", "Is apart."),
            "three": Entry("many_commands:THREE", "Shares with the first.", shares="nets"),
        }
    )
    main()
