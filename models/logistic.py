r"""Bayesian logistic regression, :math:`p(y = 1 \mid x) = \mathrm{sigmoid}(w^\top x + b)`."""

from __future__ import annotations

import torch
from torch import nn

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import positive_integer
from probml_tp.likelihoods import Bernoulli, Categorical, Likelihood
from probml_tp.model import BayesianModel
from probml_tp.priors import PriorSpec

__all__ = ["logistic_regression"]


@checked()
def logistic_regression(
    num_features: int,
    *,
    prior: PriorSpec,
    num_classes: int = 2,
    dtype: torch.dtype = torch.float64,
) -> BayesianModel:
    """Logistic regression with two classes, or multinomial with more.

    Args:
        num_features: the length of ``x``.
        prior: the prior of ``weight`` and ``bias``.
        num_classes: 2 gives one logit and a Bernoulli likelihood, more a Categorical one.
        dtype: the floating type of the weights.

    Returns:
        The model, its weights starting at zero: the problem is convex for a log-concave prior.

    Raises:
        ValueError: ``num_features`` is below 1 or ``num_classes`` below 2.

    Example:
        >>> from probml_tp import NormalPrior
        >>> logistic_regression(2, prior=NormalPrior(1.0)).num_params
        3
    """
    positive_integer("num_features", num_features)
    likelihood: Likelihood = Bernoulli() if num_classes == 2 else Categorical(num_classes)
    net = nn.Linear(num_features, 1 if num_classes == 2 else num_classes, dtype=dtype)
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    return BayesianModel(net, prior, likelihood, name="logistic-regression")
