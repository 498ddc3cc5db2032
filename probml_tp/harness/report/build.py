"""Builds the report from the results on disk, and from nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from probml_tp.harness.experiment import Results
from probml_tp.harness.report.tables import MetricTable, metric_table
from probml_tp.harness.results import read_results, saved_experiments
from probml_tp.storage.files import atomic_write
from probml_tp.storage.staging import recover

__all__ = ["REPORT", "build_report"]

REPORT = "report.html"


@dataclass(frozen=True)
class _Figure:
    name: str
    title: str
    caption: str
    source: str


@dataclass(frozen=True)
class _Section:
    """One experiment, as the template shows it."""

    results: Results[Any]
    tables: tuple[MetricTable, ...]
    figures: tuple[_Figure, ...]
    environment: dict[str, Any]
    seconds: float


def build_report(folder: Path, *, order: Sequence[str] = ()) -> Path:
    """Make the report of all results in a folder.

    Args:
        folder: the folder of all results.
        order: names of experiments in the order wanted; others follow by name.

    Returns:
        The page, ``<folder>/report.html``; it needs no other file.

    Raises:
        ValueError: the folder holds no results, or damaged ones, or cannot be written.
    """
    recover(folder)
    names = saved_experiments(folder)
    if not names:
        raise ValueError(
            f"A report needs the results of at least one experiment; {folder} holds none. "
            "Run 'probml-tp run' first, or name another folder with --results."
        )
    rank = {name: position for position, name in enumerate(order)}
    names.sort(key=lambda name: (rank.get(name, len(rank)), name))
    page = _render([_section(read_results(folder / name)) for name in names])
    with atomic_write(folder / REPORT) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder / REPORT


def _render(sections: list[_Section]) -> str:
    environment = Environment(
        loader=PackageLoader("probml_tp", "harness/report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = _duration
    environment.filters["plain"] = _plain
    environment.filters["day"] = _day
    environment.filters["keep_arrow"] = _keep_arrow
    environment.filters["part_interval"] = _part_interval
    return environment.get_template("report.html.jinja").render(sections=sections)


def _section(results: Results[Any]) -> _Section:
    return _Section(
        results=results,
        tables=tuple(metric_table(table) for table in results.all_tables if table.is_shown),
        figures=tuple(_Figure(f.name, f.title, f.caption, _embed(f.path)) for f in results.figures),
        environment=_flatten(results.environment),
        seconds=sum(results.timings.values()),
    )


def _flatten(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Put the versions of packages on one level with the rest."""
    rest = {name: value for name, value in environment.items() if name != "packages"}
    return {**rest, **environment["packages"]}


def _embed(path: Path) -> str:
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "no whole PNG"
        raise ValueError(
            f"Every figure of a result must be on disk; {path} is not readable "
            f"({reason}). Run the experiment again."
        ) from error
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"


def _duration(seconds: float) -> str:
    """Write a duration, for example "2 min 5 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds > 1e9:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _plain(value: Any) -> str:
    """Write an option's value as one would on the command line."""
    if value is None:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _day(date: str) -> str:
    """Write a date of ISO 8601 to the minute, for example "2026-01-31 12:30 UTC"."""
    return f"{date[:10]} {date[11:16]} UTC"


def _keep_arrow(heading: str) -> str:
    """Keep the arrow of a heading on the line of its last word."""
    return heading.replace(" ↓", "\N{NO-BREAK SPACE}↓").replace(" ↑", "\N{NO-BREAK SPACE}↑")


def _part_interval(cell: str) -> tuple[str, str, str]:
    """A number, and the bracket and rest of its interval; empty where there is none."""
    return cell.partition("[")
