"""What the experiment mnist-uncertainty says, from its results alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from probml_tp.experiment import Results
from probml_tp.experiments.common import Array, by_guide, labels_of, percent, span
from probml_tp.experiments.digit_uncertainty import (
    MEASURES,
    PAIRS,
    between_guides,
    by_certainty,
    lead_guide,
    rank_correlation,
    shared_least,
)
from probml_tp.plots.style import guide_style, number

__all__ = ["AS_LEAST", "SET_ASIDE", "ChosenImage", "View", "findings", "medians", "pair_of"]

SET_ASIDE = 0.05
"""The share of images set aside as the most uncertain."""

AS_LEAST = f"{percent(SET_ASIDE, 0)} least certain images"


@dataclass(frozen=True)
class ChosenImage:
    """What the draws of the lead guide say of one image.

    Args:
        index: among the test images.
        rules: which rules chose it.
        label: the true class.
        top: the predicted class.
        classes: the names of the classes.
        pixels: ``(height, width)``.
        probs: class probabilities at each draw, ``(S, C)``.
    """

    index: int
    rules: list[str]
    label: int
    top: int
    classes: list[str]
    pixels: Array
    probs: Array

    @property
    def true(self) -> str:
        """The name of the true class."""
        return self.classes[self.label]

    @property
    def predicted(self) -> str:
        """The name of the predicted class."""
        return self.classes[self.top]

    @property
    def votes(self) -> int:
        """How many draws have the predicted class on top."""
        return int((self.probs.argmax(1) == self.top).sum())

    def mean(self, label: int) -> float:
        """The mean probability of a class."""
        return float(self.probs[:, label].mean())


@dataclass(frozen=True)
class View:
    """What findings and figures read of a run.

    Args:
        results: of the run.
    """

    results: Results[Any]

    @property
    def guides(self) -> list[str]:
        """All guides."""
        return list(self.results.config.guides)

    @property
    def lead(self) -> str | None:
        """The guide that is looked at image by image."""
        return lead_guide(self.guides)

    def column(self, metric: str) -> dict[str, float]:
        """Guide to metric, for the guides that have it."""
        return {guide: row[metric] for guide, row in self.results.metrics.items() if metric in row}

    def of(self, guide: str, name: str) -> Array:
        """An array of a guide."""
        return self.results.arrays[f"{guide}.{name}"]

    def each(self, name: str) -> dict[str, Array]:
        """Guide to array, for the guides that have it."""
        return by_guide(self.results.arrays, self.guides, name)

    @cached_property
    def chosen(self) -> list[ChosenImage]:
        """The images that are looked at draw by draw."""
        arrays = self.results.arrays
        return [
            ChosenImage(
                index=int(index),
                rules=str(rules).split(", "),
                label=int(arrays["labels"][index]),
                top=int(self.of(str(self.lead), "predicted")[index]),
                classes=arrays["classes"].tolist(),
                pixels=arrays["chosen.images"][place],
                probs=arrays["chosen.probs"][:, place],
            )
            for place, (index, rules) in enumerate(
                zip(arrays["chosen.index"], arrays["chosen.rules"], strict=True)
            )
        ]

    def find(self, rule: str) -> ChosenImage:
        """The image that a rule chose."""
        return next(one for one in self.chosen if rule in one.rules)

    def correlation(self, guide: str, pair: tuple[str, str]) -> float:
        """The rank correlation of two measures of a guide."""
        return rank_correlation(self.of(guide, pair[0]), self.of(guide, pair[1]))

    def shared(self, guide: str, names: list[str]) -> float:
        """Of a guide's least certain images by some measures, the share that they have in common.

        Equal values are ordered by predictive entropy.
        """
        entropy = self.of(guide, "entropy")
        orders = [by_certainty(self.of(guide, name), entropy) for name in names]
        return shared_least(orders, SET_ASIDE)

    @cached_property
    def tables(self) -> dict[str, Array]:
        """Measure to the matrix of its rank correlations between guides."""
        return {name: between_guides(self.each(name), self.guides) for name in MEASURES}


def findings(results: Results[Any]) -> list[str]:
    """Say in sentences what the numbers say, the most important first.

    Args:
        results: metrics and arrays of a run.

    Returns:
        The sentences.
    """
    view = View(results)
    parts = (
        _accuracy,
        _information,
        _set_aside,
        _confident_mistake,
        _between_measures,
        _between_guides,
        _swag,
        _evidence,
    )
    return [sentence for part in parts for sentence in part(view)]


def _accuracy(view: View) -> list[str]:
    accuracy, nll = view.column("accuracy"), view.column("nll")
    size, best = len(view.results.arrays["labels"]), max(accuracy.values())
    error = (best * (1 - best) / size) ** 0.5
    sentence = (
        f"Accuracy on {size:,} test images runs "
        f"{span(accuracy, lambda share: percent(share, 2), reference='map')}, with a standard "
        f"error of {percent(error, 2)} from the choice of test images; the NLL runs "
        f"{span(nll, '{:.4f}'.format, reference='map')}, in nats."
    )
    return [sentence]


def _information(view: View) -> list[str]:
    """How much more mutual information mistakes have than hits."""
    times = {
        guide: row["mi_mistakes"] / row["mi_hits"]
        for guide, row in view.results.metrics.items()
        if "mi_mistakes" in row and row.get("mi_hits", 0.0) > 0
    }
    if not times:
        return []
    spread = span(times, "{:.1f}".format)
    return [
        f"The mean mutual information on mistakes, as a multiple of that on hits, runs {spread}."
    ]


def _set_aside(view: View) -> list[str]:
    """Which share of the mistakes the most uncertain images hold."""
    caught: dict[str, float] = {}
    for guide, right in view.each("correct").items():
        entropy = view.of(guide, "entropy")
        aside = np.argsort(-entropy, kind="stable")[: round(SET_ASIDE * len(entropy))]
        if not right.all():
            caught[guide] = float((~right)[aside].sum() / (~right).sum())
    if not caught:
        return ["No guide makes a mistake on the test images."]
    spread = span(caught, lambda share: percent(share, 0), reference="map")
    words = f"The {percent(SET_ASIDE, 0)} of images with the highest predictive entropy hold a"
    return [f"{words} share of a guide's mistakes that runs {spread}."]


def _confident_mistake(view: View) -> list[str]:
    """How sure the lead guide is of its most confident mistake."""
    if view.lead is None:
        return []
    label, right = guide_style(view.lead).label, view.of(view.lead, "correct")
    if right.all():
        return [f"{label} makes no mistake on the {len(right):,} test images."]
    one, entropy = view.find("most confident mistake"), view.of(view.lead, "entropy")
    less_certain = float((entropy > entropy[one.index]).mean())
    sentence = (
        f"The most confident mistake of {label}, test image {one.index}, is of class {one.true}: "
        f"{one.votes} of {len(one.probs)} draws vote for {one.predicted}, with a mean probability "
        f"of {percent(one.mean(one.top))}. By predictive entropy {percent(less_certain)} of the "
        f"test images are less certain, and would be set aside before it."
    )
    return [sentence]


def _between_measures(view: View) -> list[str]:
    ratios = view.each("variation_ratio")
    if not ratios:
        return []
    runs = []
    for metric, pair in PAIRS.items():
        rho = {guide: view.correlation(guide, pair) for guide in ratios}
        if known := {guide: value for guide, value in rho.items() if np.isfinite(value)}:
            runs.append(f"for {pair_of(metric)} {span(known, lambda rho: number(rho, '.2f'))}")
    ties = {guide: float((ratio == 0).mean()) for guide, ratio in ratios.items()}
    shared = {guide: view.shared(guide, list(MEASURES)) for guide in ratios}
    correlations = (
        f"Spearman's rank correlation of two measures of a guide over the test images runs "
        f"{'; '.join(runs)}. All draws agree on a share of the images that runs "
        f"{span(ties, percent)}: there the variation ratio is 0 and tells them no further apart."
    )
    in_common = (
        f"The three measures of a guide name a share of their {AS_LEAST} in common that runs "
        f"{span(shared, lambda share: percent(share, 0))}."
    )
    return [correlations, in_common] if runs else [in_common]


def pair_of(metric: str) -> str:
    """Name the two measures that a metric of :data:`PAIRS` compares."""
    return " and ".join(MEASURES[name].label.lower() for name in PAIRS[metric])


def medians(tables: Mapping[str, Array]) -> str:
    """Say the median over the pairs of guides of each measure's rank correlation.

    Args:
        tables: measure to matrix.

    Returns:
        Words such as "0.93 by predictive entropy"; empty if there is no pair.
    """
    pairs = {name: table[np.tri(len(table), k=-1, dtype=bool)] for name, table in tables.items()}
    parts = [
        f"{number(float(np.nanmedian(rho)), '.2f')} by {MEASURES[name].label.lower()}"
        for name, rho in pairs.items()
        if np.isfinite(rho).any()
    ]
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def _between_guides(view: View) -> list[str]:
    words = medians(view.tables)
    if not words:
        return []
    found = f"Between guides, the median rank correlation over their pairs is {words}."
    entropy = view.tables["entropy"]
    if np.isnan(entropy).all():
        return [found]
    i, j = np.unravel_index(np.nanargmin(entropy), entropy.shape)
    least = labels_of([view.guides[min(i, j)], view.guides[max(i, j)]])
    rho = number(float(entropy[i, j]), ".2f")
    return [f"{found} The least alike by predictive entropy are {least}, at {rho}."]


def _swag(view: View) -> list[str]:
    if "swag" not in view.results.metrics:
        return []
    config = view.results.config
    sentence = (
        f"SWAG trains on for {config.swag_epochs} epochs from where the {config.epochs} of MAP "
        f"end: what it gains over MAP is longer training as well as averaging."
    )
    return [sentence]


def _evidence(view: View) -> list[str]:
    """What the evidence of the last layer is not."""
    if "log_evidence" not in view.results.metrics.get("laplace-last-layer", {}):
        return []
    given = "The log evidence of the last layer alone is that given the layers before it, as fitted"
    return [f"{given}: it does not compare with those of all weights."]
