"""The results of experiments, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from probml_tp.harness.report.tables import MetricTable, metric_table

if TYPE_CHECKING:
    from probml_tp.harness.experiment import Results
    from probml_tp.harness.table import Table as Numbers

__all__ = ["console_of", "print_results", "print_table"]

PLAIN_WIDTH = 120


def console_of(stream: TextIO) -> Console:
    """A console that is as wide as its terminal, or wide enough for a table in a file.

    Args:
        stream: where it prints.
    """
    return Console(file=stream, width=None if stream.isatty() else PLAIN_WIDTH, highlight=False)


def print_table(table: Numbers, *, console: Console) -> None:
    """Print a table below its title.

    Args:
        table: the numbers.
        console: where to.
    """
    console.print()
    console.print(Text(table.title, style="bold"))
    console.print(_table(metric_table(table)))


def print_results(results: Results[Any], *, console: Console) -> None:
    """Print the title, the data, the findings and the table of one experiment.

    Args:
        results: what was saved.
        console: where to.
    """
    console.print()
    console.print(Text(results.title, style="bold"))
    style = "bold yellow" if results.data_is_fallback else "dim"
    source = ("FALLBACK DATA: " if results.data_is_fallback else "Data: ") + results.data_source
    console.print(Text(f"{results.preset}. {source}", style=style))
    for finding in results.findings:
        console.print(Text(f"- {finding}"))
    main, *others = results.all_tables
    if main.is_shown:
        console.print(_table(metric_table(main)))
    if titles := [table.title for table in others if table.is_shown]:
        text = f"{len(titles)} more in the report: {'; '.join(titles)}."
        console.print(Text(text, style="dim"))


def _table(content: MetricTable) -> Table:
    table = Table(Column(content.row_heading, no_wrap=True), header_style="bold")
    for heading in content.header:
        table.add_column(Text(heading), justify="right")
    for name, cells in content.rows:
        table.add_row(Text(name), *map(Text, cells))
    return table
