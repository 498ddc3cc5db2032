r"""Calibration and selection: can a posterior's probabilities be acted on?

Every posterior is judged by how far its confidence is from its accuracy, before and after
temperature scaling; by the share of images it may decide alone at a promised risk; and by the size
of the prediction sets that hold the true class as often as promised. Temperatures, thresholds and
conformal quantiles are found on validation images that no fit has seen, and judged on test images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

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


Judged = Mapping[str, Mapping[str, float]]
"""Guide to metric to value, those of a method of prediction sets after its name and coverage."""


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit the classifiers of each seed, and judge their probabilities."""
    runs: list[ImageClassifiers] = []
    judged: list[dict[str, dict[str, float]]] = []
    for seed in seeds(config):
        runs.append(classify(config, config.guides, seed, progress))
        judged.append({})
        for guide in config.guides:
            with progress.stage(f"judge {guide}, seed {seed}"):
                judged[-1][guide] = _judge(config, runs[-1], guide)
    return results_of(
        runs[0],
        config,
        progress,
        findings=findings(config),
        arrays={k: v for guide in config.guides for k, v in _diagrams(runs[0], guide).items()},
        experiment=NAME,
        title=f"Calibration and selection on {TITLES[config.dataset]}",
        main=averaged(MAIN_TABLE, "Posterior", COLUMNS, judged),
        tables=[
            _selection_table(config, judged),
            *(_set_table(coverage, judged) for coverage in config.coverages),
        ],
    )


def _judge(config: Config, classifiers: ImageClassifiers, guide: str) -> dict[str, float]:
    validation = classifiers.network_pass(guide, classifiers.validation)
    test = classifiers.network_pass(guide, classifiers.test)
    y_validation, y = classifiers.validation.labels, classifiers.test.labels
    scaling = TemperatureScaling.fit(validation.predictive, y_validation)
    after = classification_scores(scaling.apply(test.predictive), y)
    found = classification_scores(test.predictive, y) | {
        "adaptive_ece": adaptive_calibration_error(test.predictive, y),
        "classwise_ece": classwise_calibration_error(test.predictive, y),
        "temperature": scaling.temperature,
        "nll_tempered": after["nll"],
        "ece_tempered": after["ece"],
    }
    known, correct = (
        classifiers.correct(guide, x) for x in (classifiers.validation, classifiers.test)
    )
    sure_of_known, sure = max_probability(validation), max_probability(test)
    for risk in config.risks:
        chosen = selective_threshold(sure_of_known, known, risk=risk, delta=config.delta)
        kept = sure > chosen.threshold
        found[f"coverage {risk:g}"] = float(kept.double().mean())
        if kept.any():
            found[f"risk {risk:g}"] = float((~correct[kept]).double().mean())
    for coverage, method in product(config.coverages, METHODS):
        made = conformal_sets(
            validation.predictive,
            y_validation,
            test.predictive,
            coverage=coverage,
            method=method,
            seed=classifiers.seed,
        )
        values = set_metrics(made, y)
        found |= {f"{method} {coverage:g} {metric}": value for metric, value in values.items()}
    return found


def _diagrams(classifiers: ImageClassifiers, guide: str) -> dict[str, Array]:
    """Reliability before and after temperature scaling, over bins of equal mass."""
    validation = classifiers.network_pass(guide, classifiers.validation).predictive
    plain = classifiers.network_pass(guide, classifiers.test).predictive
    scaling = TemperatureScaling.fit(validation, classifiers.validation.labels)
    return {
        f"{guide}.{name}.{part}": values
        for name, predictive in (("plain", plain), ("tempered", scaling.apply(plain)))
        for part, values in vars(
            reliability(predictive, classifiers.test.labels, adaptive=True)
        ).items()
    }


def _selection_table(config: Config, judged: Sequence[Judged]) -> Table:
    columns = {}
    for risk in config.risks:
        columns[f"coverage {risk:g}"] = f"Coverage at risk {percent(risk)} ↑"
        columns[f"risk {risk:g}"] = f"Risk on test, promised {percent(risk)}"
    title = f"{SELECTION}, risk promised with probability {percent(1 - config.delta, 0)}"
    return averaged(title, "Posterior", columns, judged)


def _set_table(coverage: float, judged: Sequence[Judged]) -> Table:
    """The prediction sets of one coverage promised."""
    runs = [
        {
            f"{guide}, {method.upper()}": {
                metric: found[key]
                for metric in SET_COLUMNS
                if (key := f"{method} {coverage:g} {metric}") in found
            }
            for guide, found in of.items()
            for method in METHODS
        }
        for of in judged
    ]
    return averaged(sets_title(coverage), "Posterior, method", SET_COLUMNS, runs)


EXPERIMENT = Experiment(NAME, EXPERIMENTS.summary(NAME), Config, run, figures)
