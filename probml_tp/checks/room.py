"""Whether a result has room in memory, asked before it is computed."""

from __future__ import annotations

from pathlib import Path

import torch

__all__ = ["check_room"]

MEMINFO = Path("/proc/meminfo")
SMALL = 2**28
"""Bytes that are always taken to have room: a look at the memory is not free."""


def check_room(what: str, count: int, dtype: torch.dtype, *, remedy: str) -> None:
    """Check that ``count`` numbers fit into the memory that is available now.

    Where the system does not say how much that is, nothing is checked.

    Args:
        what: the result, for the message.
        count: of its numbers.
        dtype: their type.
        remedy: what to do instead.

    Raises:
        ValueError: they do not.

    Example:
        >>> check_room("100 draws", 100 * 51, torch.float32, remedy="Take fewer.")
    """
    size = count * dtype.itemsize
    if size <= SMALL:
        return
    try:
        lines = MEMINFO.read_text().splitlines()
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return
    if size > 1024 * free:
        raise ValueError(
            f"{what} must fit into memory; they take {size / 2**30:,.1f} GiB, and "
            f"{free / 2**20:,.1f} GiB are available. {remedy}"
        )
