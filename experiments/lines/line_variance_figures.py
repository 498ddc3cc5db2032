"""What the comparisons of :mod:`probml_tp.experiments.lines.line_variance` say and show."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from probml_tp.experiments.lines.line_variance import DESIGNS, HOLE, LIMIT, variance_at
from probml_tp.harness.experiment import Figure, Results
from probml_tp.kit.common import Array
from probml_tp.plots.regression import mark_training_range
from probml_tp.plots.style import (
    DATA_COLOR,
    figure,
    house_style,
    number,
    order_of_magnitude,
    shared_legend,
)

LOOKS: dict[str, dict[str, Any]] = {
    "line": {"color": "#999999", "linestyle": ":"},
    "hole": {"color": "#D55E00", "linestyle": "-"},
    "spread": {"color": "#0072B2", "linestyle": (0, (5, 1.5))},
    "filled": {"color": "#009E73", "linestyle": (0, (1, 1))},
}


def _design(arrays: dict[str, Array], name: str) -> tuple[Array, Array]:
    return arrays[f"{HOLE}.{name}.x"], arrays[f"{HOLE}.{name}.covariance"]


def _flattened(arrays: dict[str, Array]) -> list[Array]:
    return [arrays[f"{LIMIT}.{name}"] for name in ("x", "alpha", "covariance", "limit")]


def _distance(found: Array, limit: Array) -> Array:
    """Of covariances from their limit, relative, in the Frobenius norm."""
    return np.asarray(np.linalg.norm(found - limit, axis=(1, 2)) / np.linalg.norm(limit))


def _squares(x: Array) -> float:
    return float(len(x) * x.var())


def _more(ratio: float) -> str:
    return f"{abs(1 - ratio):.0%} {'less' if ratio < 1 else 'more'}".replace("%", " %")


def _hole(results: Results[Any]) -> str | None:
    arrays = results.arrays
    if f"{HOLE}.hole.x" not in arrays:
        return None
    (x, hole), (x_spread, spread) = _design(arrays, "hole"), _design(arrays, "spread")
    squares, volume = _squares(x) / _squares(x_spread), np.linalg.det(hole) / np.linalg.det(spread)
    random = [arrays[f"{HOLE}.random.{name}"] for name in ("hole", "spread")]
    ratio = random[0].mean() / random[1].mean()
    error = ratio * math.hypot(*(s.std(ddof=1) / s.mean() / math.sqrt(len(s)) for s in random))
    expected = (13 * len(x) - 1) / (9 * (len(x) - 1))
    wins = float((random[0] > random[1]).mean())
    return (
        f"A hole in the data makes a line {'surer' if volume < 1 else 'less sure'} at equal "
        f"number and range of points: {len(x)} points beside the hole have det ΦᵀΦ = "
        f"n Σx² − (Σx)² = n Σ(x − mean)² {squares:.2f} times that of {len(x_spread)} points all "
        f"over [−3, 3], so det Σ is {_more(volume)} and the variance of the slope "
        f"{_more(hole[1, 1] / spread[1, 1])}; over {len(random[0]):,} pairs of random inputs the "
        f"means have the ratio {ratio:.3f} ± {error:.3f} (standard error; in expectation "
        f"(13 n − 1)/(9 (n − 1)) = {expected:.3f}), and in {100 * wins:.1f} % it is larger with "
        f"the hole."
    )


def _labs(results: Results[Any]) -> str | None:
    arrays = results.arrays
    if f"{HOLE}.hole.x" not in arrays:
        return None
    (x, hole), (x_line, line) = _design(arrays, "hole"), _design(arrays, "line")
    x_filled, filled = _design(arrays, "filled")
    return (
        f"The labs' two data sets differ in more than the hole: n = {len(x_line)} on a range of "
        f"{np.ptp(x_line):.1f} against n = {len(x)} on {np.ptp(x):.1f}, det ΦᵀΦ "
        f"{len(x_line) * _squares(x_line):.0f} against {len(x) * _squares(x):.0f}, variance of "
        f"the slope {line[1, 1]:.4f} against {hole[1, 1]:.4f}. Points added in the hole, "
        f"{len(x_filled) - len(x)} of them, can only help: variance of the intercept "
        f"{_more(filled[0, 0] / hole[0, 0])}, of the slope "
        f"{_more(filled[1, 1] / hole[1, 1])}; it is moving points there from outside that costs."
    )


def _limit(results: Results[Any]) -> str:
    x, alpha, found, limit = _flattened(results.arrays)
    distance = _distance(found, limit)
    n, mean, squares = len(x), float(x.mean()), _squares(x)
    edge = 10.0
    growth = 1 + n * (edge - mean) ** 2 / squares
    return (
        f"As α → 0 at β = 1 the exact covariance tends to the closed form: from a relative "
        f"distance of {order_of_magnitude(distance[0])} at α = {alpha[0]:g} to "
        f"{order_of_magnitude(distance[-2])} at α = {alpha[-2]:.0e}, and "
        f"{order_of_magnitude(distance[-1])} with a flat prior. There the variance of the function "
        f"is 1/n + (x − mean)²/Σ(x − mean)²: least at the mean of x, {number(mean, '.3f')}, where "
        f"it is 1/{n} = {1 / n:.3f}, and from there it grows by {1 / squares:.4f} for each squared "
        f"unit of x, to {growth:,.0f} times that at x = {edge:g}."
    )


LINE_FINDINGS = (_hole, _labs, _limit)
"""What decides the variance of the line."""


# ------------------------------------------------------------------------------------- figures


def line_figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the two comparisons, those that were made."""
    if f"{HOLE}.hole.x" in results.arrays:
        yield _hole_figure(results.arrays)
    yield _limit_figure(results.arrays)


@house_style()
def _hole_figure(arrays: dict[str, Array]) -> Figure:
    made, ((left, right),) = figure(1, 2, height=3.5)
    x = np.linspace(-6, 6, 241)
    for name, label in DESIGNS.items():
        inputs, covariance = _design(arrays, name)
        look = LOOKS[name]
        shown = f"{label} (n = {len(inputs)})"
        left.plot(x, variance_at(x, covariance), label=shown, **look)
    mark_training_range(_design(arrays, "hole")[0], ax=left)
    top = float(variance_at(x, _design(arrays, "spread")[1]).max())
    left.set(xlabel="x", ylabel="Var f (units of y²)", ylim=(0, 1.3 * top), xlim=(-6, 6))
    left.set_title("Epistemic variance along x")
    n = len(_design(arrays, "hole")[0])
    samples = {name: n * arrays[f"{HOLE}.random.{name}"] for name in ("hole", "spread")}
    both = np.concatenate(list(samples.values()))
    bins = np.linspace(both.min(), both.max(), 45)
    for name, values in samples.items():
        right.hist(values, bins=list(bins), color=LOOKS[name]["color"], alpha=0.5)
    right.set(xlabel="det ΦᵀΦ = n Σx² − (Σx)²", ylabel="random inputs per bin")
    right.set_title(f"{len(values):,} random inputs of {n} points each")
    shared_legend(made, [left], columns=2)
    (inputs, hole), (_, spread) = _design(arrays, "hole"), _design(arrays, "spread")
    return Figure(
        "hole-or-none",
        f"At equal n and range the hole makes det Σ "
        f"{_more(np.linalg.det(hole) / np.linalg.det(spread))}, since det ΦᵀΦ grows with the "
        f"points' distance from their mean",
        "Left, the exact posterior's epistemic variance for the labs' inputs with a hole (grey "
        "bars), for as many over the same range without, for the hole's with half as many more "
        "put in it, and for the labs' line on [0, 2], which leaves the panel. Right, "
        "the determinant for random inputs of equal number, with the hole and without.",
        made,
    )


@house_style()
def _limit_figure(arrays: dict[str, Array]) -> Figure:
    x, alpha, found, limit = _flattened(arrays)
    made, ((left, right),) = figure(1, 2, height=3.6)
    _draw_limit(x, alpha, found, limit, left)
    distance = _distance(found, limit)
    right.loglog(alpha[:-1], distance[:-1], "o", color="#0072B2", label="exact posterior")
    first = alpha[:-1] * np.linalg.norm(limit @ limit) / np.linalg.norm(limit)
    right.loglog(alpha[:-1], first, ":", color=DATA_COLOR, label="first order: α‖Σ²‖/‖Σ‖")
    right.set(xlabel="prior precision α", ylabel="relative distance to the limit")
    right.set_title("Distance of the covariance")
    shared_legend(made, [left, right], columns=4)
    n, mean, squares = len(x), float(x.mean()), _squares(x)
    return Figure(
        "flat-prior-limit",
        f"Without a prior Var f is least at the mean of x, {number(mean, '.2f')}, where it is "
        f"1/n = {1 / n:.3f}, and grows by {1 / squares:.3f} (x − mean)²",
        "Left, the variance of the function at β = 1 for ever flatter priors, with the closed form "
        "of the limit dotted and its least value marked. Right, how far the exact "
        "covariance is from the limit, in the Frobenius norm; "
        f"with a flat prior the distance is {order_of_magnitude(distance[-1])}.",
        made,
    )


def _draw_limit(x: Array, alpha: Array, found: Array, limit: Array, ax: Axes) -> None:
    mean, half = float(x.mean()), 1.5 * float(np.ptp(x))
    grid = np.linspace(mean - half, mean + half, 201)
    shades = ("#9ecae1", "#6baed6", "#3182bd")
    for place, shade in zip((0, 1, 2), shades, strict=True):
        look: dict[str, Any] = {"color": shade, "label": f"α = {alpha[place]:g}"}
        ax.plot(grid, variance_at(grid, found[place]), **look)
    ax.plot(grid, variance_at(grid, found[-1]), color="#000000", label="flat prior")
    ax.plot(
        grid, variance_at(grid, limit), ":", color="#E69F00", linewidth=2.6,
        label="closed form of the limit",
    )  # fmt: skip
    ax.plot(mean, 1 / len(x), "^", color=DATA_COLOR, zorder=5, label="mean of x, 1/n")
    mark_training_range(x, ax=ax)
    ax.set(xlabel="x", ylabel="Var f (units of y²) at β = 1", ylim=(0, None))
    ax.set_xlim(grid[0], grid[-1])
    ax.set_title("Variance of the function along x")
