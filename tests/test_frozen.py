"""Frozen parameters are constants: a net with them is the same model as one on their outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from probml_tp import (
    SWAG,
    BayesianModel,
    ConcreteDropout,
    Delta,
    Exact,
    Gaussian,
    GaussianDropout,
    Laplace,
    LinearizedLaplace,
    LowRankNormal,
    MCDropout,
    MeanFieldNormal,
    Mixture,
    NormalPrior,
    Posterior,
    fit,
    fit_ensemble,
    sample_nuts,
)

F64 = torch.float64
X = torch.randn(30, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
Y = torch.sin(X[:, 0])


def model_of(net: nn.Module) -> BayesianModel:
    return BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.3), name="net")


def pair() -> tuple[BayesianModel, BayesianModel, Tensor]:
    """A net with a frozen layer, one of the layers after it, and what the frozen layer returns."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
    net.double()[0].requires_grad_(False)
    return model_of(net), model_of(nn.Sequential(*net[2:])), net[:2](X).detach()


GUIDES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    **{
        name: (guide, guide)
        for name, guide in {
            "map": Delta,
            "laplace": Laplace,
            "diagonal": partial(Laplace, structure="diagonal"),
            "kronecker": partial(Laplace, structure="kronecker"),
            "last layer": partial(Laplace, sites="last-layer"),
            "linearized": LinearizedLaplace,
            "mean-field": MeanFieldNormal,
            "flipout": partial(MeanFieldNormal, estimator="flipout"),
            "local": partial(MeanFieldNormal, estimator="local-reparameterization"),
            "low-rank": LowRankNormal,
            "swag": SWAG,
            "mixture": partial(Mixture, member=Delta, members=3),
        }.items()
    },
    "mc-dropout": (partial(MCDropout, rates={"2": 0.2}), partial(MCDropout, rates={"0": 0.2})),
    "one rate": (partial(MCDropout, rates=0.2), partial(MCDropout, rates={"0": 0.2, "2": 0.2})),
    "gaussian dropout": (
        partial(GaussianDropout, rates={"2": 0.2}), partial(GaussianDropout, rates={"0": 0.2}),
    ),
    "concrete dropout": (
        partial(ConcreteDropout, rates={"2": 0.2}), partial(ConcreteDropout, rates={"0": 0.2}),
    ),
}  # fmt: skip


def _same(frozen: Posterior, head: Posterior, features: Tensor) -> None:
    here, there = frozen.draws(3).values(), head.draws(3).values()
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        frozen.predict(X).mean, head.predict(features).mean, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_of_a_net_with_a_frozen_layer_is_that_of_the_rest(name: str) -> None:
    model, rest, features = pair()
    options = {"epochs": 5, "batch_size": 10 if name == "swag" else None, "progress": False}
    guide, other = GUIDES[name]
    assert list(model.sites) == ["2.weight", "2.bias", "4.weight", "4.bias"]
    _same(
        fit(model, guide, (X, Y), **options), fit(rest, other, (features, Y), **options), features
    )


def test_chains_and_ensembles_hold_frozen_layers_fixed() -> None:
    model, rest, features = pair()
    options = {"draws": 5, "warmup": 5, "chains": 2, "jobs": 1, "progress": False}
    _same(
        sample_nuts(model, (X, Y), **options), sample_nuts(rest, (features, Y), **options), features
    )
    before = model.constants["0.weight"].clone()
    several = fit_ensemble(model, Delta, (X, Y), members=2, epochs=2, jobs=1, progress=False)
    assert torch.equal(several.model.constants["0.weight"], before)


def test_exact_regression_on_a_known_intercept_is_the_closed_form() -> None:
    net = nn.Linear(2, 1).double()
    net.bias.requires_grad_(False).fill_(3.0)
    guide = fit(model_of(net), Exact, (X, Y), progress=False).guide
    precision = X.T @ X / 0.09 + torch.eye(2, dtype=F64)
    mean = torch.linalg.solve(precision, X.T @ (Y - 3) / 0.09)
    torch.testing.assert_close(guide.loc.data, mean, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("part", ["weight", "bias"])
@pytest.mark.parametrize("structure", ["full", "diagonal", "kronecker"])
def test_a_layer_may_be_frozen_in_part(part: str, structure: Any) -> None:
    net = nn.Linear(2, 1).double()
    net.get_parameter(part).requires_grad_(False)
    options = {"epochs": 2, "progress": False}
    posterior = fit(model_of(net), partial(Laplace, structure=structure), (X, Y), **options)
    assert set(posterior.draws(1)) == {"weight", "bias"} - {part}
    assert posterior.predict(X).mean.shape == (30,)


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_recurrent_layers_with_frozen_weights_compute_with_them(layer: type[nn.Module]) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = layer(1, 3, batch_first=True), nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.rnn(x.unsqueeze(-1))[0][:, -1])
            return out

    net = Recurrent().double()
    net.rnn.weight_ih_l0.requires_grad_(False)
    model = model_of(net)
    params = {name: value + 0.1 for name, value in model.initial_params().items()}
    assert "rnn.weight_ih_l0" not in params
    twin = copy.deepcopy(net)
    twin.load_state_dict({**net.state_dict(), **params})
    torch.testing.assert_close(model.outputs(params, X), twin(X))


def test_tied_frozen_weights_stay_tied() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2), nn.Linear(2, 1)).double()
    net[2].weight = net[0].weight
    net[0].weight.requires_grad_(False)
    model = model_of(net)
    assert list(model.constants) == ["0.weight"]
    assert model.net[2].weight is model.net[0].weight
    assert isinstance(net[0].weight, nn.Parameter)


def test_a_net_with_all_of_it_frozen_is_refused() -> None:
    with pytest.raises(ValueError, match=r"frozen ones \(2 here\).*requires_grad_\(True\)"):
        model_of(nn.Linear(2, 1).requires_grad_(False))


def test_a_prior_for_a_frozen_parameter_alone_is_refused() -> None:
    net = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 1))
    with pytest.raises(ValueError, match=r"matches only '0.weight', which is frozen"):
        BayesianModel(net, {"0.*": NormalPrior(1.0), "*": NormalPrior(1.0)}, Gaussian(scale=1.0))


def test_a_drop_rate_for_a_frozen_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="'0' is frozen"):
        MCDropout(pair()[0], rates={"0": 0.1})


def test_frozen_values_belong_to_the_identity(tmp_path: Path) -> None:
    model, _, _ = pair()
    assert model.spec()["frozen"] == {"0.weight": [6, 2], "0.bias": [6]}
    path = fit(model, Delta, (X, Y), epochs=1, progress=False).save(tmp_path / "posterior")
    Posterior.load(path, pair()[0])
    Posterior.load(path, model.with_scales({}))
    other = pair()[0]
    other.net[0].bias[0] += 1.0
    with pytest.raises(ValueError, match="differs in constants"):
        Posterior.load(path, other)


def test_a_model_made_of_a_models_net_has_its_sites() -> None:
    model = pair()[0]
    again = model_of(model.net)
    assert list(again.sites) == list(model.sites)
    assert list(model_of(nn.Sequential(model.net)).sites) == [f"0.{n}" for n in model.sites]
