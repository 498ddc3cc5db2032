"""What a record says of its posterior is what the functions say that have the posterior itself."""

from __future__ import annotations

import pytest
import torch

from probml_tp import (
    BayesianModel,
    Delta,
    Gaussian,
    Laplace,
    MCDropout,
    MeanFieldNormal,
    NormalPrior,
    Posterior,
    StudentTPrior,
    fit,
    sample_nuts,
)
from probml_tp.diagnostics.record import record_diagnostics

X = torch.linspace(-1, 1, 20, dtype=torch.float64).unsqueeze(-1)
Y = 0.5 * X.squeeze(-1) + 0.1 * torch.cos(9 * X.squeeze(-1))


def _model() -> BayesianModel:
    return BayesianModel(torch.nn.Linear(1, 1).double(), StudentTPrior(3.0), Gaussian(scale=0.1))


@pytest.fixture(scope="module")
def mean_field() -> Posterior:
    return fit(_model(), MeanFieldNormal, (X, Y), epochs=300, lr=0.05, progress=False)


def test_a_guide_with_a_density_has_its_k_hat_and_loo(mean_field):
    found = record_diagnostics(mean_field.to_inference_data(X, Y, num_samples=500))
    assert set(found) == {"unsettled", "pareto_k", "elpd_loo", "p_loo", "worst_k"}
    assert found["pareto_k"] < 0.7


def test_a_guide_that_is_too_narrow_has_a_large_k_hat(mean_field):
    good = record_diagnostics(mean_field.to_inference_data(X, Y))["pareto_k"]
    narrow = MeanFieldNormal(mean_field.model)
    narrow.load_state_dict(mean_field.guide.state_dict())
    narrow.log_scale.data -= 1.2
    record = Posterior(narrow, info=mean_field.info).to_inference_data(X, Y)
    assert record_diagnostics(record)["pareto_k"] > 0.7 > good


def test_other_data_than_the_training_data_have_no_k_hat(mean_field):
    assert set(record_diagnostics(mean_field.to_inference_data(X[:9], Y[:9]))) == {"unsettled"}


def test_a_chain_has_its_convergence_and_arviz_loo():
    chain = sample_nuts(_model(), (X, Y), draws=150, warmup=150, chains=2, jobs=1, progress=False)
    found = record_diagnostics(chain.to_inference_data(X, Y))
    assert found["divergences"] == 0
    assert found["r_hat"] < 1.1
    assert found["ess"] > 20
    assert "pareto_k" not in found
    gaussian = fit(_model(), Laplace, (X, Y), epochs=30, optimizer="lbfgs", progress=False)
    corrected = record_diagnostics(gaussian.to_inference_data(X, Y))["elpd_loo"]
    assert abs(found["elpd_loo"] - corrected) < 1.0


def test_a_single_chain_has_no_r_hat_and_nothing_is_logged(caplog):
    chain = sample_nuts(_model(), (X, Y), draws=120, warmup=50, chains=1, jobs=1, progress=False)
    found = record_diagnostics(chain.to_inference_data(X, Y))
    assert "r_hat" not in found
    assert found["ess"] > 0
    assert not caplog.records


def test_points_and_dropout_have_nothing_to_tell():
    net = torch.nn.Sequential(torch.nn.Linear(1, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    model = BayesianModel(net.double(), NormalPrior(1.0), Gaussian(scale=0.1))
    for guide in (Delta, lambda m: MCDropout(m, rates={"2": 0.1})):
        posterior = fit(model, guide, (X, Y), epochs=2, progress=False)
        found = record_diagnostics(posterior.to_inference_data(X, Y, num_samples=150))
        assert set(found) == ({"unsettled"} if posterior.name == "map" else set())
