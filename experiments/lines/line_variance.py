r"""What decides the posterior variance of a line: where the points are, and what the prior adds.

With :math:`\phi(x) = (1, x)` the variance depends on the inputs alone,

.. math:: \Sigma^{-1} = \alpha I + \beta\Phi^\top\Phi, \qquad
          \det\Phi^\top\Phi = n\sum x^2 - \Big(\sum x\Big)^2 = n\sum (x - \bar x)^2 = n\,S

so that moving points outwards, as a hole does, makes it smaller. As :math:`\alpha \to 0`,

.. math:: \phi(x)^\top\Sigma\,\phi(x) \to \frac1\beta\Big(\frac1n + \frac{(x - \bar x)^2}{S}\Big).
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

LIMIT_TITLE = "The limit α → 0 at β = 1 (exact posterior)"
HOLE_COLUMNS = {
    "n": "n",
    "squares": "S = Σ(x − mean)²",
    "det": "det Φᵀ Φ",
    "det_closed": "n Σx² − (Σx)²",
    "det_covariance": "det Σ",
    "var_intercept": "Var w₀",
    "var_slope": "Var w₁",
    **{f"var_at_{at}": f"Var f({at})" for at in (0, 2, 6, 12)},
}
LIMIT_COLUMNS = {
    "var_intercept": "Var w₀",
    "covariance": "Cov(w₀, w₁)",
    "var_slope": "Var w₁ = growth of Var f per (units of x)²",
    "distance": "Relative distance to the limit",
    "vertex": "Var f is least at x =",
    "off_mean": "Off the mean of x by",
    "least": "Least Var f",
}
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
    rng = np.random.default_rng(derived_seed(results.config.seed, HOLE))
    n, arrays = len(hole), results.arrays
    spread, inside = rng.uniform(-EDGE, EDGE, n), rng.uniform(-1, 1, n // 2)
    filled = np.concatenate([hole, inside])
    table = Table(HOLE_TITLE, "Inputs", columns=HOLE_COLUMNS)
    for name, x in {"line": line, "hole": hole, "spread": spread, "filled": filled}.items():
        covariance = exact_covariance(x, prior=results.config.prior, noise=noise)
        arrays |= {f"{HOLE}.{name}.x": x, f"{HOLE}.{name}.covariance": covariance}
        table.put(DESIGNS[name], dict(zip(HOLE_COLUMNS, _hole_row(x, covariance), strict=True)))
    results.tables.append(table)
    wide = rng.uniform(-EDGE, EDGE, (1000, n))
    apart = np.where(np.arange(n) < n // 2, -1, 1) * rng.uniform(1, EDGE, (1000, n))
    arrays |= {f"{HOLE}.random.spread": n * wide.var(1), f"{HOLE}.random.hole": n * apart.var(1)}


def _hole_row(x: Array, covariance: Array) -> list[float]:
    phi, n = np.stack([np.ones_like(x), x], axis=1), len(x)
    dets = np.linalg.det(phi.T @ phi), n * (x**2).sum() - x.sum() ** 2, np.linalg.det(covariance)
    along = variance_at(np.array([0.0, 2.0, 6.0, 12.0]), covariance)
    return [n, n * x.var(), *dets, *np.diag(covariance), *along]


def flatten_prior(results: Results[Any], x: Array) -> None:
    r"""Enter the exact covariance at :math:`\beta = 1` for ever flatter priors, and a flat one."""
    alphas = [10.0**-k for k in range(9)]
    priors: list[Prior] = [*map(NormalPrior.from_precision, alphas), FlatPrior()]
    found, limit = [exact_covariance(x, prior=p, noise=1.0) for p in priors], limit_covariance(x)
    names = [*(f"normal, α = {alpha:.0e}" for alpha in alphas), "flat", "closed form of the limit"]
    table = Table(LIMIT_TITLE, "Prior", columns=LIMIT_COLUMNS)
    for name, covariance in zip(names, [*found, limit], strict=True):
        vertex = -covariance[0, 1] / covariance[1, 1]
        distance = np.linalg.norm(covariance - limit) / np.linalg.norm(limit)
        least = covariance[0, 0] + vertex * covariance[0, 1]
        own = [*covariance[0], covariance[1, 1], distance, vertex, abs(vertex - x.mean()), least]
        table.put(name, dict(zip(LIMIT_COLUMNS, own, strict=True)))
    results.tables.append(table)
    parts = {"x": x, "alpha": np.array([*alphas, 0.0]), "covariance": np.stack(found)}
    results.arrays |= {f"{LIMIT}.{name}": part for name, part in parts.items()}
    results.arrays[f"{LIMIT}.limit"] = limit


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
        f"range of points: det ΦᵀΦ = n Σ(x − mean)² is {hole['squares'] / spread['squares']:.2f} "
        f"times that of {n:.0f} points all over [−3, 3], det Σ "
        f"{_more(hole, spread, 'det_covariance')} and the variance of the slope "
        f"{_more(hole, spread, 'var_slope')}; over {len(random[0]):,} pairs of random inputs the "
        f"ratio is {ratio:.3f} ± {error:.3f} (in expectation (13 n − 1)/(9 (n − 1)) = "
        f"{(13 * n - 1) / (9 * (n - 1)):.3f})."
    )


def _labs(results: Results[Any]) -> str | None:
    if not (rows := _rows(results)):
        return None
    line, hole, filled = (rows[name] for name in ("line", "hole", "filled"))
    widths = [np.ptp(results.arrays[f"{HOLE}.{name}.x"]) for name in ("line", "hole")]
    return (
        f"The labs' two data sets differ in more than the hole: {line['n']:.0f} points on a range "
        f"of {widths[0]:.1f} against {hole['n']:.0f} on {widths[1]:.1f}, variance of the slope "
        f"{line['var_slope']:.4f} against {hole['var_slope']:.4f}. Points added in the hole only "
        f"help (variance of the intercept {_more(filled, hole, 'var_intercept')}); it is moving "
        f"points there from outside that costs."
    )


def _limit(results: Results[Any]) -> str:
    x, distance = results.arrays[f"{LIMIT}.x"], _distances(results)
    n, mean, squares = len(x), float(x.mean()), float(len(x) * x.var())
    first, last, flat = (order_of_magnitude(distance[place]) for place in (0, -2, -1))
    return (
        f"As α → 0 at β = 1 the exact covariance tends to the closed form: from a relative "
        f"distance of {first} at α = 1 to {last} at α = 1e-08, and {flat} with a flat prior. There "
        f"the variance of the function is least at the mean of x, {number(mean, '.3f')}, where it "
        f"is 1/{n} = {1 / n:.3f}, and grows by {1 / squares:.4f} for each squared unit of x."
    )


def _distances(results: Results[Any]) -> Array:
    """How far the covariances are from their limit, the flat prior's last."""
    table = table_of(results, LIMIT_TITLE)
    return np.array([*table.column("distance").values()][:-1] if table else [])


LINE_FINDINGS = (_hole, _labs, _limit)
"""What decides the variance of the line."""


def line_figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the two comparisons, those that were made."""
    if rows := _rows(results):
        yield _hole_figure(results.arrays, rows)
    yield _limit_figure(results)


@house_style()
def _hole_figure(arrays: dict[str, Array], rows: dict[str, dict[str, float]]) -> Figure:
    made, ((left, right),) = style.figure(1, 2, height=3.5)
    x, n = np.linspace(-6, 6, 241), round(rows["hole"]["n"])
    along = {name: variance_at(x, arrays[f"{HOLE}.{name}.covariance"]) for name in DESIGNS}
    for name, label in DESIGNS.items():
        left.plot(x, along[name], label=f"{label} (n = {rows[name]['n']:.0f})", **LOOKS[name])
    mark_training_range(arrays[f"{HOLE}.hole.x"], ax=left)
    left.set(xlabel="x", ylabel="Var f (units of y²)", xlim=(-6, 6))
    left.set(ylim=(0, 1.3 * along["spread"].max()), title="Epistemic variance along x")
    samples = {name: n * arrays[f"{HOLE}.random.{name}"] for name in ("hole", "spread")}
    both = np.concatenate(list(samples.values()))
    for name, values in samples.items():
        bins = list(np.linspace(both.min(), both.max(), 45))
        right.hist(values, bins=bins, color=LOOKS[name]["color"], alpha=0.5)
    right.set(xlabel="det ΦᵀΦ = n Σx² − (Σx)²", ylabel="random inputs per bin")
    right.set_title(f"{len(both) // 2:,} random inputs of {n} points each")
    style.shared_legend(made, [left], columns=2)
    return Figure(
        "hole-or-none",
        f"At equal n and range the hole makes det Σ "
        f"{_more(rows['hole'], rows['spread'], 'det_covariance')}, since det ΦᵀΦ grows with the "
        f"points' distance from their mean",
        "Left, the exact posterior's epistemic variance for four sets of inputs (grey bars: those "
        "beside the hole). Right, the determinant for random inputs of equal number, with the hole "
        "and without.",
        made,
    )


@house_style()
def _limit_figure(results: Results[Any]) -> Figure:
    x, alpha, found, limit = (
        results.arrays[f"{LIMIT}.{name}"] for name in ("x", "alpha", "covariance", "limit")
    )
    distance = _distances(results)
    made, ((left, right),) = style.figure(1, 2, height=3.6)
    _draw_limit(x, found, limit, left)
    right.loglog(alpha[:-1], distance[:-1], "o", color="#0072B2", label="exact posterior")
    first = alpha[:-1] * np.linalg.norm(limit @ limit) / np.linalg.norm(limit)
    right.loglog(alpha[:-1], first, ":", color=style.DATA_COLOR, label="first order: α‖Σ²‖/‖Σ‖")
    right.set(xlabel="prior precision α", ylabel="relative distance to the limit")
    right.set_title("Distance of the covariance")
    style.shared_legend(made, [left, right], columns=4)
    return Figure(
        "flat-prior-limit",
        f"Without a prior Var f is least at the mean of x, {number(x.mean(), '.2f')}, where it is "
        f"1/n = {1 / len(x):.3f}, and grows by {1 / (len(x) * x.var()):.3f} (x − mean)²",
        "Left, the variance of the function at β = 1 for ever flatter priors, with the closed form "
        "of the limit dotted. Right, how far the exact covariance is from the limit, in the "
        f"Frobenius norm; with a flat prior it is {order_of_magnitude(distance[-1])}.",
        made,
    )


def _draw_limit(x: Array, found: Array, limit: Array, ax: Axes) -> None:
    mean, half = float(x.mean()), 1.5 * float(np.ptp(x))
    grid = np.linspace(mean - half, mean + half, 201)
    looks = {"α = 1": "#9ecae1", "α = 0.1": "#6baed6", "α = 0.01": "#3182bd", "flat prior": "black"}
    for (label, color), covariance in zip(looks.items(), found[[0, 1, 2, -1]], strict=True):
        ax.plot(grid, variance_at(grid, covariance), color=color, label=label)
    look: dict[str, Any] = {"color": "#E69F00", "linewidth": 2.6}
    ax.plot(grid, variance_at(grid, limit), ":", label="closed form of the limit", **look)
    ax.plot(mean, 1 / len(x), "^", color=style.DATA_COLOR, zorder=5, label="mean of x, 1/n")
    mark_training_range(x, ax=ax)
    ax.set(xlabel="x", ylabel="Var f (units of y²) at β = 1", ylim=(0, None))
    ax.set(xlim=(grid[0], grid[-1]), title="Variance of the function along x")
