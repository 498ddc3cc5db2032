r"""Calibration and selection: can a posterior's probabilities be acted on?

Every posterior is judged by how far its confidence is from its accuracy, before and after
temperature scaling; by the share of images it may decide alone at a promised risk; and by the size
of the prediction sets that hold the true class as often as promised. Temperatures, thresholds and
conformal quantiles are found on validation images that no fit has seen, and judged on test images.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.images.calibration_figures import (
    METHODS,
    SELECTION,
    figures,
    findings,
    sets_title,
)
from probml_tp.experiments.images.classifiers import TITLES, ImageClassifiers, ImageConfig
from probml_tp.experiments.images.kit import averaged, classify, results_of, seeds
from probml_tp.harness.experiment import MAIN_TABLE, Experiment, Progress, Results, Table, option
from probml_tp.kit.common import CLASSIFICATION_COLUMNS, Array, percent
from probml_tp.metrics.accuracy import classification_scores
from probml_tp.metrics.calibration import (
    TemperatureScaling,
    adaptive_calibration_error,
    classwise_calibration_error,
    reliability,
)
from probml_tp.metrics.conformal import conformal_sets, set_metrics
from probml_tp.metrics.selective import selective_threshold
from probml_tp.predictions.predictive import ClassificationPredictive
from probml_tp.scores import max_probability

NAME = "calibration"
SET_COLUMNS = {
    "coverage": "Coverage",
    "size": "Mean size ↓",
    "empty": "Empty sets ↓",
    "singleton": "Singletons",
    "size_stratified_coverage": "Coverage of the worst size ↑",
}
COLUMNS = {
    **CLASSIFICATION_COLUMNS,
    "adaptive_ece": "Adaptive ECE ↓",
    "classwise_ece": "Classwise ECE ↓",
    "temperature": "Temperature T",
    "nll_tempered": "NLL at T (nats) ↓",
    "ece_tempered": "ECE at T ↓",
}


@dataclass(frozen=True, kw_only=True)
class Config(ImageConfig):
    """Options of the experiment."""

    coverages: tuple[float, ...] = option(
        (0.9, 0.95, 0.99), "Coverages promised by the prediction sets.", minimum=0.5, maximum=0.999
    )
    risks: tuple[float, ...] = option(
        (0.01, 0.02, 0.05),
        "Risks promised by selection.",
        quick=(0.05, 0.1),
        full=(0.002, 0.005, 0.01),
        minimum=1e-4,
        maximum=0.5,
    )
    delta: float = option(
        0.05, "Probability with which the promised risk may fail.", minimum=1e-6, maximum=0.5
    )


@dataclass(frozen=True)
class _Judged:
    """What one guide of one seed came to."""

    calibration: dict[str, float]
    selection: dict[str, float]
    sets: dict[str, dict[str, float]]
    diagrams: dict[str, Array]


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit the classifiers of each seed, and judge their probabilities."""
    runs: list[ImageClassifiers] = []
    judged: list[dict[str, _Judged]] = []
    for seed in seeds(config):
        runs.append(classify(config, config.guides, seed, progress))
        judged.append({})
        for guide in config.guides:
            with progress.stage(f"judge {guide}, seed {seed}"):
                judged[-1][guide] = _judge(config, runs[-1], guide)
    calibration = [{guide: one.calibration for guide, one in of.items()} for of in judged]
    return results_of(
        runs[0],
        config,
        progress,
        findings=findings(config),
        arrays={
            f"{guide}.{name}": values
            for guide, one in judged[0].items()
            for name, values in one.diagrams.items()
        },
        experiment=NAME,
        title=f"Calibration and selection on {TITLES[config.dataset]}",
        main=averaged(MAIN_TABLE, "Posterior", COLUMNS, calibration),
        tables=[
            _selection_table(config, judged),
            *(_set_table(coverage, judged) for coverage in config.coverages),
        ],
    )


def _judge(config: Config, classifiers: ImageClassifiers, guide: str) -> _Judged:
    validation = classifiers.network_pass(guide, classifiers.validation)
    test = classifiers.network_pass(guide, classifiers.test)
    y_validation, y = classifiers.validation.labels, classifiers.test.labels
    scaling = TemperatureScaling.fit(validation.predictive, y_validation)
    tempered = scaling.apply(test.predictive)
    after = classification_scores(tempered, y)
    calibration = classification_scores(test.predictive, y) | {
        "adaptive_ece": adaptive_calibration_error(test.predictive, y),
        "classwise_ece": classwise_calibration_error(test.predictive, y),
        "temperature": scaling.temperature,
        "nll_tempered": after["nll"],
        "ece_tempered": after["ece"],
    }
    selection: dict[str, float] = {}
    known = validation.predictive.predicted_class == y_validation
    correct = test.predictive.predicted_class == y
    sure_of_known, sure = max_probability(validation), max_probability(test)
    for risk in config.risks:
        chosen = selective_threshold(sure_of_known, known, risk=risk, delta=config.delta)
        kept = sure > chosen.threshold
        selection[f"coverage {risk:g}"] = float(kept.double().mean())
        if kept.any():
            selection[f"risk {risk:g}"] = float((~correct[kept]).double().mean())
    sets = {}
    for coverage in config.coverages:
        for method in METHODS:
            made = conformal_sets(
                validation.predictive,
                y_validation,
                test.predictive,
                coverage=coverage,
                method=method,
                seed=classifiers.seed,
            )
            sets[f"{method} {coverage:g}"] = set_metrics(made, y)
    return _Judged(calibration, selection, sets, _diagrams(test.predictive, tempered, y))


def _diagrams(
    plain: ClassificationPredictive, tempered: ClassificationPredictive, y: Tensor
) -> dict[str, Array]:
    """Reliability before and after temperature scaling, over bins of equal mass."""
    arrays: dict[str, Array] = {}
    for name, predictive in (("plain", plain), ("tempered", tempered)):
        bins = reliability(predictive, y, adaptive=True)
        arrays |= {f"{name}.{part}": values for part, values in vars(bins).items()}
    return arrays


def _selection_table(config: Config, judged: list[dict[str, _Judged]]) -> Table:
    columns = {}
    for risk in config.risks:
        columns[f"coverage {risk:g}"] = f"Coverage at risk {percent(risk)} ↑"
        columns[f"risk {risk:g}"] = f"Risk on test, promised {percent(risk)}"
    title = f"{SELECTION}, risk promised with probability {percent(1 - config.delta, 0)}"
    runs = [{guide: one.selection for guide, one in of.items()} for of in judged]
    return averaged(title, "Posterior", columns, runs)


def _set_table(coverage: float, judged: list[dict[str, _Judged]]) -> Table:
    """The prediction sets of one coverage promised."""
    runs = [
        {
            f"{guide}, {method.upper()}": one.sets[f"{method} {coverage:g}"]
            for guide, one in of.items()
            for method in METHODS
        }
        for of in judged
    ]
    return averaged(sets_title(coverage), "Posterior, method", SET_COLUMNS, runs)


EXPERIMENT = Experiment(
    name=NAME,
    summary=EXPERIMENTS.summary(NAME),
    config=Config,
    run=run,
    figures=figures,
)
