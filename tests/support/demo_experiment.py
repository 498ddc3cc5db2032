"""A small experiment that meets the contract, for the tests of everything around experiments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure as MatplotlibFigure
from safetensors.numpy import save_file

from probml_tp.harness.experiment import (
    MAIN_TABLE,
    Experiment,
    ExperimentConfig,
    Figure,
    Progress,
    Results,
    Table,
    option,
)

GUIDES = ("map", "laplace", "mean-field", "mc-dropout", "nuts")


@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Options of the demonstration."""

    n: int = option(30, "Number of draws.", quick=10, full=1000, minimum=2)
    scale: float = option(1.0, "Standard deviation of the draws.", minimum=0)
    guides: tuple[str, ...] = option(GUIDES[:2], "Rows of the table.", choices=GUIDES, full=GUIDES)
    limit: int | None = option(None, "Most draws to keep.", quick=5, minimum=1)
    noisy: bool = option(False, "Whether to add noise.")
    mode: str = option("fine", "What to do.", choices=("fine", "refuse", "crash", "interrupt"))
    fallback: bool = option(False, "Whether to pretend that the data are fallback data.")


@dataclass(frozen=True, kw_only=True)
class ConfigWithData(Config):
    """The same, reading data from disk."""

    data_root: str | None = option(None, "Folder of the data.")


@dataclass(frozen=True)
class Draws:
    """A stand-in for a posterior: it saves itself as plain tensors."""

    values: np.ndarray

    def save(self, path: Path) -> None:
        save_file({"w": self.values}, f"{path}.safetensors")


def run(config: Config, progress: Progress) -> Results[Config]:
    with progress.stage("make data"):
        rng = np.random.default_rng(config.seed)
        draws = {guide: rng.normal(0, config.scale, size=config.n) for guide in config.guides}
    with progress.stage("fit") as update:
        for step in range(3):
            update(step + 1, 3, f"epoch {step + 1}")
        misbehave(config)
    source = "digits rendered from fonts; MNIST could not be had" if config.fallback else "rng"
    return Results(
        experiment="demo",
        title="A demonstration",
        config=config,
        main=Table(
            MAIN_TABLE,
            "Posterior",
            {guide: {"mean": x.mean(), "sd": x.std()} for guide, x in draws.items()},
            {"mean": "Mean (m)", "sd": "Standard deviation (m) ↓"},
        ),
        findings=[f"The mean of {config.n} draws is {draws[config.guides[0]].mean():.2f} m."],
        data_source=source,
        data_is_fallback=config.fallback,
        arrays=draws,
        posteriors={guide: Draws(x) for guide, x in draws.items()},
    )


def misbehave(config: Config) -> None:
    if config.mode == "refuse":
        raise ValueError("n must be even;\ngot an odd one. Give another.")
    if config.mode == "crash":
        raise RuntimeError("a bug")
    if config.mode == "interrupt":
        raise KeyboardInterrupt


def figures(results: Results[Config]) -> Iterator[Figure]:
    figure = MatplotlibFigure(figsize=(4, 3), layout="constrained")
    axes = figure.subplots()
    axes.hist(list(results.arrays.values()), label=list(results.arrays))
    axes.legend()
    yield Figure("draws", "The draws spread evenly", "A histogram for each guide.", figure)


EXPERIMENT = Experiment(
    name="demo",
    summary="Shows the contract.",
    config=Config,
    run=run,
    figures=figures,
)

WITH_DATA = Experiment(
    name="demo-data",
    summary="Shows the contract, with data.",
    config=ConfigWithData,
    run=lambda config, progress: rename(run(config, progress)),
    figures=figures,
)


def rename(results: Results[Config]) -> Results[Config]:
    results.experiment = "demo-data"
    results.title = f"A demonstration with data from {results.config.to_dict()['data_root']}"
    return results
