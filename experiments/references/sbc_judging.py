"""What simulation-based calibration of the two small problems says: tests, bias, width, words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from probml_tp.diagnostics import SbcResult
from probml_tp.diagnostics.sbc.run import LOG_LIKELIHOOD
from probml_tp.experiments.references import sbc_study
from probml_tp.experiments.references.sbc_study import PROBLEMS, Problem, SbcStudy
from probml_tp.harness.experiment import Results, Table
from probml_tp.kit.common import Array, labels_of, listed
from probml_tp.kit.sentences import Count, Gap, tell
from probml_tp.metrics.over_runs import mean_interval
from probml_tp.plots.style import GuideStyle, guide_style, number

ALPHA = 0.05
BROKEN: Mapping[str, tuple[GuideStyle, str]] = {
    "half-as-wide": (
        GuideStyle("Exact, half as wide (deliberately broken)", "#AA3377", (0, (3, 1)), "h"),
        "the exact posterior made half as wide",
    ),
    "prior": (
        GuideStyle("Prior, data ignored (deliberately broken)", "#E69F00", (0, (1, 1)), "X"),
        "the prior in the posterior's place",
    ),
}
"""What is wrong on purpose: its style, which says so, and what sentences call it."""

PROSE = {"exact": "the exact posterior", "mean-field": "mean-field"}
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
TITLE = (
    "Simulation-based calibration: ranks of what was true among posterior draws (p-values times "
    "the number of quantities; 95 % t intervals over data sets)"
)


def sbc_style(name: str) -> GuideStyle:
    """The style of a method; what is broken on purpose says so in its label."""
    return BROKEN[name][0] if name in BROKEN else guide_style(name)


def method_words(method: str) -> str:
    """What a method is called in a sentence."""
    return BROKEN[method][1] if method in BROKEN else PROSE.get(method) or labels_of([method])


def p_words(value: float) -> str:
    """Write a p-value."""
    return f"p = {value:.2g}" if value >= 1e-3 else "p < 0.001"


@dataclass(frozen=True)
class Judged:
    """What the ranks of one method say."""

    p_value: float
    p_telling: float
    outside: tuple[str, ...]
    symmetry: float
    bias: tuple[float, float, float]
    distance: tuple[float, float, float]


Judgements = Mapping[str, Mapping[str, Judged]]
"""Problem to method to what its ranks say."""


def _judge(result: SbcResult, problem: Problem) -> Judged:
    tests = result.uniformity()
    own = [tests[name] for name in problem.quantities]
    squared = _ends(squared_distances(result, problem.parameters))
    value, low, high = np.sqrt(np.maximum(squared, 0)).tolist()
    return Judged(
        p_value=result.p_value,
        p_telling=tests[problem.telling].p_value,
        outside=tuple(name for name, test in tests.items() if test.p_value <= ALPHA),
        symmetry=min(1.0, len(own) * min(test.symmetry_p_value for test in own)),
        bias=_ends(result.z_scores[:, result.quantities.index(problem.telling)]),
        distance=(value, low, high),
    )


def squared_distances(result: SbcResult, parameters: int) -> Array:
    r"""The mean over parameters of :math:`(\theta_i^* - m_i)^2 / s_i^2`, for each data set.

    Mean and standard deviation of ``L`` draws stand in for ``m`` and ``s``, so that of a normal
    :math:`E[z^2] = (E[(\theta^* - m)^2] / s^2 + 1/L)\,(L - 1)/(L - 3)`, which is solved.
    """
    draws = result.num_samples
    z = result.z_scores[:, :parameters]
    return np.asarray((z**2 * (draws - 3) / (draws - 1) - 1 / draws).mean(1))


def _ends(values: Array) -> tuple[float, float, float]:
    """The mean and the ends of its t interval, NaN where there is none."""
    found = mean_interval(values)
    return (found.mean, *(found.interval or (np.nan, np.nan)))


def judge_study(study: SbcStudy) -> Judgements:
    """Judge every method of every problem."""
    return {
        problem: {method: _judge(result, PROBLEMS[problem]) for method, result in methods.items()}
        for problem, methods in study.items()
    }


def miscalibrated(methods: Mapping[str, Judged]) -> list[str]:
    """The methods whose ranks are not uniform: tests at 5 % over all quantities of a method."""
    return [name for name, one in methods.items() if one.p_value <= ALPHA]


def sbc_table(study: SbcStudy) -> Table:
    """Every method of every problem, judged."""
    table = Table(TITLE, "Problem · posterior", columns=COLUMNS)
    for problem, methods in judge_study(study).items():
        for method, judged in methods.items():
            result = study[problem][method]
            values = {
                "datasets": result.simulations,
                "p_value": judged.p_value,
                "outside": len(judged.outside),
                "quantities": len(result.quantities),
                "symmetry": judged.symmetry,
                "bias": judged.bias[0],
                "distance": judged.distance[0],
            }
            if problem == "linear":
                values["expected"] = sbc_study.expected_distance(method)
            ends = {"bias": judged.bias[1:], "distance": judged.distance[1:]}
            known = {name: pair for name, pair in ends.items() if np.isfinite(pair).all()}
            table.put(_row(problem, method), values, known)
    return table


def _row(problem: str, method: str) -> str:
    return f"{problem} · {sbc_style(method).label}"


ROWS = {_row(name, m): (name, m) for name, problem in PROBLEMS.items() for m in problem.methods}
"""Row of the table to problem and method."""

STEEPNESS = Gap(
    "bias",
    "The boundary's steepness is misjudged by {gaps} of the posterior's SDs on average (95 % t "
    "intervals; below 0: not steep enough).",
    table=TITLE,
    rows=lambda row: row.startswith("logistic"),
    name=lambda row: method_words(ROWS[row][1]),
    clause="{row} by {value}{interval}",
    write=lambda value: number(value, "+.2f"),
    apart=True,
    none="No bias of the boundary's steepness is beyond chance.",
)
MULTIPLICITY = (
    "Each p-value is the least of a method's quantities times their number, and each method "
    "is tested at 5 %. With the {n} methods allowed for as well (p times {n}), {which} would still "
    "be called miscalibrated."
)
STILL = Count(
    "p_value",
    MULTIPLICITY,
    none=MULTIPLICITY,
    table=TITLE,
    rule=lambda p: len(ROWS) * p <= ALPHA,
    name=lambda row: f"{method_words(ROWS[row][1])} ({ROWS[row][0]})",
)


def sbc_findings(results: Results[Any]) -> list[str]:
    """What the ranks say, the most important first."""
    study = sbc_study.sbc_study(results.arrays)
    judged = judge_study(study)
    return [
        *(_verdict(study, problem, methods) for problem, methods in judged.items()),
        *_of_the_line(judged["linear"]),
        *tell([STEEPNESS, lambda _: _of_nuts(study), STILL], results),
    ]


def _verdict(study: SbcStudy, problem: str, methods: Mapping[str, Judged]) -> str:
    wrong = miscalibrated(methods)
    sets = max(result.simulations for result in study[problem].values())
    said = {n: f"{method_words(n)} ({p_words(one.p_value)})" for n, one in methods.items()}
    passed = [words for name, words in said.items() if name not in wrong]
    found = [f"{method_words(name)} ({_how(methods[name])})" for name in wrong]
    parts = [f"ranks are uniform, up to chance, for {listed(passed)}"] if passed else []
    parts += [f"miscalibrated are {listed(found)}" if found else "nobody is found miscalibrated"]
    return f"{PROBLEMS[problem].title}, {sets:,} data sets from the prior: {'; '.join(parts)}."


def _how(judged: Judged) -> str:
    """The p-value, whose ranks gave it away, and how far from the mean the truth lies."""
    value, low, high = judged.distance
    kind = "too narrow, " if low > 1 else ("too wide, " if high < 1 else "")
    interval = f" [{low:.2f}, {high:.2f}]" if np.isfinite(low) else ""
    shown = " and ".join(name.replace("_", " ") for name in judged.outside)
    words = f"{p_words(judged.p_value)} by {shown}; {kind}the truth {value:.2f}{interval} SDs"
    return f"{words} from the mean"


def _of_the_line(methods: Mapping[str, Judged]) -> Iterator[str]:
    """What ranks of the parameters, and the test for bias alone, do not see."""
    if methods["prior"].outside == (LOG_LIKELIHOOD,):
        yield (
            "Of the prior in the posterior's place the ranks of every parameter are uniform, as "
            "theory has it; the ranks of the log likelihood alone find it out."
        )
    missed = [
        f"{method_words(name)} ({p_words(methods[name].symmetry)})"
        for name in miscalibrated(methods)
        if methods[name].distance[1] > 1 and methods[name].symmetry > ALPHA
    ]
    if missed:
        yield (
            "The symmetry test of variational SBC (Yao et al. 2018) tells bias, not width: on the "
            f"line it finds nothing wrong with {listed(missed)}."
        )


def _of_nuts(study: SbcStudy) -> str:
    """What so few data sets can find out: the posterior made half as wide, on the same."""
    count, broken = study["linear"]["nuts"].simulations, study["linear"]["half-as-wide"]
    first = {name: getattr(broken, name)[:count] for name in ("ranks", "truth", "mean", "sd")}
    p = replace(broken, **first).p_value
    return (
        f"NUTS has {count} data sets; on the same of the line, the exact posterior made half as "
        f"wide is {'' if p <= ALPHA else 'not '}found out ({p_words(p)}). So much, and no more, is "
        f"tested of NUTS."
    )
