"""Moments of the classical posteriors without Markov chains, by closed forms and quadrature.

Each function returns for every quantity its mean and standard deviation, flattened under the names
of the reference file. Where a normal distribution is left over given the scales, it is integrated
in closed form; the grids are fine enough that halving them changes nothing in four digits.
Logistic regression takes importance sampling, of known standard error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy import optimize, stats

from probml_tp.models import breast_cancer as classics_cancer
from probml_tp.models.curves import (
    DUGONG_AGES,
    DUGONG_LENGTHS,
    GP_JITTER,
    GP_X,
    GP_Y,
)
from probml_tp.models.hierarchical import RAT_DAYS, RAT_WEIGHTS, SCHOOLS_SIGMA, SCHOOLS_Y

Array = np.ndarray
Moments = dict[str, tuple[float, ...]]
"""Mean and standard deviation by quantity; their standard errors follow where there are any."""


def named(name: str, mean: Array, variance: Array) -> Iterator[tuple[str, tuple[float, float]]]:
    """The moments of a scalar under its name, of a vector as ``name[0]``, ``name[1]``, ..."""
    mean, sd = np.asarray(mean, float), np.sqrt(variance)
    if mean.ndim == 0:
        yield name, (float(mean), float(sd))
        return
    for i in range(len(mean)):
        yield f"{name}[{i}]", (float(mean[i]), float(sd[i]))


def mix(weights: Array, **conditional: tuple[Array, Array]) -> Moments:
    """Moments of a mixture, ``weights`` ``(K,)``, of means and variances ``(K, ...)``."""
    found: Moments = {}
    for name, (mean, variance) in conditional.items():
        total = np.tensordot(weights, mean, 1)
        spread = np.tensordot(weights, variance + (mean - total) ** 2, 1)
        found |= dict(named(name, total, spread))
    return found


def normalized(log_weights: Array) -> Array:
    """Weights that add up to 1."""
    weights = np.exp(log_weights - log_weights.max())
    return weights / weights.sum()


def known(values: Array) -> tuple[Array, Array]:
    """A quantity that has no spread given the grid point."""
    return values, np.zeros_like(values)


def grid(*axes: Array) -> list[Array]:
    """All points of a product of axes, each coordinate as a vector."""
    return [axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")]


def conjugate(
    design: Array, y: Array, noise: float, mean: Array, scale: Array
) -> tuple[Array, Array, float]:
    """Mean, covariance and log evidence of normal linear regression with a diagonal prior."""
    precision = np.diag(scale**-2.0) + design.T @ design / noise**2
    covariance = np.linalg.inv(precision)
    centre = covariance @ (mean / scale**2 + design.T @ y / noise**2)
    marginal = noise**2 * np.eye(len(y)) + (design * scale**2) @ design.T
    evidence = stats.multivariate_normal(design @ mean, marginal).logpdf(y)
    return centre, covariance, float(evidence)


def dugongs_line() -> Moments:
    """Bayesian linear regression in closed form."""
    design = np.stack([np.ones(len(DUGONG_AGES)), np.log(DUGONG_AGES)], 1)
    scale = np.full(2, 2.0)
    centre, covariance, _ = conjugate(design, np.array(DUGONG_LENGTHS), 0.09, np.zeros(2), scale)
    moments = zip(("intercept", "slope"), centre, np.diag(covariance), strict=True)
    return dict(item for name, m, v in moments for item in named(name, m, v))


def funnel() -> Moments:
    """``v`` is normal; ``log|z|`` is ``v / 2`` plus the log of a half-normal variable."""
    euler, zeta = np.euler_gamma, np.pi**2 / 8
    mean, variance = -(euler + np.log(2)) / 2, 9 / 4 + zeta
    found = dict(named("v", np.array(0.0), np.array(9.0)))
    return found | dict(named("log_abs_z", np.full(9, mean), np.full(9, variance)))


def eight_schools(points: int = 4000) -> Moments:
    """Quadrature over ``log tau``: given it, everything is normal."""
    u = np.linspace(-12, 7, points)
    tau = np.exp(u)
    y, sigma = np.array(SCHOOLS_Y), np.array(SCHOOLS_SIGMA)
    variance = sigma**2 + tau[:, None] ** 2
    precision = 1 / 25 + (1 / variance).sum(1)
    mu, mu_variance = (y / variance).sum(1) / precision, 1 / precision
    log_prior = stats.halfcauchy(0, 5).logpdf(tau) + u
    log_likelihood = -0.5 * (
        np.log(variance).sum(1) + (y**2 / variance).sum(1) - mu**2 * precision + np.log(precision)
    )
    shrink = sigma**2 / variance  # theta = (1 - shrink) y + shrink mu + noise, given mu
    theta = (1 - shrink) * y + shrink * mu[:, None]
    theta_variance = (1 - shrink) * sigma**2 + shrink**2 * mu_variance[:, None]
    return mix(
        normalized(log_prior + log_likelihood),
        mu=(mu, mu_variance), tau=known(tau), log_tau=known(u), theta=(theta, theta_variance),
    )  # fmt: skip


def dugongs(points: int = 120) -> Moments:
    """Quadrature over the decay and the log noise: given them, regression is conjugate."""
    decays, us = grid(
        (np.arange(points) + 0.5) / points / 2 + 0.5, np.linspace(-3.6, -0.8, points // 3)
    )
    y, ages = np.array(DUGONG_LENGTHS), np.array(DUGONG_AGES)
    prior_mean, prior_scale = np.array([2.5, 1.0]), np.ones(2)
    log_weights, means, variances = [], [], []
    for decay, u in zip(decays, us, strict=True):
        design = np.stack([np.ones(len(ages)), -(decay**ages)], 1)
        centre, covariance, evidence = conjugate(design, y, np.exp(u), prior_mean, prior_scale)
        log_weights.append(evidence + stats.halfnorm.logpdf(np.exp(u), scale=0.5) + u)
        means.append(centre)
        variances.append(np.diag(covariance))
    mean, variance = np.array(means), np.array(variances)
    return mix(
        normalized(np.array(log_weights)),
        alpha=(mean[:, 0], variance[:, 0]), beta=(mean[:, 1], variance[:, 1]),
        decay=known(decays), noise_scale=known(np.exp(us)),
    )  # fmt: skip


def _level(
    estimate: Array, noise: Array, tau: Array, prior: tuple[float, float]
) -> tuple[Array, Array, Array, tuple[Array, Array]]:
    """Log evidence, the mean's moments and the first three groups' of a normal hierarchy.

    ``estimate`` of each of ``J`` groups has variance ``noise``, ``(K,)``; groups have standard
    deviation ``tau`` about a mean with a normal prior.
    """
    total, count = noise + tau**2, len(estimate)
    precision = 1 / prior[1] ** 2 + count / total
    mean = (prior[0] / prior[1] ** 2 + estimate.sum() / total) / precision
    squares = prior[0] ** 2 / prior[1] ** 2 + (estimate**2).sum() / total - mean**2 * precision
    evidence = -0.5 * (count * np.log(total) + np.log(precision) + squares)
    shrink = (noise / total)[:, None]
    groups = (1 - shrink) * estimate[:3] + shrink * mean[:, None]
    spread = (tau**2 * noise / total)[:, None] + shrink**2 / precision[:, None]
    return evidence, mean, 1 / precision, (groups, np.broadcast_to(spread, groups.shape))


def rats(points: int = 90) -> Moments:
    """Quadrature over three log scales: the two coefficients of a rat are orthogonal."""
    u, v, w = grid(
        np.linspace(np.log(7), np.log(32), points),
        np.linspace(np.log(0.2), np.log(1.3), points),
        np.linspace(np.log(4.2), np.log(9.5), points),
    )
    tau_a, tau_b, noise = np.exp(u), np.exp(v), np.exp(w)
    y, day = np.array(RAT_WEIGHTS, float), np.array(RAT_DAYS) - 22
    a, b = y.mean(1), y @ day / (day**2).sum()
    rest = ((y - a[:, None] - b[:, None] * day) ** 2).sum()
    log_a, mu_a, var_a, alpha = _level(a, noise**2 / 5, tau_a, (240.0, 50.0))
    log_b, mu_b, var_b, beta = _level(b, noise**2 / (day**2).sum(), tau_b, (6.0, 5.0))
    log_weights = log_a + log_b - 0.5 * rest / noise**2 - 3 * len(y) * w + u + v + w
    log_weights += stats.halfnorm.logpdf(tau_a, scale=30) + stats.halfnorm.logpdf(tau_b, scale=2)
    log_weights += stats.halfnorm.logpdf(noise, scale=20)
    return mix(
        normalized(log_weights),
        mu_alpha=(mu_a, var_a), tau_alpha=known(tau_a), mu_beta=(mu_b, var_b),
        tau_beta=known(tau_b), noise_scale=known(noise), alpha=alpha, beta=beta,
        newborn=(mu_a - 22 * mu_b, var_a + 22**2 * var_b),
    )  # fmt: skip


def gaussian_process(points: int = 60) -> Moments:
    """Quadrature over three log scales: given them, the function is normal."""
    rho_axis = np.linspace(np.log(2.2), np.log(15), points)
    u, v = grid(np.linspace(-9, np.log(9), 2 * points), np.linspace(-7, np.log(5), 2 * points))
    alpha, noise = np.exp(u), np.exp(v)
    x, y = torch.tensor(GP_X, dtype=torch.float64), np.array(GP_Y)
    squares = ((x[:, None] - x) ** 2).numpy()
    log_weights, rhos, means, variances = [], [], [], []
    for r in rho_axis:
        kernel = np.exp(-0.5 * squares / np.exp(2 * r)) + GP_JITTER * np.eye(len(y))
        values, vectors = np.linalg.eigh(kernel)
        power = alpha[:, None] ** 2 * values
        total = power + noise[:, None] ** 2
        projected = vectors.T @ y
        log_likelihood = -0.5 * (np.log(total) + projected**2 / total).sum(1)
        log_prior = stats.gamma(25, scale=1 / 4).logpdf(np.exp(r)) + r + u + v
        log_prior = log_prior + stats.halfnorm.logpdf(alpha, scale=2) + stats.halfnorm.logpdf(noise)
        log_weights.append(log_likelihood + log_prior)
        rhos.append(np.full(len(u), np.exp(r)))
        means.append((power / total * projected) @ vectors.T)
        variances.append((power * noise[:, None] ** 2 / total) @ (vectors.T**2))
    count = len(rho_axis)
    return mix(
        normalized(np.concatenate(log_weights)),
        rho=known(np.concatenate(rhos)), alpha=known(np.tile(alpha, count)),
        noise_scale=known(np.tile(noise, count)),
        f=(np.concatenate(means), np.concatenate(variances)),
    )  # fmt: skip


def breast_cancer(draws: int = 300_000, chunk: int = 10_000) -> Moments:
    """Importance sampling from a Student-t about the mode, the curvature's inverse its scale."""
    data = classics_cancer()
    x, y = data.x.numpy(), data.y.numpy()
    design = np.concatenate([x, np.ones((len(x), 1))], 1)
    signed = (2 * y - 1)[:, None] * design

    def log_joint(w: Array) -> Array:
        return -np.logaddexp(0, -w @ signed.T).sum(-1) - 0.5 * (w**2).sum(-1) / 2.5**2

    mode = optimize.minimize(lambda w: -log_joint(w), np.zeros(5), tol=1e-10).x
    p = 1 / (1 + np.exp(-design @ mode))
    precision = (design * (p * (1 - p))[:, None]).T @ design + np.eye(5) / 2.5**2
    proposal = stats.multivariate_t(mode, np.linalg.inv(precision), df=10, seed=0)
    w = proposal.rvs(draws)
    parts = np.array_split(w, draws // chunk)
    weights = normalized(np.concatenate([log_joint(part) for part in parts]) - proposal.logpdf(w))
    mean = weights @ w
    variance = weights @ (w - mean) ** 2
    sd, error = np.sqrt(variance), weights[:, None] * (w - mean)
    mcse_mean = np.sqrt((error**2).sum(0))
    spread = weights[:, None] * ((w - mean) ** 2 - variance)
    mcse_sd = np.sqrt((spread**2).sum(0)) / (2 * sd)
    names = [*(f"weight[0, {i}]" for i in range(4)), "bias[0]"]
    rows = zip(mean, sd, mcse_mean, mcse_sd, strict=True)
    return {n: tuple(float(v) for v in row) for n, row in zip(names, rows, strict=True)}


EXACT: dict[str, tuple[str, Callable[[], Moments]]] = {
    "dugongs-line": ("closed form", dugongs_line),
    "breast-cancer": ("importance sampling", breast_cancer),
    "dugongs": ("quadrature", dugongs),
    "rats": ("quadrature", rats),
    "gaussian-process": ("quadrature", gaussian_process),
    "eight-schools-noncentered": ("quadrature", eight_schools),
    "eight-schools-centered": ("quadrature", eight_schools),
    "funnel": ("closed form", funnel),
}
