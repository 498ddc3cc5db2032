"""Results on disk: one folder an experiment, written whole or not at all.

<folder>/<experiment>/
    config.json         the resolved options
    environment.json    versions, platform, date, commit
    metrics.json        row -> metric -> value
    manifest.json       title, columns, findings, data source, timings, figures
    arrays.npz          all that the figures need
    figures/<name>.png
    posteriors/<name>.safetensors, <name>.nc
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probml_tp.environment import describe_environment
from probml_tp.experiment import Table

if TYPE_CHECKING:
    from probml_tp.experiment import Experiment, Figure, Results

__all__ = [
    "MAIN_TABLE",
    "SavedFigure",
    "SavedResults",
    "check_file_name",
    "read_results",
    "require_writable",
    "saved_experiments",
    "staging",
    "write_results",
]

FORMAT = 2
DPI = 150
MANIFEST = "manifest.json"
MAIN_TABLE = "Metrics"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


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


@dataclass(frozen=True)
class SavedResults:
    """What a results folder holds, less the arrays and posteriors.

    Attributes:
        folder: the experiment's folder.
        experiment: the experiment's name.
        title: its heading.
        summary: one line on it.
        preset: which preset it ran with, and what differed.
        config: option to value.
        environment: as :func:`probml_tp.environment.describe_environment` gives it.
        metrics: row to metric to value.
        columns: metric to heading.
        findings: sentences.
        data_source: which data it was.
        data_is_fallback: whether they stand in for the data meant.
        timings: stage to seconds.
        figures: the figures, in the experiment's order.
        intervals: row to metric to the two ends of its interval.
        row_heading: what the rows of the metrics are.
        tables: more tables.
    """

    folder: Path
    experiment: str
    title: str
    summary: str
    preset: str
    config: dict[str, Any]
    environment: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    columns: dict[str, str]
    findings: list[str]
    data_source: str
    data_is_fallback: bool
    timings: dict[str, float]
    figures: tuple[SavedFigure, ...]
    intervals: dict[str, dict[str, tuple[float, float]]]
    row_heading: str
    tables: tuple[Table, ...]

    @property
    def all_tables(self) -> tuple[Table, ...]:
        """The metrics as a table, and those that follow it."""
        main = Table(MAIN_TABLE, self.row_heading, self.metrics, self.columns, self.intervals)
        return (main, *self.tables)

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Load the arrays that the figures were drawn from.

        Returns:
            Name to array.
        """
        with np.load(self.folder / "arrays.npz", allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}


def require_writable(folder: Path) -> None:
    """Make the folder where it is missing, and check that files can be written there.

    Args:
        folder: where results are to go.

    Raises:
        ValueError: nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with staging(folder):
            pass
    except OSError as error:
        raise ValueError(
            f"The results folder must be writable; got {folder} ({error.strerror}). "
            "Choose another folder (on the command line: --results)."
        ) from error


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Give a temporary folder inside ``folder``, on the same file system.

    Args:
        folder: an existing folder.

    Yields:
        The temporary folder; it and what is left in it are gone afterwards.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".probml-tp-") as name:
        yield Path(name)


def write_results(results: Results[Any], experiment: Experiment[Any], folder: Path) -> Path:
    """Save results with their figures, in place of earlier results of the same experiment.

    Everything is written to a temporary folder and moved into place at the end; a failure or an
    interruption leaves the earlier results as they were.

    Args:
        results: what the experiment found.
        experiment: the experiment; it draws the figures.
        folder: the folder of all results.

    Returns:
        The experiment's own folder.

    Raises:
        ValueError: a metric is NaN or infinite or has no column, a name is no file name, or
            ``folder`` is not writable.
    """
    _check(results, experiment)
    require_writable(folder)
    target = folder / results.experiment
    with staging(folder) as temporary:
        fresh = temporary / "fresh"
        fresh.mkdir()
        _write_all(results, experiment, fresh)
        _swap(fresh, target, temporary / "earlier")
    return target


def _swap(fresh: Path, target: Path, earlier: Path) -> None:
    if target.exists():
        target.rename(earlier)
    try:
        fresh.rename(target)
    except BaseException:
        if earlier.exists():
            earlier.rename(target)
        raise


def _check(results: Results[Any], experiment: Experiment[Any]) -> None:
    if results.experiment != experiment.name:
        raise ValueError(
            f"Results must be named after their experiment, {experiment.name}; "
            f"got {results.experiment!r}."
        )
    for name in (results.experiment, *results.posteriors, *results.inference_data):
        check_file_name(name)
    for table in _tables(results):
        for row, metrics in table.metrics.items():
            for metric, value in metrics.items():
                _check_metric(row, metric, value, table.columns)
        for row, ends in table.intervals.items():
            for metric, pair in ends.items():
                for value in (table.metrics.get(row, {}).get(metric, math.nan), *pair):
                    _check_metric(row, metric, value, table.columns)


def _tables(results: Results[Any]) -> list[Table]:
    main = Table(
        MAIN_TABLE, results.row_heading, results.metrics, results.columns, results.intervals
    )
    return [main, *_further_tables(results)]


def _further_tables(results: Results[Any]) -> list[Table]:
    return [*results.tables, *([results.checks] if results.checks else [])]


def check_file_name(name: str) -> None:
    """Check that a name can become that of a file.

    Raises:
        ValueError: it cannot.
    """
    if not _FILE_NAME.fullmatch(name):
        raise ValueError(
            "A name that becomes a file name must be letters, digits, '.', '_' and '-', and begin "
            f"with a letter or digit; got {name!r}. Rename it."
        )


def _check_metric(row: str, metric: str, value: float, columns: Mapping[str, str]) -> None:
    if metric not in columns:
        raise ValueError(
            f"Every metric must have a column; got {metric!r} in row {row!r}. "
            f"Add it to the columns, which are: {', '.join(columns)}."
        )
    if not math.isfinite(value):
        raise ValueError(
            f"Metrics must be finite; got {metric} = {value} in row {row!r}. "
            "Find out why, or leave the metric out of that row."
        )


def _write_all(results: Results[Any], experiment: Experiment[Any], folder: Path) -> None:
    figures = _write_figures(experiment.figures(results), folder / "figures")
    _write_json(folder / "config.json", results.config.to_dict())
    _write_json(folder / "environment.json", describe_environment())
    _write_json(folder / "metrics.json", _plain_metrics(results.metrics))
    arrays: dict[str, Any] = dict(results.arrays)
    np.savez_compressed(folder / "arrays.npz", allow_pickle=False, **arrays)
    _write_posteriors(results, folder / "posteriors")
    _write_json(folder / MANIFEST, _manifest(results, experiment, figures))


def _plain_metrics(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {row: {name: float(v) for name, v in cells.items()} for row, cells in metrics.items()}


def _plain_intervals(
    intervals: Mapping[str, Mapping[str, tuple[float, float]]],
) -> dict[str, dict[str, list[float]]]:
    return {
        row: {name: [float(end) for end in ends] for name, ends in cells.items()}
        for row, cells in intervals.items()
    }


def _plain_table(table: Table) -> dict[str, Any]:
    return {
        **vars(table),
        "metrics": _plain_metrics(table.metrics),
        "intervals": _plain_intervals(table.intervals),
    }


def _read_intervals(
    stored: Mapping[str, Mapping[str, list[float]]],
) -> dict[str, dict[str, tuple[float, float]]]:
    return {
        row: {name: (ends[0], ends[1]) for name, ends in cells.items()}
        for row, cells in stored.items()
    }


def _manifest(
    results: Results[Any], experiment: Experiment[Any], figures: list[dict[str, str]]
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "experiment": results.experiment,
        "title": results.title,
        "summary": experiment.summary,
        "preset": results.config.describe(),
        "columns": results.columns,
        "findings": results.findings,
        "data_source": results.data_source,
        "data_is_fallback": results.data_is_fallback,
        "timings": results.timings,
        "figures": figures,
        "intervals": _plain_intervals(results.intervals),
        "row_heading": results.row_heading,
        "tables": [_plain_table(table) for table in _further_tables(results)],
    }


def _write_figures(figures: Iterable[Figure], folder: Path) -> list[dict[str, str]]:
    import matplotlib.pyplot as plt

    folder.mkdir()
    entries = []
    for figure in figures:
        check_file_name(figure.name)
        figure.figure.savefig(folder / f"{figure.name}.png", dpi=DPI)
        plt.close(figure.figure)
        entries.append({"name": figure.name, "title": figure.title, "caption": figure.caption})
    return entries


def _write_posteriors(results: Results[Any], folder: Path) -> None:
    folder.mkdir()
    for name, posterior in results.posteriors.items():
        posterior.save(folder / name)
    for name, record in results.inference_data.items():
        record.to_netcdf(os.fspath(folder / f"{name}.nc"))


def _write_json(path: Path, value: object) -> None:
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def saved_experiments(folder: Path) -> list[str]:
    """List the experiments that have results in a folder.

    Args:
        folder: the folder of all results.

    Returns:
        Their names, sorted; none if the folder does not exist.
    """
    return sorted(path.parent.name for path in folder.glob(f"[!.]*/{MANIFEST}"))


def read_results(folder: Path) -> SavedResults:
    """Read the results of one experiment back.

    Args:
        folder: the experiment's own folder.

    Returns:
        What it holds.

    Raises:
        ValueError: a file is missing or damaged.
    """
    try:
        return _read(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"A results folder must hold the files that a run wrote; {folder} does not "
            f"({type(error).__name__}: {error}). Run the experiment again, or delete the folder."
        ) from error


def _read(folder: Path) -> SavedResults:
    manifest = _load(folder / MANIFEST)
    if manifest.pop("format") != FORMAT:
        raise ValueError("written by another version of probml_tp")
    manifest["figures"] = tuple(
        SavedFigure(**entry, path=folder / "figures" / f"{entry['name']}.png")
        for entry in manifest["figures"]
    )
    manifest["intervals"] = _read_intervals(manifest["intervals"])
    manifest["tables"] = tuple(
        Table(**{**entry, "intervals": _read_intervals(entry["intervals"])})
        for entry in manifest["tables"]
    )
    parts: dict[str, Any] = {
        part: _load(folder / f"{part}.json") for part in ("config", "environment", "metrics")
    }
    return SavedResults(folder=folder, **parts, **manifest)


def _load(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no object")
    return content
