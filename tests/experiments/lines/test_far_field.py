"""Far from the data: the laws of the bases, and the Gaussian process against scikit-learn's."""

import numpy as np
import pyro
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel

from probml_tp import Exact, NormalPrior, fit
from probml_tp.datasets import sine_data
from probml_tp.experiments.lines.nonlinear_regression import fit_gaussian_process, polynomial_law
from probml_tp.models import GaussianBasis, PolynomialBasis, linear_regression

DATA = sine_data(dtype=torch.float64)
SPAN = torch.tensor([[-2.0], [3.0]], dtype=torch.float64)
"""The ends of a range five times that of the data."""


@pytest.fixture(scope="module")
def process():
    return fit_gaussian_process(DATA, noise=0.2)


def exact(basis, *, noise=0.2, alpha=0.05):
    prior = NormalPrior.from_precision(alpha)
    return fit(linear_regression(basis, prior=prior, likelihood=noise), Exact, DATA, progress=False)


def test_the_process_is_scikit_learns(process):
    kernel = ConstantKernel(0.5) * RBF(0.3)
    peer = GaussianProcessRegressor(kernel, alpha=0.04).fit(DATA[0].numpy(), DATA[1].numpy())
    assert process.variance == pytest.approx(peer.kernel_.k1.constant_value, rel=1e-3)
    assert process.lengthscale == pytest.approx(peer.kernel_.k2.length_scale, rel=1e-3)
    assert process.log_evidence == pytest.approx(peer.log_marginal_likelihood_value_, abs=1e-5)
    x = torch.linspace(-1, 2, 31, dtype=torch.float64)[:, None]
    own, (mean, sd) = process.predict(x), peer.predict(x.numpy(), return_std=True)
    np.testing.assert_allclose(own.mean, mean, atol=1e-3)
    np.testing.assert_allclose(own.epistemic_variance, sd**2, atol=1e-3)
    np.testing.assert_allclose(own.aleatoric_variance, 0.04)


def test_the_process_returns_to_its_prior(process):
    far = process.predict(SPAN)
    np.testing.assert_allclose(far.epistemic_variance, process.variance, rtol=1e-9)
    np.testing.assert_allclose(far.mean, 0, atol=1e-9)
    amid = process.predict(torch.tensor([[0.5]], dtype=torch.float64))
    assert float(amid.epistemic_variance) < 0.05 * process.variance


def test_pyros_parameters_are_left_alone():
    pyro.param("mine", torch.tensor(1.0))
    try:
        fit_gaussian_process(DATA, noise=0.2, steps=2).predict(SPAN)
        assert list(pyro.get_param_store()) == ["mine"]
    finally:
        pyro.clear_param_store()


@pytest.mark.parametrize("noise", [0.2, 0.2 * 2**0.5, 1.0])
def test_the_gaussian_basis_tends_to_the_noise(noise):
    """Also for the labs' noise variance, twice as large."""
    predictive = exact(GaussianBasis.evenly_spaced(0, 1, num=9), noise=noise).predict(SPAN)
    total = predictive.epistemic_variance + predictive.aleatoric_variance
    np.testing.assert_allclose(total, noise**2, rtol=1e-12)


def test_wide_bumps_are_not_there_yet():
    """The negative control: bumps that reach the ends of the range leave variance there."""
    predictive = exact(GaussianBasis(centers=[0.0, 0.5, 1.0], scale=2.0)).predict(SPAN)
    assert float(predictive.epistemic_variance.min()) > 1e-3 * 0.04


@pytest.mark.parametrize("degree", [1, 5, 10])
def test_the_polynomial_diverges_as_its_leading_term(degree):
    law = polynomial_law(exact(PolynomialBasis(degree=degree)), prefix="law", decades=4)
    x, variance, limit = (law[f"law.{name}"] for name in ("x", "variance", "limit"))
    last = slice(-21, None)
    slope = np.polyfit(np.log(x[last]), np.log(variance[last]), 1)[0]
    assert slope == pytest.approx(2 * degree, abs=1e-2)
    assert variance[-1] / limit[-1] == pytest.approx(1, abs=2e-3)
    distance = np.abs(variance[20:] / limit[20:] - 1)
    assert (np.diff(distance) < 0).all()
