"""Simulation-based calibration: right posteriors pass, each kind of wrong one is found out."""

from __future__ import annotations

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from model_cases import CASES
from torch import nn

from probml_tp import (
    BayesianModel,
    Exact,
    FlatPrior,
    Gaussian,
    Laplace,
    MeanFieldNormal,
    NormalPrior,
    Posterior,
    fit,
    sample_nuts,
)
from probml_tp.diagnostics import SbcResult, simulation_based_calibration
from probml_tp.empirical import Empirical
from probml_tp.models import LinearBasis, linear_regression

F64 = torch.float64
X = torch.linspace(1, 3, 8, dtype=F64).unsqueeze(-1)
"""Away from 0, so that intercept and slope are strongly correlated."""

DRAWS = 19

CHANCE = 1e-3
"""Uniform ranks have a smaller p-value once in a thousand seeds."""

FIVE_SIGMA = 5.7e-7
"""The two-sided probability beyond five standard errors: wrong posteriors fall below it."""


@pytest.fixture(scope="module")
def model():
    return linear_regression(LinearBasis(), prior=NormalPrior(1.0), likelihood=0.5)


def conditioned(kind):
    """Inference by a guide that has a closed form, without what ``fit`` checks each time."""

    def infer(model, data, seed):
        guide = kind(model)
        guide.finalize(*data)
        return Posterior(guide, seed=seed)

    return infer


exact = conditioned(Exact)


class Distorted(Exact):
    """The exact posterior, stretched about its mean and moved by so many standard deviations."""

    stretch, shift = 1.0, 0.0

    def sample(self, num_samples, *, generator=None):
        flat = self.model.layout.ravel(super().sample(num_samples, generator=generator))
        moved = self.loc + self.stretch * (flat - self.loc) + self.shift * flat.std(0)
        return self.model.layout.unravel(moved)


def distorted(*, stretch=1.0, shift=0.0):
    return conditioned(type("Kind", (Distorted,), {"stretch": stretch, "shift": shift}))


def normal(model, loc, scale, seed):
    guide = MeanFieldNormal(model)
    guide.loc.data = loc.to(guide.loc)
    guide.log_scale.data = scale.log().to(guide.loc)
    return Posterior(guide, seed=seed)


def best_mean_field(model, data, seed):
    """The optimum in closed form: the exact mean and conditional variances (Bishop, eq. 10.12)."""
    loc, precision = Exact(model).solve(*data)
    return normal(model, loc, precision.diagonal() ** -0.5, seed)


def prior(model, data, seed):
    zeros = torch.zeros(model.num_params)
    return normal(model, zeros, zeros + 1, seed)


def calibrate(model, infer, x=X, *, simulations=200, num_samples=DRAWS, **options):
    return simulation_based_calibration(
        model,
        infer,
        x,
        **{
            "simulations": simulations,
            "num_samples": num_samples,
            "jobs": 1,
            "progress": False,
            **options,
        },
    )


@pytest.fixture(scope="module")
def right(model):
    return calibrate(model, exact)


# ----------------------------------------------------------------------- what the ranks tell


def test_the_exact_posterior_passes(right):
    assert right.quantities == ("weight[0]", "weight[1]", "log_likelihood")
    assert right.p_value > CHANCE
    assert all(test.symmetry_p_value > CHANCE for test in right.uniformity().values())


def test_nuts_passes_with_nearly_independent_draws():
    net = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(net.weight)  # where chains start
    model = BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.5))

    def nuts(model, data, seed):
        return sample_nuts(model, data, chains=1, warmup=60, draws=190, seed=seed, progress=False)

    result = calibrate(model, nuts, simulations=12, num_samples=19)
    assert result.p_value > CHANCE
    assert result.relative_ess.shape == (2,)
    assert (result.relative_ess > 0.8).all()


@pytest.mark.parametrize(
    ("distortion", "verdict"),
    [
        ({"stretch": 1.5}, "too wide"),
        ({"stretch": 0.7}, "too narrow"),
        ({"shift": 0.6}, "biased high"),
        ({"shift": -0.6}, "biased low"),
    ],
)
def test_a_distorted_posterior_is_found_out(model, distortion, verdict):
    result = calibrate(model, distorted(**distortion), simulations=250)
    assert result.p_value < FIVE_SIGMA
    tests = result.uniformity()
    assert {tests[name].verdict() for name in ("weight[0]", "weight[1]")} == {verdict}


def test_the_best_mean_field_is_too_narrow_where_weights_are_correlated(model):
    result = calibrate(model, best_mean_field)
    tests = result.uniformity()
    for name in ("weight[0]", "weight[1]"):
        assert tests[name].verdict() == "too narrow"
        assert tests[name].p_value < FIVE_SIGMA
        counts = np.bincount(result.ranks_of(name), minlength=DRAWS + 1).reshape(10, -1).sum(1)
        assert min(counts[0], counts[-1]) > 2 * counts[1:-1].max()  # a U


def test_a_fitted_mean_field_is_the_best(model):
    data = X, torch.sin(X[:, 0])
    fitted = fit(model, MeanFieldNormal, data, epochs=2000, lr=0.02, progress=False).guide
    best = best_mean_field(model, data, 0).guide
    torch.testing.assert_close(fitted.log_scale, best.log_scale, atol=0.1, rtol=0)


def test_only_the_log_likelihood_tells_the_prior_from_the_posterior(model):
    tests = calibrate(model, prior).uniformity()
    assert tests["weight[0]"].p_value > CHANCE
    assert tests["weight[1]"].p_value > CHANCE
    assert tests["log_likelihood"].p_value < FIVE_SIGMA


def test_spread_and_z_scores_are_those_of_the_posterior(model, right):
    _, precision = Exact(model).solve(X, torch.zeros(len(X), dtype=F64))
    variance = precision.inverse().diagonal().numpy()
    error = variance * np.sqrt(2 / (DRAWS - 1) / right.simulations)
    assert (np.abs((right.sd[:, :2] ** 2).mean(0) - variance) < 5 * error).all()
    np.testing.assert_allclose(
        right.z_scores * right.sd, right.mean - right.truth, rtol=1e-9, atol=1e-9
    )
    expected = 1 - right.sd**2 / right.truth.var(0, ddof=1)
    np.testing.assert_allclose(right.contraction, expected)


# ------------------------------------------------------------------------- how they are made


def stored(model, values):
    """A chain of given values of both weights."""
    draws = values[:, None].expand(-1, 2).unsqueeze(0).contiguous()
    return Posterior(Empirical(model, method="by-hand", draws={"weight": draws}))


def test_ranks_count_the_draws_below(model):
    values = torch.tensor([0.3, -1.2, 1.0, -0.4, 0.0, 0.6, -0.8, 1.5, -0.1], dtype=F64)
    result = calibrate(model, lambda m, d, s: stored(m, values), num_samples=9, simulations=25)
    truth = result.truth[:, :2]
    np.testing.assert_array_equal(result.ranks[:, :2], np.searchsorted(np.sort(values), truth))


def test_a_chain_is_thinned_evenly_and_judged_by_its_effective_draws(model):
    generator = torch.Generator().manual_seed(0)
    walk = torch.randn(200, generator=generator, dtype=F64).cumsum(0)
    with pytest.warns(UserWarning, match="nearly independent draws; the 40 taken of each chain"):
        result = calibrate(model, lambda m, d, s: stored(m, walk), num_samples=40, simulations=3)
    np.testing.assert_allclose(result.mean[:, 0], walk[::5].mean())
    assert result.relative_ess[0] < 0.5


def test_few_simulations_of_independent_draws_raise_no_alarm(model):
    def infer(model, data, seed):
        generator = torch.Generator().manual_seed(seed)
        return stored(model, torch.randn(19, generator=generator, dtype=F64))

    result = calibrate(model, infer, simulations=3, seed=3)
    assert result.relative_ess.min() < 0.8  # by chance: warnings are errors here
    assert calibrate(model, infer, simulations=100).relative_ess.min() > 0.8


def test_ties_are_broken_at_random(model):
    result = calibrate(
        model,
        prior,
        quantities={"constant": lambda params: params["weight"][0] * 0},
        num_samples=9,
        simulations=200,
    )
    ranks = result.ranks_of("constant")
    error = np.sqrt((10**2 - 1) / 12 / 200)
    assert abs(ranks.mean() - 4.5) < 5 * error
    assert set(ranks) == set(range(10))


def test_the_seed_decides_whatever_the_number_of_processes(model):
    def infer(model, data, seed):  # local, so that it reaches the processes by value
        return fit(model, Exact, data, seed=seed, progress=False)

    one, two = (calibrate(model, infer, simulations=6, jobs=jobs) for jobs in (1, 2))
    for field in ("ranks", "truth", "mean", "sd"):
        np.testing.assert_array_equal(getattr(one, field), getattr(two, field))
    other = calibrate(model, infer, simulations=6, seed=1)
    assert (other.truth != one.truth).all()


def test_more_simulations_leave_the_first_as_they_are(model, right):
    fewer = calibrate(model, exact, simulations=5)
    np.testing.assert_array_equal(fewer.ranks, right.ranks[:5])


def test_random_numbers_of_the_caller_are_left_alone(model):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    calibrate(model, exact, simulations=2)
    assert torch.equal(before, torch.get_rng_state())


def test_progress_is_reported(model):
    seen = []
    calibrate(model, prior, simulations=3, progress=lambda *report: seen.append(report[:2]))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_classifiers_and_their_guides_run():
    case = CASES["logistic"]()
    result = calibrate(
        case.model,
        lambda model, data, seed: fit(
            model, Laplace, data, epochs=20, optimizer="lbfgs", seed=seed, progress=False
        ),
        case.x,
        simulations=4,
        num_samples=9,
    )
    assert result.ranks.shape == (4, case.model.num_params + 1)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("mlp-half-normal", ("log_prior", "f(x[0])", "f(x[5])", "f(x[9])", "log_likelihood")),
        ("linear", ("weight[0]", "weight[1]", "log_likelihood")),
    ],
)
def test_small_models_rank_parameters_and_large_ones_functions(case, expected):
    model, x = CASES[case]().model, CASES[case]().x

    def start(model, data, seed):
        return Posterior(MeanFieldNormal(model), seed=seed)

    result = calibrate(model, start, x, simulations=2, num_samples=5)
    assert result.quantities == expected


def test_a_noise_scale_is_a_parameter():
    net = nn.Linear(1, 1).double()
    model = BayesianModel(net, NormalPrior(1.0), Gaussian(dist.HalfNormal(1.0)))
    result = calibrate(
        model, lambda m, d, s: Posterior(MeanFieldNormal(m)), simulations=2, num_samples=5
    )
    names = ("weight[0,0]", "bias[0]", "noise_scale", "log_likelihood")
    assert result.quantities == names
    assert (result.truth[:, 2] > 0).all()


def test_differences_and_bands_start_and_end_at_zero():
    ranks = np.array([[0], [1], [1], [3]])
    zeros = np.zeros((4, 1))
    result = SbcResult(("h",), 3, ranks, zeros, zeros, zeros)
    np.testing.assert_allclose(result.grid, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(result.ecdf_difference("h"), [0, 0, 0.25, 0, 0])
    lower, upper = result.ecdf_band()
    assert lower[0] == upper[0] == lower[-1] == upper[-1] == 0
    assert (lower[1:-1] < 0).all() and (upper[1:-1] > 0).all()


# --------------------------------------------------------------------------- what is refused


def test_improper_priors_are_refused():
    model = linear_regression(LinearBasis(), prior=FlatPrior(), likelihood=0.5)
    with pytest.raises(ValueError, match="'weight' is improper.*NormalPrior"):
        calibrate(model, exact)


def test_data_that_overflow_are_refused():
    model = linear_regression(LinearBasis(), prior=NormalPrior(1e308), likelihood=0.5)
    with pytest.raises(ValueError, match="data simulated from the prior must be finite"):
        calibrate(model, exact)


@pytest.mark.parametrize(
    ("quantity", "got"),
    [
        (lambda params: params["weight"], r"'h' is shape \(2,\)"),
        (lambda params: params["weight"][0] / 0, "'h' is -?inf"),
    ],
)
def test_quantities_that_are_no_finite_numbers_are_refused(model, quantity, got):
    with pytest.raises(ValueError, match=f"a quantity must be a finite scalar; {got}"):
        calibrate(model, exact, quantities={"h": quantity})


def test_the_name_of_the_log_likelihood_is_taken(model):
    with pytest.raises(ValueError, match="'log_likelihood' is ranked always"):
        calibrate(model, exact, quantities={"log_likelihood": lambda p: p["weight"][0]})


def test_short_chains_are_refused(model):
    few = torch.zeros(5, dtype=F64)
    with pytest.raises(ValueError, match="at least the 9 draws that are ranked among; got 5"):
        calibrate(model, lambda m, d, s: stored(m, few), num_samples=9)


def test_a_posterior_of_another_model_is_refused(model):
    other = BayesianModel(nn.Linear(1, 1).double(), NormalPrior(1.0), Gaussian(scale=0.5))
    with pytest.raises(ValueError, match="of the sites weight; got weight, bias"):
        calibrate(model, lambda m, d, s: Posterior(MeanFieldNormal(other)))
    with pytest.raises(ValueError, match="must return a Posterior; got MeanFieldNormal"):
        calibrate(model, lambda m, d, s: MeanFieldNormal(m))


def test_an_error_of_a_fit_names_the_simulation(model):
    def fails(model, data, seed):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        calibrate(model, fails)
    assert caught.value.__notes__[0].startswith("(in simulation 0, fitted with seed ")


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"simulations": 0}, "simulations must be an integer"),
        ({"num_samples": 3}, "num_samples must be at least 4"),
        ({"jobs": 0}, "jobs must be an integer"),
        ({"seed": -1}, "seed must be an integer"),
    ],
)
def test_impossible_options_are_refused(model, options, rule):
    with pytest.raises(ValueError, match=rule):
        calibrate(model, exact, **options)


def test_unknown_quantities_and_things_that_are_no_models_are_refused(model, right):
    with pytest.raises(ValueError, match=r"got 'bias'. They are weight\[0\], weight\[1\], log_l"):
        right.ecdf_difference("bias")
    with pytest.raises(ValueError, match="needs a BayesianModel and a callable.*got Linear"):
        calibrate(nn.Linear(1, 1), exact)
    with pytest.raises(ValueError, match="got BayesianModel and str"):
        calibrate(model, "exact")
