"""How far a run is: a bar on terminals, or whatever the caller does with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

__all__ = ["ProgressCallback", "progress_reporter"]

ProgressCallback = Callable[[int, int, str], None]
"""Called with (done, total, message): of epochs, members, chains, whatever is counted."""


@contextmanager
def progress_reporter(
    progress: bool | ProgressCallback, name: str, *, unit: str
) -> Iterator[ProgressCallback]:
    """A callback ``(done, total, message)``: the caller's own, or a bar on terminals.

    The caller's own may draw random numbers of torch's: what runs does not notice.

    Args:
        progress: whether to show a bar, or the caller's own.
        name: what runs.
        unit: what is counted.
    """
    if callable(progress):

        def unnoticed(done: int, total: int, message: str) -> None:
            with torch.random.fork_rng(devices=[]):
                progress(done, total, message)

        yield unnoticed
        return
    if not progress:
        yield _nothing
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
    if not (console.is_terminal or console.is_jupyter):
        yield _nothing
        return
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=None, message="")

        def report(done: int, total: int, message: str) -> None:
            bar.update(task, completed=done, total=total, message=message)

        yield report


def _nothing(done: int, total: int, message: str) -> None:
    """Where there is none to look at it."""
