r"""Classical posteriors with known answers: what an approximation is held against.

Most are of posteriordb (Magnusson et al. 2025, "posteriordb: Testing, benchmarking and developing
Bayesian inference algorithms"), with priors as stated by each function. The moments that they are
known by are read with :func:`probml_tp.diagnostics.reference_posterior`, under the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from probml_tp.models.classic import Classic
from probml_tp.models.curves import breast_cancer, dugongs, dugongs_line, gaussian_process
from probml_tp.models.hierarchical import eight_schools, funnel, rats

__all__ = ["CLASSICS"]

CLASSICS: Mapping[str, Callable[[], Classic]] = {
    "dugongs-line": dugongs_line,
    "breast-cancer": breast_cancer,
    "dugongs": dugongs,
    "rats": rats,
    "gaussian-process": gaussian_process,
    "eight-schools-noncentered": partial(eight_schools, centered=False),
    "eight-schools-centered": partial(eight_schools, centered=True),
    "funnel": funnel,
}
"""Every classical posterior by name, from the easiest to the hardest."""
