"""Simulation-based calibration of the problems of ``sbc_problems``.

Every method of a problem sees the same data sets; NUTS, whose fits take longest, the first few of
them. A study is its ranks: they go into plain arrays and come back from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from probml_tp.diagnostics import SbcResult, simulation_based_calibration
from probml_tp.experiments.references.sbc_problems import PROBLEMS, SbcSize
from probml_tp.harness.experiment import NullProgress, Progress
from probml_tp.kit.common import Array, arrays_under, derived_seed

SBC_QUICK = SbcSize(simulations=12, nuts_simulations=4, epochs=20)
SBC_DEFAULT = SbcSize(simulations=60, nuts_simulations=12)
SBC_FULL = SbcSize(
    simulations=1000, nuts_simulations=200, num_samples=39, epochs=100, warmup=50, thin=6
)


# -------------------------------------------------------------------------------------- running


@dataclass(frozen=True)
class SbcStudy:
    """Ranks of every method on every problem."""

    results: Mapping[str, Mapping[str, SbcResult]]


def _stage(problem: str, method: str) -> str:
    return f"ranks: {problem}, {method}"


def _simulations(method: str, size: SbcSize) -> int:
    return size.nuts_simulations if method == "nuts" else size.simulations


def sbc_stages(size: SbcSize, *, jobs: int | None = 1) -> dict[str, float]:
    """Name the stages with their expected seconds."""
    extra = {
        "mean-field": 1e-3 * size.epochs,
        "nuts": 1e-3 * (size.warmup + size.thin * size.num_samples),
    }
    draws = 2.5e-4 * (size.num_samples - 19)
    return {
        _stage(problem, method): 0.2
        + _simulations(method, size) * (each + extra.get(method, 0.0) + draws) / (jobs or 2)
        for problem, one in PROBLEMS.items()
        for method, each in one.methods.items()
    }


def run_sbc(
    size: SbcSize, *, jobs: int | None = 1, seed: int = 0, progress: Progress | None = None
) -> SbcStudy:
    """Rank what was true among each method's draws, over data sets simulated from the prior."""
    watched = progress or NullProgress()
    results: dict[str, dict[str, SbcResult]] = {name: {} for name in PROBLEMS}
    for name, problem in PROBLEMS.items():
        for method in problem.methods:
            with watched.stage(_stage(name, method)) as update:
                results[name][method] = simulation_based_calibration(
                    problem.model(),
                    problem.infer(method, size),
                    problem.inputs(),
                    simulations=_simulations(method, size),
                    num_samples=size.num_samples,
                    quantities=problem.quantities,
                    jobs=jobs,
                    seed=derived_seed(seed, f"calibration {name}"),
                    progress=update,
                )
    return SbcStudy(results)


# --------------------------------------------------------------------------------------- arrays

PREFIX = "sbc"


def sbc_arrays(study: SbcStudy) -> dict[str, Array]:
    """All of a study as plain arrays, named ``sbc.<problem>.<method>.<field>``."""
    return {
        f"{PREFIX}.{problem}.{method}.{field}": np.asarray(value)
        for problem, methods in study.results.items()
        for method, result in methods.items()
        for field, value in vars(result).items()
        if value is not None
    }


def sbc_study(arrays: Mapping[str, Array]) -> SbcStudy:
    """Take a study back from its arrays, which may stand among others."""
    return SbcStudy(
        {
            name: {
                method: _restored(arrays_under(arrays, f"{PREFIX}.{name}.{method}"))
                for method in problem.methods
                if f"{PREFIX}.{name}.{method}.ranks" in arrays
            }
            for name, problem in PROBLEMS.items()
        }
    )


def _restored(own: dict[str, Array]) -> SbcResult:
    return SbcResult(
        quantities=tuple(own.pop("quantities").tolist()),
        num_samples=int(own.pop("num_samples")),
        seed=int(own.pop("seed")),
        **own,
    )
