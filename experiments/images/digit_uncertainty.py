"""Which images a posterior is least sure of, by each measure, and how far the measures agree.

All of it works on the measures of the test images, plain arrays of ``N`` numbers, whichever
posterior they are of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations

import numpy as np
from scipy import stats

from probml_tp.kit.common import Array
from probml_tp.predictions.predictive import ClassificationPredictive

MOST, LEAST = 8, 16
"""How many of the most and the least certain images are shown."""

SET_ASIDE = 0.05
"""The share of images set aside as the most uncertain."""


MEASURES = {
    "variation_ratio": "Variation ratio",
    "entropy": "Predictive entropy",
    "mutual_information": "Mutual information",
}
"""Name of a measure, as of its array, to what it is called; larger is less certain."""

PAIRS: Mapping[str, tuple[str, str]] = {
    "rank_entropy_mi": ("entropy", "mutual_information"),
    "rank_entropy_ratio": ("entropy", "variation_ratio"),
    "rank_mi_ratio": ("mutual_information", "variation_ratio"),
}
"""Metric to the two measures whose ranks it correlates."""

AGREEMENT = "Spearman's rank correlation of measures of uncertainty over the test images"


def pair_of(metric: str) -> str:
    """Name the two measures that a metric of :data:`PAIRS` compares."""
    return " and ".join(MEASURES[name].lower() for name in PAIRS[metric])


def lead_guide(guides: Iterable[str]) -> str | None:
    """The guide whose draws are looked at image by image."""
    with_draws = [guide for guide in guides if guide != "map"]
    return "mc-dropout" if "mc-dropout" in with_draws else next(iter(with_draws), None)


def measures_of(predictive: ClassificationPredictive) -> dict[str, Array]:
    """The measures of uncertainty at each point."""
    entropy = {"entropy": predictive.predictive_entropy.numpy()}
    if predictive.num_samples == 1:
        return entropy
    return entropy | {
        "mutual_information": predictive.mutual_information.numpy(),
        "variation_ratio": predictive.variation_ratio.numpy(),
    }


def by_certainty(measure: Array, entropy: Array) -> Array:
    """Order points from the most to the least certain."""
    return np.lexsort((entropy, measure))


def extremes(measures: Mapping[str, Array]) -> dict[str, Array]:
    """The most and the least certain points by each measure."""
    found: dict[str, Array] = {}
    for name, values in measures.items():
        order = by_certainty(values, measures["entropy"])
        found[f"{name}.certain"] = order[:MOST]
        found[f"{name}.uncertain"] = order[::-1][:LEAST]
    return found


def choose(
    measures: Mapping[str, Array], correct: Array, *, digit: int | None = None
) -> dict[int, str]:
    """Choose a few points to look at closely.

    These are the least certain by variation ratio (or the one asked for), and by predictive
    entropy the most certain mistake, the least certain hit and the most certain hit.
    """
    entropy = measures["entropy"]
    least = by_certainty(measures["variation_ratio"], entropy)[-1]
    rules = [("least certain", least) if digit is None else ("chosen", digit)]
    mistakes, hits = np.flatnonzero(~correct), np.flatnonzero(correct)
    if len(mistakes):
        rules.append(("most confident mistake", mistakes[entropy[mistakes].argmin()]))
    if len(hits):
        rules.append(("least certain hit", hits[entropy[hits].argmax()]))
        rules.append(("most certain hit", hits[entropy[hits].argmin()]))
    chosen: dict[int, list[str]] = {}
    for rule, index in rules:
        chosen.setdefault(int(index), []).append(rule)
    return {index: ", ".join(names) for index, names in chosen.items()}


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's rank correlation; ties have the mean of their ranks."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(stats.spearmanr(a, b).statistic)


def shared_least(measures: Iterable[Array], share: float) -> float:
    """The share of the least certain points that all measures name, equal values in random order.

    Of the ``m`` points whose value is equal to the one at the cut, each is among the least certain
    with the same probability, independently of the other measures; the share is the expected one.
    """
    values = [np.asarray(measure) for measure in measures]
    k = max(round(share * len(values[0])), 1)
    named = [_among_least(one, k) for one in values]
    return float(np.prod(named, axis=0).sum() / k)


def _among_least(values: Array, k: int) -> Array:
    """The probability of each point to be among the ``k`` with the largest values."""
    cut = np.partition(values, -k)[-k]
    above, tied = values > cut, values == cut
    found: Array = above + tied * (k - above.sum()) / tied.sum()
    return found


def caught_aside(entropy: Array, correct: Array) -> float:
    """The share of the mistakes that the images with the highest entropy hold."""
    aside = np.argsort(-entropy, kind="stable")[: round(SET_ASIDE * len(entropy))]
    return float((~correct[aside]).sum() / (~correct).sum())


def own_agreement(measures: Mapping[str, Array]) -> dict[str, float]:
    """How far the three measures of a guide agree: rank correlations, and shares in common."""
    found = {"ties": float((measures["variation_ratio"] == 0).mean())}
    for metric, (a, b) in PAIRS.items():
        found[metric] = rank_correlation(measures[a], measures[b])
        found[f"shared_{metric}"] = shared_least([measures[a], measures[b]], SET_ASIDE)
    return found | {"shared": shared_least(measures.values(), SET_ASIDE)}


def between_guides(values: Mapping[str, Array], guides: Iterable[str]) -> Array:
    """Rank correlations of one measure between guides."""
    rows = list(guides)
    matrix = np.full((len(rows), len(rows)), np.nan)
    for i, j in combinations(range(len(rows)), 2):
        if rows[i] in values and rows[j] in values:
            matrix[i, j] = matrix[j, i] = rank_correlation(values[rows[i]], values[rows[j]])
    matrix[np.diag_indices(len(rows))] = [1.0 if row in values else np.nan for row in rows]
    return matrix
