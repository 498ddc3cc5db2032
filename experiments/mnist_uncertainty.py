r"""LeNet on handwritten digits: accuracy, calibration, and the digits it is least sure of.

MAP and the variational guides (dropout with rates 0.5 before the first and 0.25 before the second
fully connected layer; concrete dropout learns them from there) are fitted to the same log joint
with the same optimiser, Adam with a cosine schedule. The members of the deep ensemble are fits like
MAP's, from random starts. The Laplace guides take the curvature at MAP, under its prior, and SWAG
goes on from there by stochastic gradient descent at a constant rate. The test digits are ordered
by each of three measures of uncertainty, ties by the predictive entropy: the share of the draws
that vote against the majority (variation ratio), the predictive entropy and the mutual information.
A few digits are looked at draw by draw.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from torch import Tensor

from probml_tp.datasets import ImageDataset, load_images
from probml_tp.diagnostics import to_inference_data
from probml_tp.experiment import (
    Experiment,
    ExperimentConfig,
    Progress,
    Results,
    option,
)
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.common import CLASSIFICATION_COLUMNS, FIT_COLUMN, Array
from probml_tp.experiments.digit_uncertainty import (
    LEAST,
    MOST,
    PAIRS,
    choose,
    extremes,
    lead_guide,
    measures_of,
    rank_correlation,
)
from probml_tp.experiments.mnist_uncertainty_figures import figures
from probml_tp.experiments.mnist_uncertainty_findings import findings
from probml_tp.experiments.recipes import Recipes, SwagPath
from probml_tp.guides.gaussian import StructuredNormal
from probml_tp.likelihoods import ClassificationLikelihood
from probml_tp.metrics import classification_scores
from probml_tp.models import LENET_DROPOUT, lenet
from probml_tp.posterior import Posterior
from probml_tp.predictive import ClassificationPredictive
from probml_tp.priors import FanInNormalPrior

if TYPE_CHECKING:
    import arviz as az

__all__ = ["EXPERIMENT", "Config", "run", "stages"]

NAME = "mnist-uncertainty"
TITLES = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}
GUIDES = (
    "map",
    "deep-ensemble",
    "laplace-kronecker",
    "laplace-diagonal",
    "laplace-last-layer",
    "mean-field",
    "low-rank-normal",
    "swag",
    "mc-dropout",
    "concrete-dropout",
    "gaussian-dropout",
)
ALL_GUIDES = (*GUIDES, "multi-swag")
RECORD_SITES = ("fc2.bias", "fc2.weight")
RECORD_SIZE, RECORD_SAMPLES = 200, 50


@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """Options of the experiment."""

    dataset: str = option("mnist", "Which images.", choices=tuple(TITLES))
    data_root: str | None = option(
        None, "Folder of the data in torchvision's layout; none for the user's cache folder."
    )
    train_size: int = option(
        15_000,
        "Training images, at most; a stratified subset.",
        quick=2_000,
        full=60_000,
        minimum=100,
    )
    test_size: int = option(
        2_000,
        "Test images, at most; a stratified subset.",
        quick=500,
        full=10_000,
        minimum=LEAST + MOST,
    )
    guides: tuple[str, ...] = option(
        GUIDES, "Which posteriors to compare.", full=ALL_GUIDES, choices=ALL_GUIDES
    )
    epochs: int = option(5, "Passes over the training images.", quick=4, full=20, minimum=1)
    batch_size: int = option(100, "Images a step.", minimum=1)
    lr: float = option(1e-3, "Initial learning rate of Adam.", minimum=1e-6)
    prior_variance: float = option(
        2.0, "Prior variance of a weight times the number of inputs of its unit.", minimum=1e-6
    )
    rank: int = option(10, "Columns of the low-rank normal's factor.", minimum=0)
    members: int = option(3, "Members of the ensembles.", quick=2, full=5, minimum=2)
    swag_epochs: int = option(10, "Passes over the images of SWAG.", quick=4, full=20, minimum=2)
    swag_lr: float = option(
        0.03, "Learning rate of SWAG's gradient descent (momentum 0.9).", minimum=1e-6
    )
    num_samples: int = option(100, "Draws for each prediction.", quick=30, full=200, minimum=2)
    digit: int | None = option(
        None,
        "Index of the test image to look at draw by draw; none for the least certain.",
        minimum=0,
    )


def stages(config: Config) -> dict[str, float]:
    """Seconds expected of each stage on 2 cores."""
    image_epochs = config.epochs * config.train_size
    fits = dict.fromkeys(ALL_GUIDES, 1.8e-4 * image_epochs)
    fits["low-rank-normal"] = 2.5e-4 * image_epochs
    fits["deep-ensemble"] = 1.5e-4 * config.members * image_epochs + 1
    fits["swag"] = 1.5e-4 * config.swag_epochs * config.train_size
    fits["multi-swag"] = config.members * fits["swag"]
    curvature = {"kronecker": 1.4e-3, "diagonal": 1.2e-3, "last-layer": 6e-4}
    fits |= {f"laplace-{kind}": cost * config.train_size for kind, cost in curvature.items()}
    draws = dict.fromkeys(ALL_GUIDES, 9e-5 * config.num_samples)
    draws |= dict.fromkeys(("mc-dropout", "concrete-dropout", "gaussian-dropout"), 2e-4)
    draws |= {"map": 1e-4, "deep-ensemble": 1e-4 * config.members}
    draws |= {"laplace-kronecker": 1.3e-3, "laplace-diagonal": 1e-3, "laplace-last-layer": 2e-4}
    plan = {"load images": 1.0}
    plan |= {f"fit {guide}": fits[guide] for guide in _recipes(config).order(config.guides)}
    for guide in config.guides:
        plan[f"predict {guide}"] = 0.2 + draws[guide] * config.test_size
    if lead_guide(config.guides):
        plan["draws of single images"] = 1.5e-3 * config.num_samples
    return {**plan, "records for ArviZ": 0.5 * len(config.guides)}


@dataclass(frozen=True)
class _Judged:
    """A posterior and what it predicts at the test images."""

    posterior: Posterior
    predictive: ClassificationPredictive
    measures: dict[str, Array]
    correct: Array
    fit_seconds: float
    predict_seconds: float

    @property
    def has_draws(self) -> bool:
        return "variation_ratio" in self.measures


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit LeNet with every guide, predict the test images, and find the uncertain ones."""
    with progress.stage("load images"):
        train = _load(config, "train", config.train_size)
        test = _load(config, "test", config.test_size)
        x_train, x_test = train.normalized(), test.normalized()
        _check_digit(config, test)
    prior = FanInNormalPrior(scale=config.prior_variance**0.5)
    model = lenet(prior=prior, num_classes=len(train.classes), seed=config.seed)
    recipes, data = _recipes(config), (x_train, train.labels)
    judged: dict[str, _Judged] = {}
    done: dict[str, Posterior] = {}
    for guide in recipes.order(config.guides):
        with progress.stage(f"fit {guide}") as update:
            done[guide] = recipes.fit(guide, model, data, done=done, update=update)
    for guide in config.guides:
        with progress.stage(f"predict {guide}"):
            start = time.perf_counter()
            predictive = done[guide].predict(x_test, num_samples=config.num_samples)
            times = recipes.seconds(guide, done), time.perf_counter() - start
            correct = (predictive.predicted_class == test.labels).numpy()
            measures = measures_of(predictive)
            judged[guide] = _Judged(done[guide], predictive, measures, correct, *times)
    arrays = _arrays(judged, test)
    if lead := lead_guide(config.guides):
        with progress.stage("draws of single images"):
            arrays |= _chosen(judged[lead], test, config)
    with progress.stage("records for ArviZ"):
        records = {
            guide: _record(one.posterior, (x_test, test.labels)) for guide, one in judged.items()
        }
    results = Results(
        experiment=NAME,
        title=f"LeNet on {TITLES[config.dataset]}",
        config=config,
        metrics={guide: _metrics(one, test, judged) for guide, one in judged.items()},
        columns=_columns(),
        findings=[],
        data_source=f"Trained on {train.source}; tested on {test.source}",
        data_is_fallback=train.is_fallback or test.is_fallback,
        arrays=arrays,
        posteriors={guide: one.posterior for guide, one in judged.items()},
        inference_data=dict(records),
    )
    results.findings = findings(results)
    return results


def _check_digit(config: Config, test: ImageDataset) -> None:
    if config.digit is not None and config.digit >= len(test):
        raise ValueError(
            f"Option digit must be an index into the {len(test):,} test images used; got "
            f"{config.digit}. Give a smaller one, or raise test_size."
        )


def _load(config: Config, split: str, size: int) -> ImageDataset:
    return load_images(
        config.dataset, split, root=config.data_root, max_size=size, seed=config.seed
    )


def _recipes(config: Config) -> Recipes:
    return Recipes(
        epochs=config.epochs,
        lr=config.lr,
        from_mode=("low-rank-normal",),
        batch_size=config.batch_size,
        rank=config.rank,
        rates=LENET_DROPOUT,
        members=config.members,
        apart=True,
        swag=SwagPath(
            lr=config.swag_lr,
            epochs=config.swag_epochs,
            batch_size=config.batch_size,
            momentum=0.9,
        ),
        seed=config.seed,
    )


def _record(posterior: Posterior, data: tuple[Tensor, Tensor]) -> az.InferenceData:
    """The last layer's weights, and the log likelihood at the first test images."""
    x, y = (part[:RECORD_SIZE] for part in data)
    return to_inference_data(posterior, x, y, sites=RECORD_SITES, num_samples=RECORD_SAMPLES)


def _metrics(one: _Judged, test: ImageDataset, judged: Mapping[str, _Judged]) -> dict[str, float]:
    row = classification_scores(one.predictive, test.labels)
    if one.has_draws:
        information = one.measures["mutual_information"]
        groups = {"mi_hits": one.correct, "mi_mistakes": ~one.correct}
        row |= {name: float(information[g].mean()) for name, g in groups.items() if g.any()}
    row |= _agreement(one, [other for other in judged.values() if other is not one])
    if isinstance(one.posterior.guide, StructuredNormal):
        row["log_evidence"] = one.posterior.guide.log_evidence()
    return row | {"seconds": one.fit_seconds, "predict_seconds": one.predict_seconds}


def _agreement(one: _Judged, others: Sequence[_Judged]) -> dict[str, float]:
    """Rank correlations between a guide's measures, and of its entropy with other guides'."""
    row = {
        metric: rank_correlation(one.measures[a], one.measures[b])
        for metric, (a, b) in PAIRS.items()
        if one.has_draws
    }
    entropy = one.measures["entropy"]
    if others:
        rho = [rank_correlation(entropy, other.measures["entropy"]) for other in others]
        row["rank_others"] = float(np.mean(rho))
    return {metric: value for metric, value in row.items() if np.isfinite(value)}


def _columns() -> dict[str, str]:
    return {
        **CLASSIFICATION_COLUMNS,
        "mi_hits": "Mutual information on hits (nats)",
        "mi_mistakes": "Mutual information on mistakes (nats)",
        "rank_entropy_mi": "Rank corr. of entropy, MI",
        "rank_entropy_ratio": "Rank corr. of entropy, variation ratio",
        "rank_mi_ratio": "Rank corr. of MI, variation ratio",
        "rank_others": "Rank corr. of entropy, other guides (mean)",
        "log_evidence": "Log evidence (nats)",
        **FIT_COLUMN,
        "predict_seconds": "Predict (s) ↓",
    }


def _arrays(judged: Mapping[str, _Judged], test: ImageDataset) -> dict[str, Array]:
    """Measures and votes of every test image, and the pixels of those that are shown."""
    arrays = {"classes": np.array(test.classes), "labels": test.labels.numpy()}
    shown = [np.empty(0, dtype=np.int64)]
    for guide, one in judged.items():
        own = {"correct": one.correct, "predicted": one.predictive.predicted_class.numpy()}
        if one.posterior.info.losses:
            own["losses"] = np.array(one.posterior.info.losses)
        if one.has_draws:
            index = extremes(one.measures)
            shown += index.values()
            own |= index | {"votes": one.predictive.require_votes().numpy().astype(np.uint16)}
        arrays |= {f"{guide}.{name}": values for name, values in (own | one.measures).items()}
    arrays["shown.index"] = np.unique(np.concatenate(shown))
    arrays["shown.images"] = test.images.numpy()[arrays["shown.index"]]
    return arrays


def _chosen(one: _Judged, data: ImageDataset, config: Config) -> dict[str, Array]:
    """A few test images at every draw: the draws are those of all predictions."""
    chosen = choose(one.measures, one.correct, digit=config.digit)
    index = np.array(list(chosen))
    predictive = one.posterior.predict(
        data.normalized()[index], num_samples=config.num_samples, keep_outputs=True
    )
    likelihood = cast("ClassificationLikelihood", one.posterior.model.likelihood)
    return {
        "chosen.index": index,
        "chosen.rules": np.array(list(chosen.values())),
        "chosen.images": data.images.numpy()[index],
        "chosen.probs": likelihood.log_probs(predictive.require_outputs()).exp().numpy(),
    }


EXPERIMENT = Experiment(
    name=NAME,
    summary=EXPERIMENTS.summary(NAME),
    config=Config,
    stages=stages,
    run=run,
    figures=figures,
)
