"""Low rank plus diagonal: against dense normals, torch's, mean-field and the exact posterior."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from guide_cases import build
from model_cases import CASES, F64, inputs, random_flat, targets
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal, kl_divergence

from probml_tp import (
    BayesianModel,
    Exact,
    Gaussian,
    Guide,
    LowRankNormal,
    MeanFieldNormal,
    NormalPrior,
    fit,
)
from probml_tp.guides.low_rank import LowRankPlusDiagonal

CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def low_rank(case: str = "mlp", *, rank: int = 3, spread: float = 0.3) -> LowRankNormal:
    """A guide away from its start, with a factor as large as its diagonal."""
    model = CASES[case]().model
    guide = LowRankNormal(model, rank=rank)
    guide.loc.data = random_flat(model, seed=1)
    guide.log_scale.data = random_flat(model, seed=2) - 1.5
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(guide.factor.shape, generator=generator, dtype=F64)
    guide.factor.data = spread / guide.unit.unsqueeze(-1) * noise
    return guide


def dense(guide: LowRankPlusDiagonal) -> MultivariateNormal:
    """The same distribution with its covariance written out."""
    d, factor = guide.scale_and_factor()
    covariance = torch.diag(d.square()) + factor @ factor.mT
    return MultivariateNormal(guide.loc.detach(), covariance.detach())


def flat_draws(guide: Guide, num_samples: int = 5) -> Tensor:
    draws = guide.sample(num_samples, generator=torch.Generator().manual_seed(4))
    return guide.model.layout.ravel(guide.model.unconstrain(draws))


# ------------------------------------------------------------------------------- the density


@pytest.mark.parametrize("rank", [0, 1, 3, 31])
def test_density_is_that_of_torch_and_of_a_dense_normal(rank: int) -> None:
    guide = low_rank(rank=rank)
    draws = guide.sample(5, generator=torch.Generator().manual_seed(4))
    u = guide.model.layout.ravel(draws)
    ours = guide.log_prob(draws)
    torch.testing.assert_close(ours, dense(guide).log_prob(u), **CLOSE)
    if rank:
        d, factor = guide.scale_and_factor()
        theirs = LowRankMultivariateNormal(guide.loc, factor, d.square())
        torch.testing.assert_close(ours, theirs.log_prob(u), **CLOSE)


@pytest.mark.parametrize("rank", [0, 2, 31])
def test_kl_is_that_of_a_dense_normal(rank: int) -> None:
    guide = low_rank(rank=rank)
    sites = guide.model.normal_sites
    prior = MultivariateNormal(sites.loc, torch.diag(sites.scale.square()))
    torch.testing.assert_close(guide.kl(), kl_divergence(dense(guide), prior), **CLOSE)


@pytest.mark.parametrize("rank", [0, 3])
def test_each_site_given_those_before_it_is_the_dense_conditional(rank: int) -> None:
    guide = low_rank(rank=rank)
    layout, joint = guide.model.layout, dense(guide)
    u = flat_draws(guide, 1)[0]
    values, sites = layout.unravel(u), guide.site_distributions()
    name, site = next(sites)
    for expected, place in layout.slices.items():
        assert name == expected
        before = slice(0, place.start)
        cross = joint.covariance_matrix[place, before]
        gain = torch.linalg.solve(joint.covariance_matrix[before, before], cross.mT).mT
        loc = joint.loc[place] + gain @ (u[before] - joint.loc[before])
        covariance = joint.covariance_matrix[place, place] - gain @ cross.mT
        theirs = MultivariateNormal(loc, covariance).log_prob(u[place])
        torch.testing.assert_close(site.log_prob(values[name]), theirs, **CLOSE)
        base = site.base_dist
        torch.testing.assert_close(base.mean, loc, **CLOSE)
        torch.testing.assert_close(base.variance, covariance.diagonal(), **CLOSE)
        if place.stop < layout.size:
            name, site = sites.send(values[name])


def test_draws_have_the_covariance() -> None:
    guide, n = low_rank("linear", rank=1, spread=0.5), 50_000
    z = flat_draws(guide, n) - guide.loc.detach()
    products = torch.einsum("np,nq->npq", z, z)
    error = (products.mean(0) - dense(guide).covariance_matrix).abs()
    assert bool((error < 5 * products.std(0) / n**0.5).all())
    independent = torch.diag(dense(guide).variance)
    assert not bool(((products.mean(0) - independent).abs() < 5 * products.std(0) / n**0.5).all())


def test_float32_keeps_a_density_whose_factor_dwarfs_its_diagonal() -> None:
    """The quadratic form is a sum of squares: V / d of 1e4 costs no digits by cancellation."""
    model = BayesianModel(torch.nn.Linear(40, 5), NormalPrior(1.0), Gaussian(scale=0.1))
    guide = LowRankNormal(model, rank=4)
    guide.log_scale.data.fill_(-9.0)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(guide.factor.shape, generator=generator)
    guide.factor.data = noise / guide.unit.unsqueeze(-1)
    draws = guide.sample(20, generator=generator)
    u = model.layout.ravel(draws).double()
    covariance = torch.diag(guide.log_scale.double().exp().square())
    factor = guide.scale_and_factor()[1].double()
    covariance = covariance + factor @ factor.mT
    theirs = MultivariateNormal(guide.loc.double(), covariance).log_prob(u)
    torch.testing.assert_close(guide.log_prob(draws).double(), theirs, rtol=2e-3, atol=0.0)


# ------------------------------------------------------------------------------ the objective


@pytest.mark.parametrize("case", ["mlp", "mlp-gamma", "positive-weights", "lenet-small"])
@pytest.mark.parametrize("rank", [0, 4])
def test_without_a_factor_it_is_mean_field_at_the_same_draw(case: str, rank: int) -> None:
    data = CASES[case]()
    x, y = data.model.check_data(data.x, data.y)
    guide = LowRankNormal(data.model, rank=rank)
    mean_field = MeanFieldNormal(data.model, estimator="shared")
    guide.factor.data.zero_()
    for twin in (guide, mean_field):
        twin.loc.data = random_flat(data.model, seed=1)
        twin.log_scale.data = random_flat(data.model, seed=2) - 1.5
    losses = []
    for twin in (guide, mean_field):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            losses.append(twin.loss(x, y, size=40))
    assert torch.equal(*losses)
    for parameter in ("loc", "log_scale"):
        gradients = [
            torch.autograd.grad(loss, getattr(twin, parameter), retain_graph=True)[0]
            for loss, twin in zip(losses, (guide, mean_field), strict=True)
        ]
        torch.testing.assert_close(*gradients, **CLOSE)


@pytest.mark.parametrize("case", ["mlp", "positive-weights"])
def test_loss_is_the_negative_elbo_of_its_draw_and_density(case: str) -> None:
    """At equal draws: -log p(y|u) + KL, the KL term's mean being that of log q - log p."""
    guide, data = build("low-rank-normal", case)
    x, y = data.model.check_data(data.x, data.y)
    n, generator = 400, torch.Generator().manual_seed(0)
    epsilon = torch.randn(n, len(guide.loc), generator=generator, dtype=F64)
    z = torch.randn(n, guide.rank, generator=generator, dtype=F64)
    with torch.no_grad():
        terms = []
        for e, w in zip(epsilon, z, strict=True):
            d, factor = guide.scale_and_factor()
            u = guide.loc + d * e + factor @ w
            params = guide.model.constrain(guide.model.layout.unravel(u))
            log_q = guide.log_prob({s: v.unsqueeze(0) for s, v in params.items()})[0]
            joint = guide.model.log_joint(params, x, y)
            terms.append(guide.loss_at(e, w, x, y, size=len(x)) * len(x) - (log_q - joint))
    difference = torch.stack(terms)
    assert difference.mean().abs() < 5 * difference.std() / n**0.5


def test_the_factor_has_a_gradient_from_the_start_and_the_seed_determines_it() -> None:
    data = CASES["mlp"]()
    factors = []
    for _ in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            guide = LowRankNormal(data.model, rank=2)
            guide.loss(*data.model.check_data(data.x, data.y), size=10).backward()
        assert bool((guide.factor.grad != 0).all())
        factors.append(guide.factor.detach())
    assert torch.equal(*factors)


# ----------------------------------------------------------------------- what the rank buys


def correlated_regression() -> tuple[BayesianModel, Tensor, Tensor]:
    """The last of four inputs is all but the sum of the rest: one direction is undetermined."""
    x = inputs(40, 3)
    x = torch.cat([x, x.sum(1, keepdim=True) + 0.05 * inputs(40, 1, seed=1)], dim=1)
    net = torch.nn.Linear(4, 1, dtype=F64)
    for parameter in net.parameters():
        parameter.data.zero_()
    model = BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.3))
    return model, x, targets(x)


def maximise_exact_elbo(guide: LowRankNormal, x: Tensor, y: Tensor) -> None:
    """By L-BFGS on draws of mean 0 and covariance I: exact for a quadratic log joint."""
    noise = torch.cat([torch.eye(len(guide.loc) + guide.rank, dtype=F64)] * 2)
    noise *= len(noise) ** 0.5 / 2**0.5
    noise[len(noise) // 2 :] *= -1
    optimizer = torch.optim.LBFGS(guide.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        pieces = (n.split([len(guide.loc), guide.rank]) for n in noise)
        loss = torch.stack([guide.loss_at(*piece, x, y, size=len(x)) for piece in pieces]).mean()
        loss.backward()
        return loss

    optimizer.step(closure)


def test_rank_closes_the_gap_to_the_exact_posterior() -> None:
    model, x, y = correlated_regression()
    exact = fit(model, Exact, (x, y)).guide
    target = MultivariateNormal(exact.loc.detach(), scale_tril=exact.scale_tril)
    gap = {}
    for rank in (0, 1, model.num_params):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            guide = LowRankNormal(model, rank=rank, init_scale=0.1)
        maximise_exact_elbo(guide, *model.check_data(x, y))
        gap[rank] = kl_divergence(dense(guide), target).item()
    assert gap[0] > 2.5  # rank 0 is mean-field
    assert gap[1] < gap[0] / 30
    assert gap[model.num_params] < 1e-6


def test_fit_gets_closer_to_the_exact_posterior_than_mean_field() -> None:
    model, x, y = correlated_regression()
    exact = fit(model, Exact, (x, y)).guide
    target = MultivariateNormal(exact.loc.detach(), scale_tril=exact.scale_tril)
    options = {"epochs": 1200, "lr": 0.1, "schedule": "cosine", "progress": False}
    gap = {}
    for rank in (0, 1):
        make = partial(LowRankNormal, rank=rank, init_scale=0.1)
        gap[rank] = kl_divergence(dense(fit(model, make, (x, y), **options).guide), target).item()
    assert gap[0] > 2.5
    assert gap[1] < gap[0] / 5


# --------------------------------------------------------------------------------- its options


@pytest.mark.parametrize("rank", [-1, 32, 2.0, True, "3"])
def test_the_rank_is_between_0_and_the_number_of_parameters(rank: object) -> None:
    with pytest.raises(ValueError, match="rank must be an integer from 0 to .*31; got"):
        LowRankNormal(CASES["mlp"]().model, rank=rank)


def test_the_initial_scale_is_positive() -> None:
    with pytest.raises(ValueError, match="init_scale must be a positive"):
        LowRankNormal(CASES["mlp"]().model, rank=1, init_scale=0.0)


def test_no_parameters_are_needed_for_the_distribution() -> None:
    """A subclass may keep its tensors as it likes, without any column of V at first."""

    class Stored(LowRankPlusDiagonal):
        def __init__(self, model: BayesianModel) -> None:
            super().__init__(model)
            self.register_buffer("loc", random_flat(model, seed=1))
            self.register_buffer("deviations", self.loc.new_zeros(0, model.num_params))

        def scale_and_factor(self) -> tuple[Tensor, Tensor]:
            return torch.full_like(self.loc, 0.1), self.deviations.mT

        def loss(self, x: Tensor, y: Tensor, *, size: int) -> Tensor:
            raise NotImplementedError

    guide = Stored(CASES["mlp"]().model)
    for columns in (0, 2):
        guide.deviations = 0.1 * torch.ones(columns, len(guide.loc), dtype=F64)
        draws = guide.sample(3, generator=torch.Generator().manual_seed(0))
        u = guide.model.layout.ravel(draws)
        torch.testing.assert_close(guide.log_prob(draws), dense(guide).log_prob(u), **CLOSE)
