"""Results on disk: one folder an experiment, written whole or not at all.

<folder>/<experiment>/
    config.json         the resolved options
    environment.json    versions, platform, date, commit
    metrics.json        a line a number: table, row, metric, value, ends of its interval, unit
    manifest.json       title, tables, findings, data source, timings, figures
    arrays.nc           all that the figures need, a labelled data set
    figures/<name>.png
    posteriors/<name>.safetensors, <name>.nc
    digests.json        file -> digest of its content, compared when it is read
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probml_tp.environment import describe_environment
from probml_tp.harness.experiment import SAVING, Results, SavedFigure
from probml_tp.harness.table import Table
from probml_tp.storage.files import write_errors
from probml_tp.storage.schema import conform, read_json
from probml_tp.storage.staging import FRESH, put_in_place, staging

if TYPE_CHECKING:
    import numpy as np

    from probml_tp.harness.experiment import Experiment, Figure

__all__ = [
    "check_file_name",
    "read_results",
    "require_writable",
    "saved_experiments",
    "write_digests",
    "write_results",
]

FORMAT, DPI = 4, 150
MANIFEST, DIGESTS, ARRAYS = "manifest.json", "digests.json", "arrays.nc"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


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
        ValueError: a metric is NaN or infinite or has no column, a name is no file name, ``folder``
            is not writable, or the disk is full.
    """
    _check(results, experiment)
    require_writable(folder)
    target = folder / results.experiment
    with write_errors(target), staging(folder) as temporary:
        fresh = temporary / FRESH
        fresh.mkdir()
        _write_all(results, experiment, fresh)
        put_in_place(temporary, target)
    return target


def _check(results: Results[Any], experiment: Experiment[Any]) -> None:
    if results.experiment != experiment.name:
        raise ValueError(
            f"Results must be named after their experiment, {experiment.name}; "
            f"got {results.experiment!r}."
        )
    for name in (results.experiment, *results.posteriors, *results.inference_data):
        check_file_name(name)
    titles = [table.title for table in results.all_tables]
    if len(set(titles)) < len(titles):
        raise ValueError(f"Each table must have a title of its own; got {'; '.join(titles)}.")
    for table in results.all_tables:
        for row, cells in table.cells.items():
            for metric, cell in cells.items():
                for value in (cell.value, *(cell.ends or ())):
                    _check_metric(row, metric, value, table.columns)


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
    from probml_tp.harness.arrays import arrays_as_netcdf

    start = time.perf_counter()
    figures = _write_figures(experiment.figures(results), folder / "figures")
    _write_json(folder / "config.json", results.config.to_dict())
    _write_json(folder / "environment.json", describe_environment())
    _write_json(folder / "metrics.json", _lines(results))
    (folder / ARRAYS).write_bytes(arrays_as_netcdf(results.arrays))
    _write_posteriors(results, folder / "posteriors")
    results.timings[SAVING] = time.perf_counter() - start
    _write_json(folder / MANIFEST, _manifest(results, experiment, figures))
    write_digests(folder)


def write_digests(folder: Path) -> None:
    """Note the digests of all files of an experiment's folder.

    Args:
        folder: the experiment's own.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != DIGESTS)
    found = {path.relative_to(folder).as_posix(): _digest(path) for path in files}
    _write_json(folder / DIGESTS, found)


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _manifest(
    results: Results[Any], experiment: Experiment[Any], figures: list[dict[str, str]]
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "experiment": results.experiment,
        "title": results.title,
        "summary": experiment.summary,
        "preset": results.config.describe(),
        "findings": results.findings,
        "data_source": results.data_source,
        "data_is_fallback": results.data_is_fallback,
        "timings": results.timings,
        "shared_stages": results.shared_stages,
        "figures": figures,
        "tables": [
            {
                "title": table.title,
                "row_heading": table.row_heading,
                "rows": table.rows,
                "columns": table.columns,
            }
            for table in results.all_tables
        ],
    }


def _lines(results: Results[Any]) -> list[dict[str, Any]]:
    """The tidy frame, with ``null`` for the ends of an interval where there is none."""
    return [
        {name: None if value != value else value for name, value in line.items()}
        for line in results.frame.to_dict("records")
    ]


def _write_figures(figures: Iterable[Figure], folder: Path) -> list[dict[str, str]]:
    import matplotlib.pyplot as plt
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    folder.mkdir()
    entries = []
    for figure in figures:
        check_file_name(figure.name)
        figure.figure.set_dpi(DPI)
        canvas: Any = FigureCanvasAgg(figure.figure)  # savefig would draw the figure twice
        canvas.print_png(folder / f"{figure.name}.png")
        plt.close(figure.figure)
        entries.append({"name": figure.name, "title": figure.title, "caption": figure.caption})
    return entries


def _write_posteriors(results: Results[Any], folder: Path) -> None:
    from probml_tp.harness.arrays import as_netcdf

    folder.mkdir()
    for name, posterior in results.posteriors.items():
        posterior.save(folder / name)
    for name, record in results.inference_data.items():
        (folder / f"{name}.nc").write_bytes(as_netcdf(record.to_datatree()))


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


def read_results(folder: Path, *, arrays: bool = False) -> Results[Any]:
    """Read the results of one experiment back, less the posteriors.

    Args:
        folder: the experiment's own folder.
        arrays: whether to load the arrays that the figures were drawn from.

    Returns:
        What it holds; the config as a dictionary of the options.

    Raises:
        ValueError: a file is missing or damaged.
    """
    manifest = _part(folder / MANIFEST, _MANIFEST)
    tables = {entry["title"]: _empty(entry) for entry in manifest.pop("tables")}
    figures = tuple(
        SavedFigure(**entry, path=folder / "figures" / f"{entry['name']}.png")
        for entry in manifest.pop("figures")
    )
    del manifest["format"]
    parts: dict[str, Any] = {
        part: _part(folder / f"{part}.json", form) for part, form in _PARTS.items()
    }
    with _damage_named(folder / MANIFEST):
        if not tables:
            raise ValueError("its tables must be at least one; got none")
    with _damage_named(folder / "metrics.json"):
        for number, line in enumerate(parts.pop("metrics")):
            _enter(line, tables, f"its [{number}]")
    main, *others = tables.values()
    return Results(
        folder=folder,
        figures=figures,
        main=main,
        tables=others,
        arrays=_arrays(folder / ARRAYS) if arrays else {},
        **parts,
        **manifest,
    )


def _arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    with _damage_named(path):
        _check_digest(path)
    from probml_tp.harness.arrays import read_arrays

    return read_arrays(path)


def _empty(entry: Mapping[str, Any]) -> Table:
    """A table of the manifest, whose rows have no numbers yet."""
    table = Table(entry["title"], entry["row_heading"], columns=entry["columns"])
    for row in entry["rows"]:
        table.put(row, {})
    return table


def _enter(line: Mapping[str, Any], tables: Mapping[str, Table], place: str) -> None:
    """Put a number into its table."""
    low, high, metric = line["low"], line["high"], line["metric"]
    if line["table"] not in tables:
        raise ValueError(f"{place}.table must be one of {MANIFEST}; got {line['table']!r}")
    if (low is None) != (high is None):
        raise ValueError(f"{place} must have both ends of an interval or none")
    ends = {} if low is None else {metric: (low, high)}
    tables[line["table"]].put(line["row"], {metric: line["value"]}, ends)


_Plain = bool | int | float | str | None

_TABLE = {"title": str, "row_heading": str, "rows": list[str], "columns": dict[str, str]}
_LINE = {
    "table": str,
    "row": str,
    "metric": str,
    "value": float,
    "low": float | None,
    "high": float | None,
    "unit": str,
}
_MANIFEST = {
    "format": int,
    "experiment": str,
    "title": str,
    "summary": str,
    "preset": str,
    "findings": list[str],
    "data_source": str,
    "data_is_fallback": bool,
    "timings": dict[str, float],
    "shared_stages": list[str],
    "figures": [{"name": str, "title": str, "caption": str}],
    "tables": [_TABLE],
}
_PARTS = {
    "config": dict[str, _Plain | list[_Plain]],
    "environment": {
        "date": str,
        "python": str,
        "platform": str,
        "cpus": int | None,
        "packages": dict[str, str | None],
        "git_commit": str | None,
    },
    "metrics": [_LINE],
}
"""What the JSON files of a results folder hold, as :func:`conform` takes it."""


def _part(path: Path, form: Any) -> Any:
    """One JSON file of a results folder, checked."""
    with _damage_named(path):
        content = read_json(path)
        if form is _MANIFEST and isinstance(content, dict) and content.get("format") != FORMAT:
            raise ValueError(f"its format is {content.get('format')!r}, of another version")
        checked = conform(content, form)
        for figure in checked["figures"] if form is _MANIFEST else ():
            check_file_name(figure["name"])
        _check_digest(path)
    return checked


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Say which file of a results folder is damaged, and what to do."""
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"A results folder must hold the files that a run wrote; {path} is not as it was "
            f"written ({error}). Run the experiment again, or delete the folder."
        ) from error


def _check_digest(path: Path) -> None:
    """Compare a file with the digest that was noted when it was written."""
    noted = conform(read_json(path.with_name(DIGESTS)), dict[str, str], DIGESTS)
    try:
        if noted.get(path.name) != _digest(path):
            raise ValueError(f"it does not agree with its digest in {DIGESTS}")
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror or error}") from error
