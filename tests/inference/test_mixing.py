"""Whether chains agree: R-hat against ArviZ's, of parameters or of functions."""

from __future__ import annotations

import arviz as az
import numpy as np
import pytest
import torch

from probml_tp import BayesianModel, Gaussian, NormalPrior, sample_nuts
from probml_tp.inference.mixing import chains_convergence, largest_r_hat


@pytest.mark.parametrize(("shift", "stretch"), [(0.0, 1.0), (0.5, 1.0), (0.0, 2.0)])
@pytest.mark.parametrize("count", [100, 101])
def test_it_is_that_of_arviz(shift, stretch, count):
    draws = np.random.default_rng(0).normal(size=(4, count, 3))
    draws[0] = shift + stretch * draws[0]
    expected = az.rhat(az.convert_to_dataset(draws))["x"].max()
    assert largest_r_hat(draws) == pytest.approx(float(expected), rel=1e-12)


def test_a_constant_has_none_and_is_left_out():
    draws = np.random.default_rng(0).normal(size=(2, 50, 2))
    draws[..., 1] = 3.0
    assert largest_r_hat(draws) == largest_r_hat(draws[..., :1])
    assert np.isnan(largest_r_hat(draws[..., 1:]))


def test_nets_with_hidden_layers_are_compared_as_functions():
    """Chains in two permutations of the hidden units agree on the function, not on weights."""
    net = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1))
    model = BayesianModel(net.double(), NormalPrior(1.0), Gaussian(scale=0.1))
    x = torch.linspace(-1, 1, 9, dtype=torch.float64).unsqueeze(-1)
    one = 0.01 * np.random.default_rng(0).normal(size=(200, 7))
    one += np.array([1.0, -2.0, 0.5, 0.3, 1.0, 2.0, 0.1])
    other = one[::-1][:, [1, 0, 3, 2, 5, 4, 6]]
    levels = np.random.default_rng(1).normal(size=(2, 200))
    found = chains_convergence(model, x, [one, other], list(levels))
    assert found.measure == "R-hat of functions"
    assert found.value < 1.05
    assert largest_r_hat(np.stack([one, other])) > 1.5
    apart = chains_convergence(model, x, [one, one + 1.0], list(levels))
    assert not apart.converged


def test_sampling_tells_unless_there_is_one_chain():
    model = BayesianModel(torch.nn.Linear(1, 1).double(), NormalPrior(1.0), Gaussian(scale=0.5))
    x = torch.linspace(-1, 1, 20, dtype=torch.float64).unsqueeze(-1)
    options = {"draws": 40, "warmup": 30, "jobs": 1, "progress": False}
    found = sample_nuts(model, (x, x), chains=2, **options)
    draws = {name: values.numpy() for name, values in found.guide.chains.items()}
    expected = max(float(v.max()) for v in az.rhat(az.convert_to_dataset(draws)).values())
    assert found.info.convergence.measure == "R-hat of parameters"
    assert found.info.convergence.value == pytest.approx(expected, rel=1e-9)
    assert sample_nuts(model, (x, x), chains=1, **options).converged is None
