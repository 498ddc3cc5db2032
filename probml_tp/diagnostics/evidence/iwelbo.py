r"""Importance weighted bounds on the log evidence, and the evidence itself."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import positive_integer
from probml_tp.diagnostics.evidence.importance import joint_ratios
from probml_tp.diagnostics.psis import smoothed_weights
from probml_tp.posterior import Posterior

__all__ = ["IWELBO", "LogEvidence", "iwelbo", "iwelbo_of", "log_mean_exp"]


class LogEvidence(NamedTuple):
    """An estimate of the log evidence in nats and its Monte Carlo standard error."""

    value: float
    standard_error: float


class IWELBO(NamedTuple):
    """A bound from ``K`` draws at a time, and the estimate from all of them.

    Args:
        value: the bound, in nats.
        standard_error: its Monte Carlo standard error.
        log_evidence: the estimate of the log evidence, with its own.
        pareto_k: k-hat of the weights: above 0.7 neither standard error can be believed, and both
            numbers are likely too low.
    """

    value: float
    standard_error: float
    log_evidence: LogEvidence
    pareto_k: float


@checked()
def iwelbo(
    posterior: Posterior,
    x: object,
    y: object,
    *,
    draws: int = 50,
    num_samples: int = 1000,
    seed: int | None = None,
) -> IWELBO:
    r"""Estimate the importance weighted bound (Burda, Grosse & Salakhutdinov 2016).

    .. math:: \mathrm{ELBO} = \mathcal L_1 \le \mathcal L_K
              = E_{\theta_{1:K} \sim q}\Big[\log\frac1K\sum_{k=1}^K
              \frac{p(\theta_k, y \mid x)}{q(\theta_k)}\Big] \le \log p(y \mid x)

    The ``S`` draws make ``S / K`` independent groups, over which the bound is averaged. All of them
    together give the importance sampling estimate of the log evidence,
    :math:`\log\frac1S\sum_s r_s`, with the standard error
    :math:`\mathrm{sd}(r) / (\sqrt S\,\bar r)` by the delta method. The joint density is that of the
    net itself, for linearised Laplace too, as in :func:`elbo`.

    Args:
        posterior: a posterior with a density.
        x: all inputs.
        y: all targets.
        draws: ``K``, at most ``num_samples``.
        num_samples: ``S``; groups that are not full are left out of the bound.
        seed: determines the draws, which are those of :func:`elbo`; default: the posterior's.

    Returns:
        Bound and estimate with standard errors, in nats. That of the bound is NaN for a single
        group.

    Raises:
        ValueError: the guide has no density, a prior is improper, there are fewer draws than one
            group takes, or the data do not fit.

    Example:
        >>> import torch
        >>> from probml_tp import BayesianModel, Exact, Gaussian, NormalPrior, fit
        >>> model = BayesianModel(
        ...     torch.nn.Linear(1, 1).double(), NormalPrior(1.0), Gaussian(scale=0.1)
        ... )
        >>> x = torch.linspace(-1, 1, 20).unsqueeze(-1)
        >>> posterior = fit(model, Exact, (x, 2 * x))
        >>> abs(iwelbo(posterior, x, 2 * x).value - posterior.guide.log_evidence()) < 1e-8
        True
    """
    K, S = positive_integer("draws", draws), positive_integer("num_samples", num_samples)
    if K > S:
        raise ValueError(
            f"draws are taken from num_samples, so that there can be no more of them; got "
            f"draws={K} and num_samples={S}. Raise num_samples."
        )
    return iwelbo_of(
        joint_ratios(
            posterior, x, y, what="the importance weighted bound", num_samples=S, seed=seed
        ),
        K,
    )


def iwelbo_of(log_ratios: Tensor, draws: int) -> IWELBO:
    """The bound and the estimate from log importance ratios ``(S,)``, ``draws`` at a time."""
    K, S = draws, len(log_ratios)
    bounds = log_ratios[: S // K * K].reshape(-1, K).logsumexp(-1) - math.log(K)
    error = float(bounds.std()) / len(bounds) ** 0.5 if len(bounds) > 1 else math.nan
    k = float(smoothed_weights(log_ratios.numpy())[1])
    return IWELBO(float(bounds.mean()), error, log_mean_exp(log_ratios), k)


def log_mean_exp(log_weights: Tensor) -> LogEvidence:
    r""":math:`\log\bar w` of independent weights, with its standard error by the delta method.

    Args:
        log_weights: ``(S,)``.

    Returns:
        The estimate; its error is :math:`\mathrm{sd}(w)/(\sqrt S\,\bar w)`, NaN for one weight.

    Example:
        >>> import torch
        >>> found = log_mean_exp(torch.tensor([3.0, 1.0, 2.0]).log())
        >>> round(math.exp(found.value), 3), round(found.standard_error * 3**0.5, 3)
        (2.0, 0.5)
    """
    S, log_weights = len(log_weights), log_weights.double()
    value = float(log_weights.logsumexp(0)) - math.log(S)
    relative = (log_weights - value).exp()
    return LogEvidence(value, float(relative.std()) / S**0.5 if S > 1 else math.nan)
