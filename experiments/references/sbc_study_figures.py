"""What simulation-based calibration of the two small problems shows, drawn from ranks alone."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from probml_tp.diagnostics import SbcResult
from probml_tp.diagnostics.sbc.ranks import uniform_p_value
from probml_tp.diagnostics.sbc.run import LOG_LIKELIHOOD
from probml_tp.experiments.references.rank_panels import (
    plot_ecdf_difference,
    plot_rank_histogram,
    rank_bins,
)
from probml_tp.experiments.references.sbc_judging import (
    ALPHA,
    Judged,
    judge_study,
    method_words,
    miscalibrated,
    p_words,
    sbc_style,
)
from probml_tp.experiments.references.sbc_problems import PROBLEMS, expected_distance
from probml_tp.experiments.references.sbc_study import SbcStudy, sbc_study
from probml_tp.harness.experiment import Figure
from probml_tp.kit.common import Array, listed
from probml_tp.plots.robustness import Panel, interval_panels
from probml_tp.plots.style import figure, house_style, panels, shared_legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

SHORT = {"half-as-wide": "Half as wide", "prior": "Prior alone"}
"""Names of what is broken on purpose, for titles of panels."""

SHOWN = {
    "linear": ("intercept", "slope", LOG_LIKELIHOOD),
    "logistic": ("weight 1", "steepness", LOG_LIKELIHOOD),
}
"""The quantities that have a panel."""

IN_A_BIN = 4
"""Bins of a histogram hold so many uniform ranks at least, if there are enough."""

Judgements = Mapping[str, Mapping[str, Judged]]


def sbc_figures(arrays: Mapping[str, Array]) -> Iterator[Figure]:
    """Draw a study."""
    study = sbc_study(arrays)
    judged = judge_study(study)
    for problem, methods in study.items():
        yield _ecdf_figure(problem, methods, miscalibrated(judged[problem]))
    yield _histogram_figure(study, judged)
    yield _distance_figure(judged)


def _short(method: str) -> str:
    return SHORT.get(method, sbc_style(method).label)


# ----------------------------------------------------------------------- differences of the ECDF


def _ecdf_figure(problem: str, methods: Mapping[str, SbcResult], wrong: list[str]) -> Figure:
    title = f"{PROBLEMS[problem].title}: "
    title += (
        f"ranks are not uniform for {listed(map(method_words, wrong))}"
        if wrong
        else "no method's ranks are found not to be uniform"
    )
    others = ", ".join(q for q in PROBLEMS[problem].quantities if q not in SHOWN[problem])
    also = f" Ranked as well, without a panel: {others}." if others else ""
    count = methods["nuts"].simulations
    return Figure(
        name=f"sbc-{problem}",
        title=title + ".",
        caption=(
            "The ECDF of the truth's rank among posterior draws, less that of uniform ranks. First "
            "above the band and then below it: too narrow; below it everywhere: the posterior lies "
            f"below the truth. NUTS, fitted to the first {count} data sets only, has a row of its "
            "own with a wider band. Titles name who leaves the 95 % band of a panel, which one of "
            f"20 right methods does in each; the figure's title is by the test of all quantities "
            f"together.{also}"
        ),
        figure=_ecdf_panels(problem, methods),
    )


@house_style()
def _ecdf_panels(problem: str, methods: Mapping[str, SbcResult]) -> MatplotlibFigure:
    nuts = {"nuts": methods["nuts"]}
    others = {name: result for name, result in methods.items() if name not in nuts}
    made, axes = figure(2, len(SHOWN[problem]), height=6.2, sharex=True)
    for results, line in zip((others, nuts), axes, strict=True):
        for quantity, ax in zip(SHOWN[problem], line, strict=True):
            plot_ecdf_difference(results, quantity, ax=ax, style=sbc_style)
            ax.set_title(_outside(results, quantity))
            ax.set(xlabel="", ylabel="")
        count = next(iter(results.values())).simulations
        line[0].set_ylabel(f"ECDF − uniform\n({count:,} data sets)")
    for ax in axes[-1]:
        ax.set_xlabel("Rank of the truth (share of draws)")
    shared_legend(made, axes.flat, columns=min(len(methods) + 1, 4))
    return made


def _outside(results: Mapping[str, SbcResult], quantity: str) -> str:
    """The quantity, and whose ranks leave the band."""
    out = [
        _short(name)
        for name, result in results.items()
        if uniform_p_value(result.ranks_of(quantity), result.num_samples) <= ALPHA
    ]
    heading = quantity.replace("_", " ").capitalize()
    verdict = textwrap.fill(f"outside: {', '.join(out)}", 36) if out else "within the band"
    return f"{heading}\n{verdict}"


# -------------------------------------------------------------------------------- rank histograms


def _histogram_figure(results: SbcStudy, judged: Judgements) -> Figure:
    telling = listed(f"the {PROBLEMS[p].telling} ({PROBLEMS[p].title.lower()})" for p in results)
    crooked = [
        f"{method_words(name)} ({problem}, {p_words(one.p_telling)})"
        for problem, methods in judged.items()
        for name, one in methods.items()
        if one.p_telling <= ALPHA
    ]
    verdict = f"not flat for {listed(crooked)}" if crooked else "flat for all, up to chance"
    return Figure(
        name="sbc-ranks",
        title=f"Rank histograms of {telling}: {verdict}.",
        caption=(
            "How often the truth had a rank among the posterior draws. A U: too narrow; a slope: "
            "biased. Each bin of uniform ranks is within the grey range with probability 95 %; "
            "p-values are of the simultaneous test of this one quantity."
        ),
        figure=_histograms(results),
    )


@house_style()
def _histograms(results: SbcStudy) -> MatplotlibFigure:
    each = [(p, name, r) for p, methods in results.items() for name, r in methods.items()]
    made, _, used = panels(len(each), most=3, height=2.0, sharex=True)
    for (problem, method, result), ax in zip(each, used, strict=True):
        telling = PROBLEMS[problem].telling
        most = max(4, result.simulations // IN_A_BIN)
        bins = rank_bins(result.num_samples, most=min(20, most))
        plot_rank_histogram(result, telling, ax=ax, style=sbc_style(method), bins=bins)
        ax.set_title(f"{_short(method)}, {telling}")
        ax.set_ylabel("Data sets")
        ax.set_xlabel("Rank of the truth (share)" if ax in used[-3:] else "")
    shared_legend(made, used, columns=3)
    return made


# ------------------------------------------------------------------------------ distance and bias


def _distance_figure(judged: Judgements) -> Figure:
    names = {(p, m): f"{PROBLEMS[p].title}: {_short(m)}" for p, ms in judged.items() for m in ms}
    rows = {names[key]: judged[key[0]][key[1]] for key in names}
    narrow = {
        f"{method_words(method)} ({problem})": rows[name].distance[0]
        for (problem, method), name in names.items()
        if rows[name].distance[1] > 1
    }
    title = (
        f"Too narrow: {listed(narrow)}; the truth is up to {max(narrow.values()):.2f} of the "
        f"posterior's SDs from its mean, where a right posterior has 1."
        if narrow
        else "No posterior is found too narrow: the truth is about one SD from each mean."
    )
    return Figure(
        name="sbc-distance",
        title=title,
        caption=(
            "Left: root mean square of the distance between truth and posterior mean, in the "
            "posterior's standard deviations, over parameters and data sets; diamonds: in closed "
            "form. Right: the mean of mean less truth, for the slope of the line and the "
            "steepness of the boundary. Bars: 95 % t intervals over data sets."
        ),
        figure=interval_panels(
            [
                Panel(
                    "Truth from the mean, RMS (SDs)",
                    {name: one.distance for name, one in rows.items()},
                    reference=1.0,
                    published={
                        name: expected_distance(method)
                        for (problem, method), name in names.items()
                        if problem == "linear"
                    },
                ),
                Panel(
                    "Mean z-score, slope or steepness (SDs)",
                    {name: one.bias for name, one in rows.items()},
                    reference=0.0,
                ),
            ],
            families={name: sbc_style(method) for (_, method), name in names.items()},
            published="In closed form",
        ),
    )
