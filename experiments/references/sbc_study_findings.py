"""What simulation-based calibration of the two small problems says, from ranks alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from probml_tp.diagnostics import SbcResult
from probml_tp.diagnostics.sbc.run import LOG_LIKELIHOOD
from probml_tp.experiments.references.sbc_judging import ALPHA, Judged, judge_study, miscalibrated
from probml_tp.experiments.references.sbc_problems import PROBLEMS
from probml_tp.experiments.references.sbc_study import SbcStudy
from probml_tp.kit.common import labels_of, listed
from probml_tp.plots.style import number

PROSE = {
    "exact": "the exact posterior",
    "mean-field": "mean-field",
    "half-as-wide": "the exact posterior made half as wide",
    "prior": "the prior in the posterior's place",
}


def sbc_findings(study: SbcStudy) -> list[str]:
    """What the ranks say, the most important first."""
    judged = judge_study(study)
    return [
        *(_verdict(study, problem, methods) for problem, methods in judged.items()),
        *_of_the_prior(judged["linear"]),
        *_of_symmetry(judged["linear"]),
        _of_steepness(judged["logistic"]),
        _of_nuts(study),
        _of_multiplicity(judged),
    ]


def _verdict(study: SbcStudy, problem: str, methods: Mapping[str, Judged]) -> str:
    wrong = miscalibrated(methods)
    sets = max(result.simulations for result in study.results[problem].values())
    passed = [
        f"{method_words(n)} ({p_words(methods[n].p_value)})" for n in methods if n not in wrong
    ]
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
    return (
        f"{p_words(judged.p_value)} by {shown}; {kind}the truth {value:.2f}{interval} SDs from the "
        f"mean"
    )


def _of_the_prior(methods: Mapping[str, Judged]) -> list[str]:
    if methods["prior"].outside != (LOG_LIKELIHOOD,):
        return []
    words = "Of the prior in the posterior's place the ranks of every parameter are uniform, as "
    return [words + "theory has it; the ranks of the log likelihood alone find it out."]


def _of_symmetry(methods: Mapping[str, Judged]) -> list[str]:
    """What the test for bias alone does not see."""
    missed = [
        f"{method_words(name)} ({p_words(one.symmetry)})"
        for name, one in methods.items()
        if name in miscalibrated(methods) and one.distance[1] > 1 and one.symmetry > ALPHA
    ]
    if not missed:
        return []
    words = "The symmetry test of variational SBC (Yao et al. 2018) tells bias, not width: on the "
    words += f"line it finds nothing wrong with {listed(missed)}, too narrow as they are about the "
    return [words + "right mean."]


def _of_steepness(methods: Mapping[str, Judged]) -> str:
    biased = {n: one.bias for n, one in methods.items() if max(one.bias) < 0 or min(one.bias) > 0}
    if not biased:
        return "No bias of the boundary's steepness is beyond chance."
    words = [
        f"{method_words(name)} by {_signed(mean)} [{_signed(low)}, {_signed(high)}]"
        for name, (mean, low, high) in biased.items()
    ]
    return (
        f"The boundary's steepness is misjudged by {listed(words)} of the posterior's SDs on "
        f"average (95 % t intervals; below 0: not steep enough)."
    )


def _signed(value: float) -> str:
    return number(value, "+.2f")


def _of_nuts(study: SbcStudy) -> str:
    """What so few data sets can find out: the posterior made half as wide, on the same."""
    methods = study.results["linear"]
    count = methods["nuts"].simulations
    broken = methods["half-as-wide"]
    p = _first(broken, count).p_value
    which = "all" if count == broken.simulations else "the first"
    outcome = "found out" if p <= ALPHA else "not found out"
    return (
        f"NUTS has {which} {count} data sets; on the same of the line, the exact posterior made "
        f"half as wide is {outcome} ({p_words(p)}). So much, and no more, is tested of NUTS."
    )


def _of_multiplicity(judged: Mapping[str, Mapping[str, Judged]]) -> str:
    """What is left when the number of methods is allowed for as well."""
    count = sum(map(len, judged.values()))
    left = [
        f"{method_words(name)} ({problem})"
        for problem, methods in judged.items()
        for name in miscalibrated(methods, tests=count)
    ]
    return (
        f"Each p-value is the least of a method's quantities times their number, and each method "
        f"is tested at 5 %. With the {count} methods allowed for as well (p times {count}), "
        f"{listed(left) if left else 'none'} would still be called miscalibrated."
    )


def _first(result: SbcResult, count: int) -> SbcResult:
    parts = {name: getattr(result, name)[:count] for name in ("ranks", "truth", "mean", "sd")}
    return replace(result, **parts)


def method_words(method: str) -> str:
    """What a method is called in a sentence."""
    return PROSE.get(method) or labels_of([method])


def p_words(value: float) -> str:
    """Write a p-value."""
    return f"p = {value:.2g}" if value >= 1e-3 else "p < 0.001"
