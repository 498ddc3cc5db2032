"""The evidence lower bound, estimated with its standard error."""

from __future__ import annotations

from typing import NamedTuple

import torch

from probml_tp.evaluate import draw_batches
from probml_tp.guide import check_num_samples
from probml_tp.posterior import Posterior

__all__ = ["ELBO", "elbo"]


class ELBO(NamedTuple):
    """An estimate in nats and its Monte Carlo standard error."""

    value: float
    standard_error: float


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
        >>> from probml_tp import BayesianModel, Exact, Gaussian, NormalPrior, fit
        >>> model = BayesianModel(
        ...     torch.nn.Linear(1, 1).double(), NormalPrior(1.0), Gaussian(scale=0.1)
        ... )
        >>> x = torch.linspace(-1, 1, 20).unsqueeze(-1)
        >>> posterior = fit(model, Exact, (x, 2 * x))
        >>> abs(elbo(posterior, x, 2 * x).value - posterior.guide.log_evidence()) < 1e-8
        True
    """
    guide, model = posterior.guide, posterior.model
    if guide.no_density:
        raise ValueError(f"the ELBO needs a density; {guide.no_density}. Use another guide.")
    if not all(site.is_proper for site in model.sites.values()):
        raise ValueError(
            "the ELBO needs a proper prior; a flat one has an arbitrary constant. Use NormalPrior."
        )
    inputs, targets = model.check_data(x, y)
    values = torch.zeros(check_num_samples(num_samples), dtype=torch.float64, device=inputs.device)
    chosen = posterior.seed if seed is None else seed
    for batch in draw_batches(guide, inputs, num_samples=num_samples, seed=chosen, own_net=True):
        log_likelihood = model.likelihood.log_prob(
            batch.outputs, targets[batch.points], batch.params
        )
        values[batch.draws] += log_likelihood.double().sum(1)
        if batch.points.start == 0:
            with torch.no_grad():
                values[batch.draws] += model.log_prior(batch.params) - guide.log_prob(batch.params)
    error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else float("nan")
    return ELBO(float(values.mean()), error)
