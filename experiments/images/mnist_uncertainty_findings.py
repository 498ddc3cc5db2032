"""What the experiment mnist-uncertainty says, from its results alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from probml_tp.experiments.images.digit_uncertainty import MEASURES, PAIRS
from probml_tp.experiments.images.digit_view import AS_LEAST, SET_ASIDE, View, medians, pair_of
from probml_tp.harness.experiment import Results
from probml_tp.kit.common import labels_of, percent, span
from probml_tp.plots.style import guide_style, number


def findings(results: Results[Any]) -> list[str]:
    """Say in sentences what the numbers say, the most important first."""
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


def _between_guides(view: View) -> list[str]:
    words = medians(view.tables)
    if not words:
        return []
    found = f"Between guides, the median rank correlation over their pairs is {words}."
    if len(view.guides) < 3:
        return [found]
    entropy = view.tables["entropy"]
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
