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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from probml_tp.datasets import ImageDataset
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.images import digit_uncertainty as digits
from probml_tp.experiments.images import kit
from probml_tp.experiments.images.classifiers import (
    ALL_GUIDES,
    ONE_OF_EACH_FAMILY,
    ImageClassifiers,
    ImageConfig,
)
from probml_tp.experiments.images.mnist_uncertainty_figures import FINDINGS, figures
from probml_tp.guides.gaussian import StructuredNormal
from probml_tp.harness.experiment import MAIN_TABLE, Experiment, Progress, Results, Table, option
from probml_tp.kit.common import CLASSIFICATION_COLUMNS, FIT_COLUMN, Array
from probml_tp.kit.knobs import knob
from probml_tp.likelihoods import ClassificationLikelihood
from probml_tp.metrics.accuracy import classification_scores
from probml_tp.posterior import Posterior
from probml_tp.predictions.predictive import ClassificationPredictive

NAME = "mnist-uncertainty"
GUIDES = tuple(guide for guide in ALL_GUIDES if guide != "multi-swag")
COLUMNS = {
    **CLASSIFICATION_COLUMNS,
    "mi_hits": "Mutual information on hits (nats)",
    "mi_mistakes": "Mutual information on mistakes (nats)",
    "log_evidence": "Log evidence (nats)",
    **FIT_COLUMN,
    "predict_seconds": "Predict (s) ↓",
    **dict.fromkeys(("mi_times", "caught"), ""),
}
AGREEMENT_COLUMNS = {
    **{metric: digits.pair_of(metric).capitalize() for metric in digits.PAIRS},
    **{f"others_{n}": f"{m.label}, with other guides (mean)" for n, m in digits.MEASURES.items()},
    **dict.fromkeys(["ties", "shared", *(f"shared_{metric}" for metric in digits.PAIRS)], ""),
}


@dataclass(frozen=True, kw_only=True)
class Config(ImageConfig):
    """Options of the experiment."""

    guides: tuple[str, ...] = knob(
        "guides", GUIDES, quick=ONE_OF_EACH_FAMILY, full=ALL_GUIDES, choices=ALL_GUIDES
    )
    digit: int | None = option(
        None,
        "Index of the test image to look at draw by draw; none for the least certain.",
        minimum=0,
    )

    def __post_init__(self) -> None:
        """Check the index as well."""
        super().__post_init__()
        _check_digit(self, self.test_size)


def _check_digit(config: Config, test_size: int) -> None:
    if config.digit is not None and config.digit >= test_size:
        raise ValueError(
            f"Option digit must be an index into the {test_size:,} test images; got "
            f"{config.digit}. Give a smaller one, or raise test_size."
        )


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
    runs = [kit.classify(config, config.guides, seed, progress) for seed in config.each_seed]
    judged = [{guide: _judge(one, guide) for guide in config.guides} for one in runs]
    first = runs[0]
    arrays = _arrays(judged[0], first.test)
    if lead := digits.lead_guide(config.guides):
        with progress.stage("draws of single images"):
            arrays |= _single_images(judged[0][lead], first, config)
    rows = [{guide: _row(guide, of, first.test) for guide in of} for of in judged]
    return kit.results_of(
        first,
        config,
        progress,
        findings=FINDINGS,
        arrays=arrays,
        experiment=NAME,
        title=f"LeNet on {config.images}",
        main=_main(rows),
        tables=[kit.averaged(digits.AGREEMENT, "Posterior", AGREEMENT_COLUMNS, rows)],
    )


def _judge(classifiers: ImageClassifiers, guide: str) -> _Judged:
    run = classifiers.network_pass(guide, classifiers.test)
    correct = classifiers.correct(guide, classifiers.test).numpy()
    times = classifiers.seconds(guide), run.seconds
    measures = digits.measures_of(run.predictive)
    return _Judged(classifiers.posterior(guide), run.predictive, measures, correct, *times)


def _main(rows: Sequence[Mapping[str, Mapping[str, float]]]) -> Table:
    table = kit.averaged(MAIN_TABLE, "Posterior", COLUMNS, rows)
    hits = table.column("mi_hits")
    for guide, mistakes in table.column("mi_mistakes").items():
        if hits.get(guide, 0.0) > 0:
            table.put(guide, {"mi_times": mistakes / hits[guide]})
    return table


def _row(guide: str, judged: Mapping[str, _Judged], test: ImageDataset) -> dict[str, float]:
    """Scores of a guide, and how far its measures agree and with those of other guides."""
    one, own = judged[guide], judged[guide].measures
    row = classification_scores(one.predictive, test.labels)
    if not one.correct.all():
        row["caught"] = digits.caught_aside(own["entropy"], one.correct)
    if one.has_draws:
        groups = {"mi_hits": one.correct, "mi_mistakes": ~one.correct}
        row |= {m: float(own["mutual_information"][g].mean()) for m, g in groups.items() if g.any()}
        row |= digits.own_agreement(own)
    if isinstance(one.posterior.guide, StructuredNormal):
        row["log_evidence"] = one.posterior.guide.log_evidence()
    for name, values in own.items():
        others = [
            digits.rank_correlation(values, another.measures[name])
            for other, another in judged.items()
            if other != guide and name in another.measures
        ]
        row[f"others_{name}"] = float(np.mean(others)) if others else np.nan
    row |= {"seconds": one.fit_seconds, "predict_seconds": one.predict_seconds}
    return {metric: value for metric, value in row.items() if np.isfinite(value)}


def _arrays(judged: Mapping[str, _Judged], test: ImageDataset) -> dict[str, Array]:
    """Measures and votes of every test image, and the pixels of those that are shown."""
    arrays = {"classes": np.array(test.classes), "labels": test.labels.numpy()}
    shown = [np.empty(0, dtype=np.int64)]
    for guide, one in judged.items():
        own = {"correct": one.correct, "predicted": one.predictive.predicted_class.numpy()}
        if one.posterior.info.losses:
            own["losses"] = np.array(one.posterior.info.losses)
        if one.has_draws:
            index = digits.extremes(one.measures)
            shown += index.values()
            own |= index | {"votes": one.predictive.require_votes().numpy().astype(np.uint16)}
        arrays |= {f"{guide}.{name}": values for name, values in (own | one.measures).items()}
    arrays["shown.index"] = np.unique(np.concatenate(shown))
    arrays["shown.images"] = test.images.numpy()[arrays["shown.index"]]
    return arrays


def _single_images(one: _Judged, classifiers: ImageClassifiers, config: Config) -> dict[str, Array]:
    """A few test images at every draw.

    The draws are those of the predictions, except for the linearised Laplace guides, which predict
    by the moments of the outputs: theirs are other draws from the same distribution.
    """
    test = classifiers.test
    _check_digit(config, len(test))  # images that stand in for those asked for may be fewer
    chosen = digits.choose(one.measures, one.correct, digit=config.digit)
    index = np.array(list(chosen))
    predictive = one.posterior.predict(
        classifiers.normalized(test)[index], num_samples=config.num_samples, keep_outputs=True
    )
    likelihood = cast("ClassificationLikelihood", one.posterior.model.likelihood)
    return {
        "chosen.index": index,
        "chosen.rules": np.array(list(chosen.values())),
        "chosen.images": test.images.numpy()[index],
        "chosen.probs": likelihood.log_probs(predictive.require_outputs()).exp().numpy(),
    }


EXPERIMENT = Experiment(NAME, EXPERIMENTS.summary(NAME), Config, run, figures)
