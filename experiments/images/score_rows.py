"""The scores that experiments compare: which posterior's pass each reads, its name and colour.

A row is a score on the passes of one posterior. Scores of the deterministic net (the centre of MC
dropout, with dropout off) come first, those of draws after them. What a score has to be fitted to
is fitted to the training and the validation images, never to test images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from probml_tp.datasets import ImageDataset
from probml_tp.experiments.images.classifiers import DROPOUT_OFF, ImageClassifiers, ImageConfig
from probml_tp.guides.recipes import RECIPES
from probml_tp.harness.experiment import Figure, Results, Table
from probml_tp.kit.common import percent
from probml_tp.kit.comparisons import interval_words, minus
from probml_tp.kit.sentences import Gap, any_of
from probml_tp.metrics.calibration import TemperatureScaling
from probml_tp.plots.robustness import Panel, interval_panels
from probml_tp.plots.style import GuideStyle, guide_style, number
from probml_tp.scores import (
    OUTPUT_SCORES,
    Mahalanobis,
    NearestNeighbours,
    Odin,
    Score,
    Tempered,
    TrustScore,
    ViM,
    choose_odin,
)

MEASURES: Mapping[str, str] = {
    "max-probability": "MCP",
    "entropy": "entropy",
    "mutual-information": "mutual information",
    "variation-ratio": "variation ratio",
}
"""Score of the draws to its name in tables."""

ODIN_PAPER, ODIN_LAB = "ODIN, T 1000, ε 0.0014", "ODIN, T 5, ε 0.0014"
ODIN_CHOSEN = "ODIN, ε chosen"
NEIGHBOURS = 50
"""Which neighbour the k-NN score looks at, at most; fewer for few training images."""

OUTPUTS = GuideStyle("Outputs of the deterministic net", "#E69F00", "-", "o")
FEATURES = GuideStyle("Features of the last layer", "#009E73", "-", "v")
STYLES: Mapping[str, GuideStyle] = {
    "ConfidNet": GuideStyle("ConfidNet", "#D55E00", "-", "D"),
    "ODIN": GuideStyle("ODIN", "#0072B2", "-", "^"),
    **dict.fromkeys(("Mahalanobis", "k-NN", "ViM", "TrustScore"), FEATURES),
}
"""How rows that belong to no guide of their own are drawn, by what their labels begin with."""


@dataclass(frozen=True)
class Row:
    """A score on the passes of one posterior."""

    label: str
    guide: str
    score: Score


def scored_guides(config: ImageConfig) -> list[str]:
    """The guides whose passes scores read: the deterministic net, its dropout, those asked for."""
    return list(dict.fromkeys([DROPOUT_OFF, "mc-dropout", *config.guides]))


def row_style(label: str) -> GuideStyle:
    """How a row is drawn: by its guide if it names one, else by its kind."""
    guides = {guide_style(guide).label: guide for guide in RECIPES}
    if (guide := guides.get(label.split(": ")[0])) is not None:
        return guide_style(guide)
    return next((style for kind, style in STYLES.items() if label.startswith(kind)), OUTPUTS)


def in_percent(value: float) -> str:
    """Write what is in per cent already."""
    return percent(value / 100)


def table_named(title: str, results: Results[Any]) -> Table:
    """The table of a title, shown or not."""
    return next(table for table in results.all_tables if table.title == title)


def paired_intervals(results: Results[Any]) -> str:
    """The finding on which intervals these are."""
    return f"Intervals are {interval_words(results.config.seeds)}; differences are paired."


def gap_to(rival: str, metric: str, row: str, *, table: str, words: str = "{gaps}") -> Gap:
    """How far a row of a comparison is from a rival, in percentage points."""
    return Gap(
        metric,
        words,
        table=minus(table, rival),
        rows=any_of([row]),
        clause=f"{{size}} points {{side}} {rival}{{interval}}",
        write=lambda value: number(value, ".1f"),
    )


def interval_figure(
    name: str,
    title: str,
    caption: str,
    panels: Sequence[Panel],
    rows: Iterable[str],
    **options: str,
) -> Figure:
    """Draw metrics of rows with their intervals, in the colours of their kinds."""
    made = interval_panels(panels, families={row: row_style(row) for row in rows}, **options)
    return Figure(name, title, caption, made)


def net_rows(classifiers: ImageClassifiers, others: Mapping[str, Score]) -> list[Row]:
    """Scores of the deterministic net: of its outputs, some others, and of its features.

    The temperature is fitted to validation images, features to those of the training images.
    """
    validation = classifiers.network_pass(DROPOUT_OFF, classifiers.validation)
    scaling = TemperatureScaling.fit(validation.predictive, classifiers.validation.labels)
    train, labels = classifiers.train, classifiers.train.labels
    run = classifiers.network_pass(DROPOUT_OFF, train)
    neighbours = min(NEIGHBOURS, max(1, len(train) // 1000))
    scores: dict[str, Score] = {
        "MCP": OUTPUT_SCORES["max-probability"],
        "MCP, tempered": Tempered(scaling.temperature),
        "Entropy": OUTPUT_SCORES["entropy"],
        "DOCTOR": OUTPUT_SCORES["doctor"],
        "Max logit": OUTPUT_SCORES["max-logit"],
        "Energy": OUTPUT_SCORES["energy"],
        **others,
        "Mahalanobis": Mahalanobis.fit(run, labels),
        "Mahalanobis, relative": Mahalanobis.fit(run, labels, relative=True),
        "k-NN": NearestNeighbours.fit(run, k=neighbours),
        "ViM": ViM.fit(run),
        "TrustScore": TrustScore.fit(run, labels),
    }
    return [Row(label, DROPOUT_OFF, score) for label, score in scores.items()]


def odin_scores(classifiers: ImageClassifiers) -> dict[str, Odin]:
    """ODIN as in the paper, as in the labs, and with its step chosen on validation images."""
    std = classifiers.std
    validation = classifiers.network_pass(DROPOUT_OFF, classifiers.validation)
    return {
        ODIN_PAPER: Odin(1000.0, 0.0014, std),
        ODIN_LAB: Odin(5.0, 0.0014, std),
        ODIN_CHOSEN: choose_odin(validation, like=Odin(std=std)).odin,
    }


def draw_rows(guides: Iterable[str]) -> list[Row]:
    """The measures of uncertainty of posteriors; MAP has no spread over draws."""
    without = {
        "deep-ensemble": ["variation-ratio"],
        "map": ["mutual-information", "variation-ratio"],
    }
    return [
        Row(f"{guide_style(guide).label}: {measure}", guide, OUTPUT_SCORES[name])
        for guide in guides
        for name, measure in MEASURES.items()
        if name not in without.get(guide, ())
    ]


def confidences(
    rows: Sequence[Row], classifiers: ImageClassifiers, data: ImageDataset
) -> dict[str, Tensor]:
    """Every row's score of the same images."""
    guides = dict.fromkeys(row.guide for row in rows)
    passes = {guide: classifiers.network_pass(guide, data) for guide in guides}
    return {row.label: row.score(passes[row.guide]).double().cpu() for row in rows}
