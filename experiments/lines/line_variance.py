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

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probml_tp.experiments.lines.kit import weight_moments
from probml_tp.guides import Exact
from probml_tp.harness.experiment import Table
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


def exact_covariance(x: Array, *, prior: Prior, noise: float) -> Array:
    """The covariance of intercept and slope that :class:`~probml_tp.Exact` finds, ``(2, 2)``."""
    inputs = torch.from_numpy(x)[:, None]
    model = linear_regression(LinearBasis(), prior=prior, likelihood=noise)
    data = inputs, torch.zeros(len(x), dtype=torch.float64)
    return weight_moments(fit(model, Exact, data, progress=False))[1]


def limit_covariance(x: Array, *, noise: float = 1.0) -> Array:
    r"""The limit of the covariance as :math:`\alpha \to 0`, in closed form, ``(2, 2)``."""
    n, total, squares = len(x), x.sum(), (x**2).sum()
    adjugate = np.array([[squares, -total], [-total, n]]) + 0.0
    return np.asarray(noise**2 / (n * squares - total**2) * adjugate)


# ------------------------------------------------------------------------------ hole or none


def hole_comparison(
    line: Tensor, hole: Tensor, *, alpha: float, noise: float, seed: int
) -> dict[str, Array]:
    """Posterior variances with and without a hole in the data."""
    rng = np.random.default_rng(derived_seed(seed, HOLE))
    with_hole = hole[:, 0].numpy()
    n = len(with_hole)
    designs = {
        "line": line[:, 0].numpy(),
        "hole": with_hole,
        "spread": rng.uniform(-EDGE, EDGE, n),
        "filled": np.concatenate([with_hole, rng.uniform(-1, 1, n // 2)]),
    }
    prior, arrays = NormalPrior.from_precision(alpha), dict[str, Array]()
    for name, x in designs.items():
        arrays[f"{HOLE}.{name}.x"] = x
        arrays[f"{HOLE}.{name}.covariance"] = exact_covariance(x, prior=prior, noise=noise)
    spread = rng.uniform(-EDGE, EDGE, (RANDOM_DESIGNS, n))
    sides = np.where(np.arange(n) < n // 2, -1, 1)
    apart = sides * rng.uniform(1, EDGE, (RANDOM_DESIGNS, n))
    arrays[f"{HOLE}.random.spread"] = n * spread.var(1)
    arrays[f"{HOLE}.random.hole"] = n * apart.var(1)
    return arrays


def _hole_row(x: Array, covariance: Array) -> dict[str, float]:
    phi = np.stack([np.ones_like(x), x], axis=1)
    at = np.stack([np.ones(len(AT)), np.asarray(AT)], axis=1)
    variances = np.einsum("np,pq,nq->n", at, covariance, at)
    return {
        "n": float(len(x)),
        "squares": float(len(x) * x.var()),
        "det": float(np.linalg.det(phi.T @ phi)),
        "det_closed": float(len(x) * (x**2).sum() - x.sum() ** 2),
        "det_covariance": float(np.linalg.det(covariance)),
        "var_intercept": float(covariance[0, 0]),
        "var_slope": float(covariance[1, 1]),
        **{f"var_at_{at:g}": float(value) for at, value in zip(AT, variances, strict=True)},
    }


def _hole_table(arrays: Mapping[str, Array]) -> Table:
    rows = {
        label: _hole_row(arrays[f"{HOLE}.{name}.x"], arrays[f"{HOLE}.{name}.covariance"])
        for name, label in DESIGNS.items()
    }
    columns = {
        "n": "n",
        "squares": "S = Σ(x − mean)²",
        "det": "det Φᵀ Φ",
        "det_closed": "n Σx² − (Σx)²",
        "det_covariance": "det Σ",
        "var_intercept": "Var w₀",
        "var_slope": "Var w₁",
        **{f"var_at_{at:g}": f"Var f({at:g})" for at in AT},
    }
    title = "Posterior variance with and without a hole (exact posterior; f without noise)"
    return Table(title, "Inputs", rows, columns)


# ------------------------------------------------------------------------ the limit of alpha


def flat_limit(x: Tensor) -> dict[str, Array]:
    r"""The exact covariance at :math:`\beta = 1` for ever flatter priors, and for a flat one."""
    inputs = x[:, 0].numpy()
    priors: list[Prior] = [NormalPrior.from_precision(alpha) for alpha in ALPHAS]
    priors.append(FlatPrior())
    found = [exact_covariance(inputs, prior=prior, noise=1.0) for prior in priors]
    return {
        f"{LIMIT}.x": inputs,
        f"{LIMIT}.alpha": np.array([*ALPHAS, 0.0]),
        f"{LIMIT}.covariance": np.stack(found),
        f"{LIMIT}.limit": limit_covariance(inputs),
    }


def _limit_row(covariance: Array, limit: Array, mean: float) -> dict[str, float]:
    vertex = -covariance[0, 1] / covariance[1, 1]
    return {
        "var_intercept": float(covariance[0, 0]),
        "covariance": float(covariance[0, 1]),
        "var_slope": float(covariance[1, 1]),
        "distance": float(np.linalg.norm(covariance - limit) / np.linalg.norm(limit)),
        "vertex": float(vertex),
        "off_mean": float(abs(vertex - mean)),
        "least": float(covariance[0, 0] + vertex * covariance[0, 1]),
    }


def _limit_table(arrays: Mapping[str, Array]) -> Table:
    alpha, found, limit = (arrays[f"{LIMIT}.{name}"] for name in ("alpha", "covariance", "limit"))
    mean = float(arrays[f"{LIMIT}.x"].mean())
    names = [f"normal, α = {a:.0e}" if a else "flat" for a in alpha]
    rows = {name: _limit_row(one, limit, mean) for name, one in zip(names, found, strict=True)} | {
        "closed form of the limit": _limit_row(limit, limit, mean)
    }
    columns = {
        "var_intercept": "Var w₀",
        "covariance": "Cov(w₀, w₁)",
        "var_slope": "Var w₁ = growth of Var f per (units of x)²",
        "distance": "Relative distance to the limit",
        "vertex": "Var f is least at x =",
        "off_mean": "Off the mean of x by",
        "least": "Least Var f",
    }
    return Table("The limit α → 0 at β = 1 (exact posterior)", "Prior", rows, columns)


def line_tables(arrays: Mapping[str, Any]) -> list[Table]:
    """The tables of both comparisons, of those that were made."""
    made = {f"{HOLE}.hole.x": _hole_table, f"{LIMIT}.x": _limit_table}
    return [table(arrays) for key, table in made.items() if key in arrays]
