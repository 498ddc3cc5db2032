r"""Which model to choose: the evidence, PSIS-LOO and held-out data on the same regressions.

For :math:`y = \Phi w + \varepsilon`, :math:`w \sim \mathcal N(0, \alpha^{-1}I)`,
:math:`\varepsilon \sim \mathcal N(0, \beta^{-1}I)` all is in closed form. With
:math:`C = \beta^{-1}I + \alpha^{-1}\Phi\Phi^\top`

.. math:: \log p(y \mid \alpha, \beta) = -\tfrac12\big(n\log 2\pi + \log\det C + y^\top C^{-1}y\big)

(Bishop 2006, eq. 3.86), and the predictive of a point left out is normal with mean
:math:`y_i - [C^{-1}y]_i / [C^{-1}]_{ii}` and variance :math:`1/[C^{-1}]_{ii}` (Rasmussen & Williams
2006, eqs. 5.10-5.12). Every criterion is in nats a point, lower is better.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.stats import norm

from probml_tp.experiments.lines.kit import Data, to_numpy
from probml_tp.kit.common import Array
from probml_tp.models import Basis
from probml_tp.quiet_arviz import az

CRITERIA = ("evidence", "psis-loo", "loo", "held-out")
"""Negative log evidence, PSIS-LOO, exact LOO and NLL on fresh data, all in nats a point."""


@dataclass(frozen=True)
class Candidate:
    """A model to choose or not."""

    value: float
    basis: Basis
    alpha: float
    beta: float


@dataclass(frozen=True)
class ConjugateRegression:
    """Linear regression on features, for any alpha and beta by one singular value decomposition."""

    features: Array
    y: Array

    @classmethod
    def of(cls, basis: Basis, data: Data) -> ConjugateRegression:
        """The regression on a basis."""
        return cls(to_numpy(basis(data[0])), to_numpy(data[1]))

    @cached_property
    def _svd(self) -> tuple[Array, Array, Array]:
        u, s, v = np.linalg.svd(self.features, full_matrices=True)
        return u, s, v.T

    def _eigenvalues(self, alpha: Any, beta: Any, *, size: int) -> tuple[Array, Array]:
        """Squared singular values padded to ``size``, and alpha, beta that go with them."""
        s = self._svd[1]
        squares = np.pad(s**2, (0, size - len(s)))
        return squares, np.stack(np.broadcast_arrays(alpha, beta))[..., None]

    def log_evidence(self, alpha: Any, beta: Any) -> Array:
        """The log evidence in nats."""
        u = self._svd[0]
        squares, (a, b) = self._eigenvalues(alpha, beta, size=len(self.y))
        variance = 1 / b + squares / a
        terms = np.log(2 * np.pi * variance) + (u.T @ self.y) ** 2 / variance
        return np.asarray(-0.5 * terms.sum(-1))

    def log_loo(self, alpha: float, beta: float) -> Array:
        """The log density of each target, predicted from all others, ``(n,)``."""
        u = self._svd[0]
        squares, (a, b) = self._eigenvalues(alpha, beta, size=len(self.y))
        inverse = 1 / (1 / b + squares / a)
        precision = (u**2) @ inverse
        off = u @ (inverse * (u.T @ self.y)) / precision
        return np.asarray(norm.logpdf(off, scale=precision**-0.5))

    def _weights(self, alpha: float, beta: float) -> tuple[Array, Array]:
        """Mean and standard deviation of the weights in the right singular vectors, ``(p,)``."""
        u, s, v = self._svd
        squares, (a, b) = self._eigenvalues(alpha, beta, size=len(v))
        precision = a + b * squares
        mean = np.pad(beta * s * (u.T @ self.y)[: len(s)], (0, len(v) - len(s)))
        return mean / precision, precision**-0.5

    def log_predictive(self, features: Array, y: Array, alpha: float, beta: float) -> Array:
        """The log density of fresh targets, ``(m,)``."""
        mean, sd = self._weights(alpha, beta)
        rotated = features @ self._svd[2]
        variance = (rotated**2) @ sd**2 + 1 / beta
        return np.asarray(norm.logpdf(y, rotated @ mean, variance**0.5))

    def record(self, alpha: float, beta: float, *, draws: int, seed: int) -> az.InferenceData:
        """Draws of the exact posterior with the log likelihood of each target."""
        mean, sd = self._weights(alpha, beta)
        noise = np.random.default_rng(seed).standard_normal((draws, len(mean)))
        weights = (mean + sd * noise) @ self._svd[2].T
        density = norm.logpdf(self.y, weights @ self.features.T, beta**-0.5)
        values: Any = {"weight": weights[None]}, {"y": density[None]}
        record: az.InferenceData = az.from_dict(posterior=values[0], log_likelihood=values[1])
        return record


def psis_loo(record: az.InferenceData) -> Any:
    """ArviZ's PSIS-LOO, pointwise; Pareto k-hats are returned rather than warned of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Estimated shape parameter of Pareto")
        return az.loo(record, pointwise=True)  # type: ignore[no-untyped-call]


def type_two(regression: ConjugateRegression, *, start: tuple[float, float]) -> tuple[float, float]:
    """Type-II maximum likelihood: the alpha and beta of largest evidence."""
    found = minimize(
        lambda logs: -float(regression.log_evidence(*np.exp(logs))),
        np.log(start),
        method="Nelder-Mead",
        options={"xatol": 1e-8, "fatol": 1e-10, "maxiter": 2000},
    )
    alpha, beta = np.exp(found.x)
    return float(alpha), float(beta)


@dataclass(frozen=True)
class Judged:
    """What the criteria say of the candidates of one family."""

    values: Array
    criteria: Array
    k_hat: Array
    loo: Sequence[Any]


def judge(
    candidates: Sequence[Candidate], data: Data, test: Data, *, draws: int, seed: int
) -> Judged:
    """Compute every criterion of every candidate."""
    columns, loos = [], []
    for one in candidates:
        regression, at = ConjugateRegression.of(one.basis, data), (one.alpha, one.beta)
        loos.append(psis_loo(regression.record(*at, draws=draws, seed=seed)))
        fresh = regression.log_predictive(to_numpy(one.basis(test[0])), to_numpy(test[1]), *at)
        n = len(regression.y)
        evidence, psis = float(regression.log_evidence(*at)) / n, float(loos[-1].elpd_loo) / n
        columns.append([evidence, psis, regression.log_loo(*at).mean(), fresh.mean()])
    k_hat = np.array([float(loo.pareto_k.max()) for loo in loos])
    return Judged(np.array([one.value for one in candidates]), -np.array(columns).T, k_hat, loos)


def plane(basis: Basis, data: Data, test: Data, *, alphas: Array, betas: Array) -> dict[str, Array]:
    """The criteria that need no draws, over alphas and betas."""
    regression = ConjugateRegression.of(basis, data)
    features, y = to_numpy(basis(test[0])), to_numpy(test[1])
    pairs = [(alpha, beta) for beta in betas for alpha in alphas]
    densities = {
        "evidence": [regression.log_evidence(*at) / len(regression.y) for at in pairs],
        "loo": [regression.log_loo(*at).mean() for at in pairs],
        "held-out": [regression.log_predictive(features, y, *at).mean() for at in pairs],
    }
    shape = len(betas), len(alphas)
    return {name: -np.reshape(values, shape) for name, values in densities.items()}
