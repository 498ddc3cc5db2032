r"""What decides the posterior variance of a line: where the points are, and what the prior adds.

With :math:`\phi(x) = (1, x)` the variance depends on the inputs alone,

.. math:: \Sigma^{-1} = \alpha I + \beta\Phi^\top\Phi, \qquad
          \det\Phi^\top\Phi = n\sum x^2 - \Big(\sum x\Big)^2 = n\,S, \qquad
          S = \sum (x - \bar x)^2

so that moving points outwards, as a hole does, makes it smaller. As :math:`\alpha \to 0`,

.. math:: \Sigma \to \frac{1}{\beta\,n S}\begin{pmatrix}\sum x^2 & -\sum x\\ -\sum x & n
          \end{pmatrix}, \qquad
          \phi(x)^\top\Sigma\,\phi(x) \to \frac1\beta\Big(\frac1n + \frac{(x - \bar x)^2}{S}\Big).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from probml_tp.experiments.lines.kit import weight_moments
from probml_tp.guides import Exact
from probml_tp.harness.experiment import Figure, Results, Table
from probml_tp.inference import fit
from probml_tp.kit.common import Array, derived_seed
from probml_tp.kit.sentences import table_of
from probml_tp.models import LinearBasis, linear_regression
from probml_tp.plots import style
from probml_tp.plots.regression import mark_training_range
from probml_tp.plots.style import house_style, number, order_of_magnitude
from probml_tp.priors import FlatPrior, NormalPrior, Prior

HOLE = "hole or none"
LIMIT = "flat-prior limit"

DESIGNS = {
    "line": "line of the labs, no hole",
    "hole": "hole of the labs",
    "spread": "no hole, as many points",
    "filled": "hole, filled with more points",
}
"""Which inputs: the first two differ in number and range, the third isolates the hole."""

LOOKS: dict[str, dict[str, Any]] = {
    "line": {"color": "#999999", "linestyle": ":"},
    "hole": {"color": "#D55E00", "linestyle": "-"},
    "spread": {"color": "#0072B2", "linestyle": (0, (5, 1.5))},
    "filled": {"color": "#009E73", "linestyle": (0, (1, 1))},
}
HOLE_TITLE = "Posterior variance with and without a hole (exact posterior; f without noise)"

ALPHAS = tuple(10.0**-k for k in range(9))
RANDOM_DESIGNS = 1000
AT = (0.0, 2.0, 6.0, 12.0)
EDGE = 3.0
"""The hole's data lie between -3 and 3, with nothing between -1 and 1."""


def line_moments(x: Tensor, y: Tensor, *, prior: Prior, noise: float) -> tuple[Array, Array]:
    """Mean and covariance of intercept and slope that :class:`~probml_tp.Exact` finds."""
    model = linear_regression(LinearBasis(), prior=prior, likelihood=noise)
    return weight_moments(fit(model, Exact, (x, y), progress=False))


def exact_covariance(x: Array, *, prior: Prior, noise: float) -> Array:
    """The covariance, which inputs ``(n,)`` alone determine, ``(2, 2)``."""
    inputs = torch.from_numpy(x)[:, None]
    return line_moments(inputs, torch.zeros_like(inputs[:, 0]), prior=prior, noise=noise)[1]


def limit_covariance(x: Array, *, noise: float = 1.0) -> Array:
    r"""The limit of the covariance as :math:`\alpha \to 0`, in closed form, ``(2, 2)``."""
    n, total, squares = len(x), x.sum(), (x**2).sum()
    adjugate = np.array([[squares, -total], [-total, n]]) + 0.0
    return np.asarray(noise**2 / (n * squares - total**2) * adjugate)


def variance_at(x: Array, covariance: Array) -> Array:
    """The variance of the function at inputs ``(m,)``."""
    phi = np.stack([np.ones_like(x), x], axis=1)
    return np.asarray(np.einsum("np,pq,nq->n", phi, covariance, phi))


def compare_designs(results: Results[Any], *, line: Array, hole: Array, noise: float) -> None:
    """Enter posterior variances with and without a hole in the data."""
    config = results.config
    rng = np.random.default_rng(derived_seed(config.seed, HOLE))
    n, arrays = len(hole), results.arrays
    designs = {
        "line": line,
        "hole": hole,
        "spread": rng.uniform(-EDGE, EDGE, n),
        "filled": np.concatenate([hole, rng.uniform(-1, 1, n // 2)]),
    }
    table = Table(
        HOLE_TITLE,
        "Inputs",
        columns={
            "n": "n",
            "squares": "S = Σ(x − mean)²",
            "det": "det Φᵀ Φ",
            "det_closed": "n Σx² − (Σx)²",
            "det_covariance": "det Σ",
            "var_intercept": "Var w₀",
            "var_slope": "Var w₁",
            **{f"var_at_{at:g}": f"Var f({at:g})" for at in AT},
        },
    )
    for name, x in designs.items():
        covariance = exact_covariance(x, prior=config.prior, noise=noise)
        arrays |= {f"{HOLE}.{name}.x": x, f"{HOLE}.{name}.covariance": covariance}
        table.put(DESIGNS[name], _hole_row(x, covariance))
    results.tables.append(table)
    spread = rng.uniform(-EDGE, EDGE, (RANDOM_DESIGNS, n))
    sides = np.where(np.arange(n) < n // 2, -1, 1)
    apart = sides * rng.uniform(1, EDGE, (RANDOM_DESIGNS, n))
    arrays |= {f"{HOLE}.random.spread": n * spread.var(1), f"{HOLE}.random.hole": n * apart.var(1)}


def _hole_row(x: Array, covariance: Array) -> dict[str, float]:
    phi = np.stack([np.ones_like(x), x], axis=1)
    variances = variance_at(np.asarray(AT), covariance)
    return {
        "n": len(x),
        "squares": len(x) * x.var(),
        "det": np.linalg.det(phi.T @ phi),
        "det_closed": len(x) * (x**2).sum() - x.sum() ** 2,
        "det_covariance": np.linalg.det(covariance),
        "var_intercept": covariance[0, 0],
        "var_slope": covariance[1, 1],
        **{f"var_at_{at:g}": value for at, value in zip(AT, variances, strict=True)},
    }


def flatten_prior(results: Results[Any], x: Array) -> None:
    r"""Enter the exact covariance at :math:`\beta = 1` for ever flatter priors, and a flat one."""
    priors: dict[float, Prior] = {alpha: NormalPrior.from_precision(alpha) for alpha in ALPHAS}
    priors[0.0] = FlatPrior()
    limit = limit_covariance(x)
    table = Table(
        "The limit α → 0 at β = 1 (exact posterior)",
        "Prior",
        columns={
            "var_intercept": "Var w₀",
            "covariance": "Cov(w₀, w₁)",
            "var_slope": "Var w₁ = growth of Var f per (units of x)²",
            "distance": "Relative distance to the limit",
            "vertex": "Var f is least at x =",
            "off_mean": "Off the mean of x by",
            "least": "Least Var f",
        },
    )
    found = []
    for alpha, prior in priors.items():
        found.append(exact_covariance(x, prior=prior, noise=1.0))
        name = f"normal, α = {alpha:.0e}" if alpha else "flat"
        table.put(name, _limit_row(found[-1], limit, x.mean()))
    table.put("closed form of the limit", _limit_row(limit, limit, x.mean()))
    results.tables.append(table)
    values = {"x": x, "alpha": np.array(list(priors)), "covariance": np.stack(found)}
    results.arrays |= {f"{LIMIT}.{name}": value for name, value in values.items()}
    results.arrays[f"{LIMIT}.limit"] = limit


def _limit_row(covariance: Array, limit: Array, mean: float) -> dict[str, float]:
    vertex = -covariance[0, 1] / covariance[1, 1]
    return {
        "var_intercept": covariance[0, 0],
        "covariance": covariance[0, 1],
        "var_slope": covariance[1, 1],
        "distance": np.linalg.norm(covariance - limit) / np.linalg.norm(limit),
        "vertex": vertex,
        "off_mean": abs(vertex - mean),
        "least": covariance[0, 0] + vertex * covariance[0, 1],
    }


def _flattened(arrays: dict[str, Array]) -> list[Array]:
    return [arrays[f"{LIMIT}.{name}"] for name in ("x", "alpha", "covariance", "limit")]


def _distance(found: Array, limit: Array) -> Array:
    """Of covariances from their limit, relative, in the Frobenius norm."""
    return np.asarray(np.linalg.norm(found - limit, axis=(1, 2)) / np.linalg.norm(limit))


def _more(more: dict[str, float], less: dict[str, float], metric: str) -> str:
    """By how much a number of one design differs from that of another, in percent."""
    ratio = more[metric] / less[metric]
    return f"{100 * abs(1 - ratio):.0f} % {'less' if ratio < 1 else 'more'}"


def _rows(results: Results[Any]) -> dict[str, dict[str, float]]:
    """The row of each design, if they were compared."""
    table = table_of(results, HOLE_TITLE)
    return {} if table is None else {name: table.row(row) for name, row in DESIGNS.items()}


def _hole(results: Results[Any]) -> str | None:
    if not (rows := _rows(results)):
        return None
    hole, spread = rows["hole"], rows["spread"]
    n, surer = hole["n"], hole["det_covariance"] < spread["det_covariance"]
    random = [results.arrays[f"{HOLE}.random.{name}"] for name in ("hole", "spread")]
    ratio = random[0].mean() / random[1].mean()
    error = ratio * math.hypot(*(s.std(ddof=1) / s.mean() / math.sqrt(len(s)) for s in random))
    return (
        f"A hole in the data makes a line {'surer' if surer else 'less sure'} at equal number and "
        f"range of points: {n:.0f} points beside the hole have det ΦᵀΦ = n Σx² − (Σx)² = "
        f"n Σ(x − mean)² {hole['squares'] / spread['squares']:.2f} times that of "
        f"{spread['n']:.0f} points all over [−3, 3], so det Σ is "
        f"{_more(hole, spread, 'det_covariance')} and the variance of the slope "
        f"{_more(hole, spread, 'var_slope')}; over {len(random[0]):,} pairs of random inputs the "
        f"means have the ratio {ratio:.3f} ± {error:.3f} (standard error; in expectation "
        f"(13 n − 1)/(9 (n − 1)) = {(13 * n - 1) / (9 * (n - 1)):.3f}), and in "
        f"{100 * float((random[0] > random[1]).mean()):.1f} % it is larger with the hole."
    )


def _labs(results: Results[Any]) -> str | None:
    if not (rows := _rows(results)):
        return None
    line, hole, filled = (rows[name] for name in ("line", "hole", "filled"))
    widths = [np.ptp(results.arrays[f"{HOLE}.{name}.x"]) for name in ("line", "hole")]
    return (
        f"The labs' two data sets differ in more than the hole: n = {line['n']:.0f} on a range of "
        f"{widths[0]:.1f} against n = {hole['n']:.0f} on {widths[1]:.1f}, det ΦᵀΦ "
        f"{line['det']:.0f} against {hole['det']:.0f}, variance of the slope "
        f"{line['var_slope']:.4f} against {hole['var_slope']:.4f}. Points added in the hole, "
        f"{filled['n'] - hole['n']:.0f} of them, can only help: variance of the intercept "
        f"{_more(filled, hole, 'var_intercept')}, of the slope "
        f"{_more(filled, hole, 'var_slope')}; it is moving points there from outside that costs."
    )


def _limit(results: Results[Any]) -> str:
    x, alpha, found, limit = _flattened(results.arrays)
    distance = _distance(found, limit)
    n, mean, squares = len(x), float(x.mean()), float(len(x) * x.var())
    growth = 1 + n * (10 - mean) ** 2 / squares
    return (
        f"As α → 0 at β = 1 the exact covariance tends to the closed form: from a relative "
        f"distance of {order_of_magnitude(distance[0])} at α = {alpha[0]:g} to "
        f"{order_of_magnitude(distance[-2])} at α = {alpha[-2]:.0e}, and "
        f"{order_of_magnitude(distance[-1])} with a flat prior. There the variance of the function "
        f"is 1/n + (x − mean)²/Σ(x − mean)²: least at the mean of x, {number(mean, '.3f')}, where "
        f"it is 1/{n} = {1 / n:.3f}, and from there it grows by {1 / squares:.4f} for each squared "
        f"unit of x, to {growth:,.0f} times that at x = 10."
    )


LINE_FINDINGS = (_hole, _labs, _limit)
"""What decides the variance of the line."""


def line_figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the two comparisons, those that were made."""
    if rows := _rows(results):
        yield _hole_figure(results.arrays, rows)
    yield _limit_figure(results.arrays)


@house_style()
def _hole_figure(arrays: dict[str, Array], rows: dict[str, dict[str, float]]) -> Figure:
    made, ((left, right),) = style.figure(1, 2, height=3.5)
    x = np.linspace(-6, 6, 241)
    for name, label in DESIGNS.items():
        shown, variance = (
            f"{label} (n = {rows[name]['n']:.0f})",
            arrays[f"{HOLE}.{name}.covariance"],
        )
        left.plot(x, variance_at(x, variance), label=shown, **LOOKS[name])
    mark_training_range(arrays[f"{HOLE}.hole.x"], ax=left)
    top = float(variance_at(x, arrays[f"{HOLE}.spread.covariance"]).max())
    left.set(xlabel="x", ylabel="Var f (units of y²)", ylim=(0, 1.3 * top), xlim=(-6, 6))
    left.set_title("Epistemic variance along x")
    n = round(rows["hole"]["n"])
    samples = {name: n * arrays[f"{HOLE}.random.{name}"] for name in ("hole", "spread")}
    both = np.concatenate(list(samples.values()))
    bins = np.linspace(both.min(), both.max(), 45)
    for name, values in samples.items():
        right.hist(values, bins=list(bins), color=LOOKS[name]["color"], alpha=0.5)
    right.set(xlabel="det ΦᵀΦ = n Σx² − (Σx)²", ylabel="random inputs per bin")
    right.set_title(f"{len(values):,} random inputs of {n} points each")
    style.shared_legend(made, [left], columns=2)
    return Figure(
        "hole-or-none",
        f"At equal n and range the hole makes det Σ "
        f"{_more(rows['hole'], rows['spread'], 'det_covariance')}, since det ΦᵀΦ grows with the "
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
    made, ((left, right),) = style.figure(1, 2, height=3.6)
    _draw_limit(x, alpha, found, limit, left)
    distance = _distance(found, limit)
    right.loglog(alpha[:-1], distance[:-1], "o", color="#0072B2", label="exact posterior")
    first = alpha[:-1] * np.linalg.norm(limit @ limit) / np.linalg.norm(limit)
    right.loglog(alpha[:-1], first, ":", color=style.DATA_COLOR, label="first order: α‖Σ²‖/‖Σ‖")
    right.set(xlabel="prior precision α", ylabel="relative distance to the limit")
    right.set_title("Distance of the covariance")
    style.shared_legend(made, [left, right], columns=4)
    n, mean, squares = len(x), float(x.mean()), float(len(x) * x.var())
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
    ax.plot(mean, 1 / len(x), "^", color=style.DATA_COLOR, zorder=5, label="mean of x, 1/n")
    mark_training_range(x, ax=ax)
    ax.set(xlabel="x", ylabel="Var f (units of y²) at β = 1", ylim=(0, None))
    ax.set_xlim(grid[0], grid[-1])
    ax.set_title("Variance of the function along x")
