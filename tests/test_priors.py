"""Priors: what each class is, how a mapping is resolved, and what is refused."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from probml_tp import (
    BayesianModel,
    FanInNormalPrior,
    FlatPrior,
    Gaussian,
    LaplacePrior,
    NormalPrior,
    StudentTPrior,
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
