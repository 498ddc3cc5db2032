"""Priors: what each class is, how a mapping is resolved, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from probml_tp import (
    BayesianModel,
    ConditionalPrior,
    Exact,
    FanInNormalPrior,
    FlatPrior,
    Gaussian,
    Laplace,
    LaplacePrior,
    MCDropout,
    MeanFieldNormal,
    NormalPrior,
    Posterior,
    StudentTPrior,
    maximize_evidence,
)
from probml_tp.priors import SiteDistribution, resolve_priors

VALUES = torch.tensor([[-1.3, 0.2, 2.5], [0.0, 0.7, -0.1]], dtype=torch.float64)


def site(prior: object, shape: tuple[int, ...] = (2, 3)) -> SiteDistribution:
    return resolve_priors(prior, {"w": torch.zeros(shape, dtype=torch.float64)})["w"]


@pytest.mark.parametrize(
    ("prior", "reference"),
    [
        (NormalPrior(2.0, loc=0.5), scipy.stats.norm(0.5, 2.0)),
        (NormalPrior.from_precision(4.0), scipy.stats.norm(0.0, 0.5)),
        (LaplacePrior(0.7), scipy.stats.laplace(0.0, 0.7)),
        (StudentTPrior(df=3.0, scale=1.4), scipy.stats.t(3.0, 0.0, 1.4)),
        (StudentTPrior(df=1.0), scipy.stats.cauchy(0.0, 1.0)),
        (FanInNormalPrior(scale=1.5), scipy.stats.norm(0.0, 1.5 / math.sqrt(3))),
    ],
)
def test_log_density_is_scipys(prior: object, reference: scipy.stats.rv_continuous) -> None:
    expected = reference.logpdf(VALUES.numpy()).sum()
    assert site(prior).log_prob(VALUES).item() == pytest.approx(expected, rel=1e-12)
    assert site(prior)().log_prob(VALUES).item() == pytest.approx(expected, rel=1e-12)


def test_the_flat_prior_is_zero_and_improper() -> None:
    flat = site(FlatPrior())
    assert torch.equal(flat.log_prob(VALUES), torch.zeros((), dtype=torch.float64))
    assert torch.equal(flat.log_prob(VALUES.expand(4, 2, 3)), torch.zeros(4, dtype=torch.float64))
    assert not flat.is_proper


def test_fan_in_divides_weights_by_inputs_and_leaves_biases() -> None:
    net = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Flatten(), nn.Linear(20, 4)).double()
    sites = resolve_priors(FanInNormalPrior(2.0, bias_scale=0.3), dict(net.named_parameters()))
    assert sites["0.weight"].elementwise().stddev.unique().item() == pytest.approx(2 / 18**0.5)
    assert sites["2.weight"].elementwise().stddev.unique().item() == pytest.approx(2 / 20**0.5)
    assert sites["0.bias"].elementwise().stddev.unique().item() == 0.3


def test_exact_names_win_over_patterns_and_the_first_pattern_over_the_next() -> None:
    net = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1))
    spec = {
        "0.*": NormalPrior(1.0),
        "*.bias": NormalPrior(2.0),
        "0.bias": NormalPrior(3.0),
        "*": NormalPrior(4.0),
    }
    sites = resolve_priors(spec, dict(net.named_parameters()))
    scales = {n: s.elementwise().stddev.flatten()[0].item() for n, s in sites.items()}
    assert scales == {"0.weight": 1.0, "0.bias": 3.0, "1.weight": 4.0, "1.bias": 2.0}


def test_a_callable_sees_name_and_parameter() -> None:
    seen = {}

    def prior(name: str, parameter: Tensor) -> dist.Distribution:
        seen[name] = parameter.shape
        return dist.Normal(torch.zeros_like(parameter), 1.0)

    resolve_priors(prior, dict(nn.Linear(3, 2).named_parameters()))
    assert seen == {"weight": (2, 3), "bias": (2,)}


def test_a_prior_per_element_broadcasts() -> None:
    scales = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    ours = site(lambda _n, _p: dist.Normal(0.0, scales)).log_prob(VALUES)
    expected = torch.distributions.Normal(0.0, scales).log_prob(VALUES).sum()
    torch.testing.assert_close(ours, expected)


def test_the_program_draws_from_the_prior() -> None:
    prior = NormalPrior(0.5, loc=2.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = torch.stack([site(prior)().sample() for _ in range(2000)])
    error = 0.5 / draws.numel() ** 0.5
    assert abs(draws.mean().item() - 2.0) < 5 * error
    assert abs(draws.std().item() - 0.5) < 5 * error


def test_prior_tensors_are_buffers_that_move_with_the_model() -> None:
    model = BayesianModel(nn.Linear(2, 1), StudentTPrior(), Gaussian(dist.HalfNormal(1.0)))
    assert model.sites["weight"].df.dtype == torch.float32
    model.double()
    for entry in model.sites.values():
        assert all(b.dtype == torch.float64 for b in entry.buffers())
    meta = model.to("meta")
    assert all(b.device.type == "meta" for s in meta.sites.values() for b in s.buffers())


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda v: NormalPrior(v), "NormalPrior.scale"),
        (lambda v: NormalPrior.from_precision(v), "precision"),
        (lambda v: FanInNormalPrior(v), "FanInNormalPrior.scale"),
        (lambda v: FanInNormalPrior(1.0, bias_scale=v), "FanInNormalPrior.bias_scale"),
        (lambda v: LaplacePrior(v), "LaplacePrior.scale"),
        (lambda v: StudentTPrior(df=v), "StudentTPrior.df"),
        (lambda v: StudentTPrior(scale=v), "StudentTPrior.scale"),
    ],
)
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan, "1", None])
def test_scales_must_be_positive(build: object, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be a positive finite number; got"):
        build(value)


def test_a_prior_for_a_parameter_the_net_lacks_is_refused() -> None:
    spec = {"weigth": NormalPrior(1.0), "*": NormalPrior(1.0)}
    with pytest.raises(ValueError, match=r"'weigth' matches none.*weight, bias"):
        BayesianModel(nn.Linear(1, 1), spec, Gaussian(0.1))


def test_a_parameter_without_prior_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'bias' has none.*'\*'"):
        BayesianModel(nn.Linear(1, 1), {"weight": NormalPrior(1.0)}, Gaussian(0.1))


def test_a_prior_of_a_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'w' has batch shape \(4,\), the parameter \(2, 3\)"):
        site(lambda _n, _p: dist.Normal(torch.zeros(4), 1.0))
    with pytest.raises(ValueError, match=r"batch shape \(5, 2, 3\)"):
        site(lambda _n, _p: dist.Normal(torch.zeros(5, 2, 3), 1.0))


@pytest.mark.parametrize(
    "distribution",
    [
        dist.Poisson(3.0),
        dist.Bernoulli(0.5),
        dist.Normal(torch.zeros(3), 1.0).to_event(1),
        dist.MultivariateNormal(torch.zeros(3), torch.eye(3)),
    ],
    ids=lambda d: type(d).__name__,
)
def test_discrete_and_joint_priors_are_refused(distribution: dist.Distribution) -> None:
    with pytest.raises(ValueError, match=r"continuous and independent over elements.*'w'"):
        site(lambda _n, _p: distribution)


@pytest.mark.parametrize(
    "distribution",
    [
        dist.TransformedDistribution(
            dist.Normal(0.0, 1.0), [dist.transforms.AffineTransform(0, 2)]
        ),
        dist.MixtureSameFamily(
            dist.Categorical(torch.ones(2)), dist.Normal(torch.zeros(2), torch.tensor([1.0, 0.1]))
        ),
    ],
    ids=lambda d: type(d).__name__,
)
def test_priors_that_cannot_be_moved_are_refused_at_once(distribution: dist.Distribution) -> None:
    with pytest.raises(ValueError, match=r"'w'|w"):
        BayesianModel(nn.Linear(1, 1), lambda _n, _p: distribution, Gaussian(0.1))


@pytest.mark.parametrize("prior", [1.0, "normal", {"*": 3.0}], ids=str)
def test_what_is_no_prior_is_refused(prior: object) -> None:
    with pytest.raises(ValueError, match="a prior is a callable"):
        BayesianModel(nn.Linear(1, 1), prior, Gaussian(0.1))


def test_a_callable_that_gives_no_distribution_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weight.*float|float.*weight"):
        BayesianModel(nn.Linear(1, 1), lambda _n, _p: 1.0, Gaussian(0.1))


# --------------------------------------------------------------- priors that depend on other sites


class Groups(nn.Module):
    """Four levels about a mean, with the levels first."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(4))
        self.tau = nn.Parameter(torch.ones(()))
        self.mu = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.theta[x[:, 0].long()].unsqueeze(-1)


CENTRED = {
    "theta": ConditionalPrior(dist.Normal, given=("mu", "tau")),
    "tau": lambda _, p: dist.HalfCauchy(p.new_tensor(5.0)),
    "mu": NormalPrior(5.0),
}


def groups(**priors: object) -> BayesianModel:
    return BayesianModel(Groups().double(), CENTRED | priors, Gaussian(scale=1.0))


def test_a_conditional_prior_is_scipys_at_the_values_of_the_others() -> None:
    model = groups()
    generator = torch.Generator().manual_seed(0)
    theta, mu, tau = (torch.randn(3, k, generator=generator).double() for k in (4, 1, 1))
    params = {"theta": theta, "mu": mu[:, 0], "tau": tau[:, 0].exp()}
    expected = (
        scipy.stats.norm(mu.numpy(), tau.exp().numpy()).logpdf(theta.numpy()).sum(1)
        + scipy.stats.norm(0, 5).logpdf(mu[:, 0].numpy())
        + scipy.stats.halfcauchy(0, 5).logpdf(tau[:, 0].exp().numpy())
    )
    torch.testing.assert_close(model.log_prior(params), torch.as_tensor(expected))


def test_sites_come_after_those_that_their_priors_depend_on() -> None:
    model = groups()
    assert list(model.sites) == ["mu", "tau", "theta"]
    assert model.conditional_sites == ["theta"]
    assert list(model.layout.shapes) == list(model.sites)
    assert groups(theta=NormalPrior(1.0)).conditional_sites == []
    assert list(groups(theta=NormalPrior(1.0)).sites) == ["theta", "tau", "mu"]


def test_prior_draws_of_a_hierarchical_model_are_those_of_its_program() -> None:
    model = groups(tau=lambda _, p: dist.HalfNormal(p.new_tensor(2.0)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = [model.sample_prior() for _ in range(4000)]
    spread = torch.stack([(d["theta"] - d["mu"]) for d in draws]).square().mean(1)
    error = spread.std() / len(draws) ** 0.5
    assert abs(spread.mean() - 4.0) < 5 * error  # E tau^2


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (ConditionalPrior(dist.Normal, given=("nu", "tau")), "names 'nu'"),
        (ConditionalPrior(dist.Normal, given=("mu",)), "failed"),
        (ConditionalPrior(dist.Uniform, given=("mu", "tau")), "support that depends"),
        (ConditionalPrior(dist.Poisson, given=("tau",)), "discrete"),
        (ConditionalPrior(dist.Dirichlet, given=("tau",)), "scalar events"),
        (ConditionalPrior(torch.distributions.Normal, given=("mu", "tau")), "pyro.distributions"),
        (ConditionalPrior(dist.Normal, given=("theta", "tau")), "circle"),
        (
            ConditionalPrior(dist.Normal, given=("mu",), arguments=lambda mu: (mu.sum(), 1.0)),
            "one by one",
        ),
    ],
)
def test_conditional_priors_that_cannot_be_are_refused(prior: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        groups(theta=prior)


def test_conditional_priors_in_a_circle_are_refused() -> None:
    with pytest.raises(ValueError, match="theta -> mu -> theta"):
        groups(
            theta=ConditionalPrior(dist.Normal, given=("mu", "tau")),
            mu=ConditionalPrior(
                dist.Normal, given=("theta",), arguments=lambda theta: (theta.mean(-1), 1.0)
            ),
        )


@pytest.mark.parametrize("given", ["mu", ()])
def test_a_conditional_prior_names_its_sites(given: object) -> None:
    with pytest.raises(ValueError, match="in a sequence"):
        ConditionalPrior(dist.Normal, given=given)


def test_fingerprints_tell_conditional_priors_apart() -> None:
    def wider(mu: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
        return mu, 2 * tau

    again = groups(theta=ConditionalPrior(dist.Normal, given=["mu", "tau"]))
    same = {groups().fingerprint(), again.fingerprint()}
    others = {
        groups(theta=ConditionalPrior(dist.Normal, given=("mu", "tau"), arguments=wider)),
        groups(theta=ConditionalPrior(dist.Laplace, given=("mu", "tau"))),
    }
    assert len(same) == 1
    assert len(same | {other.fingerprint() for other in others}) == 3


def test_laplaces_precision_of_a_hierarchical_model_is_the_hessian_of_its_log_joint() -> None:
    model = groups()
    x = torch.arange(12, dtype=torch.float64).unsqueeze(-1) % 4
    y = torch.linspace(-3, 3, 12, dtype=torch.float64)
    guide = Laplace(model, curvature="hessian")
    guide.loc.data = torch.tensor([0.1, 0.4, -1.0, 0.0, 1.0, 0.5], dtype=torch.float64)
    guide.take_curvature(x, y)
    hessian = torch.autograd.functional.hessian(lambda u: -model.log_joint_flat(u, x, y), guide.loc)
    torch.testing.assert_close(guide.covariance(), torch.linalg.inv(hessian).detach())


def test_what_takes_priors_to_be_independent_refuses_others() -> None:
    model = groups()
    x, y = torch.arange(4.0).unsqueeze(-1), torch.zeros(4)
    with pytest.raises(ValueError, match="full structure"):
        Laplace(model, structure="diagonal")
    with pytest.raises(ValueError, match="all sites"):
        Laplace(model, sites="theta")
    with pytest.raises(ValueError, match="KL divergence is analytic for normal priors only"):
        MeanFieldNormal(model).kl()
    with pytest.raises(ValueError, match="normal or flat priors"):
        Exact(model)
    guide = Laplace(model)
    guide.take_curvature(*model.check_data(x, y))  # at no mode: there is none
    laplace = Posterior(guide)
    with pytest.raises(ValueError, match="inferred already"):
        maximize_evidence(laplace, (x, y))


def test_dropped_weights_have_independent_priors() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    prior = {
        "1.weight": ConditionalPrior(dist.Normal, given=("0.bias",), arguments=lambda b: (b, 1.0)),
        "*": NormalPrior(1.0),
    }
    model = BayesianModel(net, prior, Gaussian(scale=0.3))
    with pytest.raises(ValueError, match="neither depend on other sites nor"):
        MCDropout(model, rates={"1": 0.3})


# ------------------------------------------------------- distributions, and numbers of any type

BARE = {
    "pyro": dist.Normal(0.0, 2.0),
    "torch": torch.distributions.Normal(0.0, 2.0),
    "of each element": torch.distributions.Normal(torch.zeros(2, 3), 2.0),
    "in a mapping": {"*": dist.Normal(0.0, 2.0)},
    "from a function": lambda _n, _p: torch.distributions.Normal(0.0, 2.0),
    "tensor": NormalPrior(torch.tensor(2.0)),
    "tensor of one element": NormalPrior(torch.tensor([2.0], requires_grad=True)),
    "array": NormalPrior(np.array(2.0), np.float32(0)),
}


@pytest.mark.parametrize("prior", BARE.values(), ids=BARE)
def test_distributions_and_numbers_of_any_type_are_priors(prior: object) -> None:
    found = site(prior)
    expected = scipy.stats.norm(0, 2).logpdf(VALUES.numpy()).sum()
    assert found.is_normal
    assert float(found.log_prob(VALUES)) == pytest.approx(expected, rel=1e-12)


def test_priors_keep_plain_numbers() -> None:
    assert NormalPrior(torch.tensor(2.0)) == NormalPrior(2.0)
    assert repr(StudentTPrior(torch.tensor(3), np.float64(1))) == "StudentTPrior(df=3.0, scale=1.0)"
    with pytest.raises(ValueError, match=r"NormalPrior.scale must be a positive finite number"):
        NormalPrior(torch.ones(2))


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (NormalPrior, "the class NormalPrior"),
        (dist.Normal, "the class Normal"),
        (1.0, "got 1.0"),
        (torch.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3)), "distribution"),
        (torch.distributions.Bernoulli(0.5), "distribution"),
        (
            torch.distributions.TransformedDistribution(torch.distributions.Normal(0.0, 1.0), []),
            "TransformedDistribution",
        ),
    ],
)
def test_what_is_no_distribution_of_elements_is_refused(prior: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        site(prior)
