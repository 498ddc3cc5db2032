"""What the experiment mnist-uncertainty says and shows, from its results alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from probml_tp.experiments.images import digit_uncertainty as digits
from probml_tp.experiments.images import uncertainty_panels as panels
from probml_tp.experiments.images.kit import longer_trained
from probml_tp.harness.experiment import Figure, Results
from probml_tp.kit.common import Array, by_guide, labels_of, listed, percent, span
from probml_tp.kit.sentences import Count, Range, any_of, shares, together
from probml_tp.plots.digits import VotedImages, entropy_panels, vote_panels
from probml_tp.plots.style import guide_style, number
from probml_tp.plots.training import loss_panels

SHOWN = ("laplace-kronecker", "mean-field", "mc-dropout")
"""Whose votes on the most and the least certain images are shown: one guide of each family."""

PARTS = {"certain": "Most certain", "uncertain": "Least certain"}
AS_LEAST = f"{percent(digits.SET_ASIDE, 0)} least certain images"


def _each(results: Results[Any], name: str) -> dict[str, Array]:
    return by_guide(results.arrays, results.config.guides, name)


def _chosen(results: Results[Any]) -> dict[str, tuple[int, Array]]:
    """Rule to the index of the image it chose, and the class probabilities at each draw."""
    arrays = results.arrays
    draws = np.moveaxis(arrays["chosen.probs"], 1, 0)
    chosen = zip(arrays["chosen.index"].tolist(), arrays["chosen.rules"], draws, strict=True)
    return {r: (index, probs) for index, rules, probs in chosen for r in str(rules).split(", ")}


def _correlations(results: Results[Any]) -> dict[str, Array]:
    """Measure to the matrix of its rank correlations between guides."""
    guides = results.config.guides
    return {name: digits.between_guides(_each(results, name), guides) for name in digits.MEASURES}


def _medians(between: Mapping[str, Array]) -> str:
    """Say the median over the pairs of guides of each measure's rank correlation."""
    pairs = {name: table[np.tri(len(table), k=-1, dtype=bool)] for name, table in between.items()}
    parts = [
        f"{number(float(np.nanmedian(rho)), '.2f')} by {digits.MEASURES[name].lower()}"
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
    arrays, lead = results.arrays, digits.lead_guide(results.config.guides)
    if lead is None:
        return None
    label, right = guide_style(lead).label, arrays[f"{lead}.correct"]
    if right.all():
        return f"{label} makes no mistake on the {len(right):,} test images."
    index, probs = _chosen(results)["most confident mistake"]
    classes, entropy = arrays["classes"], arrays[f"{lead}.entropy"]
    true, top = arrays["labels"][index], arrays[f"{lead}.predicted"][index]
    return (
        f"The most confident mistake of {label}, test image {index}, is of class {classes[true]}: "
        f"{(probs.argmax(1) == top).sum()} of {len(probs)} draws vote for {classes[top]}, with a "
        f"mean probability of {percent(float(probs[:, top].mean()))}. By predictive entropy "
        f"{percent(float((entropy > entropy[index]).mean()))} of the test images are less certain, "
        f"and would be set aside before it."
    )


def _between_guides(results: Results[Any]) -> str | None:
    guides, between = results.config.guides, _correlations(results)
    if not (words := _medians(between)):
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
        f"The {percent(digits.SET_ASIDE, 0)} of images with the highest predictive entropy hold a "
        f"share of a guide's mistakes that runs {{range}}.",
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
                    f"for {digits.pair_of(metric)} {{range}}",
                    table=digits.AGREEMENT,
                    write=lambda rho: number(rho, ".2f"),
                )
                for metric in digits.PAIRS
            ),
            joint="; ",
            start="Spearman's rank correlation of two measures of a guide over the test images "
            "runs ",
        ),
        Range(
            "ties",
            "All draws agree on a share of the images that runs {range}: there the variation ratio "
            "is 0 and tells them no further apart.",
            table=digits.AGREEMENT,
            write=percent,
        ),
        joint=". ",
    ),
    Range(
        "shared",
        f"The three measures of a guide name a share of their {AS_LEAST} in common that runs "
        f"{{range}}.",
        table=digits.AGREEMENT,
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


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the images by their measures, the agreement of the measures, and the losses."""
    with_draws = list(_each(results, "variation_ratio"))
    if (lead := digits.lead_guide(results.config.guides)) is not None:
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


def _draws(lead: str, results: Results[Any]) -> Figure:
    arrays, names = results.arrays, results.arrays["classes"]
    signs = {"VR": "variation_ratio", "H": "entropy", "MI": "mutual_information"}
    rows = []
    for place, index in enumerate(arrays["chosen.index"]):
        label, top = (int(arrays[name][index]) for name in ("labels", f"{lead}.predicted"))
        found = (f"{s} {arrays[f'{lead}.{name}'][index]:.2f}" for s, name in signs.items())
        rows.append(
            panels.DrawnImage(
                f"{str(arrays['chosen.rules'][place]).capitalize()}\ntest image {index}",
                f"true {names[label]}, predicted {names[top]}\n{', '.join(found)}",
                image=arrays["chosen.images"][place],
                label=label,
                probs=arrays["chosen.probs"][:, place],
            )
        )
    made = panels.drawn_panels(rows, classes=names.tolist())
    caption = (
        f"Single test images at each of {len(rows[0].probs)} draws of {guide_style(lead).label}: "
        f"mean class probabilities, the votes of the draws, and how the probability of a class "
        f"spreads over them (none for a class of at most 1 % at every draw). Least certain: by "
        f"variation ratio (VR); hits and mistakes: by predictive entropy (H); MI: mutual "
        f"information, in nats."
    )
    return Figure(f"draws-of-single-images-{lead}", _draws_title(lead, results), caption, made)


def _draws_title(lead: str, results: Results[Any]) -> str:
    arrays, label = results.arrays, guide_style(lead).label
    right = arrays[f"{lead}.correct"]
    if not right.any():
        return f"{label} is right on no test image"

    def share(rule: str, classes: str) -> str:
        index, probs = _chosen(results)[rule]
        return percent(float(probs[:, arrays[classes][index]].mean()), 0)

    doubt = f"{share('least certain hit', 'labels')} to the true class in its least certain hit"
    if right.all():
        return f"{label} makes no mistake on the {len(right):,} test images; it gives {doubt}"
    sure = share("most confident mistake", f"{lead}.predicted")
    return f"{label} gives {sure} to a wrong class in its most confident mistake, and {doubt}"


def _images(results: Results[Any], index: Array) -> Array:
    arrays = results.arrays
    found: Array = arrays["shown.images"][np.searchsorted(arrays["shown.index"], index)]
    return found


def _by_measure(guide: str, results: Results[Any]) -> Figure:
    arrays = results.arrays
    groups: dict[str, dict[str, panels.RankedImages]] = {}
    for part, heading in PARTS.items():
        for name, measure in digits.MEASURES.items():
            index = arrays[f"{guide}.{name}.{part}"]
            ranked = panels.RankedImages(
                images=_images(results, index),
                labels=arrays["labels"][index],
                predicted=arrays[f"{guide}.predicted"][index],
                values=arrays[f"{guide}.{name}"][index],
            )
            unit = "share of draws" if name == "variation_ratio" else "nats"
            groups.setdefault(heading, {})[f"{measure} ({unit})"] = ranked
    least = {m: arrays[f"{guide}.{name}.uncertain"] for name, m in digits.MEASURES.items()}
    common = len(set.intersection(*(set(index.tolist()) for index in least.values())))
    wrong = [
        f"{(~arrays[f'{guide}.correct'][index]).sum()} by {measure.lower()}"
        for measure, index in least.items()
    ]
    title = (
        f"{guide_style(guide).label}: the three measures name {common} of their {digits.LEAST} "
        f"least certain images in common; wrong are {listed(wrong)}"
    )
    caption = (
        f"The {digits.MOST} most and the {digits.LEAST} least certain test images with the value "
        f"of the measure, the most extreme first; ties in the order of the predictive entropy. "
        f"Values below 0.005 are rounded to a power of ten."
    )
    made = panels.ranked_panels(groups, classes=arrays["classes"].tolist())
    return Figure(f"certain-and-uncertain-by-measure-{guide}", title, caption, made)


def _votes(guide: str, results: Results[Any]) -> Figure:
    arrays = results.arrays
    groups = {
        part: VotedImages(
            heading,
            images=_images(results, index),
            labels=arrays["labels"][index],
            votes=arrays[f"{guide}.votes"][index],
        )
        for part, heading in PARTS.items()
        for index in [arrays[f"{guide}.variation_ratio.{part}"]]
    }
    made = vote_panels(list(groups.values()), classes=arrays["classes"].tolist())
    sure, doubtful = groups["certain"].votes, groups["uncertain"]
    outvoted = int((doubtful.votes.argmax(1) != doubtful.labels).sum())
    title = (
        f"{guide_style(guide).label}: the majority is wrong on {outvoted} of the {digits.LEAST} "
        f"least certain images, and all draws agree on {int((sure.max(1) == sure.sum(1)).sum())} "
        f"of the {digits.MOST} most certain"
    )
    caption = (
        "Test images with the share of draws that vote for each class: blue the true class, orange "
        "a majority for another one. Ordered by variation ratio, then by predictive entropy."
    )
    return Figure(f"certain-and-uncertain-{guide}", title, caption, made)


def _agreement_of_measures(guides: list[str], results: Results[Any]) -> Figure:
    table, pairs = results.tables[0], list(map(digits.pair_of, digits.PAIRS))
    ranks, shared = (
        np.array(
            [[table.column(f"{kind}{m}").get(g, np.nan) for g in guides] for m in digits.PAIRS]
        )
        for kind in ("", "shared_")
    )
    medians = (percent(float(np.median(row)), 0) for row in shared)
    words = listed(f"{median} ({pair})" for pair, median in zip(pairs, medians, strict=True))
    made = panels.agreement_rows(
        {
            "Rank correlation over all test images": ranks,
            f"Share in common of the {AS_LEAST}": shared,
        },
        rows=[pair.replace(" and ", ",\n") for pair in pairs],
        guides=guides,
    )
    caption = (
        f"How far two measures of one guide order the test images alike (Spearman; images on which "
        f"all draws agree tie at a variation ratio of 0, which lowers it), and which share of its "
        f"{AS_LEAST} both name, ties in random order: by chance {percent(digits.SET_ASIDE, 0)}. "
        f"Colours run from 0 (white) to 1 (dark)."
    )
    title = f"In the median guide, two measures share of their {AS_LEAST} {words}"
    return Figure("agreement-of-measures", title, caption, made)


def _agreement_of_guides(results: Results[Any]) -> Figure:
    between = _correlations(results)
    drawn = {
        digits.MEASURES[name]: between[name]
        for name in ("entropy", "mutual_information")
        if _medians({name: between[name]})
    }
    caption = (
        "Spearman's rank correlation of one measure of uncertainty between two guides over the "
        "test images, each pair of guides once; the title's median is over the pairs. A guide "
        "without draws has no mutual information."
    )
    made = panels.agreement_triangles(drawn, guides=results.config.guides)
    title = f"Median rank correlation between guides: {_medians(between)}"
    return Figure("agreement-of-guides", title, caption, made)


def _entropies(results: Results[Any]) -> Figure:
    entropy, correct = _each(results, "entropy"), _each(results, "correct")
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
    return Figure("entropy-of-hits-and-mistakes", title, caption, entropy_panels(entropy, correct))


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
        "per training image; the constants of the prior differ between guides: compare shapes, "
        "not levels. SWAG wanders at a constant learning rate from where MAP ended."
    )
    title = f"The share of the whole fall in loss that the last epoch brought {spread}"
    return Figure("training-loss", title, caption, loss_panels(losses))
