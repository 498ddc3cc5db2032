r"""How far guides are from NUTS over several runs, beside how far NUTS is from itself.

The data stay the same, and so does the posterior: what differs between runs is where the fit
starts, its random numbers and the draws. All runs are compared with the first run of NUTS, which
has noise of its own. Two numbers bound it: one half of its chains against the other, and another
run against the first. A guide at these distances cannot be told from the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from probml_tp.empirical import Empirical
from probml_tp.experiments.plane import kit
from probml_tp.experiments.plane.kit import REFERENCE, Data, Plane, PlaneView
from probml_tp.guides.recipes import FitSettings, fit_all
from probml_tp.harness.experiment import Figure, Results, Table, Update
from probml_tp.kit.common import Array, labels_of
from probml_tp.kit.sentences import Range
from probml_tp.metrics.over_runs import mean_interval, paired_seeds
from probml_tp.model import BayesianModel
from probml_tp.plots.robustness import plot_intervals
from probml_tp.plots.style import figure, guide_style, house_style
from probml_tp.posterior import Posterior

REPEATED = ("mean-field", "mc-dropout")
"""The guides that are fitted again."""

HALVES = "NUTS, chains against chains"
ANOTHER_RUN = "NUTS, another run"
TITLE = "Distance to NUTS over the map"
DISTANCES = Range(
    "tv",
    "Mean total variation to NUTS: {each}",
    table=TITLE,
    write="{:.3f}".format,
    name=str,
)


def repeat_fits(
    results: Results[Any],
    views: Mapping[str, PlaneView],
    model_of: Callable[[int], BayesianModel],
    train: Data,
    how: FitSettings,
    *,
    plane: Plane,
    update: Update,
) -> None:
    """Fit the repeated guides again from other seeds, NUTS once, and compare all with NUTS."""
    look = partial(kit.look_at_plane, plane=plane, num_samples=results.config.num_samples)
    again = [guide for guide in REPEATED if guide in views]
    reference, seeds = views[REFERENCE], results.config.seeds
    runs = {guide: [views[guide].metrics(reference)] for guide in again}
    one, other = map(look, _halves(reference.posterior))
    runs[HALVES] = [one.metrics(other)]
    for seed in range(how.seed + 1, how.seed + seeds):
        asked = [*again, REFERENCE] if seed == how.seed + 1 else again
        own = replace(how, seed=seed)
        fitted = fit_all(asked, model_of(seed), train, own, stage=lambda _: nullcontext(update))
        for guide in asked:
            row = ANOTHER_RUN if guide == REFERENCE else guide
            runs.setdefault(row, []).append(look(fitted[guide]).metrics(reference))
    table, arrays = repeats_table(runs, kit.compared_columns(plane), seeds)
    results.tables.append(table)
    results.arrays |= arrays


def repeats_table(
    runs: Mapping[str, Sequence[Mapping[str, float]]], columns: Mapping[str, str], seeds: int
) -> tuple[Table, dict[str, Array]]:
    """Means over the runs with intervals, the floor below, and the values by row for figures."""
    table = Table(
        f"{TITLE}: means over {seeds} fits from different seeds with Student's t intervals at "
        f"95 %, and NUTS against itself",
        "Posterior",
        columns=columns,
    )
    arrays = {}
    for row, found in runs.items():
        for metric in columns:
            values = np.array([run[metric] for run in found if metric in run])
            arrays[f"repeats.{row}.{metric}"] = values
            if len(values):
                kit.put_mean(table, guide_style(row).label, metric, values)
    return table, arrays


def _halves(chains: Posterior) -> list[Posterior]:
    """The first half of the chains and the second, each as a posterior."""
    guide = chains.guide
    assert isinstance(guide, Empirical)  # noqa: S101 - NUTS is
    middle = len(guide.flat) // 2
    model, seed, info = chains.model, chains.seed, chains.info
    return [
        Posterior(Empirical(model, draws=model.layout.unravel(part)), seed=seed, info=info)
        for part in (guide.flat[:middle], guide.flat[middle:])
    ]


def repeated_values(results: Results[Any], row: str, metric: str = "tv") -> Array:
    """The values of a row over the runs that have it."""
    return results.arrays.get(f"repeats.{row}.{metric}", np.zeros(0))


def repeated(results: Results[Any]) -> str | None:
    """How far the guides are from NUTS, beside how far NUTS is from itself."""
    tv = {g: values for g in REPEATED if len(values := repeated_values(results, g))}
    if not tv:
        return None
    parts = [
        f"{labels_of([guide])} is at a mean total variation distance of {_with_error(values)} from "
        f"NUTS, its mutual information correlated at "
        f"{_with_error(repeated_values(results, guide, 'mi_correlation'))}"
        for guide, values in tv.items()
    ]
    floor = [*repeated_values(results, HALVES), *repeated_values(results, ANOTHER_RUN)]
    itself = [
        f"{v:.3f} from {a}" for v, a in zip(floor, ("chains to chains", "run to run"), strict=False)
    ]
    within = [guide for guide, values in tv.items() if values.mean() <= max(floor)]
    verdict = (
        f"chains of this length cannot tell {labels_of(within)} from the posterior"
        if within
        else "further than the reference's own noise"
    )
    count = max(map(len, tv.values()))
    return (
        f"Over {count} fits (mean ± standard error) {' and '.join(parts)}; NUTS itself is "
        f"{' and '.join(itself)}: {verdict}."
    )


def _with_error(values: Array) -> str:
    if len(values) < 2:
        return f"{np.mean(values):.3f}"
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.3f}"


def nearer(results: Results[Any]) -> str | None:
    """Whether the paired difference of the two guides is on one side of 0."""
    first, second = (repeated_values(results, guide) for guide in REPEATED)
    if min(len(first), len(second)) < 2:
        return None
    gap = paired_seeds(first, second)
    assert gap.interval is not None  # noqa: S101 - of several runs
    low, high = gap.interval
    one, other = (labels_of([guide]) for guide in REPEATED)
    verdict = f"{one if gap.mean < 0 else other} is nearer to NUTS"
    return (
        f"{verdict if gap.excludes_zero else 'Neither is nearer'}: the distance of {one} less that "
        f"of {other}, paired by seed, is {gap.mean:+.3f} (95 % interval {low:+.3f} to {high:+.3f})."
    )


@house_style()
def repeat_figure(results: Results[Any]) -> Figure:
    """Draw each run as a small point, and the mean of several runs with its interval."""
    rows = [r for r in (*REPEATED, HALVES, ANOTHER_RUN) if len(repeated_values(results, r))]
    made, axes = figure(1, len(kit.TO_REFERENCE), height=0.32 * len(rows) + 0.9, sharey=True)
    for (metric, heading), ax in zip(kit.TO_REFERENCE.items(), axes[0], strict=True):
        runs = {row: repeated_values(results, row, metric) for row in rows}
        ends = {row: _ends(values) for row, values in runs.items()}
        plot_intervals(ends, ax=ax)
        for place, (row, values) in enumerate(runs.items()):
            if len(values) > 1:
                height = np.full(len(values), place + 0.25)
                ax.plot(values, height, ".", color=guide_style(row).color, markersize=4)
        every = np.concatenate(list(runs.values()))
        low, high = every.min(), every.max()
        margin = max(high - low, 0.05 * abs(high), 1e-9)
        seen = [end for found in ends.values() for end in found if np.isfinite(end)]
        left, right = max(min(seen), low - margin), min(max(seen), high + margin)
        ax.set(xlabel=heading, xlim=(left - 0.05 * margin, right + 0.05 * margin))
    caption = (
        f"Small points: fits of the same model to the same data from {results.config.seeds} "
        "seeds, each compared with the first run of NUTS over the map; large points and lines: "
        "their means and Student's t intervals at 95 %. Below, NUTS against itself: what is no "
        "further than these cannot be told from the reference."
    )
    return Figure("repeated-fits", DISTANCES(results) or "", caption, made)


def _ends(values: Array) -> tuple[float, float, float]:
    if not len(values):
        return (np.nan, np.nan, np.nan)
    found = mean_interval(values)
    return (found.mean, *(found.interval or (np.nan, np.nan)))
