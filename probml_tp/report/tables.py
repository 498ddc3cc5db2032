"""Tables of guides by metrics, with as many digits as help to compare."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["MetricTable", "metric_table"]

SIGNIFICANT_DIGITS = 4
MISSING = "–"


@dataclass(frozen=True)
class MetricTable:
    """A table ready to be shown.

    Attributes:
        header: the headings of the metric columns.
        rows: the name and the numbers of each row, as text.
        has_directions: whether some heading says which direction is better.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    has_directions: bool


def metric_table(
    metrics: Mapping[str, Mapping[str, float]], columns: Mapping[str, str]
) -> MetricTable:
    """Lay out metrics as a table.

    The numbers of a column share their decimals, so that they line up: four significant digits
    of the largest. No value is marked as the best: without an interval, that would say more
    than the numbers do.

    Args:
        metrics: row to metric to value; missing values are shown as a dash.
        columns: metric to heading; columns that no row has are left out.

    Returns:
        The table.

    Example:
        >>> table = metric_table(
        ...     {"MAP": {"nll": 0.1234567}, "Laplace": {"nll": 0.05}}, {"nll": "NLL (nats) ↓"}
        ... )
        >>> table.rows
        (('MAP', ('0.1235',)), ('Laplace', ('0.0500',)))
    """
    used = [key for key in columns if any(key in row for row in metrics.values())]
    cells = [_column([row.get(key) for row in metrics.values()]) for key in used]
    header = tuple(columns[key] for key in used)
    rows = tuple((name, tuple(column[i] for column in cells)) for i, name in enumerate(metrics))
    return MetricTable(header, rows, has_directions=any(h.endswith(("↓", "↑")) for h in header))


def _column(values: Sequence[float | None]) -> list[str]:
    decimals = _decimals([value for value in values if value is not None])
    return [MISSING if value is None else _text(value, decimals) for value in values]


def _decimals(present: Sequence[float]) -> int:
    if all(float(value).is_integer() for value in present):
        return 0
    largest = max(abs(value) for value in present)
    return min(max(SIGNIFICANT_DIGITS - 1 - math.floor(math.log10(largest)), 0), 5)


def _text(value: float, decimals: int) -> str:
    rounded = f"{value:,.{decimals}f}"
    if value != 0 and float(rounded.replace(",", "")) == 0:
        rounded = f"{value:.1e}"
    return rounded.replace("-", "\N{MINUS SIGN}")
