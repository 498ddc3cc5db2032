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

from typing import Any

import numpy as np
import torch
from torch import Tensor

from probml_tp.experiments.lines.kit import weight_moments
from probml_tp.guides import Exact
from probml_tp.harness.experiment import Results, Table
from probml_tp.inference import fit
from probml_tp.kit.common import Array, derived_seed
from probml_tp.models import LinearBasis, linear_regression
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


# ------------------------------------------------------------------------------ hole or none


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
        "Posterior variance with and without a hole (exact posterior; f without noise)",
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


# ------------------------------------------------------------------------ the limit of alpha


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
