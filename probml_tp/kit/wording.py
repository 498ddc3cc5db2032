"""How sentences write values and call rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from probml_tp.kit.common import labels_of, percent, span

__all__ = ["Rows", "Write", "any_of", "plain_label", "points", "runs", "shares"]

Write = Callable[[float], str]
"""Writes a value."""

Rows = Callable[[str], bool]
"""Whether a row counts."""


def points(value: float) -> str:
    """Write a share as percentage points without their name.

    Example:
        >>> points(0.123)
        '12.3'
    """
    return f"{100 * value:.1f}"


def runs(
    values: Mapping[str, float],
    write: Write,
    *,
    reference: str | None = None,
    name: Callable[[str], str] | None = None,
) -> str:
    """The verb with the range over rows, or with the one value that all of them have.

    Args:
        values: row to value, not empty.
        write: how to write a value.
        reference: a row to mention in any case, if it is there.
        name: what to call a row; a guide's label by default.

    Returns:
        Words to follow the subject.

    Example:
        >>> runs({"map": 0.1, "laplace": 0.2}, "{:.1f}".format)
        'runs from 0.1 (MAP) to 0.2 (Laplace)'
        >>> runs({"map": 0.12, "laplace": 0.1}, "{:.1f}".format)
        'is 0.1 for all'
    """
    texts = {write(value) for value in values.values()}
    if len(texts) > 1:
        return f"runs {span(values, write, reference=reference, name=name or plain_label)}"
    return f"is {texts.pop()}" + (" for all" if len(values) > 1 else "")


def plain_label(row: str) -> str:
    """What a sentence calls a row: a guide's label, or the row's own name."""
    return labels_of([row])


def shares(digits: int = 1) -> Write:
    """Write shares as percentages with so many decimals."""
    return lambda value: percent(value, digits)


def any_of(rows: Sequence[str]) -> Rows:
    """The rows of these names."""
    return lambda row: row in rows
