"""What the experiment calibration says and shows, from its results alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np

from probml_tp.harness.experiment import Figure, Results
from probml_tp.kit.common import labels_of, percent, span
from probml_tp.kit.comparisons import interval_words
from probml_tp.metrics.calibration import Reliability
from probml_tp.plots.robustness import plot_reliability
from probml_tp.plots.style import (
    GuideStyle,
    figure,
    guide_style,
    house_style,
    label_outside,
    panels,
    shared_legend,
)


def findings(results: Results[Any], *, size: int) -> list[str]:
    """What the numbers say, the most important first."""
    metrics = results.metrics
    before, after = (
        {guide: row[name] for guide, row in metrics.items()} for name in ("ece", "ece_tempered")
    )
    temperature = {guide: row["temperature"] for guide, row in metrics.items()}
    over = [guide for guide, t in temperature.items() if t > 1]
    calibration = (
        f"ECE on {size:,} test images runs {span(before, percent, reference='map')} before "
        f"temperature scaling, and {span(after, percent, reference='map')} after it. The "
        f"temperature fitted on validation images is above 1 (overconfident) for "
        f"{labels_of(over) if over else 'no posterior'}."
    )
    found = [calibration, *_selection(results), *_sets(results)]
    if results.config.seeds > 1:
        found.append(f"Intervals are {interval_words(results.config.seeds)}.")
    return found


def _selection(results: Results[Any]) -> list[str]:
    table, found = results.tables[0].metrics, []
    for risk in results.config.risks:
        kept = {guide: row[f"coverage {risk:g}"] for guide, row in table.items()}
        none = [guide for guide, share in kept.items() if share == 0]
        broken = [g for g, row in table.items() if row.get(f"risk {risk:g}", 0.0) > risk]
        promise = f"a risk of {percent(risk)}"
        if len(none) == len(kept):
            found.append(
                f"No posterior can promise {promise}: the validation images are too few, or the "
                f"mistakes on them too many."
            )
            continue
        words = f"To promise {promise}, a posterior decides a share of the test images that runs "
        words += span(kept, percent)
        if broken:
            words += f"; on the test images {labels_of(broken)} exceeds it"
        found.append(words + ".")
    return found


def _sets(results: Results[Any]) -> list[str]:
    found = []
    for coverage, table in zip(results.config.coverages, results.tables[1:], strict=True):
        held = {name: row["coverage"] for name, row in table.metrics.items()}
        size = {name: row["size"] for name, row in table.metrics.items()}
        low, high = min(held.values()), max(held.values())
        smallest, largest = min(size, key=size.__getitem__), max(size, key=size.__getitem__)
        found.append(
            f"Prediction sets that promise {percent(coverage, 0)} hold the true class in "
            f"{percent(low)} to {percent(high)}; their mean size runs from {size[smallest]:.2f} "
            f"({smallest}) to {size[largest]:.2f} classes ({largest})."
        )
    return found


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the reliability of every posterior, and its prediction sets."""
    yield _reliability(results)
    yield _set_sizes(results)


@house_style()
def _reliability(results: Results[Any]) -> Figure:
    guides = results.config.guides
    made, axes, used = panels(len(guides), most=4, height=2.3, sharex=True, sharey=True)
    for guide, ax in zip(guides, used, strict=True):
        bins = {
            name: Reliability(
                *(results.arrays[f"{guide}.{name}.{part.name}"] for part in fields(Reliability))
            )
            for name in ("tempered", "plain")
        }
        plot_reliability(bins, ax=ax, style=partial(_style, guide))
        ax.set_title(guide_style(guide).label)
    label_outside(axes, len(guides), x="Confidence (%)", y="Accuracy (%)")
    shared_legend(made, used)
    ece = {guide: results.metrics[guide]["ece"] for guide in guides}
    title = f"ECE before temperature scaling runs {span(ece, percent)}"
    caption = (
        "Accuracy against mean confidence in bins of equally many test images; on the diagonal "
        "confidence is deserved. Coloured: as predicted; grey: after temperature scaling on "
        "validation images."
    )
    return Figure("reliability", title, caption, made)


def _style(guide: str, name: str) -> GuideStyle:
    if name == "tempered":
        return GuideStyle("after temperature scaling", "#8a8f98", (0, (2, 1)), "")
    return replace(guide_style(guide), label="as predicted", linestyle="-")


@house_style()
def _set_sizes(results: Results[Any]) -> Figure:
    coverages = np.array(results.config.coverages)
    made, axes = figure(1, 2, height=2.9)
    for guide in results.config.guides:
        style = guide_style(guide)
        rows = [table.metrics[f"{guide}, APS"] for table in results.tables[1:]]
        for ax, metric in zip(axes[0], ("coverage", "size"), strict=True):
            values = [row[metric] for row in rows]
            ax.plot(
                coverages,
                values,
                color=style.color,
                marker=style.marker,
                ls=style.linestyle,
                label=style.label,
                markersize=5,
            )
    axes[0, 0].plot(coverages, coverages, color="#8a8f98", linewidth=1, label="promised")
    axes[0, 0].set_ylabel("Coverage on test images")
    axes[0, 1].set_ylabel("Mean size (classes)")
    for ax in axes[0]:
        ax.set_xlabel("Coverage promised")
    shared_legend(made, axes[0])
    last = {
        guide: results.tables[-1].metrics[f"{guide}, APS"]["size"]
        for guide in results.config.guides
    }
    title = (
        f"For {percent(float(coverages[-1]), 0)} coverage adaptive prediction sets need "
        f"{span(last, '{:.2f}'.format)} classes on average"
    )
    caption = (
        "Adaptive prediction sets (APS; Romano et al. 2020): coverage and size on test images "
        "against the coverage promised, calibrated on validation images."
    )
    return Figure("prediction-sets", title, caption, made)
