"""What the experiment calibration says and shows, from its results alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np

from probml_tp.experiments.images.kit import intervals
from probml_tp.harness.experiment import Figure, Results
from probml_tp.kit.common import labels_of, percent, span
from probml_tp.kit.sentences import Count, Finding, Range, table_of, together
from probml_tp.metrics.calibration import Reliability
from probml_tp.metrics.conformal import Method
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

METHODS: tuple[Method, ...] = ("lac", "aps")
SELECTION = "Selection by the maximum probability"


def sets_title(coverage: float) -> str:
    """The title of the table of prediction sets."""
    return f"Prediction sets that promise to hold the true class in {percent(coverage, 0)}"


def findings(config: Any) -> list[Finding]:
    """What the numbers say, the most important first."""
    above = "The temperature fitted on validation images is above 1 (overconfident) for "
    calibration = together(
        Range(
            "ece",
            "ECE on {arrays[size]:,} test images runs {range} before temperature scaling,",
            write=percent,
            reference="map",
        ),
        Range("ece_tempered", "and {range} after it.", write=percent, reference="map"),
        Count(
            "temperature",
            f"{above}{{which}}.",
            rule=lambda temperature: temperature > 1,
            none=f"{above}no posterior.",
        ),
    )
    return [
        calibration,
        *(partial(_selection, risk) for risk in config.risks),
        *(_sets(coverage) for coverage in config.coverages),
        intervals,
    ]


def _selection(risk: float, results: Results[Any]) -> str | None:
    table, promise = table_of(results, SELECTION), f"a risk of {percent(risk)}"
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


def _sets(coverage: float) -> Finding:
    title, words = sets_title(coverage), f"Prediction sets that promise {percent(coverage, 0)} hold"
    sizes = "their mean size runs {range}, in classes."
    return together(
        Range(
            "coverage",
            f"{words} the true class in {{low}} to {{high}};",
            table=title,
            write=percent,
        ),
        Range("size", sizes, table=title, write="{:.2f}".format, name=str),
    )


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
    ece = span(results.main.column("ece"), percent)
    title = f"ECE before temperature scaling runs {ece}"
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
        for ax, metric in zip(axes[0], ("coverage", "size"), strict=True):
            ax.plot(
                coverages,
                [table[f"{guide}, APS", metric] for table in results.tables[1:]],
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
