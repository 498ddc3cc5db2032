"""How often the bootstrap's 95 % intervals of ranking metrics hold the true value.

Confidences are normal with unit variance, those of right predictions ``apart`` higher; the true
values come from two million points. Counted for the intervals that `bootstrap` gives and for plain
percentiles of the same draws, each with the exact binomial interval of its coverage.

    python benchmarks/interval_coverage.py --runs 600 --resamples 300
"""

from __future__ import annotations

import argparse
from typing import NamedTuple, get_args

import numpy as np
from scipy.stats import binomtest

from probml_tp.metrics.bootstrap import RankingMetric, bootstrap
from probml_tp.metrics.detection import auroc, average_precision, fpr_at_tpr
from probml_tp.metrics.selective import augrc, aurc, excess_aurc

SINGLE = {
    "auroc": auroc,
    "aupr": average_precision,
    "aupr_negative": lambda c, right: average_precision(-c, ~right),
    "fpr95": fpr_at_tpr,
    "aurc": aurc,
    "e_aurc": excess_aurc,
    "augrc": augrc,
}
LARGE = 2_000_000


class Design(NamedTuple):
    """Test points, the share of errors among them, and how far apart the confidences are."""

    points: int
    errors: float
    apart: float


DESIGNS = (
    Design(400, 0.1, 1.5),
    Design(400, 0.1, 2.5),
    Design(400, 0.3, 1.0),
    Design(1000, 0.05, 2.0),
    Design(200, 0.1, 1.5),
)


def draw(design: Design, points: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and whether each prediction is right."""
    right = rng.uniform(size=points) >= design.errors
    return design.apart * right + rng.normal(size=points), right


def coverage(
    metric: RankingMetric, design: Design, truth: float, *, runs: int, resamples: int
) -> tuple[int, int]:
    """How many of the runs have the truth in our interval, and in that of the percentiles."""
    ours = percentiles = 0
    for seed in range(runs):
        confidence, right = draw(design, design.points, np.random.default_rng(seed))
        result = bootstrap(metric, {"a": confidence}, right, resamples=resamples, seed=seed)
        estimate = result.methods["a"]
        ours += estimate.low <= truth <= estimate.high
        low, high = np.quantile(estimate.draws, [0.025, 0.975])
        percentiles += low <= truth <= high
    return ours, percentiles


def share(hits: int, runs: int) -> str:
    """Coverage with its exact binomial interval."""
    ends = binomtest(hits, runs).proportion_ci(0.95, method="exact")
    return f"{hits / runs:.3f} [{ends.low:.3f}, {ends.high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=600)
    parser.add_argument("--resamples", type=int, default=300)
    options = parser.parse_args()
    print("| points | errors | apart | metric | true value | ours | percentiles |")
    print("|---|---|---|---|---|---|---|")
    for design in DESIGNS:
        large = draw(design, LARGE, np.random.default_rng(2**32))
        for metric in get_args(RankingMetric):
            truth = SINGLE[metric](*large)
            hits = coverage(metric, design, truth, **vars(options))
            cells = " | ".join(share(h, options.runs) for h in hits)
            points, errors, apart = design
            print(
                f"| {points} | {errors:g} | {apart:g} | {metric} | {truth:.4f} | {cells} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
