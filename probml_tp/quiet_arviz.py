"""ArviZ, imported without its announcement of ArviZ 1.

ArviZ 0.x makes it once a day, by a stamp in the user's cache: its import fails where that cannot be
written, and processes that import it at the same time race for the stamp. It is silent where the
packages of ArviZ 1 are there; for the time of the import they are said to be.
"""

import sys
from importlib import import_module
from types import ModuleType

if "arviz" not in sys.modules:
    sys.modules["arviz.preview"] = stand_in = ModuleType("arviz.preview")
    stand_in.info = "arviz_base available, arviz_stats available, arviz_plots available"  # type: ignore[attr-defined]
    try:
        import arviz as az
    finally:
        del sys.modules["arviz.preview"]
    import_module("arviz.preview")  # the real one, in its place
else:
    import arviz as az

__all__ = ["az"]
