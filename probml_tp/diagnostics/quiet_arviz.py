"""ArviZ, imported without its announcement: ArviZ 0.x warns of ArviZ 1 when it is imported."""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", category=FutureWarning, message=r"\s*ArviZ is undergoing")
    import arviz as az

__all__ = ["az"]
