"""What simulation-based calibration of the two small problems shows, drawn from ranks alone."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from probml_tp.diagnostics import SbcResult
from probml_tp.diagnostics.sbc.ranks import uniform_p_value
from probml_tp.diagnostics.sbc.run import LOG_LIKELIHOOD
from probml_tp.experiments.references import sbc_judging as judging
from probml_tp.experiments.references import sbc_study
from probml_tp.experiments.references.sbc_study import PROBLEMS, SbcStudy
from probml_tp.harness.experiment import Figure
from probml_tp.kit.common import Array, listed
from probml_tp.plots import style as house
from probml_tp.plots.robustness import Panel, interval_panels
from probml_tp.plots.style import TRAINING_RANGE_COLOR, GuideStyle, house_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHORT = {"half-as-wide": "Half as wide", "prior": "Prior alone"}
"""Names of what is broken on purpose, for titles of panels."""

SHOWN = {
    "linear": ("intercept", "slope", LOG_LIKELIHOOD),
    "logistic": ("weight 1", "steepness", LOG_LIKELIHOOD),
}
"""The quantities that have a panel."""


def rank_bins(num_samples: int, *, most: int = 20) -> int:
    """The number of bins of equal width that ranks from 0 to ``num_samples`` are counted in."""
    return max(bins for bins in range(1, most + 1) if (num_samples + 1) % bins == 0)


def plot_rank_histogram(
    result: SbcResult, quantity: str, *, ax: Axes, style: GuideStyle, bins: int | None = None
) -> Axes:
    """Draw how many ranks fall into each bin, over the 95 % interval of uniform ones."""
    places = result.num_samples + 1
    bins = rank_bins(result.num_samples) if bins is None else bins
    if bins < 1 or places % bins:
        raise ValueError(
            f"bins must divide the number of ranks, {places}, for uniform ranks to fill them "
            f"equally; got {bins}. Leave it out for {rank_bins(result.num_samples)}, or draw one "
            f"less than a number with more divisors, such as 99."
        )
    before = ax.get_ylim()[1]  # of axes that share theirs: what is there already has to fit
    counts = np.bincount(result.ranks_of(quantity), minlength=places).reshape(bins, -1).sum(1)
    lower, upper = stats.binom.interval(0.95, result.simulations, 1 / bins)
    look: Any = {"color": TRAINING_RANGE_COLOR, "alpha": 0.28, "linewidth": 0}
    ax.axhspan(lower, upper, label="95 % of uniform ranks, each bin", **look)
    ax.axhline(result.simulations / bins, color=TRAINING_RANGE_COLOR, linewidth=1.0)
    edges = np.linspace(0, 1, bins + 1)
    ax.stairs(counts, edges, fill=True, color=style.color, alpha=0.55, label=style.label)
    ax.set(xlim=(0, 1), ylim=(0, max(before, 1.05 * max(upper, counts.max()))))
    return ax


def plot_ecdf_difference(results: Mapping[str, SbcResult], quantity: str, *, ax: Axes) -> Axes:
    """Draw the ECDF of the ranks less that of uniform ones, over its simultaneous band."""
    sizes = {name: (r.simulations, r.num_samples) for name, r in results.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(
            f"methods in one panel need results of as many simulations and draws, to share a band; "
            f"got {sizes or 'none'}. Run them alike, or draw them in panels of their own."
        )
    first = next(iter(results.values()))
    look: Any = {"color": TRAINING_RANGE_COLOR, "alpha": 0.28, "linewidth": 0}
    label = "95 % of uniform ranks, everywhere"
    ax.fill_between(first.grid, *first.ecdf_band(level=0.95), label=label, **look)
    ax.axhline(0, color=TRAINING_RANGE_COLOR, linewidth=1.0)
    for name, result in results.items():
        s, difference = judging.sbc_style(name), result.ecdf_difference(quantity)
        ax.plot(result.grid, difference, color=s.color, linestyle=s.linestyle, label=s.label)
    ax.set_xlim(0, 1)
    return ax


def sbc_figures(arrays: Mapping[str, Array]) -> Iterator[Figure]:
    """Draw a study."""
    study = sbc_study.sbc_study(arrays)
    judged = judging.judge_study(study)
    for problem, methods in study.items():
        yield _ecdf_figure(problem, methods, judging.miscalibrated(judged[problem]))
    yield _histogram_figure(study, judged)
    yield _distance_figure(judged)


def _short(method: str) -> str:
    return SHORT.get(method, judging.sbc_style(method).label)


@house_style()
def _ecdf_figure(problem: str, methods: Mapping[str, SbcResult], wrong: list[str]) -> Figure:
    nuts = {"nuts": methods["nuts"]}
    others = {name: result for name, result in methods.items() if name not in nuts}
    shown = SHOWN[problem]
    made, axes = house.figure(2, len(shown), height=6.2, sharex=True)
    for results, line in zip((others, nuts), axes, strict=True):
        for quantity, ax in zip(shown, line, strict=True):
            plot_ecdf_difference(results, quantity, ax=ax)
            ax.set_title(_outside(results, quantity))
        count = next(iter(results.values())).simulations
        line[0].set_ylabel(f"ECDF − uniform\n({count:,} data sets)")
    for ax in axes[-1]:
        ax.set_xlabel("Rank of the truth (share of draws)")
    house.shared_legend(made, axes.flat, columns=min(len(methods) + 1, 4))
    verdict = "no method's ranks are found not to be uniform"
    if wrong:
        verdict = f"ranks are not uniform for {listed(map(judging.method_words, wrong))}"
    return Figure(
        f"sbc-{problem}",
        f"{PROBLEMS[problem].title}: {verdict}.",
        "The ECDF of the truth's rank among posterior draws, less that of uniform ranks: first "
        "above the band and then below it where the posterior is too narrow, below it everywhere "
        "where it lies below the truth. One of 20 right methods leaves the 95 % band of a panel.",
        made,
    )


def _outside(results: Mapping[str, SbcResult], quantity: str) -> str:
    """The quantity, and whose ranks leave the band."""
    out = [
        _short(name)
        for name, result in results.items()
        if uniform_p_value(result.ranks_of(quantity), result.num_samples) <= judging.ALPHA
    ]
    verdict = textwrap.fill(f"outside: {', '.join(out)}", 36) if out else "within the band"
    return f"{quantity.replace('_', ' ').capitalize()}\n{verdict}"


@house_style()
def _histogram_figure(study: SbcStudy, judged: judging.Judgements) -> Figure:
    each = [(p, name, r) for p, methods in study.items() for name, r in methods.items()]
    made, _, used = house.panels(len(each), most=3, height=2.0, sharex=True)
    for (problem, method, result), ax in zip(each, used, strict=True):
        telling = PROBLEMS[problem].telling
        most = min(20, max(4, result.simulations // 4))  # so that bins hold at least four
        bins = rank_bins(result.num_samples, most=most)
        plot_rank_histogram(result, telling, ax=ax, style=judging.sbc_style(method), bins=bins)
        ax.set(title=f"{_short(method)}, {telling}", ylabel="Data sets")
        ax.set_xlabel("Rank of the truth (share)" if ax in used[-3:] else "")
    house.shared_legend(made, used, columns=3)
    telling = listed(f"the {PROBLEMS[p].telling} ({PROBLEMS[p].title.lower()})" for p in study)
    crooked = [
        f"{judging.method_words(name)} ({problem}, {judging.p_words(one.p_telling)})"
        for problem, methods in judged.items()
        for name, one in methods.items()
        if one.p_telling <= judging.ALPHA
    ]
    verdict = f"not flat for {listed(crooked)}" if crooked else "flat for all, up to chance"
    return Figure(
        "sbc-ranks",
        f"Rank histograms of {telling}: {verdict}.",
        "How often the truth had a rank among the posterior draws: a U is too narrow, a slope "
        "biased. Each bin of uniform ranks is within the grey range with probability 95 %; "
        "p-values are of the simultaneous test of this one quantity.",
        made,
    )


def _distance_figure(judged: judging.Judgements) -> Figure:
    each = {
        f"{PROBLEMS[problem].title}: {_short(method)}": (problem, method, one)
        for problem, methods in judged.items()
        for method, one in methods.items()
    }
    narrow = {
        f"{judging.method_words(method)} ({problem})": one.distance[0]
        for problem, method, one in each.values()
        if one.distance[1] > 1
    }
    title = "No posterior is found too narrow: the truth is about one SD from each mean."
    if narrow:
        title = (
            f"Too narrow: {listed(narrow)}; the truth is up to {max(narrow.values()):.2f} of the "
            f"posterior's SDs from its mean, where a right posterior has 1."
        )
    known = {n: sbc_study.expected_distance(m) for n, (p, m, _) in each.items() if p == "linear"}
    distances, biases = (
        {name: getattr(one, field) for name, (_, _, one) in each.items()}
        for field in ("distance", "bias")
    )
    panels = [
        Panel("Truth from the mean, RMS (SDs)", distances, reference=1.0, published=known),
        Panel("Mean z-score, slope or steepness (SDs)", biases, reference=0.0),
    ]
    families = {name: judging.sbc_style(method) for name, (_, method, _) in each.items()}
    return Figure(
        "sbc-distance",
        title,
        "Left: root mean square of the distance between truth and posterior mean, in the "
        "posterior's standard deviations; diamonds: in closed form. Right: the mean of mean less "
        "truth, for the slope or steepness. Bars: 95 % t intervals over data sets.",
        interval_panels(panels, families=families, published="In closed form"),
    )
