"""The log evidence: bounds and estimates against closed forms, quadrature and each other."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from guide_cases import build
from model_cases import CASES, F64, inputs, labels, targets
from scipy import integrate
from torch import Tensor, nn

from probml_tp import (
    BayesianModel,
    Bernoulli,
    Exact,
    FlatPrior,
    Gaussian,
    Laplace,
    MeanFieldNormal,
    NormalPrior,
    Posterior,
    elbo,
    fit,
    sample_nuts,
)
from probml_tp.diagnostics import annealed_importance_sampling, bridge_sampling, iwelbo
from probml_tp.diagnostics.evidence.bridge import _bridge, log_joints
from probml_tp.diagnostics.evidence.iwelbo import log_mean_exp
from probml_tp.empirical import Empirical
from probml_tp.models import PolynomialBasis, linear_regression, logistic_regression

Data = tuple[Tensor, Tensor]


@cache
def conjugate() -> tuple[Posterior, Data]:
    """A cubic: four parameters, strongly correlated."""
    x = inputs(25, 1)
    data = (x, targets(x))
    model = linear_regression(PolynomialBasis(degree=3), prior=NormalPrior(1.0), likelihood=0.3)
    return fit(model, Exact, data), data


def as_chain(posterior: Posterior, draws: int = 1000) -> Posterior:
    """Independent draws of a posterior, as two chains."""
    chains = {n: v.unflatten(0, (2, -1)) for n, v in posterior.draws(draws).items()}
    return Posterior(Empirical(posterior.model, draws=chains))


@cache
def logistic() -> tuple[BayesianModel, Data, Posterior]:
    """A logistic regression and its NUTS chains."""
    x = inputs(40, 2)
    data = (x, labels(x, 2))
    model = logistic_regression(2, prior=NormalPrior(1.5))
    return model, data, sample_nuts(model, data, draws=150, warmup=100, chains=2, jobs=1)


def mean_field(posterior: Posterior) -> Posterior:
    """Independent normals with the exact conditional variances: what the optimum is."""
    guide = MeanFieldNormal(posterior.model)
    guide.loc.data = posterior.guide.loc.data.clone()
    precision = torch.linalg.inv(posterior.guide.covariance())
    guide.log_scale.data = -0.5 * precision.diagonal().log()
    return Posterior(guide)


class Slope(nn.Module):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros((), dtype=F64))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x


@cache
def one_weight() -> tuple[BayesianModel, Data, float]:
    """A logistic regression of one weight, with its log evidence by quadrature."""
    x = inputs(30, 1)
    y = labels(x, 2)
    model = BayesianModel(Slope(), NormalPrior(2.0), Bernoulli())

    def density(w: float) -> float:
        params = {"w": torch.tensor(w, dtype=F64)}
        return math.exp(float(model.log_joint(params, *model.check_data(x, y))) + 15)

    value, _ = integrate.quad(density, -10, 15, points=[0, 1, 2, 3], epsabs=0, epsrel=1e-10)
    return model, (x, y), math.log(value) - 15


# ------------------------------------------------------------------------------------ bounds


def test_of_the_exact_posterior_every_draw_is_the_evidence():
    posterior, data = conjugate()
    found = iwelbo(posterior, *data)
    assert found.value == pytest.approx(posterior.guide.log_evidence(), abs=1e-9)
    assert found.log_evidence.value == pytest.approx(posterior.guide.log_evidence(), abs=1e-9)
    assert found.standard_error < 1e-9
    assert found.pareto_k == -math.inf


def test_bounds_rise_with_draws_towards_the_evidence():
    posterior, data = conjugate()
    guide, evidence = mean_field(posterior), posterior.guide.log_evidence()
    bounds = [iwelbo(guide, *data, draws=K, num_samples=4000) for K in (1, 5, 50)]
    for lower, higher in pairwise(bounds):
        gap = math.hypot(lower.standard_error, higher.standard_error)
        assert higher.value - lower.value > 3 * gap
    for bound in bounds:
        assert bound.value < evidence + 5 * bound.standard_error
    assert bounds[0].value < evidence - 5 * bounds[0].standard_error
    one = elbo(guide, *data, num_samples=4000)
    assert bounds[0][:2] == pytest.approx(tuple(one), rel=1e-12)


def test_all_draws_together_estimate_the_evidence():
    """From a guide whose weights have a variance: the exact posterior, half as wide again."""
    posterior, data = conjugate()
    wide = Laplace(posterior.model)
    wide.load_tensors(
        dict(posterior.guide.state_dict())
        | {"factors.0.scale_tril": 1.5 * posterior.guide.scale_tril}
    )
    found = iwelbo(Posterior(wide), *data, num_samples=4000)
    value, error = found.log_evidence
    assert 0 < error < 0.05
    assert abs(value - posterior.guide.log_evidence()) < 5 * error
    assert found.value < value
    assert found.pareto_k < 0.5


def test_the_standard_error_is_the_spread_over_seeds():
    posterior, data = conjugate()
    guide = mean_field(posterior)
    repeats = [iwelbo(guide, *data, draws=10, num_samples=500, seed=s) for s in range(25)]
    spread = np.std([r.value for r in repeats], ddof=1)
    assert np.mean([r.standard_error for r in repeats]) == pytest.approx(spread, rel=0.4)


def test_weights_in_the_mean():
    weights = torch.tensor([1.0, 3.0, 2.0, 6.0], dtype=F64)
    value, error = log_mean_exp(weights.log() + 700)
    assert value == pytest.approx(math.log(3) + 700)
    assert error == pytest.approx(float(weights.std()) / (2 * 3))


# ------------------------------------------------------------------------------------ bridge


def test_the_bridge_finds_the_evidence_of_a_conjugate_model():
    posterior, data = conjugate()
    value, error = bridge_sampling(as_chain(posterior), *data)
    assert 0 < error < 0.1
    assert abs(value - posterior.guide.log_evidence()) < 5 * error


@pytest.mark.parametrize("autocorrelation", [0.0, 0.8])
def test_the_bridge_of_two_known_normals(autocorrelation):
    """Against the ratio of their constants, with an error that is honest for a chain too."""
    rng, found = np.random.default_rng(0), []

    def log_l(u):
        return -0.5 * u**2 + 7 - (-0.5 * ((u - 0.5) / 1.5) ** 2 - math.log(1.5))

    for _ in range(60):
        p, g = rng.normal(0, 1, (2, 500)), rng.normal(0.5, 1.5, 1000)
        for n in range(1, 500):
            p[:, n] = autocorrelation * p[:, n - 1] + (1 - autocorrelation**2) ** 0.5 * p[:, n]
        found.append(_bridge(log_l(p), log_l(g)))
    values, errors = np.array(found).T
    assert abs(values.mean() - 7) < 5 * values.std() / 60**0.5
    assert errors.mean() == pytest.approx(values.std(), rel=0.35)


def test_a_bridge_between_far_banks_says_so():
    """Draws of two normals six standard deviations apart: a root all the same, of a large error."""
    rng = np.random.default_rng(0)

    def log_l(u):
        return -0.5 * u**2 + 0.5 * (u - 6) ** 2

    value, error = _bridge(log_l(rng.normal(0, 1, (2, 500))), log_l(rng.normal(6, 1, 1000)))
    assert error > 0.3
    assert abs(value) < 5 * error
    with pytest.raises(ValueError, match="have a density of 0"):
        _bridge(log_l(rng.normal(0, 1, (2, 500))), np.full(9, -np.inf))


def test_the_bridge_of_a_constrained_site():
    """A noise on the positive reals: a line through the origin, by quadrature over both."""
    x = inputs(20, 1)
    y = 0.7 * x + 0.4 * torch.randn(20, 1, generator=torch.Generator().manual_seed(4), dtype=F64)
    model = BayesianModel(Slope(), NormalPrior(1.0), Gaussian(dist.HalfNormal(1.0)))
    xs, ys = model.check_data(x, y)
    slopes = torch.linspace(-0.5, 1.9, 121, dtype=F64)
    noises = torch.linspace(0.15, 1.2, 141, dtype=F64)
    site = next(n for n in model.sites if n != "w")
    grid = torch.cartesian_prod(slopes, noises)
    residual = ys - grid[:, :1] * xs.squeeze(-1)
    log_p = torch.distributions.Normal(0.0, grid[:, 1:]).log_prob(residual).sum(1)
    log_p += model.log_prior({"w": grid[:, 0], site: grid[:, 1]})
    cell = (slopes[1] - slopes[0]) * (noises[1] - noises[0])
    evidence = float(log_p.logsumexp(0) + cell.log())
    picks = log_p.softmax(0).multinomial(1000, replacement=True, generator=torch.Generator())
    draws = grid[picks] + (torch.rand(1000, 2, generator=torch.Generator(), dtype=F64) - 0.5) * (
        torch.stack([slopes[1] - slopes[0], noises[1] - noises[0]])
    )
    chain = {"w": draws[:, 0].reshape(2, 500), site: draws[:, 1].reshape(2, 500)}
    value, error = bridge_sampling(Posterior(Empirical(model, draws=chain)), x, y)
    assert abs(value - evidence) < 5 * error < 0.3
    annealed = annealed_importance_sampling(model, x, y, temperatures=80, leapfrog_steps=2)
    assert abs(annealed.value - evidence) < 5 * annealed.standard_error < 0.75


def test_log_joints_at_many_vectors():
    case = CASES["mlp-half-normal"]()
    flat = torch.randn(60, case.model.num_params, dtype=F64, generator=torch.Generator())
    x, y = case.model.check_data(case.x, case.y)
    one_by_one = torch.stack([case.model.log_joint_flat(u, x, y) for u in flat])
    torch.testing.assert_close(log_joints(case.model, flat, x, y), one_by_one)


# ------------------------------------------------------------------------------------ annealing


@pytest.mark.parametrize("start", ["prior", "mean-field"])
def test_annealing_finds_the_evidence_of_a_conjugate_model(start):
    posterior, data = conjugate()
    found = annealed_importance_sampling(
        posterior.model,
        *data,
        start=None if start == "prior" else mean_field(posterior),
        temperatures=150 if start == "prior" else 30,
        leapfrog_steps=3,
    )
    assert abs(found.value - posterior.guide.log_evidence()) < 5 * found.standard_error
    assert 0 < found.standard_error < 0.2
    assert 30 < found.ess <= 200
    assert 0.6 < found.acceptance_rate < 0.95


def test_annealing_at_one_temperature_is_importance_sampling():
    """From the prior that does not do."""
    posterior, data = conjugate()
    once = annealed_importance_sampling(posterior.model, *data, temperatures=1)
    assert once.ess < 20
    assert abs(once.value - posterior.guide.log_evidence()) > 0.5


def test_annealing_is_unbiased():
    """The mean of many estimates of the evidence itself, each from few particles."""
    posterior, data = conjugate()
    exact, start = posterior.guide.log_evidence(), mean_field(posterior)
    ratios = [
        math.exp(
            annealed_importance_sampling(
                posterior.model, *data, start=start, particles=40, temperatures=5, seed=seed
            ).value
            - exact
        )
        for seed in range(15)
    ]
    assert abs(np.mean(ratios) - 1) < 5 * np.std(ratios, ddof=1) / 15**0.5


def test_seeds_determine_the_estimate():
    posterior, data = conjugate()
    options = {"particles": 10, "temperatures": 5}
    first, again, other = (
        annealed_importance_sampling(posterior.model, *data, seed=s, **options) for s in (0, 0, 1)
    )
    assert first == again != other


# ------------------------------------------------------------------------------------ all of them


def test_all_agree_with_quadrature_on_one_weight():
    model, data, evidence = one_weight()
    laplace = fit(model, Laplace, data, epochs=30, optimizer="lbfgs")
    w = torch.linspace(-5, 10, 20_001, dtype=F64)
    flat_joint = log_joints(model, w.unsqueeze(-1), *model.check_data(*data))
    picks = flat_joint.softmax(0).multinomial(1000, replacement=True, generator=torch.Generator())
    chain = Posterior(Empirical(model, draws={"w": w[picks].reshape(2, 500)}))
    found = {
        "importance": iwelbo(laplace, *data, num_samples=4000).log_evidence,
        "bridge": bridge_sampling(chain, *data),
        "annealing": annealed_importance_sampling(model, *data, temperatures=60, leapfrog_steps=2)[
            :2
        ],
    }
    for name, (value, error) in found.items():
        assert abs(value - evidence) < 5 * error, name
        assert error < 0.15, name
    assert abs(laplace.guide.log_evidence() - evidence) < 0.1


def test_all_agree_on_a_logistic_regression():
    model, data, chain = logistic()
    laplace = fit(model, Laplace, data, epochs=30, optimizer="lbfgs")
    estimates = [
        iwelbo(laplace, *data, num_samples=4000).log_evidence,
        bridge_sampling(chain, *data),
        annealed_importance_sampling(model, *data, temperatures=60, leapfrog_steps=2)[:2],
    ]
    for value, error in estimates:
        for other, own in estimates:
            assert abs(value - other) <= 5 * math.hypot(error, own)


# ------------------------------------------------------------------------------------ bad input


def test_flat_priors_are_refused():
    x = inputs(10, 1)
    data = (x, targets(x))
    model = linear_regression(PolynomialBasis(degree=1), prior=FlatPrior(), likelihood=0.3)
    posterior = fit(model, Exact, data)
    draws = {n: v.unsqueeze(0) for n, v in posterior.draws(50).items()}
    chain = Posterior(Empirical(model, draws=draws))
    for call in (
        lambda: iwelbo(posterior, *data),
        lambda: bridge_sampling(chain, *data),
        lambda: annealed_importance_sampling(model, *data),
    ):
        with pytest.raises(ValueError, match="needs a proper prior"):
            call()


def test_what_is_no_chain_or_has_no_density_is_refused():
    guide, case = build("map", "mlp")
    with pytest.raises(ValueError, match="bound needs a density; MAP is a point"):
        iwelbo(Posterior(guide), case.x, case.y)
    with pytest.raises(ValueError, match="needs draws of the posterior itself; the map guide"):
        bridge_sampling(Posterior(guide), case.x, case.y)
    with pytest.raises(ValueError, match="start of annealing needs a density"):
        annealed_importance_sampling(case.model, case.x, case.y, start=Posterior(guide))


def test_a_start_of_another_model_is_refused():
    guide, _ = build("mean-field", "mlp-heavy-tails")
    case = CASES["mlp"]()
    with pytest.raises(ValueError, match="annealing must start at a posterior of the same model"):
        annealed_importance_sampling(case.model, case.x, case.y, start=Posterior(guide))


def test_short_and_stuck_chains_are_refused():
    posterior, data = conjugate()

    def chain(draws):
        return Posterior(Empirical(posterior.model, draws=draws))

    few = {n: v.unsqueeze(0) for n, v in posterior.draws(10).items()}
    with pytest.raises(ValueError, match="at least 6 of them for 4 parameters; got 5"):
        bridge_sampling(chain(few), *data)
    stuck = {n: v[:, :1].expand(1, 40, *v.shape[2:]) for n, v in few.items()}
    with pytest.raises(ValueError, match="vary in every direction"):
        bridge_sampling(chain(stuck), *data)
    with pytest.raises(ValueError, match="draws=50 and num_samples=20"):
        iwelbo(posterior, *data, num_samples=20)
