r"""LeNet on handwritten digits: accuracy, calibration, and the digits it is least sure of.

MAP and the variational guides (dropout with rates 0.5 before the first and 0.25 before the second
fully connected layer; concrete dropout learns them from there) are fitted to the same log joint
with the same optimiser, Adam with a cosine schedule. The members of the deep ensemble are fits like
MAP's, from random starts. The Laplace guides take the curvature at MAP, under its prior, and SWAG
goes on from there by stochastic gradient descent at a constant rate. A test digit is
ordered by how many draws of the posterior vote against the majority (variation ratio), ties by the
predictive entropy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from probml_tp.datasets import ImageDataset
from probml_tp.diagnostics import to_inference_data
from probml_tp.experiment import Experiment, Figure, Progress, Results, option
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.common import (
    CLASSIFICATION_COLUMNS,
    FIT_COLUMN,
    Array,
    by_guide,
    over_seeds,
    percent,
    span,
)
from probml_tp.experiments.image_classifiers import (
    ALL_GUIDES,
    TITLES,
    ImageClassifiers,
    ImageConfig,
    fit_all,
    fit_stages,
    pass_seconds,
    seeds,
)
from probml_tp.guides.gaussian import StructuredNormal
from probml_tp.metrics import classification_scores
from probml_tp.plots.digits import VotedImages, entropy_panels, vote_panels
from probml_tp.plots.style import guide_style
from probml_tp.plots.training import loss_panels
from probml_tp.posterior import Posterior
from probml_tp.predictive import ClassificationPredictive

if TYPE_CHECKING:
    import arviz as az

__all__ = ["EXPERIMENT", "Config", "figures", "run", "stages"]

NAME = "mnist-uncertainty"
GUIDES = tuple(guide for guide in ALL_GUIDES if guide != "multi-swag")
SHOWN = ("laplace-kronecker", "mean-field", "mc-dropout")
"""Whose most and least certain images are shown: one guide of each family."""

MOST, LEAST = 8, 16
"""How many of the most and the least certain images are shown."""

SET_ASIDE = 0.05
"""The share of images set aside as the most uncertain."""

RECORD_SITES = ("fc2.bias", "fc2.weight")
RECORD_SIZE, RECORD_SAMPLES = 200, 50


@dataclass(frozen=True, kw_only=True)
class Config(ImageConfig):
    """Options of the experiment."""

    guides: tuple[str, ...] = option(
        GUIDES, "Which posteriors to compare.", full=ALL_GUIDES, choices=ALL_GUIDES
    )


def stages(config: Config) -> dict[str, float]:
    """Seconds expected of each stage on 2 cores."""
    plan = fit_stages(config, config.guides)
    for guide in config.guides:
        seconds = pass_seconds(config, guide, config.test_size)
        plan[f"predict {guide}"] = seconds * config.seeds
    return {**plan, "records for ArviZ": 0.5 * len(config.guides)}


@dataclass(frozen=True)
class _Judged:
    """A posterior and what it predicts at the test images."""

    posterior: Posterior
    predictive: ClassificationPredictive
    correct: Array
    fit_seconds: float
    predict_seconds: float

    @property
    def has_draws(self) -> bool:
        return self.predictive.num_samples > 1


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit LeNet with every guide, predict the test images, and find the uncertain ones."""
    runs = [fit_all(config, config.guides, seed, progress) for seed in seeds(config)]
    metrics_of_seeds: list[dict[str, dict[str, float]]] = [{} for _ in runs]
    for guide in config.guides:
        with progress.stage(f"predict {guide}"):
            for row, classifiers in zip(metrics_of_seeds, runs, strict=True):
                row[guide] = _metrics(_judge(classifiers, guide), classifiers.test)
    first, test = runs[0], runs[0].test
    judged = {guide: _judge(first, guide) for guide in config.guides}
    with progress.stage("records for ArviZ"):
        records = {
            guide: _record(one.posterior, (first.normalized(test), test.labels))
            for guide, one in judged.items()
        }
    metrics, intervals = over_seeds(metrics_of_seeds)
    return Results(
        experiment=NAME,
        title=f"LeNet on {TITLES[config.dataset]}",
        config=config,
        metrics=metrics,
        columns=_columns(),
        findings=_findings(config, judged, metrics),
        data_source=first.data_source,
        data_is_fallback=first.is_fallback,
        intervals=intervals,
        arrays=_arrays(judged, test),
        posteriors={guide: one.posterior for guide, one in judged.items()},
        inference_data=dict(records),
    )


def _judge(classifiers: ImageClassifiers, guide: str) -> _Judged:
    run = classifiers.network_pass(guide, classifiers.test)
    correct = (run.predictive.predicted_class == classifiers.test.labels).numpy()
    times = classifiers.seconds(guide), run.seconds
    return _Judged(classifiers.posterior(guide), run.predictive, correct, *times)


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
    if isinstance(one.posterior.guide, StructuredNormal):
        row["log_evidence"] = one.posterior.guide.log_evidence()
    return row | {"seconds": one.fit_seconds, "predict_seconds": one.predict_seconds}


def _columns() -> dict[str, str]:
    return {
        **CLASSIFICATION_COLUMNS,
        "mi_hits": "Mutual information on hits (nats)",
        "mi_mistakes": "Mutual information on mistakes (nats)",
        "log_evidence": "Log evidence (nats)",
        **FIT_COLUMN,
        "predict_seconds": "Predict (s) ↓",
    }


def _findings(
    config: Config, judged: Mapping[str, _Judged], metrics: Mapping[str, Mapping[str, float]]
) -> list[str]:
    found = [_accuracy(judged, metrics), *_information(metrics), *_set_aside(judged)]
    if "swag" in metrics:
        found.append(
            f"SWAG trains on for {config.swag_epochs} epochs from where the {config.epochs} of MAP "
            f"end: what it gains over MAP is longer training as well as averaging."
        )
    return [*found, *_evidence(metrics)]


def _accuracy(judged: Mapping[str, _Judged], metrics: Mapping[str, Mapping[str, float]]) -> str:
    accuracy, nll = ({g: row[name] for g, row in metrics.items()} for name in ("accuracy", "nll"))
    size, best = len(next(iter(judged.values())).correct), max(accuracy.values())
    error = (best * (1 - best) / size) ** 0.5
    return (
        f"Accuracy on {size:,} test images runs "
        f"{span(accuracy, lambda share: percent(share, 2), reference='map')}, with a standard "
        f"error of {percent(error, 2)} from the choice of test images; the NLL runs "
        f"{span(nll, '{:.4f}'.format, reference='map')}, in nats."
    )


def _information(metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """How much more mutual information mistakes have than hits."""
    times = {
        guide: row["mi_mistakes"] / row["mi_hits"]
        for guide, row in metrics.items()
        if "mi_mistakes" in row and row.get("mi_hits", 0.0) > 0
    }
    if not times:
        return []
    spread = span(times, "{:.1f}".format)
    return [
        f"The mean mutual information on mistakes, as a multiple of that on hits, runs {spread}."
    ]


def _set_aside(judged: Mapping[str, _Judged]) -> list[str]:
    """Which share of the mistakes the most uncertain images hold."""
    caught: dict[str, float] = {}
    for guide, one in judged.items():
        entropy = one.predictive.predictive_entropy.numpy()
        aside = np.argsort(-entropy, kind="stable")[: round(SET_ASIDE * len(entropy))]
        if not one.correct.all():
            caught[guide] = float((~one.correct)[aside].sum() / (~one.correct).sum())
    if not caught:
        return ["No guide makes a mistake on the test images."]
    spread = span(caught, lambda share: percent(share, 0), reference="map")
    words = f"The {percent(SET_ASIDE, 0)} of images with the highest predictive entropy hold a"
    return [f"{words} share of a guide's mistakes that runs {spread}."]


def _evidence(metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What the evidence of the last layer is not."""
    if "log_evidence" not in metrics.get("laplace-last-layer", {}):
        return []
    given = "The log evidence of the last layer alone is that given the layers before it, as fitted"
    return [f"{given}: it does not compare with those of all weights."]


def _arrays(judged: Mapping[str, _Judged], test: ImageDataset) -> dict[str, Array]:
    arrays: dict[str, Array] = {"classes": np.array(test.classes)}
    for guide, one in judged.items():
        predictive = one.predictive
        if one.posterior.info.losses:
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
    voted = list(by_guide(results.arrays, results.config.guides, "certain.images"))
    for guide in [guide for guide in voted if guide in SHOWN] or voted[:1]:
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


def _losses(results: Results[Config]) -> Figure:
    losses = by_guide(results.arrays, results.config.guides, "losses")
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


EXPERIMENT = Experiment(
    name=NAME,
    summary=EXPERIMENTS.summary(NAME),
    config=Config,
    stages=stages,
    run=run,
    figures=figures,
)
