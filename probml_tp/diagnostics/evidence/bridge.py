r"""Bridge sampling: the log evidence from a chain."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor
from torch.distributions import MultivariateNormal

from probml_tp.batching import OverRows
from probml_tp.checks.arguments import checked
from probml_tp.diagnostics.evidence.importance import check_proper
from probml_tp.diagnostics.evidence.iwelbo import LogEvidence
from probml_tp.empirical import Empirical
from probml_tp.model import BayesianModel
from probml_tp.posterior import Posterior
from probml_tp.quiet_arviz import az
from probml_tp.streams import Stream, seeded, substream

__all__ = ["NoBridgeError", "bridge_sampling", "log_joints"]

Array = np.ndarray[Any, Any]

CHUNK = 50
"""Draws at a time."""

REACH = 50.0
"""How far beyond all ratios the root is sought, in nats."""


class NoBridgeError(ValueError):
    """The chain is too short, or too far from a normal, for bridge sampling."""


@checked()
def bridge_sampling(
    posterior: Posterior, x: object, y: object, *, seed: int | None = None
) -> LogEvidence:
    r"""Estimate the log evidence from a chain (Meng & Wong 1996; Gronau et al. 2017).

    In unconstrained space, with :math:`\tilde p(u) = p(\theta(u), y \mid x)\,
    |\partial\theta/\partial u|`. A normal ``g`` is fitted to the first half of each chain; of the
    second halves' :math:`N_1` draws :math:`u_i` and as many draws :math:`v_j \sim g`, the optimal
    bridge solves

    .. math:: r = \frac{\frac1{N_2}\sum_j \frac{l(v_j)}{s_1 l(v_j) + s_2 r}}
                       {\frac1{N_1}\sum_i \frac1{s_1 l(u_i) + s_2 r}},
              \qquad l = \tilde p / g,

    whose root is unique, as the right-hand side over ``r`` falls with ``r``; with
    :math:`s_1 : s_2` the effective number of draws of the chain to
    :math:`N_2`. The standard error is the root of the relative mean squared error
    (Frühwirth-Schnatter 2004; Gronau et al. 2017, equation 16), with :math:`p = \tilde p / r`,

    .. math:: \frac{\mathrm{Var}_g(f_1)}{N_2\,E_g(f_1)^2}
              + \frac{\mathrm{Var}_p(f_2)}{N_\text{eff}\,E_p(f_2)^2}, \quad
              f_1 = \frac p{s_1 p + s_2 g},\ f_2 = \frac g{s_1 p + s_2 g},

    where :math:`N_\text{eff}`, that of :math:`f_2` by ArviZ, stands for autocorrelation. It does
    not know what the chains have not visited, nor does it cover the choice of ``g``.

    Args:
        posterior: a chain, such as of :func:`sample_nuts`. Both halves should have many times more
            effective draws than the model has parameters.
        x: all inputs it was fitted to.
        y: all targets.
        seed: determines the draws of ``g``; default: the posterior's.

    Returns:
        The estimate and its standard error, in nats.

    Raises:
        ValueError: the posterior is no chain, a prior is improper, or the data do not fit.
        NoBridgeError: there are fewer than ``P + 2`` draws in the first halves, the draws do not
            vary in every direction, or the normal misses the posterior altogether.

    Example:
        >>> from probml_tp import BayesianModel, Exact, Gaussian, NormalPrior, fit, sample_nuts
        >>> model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.1))
        >>> x = torch.linspace(-1, 1, 20).unsqueeze(-1)
        >>> chain = sample_nuts(model, (x, x), draws=200, warmup=100, chains=1)
        >>> estimate = bridge_sampling(chain, x, x)
        >>> exact = fit(model, Exact, (x, x)).guide.log_evidence()
        >>> abs(estimate.value - exact) < 5 * estimate.standard_error
        True
    """
    guide, model = posterior.guide, posterior.model
    if not isinstance(guide, Empirical):
        raise ValueError(
            f"bridge sampling needs draws of the posterior itself; the {posterior.name} guide is "
            f"an approximation. Use sample_nuts, or iwelbo for this one."
        )
    check_proper(model, "bridge sampling")
    inputs, targets = model.check_data(x, y)
    u = model.layout.ravel(model.unconstrain(guide.chains))
    half = u.shape[1] // 2
    g = _proposal(u[:, :half].flatten(0, 1).double())
    second = u[:, half:].double()
    with seeded(substream(posterior.seed if seed is None else seed, Stream.BRIDGE), u.device):
        v = g.sample((second.shape[0] * second.shape[1],))

    def log_l(draws: Tensor) -> Array:
        joint = log_joints(model, draws.to(u), inputs, targets)
        values: Array = (joint.double() - g.log_prob(draws)).cpu().numpy()
        return values

    l1, l2 = log_l(second.flatten(0, 1)), log_l(v)
    return _bridge(l1.reshape(second.shape[:2]), l2)


@torch.no_grad()
def log_joints(model: BayesianModel, flat: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The log joint of many unconstrained vectors at once.

    Args:
        model: the model.
        flat: ``(S, P)``.
        x: checked inputs.
        y: checked targets.

    Returns:
        ``(S,)`` in nats, :meth:`BayesianModel.log_joint_flat` of each.
    """
    joint: Tensor = OverRows(lambda u: model.log_joint_flat(u, x, y), chunk_size=CHUNK)(flat)
    return joint


def _proposal(draws: Tensor) -> MultivariateNormal:
    """The normal with the mean and covariance of draws ``(S, P)``."""
    S, P = draws.shape
    if S < P + 2:
        raise NoBridgeError(
            f"bridge sampling fits a normal to the first half of the draws and needs at least "
            f"{P + 2} of them for {P} parameters; got {S}. Run longer chains."
        )
    covariance = torch.cov(draws.mT).reshape(P, P)
    tril, failed = torch.linalg.cholesky_ex(covariance)
    if int(failed):
        raise NoBridgeError(
            f"bridge sampling needs draws that vary in every direction; the {S} draws of the first "
            f"half do not. Run longer chains."
        )
    return MultivariateNormal(draws.mean(0), scale_tril=tril)


def _bridge(l1: Array, l2: Array) -> LogEvidence:
    r"""The estimate from :math:`\log\tilde p/g` of the chain ``(chains, n)`` and of ``g``."""
    ess = float(az.ess(l1, method="mean"))  # type: ignore[no-untyped-call]
    n1, n2 = min(ess, l1.size) if np.isfinite(ess) else l1.size, len(l2)
    log_s1, log_s2 = np.log(n1 / (n1 + n2)), np.log(n2 / (n1 + n2))
    if not np.isfinite(l2).any():
        raise NoBridgeError(
            f"the bridge needs draws of the normal where the posterior has mass; all {n2} of them "
            f"have a density of 0. Run longer chains."
        )

    def terms(log_r: float) -> tuple[Array, Array]:
        top = l2 - np.logaddexp(log_s1 + l2, log_s2 + log_r)
        return top, -np.logaddexp(log_s1 + l1, log_s2 + log_r)

    def excess(log_r: float) -> float:
        top, bottom = terms(log_r)
        return _log_mean(top) - _log_mean(bottom) - log_r

    finite = np.concatenate([l1.ravel(), l2[np.isfinite(l2)]])
    log_r = float(brentq(excess, finite.min() - REACH, finite.max() + REACH, xtol=1e-10))
    top, bottom = terms(log_r)
    f1 = np.exp(top - _log_mean(top))
    f2 = np.exp(bottom - _log_mean(bottom))
    found = float(az.ess(f2, method="mean"))  # type: ignore[no-untyped-call]
    effective = min(found, f2.size) if np.isfinite(found) else f2.size
    return LogEvidence(log_r, float((f1.var() / n2 + f2.var() / effective) ** 0.5))


def _log_mean(values: Array) -> float:
    return float(np.logaddexp.reduce(values, axis=None) - np.log(values.size))
