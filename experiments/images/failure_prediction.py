r"""Failure prediction: which scores tell a classifier's mistakes from its hits.

One LeNet is trained with dropout. With dropout off it makes the predictions that all scores are to
judge, so that every score is held against the same mistakes: those of its outputs (the maximum
class probability, MCP, and its relatives), of its features, of the draws of MC dropout, and
ConfidNet, a network that learns the probability of the true class (Corbière et al. 2019). The true
class probability itself is the oracle. A second table has each posterior's own predictions, judged
by its own uncertainty.

What has to be chosen (temperatures, the epoch of ConfidNet) is chosen on validation images that no
fit has seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.images import failure_prediction_figures as told
from probml_tp.experiments.images import kit, score_rows
from probml_tp.experiments.images.classifiers import DROPOUT_OFF, ImageClassifiers, ImageConfig
from probml_tp.harness.experiment import (
    MAIN_TABLE,
    Experiment,
    Progress,
    Results,
    Table,
    Update,
    option,
)
from probml_tp.kit.common import Array, derived_seed
from probml_tp.kit.comparisons import compare
from probml_tp.kit.knobs import knob
from probml_tp.scores import ConfidNet, ConfidNetCriterion, fit_confidnet, true_class_probability

NAME = "failure-prediction"
CONFIDNET, HEAD = "ConfidNet", "ConfidNet, head only"
SHOWN_MISTAKES = 16


@dataclass(frozen=True, kw_only=True)
class Config(ImageConfig):
    """Options of the experiment."""

    confidnet_epochs: int = option(
        20, "Passes of ConfidNet's head over the features.", quick=10, full=30, minimum=1
    )
    confidnet_lr: float = option(
        1e-4, "Learning rate of ConfidNet's head.", quick=3e-4, minimum=1e-8
    )
    cloning_epochs: int = option(
        2,
        "Passes over the images in which ConfidNet's own encoder is tuned too.",
        quick=1,
        full=5,
        minimum=1,
    )
    cloning_lr: float = option(
        3e-5,
        "Learning rate of the tuning; with the 1e-6 of the literature it hardly moves.",
        minimum=1e-9,
    )
    select_by: str = option(
        "loss",
        "What the epoch is chosen by on validation images: aupr-error as published, noisy with few "
        "mistakes among them, or the loss.",
        choices=("loss", "aupr-error"),
    )
    resamples: int = knob("resamples", 500, quick=100, full=1000, minimum=50)


@dataclass(frozen=True)
class _Run:
    """One seed: what each score says of the test images, and what is right."""

    classifiers: ImageClassifiers
    confidnet: ConfidNet
    confidences: dict[str, Tensor]
    correct: Tensor


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit the classifiers and the scores of each seed, and compare them on the test images."""
    runs = [_one_seed(config, seed, progress) for seed in config.each_seed]
    own = score_rows.draw_rows(config.guides)
    fitted = [one.classifiers for one in runs]
    with progress.stage("compare"):
        of_scores, *differences = compare(
            MAIN_TABLE,
            [one.confidences for one in runs],
            [one.correct for one in runs],
            columns=told.COLUMNS,
            references=("MCP",),
            resamples=config.resamples,
            seed=derived_seed(config.seed, "bootstrap"),
        )
        of_guides = compare(
            told.POSTERIORS,
            [score_rows.confidences(own, c, c.test) for c in fitted],
            [{row.label: c.correct(row.guide, c.test) for row in own} for c in fitted],
            columns=told.COLUMNS,
            row_heading="Posterior: score",
            resamples=config.resamples,
            seed=derived_seed(config.seed, "bootstrap of guides"),
        )
    title = "Published: Corbière et al. 2019, a small ConvNet on the same images"
    published = Table(title, "Score", told.PUBLISHED, told.COLUMNS)
    return kit.results_of(
        fitted[0],
        config,
        progress,
        findings=told.FINDINGS,
        arrays=_arrays(runs[0]),
        experiment=NAME,
        title=f"Failure prediction on {config.images}",
        main=of_scores,
        tables=[*of_guides, *([published] if told.is_published_size(config) else []), *differences],
    )


def _one_seed(config: Config, seed: int, progress: Progress) -> _Run:
    classifiers = kit.classify(config, score_rows.scored_guides(config), seed, progress)
    with progress.stage(f"fit ConfidNet, seed {seed}") as update:
        confidnet = _fit_confidnet(config, classifiers, update)
    head = confidnet.after_head
    with progress.stage(f"fit other scores, seed {seed}"):
        rows = [
            *score_rows.net_rows(classifiers, {}),
            *score_rows.draw_rows(["mc-dropout"]),
            *([] if head is None else [score_rows.Row(HEAD, DROPOUT_OFF, head)]),
            score_rows.Row(CONFIDNET, DROPOUT_OFF, confidnet),
        ]
    with progress.stage(f"score, seed {seed}"):
        test = classifiers.test
        scored = score_rows.confidences(rows, classifiers, test)
    seen = classifiers.network_pass(DROPOUT_OFF, test)
    scored[told.ORACLE] = true_class_probability(seen, test.labels).double()
    return _Run(classifiers, confidnet, scored, classifiers.correct(DROPOUT_OFF, test))


def _fit_confidnet(config: Config, classifiers: ImageClassifiers, update: Update) -> ConfidNet:
    return fit_confidnet(
        classifiers.network_pass(DROPOUT_OFF, classifiers.train),
        classifiers.train.labels,
        classifiers.network_pass(DROPOUT_OFF, classifiers.validation),
        classifiers.validation.labels,
        epochs=config.confidnet_epochs,
        start="none",
        standardize=False,
        lr=config.confidnet_lr,
        cloning_epochs=config.cloning_epochs,
        cloning_lr=config.cloning_lr,
        select_by=cast("ConfidNetCriterion", config.select_by),
        seed=classifiers.seed,
        progress=update,
    )


def _arrays(first: _Run) -> dict[str, Array]:
    arrays: dict[str, Array] = {"correct": first.correct.numpy()}
    arrays |= {f"confidence.{label}": c.numpy() for label, c in first.confidences.items()}
    epochs = first.confidnet.history
    for name in ("validation_loss", "validation_aupr_error"):
        values = [getattr(epoch, name) for epoch in epochs]
        arrays[f"confidnet.{name}"] = np.array([np.nan if v is None else v for v in values])
    arrays["confidnet.step"] = np.array([epoch.step for epoch in epochs])
    arrays["confidnet.chosen"] = np.array(first.confidnet.chosen)
    wrong = ~first.classifiers.correct(DROPOUT_OFF, first.classifiers.validation)
    arrays["confidnet.validation_mistakes"] = np.array(int(wrong.sum()))
    return arrays | _mistakes(first)


def _mistakes(one: _Run) -> dict[str, Array]:
    """The mistakes that MCP is surest of, and where each score ranks them."""
    wrong = (~one.correct).nonzero().squeeze(1)
    order = one.confidences["MCP"][wrong].argsort(descending=True)
    index = wrong[order[:SHOWN_MISTAKES]]
    ranks = {
        label: torch.searchsorted(one.confidences[label].sort().values, one.confidences[label])
        for label in ("MCP", CONFIDNET)
    }
    test = one.classifiers.test
    predictive = one.classifiers.network_pass(DROPOUT_OFF, test).predictive
    return {
        "mistakes.images": test.images.numpy()[index],
        "mistakes.labels": test.labels.numpy()[index],
        "mistakes.predicted": predictive.predicted_class.numpy()[index],
        "mistakes.ranks": np.stack([rank.numpy()[index] / len(test) for rank in ranks.values()]),
        "classes": np.array(test.classes),
    }


EXPERIMENT = Experiment(NAME, EXPERIMENTS.summary(NAME), Config, run, told.figures)
