"""Independent runs over processes, each on one thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from probml_tp.validation import positive_integer

__all__ = ["number_of_jobs", "single_thread"]


def number_of_jobs(jobs: int | None, runs: int) -> int:
    """The processes for so many runs: as asked, else one a run and at most one a core.

    Raises:
        ValueError: ``jobs`` is not an integer of at least 1.

    Example:
        >>> number_of_jobs(None, 1), number_of_jobs(3, 5)
        (1, 3)
    """
    if jobs is not None:
        return positive_integer("jobs", jobs)
    return min(runs, torch.get_num_threads())


@contextmanager
def single_thread() -> Iterator[None]:
    """Within the block torch computes on one thread: the other cores have other runs.

    Sums do not depend on the number of threads then, so neither do results on ``jobs``.

    Example:
        >>> with single_thread():
        ...     torch.get_num_threads()
        1
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
