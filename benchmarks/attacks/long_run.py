"""A run of an experiment that computes in two workers and does not end by itself.

python -m attacks.long_run FOLDER
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch

from attacks.subjects import data, regressor
from probml_tp import experiments, sample_nuts
from probml_tp.cli import main
from probml_tp.harness.experiment import (
    Entry,
    Experiment,
    ExperimentConfig,
    Progress,
    Registry,
    Results,
)
from probml_tp.harness.results import staging


@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """No options of its own."""


def run(config: Config, progress: Progress) -> Results[Config]:
    """Sample in two workers, with a folder half written."""
    from pathlib import Path

    folder = Path(sys.argv[-1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    with staging(folder), progress.stage("sample"):
        while True:
            sample_nuts(
                regressor(), data(), draws=100_000, warmup=100_000, chains=2, jobs=2,
                seed=config.seed, progress=False,
            )  # fmt: skip


EXPERIMENT = Experiment(
    name="long-run",
    summary="Computes until it is stopped.",
    config=Config,
    run=run,
    figures=lambda results: (),
)

if __name__ == "__main__":
    entry = Entry("attacks.long_run:EXPERIMENT", "Computes until it is stopped.")
    experiments.EXPERIMENTS = Registry({"long-run": entry})
    sys.argv[1:] = ["run", "long-run", "--results", sys.argv[-1]]
    main()
