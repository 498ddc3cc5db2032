"""What users write themselves is held to its contract at the first use, each breach by name."""

from __future__ import annotations

import re

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from probml_tp import BayesianModel, Bernoulli, Categorical, Delta, Gaussian, NormalPrior, fit
from probml_tp.posterior import Posterior
from tests.support.likelihoods import MAKERS, FromDistribution

X, Y = torch.linspace(-1, 1, 6).unsqueeze(1), torch.tensor([0.0, 1, 2, 0, 1, 2])


class Own(FromDistribution):
    """A Poisson likelihood that is right."""

    def __init__(self) -> None:
        super().__init__(MAKERS["poisson"])


def with_method(name, method, base=Own):
    """The likelihood with one method exchanged."""
    return type("Mine", (base,), {name: method})()


def model_of(likelihood, outputs=1):
    return BayesianModel(nn.Linear(1, outputs), NormalPrior(1.0), likelihood)


def test_a_likelihood_that_keeps_its_contract_is_taken():
    posterior = fit(model_of(Own()), Delta, (X, Y), epochs=2, progress=False)
    assert posterior.predict(X).mean.shape == (6,)


RATE = FromDistribution(MAKERS["poisson"])
BREACHES = {
    "moments without the last dimension": (
        "moments",
        lambda self, f, p: tuple(m[..., 0] for m in RATE.moments(f, p)),
        r"mean in moments of Mine must return .* \(batch, d\), here \(2, 1\); got \(2,\).*unsq",
    ),
    "a matrix of all points": (
        "moments",
        lambda self, f, p: (RATE.moments(f, p)[0] + f[..., 0].unsqueeze(-2),) * 2,
        r"here \(2, 1\); got \(2, 2\)",
    ),
    "a mean alone": ("moments", lambda self, f, p: f.exp(), "must return two tensors"),
    "another mean": (
        "moments",
        lambda self, f, p: (f, f.exp()),
        "mean in moments of Mine must equal that of its distribution",
    ),
    "another variance": (
        "moments",
        lambda self, f, p: (f.exp(), f.exp() ** 2 + 1),
        "variance in moments of Mine must equal that of its distribution",
    ),
    "a density summed over points": (
        "log_prob",
        lambda self, f, y, p: RATE.log_prob(f, y, p).sum(-1),
        r"log_prob of Mine must return a tensor of shape \(batch,\), here \(2,\); got \(\)",
    ),
    "a column of densities": (
        "log_prob",
        lambda self, f, y, p: RATE.log_prob(f, y, p).unsqueeze(-1),
        r"log_prob of Mine .* got \(2, 1\)",
    ),
    "another density": (
        "log_prob",
        lambda self, f, y, p: RATE.log_prob(f, y, p) + 1,
        "log_prob of Mine must equal the log density of its distribution",
    ),
    "a density that takes no draws": (
        "log_prob",
        lambda self, f, y, p: dist.Poisson(f[:, 0].exp()).log_prob(y.reshape(len(f), -1)[:, 0]),
        r"log_prob of Mine must",
    ),
    "a distribution of columns": (
        "distribution",
        lambda self, f, p: dist.Poisson(f.exp()),
        r"distribution of Mine must have batch shape \(batch,\), here \(2,\).*\(2, 1\)",
    ),
    "no distribution": ("distribution", lambda self, f, p: f, "must return one of pyro.distribut"),
    "a distribution that fails": (
        "distribution",
        lambda self, f, p: dist.Poisson(-(f[..., 0].exp())),
        "distribution of Mine must take outputs .* it failed",
    ),
    "no targets": ("check_targets", lambda self, y, shape: None, "check_targets of Mine must"),
    "a Fisher matrix without points": (
        "fisher",
        lambda self, f, p: f.exp(),
        r"fisher of Mine must return a tensor of shape \(batch, m, m\), here \(2, 1, 1\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("breach", BREACHES)
def test_a_likelihoods_breach_is_named(breach: str):
    name, method, message = BREACHES[breach]
    model = model_of(with_method(name, method))
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        fit(model, Delta, (X, Y), epochs=1, progress=False)


@pytest.mark.parametrize(
    ("name", "method", "message"),
    [
        ("log_probs", lambda self, f: f.softmax(-1), r"logarithm of the sum of .* must equal 0"),
        ("log_probs", lambda self, f: f.log_softmax(-1)[..., :2], r"here \(2, 3\); got \(2, 2\)"),
        (
            "log_prob",
            lambda self, f, y, p: Categorical(3).log_prob(0.5 * f, y, p),
            "must equal",
        ),
    ],
)
def test_a_classification_likelihoods_breach_is_named(name, method, message):
    likelihood = type("Mine", (Categorical,), {name: method})(3)
    with pytest.raises(ValueError, match=message):
        model_of(likelihood, outputs=3).check_data(X, Y)


def test_predictions_check_shapes_without_targets():
    """A posterior may predict before any data were checked."""
    wrong = with_method("moments", BREACHES["a matrix of all points"][1])
    with pytest.raises(ValueError, match=r"must return a tensor of shape \(draws, batch, d\)"):
        Posterior(Delta(model_of(wrong))).predict(X)


def test_sites_of_a_likelihood_are_site_distributions():
    with pytest.raises(ValueError, match=r"must map names to SiteDistribution.*got HalfNormal"):
        model_of(with_method("site_distributions", lambda self: {"s": dist.HalfNormal(1.0)}))


# -------------------------------------------------------------------------------- priors, guides


class Summed(dist.Normal):
    """Its density is that of all elements."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value).sum(-1)


class Stretched(dist.Normal):
    """It has a parameter that is not in ``arg_constraints``."""

    factor = 1.0

    @classmethod
    def by(cls, factor: float) -> Stretched:
        made = cls(0.0, 1.0)
        made.factor = factor
        return made

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value / self.factor)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (Summed(0.0, 1.0), "must give one density for each element"),
        (Stretched.by(3.0), "has another density when it is made anew"),
    ],
)
def test_a_prior_of_ones_own_is_checked_at_construction(prior, message):
    with pytest.raises(ValueError, match=message):
        BayesianModel(nn.Linear(3, 1), lambda name, parameter: prior, Gaussian(scale=1.0))


@pytest.mark.parametrize(
    ("name", "method", "message"),
    [
        ("sample", lambda self, n, *, generator=None: {}, "must return draws of the model's sites"),
        (
            "sample",
            lambda self, n, *, generator=None: self.model.initial_params(),
            r"\(num_samples, \*site shape\), for 'weight' \(1, 1, 1\); got \(1, 1\)",
        ),
        ("num_atoms", property(lambda self: 0.5), "num_atoms of the map guide must be an integer"),
        ("loss", lambda self, x, y, *, size: self.loc, r"must return a scalar.*got shape \(2,\)"),
        ("loss", lambda self, x, y, *, size: 1.0, "must return a scalar.*got float"),
        (
            "loss",
            lambda self, x, y, *, size: self.loc.detach().sum(),
            "must depend on its parameters",
        ),
    ],
)
def test_a_guides_breach_is_named(name, method, message):
    guide = type("Mine", (Delta,), {name: method})
    model = BayesianModel(nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=1.0))
    with pytest.raises(ValueError, match=message):
        fit(model, guide, (X, Y), epochs=1, progress=False).predict(X)


def test_moments_of_a_guide_are_one_covariance_a_point():
    class Mine(Delta):
        def function_moments(self, x: Tensor):
            return torch.zeros(len(x), 1), torch.ones(len(x))

    model = BayesianModel(nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=1.0))
    with pytest.raises(ValueError, match=r"covariance \(batch, k, k\); got \(6, 1\) and \(6,\)"):
        Posterior(Mine(model)).predict(X)


def test_links_are_for_the_likelihoods_that_they_are_of():
    class Noisy(Bernoulli):
        def log_probs(self, outputs: Tensor) -> Tensor:
            return (0.9 * super().log_probs(outputs).exp() + 0.05).log()

    class Normal(Delta):
        def function_moments(self, x: Tensor):
            return torch.zeros(len(x), 1), torch.ones(len(x), 1, 1)

    model = BayesianModel(nn.Linear(1, 1), NormalPrior(1.0), Noisy())
    with pytest.raises(ValueError, match="probit link is a formula for Bernoulli and Categorical"):
        Posterior(Normal(model)).predict(X, link="probit")
