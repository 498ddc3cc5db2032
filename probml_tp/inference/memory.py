"""How much memory the process has used."""

from __future__ import annotations

import sys

__all__ = ["peak_memory_mib"]


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
