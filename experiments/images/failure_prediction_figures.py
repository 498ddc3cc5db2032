"""What the experiment failure-prediction says and shows, from its results alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from probml_tp.experiments.images.score_rows import row_style
from probml_tp.harness.experiment import Figure, Results
from probml_tp.kit.common import percent
from probml_tp.kit.comparisons import Reader, interval_words, spread_words
from probml_tp.metrics.selective import risk_coverage
from probml_tp.plots.detection import mistake_panels
from probml_tp.plots.robustness import Panel, interval_panels, plot_risk_coverage
from probml_tp.plots.style import GuideStyle, figure, house_style, shared_legend

HEADINGS = {
    "aupr_error": "AUPR-Error (%) ↑",
    "fpr95": "FPR at 95 % TPR (%) ↓",
    "auroc": "AUROC (%) ↑",
    "aurc": "AURC (‰) ↓",
}
SCALES = {name: 1000.0 if name == "aurc" else 100.0 for name in HEADINGS}
PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "fpr95": {
        "MCP": 5.56,
        "MC dropout: entropy": 5.26,
        "TrustScore": 10.00,
        "ConfidNet": 3.33,
    },
    "aupr_error": {
        "MCP": 35.05,
        "MC dropout: entropy": 38.50,
        "TrustScore": 35.88,
        "ConfidNet": 45.89,
    },
    "aupr_success": {
        "MCP": 99.99,
        "MC dropout: entropy": 99.99,
        "TrustScore": 99.98,
        "ConfidNet": 99.99,
    },
    "auroc": {
        "MCP": 98.63,
        "MC dropout: entropy": 98.65,
        "TrustScore": 98.20,
        "ConfidNet": 98.82,
    },
}
"""Corbière et al. 2019, MNIST, small ConvNet, in %; their MC dropout scores by the entropy."""

ORACLE = "True class probability (oracle)"
CURVES = {
    "MCP": GuideStyle("MCP", "#E69F00", "-", ""),
    "MC dropout: entropy": GuideStyle("MC dropout: entropy", "#CC79A7", (0, (5, 1, 1, 1)), ""),
    "TrustScore": GuideStyle("TrustScore", "#009E73", (0, (2, 1)), ""),
    "ConfidNet": GuideStyle("ConfidNet", "#D55E00", (0, (6, 1.5)), ""),
    ORACLE: GuideStyle(ORACLE, "#000000", (0, (1, 1)), ""),
}
"""Whose risk is drawn, and how."""


def is_published_size(config: Any) -> bool:
    """Whether a run compares with published ones: on all of MNIST."""
    return bool(config.dataset == "mnist" and config.train_size >= 60_000)


def findings(results: Results[Any]) -> list[str]:
    """What the numbers say, the most important first."""
    correct = results.arrays["correct"]
    wrong = int((~correct).sum())
    if not wrong:
        return ["The deterministic net makes no mistake on the test images: nothing to predict."]
    scores = Reader(results.arrays, "scores", reference="MCP")
    return [
        _confidnet(scores),
        _real(scores),
        _mistakes(results, wrong),
        *_published(results, scores),
        f"Intervals are {interval_words(results.config.seeds)}; differences are paired.",
    ]


def _confidnet(scores: Reader) -> str:
    found = {label: ends[0] for label, ends in scores.ends("aupr_error").items()}
    oracle = found.pop(ORACLE)
    return (
        f"AUPR-Error runs {spread_words(found, percent)}. MCP has {percent(found['MCP'])}, "
        f"ConfidNet {percent(found['ConfidNet'])}: {scores.words('ConfidNet', 'aupr_error')}. The "
        f"oracle, the true class probability itself, has {percent(oracle)}."
    )


def _real(scores: Reader) -> str:
    parts = []
    for sign, name in ((1, "Better"), (-1, "Worse")):
        labels = [x for x in scores.apart("aupr_error", sign=sign) if x != ORACLE]
        if labels:
            parts.append(
                f"{name} than MCP by AUPR-Error, beyond its interval: {'; '.join(labels)}."
            )
    return " ".join(parts) or "No score differs from MCP in AUPR-Error beyond its interval."


def _mistakes(results: Results[Any], wrong: int) -> str:
    size = len(results.arrays["correct"])
    seeds = f" (seed {results.config.seed})" if results.config.seeds > 1 else ""
    return (
        f"All scores judge the same predictions, of which {wrong} of {size:,} are wrong{seeds}. "
        f"With so few mistakes a difference of a few points in AUPR-Error is noise."
    )


def _published(results: Results[Any], scores: Reader) -> list[str]:
    """How the order of methods compares with that of the paper."""
    published = PUBLISHED["aupr_error"]
    if not is_published_size(results.config):
        return []
    ours = {label: 100 * scores.value(label, "aupr_error") for label in published}
    order = [sorted(values, key=lambda n: -values[n]) for values in (ours, published)]
    same = "the same as" if order[0] == order[1] else "not that of"
    first, second = (
        " > ".join(f"{name} ({values[name]:.1f})" for name in names)
        for names, values in zip(order, (ours, published), strict=True)
    )
    words = f"Ordered by AUPR-Error: {first}. That is {same} the paper"
    return [f"{words} (Corbière et al. 2019): {second}."]


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the comparison, the risk at coverage, the posteriors, ConfidNet and the mistakes."""
    if not (~results.arrays["correct"]).any():
        return
    yield _scores(results)
    yield _differences(results)
    yield _coverage(results)
    yield _posteriors(results)
    yield _training(results)
    yield _images(results)


def _families(results: Results[Any], prefix: str, labels: Sequence[str]) -> dict[str, GuideStyle]:
    known, families = (results.arrays[f"{prefix}.{name}"] for name in ("labels", "families"))
    styles = {str(x): row_style(str(f)) for x, f in zip(known, families, strict=True)}
    return {label: styles[label] for label in labels}


def _panels(scores: Reader, *, differences: bool, published: bool = False) -> list[Panel]:
    return [
        Panel(
            heading=heading,
            rows={
                x: SCALES[m] * e
                for x, e in scores.ends(m, minus=scores.reference if differences else "").items()
            },
            reference=0.0 if differences else None,
            published=PUBLISHED.get(m, {}) if published else {},
        )
        for m, heading in HEADINGS.items()
    ]


def _scores(results: Results[Any]) -> Figure:
    scores = Reader(results.arrays, "scores", reference="MCP")
    labels = [label for label in scores.labels if label != ORACLE]
    found = {label: scores.value(label, "aupr_error") for label in labels}
    made = interval_panels(
        _panels(scores, differences=False, published=is_published_size(results.config)),
        families=_families(results, "scores", labels),
        published="published (Corbière et al. 2019)",
    )
    title = f"AUPR-Error of the scores runs {spread_words(found, percent)}"
    caption = (
        "Every score judges the predictions of the same deterministic net. Bars: "
        f"{interval_words(results.config.seeds)}. Published values are of another small net and "
        "its own mistakes. AURC in thousandths."
    )
    return Figure("scores", title, caption, made)


def _differences(results: Results[Any]) -> Figure:
    scores = Reader(results.arrays, "scores", reference="MCP")
    labels = [label for label in scores.labels if label not in (ORACLE, "MCP")]
    made = interval_panels(
        _panels(scores, differences=True), families=_families(results, "scores", labels)
    )
    apart = [x for sign in (1, -1) for x in scores.apart("aupr_error", sign=sign) if x in labels]
    title = (
        f"{len(apart)} of {len(labels)} scores differ from MCP in AUPR-Error by more than chance"
    )
    caption = (
        "The paired difference of each score from MCP on the same predictions; an interval that "
        f"crosses the line may be chance. Intervals: {interval_words(results.config.seeds)}."
    )
    return Figure("differences-from-mcp", title, caption, made)


@house_style()
def _coverage(results: Results[Any]) -> Figure:
    arrays, correct = results.arrays, results.arrays["correct"]
    made, axes = figure(1, 1, width=6.5, height=3.6)
    ax = axes[0, 0]
    curves = {label: risk_coverage(arrays[f"confidence.{label}"], correct) for label in CURVES}
    plot_risk_coverage(curves, ax=ax, style=CURVES.__getitem__)
    shared_legend(made, [ax], columns=3)
    scores = Reader(arrays, "scores", reference="MCP")
    ours, mcp = (1000 * scores.value(label, "aurc") for label in ("ConfidNet", "MCP"))
    title = f"Area under the risk-coverage curve: ConfidNet {ours:.2f} ‰, MCP {mcp:.2f} ‰"
    caption = (
        "The share of mistakes among the images of which a score is surest, against how many "
        f"images these are. {_of_seed(results)}"
    )
    return Figure("risk-coverage", title, caption, made)


def _of_seed(results: Results[Any]) -> str:
    return f"Of seed {results.config.seed}." if results.config.seeds > 1 else ""


def _posteriors(results: Results[Any]) -> Figure:
    guides = Reader(results.arrays, "guides")
    made = interval_panels(
        _panels(guides, differences=False), families=_families(results, "guides", guides.labels)
    )
    found = {label: guides.value(label, "aupr_error") for label in guides.ends("aupr_error")}
    title = "No posterior makes a mistake"
    if found:
        title = f"On their own mistakes, posteriors' AUPR-Error runs {spread_words(found, percent)}"
    caption = (
        "Here each posterior is judged by its own uncertainty on its own predictions: a better "
        "classifier has fewer and harder mistakes, so compare scores within a posterior, and "
        "posteriors by AURC, which counts mistakes too. Intervals: "
        f"{interval_words(results.config.seeds)}."
    )
    return Figure("posteriors", title, caption, made)


@house_style()
def _training(results: Results[Any]) -> Figure:
    arrays = results.arrays
    made, axes = figure(1, 2, height=2.6)
    chosen, epochs = int(arrays["confidnet.chosen"]), np.arange(len(arrays["confidnet.step"]))
    quantities = {"validation_loss": ("loss", 1), "validation_aupr_error": ("AUPR-Error (%)", 100)}
    for ax, (name, (label, scale)) in zip(axes[0], quantities.items(), strict=True):
        values = scale * arrays[f"confidnet.{name}"]
        for step, words in (("head", "head on fixed features"), ("cloning", "encoder tuned too")):
            part = arrays["confidnet.step"] == step
            style = {"head": "#0072B2", "cloning": "#D55E00"}[step]
            ax.plot(1 + epochs[part], values[part], ".-", color=style, label=words)
        ax.plot(1 + chosen, values[chosen], "o", ms=9, mfc="none", color="black", label="chosen")
        ax.set_xlabel("Epoch")
        ax.set_ylabel(f"Validation {label}")
    axes[0, 0].set_yscale("log")
    shared_legend(made, axes[0])
    mistakes = int(arrays["confidnet.validation_mistakes"])
    step = (
        "after tuning its encoder" if arrays["confidnet.step"][chosen] == "cloning" else "as head"
    )
    title = f"ConfidNet is taken {step}, in epoch {1 + chosen}, by validation {_criterion(results)}"
    caption = (
        f"Validation images that neither fit has seen; {mistakes} of them are mistakes, so that "
        f"their AUPR-Error is noisy. {_of_seed(results)}"
    )
    return Figure("confidnet-training", title, caption, made)


def _criterion(results: Results[Any]) -> str:
    return "loss" if results.config.select_by == "loss" else "AUPR-Error"


def _images(results: Results[Any]) -> Figure:
    arrays, classes = results.arrays, results.arrays["classes"]
    named = zip(
        arrays["mistakes.predicted"],
        arrays["mistakes.labels"],
        *arrays["mistakes.ranks"],
        strict=True,
    )
    titles = [
        f"{classes[predicted]}, is {classes[label]}\n"
        f"MCP {percent(mcp, 0)}\nConfidNet {percent(ours, 0)}"
        for predicted, label, mcp, ours in named
    ]
    made = mistake_panels(arrays["mistakes.images"], titles=titles)
    mcp, ours = arrays["mistakes.ranks"]
    title = (
        f"ConfidNet ranks {int((ours < mcp).sum())} of the {len(mcp)} mistakes that MCP is surest "
        f"of lower than MCP does"
    )
    caption = (
        "Misclassified test images with the class predicted and the true one, and the share of all "
        f"test images that each score is less sure of. {_of_seed(results)}"
    )
    return Figure("mistakes", title, caption, made)
