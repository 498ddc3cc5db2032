"""What is said and shown of the choice of a model by evidence, PSIS-LOO and held-out data."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm

from probml_tp.experiments.lines.evidence_curves import CRITERIA
from probml_tp.experiments.lines.model_choice import (
    CHOICE,
    CHOOSES,
    CRITERION_LABELS,
    FAMILIES,
    choices,
)
from probml_tp.harness.experiment import Figure, Results
from probml_tp.kit.common import Array
from probml_tp.kit.sentences import Gap
from probml_tp.metrics.over_runs import paired_seeds
from probml_tp.plots.style import figure, house_style, number, shared_legend

LOOKS: dict[str, dict[str, Any]] = {
    "evidence": {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    "psis-loo": {"color": "#D55E00", "linestyle": (0, (4, 2)), "marker": "s"},
    "loo": {"color": "#009E73", "linestyle": (0, (1, 1)), "marker": "^"},
    "held-out": {"color": "#333333", "linestyle": (0, (6, 1, 1, 1)), "marker": "D"},
}


def _array(results: Results[Any], name: str) -> Array:
    return results.arrays[f"{CHOICE}.{name}"]


def _chosen(results: Results[Any], family: str) -> list[float]:
    values, criteria = _array(results, f"{family}.values"), _array(results, f"{family}.criteria")
    return [float(values[one.argmin()]) for one in criteria[0]]


def _agreement(results: Results[Any]) -> str:
    parts, same, cases = [], np.zeros(3, dtype=int), 0
    for family, label in FAMILIES.items():
        evidence, psis, _, held_out = _array(results, f"{family}.criteria").argmin(-1).T
        pairs = ((evidence, psis), (evidence, held_out), (psis, held_out))
        equal = [int((one == other).sum()) for one, other in pairs]
        parts.append(f"{label} {'/'.join(map(str, equal))}")
        same, cases = same + equal, cases + len(evidence)
    return (
        f"Evidence and PSIS-LOO choose the same candidate in {same[0]} of {cases} cases; the one "
        f"that is best for fresh data the evidence chooses in {same[1]} and PSIS-LOO in "
        f"{same[2]} (in this order, of {len(evidence)} training sets: {'; '.join(parts)})."
    )


def _order(results: Results[Any]) -> str:
    better = []
    for family, label in FAMILIES.items():
        rank = choices(_array(results, f"{family}.criteria"))[1]
        found = paired_seeds(rank[:, 1], rank[:, 0])
        ends = [number(end, "+.2f") for end in found.interval or ()]
        interval = f" [{', '.join(ends)}]" if ends else ""
        better.append(f"{label} {number(found.mean, '+.2f')}{interval}")
    return (
        "The rank correlation of PSIS-LOO with the held-out NLL, less that of the evidence on the "
        f"same training sets: {'; '.join(better)}."
    )


def _psis(results: Results[Any]) -> str:
    criteria, k_hat = (
        np.concatenate([_array(results, f"{family}.{name}") for family in FAMILIES], axis=-1)
        for name in ("criteria", "k_hat")
    )
    off, bad = np.abs(criteria[:, 1] - criteria[:, 2]), k_hat > 0.7
    worst = {
        what: f"{float(off[which].max()):.3f}" if which.any() else "none"
        for what, which in (("good", ~bad), ("bad", bad))
    }
    return (
        f"PSIS-LOO from {results.config.num_samples} draws is off the exact LOO by at most "
        f"{worst['good']} nats a point where no Pareto k-hat is above 0.7, and {worst['bad']} "
        f"where one is: {int(bad.sum())} of {bad.size} fits."
    )


def _type_two(results: Results[Any]) -> str:
    alpha, beta = _array(results, "plane.type-two")
    plane = {name: _array(results, f"plane.{name}") for name in ("evidence", "loo", "held-out")}
    at = {name: np.unravel_index(values.argmin(), values.shape) for name, values in plane.items()}
    held_out = plane["held-out"]
    cost = {name: float(held_out[where] - held_out.min()) for name, where in at.items()}
    return (
        f"Type-II maximum likelihood for {results.config.bumps} bumps finds α = {alpha:.2f} and a "
        f"noise SD of {beta**-0.5:.3f} ({results.config.noise:g} in truth); on the grid of α and "
        f"β the choice by evidence costs {cost['evidence']:.3f} nats a point of held-out NLL, by "
        f"exact LOO {cost['loo']:.3f}."
    )


CHOICE_FINDINGS = (
    _agreement,
    Gap(
        "rank",
        "Rank correlations with the held-out NLL over the candidates, means over "
        "{config.training_sets} training sets with 95 % intervals: {gaps}.",
        table=CHOOSES,
        write=lambda value: number(min(max(value, -1.0), 1.0), ".2f"),
        name=str,
        grouped=True,
    ),
    _order,
    Gap(
        "cost",
        "What a choice costs against the best candidate in held-out NLL, in nats a point: {gaps}.",
        table=CHOOSES,
        write=lambda value: number(value, ".3f"),
        name=str,
        grouped=True,
    ),
    _psis,
    _type_two,
)
"""Whether the criteria agree, and what their choices cost."""


# ------------------------------------------------------------------------------------- figures


@house_style()
def choice_figure(results: Results[Any]) -> Figure:
    """Every criterion over every family, on the first training set."""
    made, axes = figure(2, 2, height=5.6)
    for ax, family in zip(axes.flat, FAMILIES, strict=True):
        _family_panel(results, family, ax)
    shared_legend(made, [axes[0, 0]], columns=4)
    cost = choices(_array(results, "degree.criteria"))[0].mean(0)
    evidence, psis, _, held_out = _chosen(results, "degree")
    return Figure(
        "model-choice",
        f"Among polynomials the evidence chooses degree {evidence:g}, PSIS-LOO {psis:g}, held-out "
        f"data {held_out:g}; their choices cost {cost[0]:.3f} and {cost[1]:.3f} nats a point over "
        f"training sets",
        "Each criterion as nats a point above its own least value, which is marked by a large "
        "symbol: lower is better. The evidence is −log p(y)/n, PSIS-LOO and exact LOO are means of "
        "negative log densities of points left out, and the NLL is that of fresh points. α and β "
        "are chosen for the Gaussian basis.",
        made,
    )


def _family_panel(results: Results[Any], family: str, ax: Axes) -> None:
    values, criteria = _array(results, f"{family}.values"), _array(results, f"{family}.criteria")
    for name, one in zip(CRITERIA, criteria[0], strict=True):
        look, above = LOOKS[name], one - one.min()
        ax.plot(values, above + 1e-3, markersize=3.5, label=CRITERION_LABELS[name], **look)
        best = int(one.argmin())
        ax.plot(values[best], 1e-3, look["marker"], color=look["color"], markersize=9, alpha=0.6)
    if family in ("alpha", "beta"):
        ax.set_xscale("log")
    if family == "beta":
        ax.axvline(results.config.noise**-2, color="#8a8f98", linewidth=1, linestyle=":")
    unit = {"beta": " (1/units of y²; dotted: the truth)"}.get(family, "")
    ax.set(xlabel=f"{FAMILIES[family]}{unit}", ylabel="above the least (nats/point)")
    ax.set(yscale="log", ylim=(7e-4, None))


@house_style()
def plane_figure(results: Results[Any]) -> Figure:
    """Evidence, exact LOO and held-out NLL over alpha and beta."""
    names = ("evidence", "loo", "held-out")
    made, axes = figure(1, 3, height=3.3, sharex=True, sharey=True)
    alphas, betas = _array(results, "plane.alphas"), _array(results, "plane.betas")
    best = _array(results, "plane.type-two")
    levels = [0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]
    shades = BoundaryNorm(levels, ncolors=256, extend="max")
    for ax, name in zip(axes[0], names, strict=True):
        values = _array(results, f"plane.{name}")
        above = values - values.min()
        shown = ax.contourf(
            alphas, betas, above, levels=levels, cmap="Blues_r", norm=shades, extend="max"
        )
        row, column = np.unravel_index(values.argmin(), values.shape)
        ax.plot(alphas[column], betas[row], "o", color="#D55E00", label="least on the grid")
        ax.plot(*best, "P", color="#000000", markersize=8, label="type-II maximum likelihood")
        ax.axhline(results.config.noise**-2, color="#8a8f98", linestyle=":", label="true β")
        ax.set(xscale="log", yscale="log", xlabel="prior precision α", title=CRITERION_LABELS[name])
    axes[0, 0].set_ylabel("noise precision β (1/units of y²)")
    made.colorbar(shown, ax=list(axes[0]), label="above the least (nats/point)")
    shared_legend(made, [axes[0, 0]], columns=3)
    return Figure(
        "evidence-plane",
        _type_two(results).split(";")[0],
        "The criteria for the Gaussian basis over both precisions, as nats a point above the least "
        "value. The cross is the maximum of the evidence, the dots the least value "
        "of each criterion on the grid.",
        made,
    )
