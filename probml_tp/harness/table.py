"""Tables of numbers with intervals: one tidy frame that page, figures and sentences read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MAIN_TABLE", "Cell", "Ends", "Table", "frame_of", "unit"]

MAIN_TABLE = "Metrics"
"""The title of an experiment's first table."""

Ends = tuple[float, float]
"""The two ends of an interval."""

FRAME_COLUMNS = ("table", "row", "metric", "value", "low", "high", "unit")


class Cell(NamedTuple):
    """A number and its interval.

    Args:
        value: the number.
        ends: of its interval, if it has one.
    """

    value: float
    ends: Ends | None = None


class Table:
    """Numbers by row and metric; a metric that a row does not have is left out.

    Args:
        title: a line above it.
        row_heading: what the rows are.
        rows: row to metric to value. Row names are shown as they are.
        columns: metric to heading, in the order shown: with the unit, and ending in "↓" where lower
            is better, "↑" where higher is better. A metric whose heading is empty is kept in the
            frame but not shown.
        intervals: row to metric to the two ends of its interval, for those that have one.

    Example:
        >>> table = Table("Metrics", "Posterior", {"map": {"nll": 0.5}}, {"nll": "NLL (nats) ↓"})
        >>> table.put("laplace", {"nll": 0.4}, {"nll": (0.3, 0.5)})
        >>> table.column("nll"), table.ends("nll"), table["map", "nll"]
        ({'map': 0.5, 'laplace': 0.4}, {'laplace': (0.3, 0.5)}, 0.5)
    """

    def __init__(
        self,
        title: str,
        row_heading: str,
        rows: Mapping[str, Mapping[str, float]] | None = None,
        columns: Mapping[str, str] | None = None,
        intervals: Mapping[str, Mapping[str, Ends]] | None = None,
    ) -> None:
        self.title, self.row_heading, self.columns = title, row_heading, dict(columns or {})
        self._cells: dict[str, dict[str, Cell]] = {}
        for row in [*(rows or {}), *(intervals or {})]:
            self.put(row, (rows or {}).get(row, {}), (intervals or {}).get(row))

    def put(
        self, row: str, values: Mapping[str, float], ends: Mapping[str, Ends] | None = None
    ) -> None:
        """Enter numbers into a row, which is made where it is new.

        Args:
            row: its name.
            values: metric to value.
            ends: metric to the two ends of its interval.

        Raises:
            ValueError: an interval has no value.
        """
        cells = self._cells.setdefault(row, {})
        own = dict(ends or {})
        for metric, value in values.items():
            low_high = own.pop(metric, None)
            pair = None if low_high is None else (float(low_high[0]), float(low_high[1]))
            cells[metric] = Cell(float(value), pair)
        for metric, pair in own.items():
            if metric not in cells:
                raise ValueError(
                    f"an interval must belong to a value; got one of {metric} in row {row!r}, "
                    f"which has {', '.join(cells) or 'none'}. Put the value."
                )
            cells[metric] = Cell(cells[metric].value, (float(pair[0]), float(pair[1])))

    @property
    def rows(self) -> list[str]:
        """The names of the rows, in order."""
        return list(self._cells)

    @property
    def is_shown(self) -> bool:
        """Whether it has rows, and a heading that is not empty."""
        return bool(self._cells) and any(self.columns.values())

    @property
    def cells(self) -> Mapping[str, Mapping[str, Cell]]:
        """Row to metric to number and interval."""
        return self._cells

    def row(self, row: str) -> dict[str, float]:
        """The numbers of a row, by metric."""
        return {metric: cell.value for metric, cell in self._cells[row].items()}

    def column(self, metric: str) -> dict[str, float]:
        """The values of a metric, by row, of the rows that have it."""
        return {row: c[metric].value for row, c in self._cells.items() if metric in c}

    def ends(self, metric: str) -> dict[str, Ends]:
        """The intervals of a metric, by row, of the rows that have one."""
        return {
            row: ends
            for row, cells in self._cells.items()
            if metric in cells and (ends := cells[metric].ends) is not None
        }

    def __getitem__(self, place: tuple[str, str]) -> float:
        """The value in a row, of a metric."""
        row, metric = place
        return self._cells[row][metric].value

    def __contains__(self, place: tuple[str, str]) -> bool:
        """Whether a row has a metric."""
        row, metric = place
        return metric in self._cells.get(row, {})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        cells = {row: self.row(row) for row in self._cells}
        return f"Table({self.title!r}, {self.row_heading!r}, {cells}, {self.columns})"

    @property
    def frame(self) -> pd.DataFrame:
        """One number a line: table, row, metric, value, low, high, unit.

        Without an interval ``low`` and ``high`` are NaN.
        """
        return frame_of([self])


def frame_of(tables: Iterable[Table]) -> pd.DataFrame:
    """The numbers of several tables as one tidy frame; see :attr:`Table.frame`."""
    import pandas as pd

    lines = [
        (table.title, row, metric, cell.value, *(cell.ends or (float("nan"),) * 2), unit(heading))
        for table in tables
        for row, cells in table.cells.items()
        for metric, cell in cells.items()
        for heading in [table.columns.get(metric, "")]
    ]
    return pd.DataFrame(lines, columns=list(FRAME_COLUMNS))


def unit(heading: str) -> str:
    """The unit that a heading says: what it has in its last brackets.

    Example:
        >>> unit("NLL (nats) ↓"), unit("Accuracy ↑")
        ('nats', '')
    """
    found = re.findall(r"\(([^()]*)\)", heading)
    return found[-1] if found else ""
