"""Simulation-based calibration of the two small problems, judged: tests, bias and width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from probml_tp.diagnostics import SbcResult
from probml_tp.experiments.references.sbc_problems import PROBLEMS, Problem, expected_distance
from probml_tp.experiments.references.sbc_study import SbcStudy
from probml_tp.harness.experiment import Table
from probml_tp.kit.common import Array, Intervals, Rows
from probml_tp.metrics.over_runs import mean_interval
from probml_tp.plots.style import GuideStyle, guide_style

ALPHA = 0.05
BROKEN: Mapping[str, GuideStyle] = {
    "half-as-wide": GuideStyle(
        "Exact, half as wide (deliberately broken)", "#AA3377", (0, (3, 1)), "h"
    ),
    "prior": GuideStyle("Prior, data ignored (deliberately broken)", "#E69F00", (0, (1, 1)), "X"),
}
COLUMNS = {
    "datasets": "Data sets",
    "p_value": "p, uniform ranks of all quantities",
    "outside": "Quantities outside the 95 % band",
    "quantities": "of",
    "symmetry": "p, symmetric ranks of all but the log likelihood",
    "bias": "Mean z-score of the slope or steepness (SDs)",
    "distance": "Truth from the mean, RMS (SDs; right: 1)",
    "expected": "The same in closed form (SDs)",
}


def sbc_style(name: str) -> GuideStyle:
    """The style of a method; what is broken on purpose says so in its label."""
    return BROKEN.get(name) or guide_style(name)


# -------------------------------------------------------------------------------------- judging


@dataclass(frozen=True)
class Judged:
    """What the ranks of one method say."""

    p_value: float
    p_telling: float
    outside: tuple[str, ...]
    symmetry: float
    bias: tuple[float, float, float]
    distance: tuple[float, float, float]


def _judge(result: SbcResult, problem: Problem) -> Judged:
    tests = result.uniformity()
    own = [tests[name] for name in problem.quantities]
    at = result.quantities.index(problem.telling)
    value, low, high = _ends(squared_distances(result, problem.parameters))
    return Judged(
        p_value=result.p_value,
        p_telling=tests[problem.telling].p_value,
        outside=tuple(name for name, test in tests.items() if test.p_value <= ALPHA),
        symmetry=min(1.0, len(own) * min(test.symmetry_p_value for test in own)),
        bias=_ends(result.z_scores[:, at]),
        distance=(_root(value), _root(low), _root(high)),
    )


def squared_distances(result: SbcResult, parameters: int) -> Array:
    r"""The mean over parameters of :math:`(\theta_i^* - m_i)^2 / s_i^2`, for each data set.

    Mean and standard deviation of ``L`` draws stand in for ``m`` and ``s``. Of normal draws they
    are independent, and :math:`E[z^2] = (E[(\theta^* - m)^2] / s^2 + 1/L)\,(L - 1)/(L - 3)`,
    which is solved for the wanted ratio.
    """
    draws = result.num_samples
    z = result.z_scores[:, :parameters]
    return np.asarray((z**2 * (draws - 3) / (draws - 1) - 1 / draws).mean(1))


def _root(square: float) -> float:
    return float(np.sqrt(np.maximum(square, 0)))


def _ends(values: Array) -> tuple[float, float, float]:
    """The mean and the ends of its t interval, NaN where there is none."""
    found = mean_interval(values)
    return (found.mean, *(found.interval or (np.nan, np.nan)))


def judge_study(study: SbcStudy) -> dict[str, dict[str, Judged]]:
    """Judge every method of every problem."""
    return {
        problem: {method: _judge(result, PROBLEMS[problem]) for method, result in methods.items()}
        for problem, methods in study.results.items()
    }


def miscalibrated(methods: Mapping[str, Judged], *, tests: int = 1) -> list[str]:
    """The methods whose ranks are not uniform: tests at 5 % over all quantities of a method."""
    return [name for name, one in methods.items() if tests * one.p_value <= ALPHA]


def _row(problem: str, method: str) -> str:
    return f"{problem} · {sbc_style(method).label}"


def sbc_table(study: SbcStudy) -> Table:
    """Every method of every problem, judged."""
    metrics: Rows = {}
    intervals: Intervals = {}
    for problem, methods in judge_study(study).items():
        for method, judged in methods.items():
            row, result = _row(problem, method), study.results[problem][method]
            metrics[row] = {
                "datasets": float(result.simulations),
                "p_value": judged.p_value,
                "outside": float(len(judged.outside)),
                "quantities": float(len(result.quantities)),
                "symmetry": judged.symmetry,
                "bias": judged.bias[0],
                "distance": judged.distance[0],
            }
            if problem == "linear":
                metrics[row]["expected"] = expected_distance(method)
            ends = {"bias": judged.bias[1:], "distance": judged.distance[1:]}
            intervals[row] = {name: pair for name, pair in ends.items() if np.isfinite(pair).all()}
    title = (
        "Simulation-based calibration: ranks of what was true among posterior draws (p-values "
        "times the number of quantities; 95 % t intervals over data sets)"
    )
    return Table(title, "Problem · posterior", metrics, COLUMNS, intervals)
