"""What the experiment distribution-shift says and shows, from its results alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from probml_tp.experiments.images.shift_panels import (
    Curve,
    contact_sheet,
    curve_panels,
    heat_map_panels,
    turning_panels,
)
from probml_tp.guides.recipes import one_of_each_family
from probml_tp.harness.experiment import Figure, Results
from probml_tp.kit.common import (
    Array,
    by_guide,
    labels_of,
    percent,
    span,
)
from probml_tp.metrics.over_runs import mean_interval
from probml_tp.plots.style import guide_style, number

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
SHARE = "share_right"
"""Of each image: under which share of the corruptions it is read right at the highest severity."""

IN_PERCENT = ("accuracy", "ece", "auroc_entropy")

NOT_MNIST_C = (
    "Each corruption has a ladder of five severities of this package's own: MNIST-C has one fixed "
    "severity each, so these figures do not compare with published ones on it."
)

LONGER_TRAINED = ("swag", "multi-swag", "low-rank-normal")
LONGER = (
    "SWAG and the low-rank normal train on from where MAP or an ensemble ends: what they gain over "
    "it is longer training as well as averaging."
)

TURNING = ("map", "mc-dropout", "mean-field", "deep-ensemble")
"""Whose draws are shown as an image turns."""


@dataclass(frozen=True)
class _View:
    """What findings and figures read: metrics of ``(seeds, corruptions, 1 + severities)``."""

    results: Results[Any]

    def __getitem__(self, name: str) -> Array:
        return self.results.arrays[name]

    @property
    def guides(self) -> tuple[str, ...]:
        chosen: tuple[str, ...] = self.results.config.guides
        return chosen

    @property
    def worst(self) -> int:
        """The highest severity."""
        return int(self["severities"][-1])

    def metric(self, name: str) -> dict[str, Array]:
        """Guide to mean over seeds, ``(corruptions, 1 + severities)``."""
        found = by_guide(self.results.arrays, self.guides, name)
        return {guide: values.mean(0) for guide, values in found.items()}

    def at_worst(self, name: str) -> dict[str, float]:
        """Guide to mean over seeds and corruptions at the highest severity."""
        return {guide: float(values[:, -1].mean()) for guide, values in self.metric(name).items()}


def _runs(
    values: Mapping[str, float], write: Callable[[float], str], *, reference: str | None = None
) -> str:
    """The verb with the range over guides, or with the one value that all of them have."""
    texts = {write(value) for value in values.values()}
    if len(texts) > 1:
        return f"runs {span(values, write, reference=reference)}"
    return f"is {texts.pop()}" + (" for every guide" if len(values) > 1 else "")


# -------------------------------------------------------------------------------------- findings


def findings(results: Results[Any]) -> list[str]:
    """Sentences on what the shifts did."""
    view = _View(results)
    return [
        _fall(view),
        _calibration(view),
        *_detection(view),
        *_ranks(view),
        _hardest(view),
        _rotation(view),
        *_seeds(view),
        *([LONGER] if {*LONGER_TRAINED} & {*view.guides} else []),
        NOT_MNIST_C,
    ]


def _fall(view: _View) -> str:
    clean = {guide: float(values[0, 0]) for guide, values in view.metric("accuracy").items()}
    after = view.at_worst("accuracy")
    text = (
        f"Accuracy on {int(view['size']):,} test images {_runs(clean, percent)}, and at severity "
        f"{view.worst}, mean over {len(view['corruptions'])} corruptions, it "
        f"{_runs(after, percent, reference='map')}"
    )
    shares = {g: v.mean(0) for g, v in by_guide(view.results.arrays, view.guides, SHARE).items()}
    text += (
        f"; the choice of images gives that a standard error of {_error(shares[view.guides[0]])}"
    )
    best, least = max(after, key=after.__getitem__), min(after, key=after.__getitem__)
    if best != least:
        text += ", and the largest difference between guides one of "
        text += _error(shares[best] - shares[least])
    return f"{text}."


def _error(values: Array) -> str:
    """The standard error of a mean over images."""
    return percent(float(values.std(ddof=1)) / len(values) ** 0.5)


def _calibration(view: _View) -> str:
    ece, nll = view.at_worst("ece"), view.at_worst("nll")
    clean = {guide: float(values[0, 0]) for guide, values in view.metric("ece").items()}
    return (
        f"The ECE, at most {percent(max(clean.values()))} on clean images, "
        f"{_runs(ece, percent, reference='map')} at severity {view.worst}, and the NLL "
        f"{_runs(nll, '{:.2f}'.format, reference='map')}, in nats."
    )


def _detection(view: _View) -> list[str]:
    """Which guide notices, by which uncertainty."""
    sentences = []
    for name, label in UNCERTAINTIES.items():
        auroc = view.metric(f"auroc_{name}")
        if not auroc:
            continue
        last = view.at_worst(f"auroc_{name}")
        text = (
            f"The AUROC with which {label.lower()} tells corrupted images from clean ones at "
            f"severity {view.worst} {_runs(last, percent, reference='map')}"
        )
        if len(view["severities"]) > 1:
            first = {guide: float(values[:, 1].mean()) for guide, values in auroc.items()}
            text += f"; at severity {int(view['severities'][0])} it {_runs(first, percent)}"
        sentences.append(f"{text}.")
    return sentences


def _ranks(view: _View) -> list[str]:
    """Whether uncertainty is higher where accuracy is lower."""
    sentences = []
    cells = len(view["corruptions"]) * len(view["severities"])
    for name, label in UNCERTAINTIES.items():
        rows = view.results.metrics
        ranks = {g: rows[g][f"rank_{name}"] for g in view.guides if f"rank_{name}" in rows[g]}
        if ranks:
            sentences.append(
                f"The rank correlation of mean {label.lower()} and error rate over the {cells} "
                f"pairs of corruption and severity "
                f"{_runs(ranks, lambda rho: number(rho, '+.2f'), reference='map')}; it would be 1 "
                f"for a guide that is less sure wherever it is more often wrong."
            )
    return sentences


def _hardest(view: _View) -> str:
    left = np.mean([values[:, -1] for values in view.metric("accuracy").values()], axis=0)
    names, low, high = view["corruptions"], int(left.argmin()), int(left.argmax())
    return (
        f"At severity {view.worst} the hardest corruption is {names[low]}, with a mean accuracy "
        f"over guides of {percent(left[low])}, and the mildest {names[high]}, with "
        f"{percent(left[high])}."
    )


def _rotation(view: _View) -> str:
    accuracy = view.metric("rotation.accuracy")
    worst = {guide: float(values.min()) for guide, values in accuracy.items()}
    angle = int(view["angles"][np.mean(list(accuracy.values()), axis=0).argmin()])
    return (
        f"Rotation costs most accuracy at {angle} degrees; the lowest accuracy at any angle "
        f"{_runs(worst, percent, reference='map')}."
    )


def _seeds(view: _View) -> list[str]:
    runs = view.results.config.seeds
    if runs < 2:
        return []
    level = percent(0.95, 0)
    text = f"Means over {runs} seeds of the fits on the same shifted images; intervals are"
    return [f"{text} Student's t intervals of {level} over them."]


# --------------------------------------------------------------------------------------- figures


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw metrics against severity and angle, guides by corruptions, and the images."""
    view = _View(results)
    yield _severity(view)
    yield _heat_maps(view)
    yield _turning(view)
    yield _angles(view)
    yield _sheet(view)


def _severity(view: _View) -> Figure:
    curves: dict[str, dict[str, Curve]] = {}
    shown = one_of_each_family(view.guides)
    for name, heading in PANELS.items():
        factor = 100 if name in IN_PERCENT else 1
        found = {g: factor * values for g, values in view.metric(name).items() if g in shown}
        if found:
            curves[heading] = {guide: _over_corruptions(values) for guide, values in found.items()}
    severities = np.array([0, *view["severities"]])
    made = curve_panels(
        severities, curves, label="Severity (0: clean)", ticks=severities.tolist(), dodge=0.07
    )
    lost = {
        guide: float(values[0, 0] - values[:, -1].mean())
        for guide, values in view.metric("accuracy").items()
    }
    title = (
        f"The loss of accuracy at severity {view.worst}, mean over corruptions, in percentage "
        f"points {_runs(lost, lambda share: f'{100 * share:.1f}', reference='map')}"
    )
    caption = (
        f"Lines: means over {len(view['corruptions'])} corruptions of the same "
        f"{int(view['size']):,} test images. Bars: from the lower to the upper quartile over "
        "corruptions. AUROC: corrupted images against the clean ones, 50 % being chance."
    )
    if len(shown) < len(view.guides):
        caption += " One guide of each family is drawn; the tables have all."
    return Figure("metrics-against-severity", title, caption, made)


def _over_corruptions(values: Array) -> Curve:
    low, high = np.quantile(values, [0.25, 0.75], axis=0)
    return values.mean(0), (low, high)


def _heat_maps(view: _View) -> Figure:
    shown = one_of_each_family(view.guides)
    accuracy, entropy, information = (
        {guide: values for guide, values in view.metric(name).items() if guide in shown}
        for name in ("accuracy", "entropy", "mutual_information")
    )
    nothing = np.full(len(view["corruptions"]), np.nan)
    drop = np.stack([100 * (v[:, 0] - v[:, -1]) for v in accuracy.values()], 1)
    rise = {
        "Rise of mean entropy (nats)": [v[:, -1] - v[:, 0] for v in entropy.values()],
        "Rise of mean mutual information (nats)": [
            information[g][:, -1] - information[g][:, 0] if g in information else nothing
            for g in shown
        ],
    }
    order = np.argsort(-drop.mean(1), kind="stable")
    maps = {"Drop of accuracy (percentage points)": drop[order]}
    maps |= {
        heading: np.stack(values, 1)[order]
        for heading, values in rise.items()
        if not np.isnan(values).all()
    }
    columns = [guide_style(guide).label for guide in shown]
    made = heat_map_panels(maps, rows=view["corruptions"][order].tolist(), columns=columns)
    title = _blind_spot(view)
    caption = (
        f"From clean images to severity {view.worst}; corruptions from the most harmful to the "
        "least. A single net, such as MAP, has no mutual information. A guide that notices has "
        "bright cells on the right wherever those on the left are bright."
    )
    return Figure("corruption-by-guide", title, caption, made)


def _blind_spot(view: _View) -> str:
    """The corruption that is noticed least of those that cost more accuracy than most."""
    lost = np.mean([v[:, 0] - v[:, -1] for v in view.metric("accuracy").values()], axis=0)
    auroc = np.mean([v[:, -1] for v in view.metric("auroc_entropy").values()], axis=0)
    harmful = np.flatnonzero(lost >= np.median(lost))
    blind = harmful[auroc[harmful].argmin()]
    return (
        f"Of the more harmful half of the corruptions, {view['corruptions'][blind]} is noticed "
        f"least: it costs {number(100 * lost[blind], '.0f')} points of accuracy, and entropy tells "
        f"it from clean images with an AUROC of {percent(auroc[blind], 0)}, means over guides"
    )


def _turning(view: _View) -> Figure:
    asked = [guide for guide in TURNING if guide in view.guides] or list(view.guides[:4])
    probs = {guide: view[f"{guide}.turned"] for guide in asked}
    label, names, angles = int(view["turned.label"]), view["classes"].tolist(), view["angles"]
    made = turning_panels(angles, view["turned.images"], probs, label=label, names=names)
    kept = {guide: _kept_until(angles, values, label) for guide, values in probs.items()}
    lowest = {guide: float(values.mean(1).max(-1).min()) for guide, values in probs.items()}
    title = (
        f"A turning {names[label]}: the angle up to which its class is kept "
        f"{_runs(kept, _degrees)}, and the lowest confidence on the way "
        f"{_runs(lowest, lambda share: percent(share, 0))}"
    )
    caption = (
        "Class probabilities of each draw (points, moved sideways by draw within an angle) and "
        "their means (lines) for one test image, turned counterclockwise. Grey: all other classes. "
        "Where points spread, draws disagree."
    )
    return Figure("turning-image", title, caption, made)


def _degrees(angle: float) -> str:
    return f"{angle:.0f}°" if angle >= 0 else "none"


def _kept_until(angles: Array, probs: Array, label: int) -> float:
    """The last angle up to which the most probable class is the true one; -1 for none."""
    right = probs.mean(1).argmax(-1) == label
    return float(angles[-1] if right.all() else ([-1, *angles][int(right.argmin())]))


def _angles(view: _View) -> Figure:
    curves: dict[str, dict[str, Curve]] = {}
    shown = one_of_each_family(view.guides)
    for name in ("accuracy", "entropy", "mutual_information"):
        factor = 100 if name in IN_PERCENT else 1
        found = by_guide(view.results.arrays, shown, f"rotation.{name}")
        if found:
            curves[PANELS[name]] = {g: _over_seeds(factor * values) for g, values in found.items()}
    made = curve_panels(
        view["angles"], curves, label="Rotation (degrees)", ticks=[0, 45, 90, 135, 180]
    )
    accuracy = np.mean(list(view.metric("rotation.accuracy").values()), axis=0)
    entropy = np.mean(list(view.metric("rotation.entropy").values()), axis=0)
    angles, last = view["angles"], len(accuracy) - 1
    title = (
        f"Mean entropy peaks at {int(angles[entropy.argmax()])} degrees; at {int(angles[last])} it "
        f"is back at {percent(entropy[last] / entropy.max(), 0)} of the peak, with "
        f"{percent(accuracy[last], 0)} accuracy"
    )
    caption = f"All {int(view['size']):,} test images turned counterclockwise"
    if view.results.config.seeds > 1:
        caption += "; bands: t intervals of 95 % over seeds"
    if view.results.config.dataset == "mnist":
        caption += ". Turned by 180 degrees a 6 is a 9: labels lose their meaning on the way"
    return Figure("rotation", title, f"{caption}.", made)


def _over_seeds(values: Array) -> Curve:
    if len(values) < 2:
        return values[0], None
    ends = [mean_interval(column.tolist()).interval for column in values.T]
    low, high = np.array([end for end in ends if end is not None]).T
    return values.mean(0), (low, high)


def _sheet(view: _View) -> Figure:
    label = int(view["sheet.label"])
    wrong = {guide: view[f"{guide}.sheet"] != label for guide in view.guides}
    misread = np.mean(list(wrong.values()), axis=0)
    made = contact_sheet(
        view["sheet.images"],
        misread,
        rows=view["corruptions"].tolist(),
        columns=["clean", *(str(severity) for severity in view["severities"])],
    )
    counts = {guide: int(values[:, 1:].sum()) for guide, values in wrong.items()}
    total = wrong[view.guides[0]][:, 1:].size
    title = (
        f"One test image ({view['classes'][label]}) in {total} corrupted versions; how many of "
        f"them a guide misreads {_runs(counts, '{:.0f}'.format, reference='map')}"
    )
    caption = (
        "Columns: severities. Framed in orange: misread by at least half of the guides "
        f"({labels_of(view.guides)})."
    )
    return Figure("one-image-corrupted", title, caption, made)
