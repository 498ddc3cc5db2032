r"""Bayesian linear regression on a basis, :math:`y = \phi(x)^\top w + \varepsilon`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probml_tp.checks.arguments import checked
from probml_tp.likelihoods import Gaussian, Likelihood
from probml_tp.model import BayesianModel
from probml_tp.models.basis import Basis
from probml_tp.priors import PriorSpec

__all__ = ["BasisRegression", "linear_regression"]


class BasisRegression(nn.Module):
    r"""The net :math:`f(x) = \phi(x)^\top w`, linear in its one parameter ``weight``.

    Args:
        basis: the feature map :math:`\phi`, ``(batch, 1) -> (batch, num_features)``.
        dtype: the floating type of the weights.

    Example:
        >>> from probml_tp.models import PolynomialBasis
        >>> BasisRegression(PolynomialBasis(degree=2))(torch.zeros(5, 1)).shape
        torch.Size([5, 1])
    """

    @checked()
    def __init__(self, basis: Basis, *, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.basis = basis
        self.weight = nn.Parameter(torch.zeros(basis.num_features, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """The function values ``(batch, 1)``."""
        features: Tensor = self.basis(x)
        return (features @ self.weight).unsqueeze(-1)


@checked()
def linear_regression(
    basis: Basis,
    *,
    prior: PriorSpec,
    likelihood: Likelihood | float,
    dtype: torch.dtype = torch.float64,
) -> BayesianModel:
    r"""Bayesian linear regression over a basis (Bishop 2006, section 3.3).

    Args:
        basis: the feature map.
        prior: the prior of the weights, ``NormalPrior.from_precision(alpha)`` for the textbook's.
        likelihood: the observation model, or a number: the known noise standard deviation.
        dtype: float64 by default: polynomial designs are ill-conditioned.

    Returns:
        The model; with known noise and a normal or flat prior it has an ``Exact`` posterior.

    Example:
        >>> from probml_tp import NormalPrior
        >>> from probml_tp.models import LinearBasis
        >>> linear_regression(LinearBasis(), prior=NormalPrior(1.0), likelihood=0.2).num_params
        2
    """
    if not isinstance(likelihood, Likelihood):
        likelihood = Gaussian(scale=likelihood)
    net = BasisRegression(basis, dtype=dtype)
    return BayesianModel(net, prior, likelihood, name=f"linear-regression[{basis}]")
