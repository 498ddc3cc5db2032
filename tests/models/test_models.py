"""The models of the package: their sizes, their starting points, their names."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from probml_tp import (
    BayesianModel,
    Bernoulli,
    Categorical,
    FanInNormalPrior,
    Gaussian,
    HeteroscedasticGaussian,
    NormalPrior,
)
from probml_tp.models import (
    BasisRegression,
    GaussianBasis,
    LinearBasis,
    PolynomialBasis,
    lenet,
    lenet_net,
    linear_regression,
    logistic_regression,
    mlp,
    mlp_classifier,
    mlp_regressor,
)

PRIOR = NormalPrior(1.0)

BUILDERS: dict[str, Callable[[int], nn.Module]] = {
    "mlp": lambda seed: mlp((2, 5, 1), seed=seed),
    "regressor": lambda seed: mlp_regressor(2, hidden=(5,), prior=PRIOR, likelihood=1.0, seed=seed),
    "classifier": lambda seed: mlp_classifier(2, hidden=(5,), prior=PRIOR, seed=seed),
    "lenet": lambda seed: lenet_net(seed=seed),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_a_seed_gives_the_starting_point_and_leaves_the_global_one(name: str) -> None:
    before = torch.get_rng_state()
    first, again, other = (BUILDERS[name](seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    pairs = list(zip(first.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not any(torch.equal(a, c) for a, _, c in pairs if a.numel())


def test_lenet_is_the_labs() -> None:
    model = lenet(prior=PRIOR)
    shapes = {n: tuple(s.shape) for n, s in model.sites.items() if n.endswith("weight")}
    assert shapes == {
        "conv1.weight": (16, 1, 5, 5),
        "conv2.weight": (32, 16, 5, 5),
        "fc1.weight": (100, 512),
        "fc2.weight": (10, 100),
    }
    assert model.num_params == 65_558
    assert not any(isinstance(m, nn.Dropout) for m in model.net.modules())
    x = torch.randn(2, 1, 28, 28)
    p = model.initial_params()
    h = F.max_pool2d(F.relu(F.conv2d(x, p["conv1.weight"], p["conv1.bias"])), 2)
    h = F.max_pool2d(F.relu(F.conv2d(h, p["conv2.weight"], p["conv2.bias"])), 2).flatten(1)
    h = F.relu(F.linear(h, p["fc1.weight"], p["fc1.bias"]))
    torch.testing.assert_close(model.net(x), F.linear(h, p["fc2.weight"], p["fc2.bias"]))


def test_the_published_mlp_has_2701_parameters() -> None:
    model = mlp_regressor(1, hidden=(50, 50), prior=PRIOR, likelihood=0.1)
    assert model.num_params == 2701


@pytest.mark.parametrize(
    ("activation", "function"),
    [("relu", F.relu), ("tanh", torch.tanh), ("gelu", F.gelu), ("silu", F.silu)],
)
def test_an_mlp_is_its_layers(
    activation: str, function: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    net = mlp((2, 4, 3, 1), activation=activation, dtype=torch.float64)
    x = torch.randn(5, 2, dtype=torch.float64)
    h = function(net.fc2(function(net.fc1(x))))
    torch.testing.assert_close(net(x), net.fc3(h))


def test_heads_fit_the_likelihood() -> None:
    for model, outputs, kind in (
        (mlp_regressor(2, hidden=(3,), prior=PRIOR, likelihood=0.1, num_targets=3), 3, Gaussian),
        (
            mlp_regressor(
                2, hidden=(3,), prior=PRIOR, likelihood=HeteroscedasticGaussian(), num_targets=3
            ),
            6,
            HeteroscedasticGaussian,
        ),
        (mlp_classifier(2, hidden=(), prior=PRIOR), 1, Bernoulli),
        (mlp_classifier(2, hidden=(3,), prior=PRIOR, num_classes=5), 5, Categorical),
        (logistic_regression(2, prior=PRIOR), 1, Bernoulli),
        (logistic_regression(2, prior=PRIOR, num_classes=3), 3, Categorical),
    ):
        dtype = model.dtype
        assert model.net(torch.zeros(4, 2, dtype=dtype)).shape == (4, outputs)
        assert isinstance(model.likelihood, kind)


def test_logistic_regression_starts_at_zero() -> None:
    model = logistic_regression(3, prior=PRIOR)
    assert all(not p.any() for p in model.initial_params().values())


def test_the_gaussian_basis_of_the_lab() -> None:
    """M = 9, s = 1/9, centres arange(0, 1, s), no constant."""
    basis = GaussianBasis.evenly_spaced(0.0, 1.0, num=9)
    x = torch.tensor([[0.37]], dtype=torch.float64)
    centers = np.arange(0, 1, 1 / 9)
    expected = np.exp(-((0.37 - centers) ** 2) / (2 * (1 / 9) ** 2))
    np.testing.assert_allclose(basis(x)[0], expected, rtol=1e-12)
    assert basis.num_features == 9


def test_bases_of_other_centres_have_other_fingerprints() -> None:
    prints = {
        linear_regression(
            GaussianBasis(centers=c, scale=0.5), prior=PRIOR, likelihood=0.1
        ).fingerprint()
        for c in ([0.0, 0.3, 1.0], [0.0, 0.5, 1.0], [0.0, 0.3, 1.0 + 1e-9])
    }
    assert len(prints) == 3


def test_polynomials_keep_their_type() -> None:
    for dtype in (torch.float32, torch.float64):
        assert PolynomialBasis(degree=4)(torch.ones(3, 1, dtype=dtype)).dtype == dtype
    model = linear_regression(PolynomialBasis(degree=2), prior=PRIOR, likelihood=0.1)
    assert model.dtype == torch.float64
    assert model.name == "linear-regression[PolynomialBasis(degree=2)]"


def test_features_times_weights() -> None:
    net = BasisRegression(LinearBasis(), dtype=torch.float64)
    net.weight.data = torch.tensor([-0.3, 0.5], dtype=torch.float64)
    x = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    torch.testing.assert_close(net(x), torch.tensor([[-0.3], [0.7]], dtype=torch.float64))


def test_fan_in_priors_keep_functions_bounded_as_layers_widen() -> None:
    """The prior variance of an output has a limit: equal at widths 50 and 800, to 5 errors."""
    x, count = torch.ones(1, 1, dtype=torch.float64), 1500
    variances = []
    for width in (50, 800):
        model = mlp_regressor(
            1, hidden=(width,), prior=FanInNormalPrior(1.0), likelihood=0.1, dtype=torch.float64
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            outputs = torch.stack(
                [
                    model.outputs({n: s().sample() for n, s in model.sites.items()}, x).squeeze()
                    for _ in range(count)
                ]
            )
        variances.append(outputs.var().item())
    assert abs(math.log(variances[0] / variances[1])) < 5 * (4 / count) ** 0.5


def test_a_model_has_a_name() -> None:
    assert lenet(prior=PRIOR).name == "lenet"
    assert (
        mlp_regressor(1, hidden=(5,), prior=PRIOR, likelihood=1.0).name == "mlp-regressor(1, 5, 1)"
    )
    assert BayesianModel(nn.Linear(1, 1), PRIOR, Gaussian(1.0)).name == "Linear"
    assert BayesianModel(nn.Linear(1, 1), PRIOR, Gaussian(1.0), name="mine").name == "mine"
