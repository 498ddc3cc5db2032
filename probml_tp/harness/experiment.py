"""The contract of an experiment: what it declares, what it is given and what it returns.

An experiment is a module that ends in ``EXPERIMENT = Experiment(...)`` and stands in the registry
of :mod:`probml_tp.experiments`. Its ``run`` computes and returns numbers and arrays; its
``figures`` draws from these alone. Saving, progress, the command line and the report are not its
business.
"""

from __future__ import annotations

import pkgutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from probml_tp.harness.config import SIZES, ExperimentConfig, Option, Size, option
from probml_tp.harness.option_table import read_options
from probml_tp.harness.table import MAIN_TABLE, Table, frame_of

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure as MatplotlibFigure

__all__ = [
    "MAIN_TABLE",
    "SAVING",
    "SIZES",
    "Entry",
    "Experiment",
    "ExperimentConfig",
    "Figure",
    "NullProgress",
    "Option",
    "Progress",
    "Registry",
    "Results",
    "SavedFigure",
    "SavesNetcdf",
    "SavesTensors",
    "SharedStage",
    "Size",
    "Table",
    "Update",
    "no_update",
    "option",
    "run_experiment",
]

SAVING = "save results"
"""The stage in which a run saves, and its time in the record."""

ConfigT = TypeVar("ConfigT", bound=ExperimentConfig)


class Update(Protocol):
    """Tells how far a stage has got."""

    def __call__(self, done: int, total: int, message: str = "") -> None:
        """Report ``done`` of ``total`` steps, with a few words on the step."""


class Progress(Protocol):
    """What an experiment tells about its progress: one stage after the other, never nested."""

    def stage(self, name: str) -> AbstractContextManager[Update]:
        """Enter the stage ``name``."""


class NullProgress:
    """A progress that nobody watches.

    Example:
        >>> with NullProgress().stage("fit") as update:
        ...     update(1, 10, "epoch 1")
    """

    @contextmanager
    def stage(self, name: str) -> Iterator[Update]:
        """Enter a stage.

        Args:
            name: ignored.

        Yields:
            A function that does nothing.
        """
        yield no_update


def no_update(done: int, total: int, message: str = "") -> None:
    """Take a report of progress that nobody watches."""


class SharedStage(str):
    """The name of a stage whose work later experiments of the same run find done.

    Example:
        >>> SharedStage("fit map")
        'fit map'
    """

    __slots__ = ()


class SavesTensors(Protocol):
    """A posterior that saves itself as plain tensors."""

    def save(self, path: Path) -> object:
        """Write ``<path>.safetensors``."""


class SavesNetcdf(Protocol):
    """An ArviZ ``InferenceData``, or anything else that xarray can write as netCDF."""

    def to_datatree(self) -> Any:
        """Give the groups as an ``xarray.DataTree``."""


@dataclass(frozen=True)
class SavedFigure:
    """A figure on disk.

    Attributes:
        name: the file name, without extension.
        title: what the figure shows.
        caption: how to read it.
        path: the PNG file.
    """

    name: str
    title: str
    caption: str
    path: Path


@dataclass
class Results(Generic[ConfigT]):
    """What one run of an experiment has found: numbers, arrays and posteriors, no figures.

    Attributes:
        experiment: the experiment's name.
        title: the heading of its section in the report.
        config: the options of this run.
        main: the first table.
        findings: sentences computed from the numbers, the most important first.
        data_source: which data this was, and where it came from.
        data_is_fallback: whether these data stand in for those that the experiment is meant for.
        arrays: all that the figures need.
        posteriors: file name (a guide's) to posterior; saved as safetensors.
        inference_data: file name (a guide's) to ArviZ record; saved as netCDF.
        timings: stage to seconds; :func:`run_experiment` fills in the stages that are missing.
        shared_stages: the stages whose work later experiments of the same run find done.
        tables: more tables, shown below the first.
        checks: diagnostics of the posteriors, shown below all tables.
        summary: of results that were read: one line on the experiment.
        preset: likewise, which preset it ran with, and what differed.
        environment: likewise, as :func:`probml_tp.environment.describe_environment` gives it.
        figures: likewise, the figures on disk, in the experiment's order.
        folder: likewise, the experiment's own folder.
    """

    experiment: str
    title: str
    config: ConfigT
    main: Table
    findings: list[str]
    data_source: str
    data_is_fallback: bool = False
    arrays: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    posteriors: dict[str, SavesTensors] = field(default_factory=dict)
    inference_data: dict[str, SavesNetcdf] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    shared_stages: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    checks: Table | None = None
    summary: str = ""
    preset: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    figures: tuple[SavedFigure, ...] = ()
    folder: Path | None = None

    @property
    def all_tables(self) -> list[Table]:
        """The main table, those that follow it, and the checks."""
        return [self.main, *self.tables, *([self.checks] if self.checks else [])]

    @property
    def frame(self) -> pd.DataFrame:
        """Every number, one a line: table, row, metric, value, the ends of its interval, unit."""
        return frame_of(self.all_tables)


@dataclass(frozen=True)
class Figure:
    """One figure of the report.

    Attributes:
        name: the file name, without extension.
        title: a sentence that states what the figure shows; also the text for those who
            cannot see it.
        caption: how to read it.
        figure: the Matplotlib figure.
    """

    name: str
    title: str
    caption: str
    figure: MatplotlibFigure


@dataclass(frozen=True)
class Experiment(Generic[ConfigT]):
    """An experiment, as the command line and the report see it.

    Attributes:
        name: as on the command line, for example "linear-regression".
        summary: one line, the same as in the registry.
        config: the dataclass of its options.
        run: computes the results; enters each of its stages once.
        figures: draws from the results alone.
    """

    name: str
    summary: str
    config: type[ConfigT]
    run: Callable[[ConfigT, Progress], Results[ConfigT]]
    figures: Callable[[Results[ConfigT]], Iterable[Figure]]


class _TimedProgress:
    """Passes on to another progress, and keeps the time that each stage took."""

    def __init__(self, inner: Progress) -> None:
        self._inner = inner
        self.seconds: dict[str, float] = {}
        self.shared: list[str] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[Update]:
        start = time.perf_counter()
        with self._inner.stage(name) as update:
            yield update
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        if isinstance(name, SharedStage):
            self.shared.append(str(name))


def run_experiment(
    experiment: Experiment[ConfigT], config: ConfigT, *, progress: Progress | None = None
) -> Results[ConfigT]:
    """Run an experiment and time its stages.

    Args:
        experiment: what to run.
        config: its options.
        progress: who watches; nobody by default.

    Returns:
        What it has found, with the seconds of each stage in ``timings``.

    Raises:
        ValueError: the config belongs to another experiment, or the experiment refuses it.
    """
    if type(config) is not experiment.config:
        raise ValueError(
            f"The config of {experiment.name} must be a {experiment.config.__name__}; "
            f"got a {type(config).__name__}. Make it with EXPERIMENTS['{experiment.name}'].config."
        )
    timed = _TimedProgress(progress or NullProgress())
    results = experiment.run(config, timed)
    results.timings = timed.seconds | results.timings
    results.shared_stages = timed.shared
    return results


@dataclass(frozen=True)
class Entry:
    """Where an experiment is to be found.

    Attributes:
        target: "module:attribute" of its :class:`Experiment`.
        summary: one line on what it shows.
        shares: whose fits it shares: entries that say the same run in one process, so that what
            one of them has done the next one finds.
    """

    target: str
    summary: str
    shares: str | None = None


class Registry(Mapping[str, Experiment[Any]]):
    """Experiments by name, each imported when it is first asked for.

    Example:
        >>> registry = Registry({"demo": Entry("some.module:EXPERIMENT", "Shows the contract.")})
        >>> list(registry), registry.summary("demo")
        (['demo'], 'Shows the contract.')
    """

    def __init__(self, entries: Mapping[str, Entry], options: Path | None = None) -> None:
        """Keep the entries.

        Args:
            entries: name to where the experiment is; in the order of listings and reports.
            options: file of :func:`~probml_tp.harness.option_table.options_as_json`.
        """
        self._entries = dict(entries)
        self._options = options

    def __getitem__(self, name: str) -> Experiment[Any]:
        """Import the experiment ``name``."""
        experiment = pkgutil.resolve_name(self._entries[name].target)
        if not isinstance(experiment, Experiment):
            raise TypeError(f"{self._entries[name].target} must be an Experiment.")
        return experiment

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, importing nothing."""
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        """Look a name up, importing nothing."""
        return name in self._entries

    def __len__(self) -> int:
        """Count the experiments."""
        return len(self._entries)

    def summary(self, name: str) -> str:
        """Say in one line what an experiment shows, without importing it.

        Args:
            name: the experiment's name.

        Returns:
            The line.
        """
        return self._entries[name].summary

    def shares(self, name: str) -> str:
        """Say with which others an experiment shares its fits, without importing it.

        Args:
            name: the experiment's name.

        Returns:
            A word that they have in common; the name of an experiment that shares nothing.
        """
        return self._entries[name].shares or name

    def options(self, name: str) -> tuple[Option, ...]:
        """Give the options of an experiment, without importing it where they are on file.

        Args:
            name: the experiment's name.

        Returns:
            One record an option.
        """
        known = {} if self._options is None else read_options(self._options)
        return known[name] if name in known else self[name].config.options()
