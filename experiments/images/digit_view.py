"""What findings and figures read of a run of mnist-uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from probml_tp.experiments.images.digit_uncertainty import (
    MEASURES,
    PAIRS,
    between_guides,
    lead_guide,
    rank_correlation,
    shared_least,
)
from probml_tp.harness.experiment import Results
from probml_tp.kit.common import Array, by_guide, percent
from probml_tp.plots.style import number

SET_ASIDE = 0.05
"""The share of images set aside as the most uncertain."""

AS_LEAST = f"{percent(SET_ASIDE, 0)} least certain images"


@dataclass(frozen=True)
class ChosenImage:
    """What the draws of the lead guide say of one image."""

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
    """What findings and figures read of a run."""

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
        """The share that some measures name in common of a guide's least certain images."""
        return shared_least([self.of(guide, name) for name in names], SET_ASIDE)

    @cached_property
    def tables(self) -> dict[str, Array]:
        """Measure to the matrix of its rank correlations between guides."""
        return {name: between_guides(self.each(name), self.guides) for name in MEASURES}


def pair_of(metric: str) -> str:
    """Name the two measures that a metric of :data:`PAIRS` compares."""
    return " and ".join(MEASURES[name].label.lower() for name in PAIRS[metric])


def medians(tables: Mapping[str, Array]) -> str:
    """Say the median over the pairs of guides of each measure's rank correlation."""
    pairs = {name: table[np.tri(len(table), k=-1, dtype=bool)] for name, table in tables.items()}
    parts = [
        f"{number(float(np.nanmedian(rho)), '.2f')} by {MEASURES[name].label.lower()}"
        for name, rho in pairs.items()
        if np.isfinite(rho).any()
    ]
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
