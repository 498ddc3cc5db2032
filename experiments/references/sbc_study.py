"""Simulation-based calibration of the problems of ``sbc_problems``.

Every method of a problem sees the same data sets; NUTS, whose fits take longest, the first few of
them. A study is its ranks: they go into plain arrays and come back from them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from probml_tp.diagnostics import SbcResult, simulation_based_calibration
from probml_tp.experiments.references.sbc_problems import PROBLEMS, SbcSize
from probml_tp.harness.experiment import NullProgress, Progress
from probml_tp.kit.common import Array, arrays_under, derived_seed

SbcStudy = Mapping[str, Mapping[str, SbcResult]]
"""Problem to method to its ranks."""

PREFIX = "sbc"


def run_sbc(
    size: SbcSize, *, jobs: int | None = 1, seed: int = 0, progress: Progress | None = None
) -> SbcStudy:
    """Rank what was true among each method's draws, over data sets simulated from the prior."""
    watched = progress or NullProgress()
    study: dict[str, dict[str, SbcResult]] = {name: {} for name in PROBLEMS}
    for name, problem in PROBLEMS.items():
        for method in problem.methods:
            with watched.stage(f"ranks: {name}, {method}") as update:
                study[name][method] = simulation_based_calibration(
                    problem.model(),
                    problem.infer(method, size),
                    problem.inputs(),
                    simulations=size.of(method),
                    num_samples=size.num_samples,
                    quantities=problem.quantities,
                    jobs=jobs,
                    seed=derived_seed(seed, f"calibration {name}"),
                    progress=update,
                )
    return study


def sbc_arrays(study: SbcStudy) -> dict[str, Array]:
    """All of a study as plain arrays, named ``sbc.<problem>.<method>.<field>``."""
    return {
        f"{PREFIX}.{problem}.{method}.{field}": np.asarray(value)
        for problem, methods in study.items()
        for method, result in methods.items()
        for field, value in vars(result).items()
        if value is not None
    }


def sbc_study(arrays: Mapping[str, Array]) -> SbcStudy:
    """Take a study back from its arrays, which may stand among others."""
    return {
        name: {
            method: _restored(arrays_under(arrays, f"{PREFIX}.{name}.{method}"))
            for method in problem.methods
            if f"{PREFIX}.{name}.{method}.ranks" in arrays
        }
        for name, problem in PROBLEMS.items()
    }


def _restored(own: dict[str, Array]) -> SbcResult:
    return SbcResult(
        quantities=tuple(own.pop("quantities").tolist()),
        num_samples=int(own.pop("num_samples")),
        seed=int(own.pop("seed")),
        **own,
    )
