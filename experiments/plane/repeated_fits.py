r"""How far guides are from NUTS over several runs, beside how far NUTS is from itself.

The data stay the same, and so does the posterior: what differs between runs is where the fit
starts, its random numbers and the draws. All runs are compared with the first run of NUTS, which
has noise of its own. Two numbers bound it: one half of its chains against the other, and another
run against the first. A guide at these distances cannot be told from the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from probml_tp.empirical import Empirical
from probml_tp.experiments.plane.kit import (
    REFERENCE,
    Plane,
    PlaneView,
    compared_with,
    look_at_plane,
    number_of_draws,
)
from probml_tp.harness.experiment import Progress, Table, Update
from probml_tp.inference.parallel import single_thread
from probml_tp.kit.common import Array, labels_of, over_seeds
from probml_tp.metrics.over_runs import MeanInterval, mean_interval, paired_seeds
from probml_tp.plots.style import guide_style
from probml_tp.posterior import Posterior

REPEATED = ("mean-field", "mc-dropout")
"""The guides that are fitted again."""

HALVES = "NUTS, chains against chains"
ANOTHER_RUN = "NUTS, another run"
METRICS = {
    "tv": "TV to NUTS ↓",
    "mi_correlation": "MI corr. with NUTS ↑",
    "mi_ratio": "Mean MI, ratio",
    "far_confidence": "Confidence far away",
}

Refit = Callable[[str, int, Update], Posterior]
"""Fits a guide with a seed, reporting progress."""


@dataclass(frozen=True)
class Repeats:
    """Several runs of the same fits."""

    runs: Sequence[Mapping[str, Mapping[str, float]]]
    seeds: int

    def values(self, row: str, metric: str) -> list[float]:
        """The values of a row over the runs that have it."""
        return [run[row][metric] for run in self.runs if metric in run.get(row, {})]

    def over_runs(self, row: str, metric: str) -> MeanInterval:
        """Their mean and Student's t interval."""
        return mean_interval(self.values(row, metric))

    @property
    def table(self) -> Table:
        """Means over the runs with intervals, the floor below."""
        named = [{guide_style(row).label: cell for row, cell in run.items()} for run in self.runs]
        means, intervals = over_seeds(named)
        return Table(
            title=(
                f"Distance to NUTS over the map: means over {self.seeds} fits from different "
                f"seeds with Student's t intervals at 95 %, and NUTS against itself"
            ),
            row_heading="Posterior",
            rows=means,
            columns=METRICS,
            intervals=intervals,
        )

    def arrays(self) -> dict[str, Array]:
        """The values of all runs by row, for figures."""
        rows = dict.fromkeys(row for run in self.runs for row in run)
        return {
            f"repeats.{row}.{metric}": np.array(self.values(row, metric))
            for row in rows
            for metric in METRICS
        }


def repeat_stages(
    guides: Sequence[str], seconds: Mapping[str, float], seeds: int
) -> dict[str, float]:
    """The stages of :func:`repeat_fits`."""
    if REFERENCE not in guides:
        return {}
    again = [guide for guide in REPEATED if guide in guides]
    total = (seeds - 1) * sum(seconds[guide] + 0.5 for guide in again)
    return {"fit again": total + (seconds[REFERENCE] if seeds > 1 else 0.0) + 1.0}


def repeat_fits(
    guides: Sequence[str],
    refit: Refit,
    *,
    posteriors: Mapping[str, Posterior],
    views: Mapping[str, PlaneView],
    plane: Plane,
    num_samples: int,
    seed: int,
    seeds: int,
    progress: Progress,
) -> Repeats | None:
    """Fit the repeated guides again from other seeds, NUTS once, and compare all with NUTS."""
    if REFERENCE not in guides:
        return None
    again = [guide for guide in REPEATED if guide in guides]
    reference = views[REFERENCE]

    def look(posterior: Posterior) -> PlaneView:
        count = number_of_draws(posterior, num_samples)
        return look_at_plane(posterior, plane, num_samples=count)

    with progress.stage("fit again") as update, single_thread():
        first = {guide: compared_with(views[guide], reference) for guide in again}
        halves = [look(half) for half in _halves(posteriors[REFERENCE])]
        first[HALVES] = compared_with(*halves)
        runs = [first]
        for other in range(seed + 1, seed + seeds):
            found = {}
            for guide in again:
                found[guide] = compared_with(look(refit(guide, other, update)), reference)
            runs.append(found)
        if seeds > 1:
            second = look(refit(REFERENCE, seed + 1, update))
            first[ANOTHER_RUN] = compared_with(second, reference)
    return Repeats(runs, seeds)


def _halves(chains: Posterior) -> list[Posterior]:
    """The first half of the chains and the second, each as a posterior."""
    guide = chains.guide
    assert isinstance(guide, Empirical)  # noqa: S101 - NUTS is
    flat = guide.flat
    middle = len(flat) // 2
    made = []
    for part in (flat[:middle], flat[middle:]):
        half = Empirical(chains.model, draws=chains.model.layout.unravel(part))
        made.append(Posterior(half, seed=chains.seed, info=chains.info))
    return made


def repeat_sentences(repeats: Repeats) -> list[str]:
    """Say how far the guides are from NUTS, how far NUTS is from itself, and which is nearer."""
    present = [guide for guide in REPEATED if repeats.values(guide, "tv")]
    floor = repeats.values(HALVES, "tv") + repeats.values(ANOTHER_RUN, "tv")
    found = []
    if present:
        parts = [_of_guide(repeats, guide) for guide in present]
        found.append(
            f"Over {repeats.seeds} fits (mean ± standard error) {' and '.join(parts)}; NUTS "
            f"itself is {floor[0]:.3f} from chains to chains"
            + (f" and {floor[1]:.3f} from run to run" if len(floor) > 1 else "")
            + f": {_against_floor(repeats, present, max(floor))}."
        )
    if len(present) == 2 and repeats.seeds > 1:
        found.append(_nearer(repeats))
    return found


def _against_floor(repeats: Repeats, guides: Sequence[str], floor: float) -> str:
    within = [g for g in guides if repeats.over_runs(g, "tv").mean <= floor]
    if not within:
        return "further than the reference's own noise"
    return f"chains of this length cannot tell {labels_of(within)} from the posterior"


def _of_guide(repeats: Repeats, guide: str) -> str:
    tv, correlation = (_with_error(repeats.values(guide, m)) for m in ("tv", "mi_correlation"))
    return (
        f"{labels_of([guide])} is at a mean total variation distance of {tv} from NUTS, its "
        f"mutual information correlated at {correlation}"
    )


def _with_error(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{np.mean(values):.3f}"
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.3f}"


def _nearer(repeats: Repeats) -> str:
    """Whether the paired difference of the two guides is on one side of 0."""
    gap = paired_seeds(repeats.values(REPEATED[0], "tv"), repeats.values(REPEATED[1], "tv"))
    assert gap.interval is not None  # noqa: S101 - of several runs
    low, high = gap.interval
    nearer = REPEATED[0] if gap.mean < 0 else REPEATED[1]
    verdict = (
        f"{labels_of([nearer])} is nearer to NUTS" if gap.excludes_zero else "neither is nearer"
    )
    first, second = (labels_of([guide]) for guide in REPEATED)
    return (
        f"{verdict[0].upper()}{verdict[1:]}: the distance of {first} less that of {second}, paired "
        f"by seed, is {gap.mean:+.3f} (95 % interval {low:+.3f} to {high:+.3f})."
    )
