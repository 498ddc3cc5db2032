"""How far a run is: a bar on terminals, or whatever the caller does with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

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
    with tqdm(desc=name, unit=unit, disable=None if progress else True) as bar:

        def report(done: int, total: int, message: str) -> None:
            bar.total = total
            bar.set_postfix_str(message, refresh=False)
            bar.update(done - bar.n)

        yield report
