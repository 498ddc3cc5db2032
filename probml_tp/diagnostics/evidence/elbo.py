"""The evidence lower bound, estimated with its standard error."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.diagnostics.evidence.importance import joint_ratios
from probml_tp.posterior import Posterior

__all__ = ["ELBO", "elbo", "elbo_of"]


class ELBO(NamedTuple):
    """An estimate in nats and its Monte Carlo standard error."""

    value: float
    standard_error: float


@checked()
def elbo(
    posterior: Posterior, x: object, y: object, *, num_samples: int = 1000, seed: int | None = None
) -> ELBO:
    r"""Estimate :math:`E_q[\log p(\theta, y \mid x) - \log q(\theta)] \le \log p(y \mid x)`.

    Args:
        posterior: a posterior with a density.
        x: all inputs.
        y: all targets.
        num_samples: draws.
        seed: determines them; default: the posterior's.

    Returns:
        Mean and standard error over the draws, in nats. For the exact posterior every draw gives
        the log evidence, and the error is zero up to rounding.

    Raises:
        ValueError: the guide has no density, a prior is improper, or the data do not fit.

    Example:
        >>> import torch
        >>> from probml_tp import BayesianModel, Exact, Gaussian, NormalPrior, fit
        >>> model = BayesianModel(
        ...     torch.nn.Linear(1, 1).double(), NormalPrior(1.0), Gaussian(scale=0.1)
        ... )
        >>> x = torch.linspace(-1, 1, 20).unsqueeze(-1)
        >>> posterior = fit(model, Exact, (x, 2 * x))
        >>> abs(elbo(posterior, x, 2 * x).value - posterior.guide.log_evidence()) < 1e-8
        True
    """
    return elbo_of(
        joint_ratios(posterior, x, y, what="the ELBO", num_samples=num_samples, seed=seed)
    )


def elbo_of(log_ratios: Tensor) -> ELBO:
    """The bound from log importance ratios ``(S,)`` in nats; its error is NaN for one of them."""
    count = len(log_ratios)
    error = float(log_ratios.std() / count**0.5) if count > 1 else float("nan")
    return ELBO(float(log_ratios.mean()), error)
