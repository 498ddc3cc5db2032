"""Tables of guides by metrics, with as many digits as help to compare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from probml_tp.harness.table import Cell, Table

__all__ = ["MetricTable", "metric_table"]

SIGNIFICANT_DIGITS = 4
MOST_DECIMALS = 5
MISSING = "–"


@dataclass(frozen=True)
class MetricTable:
    """A table ready to be shown.

    Attributes:
        title: the line above it.
        row_heading: what the rows are.
        header: the headings of the metric columns.
        rows: the name and the numbers of each row, as text.
        has_directions: whether some heading says which direction is better.
        has_intervals: whether some number has an interval.
    """

    title: str
    row_heading: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    has_directions: bool
    has_intervals: bool


def metric_table(table: Table) -> MetricTable:
    """Lay out numbers as a table.

    The numbers of a column share their decimals, so that they line up: four significant digits
    of the largest, fewer where intervals are wide. No value is marked as the best: without an
    interval, that would say more than the numbers do. Where there is an interval, it stands behind
    the number.

    Args:
        table: the numbers; missing values are shown as a dash, columns that no row has are left
            out.

    Returns:
        The table.

    Example:
        >>> numbers = {"MAP": {"nll": 0.1234567}, "Laplace": {"nll": 0.05}}
        >>> intervals = {"MAP": {"nll": (0.11, 0.14)}}
        >>> made = Table("Metrics", "Posterior", numbers, {"nll": "NLL (nats) ↓"}, intervals)
        >>> metric_table(made).rows
        (('MAP', ('0.123 [0.110, 0.140]',)), ('Laplace', ('0.050',)))
    """
    used = [key for key, heading in table.columns.items() if heading and table.column(key)]
    texts = [_column(table, key) for key in used]
    header = tuple(table.columns[key] for key in used)
    return MetricTable(
        title=table.title,
        row_heading=table.row_heading,
        header=header,
        rows=tuple((row, tuple(text[i] for text in texts)) for i, row in enumerate(table.rows)),
        has_directions=any(h.endswith(("↓", "↑")) for h in header),
        has_intervals=any(table.ends(key) for key in used),
    )


def _column(table: Table, key: str) -> list[str]:
    values, ends = table.column(key), table.ends(key)
    decimals = min(_decimals(list(values.values())), _decimals_of_widths(list(ends.values())))
    return [_cell(cells.get(key), decimals) for cells in table.cells.values()]


def _cell(cell: Cell | None, decimals: int) -> str:
    if cell is None:
        return MISSING
    text = _text(cell.value, decimals)
    if cell.ends is not None:
        text += f" [{', '.join(_rounded(end, decimals) for end in cell.ends)}]"
    return text


def _decimals(present: Sequence[float]) -> int:
    if all(float(value).is_integer() for value in present):
        return 0
    largest = max(abs(value) for value in present)
    return min(max(SIGNIFICANT_DIGITS - 1 - math.floor(math.log10(largest)), 0), MOST_DECIMALS)


def _decimals_of_widths(intervals: Sequence[tuple[float, float]]) -> int:
    """So many that half the width of the typical interval has two significant digits."""
    halves = sorted(high / 2 - low / 2 for low, high in intervals if high > low)
    if not halves:
        return MOST_DECIMALS
    return max(1 - math.floor(math.log10(halves[len(halves) // 2])), 0)


def _text(value: float, decimals: int) -> str:
    rounded = _rounded(value, decimals)
    if value != 0 and float(rounded.replace(",", "").replace("\N{MINUS SIGN}", "-")) == 0:
        return f"{value:.1e}".replace("-", "\N{MINUS SIGN}")
    return rounded


def _rounded(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}".replace("-", "\N{MINUS SIGN}")
