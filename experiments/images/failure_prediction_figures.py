"""What the experiment failure-prediction says and shows, from its results alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from probml_tp.experiments.images import score_rows
from probml_tp.harness.experiment import MAIN_TABLE, Figure, Results, Table
from probml_tp.kit.common import percent, span
from probml_tp.kit.comparisons import interval_words, minus, with_ends
from probml_tp.kit.sentences import Gap, Range, together
from probml_tp.metrics.selective import risk_coverage
from probml_tp.plots.detection import mistake_panels
from probml_tp.plots.robustness import Panel, plot_risk_coverage
from probml_tp.plots.style import GuideStyle, figure, house_style, shared_legend

COLUMNS = {
    "fpr95": "FPR at 95 % TPR (%) ↓",
    "aupr_error": "AUPR-Error (%) ↑",
    "aupr_success": "AUPR-Success (%) ↑",
    "auroc": "AUROC (%) ↑",
    "aurc": "AURC (‰) ↓",
    "e_aurc": "E-AURC (‰) ↓",
}
DRAWN = ("aupr_error", "fpr95", "auroc", "aurc")
PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "MCP": {"fpr95": 5.56, "aupr_error": 35.05, "aupr_success": 99.99, "auroc": 98.63},
    "MC dropout: entropy": {
        "fpr95": 5.26,
        "aupr_error": 38.50,
        "aupr_success": 99.99,
        "auroc": 98.65,
    },
    "TrustScore": {"fpr95": 10.00, "aupr_error": 35.88, "aupr_success": 99.98, "auroc": 98.20},
    "ConfidNet": {"fpr95": 3.33, "aupr_error": 45.89, "aupr_success": 99.99, "auroc": 98.82},
}
"""Corbière et al. 2019, MNIST, small ConvNet, in %; their MC dropout scores by the entropy."""
ORACLE = "True class probability (oracle)"
POSTERIORS = "Each posterior's own predictions, by its own uncertainty"
MINUS_MCP = minus(MAIN_TABLE, "MCP")
CURVES = {
    "MCP": GuideStyle("MCP", "#E69F00", "-", ""),
    "MC dropout: entropy": GuideStyle("MC dropout: entropy", "#CC79A7", (0, (5, 1, 1, 1)), ""),
    "TrustScore": GuideStyle("TrustScore", "#009E73", (0, (2, 1)), ""),
    "ConfidNet": GuideStyle("ConfidNet", "#D55E00", (0, (6, 1.5)), ""),
    ORACLE: GuideStyle(ORACLE, "#000000", (0, (1, 1)), ""),
}
"""Whose risk is drawn, and how."""


def is_published_size(config: Any) -> bool:
    """Whether a run compares with published ones: on all of MNIST."""
    return bool(config.dataset == "mnist" and config.train_size >= 60_000)


def _no_mistake(results: Results[Any]) -> str | None:
    none = "The deterministic net makes no mistake on the test images: nothing to predict."
    return none if results.arrays["correct"].all() else None


def _mistakes(results: Results[Any]) -> str | None:
    correct = results.arrays["correct"]
    seeds = f" (seed {results.config.seed})" if results.config.seeds > 1 else ""
    words = (
        f"All scores judge the same predictions, of which {(~correct).sum()} of {len(correct):,} "
        f"are wrong{seeds}. With so few mistakes a difference of a few points in AUPR-Error is "
        f"noise."
    )
    return None if correct.all() else words


def _published(results: Results[Any]) -> str | None:
    """How the order of methods compares with that of the paper."""
    if not is_published_size(results.config):
        return None
    published = {row: values["aupr_error"] for row, values in PUBLISHED.items()}
    ours = {row: results.main[row, "aupr_error"] for row in published}
    orders = [sorted(values, key=lambda n: -values[n]) for values in (ours, published)]
    first, second = (
        " > ".join(f"{name} ({values[name]:.1f})" for name in order)
        for order, values in zip(orders, (ours, published), strict=True)
    )
    same = "the same as" if orders[0] == orders[1] else "not that of"
    words = f"Ordered by AUPR-Error: {first}. That is {same} the paper"
    return f"{words} (Corbière et al. 2019): {second}."


FINDINGS = (
    _no_mistake,
    together(
        Range(
            "aupr_error",
            "AUPR-Error runs {range}. MCP has {values[MCP]}, ConfidNet {values[ConfidNet]}:",
            rows=lambda row: row != ORACLE,
            write=score_rows.in_percent,
            name=str,
        ),
        score_rows.gap_to("MCP", "aupr_error", "ConfidNet", table=MAIN_TABLE, words="{gaps}."),
        Range(
            "aupr_error",
            f"The oracle, the true class probability itself, has {{values[{ORACLE}]}}.",
            write=score_rows.in_percent,
        ),
    ),
    Gap(
        "aupr_error",
        "By AUPR-Error better than MCP, beyond the interval: {above}. Worse: {below}.",
        table=MINUS_MCP,
        rows=lambda row: row != ORACLE,
        name=str,
    ),
    _mistakes,
    _published,
    score_rows.paired_intervals,
)


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the comparison, the risk at coverage, the posteriors, ConfidNet and the mistakes."""
    if results.arrays["correct"].all():
        return
    for draw in (_scores, _differences, _coverage, _posteriors, _training, _images):
        yield draw(results)


def _panels(
    table: Table, published: Mapping[str, Mapping[str, float]], reference: float | None = None
) -> list[Panel]:
    known = {m: {row: v[m] for row, v in published.items() if m in v} for m in DRAWN}
    return [Panel(COLUMNS[m], with_ends(table, m), reference, known[m]) for m in DRAWN]


def _scores(results: Results[Any]) -> Figure:
    found = results.main.column("aupr_error")
    del found[ORACLE]
    return score_rows.interval_figure(
        "scores",
        f"AUPR-Error of the scores runs {span(found, score_rows.in_percent, name=str)}",
        "Every score judges the predictions of the same deterministic net. Bars: "
        f"{interval_words(results.config.seeds)}. Published values are of another small net.",
        _panels(results.main, PUBLISHED if is_published_size(results.config) else {}),
        found,
        published="published (Corbière et al. 2019)",
    )


def _differences(results: Results[Any]) -> Figure:
    table = score_rows.table_named(MINUS_MCP, results)
    rows = [row for row in table.rows if row not in (ORACLE, "MCP")]
    ends = table.ends("aupr_error")
    apart = sum(row in ends and (ends[row][0] > 0 or ends[row][1] < 0) for row in rows)
    return score_rows.interval_figure(
        "differences-from-mcp",
        f"{apart} of {len(rows)} scores differ from MCP in AUPR-Error by more than chance",
        "The paired difference of each score from MCP on the same predictions; an interval that "
        f"crosses the line may be chance. Intervals: {interval_words(results.config.seeds)}.",
        _panels(table, {}, reference=0.0),
        rows,
    )


def _posteriors(results: Results[Any]) -> Figure:
    table, title = results.tables[0], "No posterior makes a mistake"
    if found := table.column("aupr_error"):
        spread = span(found, score_rows.in_percent, name=str)
        title = f"On their own mistakes, posteriors' AUPR-Error runs {spread}"
    return score_rows.interval_figure(
        "posteriors",
        title,
        "Each posterior judges its own predictions: compare scores within a posterior, and "
        "posteriors by AURC, which counts mistakes too. Intervals: "
        f"{interval_words(results.config.seeds)}.",
        _panels(table, {}),
        table.rows,
    )


@house_style()
def _coverage(results: Results[Any]) -> Figure:
    arrays, correct = results.arrays, results.arrays["correct"]
    made, axes = figure(1, 1, width=6.5, height=3.6)
    ax = axes[0, 0]
    curves = {label: risk_coverage(arrays[f"confidence.{label}"], correct) for label in CURVES}
    plot_risk_coverage(curves, ax=ax, style=CURVES.__getitem__)
    shared_legend(made, [ax], columns=3)
    ours, mcp = (results.main[row, "aurc"] for row in ("ConfidNet", "MCP"))
    title = f"Area under the risk-coverage curve: ConfidNet {ours:.2f} ‰, MCP {mcp:.2f} ‰"
    caption = (
        "The share of mistakes among the images of which a score is surest, against how many "
        f"images these are. {_of_seed(results)}"
    )
    return Figure("risk-coverage", title, caption, made)


def _of_seed(results: Results[Any]) -> str:
    return f"Of seed {results.config.seed}." if results.config.seeds > 1 else ""


@house_style()
def _training(results: Results[Any]) -> Figure:
    arrays = results.arrays
    made, axes = figure(1, 2, height=2.6)
    chosen, epochs = int(arrays["confidnet.chosen"]), np.arange(len(arrays["confidnet.step"]))
    quantities = {"validation_loss": ("loss", 1), "validation_aupr_error": ("AUPR-Error (%)", 100)}
    for ax, (name, (label, scale)) in zip(axes[0], quantities.items(), strict=True):
        values = scale * arrays[f"confidnet.{name}"]
        for step, words in (("head", "head on fixed features"), ("cloning", "encoder tuned too")):
            part = arrays["confidnet.step"] == step
            style = {"head": "#0072B2", "cloning": "#D55E00"}[step]
            ax.plot(1 + epochs[part], values[part], ".-", color=style, label=words)
        ax.plot(1 + chosen, values[chosen], "o", ms=9, mfc="none", color="black", label="chosen")
        ax.set(xlabel="Epoch", ylabel=f"Validation {label}")
    axes[0, 0].set_yscale("log")
    shared_legend(made, axes[0])
    head = arrays["confidnet.step"][chosen] == "head"
    step = "as head" if head else "after tuning its encoder"
    criterion = "loss" if results.config.select_by == "loss" else "AUPR-Error"
    title = f"ConfidNet is taken {step}, in epoch {1 + chosen}, by validation {criterion}"
    caption = (
        f"Validation images that neither fit has seen; {arrays['confidnet.validation_mistakes']} "
        f"of them are mistakes, so that their AUPR-Error is noisy. {_of_seed(results)}"
    )
    return Figure("confidnet-training", title, caption, made)


def _images(results: Results[Any]) -> Figure:
    arrays, classes = results.arrays, results.arrays["classes"]
    predicted, true = (classes[arrays[f"mistakes.{name}"]] for name in ("predicted", "labels"))
    mcp, ours = arrays["mistakes.ranks"]
    titles = [
        f"{top}, is {label}\nMCP {percent(first, 0)}\nConfidNet {percent(second, 0)}"
        for top, label, first, second in zip(predicted, true, mcp, ours, strict=True)
    ]
    made = mistake_panels(arrays["mistakes.images"], titles=titles)
    title = (
        f"ConfidNet ranks {int((ours < mcp).sum())} of the {len(mcp)} mistakes that MCP is surest "
        f"of lower than MCP does"
    )
    caption = (
        "Misclassified test images with the class predicted and the true one, and the share of all "
        f"test images that each score is less sure of. {_of_seed(results)}"
    )
    return Figure("mistakes", title, caption, made)
