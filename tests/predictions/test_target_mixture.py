"""Predictions of any likelihood are its own: against SciPy's distributions, averaged over draws."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats as st
import torch
from torch import Tensor

from probml_tp import BayesianModel, Exact, Gaussian, MeanFieldNormal, NormalPrior, fit
from probml_tp.metrics import crps, regression_scores
from probml_tp.predictions.draws import DrawBatch
from probml_tp.predictions.predictive import RegressionPredictive, accumulator_for
from tests.support.likelihoods import MAKERS, FromDistribution

F64 = torch.float64
S, N = 7, 5
OUTPUTS = 0.8 * torch.randn(S, N, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
F = OUTPUTS[..., 0].numpy()
RATE = np.exp(F)
SIGMOID = 1 / (1 + np.exp(-F))

SCIPY = {
    "poisson": st.poisson(RATE),
    "poisson without a formula": st.poisson(RATE),
    "negative binomial": st.nbinom(3, 1 - SIGMOID),
    "gamma-poisson": st.nbinom(2, RATE / (1 + RATE)),
    "binomial": st.binom(12, SIGMOID),
    "geometric": st.geom(SIGMOID, loc=-1),
    "beta-binomial": st.betabinom(9, RATE, 2),
    "student": st.t(3, F, 0.5),
    "gamma": st.gamma(2, scale=1 / RATE),
    "gamma without a formula": st.gamma(2, scale=1 / RATE),
    "beta": st.beta(2 * RATE, 3),
    "lognormal": st.lognorm(0.4, scale=np.exp(F)),
    "laplace": st.laplace(F, 0.4),
    "exponential": st.expon(scale=1 / RATE),
    "inverse gamma": st.invgamma(4, scale=RATE),
    "weibull": st.weibull_min(1.5, scale=RATE),
}
DISCRETE = {name for name in MAKERS if hasattr(SCIPY.get(name, st.poisson(1)), "pmf")}
BY_DRAWS = {"gamma without a formula"}


def predict(likelihood, outputs=OUTPUTS, *, chunk=3, batch=2) -> RegressionPredictive:
    """As the runner does, in chunks of draws and batches of points."""
    sums = accumulator_for(likelihood, outputs.shape[1], keep_outputs=True)
    for i in range(0, len(outputs), chunk):
        for j in range(0, outputs.shape[1], batch):
            part = outputs[i : i + chunk, j : j + batch]
            draws, points = slice(i, i + len(part)), slice(j, j + part.shape[1])
            sums.update(DrawBatch(draws, points, {}, part))
    return sums.result()


def mixture_cdf(name: str, y) -> np.ndarray:
    if name == "zero-inflated":
        return (0.3 * (np.asarray(y) >= 0) + 0.7 * st.poisson(RATE).cdf(y)).mean(0)
    return SCIPY[name].cdf(y).mean(0)


def mixture_quantile(name: str, level: float) -> np.ndarray:
    """By search over the integers, or by SciPy's root finder."""
    if name in DISCRETE:
        k = np.arange(200).reshape(-1, 1, 1)
        table = SCIPY["poisson" if name == "zero-inflated" else name].cdf(k)
        table = 0.3 + 0.7 * table if name == "zero-inflated" else table
        return (table.mean(1) >= level).argmax(0)
    roots = []
    for n in range(N):
        low, high = SCIPY[name].ppf(1e-9).min(), SCIPY[name].ppf(1 - 1e-9).max()
        roots.append(
            scipy.optimize.brentq(
                lambda q, n=n: SCIPY[name].cdf(q)[:, n].mean() - level, low, high, xtol=1e-14
            )
        )
    return np.array(roots)


@pytest.mark.parametrize("name", MAKERS)
def test_quantiles_are_those_of_the_likelihoods_mixture(name: str) -> None:
    predictive = predict(FromDistribution(MAKERS[name]))
    for level in (0.05, 0.95):
        check_quantile(predictive, name, level)


def check_quantile(predictive: RegressionPredictive, name: str, level: float) -> None:
    ours, expected = predictive.quantile(level).numpy(), mixture_quantile(name, level)
    if name in BY_DRAWS:
        error = 5 * math.sqrt(level * (1 - level) / 10_000)
        assert (abs(mixture_cdf(name, ours) - level) < error).all()
    else:
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-11)
    assert (ours == np.round(ours)).all() == (name in DISCRETE)


@pytest.mark.parametrize("name", MAKERS)
def test_distribution_function_and_density_are_the_mixtures(name: str) -> None:
    predictive = predict(FromDistribution(MAKERS[name]))
    y = np.array([0.0, 1.0, 2.0, 3.0, 5.0]) if name in DISCRETE else np.linspace(0.1, 0.9, N)
    tolerance = 0.025 if name in BY_DRAWS else 1e-9
    ours = predictive.cdf(torch.tensor(y))
    np.testing.assert_allclose(ours, mixture_cdf(name, y), atol=tolerance)
    if name == "zero-inflated":
        density = (0.3 * (y == 0) + 0.7 * st.poisson(RATE).pmf(y)).mean(0)
    else:
        density = getattr(SCIPY[name], "pmf" if name in DISCRETE else "pdf")(y).mean(0)
    np.testing.assert_allclose(predictive.log_prob(y), np.log(density), rtol=1e-9)


@pytest.mark.parametrize("name", MAKERS)
def test_draws_have_the_mixtures_distribution(name: str) -> None:
    predictive = predict(FromDistribution(MAKERS[name]))
    draws = predictive.sample(4000, seed=1)
    assert draws.shape == (4000, N)
    y = mixture_quantile(name, 0.5)
    share, expected = (draws.numpy() <= y).mean(0), mixture_cdf(name, y)
    assert (abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / 4000) + 1e-12).all()
    assert torch.equal(draws, predictive.sample(4000, seed=1))
    assert not torch.equal(draws, predictive.sample(4000, seed=2))


@pytest.mark.parametrize("name", ["poisson", "zero-inflated", "student", "gamma without a formula"])
def test_an_interval_covers_what_it_says_and_scores_count_so(name: str) -> None:
    """Of counts it holds at least its probability, and without either end less."""
    predictive = predict(FromDistribution(MAKERS[name]))
    low, high = predictive.interval(0.9)
    inside = mixture_cdf(name, high.numpy()) - mixture_cdf(name, np.nextafter(low.numpy(), -9))
    if name in DISCRETE:
        assert (inside >= 0.9).all()
        assert (mixture_cdf(name, high.numpy() - 1) < 0.95).all()
    else:
        np.testing.assert_allclose(inside, 0.9, atol=0.03 if name in BY_DRAWS else 1e-9)
    ends = [low, high] if name in DISCRETE else []  # else they are known to rounding
    for y in (*ends, low - 1, high + 1, (low + high) / 2):
        expected = (y >= low) & (y <= high)
        assert torch.equal(predictive.covers(y, 0.9), expected)
    middle = ((low + high) / 2).round() if name in DISCRETE else (low + high) / 2
    scores = regression_scores(predictive, middle, level=0.9)
    assert scores["coverage"] == 1.0
    assert scores["nll"] == pytest.approx(-float(predictive.log_prob(middle).mean()))


def test_a_poisson_regression_has_counts_for_an_interval() -> None:
    """From fit to interval, against SciPy at the posterior's own draws."""
    generator = torch.Generator().manual_seed(0)
    x = torch.linspace(-1, 1, 60).unsqueeze(1)
    y = torch.poisson((0.5 + x[:, 0]).exp(), generator=generator)
    likelihood = FromDistribution(MAKERS["poisson"])
    model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(1.0), likelihood)
    posterior = fit(model, MeanFieldNormal, (x, y), epochs=20, lr=0.05, progress=False)
    predictive = posterior.predict(x[:4], num_samples=30, keep_outputs=True)
    rates = predictive.outputs[..., 0].double().exp().numpy()
    table = np.stack([st.poisson(rates).cdf(k).mean(0) for k in range(60)])
    low, high = predictive.interval(0.9)
    np.testing.assert_array_equal(low, (table >= 0.05).argmax(0))
    np.testing.assert_array_equal(high, (table >= 0.95).argmax(0))
    assert float(low.min()) >= 0


@pytest.mark.parametrize("kind", ["counts", "correlated"])
def test_several_targets_have_their_marginal_quantiles_and_joint_density(kind: str) -> None:
    outputs = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    f = outputs.numpy()
    scale = torch.tensor([[1.0, 0.5], [0.5, 2.0]], dtype=F64)
    if kind == "counts":
        predictive = predict(FromDistribution(lambda f: dist.Poisson(f.exp()).to_event(1)), outputs)
        y, parts = torch.ones(3, 2, dtype=F64), st.poisson(np.exp(f))
        table = np.stack([parts.cdf(k).mean(0) for k in range(200)])
        expected = (table >= 0.8).argmax(0)
        joint = parts.logpmf(1).sum(-1)
    else:
        make = FromDistribution(lambda f: dist.MultivariateNormal(f, scale))
        predictive, y = predict(make, outputs), torch.zeros(3, 2, dtype=F64)
        sd = np.sqrt([1.0, 2.0])
        expected = predictive.quantile(0.8).numpy()
        np.testing.assert_allclose(st.norm(f, sd).cdf(expected).mean(0), 0.8, rtol=1e-9)
        joint = np.array([[st.multivariate_normal(m, scale).logpdf([0, 0]) for m in d] for d in f])
    np.testing.assert_allclose(predictive.quantile(0.8), expected)
    np.testing.assert_allclose(predictive.log_prob(y), np.log(np.exp(joint).mean(0)), rtol=1e-9)
    assert predictive.sample(10).shape == (10, 3, 2)


def test_impossible_targets_have_density_zero() -> None:
    predictive = predict(FromDistribution(MAKERS["poisson"]))
    y = torch.tensor([-1.0, 0.5, 2.0, 3.0, 0.0], dtype=F64)
    assert predictive.log_prob(y).isinf().tolist() == [True, True, False, False, False]
    assert predictive.cdf(y)[0] == 0
    assert predictive.cdf(y)[1] == pytest.approx(np.exp(-RATE[:, 1]).mean())


def test_no_subclass_is_taken_for_what_it_derives_from() -> None:
    """A distribution with another density, and a likelihood with another distribution."""

    class Shifted(dist.Poisson):
        """One more than a Poisson count; ``cdf`` and formula of its base would be wrong."""

        def log_prob(self, value: Tensor) -> Tensor:
            return torch.where(value > 0, super().log_prob((value - 1).clamp_min(0)), -torch.inf)

        def sample(self, sample_shape=()) -> Tensor:
            return super().sample(sample_shape) + 1

    class Student(Gaussian):
        """Noise of heavy tails."""

        def distribution(self, outputs: Tensor, params) -> dist.StudentT:
            return dist.StudentT(3.0, outputs[..., 0], self.scale)

        def log_prob(self, outputs: Tensor, y: Tensor, params) -> Tensor:
            return self.distribution(outputs, params).log_prob(y)

    shifted = predict(FromDistribution(lambda f: Shifted(f[..., 0].exp())))
    np.testing.assert_array_equal(shifted.quantile(0.9), mixture_quantile("poisson", 0.9) + 1)
    heavy = predict(Student(scale=0.5).double())
    np.testing.assert_allclose(heavy.quantile(0.9), mixture_quantile("student", 0.9), rtol=1e-9)
    with pytest.raises(ValueError, match="needs a Gaussian likelihood"):
        Exact(BayesianModel(torch.nn.Linear(1, 1), NormalPrior(1.0), Student(scale=0.5)))


@pytest.mark.parametrize("name", ["poisson", "student", "gamma"])
def test_the_crps_is_the_integral_of_squared_differences(name: str) -> None:
    predictive = predict(FromDistribution(MAKERS[name]))
    y = np.array([0.0, 1.0, 2.0, 1.0, 4.0])
    ours = crps(predictive, y, num_draws=40_000).numpy()
    for n in range(N):

        def square(z, n=n):
            return (SCIPY[name].cdf(z)[:, n].mean() - (z >= y[n])) ** 2

        if name == "poisson":
            expected = sum(square(z) for z in range(200))
        else:
            expected = sum(
                scipy.integrate.quad(square, a, b, limit=200)[0]
                for a, b in ((-60, y[n]), (y[n], 80))
            )
        sd = float(predictive.std[n])
        assert abs(ours[n] - expected) < 5 * sd / math.sqrt(40_000)


def test_a_normal_of_ones_own_is_still_one() -> None:
    own = predict(FromDistribution(lambda f: dist.Normal(f[..., 0], 0.5)))
    known = predict(Gaussian(scale=0.5).double())
    assert own.components is None
    for level in (0.05, 0.9):
        assert torch.equal(own.quantile(level), known.quantile(level))
    y = torch.zeros(N, dtype=F64)
    torch.testing.assert_close(crps(own, y), crps(known, y))


def test_what_assumes_normal_noise_refuses_others() -> None:
    predictive = predict(FromDistribution(MAKERS["poisson"]))
    with pytest.raises(ValueError, match="needs normal noise"):
        predictive.normal_components()


def test_extreme_and_heavy_tailed_targets_are_found() -> None:
    """Counts of a million, targets of 1e-9, levels near 0 and 1, tails without a mean."""
    many = predict(FromDistribution(lambda f: dist.Poisson(1e6 * f[..., 0].exp())))
    expected = st.poisson(1e6 * RATE)
    q = many.quantile(0.9).numpy()
    assert (expected.cdf(q).mean(0) >= 0.9).all()
    assert (expected.cdf(q - 1).mean(0) < 0.9).all()
    tiny = predict(FromDistribution(lambda f: dist.Gamma(2.0, 1e9 * f[..., 0].exp())))
    np.testing.assert_allclose(tiny.quantile(0.3), 1e-9 * mixture_quantile("gamma", 0.3), rtol=1e-9)
    wild = predict(FromDistribution(lambda f: dist.StudentT(1.0, f[..., 0], 1.0)))
    for level in (1e-6, 0.5, 1 - 1e-6):
        q = wild.quantile(level).numpy()
        np.testing.assert_allclose(st.t(1, F, 1).cdf(q).mean(0), level, rtol=1e-6)
