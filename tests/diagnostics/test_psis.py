"""Pareto k-hat: tails of known shape, exact posteriors, and ones that are deliberately off."""

from __future__ import annotations

import math
from copy import deepcopy

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from guide_cases import PAIRS, build
from model_cases import CASES, F64, inputs, random_flat, targets
from scipy import stats
from torch import Tensor

from probml_tp import (
    BayesianModel,
    Exact,
    Gaussian,
    Guide,
    Laplace,
    LinearizedLaplace,
    LowRankNormal,
    MeanFieldNormal,
    Posterior,
    StudentTPrior,
    fit,
)
from probml_tp.diagnostics import ParetoK, k_threshold, pareto_k
from probml_tp.diagnostics.psis import k_error, layers_of, smoothed_weights


def scaled(posterior: Posterior, factor: float) -> Posterior:
    """The same normal with all standard deviations multiplied."""
    other = deepcopy(posterior.guide)
    object.__setattr__(other, "model", posterior.model)
    other.factor_list[0].scale_tril = factor * other.factor_list[0].scale_tril
    return Posterior(other)


def exact(case: str = "linear") -> tuple[Posterior, Tensor, Tensor]:
    built = CASES[case]()
    return fit(built.model, Exact, (built.x, built.y)), built.x, built.y


def test_the_exact_posterior_has_no_tail():
    posterior, x, y = exact()
    found = pareto_k(posterior, x, y)
    assert found.k == -math.inf
    assert found.ess == pytest.approx(1000)
    assert found.layers == {posterior.model.name: -math.inf}


@pytest.mark.parametrize(("factor", "low", "high"), [(0.3, 0.7, 1.1), (1.5, -math.inf, 0.2)])
def test_too_narrow_is_bad_and_too_wide_is_not(factor, low, high):
    posterior, x, y = exact()
    found = pareto_k(scaled(posterior, factor), x, y, num_samples=4000)
    assert low < found.k < high
    assert (found.k > found.threshold) == (factor < 1)
    assert found.verdict.startswith("good" if factor > 1 else ("bad", "very bad"))


@pytest.mark.parametrize("scale", [0.3, 0.6, 0.8])
def test_a_normal_of_scale_s_has_k_of_one_minus_s_squared(scale):
    r"""Under q the ratio's tail is :math:`t^{-1/(1-s^2)}`, up to a logarithm."""
    draws = torch.from_numpy(stats.norm(scale=scale).rvs(200_000, random_state=0))
    ratios = stats.norm.logpdf(draws) - stats.norm(scale=scale).logpdf(draws)
    _, k = smoothed_weights(np.asarray(ratios))
    assert float(k) == pytest.approx(1 - scale**2, abs=0.1)


class StudentGuide(Guide):
    """Independent Student-t's around 0, of any degrees of freedom."""

    def __init__(self, model: BayesianModel, *, df: float) -> None:
        super().__init__(model)
        self.df = df

    def site_distributions(self):
        for name, shape in self.model.layout.shapes.items():
            t = dist.StudentT(torch.tensor(self.df, dtype=F64)).expand(shape)
            yield name, t.to_event(len(shape))

    def sample(self, num_samples, *, generator=None):
        seed = int(torch.randint(2**31, (), generator=generator))
        shapes = self.model.layout.shapes
        t = stats.t(self.df)
        values = {n: t.rvs((num_samples, *s), random_state=seed) for n, s in shapes.items()}
        return {n: torch.from_numpy(v) for n, v in values.items()}

    def log_prob(self, draws):
        return sum(d.log_prob(draws[n]) for n, d in self.site_distributions())

    def loss(self, x, y, *, size):
        raise NotImplementedError


class Nothing(torch.nn.Module):
    """A net of one parameter that its output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros((), dtype=F64))

    def forward(self, x: Tensor) -> Tensor:
        return 0 * self.w + torch.zeros(len(x), 1, dtype=F64)


@pytest.mark.parametrize(("target", "df", "expected"), [(3.0, 6.0, 0.5), (2.0, 8.0, 0.75)])
def test_student_t_tails_have_their_known_shape(target, df, expected):
    r"""For degrees of freedom :math:`\nu_p < \nu_q` it is :math:`(\nu_q - \nu_p) / \nu_q`."""
    model = BayesianModel(Nothing(), StudentTPrior(df=target, scale=1.0), Gaussian(scale=1.0))
    posterior = Posterior(StudentGuide(model, df=df), seed=1)
    found = pareto_k(posterior, [[0.0]], [0.0], num_samples=20_000)
    assert found.k == pytest.approx(expected, abs=0.12)
    assert found.layers == {}


def test_a_layer_that_is_off_is_told_from_one_that_is_right():
    """Given the others at the mode the last layer's conditional is exact, until it is narrowed."""
    case = CASES["mlp"]()
    posterior = fit(case.model, Laplace, (case.x, case.y), epochs=30, optimizer="lbfgs")
    before = pareto_k(posterior, case.x, case.y).layers
    factor, slices = posterior.guide.factor_list[0], case.model.layout.slices
    root = factor.scale_tril.clone()
    for name in ("fc3.weight", "fc3.bias"):
        root[slices[name]] *= 0.2
    factor.scale_tril = root
    after = pareto_k(posterior, case.x, case.y).layers
    assert list(after) == ["fc1", "fc2", "fc3"]
    assert after["fc3"] > 0.7 > before["fc3"] == -math.inf
    for layer in ("fc1", "fc2"):
        assert after[layer] == pytest.approx(before[layer], rel=1e-9)


def test_layers_are_modules_and_noise_is_one_of_its_own():
    model = CASES["mlp-half-normal"]().model
    layers = layers_of(model)
    assert layers["fc1"] == ["fc1.weight", "fc1.bias"]
    assert list(layers)[-1] == "likelihood"
    assert [n for names in layers.values() for n in names] == list(model.sites)


CONDITIONALS = [
    (g, c)
    for g, c in PAIRS
    if c in ("mlp", "mlp-half-normal")
    and g in ("mean-field", "low-rank-normal", "laplace", "laplace-kronecker", "laplace-diagonal")
]


@pytest.mark.parametrize(("name", "case"), CONDITIONALS)
def test_conditionals_have_the_covariance_of_the_precision_block(name, case):
    r"""Whitened by :math:`\Lambda_{ll}`, from autograd's Hessian of log q, they are standard."""
    guide, built = build(name, case)
    layout, sites = built.model.layout, ["fc2.weight", "fc2.bias"]
    draws = guide.conditional_draws(sites, 4000, generator=torch.Generator().manual_seed(0))
    u = layout.ravel(built.model.unconstrain(draws))
    block = torch.cat([torch.arange(layout.size)[layout.slices[s]] for s in sites])
    rest = torch.ones(layout.size, dtype=torch.bool)
    rest[block] = False
    centre = guide.loc.detach()
    torch.testing.assert_close(u[:, rest], centre[rest].expand(4000, -1), rtol=1e-9, atol=1e-12)

    def log_q(part: Tensor) -> Tensor:
        flat = layout.unravel(centre.index_put((block,), part).unsqueeze(0))
        log_det = built.model.log_abs_det_jacobian(flat)
        return (guide.log_prob(built.model.constrain(flat)) + log_det).squeeze()

    precision = -torch.autograd.functional.hessian(log_q, centre[block])
    white = (u[:, block] - centre[block]) @ torch.linalg.cholesky(precision)
    squares = white.square().sum(1)
    error = math.sqrt(2 * len(block) / 4000)
    assert abs(float(squares.mean()) - len(block)) < 5 * error
    assert white.mean(0).abs().max() < 5 / math.sqrt(4000)
    correlation = white.mT @ white / 4000 - torch.eye(len(block), dtype=F64)
    assert correlation.abs().max() < 6 * math.sqrt(2 / 4000)


@pytest.mark.parametrize("name", ["laplace", "low-rank-normal"])
def test_conditionals_are_narrower_than_marginals(name):
    """The negative control of the test above: the marginals are something else."""
    guide, _ = build(name, "mlp")
    generator = torch.Generator().manual_seed(0)
    given = guide.conditional_draws(["fc2.weight"], 4000, generator=generator)["fc2.weight"]
    free = guide.sample(4000, generator=generator)["fc2.weight"]
    assert given.var(0).sum() < 0.97 * free.var(0).sum()


def test_the_linearised_guide_is_judged_by_the_linearised_model():
    """There the generalised Gauss-Newton curvature is exact: no tail, unlike with the net."""
    case = CASES["mlp"]()
    options = {"epochs": 30, "optimizer": "lbfgs"}
    linear = fit(case.model, LinearizedLaplace, (case.x, case.y), **options)
    net = fit(case.model, Laplace, (case.x, case.y), **options)
    assert pareto_k(linear, case.x, case.y).k == -math.inf
    assert pareto_k(net, case.x, case.y).k > 0


def test_seeds_determine_the_number():
    posterior, x, y = exact()
    narrow = scaled(posterior, 0.5)
    assert pareto_k(narrow, x, y, seed=1) == pareto_k(narrow, x, y, seed=1)
    assert pareto_k(narrow, x, y, seed=1) != pareto_k(narrow, x, y, seed=2)


@pytest.mark.parametrize("name", ["map", "mc-dropout", "deep-ensemble", "laplace-last-layer"])
def test_guides_without_a_density_are_refused(name):
    guide, case = build(name, "mlp")
    with pytest.raises(ValueError, match="Pareto k-hat needs a density; .*(point|discrete)"):
        pareto_k(Posterior(guide), case.x, case.y)


def test_few_draws_are_refused():
    posterior, x, y = exact()
    with pytest.raises(ValueError, match="at least 100; got 99"):
        pareto_k(posterior, x, y, num_samples=99)


def test_overflow_is_refused():
    model = CASES["mlp"]().model
    guide = MeanFieldNormal(model)
    guide.loc.data = torch.full_like(guide.loc, 1e200)
    x = inputs(5, 2)
    with pytest.raises(ValueError, match="importance ratios must be numbers"):
        pareto_k(Posterior(guide), x, targets(x), num_samples=100)


@pytest.mark.parametrize(
    ("k", "says"), [(0.2, "good"), (0.68, "unsure"), (0.9, "bad"), (1.3, "very bad")]
)
def test_verdicts(k, says):
    found = ParetoK(k, 10.0, 1000)
    assert found.threshold == k_threshold(1000) == pytest.approx(2 / 3)
    assert found.verdict.startswith(says)


def test_a_low_rank_guide_of_rank_0_is_independent():
    case = CASES["mlp"]()
    guide = LowRankNormal(case.model, rank=0)
    guide.loc.data = random_flat(case.model, seed=3)
    draws = guide.conditional_draws(["fc1.bias"], 7, generator=torch.Generator())
    assert draws["fc1.bias"].std() > 0


def test_a_prior_with_a_flat_part_is_fine():
    posterior, x, y = exact("flat-prior")
    assert pareto_k(posterior, x, y).k == -math.inf


@pytest.mark.parametrize("shape", [0.2, 0.7])
@pytest.mark.parametrize("num_samples", [200, 1000])
def test_the_standard_error_is_that_of_repeated_fits(shape, num_samples):
    log_ratios = shape * np.random.default_rng(0).exponential(size=(400, num_samples))  # Pareto
    found = smoothed_weights(log_ratios)[1]
    expected = np.mean([k_error(k, num_samples) for k in found])
    sd_of_sd = 1 / np.sqrt(2 * len(found))
    assert found.std(ddof=1) == pytest.approx(expected, rel=5 * sd_of_sd)
