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
    **{f"others_{n}": f"{m}, with other guides (mean)" for n, m in digits.MEASURES.items()},
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


Measures = Mapping[str, Mapping[str, Array]]
"""Guide to measure of uncertainty to its values at the test images."""


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit LeNet with every guide, predict the test images, and find the uncertain ones."""
    runs = [kit.classify(config, config.guides, seed, progress) for seed in config.each_seed]
    measures = [
        {g: digits.measures_of(one.network_pass(g, one.test).predictive) for g in config.guides}
        for one in runs
    ]
    first = runs[0]
    arrays = _arrays(measures[0], first)
    if lead := digits.lead_guide(config.guides):
        with progress.stage("draws of single images"):
            arrays |= _single_images(lead, measures[0][lead], first, config)
    of_seeds = zip(measures, runs, strict=True)
    rows = [{guide: _row(guide, found, one) for guide in found} for found, one in of_seeds]
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


def _main(rows: Sequence[Mapping[str, Mapping[str, float]]]) -> Table:
    table = kit.averaged(MAIN_TABLE, "Posterior", COLUMNS, rows)
    hits = table.column("mi_hits")
    for guide, mistakes in table.column("mi_mistakes").items():
        if hits.get(guide, 0.0) > 0:
            table.put(guide, {"mi_times": mistakes / hits[guide]})
    return table


def _row(guide: str, measures: Measures, classifiers: ImageClassifiers) -> dict[str, float]:
    """Scores of a guide, and how far its measures agree and with those of other guides."""
    own, test, fitted = measures[guide], classifiers.test, classifiers.posterior(guide).guide
    seen, correct = classifiers.network_pass(guide, test), classifiers.correct(guide, test).numpy()
    row = classification_scores(seen.predictive, test.labels)
    if not correct.all():
        row["caught"] = digits.caught_aside(own["entropy"], correct)
    if "variation_ratio" in own:
        groups = {"mi_hits": correct, "mi_mistakes": ~correct}
        row |= {m: float(own["mutual_information"][g].mean()) for m, g in groups.items() if g.any()}
        row |= digits.own_agreement(own)
    if isinstance(fitted, StructuredNormal):
        row["log_evidence"] = fitted.log_evidence()
    for name, values in own.items():
        others = [
            digits.rank_correlation(values, another[name])
            for other, another in measures.items()
            if other != guide and name in another
        ]
        row[f"others_{name}"] = float(np.mean(others)) if others else np.nan
    row |= {"seconds": classifiers.seconds(guide), "predict_seconds": seen.seconds}
    return {metric: value for metric, value in row.items() if np.isfinite(value)}


def _arrays(measures: Measures, classifiers: ImageClassifiers) -> dict[str, Array]:
    """Measures and votes of every test image, and the pixels of those that are shown."""
    test = classifiers.test
    arrays = {"classes": np.array(test.classes), "labels": test.labels.numpy()}
    shown = [np.empty(0, dtype=np.int64)]
    for guide, found in measures.items():
        predictive = classifiers.network_pass(guide, test).predictive
        predicted, correct = predictive.predicted_class, classifiers.correct(guide, test)
        own = {**found, "predicted": predicted.numpy(), "correct": correct.numpy()}
        if losses := classifiers.posterior(guide).info.losses:
            own["losses"] = np.array(losses)
        if "variation_ratio" in found:
            index = digits.extremes(found)
            shown += index.values()
            own |= index | {"votes": predictive.require_votes().numpy().astype(np.uint16)}
        arrays |= {f"{guide}.{name}": values for name, values in own.items()}
    arrays["shown.index"] = np.unique(np.concatenate(shown))
    arrays["shown.images"] = test.images.numpy()[arrays["shown.index"]]
    return arrays


def _single_images(
    guide: str, measures: Mapping[str, Array], classifiers: ImageClassifiers, config: Config
) -> dict[str, Array]:
    """A few test images at every draw.

    The draws are those of the predictions, except for the linearised Laplace guides, which predict
    by the moments of the outputs: theirs are other draws from the same distribution.
    """
    posterior, test = classifiers.posterior(guide), classifiers.test
    _check_digit(config, len(test))  # images that stand in for those asked for may be fewer
    correct = classifiers.correct(guide, test).numpy()
    chosen = digits.choose(measures, correct, digit=config.digit)
    index = np.array(list(chosen))
    predictive = posterior.predict(
        classifiers.normalized(test)[index], num_samples=config.num_samples, keep_outputs=True
    )
    likelihood = cast("ClassificationLikelihood", posterior.model.likelihood)
    return {
        "chosen.index": index,
        "chosen.rules": np.array(list(chosen.values())),
        "chosen.images": test.images.numpy()[index],
        "chosen.probs": likelihood.log_probs(predictive.require_outputs()).exp().numpy(),
    }


EXPERIMENT = Experiment(NAME, EXPERIMENTS.summary(NAME), Config, run, figures)
