"""What the experiment distribution-shift says and shows, from its results alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from probml_tp.experiments.images.kit import intervals, longer_trained
from probml_tp.experiments.images.shift_panels import (
    Curve,
    contact_sheet,
    curve_panels,
    turning_panels,
)
from probml_tp.experiments.images.uncertainty_panels import heat_map_panels
from probml_tp.guides.recipes import one_of_each_family
from probml_tp.harness.experiment import Figure, Results
from probml_tp.kit.common import Array, by_guide, labels_of, percent
from probml_tp.kit.sentences import BestWorst, Finding, Range, points, runs, shares, together
from probml_tp.metrics.over_runs import mean_interval
from probml_tp.plots.style import guide_style, number

DETECTION = "AUROC of corrupted against clean test images by uncertainty, mean over corruptions"
BY_CORRUPTION = "Accuracy by corruption"

UNCERTAINTIES: Mapping[str, str] = {
    "entropy": "Entropy",
    "mutual_information": "Mutual information",
}
"""Measures of uncertainty to their headings: total, and epistemic."""

PANELS = {
    "accuracy": "Accuracy (%)",
    "nll": "NLL (nats)",
    "ece": "ECE (percentage points)",
    "entropy": "Mean entropy (nats)",
    "mutual_information": "Mean mutual information (nats)",
    "auroc_entropy": "AUROC by entropy (%)",
}
IN_PERCENT = ("accuracy", "ece", "auroc_entropy")

TURNING = ("map", "mc-dropout", "mean-field", "deep-ensemble")
"""Whose draws are shown as an image turns."""


def _means(results: Results[Any], name: str) -> dict[str, Array]:
    """Guide to the mean over seeds of an array: ``(corruptions, 1 + severities)``, or by angle."""
    found = by_guide(results.arrays, results.config.guides, name)
    return {guide: values.mean(0) for guide, values in found.items()}


def findings(config: Any) -> list[Finding]:
    """Sentences on what the shifts did."""
    worst, size = max(config.severities), len(config.corruptions)
    over = partial(Range, write=percent, reference="map")
    return [
        together(
            Range(
                "clean_accuracy", "Accuracy on {arrays[size]:,} test images {runs},", write=percent
            ),
            over(
                "accuracy", f"and at severity {worst}, mean over {size} corruptions, it {{runs}};"
            ),
            _errors,
        ),
        together(
            Range("clean_ece", "The ECE, at most {high} on clean images,", write=percent),
            over("ece", f"{{runs}} at severity {worst},"),
            over("nll", "and the NLL {runs}, in nats.", write="{:.2f}".format),
        ),
        *(_detection(config, name, label.lower()) for name, label in UNCERTAINTIES.items()),
        *(_ranks(config, name, label.lower()) for name, label in UNCERTAINTIES.items()),
        BestWorst(
            "mean",
            f"At severity {worst} the hardest corruption is {{best}}, with a mean accuracy over "
            f"guides of {{value}}, and the mildest {{worst}}, with {{last}}.",
            table=BY_CORRUPTION,
            write=percent,
            name=str,
        ),
        over(
            "turned",
            "Rotation costs most accuracy at {arrays[hardest.angle]} degrees; the lowest accuracy "
            "at any angle {runs}.",
        ),
        intervals,
        longer_trained,
        lambda results: (
            "Each corruption has five severities of this package's own, MNIST-C one: these figures "
            "do not compare with published ones on it."
        ),
    ]


def _errors(results: Results[Any]) -> str:
    """The standard errors of the mean over images, of a guide and of the largest difference."""
    right, after = _means(results, "share_right"), results.main.column("accuracy")
    best, least = max(after, key=after.__getitem__), min(after, key=after.__getitem__)
    one = _error(right.get("map", right[best]))
    text = f"the choice of images gives that a standard error of {one}"
    if best != least:
        text += ", and the largest difference between guides one of "
        text += _error(right[best] - right[least])
    return f"{text}."


def _error(values: Array) -> str:
    return percent(float(values.std(ddof=1)) / len(values) ** 0.5)


def _detection(config: Any, name: str, label: str) -> Finding:
    """Which guide notices, by which uncertainty."""
    first, worst = min(config.severities), max(config.severities)
    over = partial(Range, table=DETECTION, write=percent)
    start = f"The AUROC with which {label} tells corrupted images from clean ones at severity"
    words, more = f"{start} {worst} {{runs}}", f"at severity {first} it {{runs}}."
    last = f"auroc_{name}_{worst}"
    if first == worst:
        return over(last, f"{words}.", reference="map")
    return together(
        over(last, words, reference="map"), over(f"auroc_{name}_{first}", more), joint="; "
    )


def _ranks(config: Any, name: str, label: str) -> Finding:
    """Whether uncertainty is higher where accuracy is lower."""
    cells = len(config.corruptions) * len(set(config.severities))
    return Range(
        f"rank_{name}",
        f"The rank correlation of mean {label} and error rate over the {cells} pairs of corruption "
        f"and severity {{runs}}; it would be 1 for a guide that is less sure wherever it is more "
        f"often wrong.",
        write=lambda rho: number(rho, "+.2f"),
        reference="map",
    )


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw metrics against severity and angle, guides by corruptions, and the images."""
    for draw in (_severity, _heat_maps, _turning, _angles, _sheet):
        yield draw(results)


def _severity(results: Results[Any]) -> Figure:
    config, arrays = results.config, results.arrays
    severities = np.array([0, *arrays["severities"]])
    made = curve_panels(
        severities,
        _curves(results, {name: name for name in PANELS}, _over_corruptions),
        label="Severity (0: clean)",
        ticks=severities.tolist(),
        dodge=0.07,
    )
    after = results.main.column("accuracy")
    lost = {g: v - after[g] for g, v in results.main.column("clean_accuracy").items()}
    title = (
        f"The loss of accuracy at severity {max(config.severities)}, mean over corruptions, in "
        f"percentage points {runs(lost, points, reference='map')}"
    )
    caption = (
        f"Lines: means over {len(arrays['corruptions'])} corruptions of the same "
        f"{int(arrays['size']):,} test images; bars: from the lower to the upper quartile over "
        "corruptions. AUROC: corrupted images against the clean ones, 50 % being chance."
    )
    if len(one_of_each_family(config.guides)) < len(config.guides):
        caption += " One guide of each family is drawn; the tables have all."
    return Figure("metrics-against-severity", title, caption, made)


def _curves(
    results: Results[Any], names: Mapping[str, str], over: Callable[[Array], Curve]
) -> dict[str, dict[str, Curve]]:
    """Panel to guide to curve: of the arrays of these names, ``over`` their seeds and the like."""
    curves = {}
    for name, array in names.items():
        factor = 100 if name in IN_PERCENT else 1
        found = by_guide(results.arrays, one_of_each_family(results.config.guides), array)
        curves[PANELS[name]] = {guide: over(factor * values) for guide, values in found.items()}
    return {heading: lines for heading, lines in curves.items() if lines}


def _over_corruptions(values: Array) -> Curve:
    mean = values.mean(0)
    low, high = np.quantile(mean, [0.25, 0.75], axis=0)
    return mean.mean(0), (low, high)


def _heat_maps(results: Results[Any]) -> Figure:
    shown = one_of_each_family(results.config.guides)
    headings = {
        "accuracy": ("Drop of accuracy (percentage points)", -100),
        "entropy": ("Rise of mean entropy (nats)", 1),
        "mutual_information": ("Rise of mean mutual information (nats)", 1),
    }
    names, maps = results.arrays["corruptions"], {}
    nothing = np.full(names.shape, np.nan)
    for name, (heading, factor) in headings.items():
        found = _means(results, name)
        rise = {g: factor * (values[:, -1] - values[:, 0]) for g, values in found.items()}
        if rise.keys() & {*shown}:
            maps[heading] = np.stack([rise.get(guide, nothing) for guide in shown], 1)
    order = np.argsort(-next(iter(maps.values())).mean(1), kind="stable")
    maps = {heading: values[order] for heading, values in maps.items()}
    columns = [guide_style(guide).label for guide in shown]
    made = heat_map_panels(maps, rows=names[order].tolist(), columns=columns)
    caption = (
        f"From clean images to severity {max(results.config.severities)}; corruptions from the "
        "most harmful to the least. A guide that notices has bright cells on the right wherever "
        "those on the left are bright; a single net, such as MAP, has no mutual information."
    )
    return Figure("corruption-by-guide", _blind_spot(results), caption, made)


def _blind_spot(results: Results[Any]) -> str:
    """The corruption that is noticed least of those that cost more accuracy than most."""
    lost = np.mean([v[:, 0] - v[:, -1] for v in _means(results, "accuracy").values()], axis=0)
    auroc = np.mean([v[:, -1] for v in _means(results, "auroc_entropy").values()], axis=0)
    harmful = np.flatnonzero(lost >= np.median(lost))
    blind = harmful[auroc[harmful].argmin()]
    return (
        f"Of the more harmful half of the corruptions, {results.arrays['corruptions'][blind]} is "
        f"noticed least: it costs {number(100 * lost[blind], '.0f')} points of accuracy, and "
        f"entropy tells it from clean images with an AUROC of {percent(auroc[blind], 0)}, means "
        f"over guides"
    )


def _turning(results: Results[Any]) -> Figure:
    arrays, guides = results.arrays, results.config.guides
    asked = [guide for guide in TURNING if guide in guides] or guides[:4]
    probs = {guide: arrays[f"{guide}.turned"] for guide in asked}
    label, names, angles = int(arrays["turned.label"]), arrays["classes"].tolist(), arrays["angles"]
    made = turning_panels(angles, arrays["turned.images"], probs, label=label, names=names)
    kept = {guide: _kept_until(angles, values, label) for guide, values in probs.items()}
    lowest = {guide: float(values.mean(1).max(-1).min()) for guide, values in probs.items()}
    title = (
        f"A turning {names[label]}: the angle up to which its class is kept "
        f"{runs(kept, _degrees)}, and the lowest confidence on the way {runs(lowest, shares(0))}"
    )
    caption = (
        "Class probabilities of each draw (points, moved sideways by draw within an angle) and "
        "their means (lines) for one test image, turned counterclockwise. Where points spread, "
        "draws disagree."
    )
    return Figure("turning-image", title, caption, made)


def _degrees(angle: float) -> str:
    return f"{angle:.0f}°" if angle >= 0 else "none"


def _kept_until(angles: Array, probs: Array, label: int) -> float:
    """The last angle up to which the most probable class is the true one; -1 for none."""
    right = probs.mean(1).argmax(-1) == label
    return float(angles[-1] if right.all() else ([-1, *angles][int(right.argmin())]))


def _angles(results: Results[Any]) -> Figure:
    names = {name: f"rotation.{name}" for name in ("accuracy", *UNCERTAINTIES)}
    made = curve_panels(
        results.arrays["angles"],
        _curves(results, names, _over_seeds),
        label="Rotation (degrees)",
        ticks=[0, 45, 90, 135, 180],
    )
    accuracy = np.mean(list(_means(results, "rotation.accuracy").values()), axis=0)
    entropy = np.mean(list(_means(results, "rotation.entropy").values()), axis=0)
    angles, last = results.arrays["angles"], len(accuracy) - 1
    title = (
        f"Mean entropy peaks at {int(angles[entropy.argmax()])} degrees; at {int(angles[last])} it "
        f"is back at {percent(entropy[last] / entropy.max(), 0)} of the peak, with "
        f"{percent(accuracy[last], 0)} accuracy"
    )
    caption = f"All {int(results.arrays['size']):,} test images turned counterclockwise"
    if results.config.seeds > 1:
        caption += "; bands: t intervals of 95 % over seeds"
    if results.config.dataset == "mnist":
        caption += ". Turned by 180 degrees a 6 is a 9: labels lose their meaning on the way"
    return Figure("rotation", title, f"{caption}.", made)


def _over_seeds(values: Array) -> Curve:
    if len(values) < 2:
        return values[0], None
    ends = [mean_interval(column.tolist()).interval for column in values.T]
    low, high = np.array([end for end in ends if end is not None]).T
    return values.mean(0), (low, high)


def _sheet(results: Results[Any]) -> Figure:
    arrays, guides = results.arrays, results.config.guides
    label = int(arrays["sheet.label"])
    wrong = {guide: arrays[f"{guide}.sheet"] != label for guide in guides}
    made = contact_sheet(
        arrays["sheet.images"],
        np.mean(list(wrong.values()), axis=0),
        rows=arrays["corruptions"].tolist(),
        columns=["clean", *map(str, arrays["severities"])],
    )
    counts = {guide: int(values[:, 1:].sum()) for guide, values in wrong.items()}
    title = (
        f"One test image ({arrays['classes'][label]}) in {wrong[guides[0]][:, 1:].size} corrupted "
        f"versions; how many of them a guide misreads "
        f"{runs(counts, '{:.0f}'.format, reference='map')}"
    )
    caption = (
        "Columns: severities. Framed in orange: misread by at least half of the guides "
        f"({labels_of(guides)})."
    )
    return Figure("one-image-corrupted", title, caption, made)
