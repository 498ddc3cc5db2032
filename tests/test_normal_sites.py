"""All sites with normal priors at once."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from probml_tp import BayesianModel, Gaussian, NormalPrior


@pytest.mark.parametrize("scales", [(0.7, 0.7), (0.7, 1.3)])
@pytest.mark.parametrize("noise", [0.1, dist.HalfNormal(1.0)])
def test_normal_sites_are_summed_as_site_by_site(
    scales: tuple[float, float], noise: float | dist.HalfNormal
) -> None:
    """One scale for all or several, alone or before a site of the likelihood; gradients too."""
    priors = {"weight": NormalPrior(scales[0]), "bias": NormalPrior(scales[1])}
    model = BayesianModel(nn.Linear(3, 2).double(), priors, Gaussian(noise))
    flat = torch.randn(5, model.num_params, dtype=torch.float64)
    sigma = torch.tensor([scales[0]] * 6 + [scales[1]] * 2).double()

    def expected(u: Tensor) -> Tensor:
        z = u[..., :8] / sigma
        return (-0.5 * z * z - sigma.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    found = model.normal_sites.log_prob
    torch.testing.assert_close(found(flat), expected(flat), rtol=1e-7, atol=0)
    torch.testing.assert_close(found(flat[0]), found(flat)[0])
    torch.testing.assert_close(torch.func.vmap(found)(flat), found(flat))
    for derivative in (torch.func.grad, torch.autograd.functional.hessian):
        ours, theirs = (
            derivative(f)(flat[0]) if derivative is torch.func.grad else derivative(f, flat[0])
            for f in (found, expected)
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-12)
