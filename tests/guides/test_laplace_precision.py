"""Laplace in single precision against double, at the same point; Kronecker factors that fail."""

from __future__ import annotations

import copy
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from sklearn.datasets import load_wine
from torch import Tensor, nn

from probml_tp import (
    BayesianModel,
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    LinearizedLaplace,
    NormalPrior,
    Posterior,
    fit,
)
from probml_tp.guides import in_double, kfac

STRUCTURES = ["full", "diagonal", "kronecker"]

LIKELIHOODS: dict[str, tuple[Any, int, str]] = {
    "known-noise": (lambda: Gaussian(scale=0.5), 1, "real"),
    "unknown-noise": (lambda: Gaussian(scale=dist.LogNormal(0.0, 1.0)), 1, "real"),
    "bernoulli": (Bernoulli, 1, "binary"),
    "categorical": (lambda: Categorical(3), 3, "classes"),
    "heteroscedastic": (HeteroscedasticGaussian, 2, "real"),
}

WITHIN = 1e-3


def laplace(
    net: nn.Module, likelihood: Any, x: Tensor, y: Tensor, structure: str, at: Any = None
) -> LinearizedLaplace:
    """The guide with its curvature at the net's values, or at another guide's."""
    model = BayesianModel(net, NormalPrior(1.0), likelihood)
    guide = LinearizedLaplace(model, structure=structure)  # type: ignore[arg-type]
    if at is not None:
        guide.loc.data = at.loc.detach().to(guide.loc)
    guide.take_curvature(*model.check_data(x.to(model.dtype), y))
    return guide


def check_agreement(single: LinearizedLaplace, double: LinearizedLaplace, x: Tensor) -> None:
    """Covariances in units of standard deviations, of parameters and functions, and evidence."""
    found, expected = single.covariance().double(), double.covariance()
    deviation = expected.diagonal().sqrt()
    error = (found - expected) / (deviation.unsqueeze(-1) * deviation)
    assert error.abs().max() < WITHIN
    assert single.log_evidence() == pytest.approx(double.log_evidence(), rel=WITHIN)
    f, g = single.linearized_moments(x.float())[1], double.linearized_moments(x.double())[1]
    assert ((f.double() - g).abs().amax((1, 2)) / g.abs().amax((1, 2))).max() < WITHIN


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_single_precision_has_the_variances_of_double(
    name: str, scale: float, hidden: bool, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the net is too large to run in double itself, and only the sums are in it."""
    if large:
        monkeypatch.setattr(in_double, "LARGE", 0)
    make, outputs, kind = LIKELIHOODS[name]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, outputs))
        net = net if hidden else nn.Sequential(nn.Linear(4, outputs))
        x = (torch.randn(40, 4) * 0.3 + 1.5) * scale
        y = {"real": torch.randn(40), "binary": torch.randint(0, 2, (40,))}.get(
            kind, torch.randint(0, 3, (40,))
        )
    net[0].weight.data /= scale
    for structure in STRUCTURES:
        single = laplace(net, make(), x, y, structure)
        double = laplace(copy.deepcopy(net).double(), make(), x, y, structure, at=single)
        check_agreement(single, double, x[:5])


@pytest.fixture(scope="module")
def wine_mode() -> tuple[Tensor, Tensor, Posterior]:
    """Wine as it is, and the mode of a linear classifier of it."""
    x, y = (torch.from_numpy(a) for a in load_wine(return_X_y=True))
    x = x.float()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BayesianModel(nn.Linear(13, 3), NormalPrior(1.0), Categorical(3))
    options = {"optimizer": "lbfgs", "epochs": 20, "progress": False}
    return x, y, fit(model, LinearizedLaplace, (x, y), **options)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_wine_as_it_is(structure: str, wine_mode: tuple[Tensor, Tensor, Posterior]) -> None:
    """Features up to 1,680, where the Fisher information's eigenvalue of 0 once outweighed 1."""
    x, y, mode = wine_mode
    net = copy.deepcopy(mode.model.net)
    single = laplace(net, Categorical(3), x, y, structure, at=mode.guide)
    double = laplace(net.double(), Categorical(3), x, y, structure, at=mode.guide)
    check_agreement(single, double, x[::20])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_half_precision(structure: str, dtype: torch.dtype) -> None:
    """Covariances up to the rounding of their own type; draws, record and Pyro program work."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)
        x, y = torch.randn(12, 2).to(dtype), torch.randint(0, 3, (12,))
    half = laplace(net, Categorical(3), x, y, structure)
    double = laplace(copy.deepcopy(net).double(), Categorical(3), x, y, structure, at=half)
    torch.testing.assert_close(
        half.covariance().double(), double.covariance(), rtol=0.01, atol=1e-3
    )
    assert half.log_evidence() == pytest.approx(double.log_evidence(), rel=1e-6)
    record = Posterior(half).to_inference_data(x, y, num_samples=3)
    assert record.posterior["0.weight"].dtype == "float32"  # type: ignore[attr-defined]
    assert all(value.dtype == dtype for value in half().values())


def test_a_net_that_makes_single_precision_tensors_is_run_in_it() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.RNNCell(2, 3), nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x, torch.zeros(len(x), 3)))

    model = BayesianModel(Recurrent(), NormalPrior(1.0), Gaussian(scale=0.1))
    x = torch.linspace(-1, 1, 10).reshape(5, 2)
    assert in_double.in_double(model, x) is model
    guide = LinearizedLaplace(model)
    guide.take_curvature(x, x[:, 0])
    assert torch.isfinite(guide.covariance()).all()


def test_kronecker_factors_whose_eigenvalues_do_not_converge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More on the diagonal, then without it again: the same decomposition."""
    eigh, calls = torch.linalg.eigh, []

    def stubborn(matrix: Tensor) -> Any:
        calls.append(matrix)
        if len(calls) < 3:
            raise torch.linalg.LinAlgError
        return eigh(matrix)

    root = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3).sin()
    monkeypatch.setattr(torch.linalg, "eigh", stubborn)
    values, vectors = kfac.decomposed(root @ root.mT, "fc1")
    assert len(calls) == 3
    torch.testing.assert_close(vectors * values @ vectors.mT, root @ root.mT)
    with pytest.raises(ValueError, match=r"must be finite; those of layer 'fc1'"):
        kfac.decomposed(torch.full((2, 2), torch.nan), "fc1")
