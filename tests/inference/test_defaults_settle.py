"""Without an option a fit reaches its optimum, and one that has not says so."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from sklearn.datasets import load_diabetes
from torch import nn

from probml_tp import (
    BayesianModel,
    Delta,
    EarlyStopping,
    Exact,
    Gaussian,
    Laplace,
    LinearizedLaplace,
    LowRankNormal,
    MeanFieldNormal,
    NormalPrior,
    NotConvergedWarning,
    fit,
)
from probml_tp.diagnostics import step_left
from probml_tp.guides import laplace
from probml_tp.inference.fitting import UnfinishedFitError
from probml_tp.models import CLASSICS


def _diabetes() -> tuple[BayesianModel, tuple[torch.Tensor, torch.Tensor]]:
    x, y = load_diabetes(return_X_y=True)
    x = torch.as_tensor((x - x.mean(0)) / x.std(0)).float()
    model = BayesianModel(nn.Linear(10, 1), NormalPrior(1000.0), Gaussian(scale=55.0))
    return model, (x, torch.as_tensor(y).float())


@pytest.mark.parametrize("options", [{}, {"epochs": 3, "lr": 0.01}, {"epochs": 0}])
@pytest.mark.parametrize("guide", [Laplace, LinearizedLaplace])
def test_laplace_of_a_line_is_the_exact_posterior_from_wherever_it_starts(guide, options):
    model, data = _diabetes()
    exact = fit(model, Exact, data, progress=False).guide
    found = fit(model, guide, data, progress=False, **options)
    assert found.converged
    scale = exact.covariance().diagonal().sqrt()
    assert ((found.guide.loc - exact.loc) / scale).abs().max() < 1e-3
    torch.testing.assert_close(found.guide.covariance(), exact.covariance(), rtol=1e-3, atol=1e-3)


class _Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mu.expand(len(x), 1)


@pytest.mark.parametrize("guide", [Laplace, MeanFieldNormal])
def test_a_mean_far_from_where_it_starts_is_found(guide):
    """Heights: the sample mean, pulled to the prior's by a thousandth; see its closed form."""
    y = 154.6 + 7.7 * torch.randn(352, generator=torch.Generator().manual_seed(0))
    model = BayesianModel(
        _Mean(), {"mu": NormalPrior(20.0, loc=178.0)}, Gaussian(scale=dist.Uniform(0.0, 50.0))
    )
    found = fit(model, guide, (torch.zeros(352, 1), y), progress=False)
    assert found.converged
    mu = found.draws(4000)["mu"]
    se = float(y.std()) / 352**0.5
    expected = (y.mean() / se**2 + 178 / 20**2) / (1 / se**2 + 1 / 20**2)
    assert abs(float(mu.mean() - expected)) < 0.15 * se
    assert float(mu.std()) == pytest.approx(se, rel=0.06)


def test_a_year_as_a_feature_is_solved_in_single_precision():
    generator = torch.Generator().manual_seed(0)
    x = torch.linspace(1990, 2020, 31).unsqueeze(-1)
    y = 0.02 * (x.squeeze(-1) - 2005) + 0.1 * torch.randn(31, generator=generator)
    model = BayesianModel(nn.Linear(1, 1), NormalPrior(1000.0), Gaussian(scale=0.1))
    found = fit(model, Delta, (x, y), progress=False)
    wide = fit(
        BayesianModel(model.net.double(), NormalPrior(1000.0), Gaussian(scale=0.1)),
        Exact, (x.double(), y.double()), progress=False,
    )  # fmt: skip
    assert found.info.convergence.value < 1e-4
    slope = found.guide.loc.detach()[0].item()
    assert slope == pytest.approx(wide.guide.loc.detach()[0].item(), rel=1e-4)


@pytest.mark.parametrize("name", ["dugongs-line", "dugongs", "eight-schools-noncentered"])
def test_classical_posteriors_settle(name):
    classic = CLASSICS[name]()
    assert fit(classic.model, Laplace, classic.data, progress=False).converged
    normal = fit(classic.model, MeanFieldNormal, classic.data, progress=False)
    assert normal.converged
    assert step_left(normal, classic.data).is_settled


def test_low_rank_normals_settle():
    model, data = _diabetes()
    assert step_left(fit(model, LowRankNormal, data, progress=False), data).is_settled


def test_a_density_without_a_mode_is_refused_with_the_reason_and_keeps_what_was_trained():
    classic = CLASSICS["eight-schools-centered"]()
    with pytest.raises(UnfinishedFitError, match="No mode was found near") as caught:
        fit(classic.model, Laplace, classic.data, progress=False)
    kept = caught.value.posterior
    assert kept.name == "map"
    assert kept.info.losses
    assert not fit(classic.model, Delta, classic.data, progress=False).converged


def test_a_short_fit_of_a_large_problem_warns_and_stays_where_it_is(monkeypatch):
    monkeypatch.setattr(laplace, "WORK", 10)
    model, data = _diabetes()
    with pytest.warns(NotConvergedWarning, match="Newton decrement of") as told:
        found = fit(model, Laplace, data, epochs=3, lr=0.01, progress=False)
    assert "\n" not in str(told[0].message)
    assert found.converged is False
    g = _gradient(found, data)
    decrement = 0.5 * g @ found.guide.covariance().double() @ g
    assert found.info.convergence.value == pytest.approx(float(decrement), rel=1e-3)
    kept = fit(model, Delta, data, epochs=3, lr=0.01, progress=False)
    assert torch.equal(kept.guide.loc, found.guide.loc)
    assert kept.converged is False


def _gradient(posterior, data):
    x, y = (t.double() for t in data)
    u = posterior.guide.loc.detach().double()
    design = torch.cat([x, torch.ones(len(x), 1).double()], 1)
    return design.mT @ (design @ u - y) / 55.0**2 + u / 1000.0**2


def test_a_short_variational_fit_says_that_it_has_not_settled():
    model, data = _diabetes()
    assert fit(model, MeanFieldNormal, data, epochs=3, lr=0.01, progress=False).converged is False


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, "0", True])
def test_a_decrease_that_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match="min_delta must be a finite number"):
        EarlyStopping(min_delta=value)
