r"""Calibration and selection: can a posterior's probabilities be acted on?

Every posterior is judged by how far its confidence is from its accuracy, before and after
temperature scaling; by the share of images it may decide alone at a promised risk; and by the size
of the prediction sets that hold the true class as often as promised. Temperatures, thresholds and
conformal quantiles are found on validation images that no fit has seen, and judged on test images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.images import kit
from probml_tp.experiments.images.classifiers import ImageClassifiers, ImageConfig
from probml_tp.harness.experiment import (
    MAIN_TABLE,
    Experiment,
    Figure,
    Progress,
    Results,
    Table,
    option,
)
from probml_tp.kit import sentences
from probml_tp.kit.common import (
    CLASSIFICATION_COLUMNS,
    Array,
    Rows,
    arrays_under,
    labels_of,
    percent,
    span,
)
from probml_tp.metrics import calibration
from probml_tp.metrics.accuracy import classification_scores
from probml_tp.metrics.conformal import Method, conformal_sets, set_metrics
from probml_tp.metrics.selective import selective_threshold
from probml_tp.plots import style
from probml_tp.plots.robustness import plot_reliability
from probml_tp.scores import max_probability

NAME = "calibration"
METHODS: tuple[Method, ...] = ("lac", "aps")
SELECTION = "Selection by the maximum probability"
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


def run(config: Config, progress: Progress) -> Results[Config]:
    """Fit the classifiers of each seed, and judge their probabilities."""
    runs: list[ImageClassifiers] = []
    judged: list[Rows] = []
    for seed in config.each_seed:
        runs.append(kit.classify(config, config.guides, seed, progress))
        judged.append({})
        for guide in config.guides:
            with progress.stage(f"judge {guide}, seed {seed}"):
                judged[-1][guide] = _judge(config, runs[-1], guide)
    return kit.results_of(
        runs[0],
        config,
        progress,
        findings=findings(config),
        arrays={k: v for guide in config.guides for k, v in _diagrams(runs[0], guide).items()},
        experiment=NAME,
        title=f"Calibration and selection on {config.images}",
        main=kit.averaged(MAIN_TABLE, "Posterior", COLUMNS, judged),
        tables=[
            _selection_table(config, judged),
            *(_set_table(coverage, judged) for coverage in config.coverages),
        ],
    )


def _judge(config: Config, classifiers: ImageClassifiers, guide: str) -> dict[str, float]:
    validation = classifiers.network_pass(guide, classifiers.validation)
    test = classifiers.network_pass(guide, classifiers.test)
    y_validation, y = classifiers.validation.labels, classifiers.test.labels
    scaling = calibration.TemperatureScaling.fit(validation.predictive, y_validation)
    after = classification_scores(scaling.apply(test.predictive), y)
    found = classification_scores(test.predictive, y) | {
        "adaptive_ece": calibration.adaptive_calibration_error(test.predictive, y),
        "classwise_ece": calibration.classwise_calibration_error(test.predictive, y),
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
    scaling = calibration.TemperatureScaling.fit(validation, classifiers.validation.labels)
    return {
        f"{guide}.{name}.{part}": values
        for name, predictive in (("plain", plain), ("tempered", scaling.apply(plain)))
        for part, values in vars(
            calibration.reliability(predictive, classifiers.test.labels, adaptive=True)
        ).items()
    }


def _selection_table(config: Config, judged: Sequence[Rows]) -> Table:
    columns = {}
    for risk in config.risks:
        columns[f"coverage {risk:g}"] = f"Coverage at risk {percent(risk)} ↑"
        columns[f"risk {risk:g}"] = f"Risk on test, promised {percent(risk)}"
    title = f"{SELECTION}, risk promised with probability {percent(1 - config.delta, 0)}"
    return kit.averaged(title, "Posterior", columns, judged)


def _set_table(coverage: float, judged: Sequence[Rows]) -> Table:
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
    return kit.averaged(sets_title(coverage), "Posterior, method", SET_COLUMNS, runs)


def sets_title(coverage: float) -> str:
    """The title of the table of prediction sets."""
    return f"Prediction sets that promise to hold the true class in {percent(coverage, 0)}"


def findings(config: Any) -> list[sentences.Finding]:
    """What the numbers say, the most important first."""
    above = "The temperature fitted on validation images is above 1 (overconfident) for "
    scaled = sentences.together(
        sentences.Range(
            "ece",
            "ECE on {arrays[size]:,} test images runs {range} before temperature scaling,",
            write=percent,
            reference="map",
        ),
        sentences.Range("ece_tempered", "and {range} after it.", write=percent, reference="map"),
        sentences.Count(
            "temperature",
            f"{above}{{which}}.",
            rule=lambda temperature: temperature > 1,
            none=f"{above}no posterior.",
        ),
    )
    return [
        scaled,
        *(partial(_selection, risk) for risk in config.risks),
        *(_sets(coverage) for coverage in config.coverages),
        kit.intervals,
    ]


def _selection(risk: float, results: Results[Any]) -> str | None:
    table, promise = sentences.table_of(results, SELECTION), f"a risk of {percent(risk)}"
    if table is None:
        return None
    kept, found = table.column(f"coverage {risk:g}"), table.column(f"risk {risk:g}")
    if not any(kept.values()):
        return (
            f"No posterior can promise {promise}: the validation images are too few, or the "
            f"mistakes on them too many."
        )
    broken = [guide for guide, share in found.items() if share > risk]
    words = f"To promise {promise}, a posterior decides a share of the test images that runs "
    exceeds = f"; on the test images {labels_of(broken)} exceeds it" if broken else ""
    return f"{words}{span(kept, percent)}{exceeds}."


def _sets(coverage: float) -> sentences.Finding:
    title, promise = sets_title(coverage), f"Prediction sets that promise {percent(coverage, 0)}"
    held = f"{promise} hold the true class in {{low}} to {{high}};"
    sizes = "their mean size runs {range}, in classes."
    return sentences.together(
        sentences.Range("coverage", held, table=title, write=percent),
        sentences.Range("size", sizes, table=title, write="{:.2f}".format, name=str),
    )


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the reliability of every posterior, and its prediction sets."""
    yield _reliability(results)
    yield _set_sizes(results)


@style.house_style()
def _reliability(results: Results[Any]) -> Figure:
    guides = results.config.guides
    made, axes, used = style.panels(len(guides), most=4, height=2.3, sharex=True, sharey=True)
    for guide, ax in zip(guides, used, strict=True):
        bins = {
            name: calibration.Reliability(**arrays_under(results.arrays, f"{guide}.{name}"))
            for name in ("tempered", "plain")
        }
        plot_reliability(bins, ax=ax, style=partial(_style, guide))
        ax.set_title(style.guide_style(guide).label)
    style.label_outside(axes, len(guides), x="Confidence (%)", y="Accuracy (%)")
    style.shared_legend(made, used)
    title = f"ECE before temperature scaling runs {span(results.main.column('ece'), percent)}"
    caption = (
        "Accuracy against mean confidence in bins of equally many test images; on the diagonal "
        "confidence is deserved. Coloured: as predicted; grey: after temperature scaling on "
        "validation images."
    )
    return Figure("reliability", title, caption, made)


def _style(guide: str, name: str) -> style.GuideStyle:
    if name == "tempered":
        return style.GuideStyle("after temperature scaling", "#8a8f98", (0, (2, 1)), "")
    return replace(style.guide_style(guide), label="as predicted", linestyle="-")


@style.house_style()
def _set_sizes(results: Results[Any]) -> Figure:
    coverages = np.array(results.config.coverages)
    made, axes = style.figure(1, 2, height=2.9)
    for guide in results.config.guides:
        for ax, metric in zip(axes[0], ("coverage", "size"), strict=True):
            found = [table[f"{guide}, APS", metric] for table in results.tables[1:]]
            ax.plot(coverages, found, **vars(style.guide_style(guide)), markersize=5)
    axes[0, 0].plot(coverages, coverages, color="#8a8f98", linewidth=1, label="promised")
    axes[0, 0].set_ylabel("Coverage on test images")
    axes[0, 1].set_ylabel("Mean size (classes)")
    for ax in axes[0]:
        ax.set_xlabel("Coverage promised")
    style.shared_legend(made, axes[0])
    last = {guide: results.tables[-1][f"{guide}, APS", "size"] for guide in results.config.guides}
    title = (
        f"For {percent(float(coverages[-1]), 0)} coverage adaptive prediction sets need "
        f"{span(last, '{:.2f}'.format)} classes on average"
    )
    caption = (
        "Adaptive prediction sets (APS; Romano et al. 2020): coverage and size on test images "
        "against the coverage promised, calibrated on validation images."
    )
    return Figure("prediction-sets", title, caption, made)


EXPERIMENT = Experiment(NAME, EXPERIMENTS.summary(NAME), Config, run, figures)
