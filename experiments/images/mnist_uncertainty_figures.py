"""What the experiment mnist-uncertainty shows, from its results alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from probml_tp.experiments.images.cell_panels import agreement_rows, agreement_triangles
from probml_tp.experiments.images.digit_uncertainty import (
    LEAST,
    MEASURES,
    MOST,
    PAIRS,
    SET_ASIDE,
    lead_guide,
)
from probml_tp.experiments.images.mnist_uncertainty_findings import (
    AS_LEAST,
    chosen_by,
    chosen_images,
    correlations,
    medians,
    pair_of,
)
from probml_tp.experiments.images.uncertainty_panels import (
    DrawnImage,
    RankedImages,
    drawn_panels,
    ranked_panels,
)
from probml_tp.harness.experiment import Figure, Results
from probml_tp.kit.common import Array, by_guide, listed, percent, span
from probml_tp.plots.digits import VotedImages, entropy_panels, vote_panels
from probml_tp.plots.style import guide_style
from probml_tp.plots.training import loss_panels

SHOWN = ("laplace-kronecker", "mean-field", "mc-dropout")
"""Whose votes on the most and the least certain images are shown: one guide of each family."""

PARTS = {"certain": "Most certain", "uncertain": "Least certain"}


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the images by their measures, the agreement of the measures, and the losses."""
    with_draws = list(_each(results, "variation_ratio"))
    if (lead := lead_guide(results.config.guides)) is not None:
        yield _draws(lead, results)
        yield _by_measure(lead, results)
    for guide in [guide for guide in with_draws if guide in SHOWN] or with_draws[:1]:
        yield _votes(guide, results)
    if with_draws:
        yield _agreement_of_measures(with_draws, results)
    if len(results.config.guides) > 2:
        yield _agreement_of_guides(results)
    yield _entropies(results)
    yield _losses(results)


def _each(results: Results[Any], name: str) -> dict[str, Array]:
    return by_guide(results.arrays, results.config.guides, name)


def _draws(lead: str, results: Results[Any]) -> Figure:
    names = results.arrays["classes"]
    rows = [
        DrawnImage(
            f"{', '.join(one.rules).capitalize()}\ntest image {one.index}",
            f"true {names[one.label]}, predicted {names[one.top]}\n"
            f"{_note(one.index, lead, results)}",
            image=one.pixels,
            label=one.label,
            probs=one.probs,
        )
        for one in chosen_images(results)
    ]
    caption = (
        f"Single test images, numbered as in this run, at each of {len(rows[0].probs)} draws of "
        f"{guide_style(lead).label}: "
        f"mean class probabilities, the class that each draw predicts, and how the probability of "
        f"a class spreads over the draws (violin, median as a line; none for a class of at most "
        f"1 % at every draw). Least certain: by variation ratio; hits and mistakes: by predictive "
        f"entropy. VR: variation ratio; H: predictive entropy and MI: mutual information, in nats."
    )
    made = drawn_panels(rows, classes=names.tolist())
    return Figure(f"draws-of-single-images-{lead}", _draws_title(lead, results), caption, made)


def _note(index: int, guide: str, results: Results[Any]) -> str:
    shown = {"VR": "variation_ratio", "H": "entropy", "MI": "mutual_information"}
    values = {sign: results.arrays[f"{guide}.{name}"][index] for sign, name in shown.items()}
    return ", ".join(f"{sign} {value:.2f}" for sign, value in values.items())


def _draws_title(lead: str, results: Results[Any]) -> str:
    label, right = guide_style(lead).label, results.arrays[f"{lead}.correct"]
    if not right.any():
        return f"{label} is right on no test image"
    hit = chosen_by("least certain hit", results)
    doubt = f"{percent(hit.mean(hit.label), 0)} to the true class in its least certain hit"
    if right.all():
        return f"{label} makes no mistake on the {len(right):,} test images; it gives {doubt}"
    wrong = chosen_by("most confident mistake", results)
    sure = percent(wrong.mean(wrong.top), 0)
    return f"{label} gives {sure} to a wrong class in its most confident mistake, and {doubt}"


def _images(results: Results[Any], index: Array) -> Array:
    arrays = results.arrays
    found: Array = arrays["shown.images"][np.searchsorted(arrays["shown.index"], index)]
    return found


def _by_measure(guide: str, results: Results[Any]) -> Figure:
    labels = results.arrays["labels"]
    groups: dict[str, dict[str, RankedImages]] = {heading: {} for heading in PARTS.values()}
    for part, heading in PARTS.items():
        for name, measure in MEASURES.items():
            index = results.arrays[f"{guide}.{name}.{part}"]
            groups[heading][f"{measure.label} ({measure.unit})"] = RankedImages(
                images=_images(results, index),
                labels=labels[index],
                predicted=results.arrays[f"{guide}.predicted"][index],
                values=results.arrays[f"{guide}.{name}"][index],
            )
    least = {name: results.arrays[f"{guide}.{name}.uncertain"] for name in MEASURES}
    common = len(set.intersection(*(set(index.tolist()) for index in least.values())))
    wrong = [
        f"{(~results.arrays[f'{guide}.correct'][index]).sum()} by {MEASURES[name].label.lower()}"
        for name, index in least.items()
    ]
    title = (
        f"{guide_style(guide).label}: the three measures name {common} of their {LEAST} least "
        f"certain images in common; wrong are {listed(wrong)}"
    )
    caption = (
        f"The {MOST} most certain test images, the most certain first, and the {LEAST} least "
        f"certain, the least certain first, with the value of the measure; ties in the order of "
        f"the predictive entropy. Values below 0.005 are rounded to a power of ten."
    )
    made = ranked_panels(groups, classes=results.arrays["classes"].tolist())
    return Figure(f"certain-and-uncertain-by-measure-{guide}", title, caption, made)


def _votes(guide: str, results: Results[Any]) -> Figure:
    arrays, label = results.arrays, guide_style(guide).label
    groups: dict[str, VotedImages] = {}
    for part, heading in PARTS.items():
        index = arrays[f"{guide}.variation_ratio.{part}"]
        groups[part] = VotedImages(
            heading,
            images=_images(results, index),
            labels=arrays["labels"][index],
            votes=arrays[f"{guide}.votes"][index],
        )
    made = vote_panels(list(groups.values()), classes=arrays["classes"].tolist())
    doubtful = groups["uncertain"]
    outvoted = int((doubtful.votes.argmax(1) != doubtful.labels).sum())
    agreed = int((groups["certain"].votes.max(1) == groups["certain"].votes.sum(1)).sum())
    title = (
        f"{label}: the majority is wrong on {outvoted} of the {LEAST} least certain images, and "
        f"all draws agree on {agreed} of the {MOST} most certain"
    )
    caption = (
        "Test images with the share of draws that vote for each class: blue the true class, orange "
        "a majority for another one. Ordered by variation ratio, then by predictive entropy."
    )
    return Figure(f"certain-and-uncertain-{guide}", title, caption, made)


def _agreement_of_measures(guides: list[str], results: Results[Any]) -> Figure:
    table = results.tables[0]
    ranks, shared = (
        np.array([[table.column(f"{kind}{m}").get(g, np.nan) for g in guides] for m in PAIRS])
        for kind in ("", "shared_")
    )
    pairs = [pair_of(metric) for metric in PAIRS]
    medians_of = listed(
        f"{percent(float(np.median(row)), 0)} ({pair})"
        for pair, row in zip(pairs, shared, strict=True)
    )
    made = agreement_rows(
        {
            "Rank correlation over all test images": ranks,
            f"Share in common of the {AS_LEAST}": shared,
        },
        rows=[pair.replace(" and ", ",\n") for pair in pairs],
        guides=guides,
    )
    caption = (
        f"How far two measures of one guide order the test images alike (Spearman), and which "
        f"share of its {AS_LEAST} both name: by chance {percent(SET_ASIDE, 0)}. Images on "
        f"which all draws agree tie at a variation ratio of 0, which lowers its rank correlations; "
        f"ensembles of a few members have few levels of it. For the share in common, ties are in "
        f"random order, and the share is the expected one. Colours run from 0 (white) to 1 (dark)."
    )
    title = f"In the median guide, two measures share of their {AS_LEAST} {medians_of}"
    return Figure("agreement-of-measures", title, caption, made)


def _agreement_of_guides(results: Results[Any]) -> Figure:
    between = correlations(results)
    drawn = {
        MEASURES[name].label: between[name]
        for name in ("entropy", "mutual_information")
        if medians({name: between[name]})
    }
    caption = (
        "Spearman's rank correlation of one measure of uncertainty between two guides over the "
        "test images, each pair of guides once; the title's median is over the pairs. A guide "
        "without draws has no mutual information. Colours run from 0 (white) to 1 (dark)."
    )
    made = agreement_triangles(drawn, guides=results.config.guides)
    title = f"Median rank correlation between guides: {medians(between)}"
    return Figure("agreement-of-guides", title, caption, made)


def _entropies(results: Results[Any]) -> Figure:
    entropy, correct = _each(results, "entropy"), _each(results, "correct")
    made = entropy_panels(entropy, correct)
    apart = {
        guide: float(np.median(entropy[guide][~right]) / np.median(entropy[guide][right]))
        for guide, right in correct.items()
        if 0 < right.mean() < 1 and np.median(entropy[guide][right]) > 0
    }
    title = "No guide makes a mistake"
    if apart:
        spread = span(apart, "{:,.0f}".format)
        title = f"Median predictive entropy on mistakes over that on hits runs {spread}"
    caption = (
        "Distribution of the predictive entropy over the test images that a guide gets right and "
        "wrong, on a logarithmic axis; entropies below 0.0001 nats stand at the left edge."
    )
    return Figure("entropy-of-hits-and-mistakes", title, caption, made)


def _losses(results: Results[Any]) -> Figure:
    losses = _each(results, "losses")
    last = {
        guide: (values[-2] - values[-1]) / (values[0] - values[-1])
        for guide, values in losses.items()
        if len(values) > 2 and values[0] != values[-1] and "swag" not in guide
    }
    spread = f"runs {span(last, percent)}" if last else "cannot be told from so few epochs"
    caption = (
        "The objective of each guide by epoch, the negative ELBO (for MAP the negative log joint) "
        "per training image. The constants of the prior differ between guides: compare shapes, "
        "not levels. SWAG wanders at a constant learning rate from where MAP ended; Laplace needs "
        "no training."
    )
    title = f"The share of the whole fall in loss that the last epoch brought {spread}"
    return Figure("training-loss", title, caption, loss_panels(losses))
