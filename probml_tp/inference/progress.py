"""How far a run is: a bar on terminals, or whatever the caller does with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["ProgressCallback", "progress_reporter"]

ProgressCallback = Callable[[int, int, str], None]
"""Called with (done, total, message): of epochs, members, chains, whatever is counted."""


@contextmanager
def progress_reporter(
    progress: bool | ProgressCallback, name: str, *, unit: str
) -> Iterator[ProgressCallback]:
    """A callback ``(done, total, message)``: the caller's own, or a bar on terminals.

    Args:
        progress: whether to show a bar, or the caller's own.
        name: what runs.
        unit: what is counted.
    """
    if callable(progress):
        yield progress
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}s", markup=False),
        TimeRemainingColumn(),
        TextColumn("{task.fields[message]}", markup=False),
    )
    hidden = not progress or not (console.is_terminal or console.is_jupyter)
    with Progress(*columns, console=console, disable=hidden) as bar:
        task = bar.add_task(name, total=None, message="")

        def report(done: int, total: int, message: str) -> None:
            bar.update(task, completed=done, total=total, message=message)

        yield report
