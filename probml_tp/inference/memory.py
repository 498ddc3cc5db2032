"""How much memory the process has used."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["peak_growth_mib", "peak_memory_mib"]

PROCESS = Path("/proc/self")


def peak_memory_mib() -> float:
    """Peak resident memory of this process since its start, in MiB; NaN where it is not known.

    Example:
        >>> peak_memory_mib() > 0
        True
    """
    if sys.platform == "win32":
        return float("nan")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


@contextmanager
def peak_growth_mib() -> Iterator[Callable[[], float]]:
    """Measure how far resident memory rises within a block, above what it was at its start.

    Linux can forget a process's peak, so this needs no process of its own. What the allocator holds
    from before is given back first. Elsewhere it is NaN.

    Yields:
        A function that gives the growth so far in MiB.

    Example:
        >>> import torch
        >>> with peak_growth_mib() as growth:
        ...     _ = torch.ones(2**22, dtype=torch.float64)  # 32 MiB
        >>> growth() > 30 or growth() != growth()
        True
    """
    start = _forget_peak()
    yield lambda: _status("VmHWM") - start


def _forget_peak() -> float:
    """Give free memory back, forget the peak; the memory in use."""
    gc.collect()  # else what the block frees hides what it takes
    try:
        ctypes.CDLL(None).malloc_trim(0)
        (PROCESS / "clear_refs").write_text("5")
    except (OSError, AttributeError, TypeError):
        return float("nan")
    return _status("VmRSS")


def _status(key: str) -> float:
    """One line of the process's status in MiB."""
    try:
        lines = (PROCESS / "status").read_text().splitlines()
    except OSError:
        return float("nan")
    kib = next((line.split()[1] for line in lines if line.startswith(f"{key}:")), "nan")
    return float(kib) / 2**10
