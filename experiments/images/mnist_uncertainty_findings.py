"""What the experiment mnist-uncertainty says, and what its figures read of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from probml_tp.experiments.images.digit_uncertainty import (
    MEASURES,
    PAIRS,
    SET_ASIDE,
    between_guides,
    lead_guide,
)
from probml_tp.experiments.images.kit import longer_trained
from probml_tp.harness.experiment import Results
from probml_tp.kit.common import Array, by_guide, labels_of, listed, percent
from probml_tp.kit.sentences import Count, Range, any_of, shares, together
from probml_tp.plots.style import guide_style, number

AS_LEAST = f"{percent(SET_ASIDE, 0)} least certain images"
AGREEMENT = "Spearman's rank correlation of measures of uncertainty over the test images"


@dataclass(frozen=True)
class ChosenImage:
    """What the draws of the lead guide say of one image."""

    index: int
    rules: list[str]
    label: int
    top: int
    pixels: Array
    probs: Array

    def mean(self, label: int) -> float:
        """The mean probability of a class."""
        return float(self.probs[:, label].mean())


def chosen_images(results: Results[Any]) -> list[ChosenImage]:
    """The images that are looked at draw by draw."""
    arrays, lead = results.arrays, lead_guide(results.config.guides)
    return [
        ChosenImage(
            int(index),
            str(rules).split(", "),
            label=int(arrays["labels"][index]),
            top=int(arrays[f"{lead}.predicted"][index]),
            pixels=arrays["chosen.images"][place],
            probs=arrays["chosen.probs"][:, place],
        )
        for place, (index, rules) in enumerate(
            zip(arrays["chosen.index"], arrays["chosen.rules"], strict=True)
        )
    ]


def chosen_by(rule: str, results: Results[Any]) -> ChosenImage:
    """The image that a rule chose."""
    return next(one for one in chosen_images(results) if rule in one.rules)


def correlations(results: Results[Any]) -> dict[str, Array]:
    """Measure to the matrix of its rank correlations between guides."""
    guides = results.config.guides
    return {
        name: between_guides(by_guide(results.arrays, guides, name), guides) for name in MEASURES
    }


def pair_of(metric: str) -> str:
    """Name the two measures that a metric of :data:`PAIRS` compares."""
    return " and ".join(MEASURES[name].label.lower() for name in PAIRS[metric])


def medians(between: Mapping[str, Array]) -> str:
    """Say the median over the pairs of guides of each measure's rank correlation."""
    pairs = {name: table[np.tri(len(table), k=-1, dtype=bool)] for name, table in between.items()}
    parts = [
        f"{number(float(np.nanmedian(rho)), '.2f')} by {MEASURES[name].label.lower()}"
        for name, rho in pairs.items()
        if np.isfinite(rho).any()
    ]
    return listed(parts) if parts else ""


def _error(results: Results[Any]) -> str:
    """The standard error of the best accuracy."""
    best = max(results.main.column("accuracy").values())
    error = percent((best * (1 - best) / int(results.arrays["size"])) ** 0.5, 2)
    return f"with a standard error of {error} from the choice of test images;"


def _confident_mistake(results: Results[Any]) -> str | None:
    """How sure the lead guide is of its most confident mistake."""
    arrays, lead = results.arrays, lead_guide(results.config.guides)
    if lead is None:
        return None
    label, right = guide_style(lead).label, arrays[f"{lead}.correct"]
    if right.all():
        return f"{label} makes no mistake on the {len(right):,} test images."
    one, entropy = chosen_by("most confident mistake", results), arrays[f"{lead}.entropy"]
    true, predicted = arrays["classes"][[one.label, one.top]]
    less_certain = float((entropy > entropy[one.index]).mean())
    return (
        f"The most confident mistake of {label}, test image {one.index}, is of class {true}: "
        f"{(one.probs.argmax(1) == one.top).sum()} of {len(one.probs)} draws vote for "
        f"{predicted}, with a mean probability of {percent(one.mean(one.top))}. By predictive "
        f"entropy {percent(less_certain)} of the test images are less certain, and would be set "
        f"aside before it."
    )


def _between_guides(results: Results[Any]) -> str | None:
    guides, between = results.config.guides, correlations(results)
    words = medians(between)
    if not words:
        return None
    found = f"Between guides, the median rank correlation over their pairs is {words}."
    if len(guides) < 3:
        return found
    entropy = between["entropy"]
    pair = sorted(np.unravel_index(np.nanargmin(entropy), entropy.shape))
    rho = number(float(entropy[pair[0], pair[1]]), ".2f")
    least = labels_of(guides[place] for place in pair)
    return f"{found} The least alike by predictive entropy are {least}, at {rho}."


FINDINGS = (
    together(
        Range(
            "accuracy",
            "Accuracy on {arrays[size]:,} test images runs {range},",
            write=shares(2),
            reference="map",
        ),
        _error,
        Range("nll", "the NLL runs {range}, in nats.", write="{:.4f}".format, reference="map"),
    ),
    Range(
        "mi_times",
        "The mean mutual information on mistakes, as a multiple of that on hits, runs {range}.",
        write="{:.1f}".format,
    ),
    Range(
        "caught",
        f"The {percent(SET_ASIDE, 0)} of images with the highest predictive entropy hold a share "
        f"of a guide's mistakes that runs {{range}}.",
        write=shares(0),
        reference="map",
    ),
    Count(
        "accuracy",
        "",
        rule=lambda share: share < 1,
        none="No guide makes a mistake on the test images.",
    ),
    _confident_mistake,
    together(
        together(
            *(
                Range(
                    metric,
                    f"for {pair_of(metric)} {{range}}",
                    table=AGREEMENT,
                    write=lambda rho: number(rho, ".2f"),
                )
                for metric in PAIRS
            ),
            joint="; ",
            start="Spearman's rank correlation of two measures of a guide over the test images "
            "runs ",
        ),
        Range(
            "ties",
            "All draws agree on a share of the images that runs {range}: there the variation ratio "
            "is 0 and tells them no further apart.",
            table=AGREEMENT,
            write=percent,
        ),
        joint=". ",
    ),
    Range(
        "shared",
        f"The three measures of a guide name a share of their {AS_LEAST} in common that runs "
        f"{{range}}.",
        table=AGREEMENT,
        write=shares(0),
    ),
    _between_guides,
    longer_trained,
    Range(
        "log_evidence",
        "The log evidence of the last layer alone is that given the layers before it, as fitted: "
        "it does not compare with those of all weights.",
        rows=any_of(["laplace-last-layer"]),
    ),
)
