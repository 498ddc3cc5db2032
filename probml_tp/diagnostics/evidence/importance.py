r"""Importance ratios :math:`\log p(\theta, y \mid x) - \log q(\theta)` of a guide's own draws.

The ELBO is their mean, the evidence the mean of their exponentials, Pareto k-hat the shape of
their tail. Both densities are of the sites in their own (constrained) space, so the Jacobian of
the map from the real line cancels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probml_tp.guide import Guide, check_num_samples
from probml_tp.model import BayesianModel
from probml_tp.posterior import Posterior
from probml_tp.predictions.draws import draw_batches

__all__ = [
    "ImportanceRatios",
    "check_density",
    "check_proper",
    "importance_ratios",
    "is_proper",
    "joint_ratios",
]


@dataclass(frozen=True)
class ImportanceRatios:
    r"""What draws :math:`\theta_s \sim q` say about the joint density.

    Args:
        log_ratios: :math:`\log p(\theta_s, y \mid x) - \log q(\theta_s)` in nats, ``(S,)``.
        log_likelihood: :math:`\log p(y_n \mid x_n, \theta_s)`, ``(S, N)``; empty unless it was
            asked for. Both are float64.
    """

    log_ratios: Tensor
    log_likelihood: Tensor


@torch.no_grad()
def importance_ratios(
    guide: Guide,
    x: Tensor,
    y: Tensor,
    *,
    num_samples: int,
    seed: int,
    own_net: bool,
    pointwise: bool = False,
) -> ImportanceRatios:
    """Run the draws over all points once.

    Args:
        guide: a guide with a density.
        x: checked inputs.
        y: checked targets.
        num_samples: ``S``.
        seed: determines the draws.
        own_net: take the model's net even where the guide predicts by another function, such as
            the linearised net; else the joint density is that of the function it predicts by.
        pointwise: keep the log likelihood of each point, ``S N`` numbers.

    Returns:
        The ratios, on the CPU.

    Raises:
        ValueError: a ratio is not a number.
    """
    model = guide.model
    values = torch.zeros(check_num_samples(num_samples), dtype=torch.float64)
    kept = torch.zeros(num_samples, len(x) if pointwise else 0, dtype=torch.float64)
    for batch in draw_batches(guide, x, num_samples=num_samples, seed=seed, own_net=own_net):
        found = model.likelihood.log_prob(batch.outputs, y[batch.points], batch.params)
        log_likelihood = found.double().cpu()
        values[batch.draws] += log_likelihood.sum(1)
        if pointwise:
            kept[batch.draws, batch.points] = log_likelihood
        if batch.points.start == 0:
            difference = model.log_prior(batch.params) - guide.log_prob(batch.params)
            values[batch.draws] += difference.double().cpu()
    if bool(values.isnan().any()) or bool(values.isneginf().all()):
        raise ValueError(
            f"importance ratios must be numbers, some of them above 0; of {num_samples} draws of "
            f"the {guide.name} guide {int(values.isnan().sum())} give none, as the net's outputs "
            f"overflow, and {int(values.isneginf().sum())} give 0. Train the guide further, or "
            f"use float64."
        )
    return ImportanceRatios(values, kept)


def joint_ratios(
    posterior: Posterior, x: object, y: object, *, what: str, num_samples: int, seed: int | None
) -> Tensor:
    """The log ratios that bounds on the log evidence are made of, by the net itself.

    Args:
        posterior: a posterior with a density, of a model with proper priors.
        x: all inputs.
        y: all targets.
        what: what asks for them, in words.
        num_samples: ``S``.
        seed: determines the draws; default: the posterior's.

    Returns:
        ``(S,)`` in nats.

    Raises:
        ValueError: the guide has no density, a prior is improper, or the data do not fit.
    """
    check_density(posterior, what)
    check_proper(posterior.model, what)
    inputs, targets = posterior.model.check_data(x, y)
    seed = posterior.seed if seed is None else seed
    return importance_ratios(
        posterior.guide, inputs, targets, num_samples=num_samples, seed=seed, own_net=True
    ).log_ratios


def check_density(posterior: Posterior, what: str) -> None:
    """Check that a posterior has a density.

    Raises:
        ValueError: it has none.
    """
    if posterior.guide.no_density:
        raise ValueError(
            f"{what} needs a density; {posterior.guide.no_density}. Use another guide."
        )


def check_proper(model: BayesianModel, what: str) -> None:
    """Check that every prior is proper.

    Raises:
        ValueError: one is not.
    """
    if not is_proper(model):
        raise ValueError(
            f"{what} needs a proper prior; a flat one has an arbitrary constant. Use NormalPrior."
        )


def is_proper(model: BayesianModel) -> bool:
    """Whether every prior of a model is proper."""
    return all(site.is_proper for site in model.sites.values())
