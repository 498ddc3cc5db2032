"""Leave-one-out cross-validation: against closed forms, ArviZ's own, and without correction."""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module

import arviz as az
import numpy as np
import pytest
import torch
from guide_cases import build
from model_cases import CASES, F64, inputs, targets
from torch import Tensor

from probml_tp import (
    Exact,
    LinearizedLaplace,
    MeanFieldNormal,
    NormalPrior,
    Posterior,
    fit,
)
from probml_tp.diagnostics import loo
from probml_tp.diagnostics.loo import elpd_of
from probml_tp.empirical import Empirical
from probml_tp.models import LinearBasis, linear_regression

NOISE = 0.3


@cache
def line() -> tuple[Posterior, Tensor, Tensor]:
    x = inputs(30, 1)
    y = targets(x)
    model = linear_regression(LinearBasis(), prior=NormalPrior(1.0), likelihood=NOISE)
    return fit(model, Exact, (x, y)), x, y


def closed_form(x: Tensor, y: Tensor) -> np.ndarray:
    """The log predictive density of each point given the others, one refit a point."""
    design = torch.cat([torch.ones_like(x), x], 1)
    found = []
    for n in range(len(x)):
        rest = torch.arange(len(x)) != n
        precision = torch.eye(2, dtype=F64) + design[rest].mT @ design[rest] / NOISE**2
        mean = torch.linalg.solve(precision, design[rest].mT @ y[rest] / NOISE**2)
        variance = design[n] @ torch.linalg.solve(precision, design[n]) + NOISE**2
        normal = torch.distributions.Normal(design[n] @ mean, variance.sqrt())
        found.append(float(normal.log_prob(y[n])))
    return np.array(found)


def elpd_error(posterior: Posterior, x: Tensor, y: Tensor, repeats: int = 12) -> tuple[float, ...]:
    """The mean of the estimate over seeds, and its Monte Carlo error."""
    values = [loo(posterior, x, y, seed=seed).elpd_loo for seed in range(repeats)]
    return float(np.mean(values)), float(np.std(values, ddof=1) / repeats**0.5)


def mean_field(scale: float) -> Posterior:
    """Independent normals around the exact mean, much too wide."""
    posterior, _, _ = line()
    guide = MeanFieldNormal(posterior.model)
    guide.loc.data = posterior.guide.loc.data.clone()
    sd = torch.cat([v.flatten() for v in posterior.guide.marginal_variance().values()]).sqrt()
    guide.log_scale.data = (scale * sd).log()
    return Posterior(guide)


def test_exact_draws_give_the_closed_form():
    posterior, x, y = line()
    found, expected = loo(posterior, x, y, num_samples=4000), closed_form(x, y)
    np.testing.assert_allclose(found.loo_i.values, expected, atol=0.02)
    mean, error = elpd_error(posterior, x, y)
    assert abs(mean - expected.sum()) < 5 * error + 1e-3
    assert not found.warning
    assert 0.5 < found.p_loo < 3.5


def test_the_correction_repairs_a_guide_that_is_too_wide():
    """Without it the elpd is that of the guide, far below; with it that of the posterior."""
    _, x, y = line()
    wide, expected = mean_field(2.5), closed_form(x, y).sum()
    mean, error = elpd_error(wide, x, y)
    assert abs(mean - expected) < 5 * error + 1e-2
    log_p = wide.log_likelihood(x, y, num_samples=1000).detach().numpy()
    naive = elpd_of(np.zeros(1000), log_p, reff=1.0).elpd_loo
    assert naive < expected - 1
    assert abs(mean - expected) < 0.1 * abs(naive - expected)


def test_a_chain_gives_what_arviz_does():
    posterior, x, y = line()
    draws = {n: v.unflatten(0, (2, -1)) for n, v in posterior.draws(2000).items()}
    draws = {n: v.cummax(1)[0] * 0.02 + v for n, v in draws.items()}  # not independent
    chain = Posterior(Empirical(posterior.model, draws=draws))
    found = loo(chain, x, y)
    record = chain.to_inference_data(x, y)
    likelihoods = np.exp(record.log_likelihood)
    reff = min(float(az.ess(likelihoods, method="mean")["y"].mean()) / 2000, 1.0)
    theirs = az.loo(record, pointwise=True, reff=reff)
    assert list(found.index) == list(theirs.index)
    np.testing.assert_allclose(found.loo_i, theirs.loo_i, rtol=1e-10)
    np.testing.assert_allclose(found.pareto_k, theirs.pareto_k, rtol=1e-8)
    for name in ("elpd_loo", "se", "p_loo", "n_samples", "n_data_points", "warning", "good_k"):
        assert found[name] == pytest.approx(theirs[name], rel=1e-9)


def test_arviz_compares_models_by_it():
    posterior, x, y = line()
    flat = linear_regression(LinearBasis(), prior=NormalPrior(1e-3), likelihood=NOISE)
    worse = fit(flat, Exact, (x, y))
    with warnings.catch_warnings():  # of what ArviZ asks of pandas
        warnings.simplefilter("ignore")
        table = az.compare({"flat": loo(worse, x, y), "line": loo(posterior, x, y)})
    assert list(table.index) == ["line", "flat"]
    assert table.loc["flat", "elpd_diff"] > 5 * table.loc["flat", "dse"]
    assert "Pareto k diagnostic" in str(loo(posterior, x, y))


def test_the_linearised_guide_takes_the_linearised_model():
    case = CASES["mlp"]()
    posterior = fit(case.model, LinearizedLaplace, (case.x, case.y), epochs=30, optimizer="lbfgs")
    found = loo(posterior, case.x, case.y)
    log_p = posterior.log_likelihood(case.x, case.y, num_samples=1000).numpy()
    naive = elpd_of(np.zeros(1000), log_p, reff=1.0)
    np.testing.assert_allclose(found.loo_i, naive.loo_i, rtol=1e-6)  # its weights are equal


def test_points_of_certain_prediction_are_fine():
    """A likelihood that does not vary has no tail, and no warning."""
    log_p = np.zeros((200, 3))
    found = elpd_of(np.zeros(200), log_p, reff=1.0)
    assert list(found.pareto_k) == [-np.inf] * 3
    assert not found.warning
    assert found.elpd_loo == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ["map", "mc-dropout", "deep-ensemble", "laplace-last-layer"])
def test_guides_without_a_density_are_refused(name):
    guide, case = build(name, "mlp")
    with pytest.raises(ValueError, match="leave-one-out cross-validation needs a density"):
        loo(Posterior(guide), case.x, case.y)


def test_few_draws_are_refused():
    posterior, x, y = line()
    draws = {n: v.unsqueeze(0) for n, v in posterior.draws(99).items()}
    short = Posterior(Empirical(posterior.model, draws=draws))
    for call in (lambda: loo(posterior, x, y, num_samples=99), lambda: loo(short, x, y)):
        with pytest.raises(ValueError, match="at least 100 draws; got 99"):
            call()


def test_more_numbers_than_memory_takes_are_refused(monkeypatch):
    posterior, x, y = line()
    monkeypatch.setattr(import_module("probml_tp.diagnostics.loo"), "MAX_ELEMENTS", 29_999)
    with pytest.raises(ValueError, match="1000 draws at 30 points make 30,000"):
        loo(posterior, x, y)


def test_one_chain_is_enough_and_nothing_is_warned_of():
    posterior, x, y = line()
    draws = {n: v.unsqueeze(0) for n, v in posterior.draws(400).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = loo(Posterior(Empirical(posterior.model, draws=draws)), x, y)
    assert found.elpd_loo == pytest.approx(closed_form(x, y).sum(), abs=0.2)
