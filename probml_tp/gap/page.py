"""Which posterior should I use? The findings and figures of gap studies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

import numpy as np

from probml_tp.gap import Advice, GapReport, Requirement, recommend
from probml_tp.gap.arrays import report_from_arrays, report_to_arrays
from probml_tp.gap.checks import NOISE_FLOOR
from probml_tp.gap.doubt import Doubt
from probml_tp.gap.plots.advice import advice_panels
from probml_tp.gap.plots.evidence import evidence_figure, k_hat_figure
from probml_tp.gap.plots.forest import gap_forest, weight_forest
from probml_tp.gap.study import GapStudy
from probml_tp.gap.tables import metrics_of
from probml_tp.harness.experiment import Figure
from probml_tp.kit.common import Array, arrays_under, labels_of

__all__ = ["TITLE", "overview", "page_arrays", "page_figures", "page_findings"]

TITLE = "Which posterior should I use?"


# -------------------------------------------------------------------------------- findings


def page_findings(study: GapStudy) -> list[str]:
    """The recommendation, why, what would change it, and what no reference would have told.

    Args:
        study: what was found.

    Returns:
        Sentences.
    """
    advice = study.advice
    change = [f"What would change this: {sentence}" for sentence in advice.changes]
    given = [advice.headline, *advice.reasons, *advice.obstacles.values(), *change]
    without = [
        f"{labels_of([guide])} is left out, because it refuses the model or fails: {reason}"
        for guide, reason in study.refused.items()
    ]
    return [*given, *unaided(study), *study.problem.notes, *without]


def overview(studies: Sequence[GapStudy]) -> list[str]:
    """The recommendation for each of several problems, and what would change it.

    Args:
        studies: what was found.

    Returns:
        What was required, then two or three sentences a problem.
    """
    sentences = []
    for study in studies:
        advice, title = study.advice, study.problem.title
        said = [advice.headline, *advice.reasons[1:]]  # less what was required
        if advice.obstacles:
            said.append(f"Cheaper, but beyond a limit: {', '.join(advice.obstacles)}.")
        sentences.append(f"{title}: {' '.join(said)}")
        if advice.changes:
            sentences.append(f"{title}, what would change this: {' '.join(advice.changes)}")
        sentences += [f"{title}: {sentence}" for sentence in unaided(study)]
    limits = dict.fromkeys(study.advice.limits for study in studies)
    return [*sentences, f"Required in every region: {'. For the others: '.join(limits)}."]


def unaided(study: GapStudy) -> Iterator[str]:
    """Which posteriors would be chosen without a reference, and which one is nearest to it.

    Args:
        study: what was found.

    Yields:
        At most one sentence, where there is something to choose from.
    """
    if study.doubt is not None:  # the scores are on the page themselves
        return
    evidence = study.report.evidence.drop(index=study.report.reference)
    metric = next(iter(metrics_of(study.report)))
    best = {
        words: str((sign * evidence[key]).idxmax())
        for key, sign, words in (
            ("pareto_k", -1, "k-hat"),
            ("elbo", 1, "the ELBO"),
            ("elpd_loo", 1, "PSIS-LOO"),
        )
        if evidence[key].notna().sum() > 1
    }
    if not best:
        return
    choices = ", ".join(f"{labels_of([name])} by {words}" for words, name in best.items())
    nearest = []
    for region in study.report.regions:
        distance = study.report.table(of=region)[metric, "value"].drop(index=NOISE_FLOOR)
        nearest.append(f"{labels_of([str(distance.idxmin())])} in region {region}")
    yield (
        f"Without a reference one would choose {choices}; nearest to the reference "
        f"({metrics_of(study.report)[metric].split(' (')[0]}) is {', '.join(nearest)}."
    )


# --------------------------------------------------------------------------------- figures


def page_arrays(studies: Sequence[GapStudy]) -> dict[str, Array]:
    """All that the figures need.

    Args:
        studies: what was found.

    Returns:
        The names of the problems, and of each its title, report and requirements.
    """
    arrays: dict[str, Array] = {"problems": np.array([study.problem.name for study in studies])}
    for study in studies:
        name, asked = study.problem.name, study.advice.requirements
        arrays[f"{name}.title"] = np.array(study.problem.title)
        arrays[f"{name}.identified"] = np.array(study.problem.identified)
        if study.doubt is not None:
            arrays[f"{name}.doubt"] = np.array(json.dumps(asdict(study.doubt)))
        arrays[f"{name}.requirements"] = np.array(json.dumps([asdict(r) for r in asked]))
        own = report_to_arrays(study.report)
        arrays |= {f"{name}.report.{key}": values for key, values in own.items()}
    return arrays


def page_figures(arrays: Mapping[str, Array]) -> Iterator[Figure]:
    """Draw the verdicts of all problems, then of each the gap, k-hats and the evidence.

    Args:
        arrays: of :func:`page_arrays`.

    Yields:
        Figures.
    """
    problems = {str(name): str(arrays[f"{name}.title"]) for name in arrays["problems"]}
    reports = {
        name: report_from_arrays(arrays_under(arrays, f"{name}.report")) for name in problems
    }
    advices = {name: _advice(arrays, name, report) for name, report in reports.items()}
    alone = len(problems) == 1
    shown = {"" if alone else problems[name]: advice for name, advice in advices.items()}
    choices = [
        f"{'use' if alone else f'{problems[n]}:'} {labels_of([a.choice])}"
        for n, a in advices.items()
    ]
    yield Figure(
        "verdicts",
        f"{TITLE} {'; '.join(choices)}",
        "Each requirement in each region: within its limit, beyond it, or not to be told by so "
        "many draws; the number is the error. Right: what each posterior cost, the reference "
        "marked by a line. Recommended is the cheapest that meets every limit everywhere.",
        advice_panels(shown),
    )
    for name, title in problems.items():
        suffix = "" if alone else f"-{name}"
        lead = "" if alone else f"{title}: "
        identified = bool(arrays[f"{name}.identified"])
        yield from _of_problem(reports[name], suffix, lead, identified=identified)


def _of_problem(report: GapReport, suffix: str, lead: str, *, identified: bool) -> Iterator[Figure]:
    reference = labels_of([report.reference])
    yield Figure(
        f"gap{suffix}",
        f"{lead}how far predictions are from those of {reference}, region by region",
        f"Values with {report.level:.0%} bootstrap intervals. Grey: {reference} against itself, "
        "one half of its draws against the other; a gap of that size may be none. The line is "
        "where nothing differs.",
        gap_forest(report, list(metrics_of(report)), regions=report.regions),
    )
    if identified and len(report.weights):
        yield Figure(
            f"weights{suffix}",
            f"{lead}how far the marginals of the weights are from those of {reference}",
            "Means over the elements of each site: distance of the means in standard deviations of "
            "the reference, ratio of the variances, and 2-Wasserstein distance in the units of "
            "the weight.",
            weight_forest(report),
        )
    if report.evidence["pareto_k"].notna().any():
        yield Figure(
            f"k-hat{suffix}",
            f"{lead}whether draws could be reweighted to the posterior, as a whole and by layer",
            "Pareto k-hat of importance ratios; by layer with the others held at the centre. It "
            "needs no reference, and grows with the number of parameters for anything not exact.",
            k_hat_figure(report),
        )
    if not report.evidence[["elbo", "elpd_loo"]].notna().any().all():
        return
    yield Figure(
        f"evidence{suffix}",
        f"{lead}bounds and estimates of the log evidence, and the density of points left out",
        "Left: a posterior with a density bounds the log evidence from below (ELBO, IWELBO); full "
        "markers are closed forms or, for chains, bridge sampling. Right: PSIS-LOO.",
        evidence_figure(report),
    )


def _advice(arrays: Mapping[str, Array], name: str, report: GapReport) -> Advice:
    asked = json.loads(str(arrays[f"{name}.requirements"]))
    doubt = None
    if f"{name}.doubt" in arrays:
        saved = json.loads(str(arrays[f"{name}.doubt"]))
        doubt = Doubt(saved["kind"], tuple(saved["sentences"]), tuple(saved["remedy"]))
    return recommend(report, requirements=[Requirement(**r) for r in asked], doubt=doubt)
