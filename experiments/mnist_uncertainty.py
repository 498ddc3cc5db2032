r"""LeNet on handwritten digits: accuracy, calibration, and the digits it is least sure of.

MAP, mean-field and MC dropout (drop rates 0.5 before the first and 0.25 before the second fully
connected layer) are fitted to the same log joint with the same optimiser, Adam with a cosine
schedule. A test digit is ordered by how many draws of the posterior vote against the majority
(variation ratio), ties by the predictive entropy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from probml_tp.datasets import ImageDataset, load_images
from probml_tp.diagnostics import to_inference_data
from probml_tp.experiment import (
    Experiment,
    ExperimentConfig,
    Figure,
    Progress,
    Results,
    Update,
    option,
)
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.common import (
    CLASSIFICATION_COLUMNS,
    FIT_COLUMN,
    Array,
    by_guide,
    labels_of,
    percent,
)
from probml_tp.guides import Delta, MCDropout, MeanFieldNormal
from probml_tp.inference import GuideFactory, fit
from probml_tp.metrics import classification_scores
from probml_tp.model import BayesianModel
from probml_tp.models import LENET_DROPOUT, lenet
from probml_tp.plots.digits import VotedImages, entropy_panels, vote_panels
from probml_tp.plots.style import guide_style
from probml_tp.plots.training import loss_panels
from probml_tp.posterior import Posterior
from probml_tp.predictive import ClassificationPredictive
from probml_tp.priors import FanInNormalPrior

if TYPE_CHECKING:
    import arviz as az

__all__ = ["EXPERIMENT", "Config", "figures", "run", "stages"]

NAME = "mnist-uncertainty"
TITLES = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}
GUIDES = ("map", "mean-field", "mc-dropout")
MOST, LEAST = 8, 16
"""How many of the most and the least certain images are shown."""

SET_ASIDE = 0.05
"""The share of images set aside as the most uncertain."""

RECORD_SITES = ("fc2.bias", "fc2.weight")
RECORD_SIZE, RECORD_SAMPLES = 500, 100


@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Options of the experiment."""

    dataset: str = option("mnist", "Which images.", choices=tuple(TITLES))
    data_root: str | None = option(
        None, "Folder of the data in torchvision's layout; none for the user's cache folder."
    )
    train_size: int = option(
        60_000, "Training images, at most; a stratified subset.", quick=4_000, minimum=100
    )
    test_size: int = option(
        10_000, "Test images, at most; a stratified subset.", quick=1_000, minimum=LEAST + MOST
    )
    guides: tuple[str, ...] = option(GUIDES, "Which posteriors to compare.", choices=GUIDES)
    epochs: int = option(5, "Passes over the training images.", quick=4, full=20, minimum=1)
    batch_size: int = option(100, "Images a step.", minimum=1)
    lr: float = option(1e-3, "Initial learning rate of Adam.", minimum=1e-6)
    prior_variance: float = option(
        2.0, "Prior variance of a weight times the number of inputs of its unit.", minimum=1e-6
    )
    num_samples: int = option(100, "Draws for each prediction.", quick=30, full=200, minimum=2)


def stages(config: Config) -> dict[str, float]:
    """Seconds expected of each stage on 2 cores."""
    fitting = 1.5e-4 * config.epochs * config.train_size
    per_image = {"map": 4e-5, "mean-field": 2e-5, "mc-dropout": 2e-6}
    draws = {"map": 1, "mean-field": config.num_samples, "mc-dropout": config.num_samples}
    plan = {"load images": 1.0}
    for guide in config.guides:
        plan[f"fit {guide}"] = fitting
        plan[f"predict {guide}"] = 0.2 + per_image[guide] * draws[guide] * config.test_size
    return {**plan, "records for ArviZ": 2.0 * len(config.guides)}


@dataclass(frozen=True)
class _Judged:
    """A posterior and what it predicts at the test images."""

    posterior: Posterior
    predictive: ClassificationPredictive
    correct: Array
    seconds: float

    @property
    def has_draws(self) -> bool:
        return self.predictive.num_samples > 1


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit LeNet with every guide, predict the test images, and find the uncertain ones."""
    with progress.stage("load images"):
        train = _load(config, "train", config.train_size)
        test = _load(config, "test", config.test_size)
        x_train, x_test = train.normalized(), test.normalized()
    prior = FanInNormalPrior(scale=config.prior_variance**0.5)
    model = lenet(prior=prior, num_classes=len(train.classes), seed=config.seed)
    judged: dict[str, _Judged] = {}
    for guide in config.guides:
        with progress.stage(f"fit {guide}") as update:
            posterior = _fit(guide, model, (x_train, train.labels), config, update)
        with progress.stage(f"predict {guide}"):
            start = time.perf_counter()
            predictive = posterior.predict(x_test, num_samples=config.num_samples)
            seconds = time.perf_counter() - start
            correct = (predictive.predicted_class == test.labels).numpy()
            judged[guide] = _Judged(posterior, predictive, correct, seconds)
    with progress.stage("records for ArviZ"):
        records = {
            guide: _record(one.posterior, (x_test, test.labels)) for guide, one in judged.items()
        }
    metrics = {guide: _metrics(one, test) for guide, one in judged.items()}
    return Results(
        experiment=NAME,
        title=f"LeNet on {TITLES[config.dataset]}",
        config=config,
        metrics=metrics,
        columns=_columns(),
        findings=_findings(judged, metrics),
        data_source=f"Trained on {train.source}; tested on {test.source}",
        data_is_fallback=train.is_fallback or test.is_fallback,
        arrays=_arrays(judged, test),
        posteriors={guide: one.posterior for guide, one in judged.items()},
        inference_data=dict(records),
    )


def _load(config: Config, split: str, size: int) -> ImageDataset:
    return load_images(
        config.dataset, split, root=config.data_root, max_size=size, seed=config.seed
    )


def _fit(
    guide: str, model: BayesianModel, data: tuple[Tensor, Tensor], config: Config, update: Update
) -> Posterior:
    factories: dict[str, GuideFactory] = {
        "map": Delta,
        "mean-field": MeanFieldNormal,
        "mc-dropout": partial(MCDropout, rates=LENET_DROPOUT),
    }
    return fit(
        model,
        factories[guide],
        data,
        epochs=config.epochs,
        batch_size=config.batch_size,
        lr=config.lr,
        schedule="cosine",
        seed=config.seed,
        progress=update,
    )


def _record(posterior: Posterior, data: tuple[Tensor, Tensor]) -> az.InferenceData:
    """The last layer's weights, and the log likelihood at the first test images."""
    x, y = (part[:RECORD_SIZE] for part in data)
    return to_inference_data(posterior, x, y, sites=RECORD_SITES, num_samples=RECORD_SAMPLES)


def _metrics(one: _Judged, test: ImageDataset) -> dict[str, float]:
    row = classification_scores(one.predictive, test.labels)
    if one.has_draws:
        information = one.predictive.mutual_information.numpy()
        groups = {"mi_hits": one.correct, "mi_mistakes": ~one.correct}
        row |= {name: float(information[g].mean()) for name, g in groups.items() if g.any()}
    return row | {"seconds": one.posterior.info.seconds, "predict_seconds": one.seconds}


def _columns() -> dict[str, str]:
    return {
        **CLASSIFICATION_COLUMNS,
        "mi_hits": "Mutual information on hits (nats)",
        "mi_mistakes": "Mutual information on mistakes (nats)",
        **FIT_COLUMN,
        "predict_seconds": "Predict (s) ↓",
    }


def _findings(
    judged: Mapping[str, _Judged], metrics: Mapping[str, Mapping[str, float]]
) -> list[str]:
    found = [_accuracy(judged, metrics)]
    for guide, row in metrics.items():
        if {"mi_hits", "mi_mistakes"} <= set(row):
            found.append(
                f"{guide_style(guide).label}: the mutual information averages "
                f"{row['mi_mistakes']:.3f} nats on mistakes and {row['mi_hits']:.4f} on hits."
            )
    return found + [_set_aside(guide, one) for guide, one in judged.items()]


def _accuracy(judged: Mapping[str, _Judged], metrics: Mapping[str, Mapping[str, float]]) -> str:
    ranked = sorted(metrics, key=lambda guide: -metrics[guide]["accuracy"])
    values = ", ".join(
        f"{labels_of([guide])} {percent(metrics[guide]['accuracy'], 2)} "
        f"(NLL {metrics[guide]['nll']:.4f} nats)"
        for guide in ranked
    )
    size = len(judged[ranked[0]].correct)
    p = metrics[ranked[0]]["accuracy"]
    error = (p * (1 - p) / size) ** 0.5
    return (
        f"Accuracy on {size:,} test images: {values}. The standard error of the first from the "
        f"choice of test images is {percent(error, 2)}."
    )


def _set_aside(guide: str, one: _Judged) -> str:
    """How many mistakes the most uncertain images hold."""
    mistakes = ~one.correct
    if not mistakes.any():
        return f"{guide_style(guide).label} makes no mistake on the test images."
    entropy = one.predictive.predictive_entropy.numpy()
    aside = np.argsort(-entropy, kind="stable")[: round(SET_ASIDE * len(entropy))]
    caught = int(mistakes[aside].sum())
    return (
        f"{guide_style(guide).label}: the {percent(SET_ASIDE, 0)} of images with the highest "
        f"predictive entropy hold {caught} of its {int(mistakes.sum())} mistakes."
    )


def _arrays(judged: Mapping[str, _Judged], test: ImageDataset) -> dict[str, Array]:
    arrays: dict[str, Array] = {"classes": np.array(test.classes)}
    for guide, one in judged.items():
        predictive = one.predictive
        arrays[f"{guide}.losses"] = np.array(one.posterior.info.losses)
        arrays[f"{guide}.correct"] = one.correct
        arrays[f"{guide}.entropy"] = predictive.predictive_entropy.numpy()
        if one.has_draws:
            arrays[f"{guide}.mutual_information"] = predictive.mutual_information.numpy()
            arrays[f"{guide}.variation_ratio"] = predictive.variation_ratio.numpy()
            arrays |= {f"{guide}.{n}": v for n, v in _shown(predictive, test).items()}
    return arrays


def _shown(predictive: ClassificationPredictive, test: ImageDataset) -> dict[str, Array]:
    """The most and the least certain images, by variation ratio, then by entropy."""
    entropy, ratio = predictive.predictive_entropy.numpy(), predictive.variation_ratio.numpy()
    order = np.lexsort((entropy, ratio))
    parts = {"certain": order[:MOST], "uncertain": order[::-1][:LEAST]}
    shown: dict[str, Array] = {}
    for part, index in parts.items():
        shown[f"{part}.index"] = index
        shown[f"{part}.images"] = test.images.numpy()[index]
        shown[f"{part}.labels"] = test.labels.numpy()[index]
        shown[f"{part}.votes"] = predictive.require_votes().numpy()[index]
    return shown


# --------------------------------------------------------------------------------------- figures


def figures(results: Results[Config]) -> Iterator[Figure]:
    """Draw the images, the entropies and the losses."""
    voted = by_guide(results.arrays, results.config.guides, "certain.images")
    for guide in voted:
        yield _digits(guide, results)
    yield _entropies(results)
    yield _losses(results)


def _digits(guide: str, results: Results[Config]) -> Figure:
    arrays, label = results.arrays, guide_style(guide).label
    groups = {
        part: VotedImages(
            heading,
            images=arrays[f"{guide}.{part}.images"],
            labels=arrays[f"{guide}.{part}.labels"],
            votes=arrays[f"{guide}.{part}.votes"],
        )
        for part, heading in (("certain", "Most certain"), ("uncertain", "Least certain"))
    }
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


def _entropies(results: Results[Config]) -> Figure:
    arrays, guides = results.arrays, results.config.guides
    entropy, correct = (by_guide(arrays, guides, name) for name in ("entropy", "correct"))
    made = entropy_panels(entropy, correct)
    medians = [
        f"{labels_of([guide])} {np.median(entropy[guide][~correct[guide]]):.2g} against "
        f"{np.median(entropy[guide][correct[guide]]):.2g}"
        for guide in guides
        if 0 < correct[guide].mean() < 1
    ]
    listed = ", ".join(medians) or "no guide makes a mistake"
    title = f"Median predictive entropy on mistakes against hits, in nats: {listed}"
    caption = (
        "Distribution of the predictive entropy over the test images that a guide gets right and "
        "wrong, on a logarithmic axis; entropies below 0.0001 nats stand at the left edge."
    )
    return Figure("entropy-of-hits-and-mistakes", title, caption, made)


def _losses(results: Results[Config]) -> Figure:
    losses = by_guide(results.arrays, results.config.guides, "losses")
    last = {
        guide: (values[-2] - values[-1]) / (values[0] - values[-1])
        for guide, values in losses.items()
        if len(values) > 2 and values[0] != values[-1]
    }
    shares = [f"{labels_of([guide])} {percent(share)}" for guide, share in last.items()]
    listed = ", ".join(shares) or "too few epochs to tell"
    caption = (
        "The objective of each guide by epoch, the negative ELBO (for MAP the negative log joint) "
        "per training image. The constants of the prior differ between guides: compare shapes, "
        "not levels."
    )
    title = f"Share of the whole fall in loss that the last epoch brought: {listed}"
    return Figure("training-loss", title, caption, loss_panels(losses))


EXPERIMENT = Experiment(
    name=NAME,
    summary=EXPERIMENTS.summary(NAME),
    config=Config,
    stages=stages,
    run=run,
    figures=figures,
)
