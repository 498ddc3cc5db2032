"""Models are the same if they do the same: what a net prints does not identify it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from probml_tp import (
    BayesianModel,
    Delta,
    Gaussian,
    MeanFieldNormal,
    NormalPrior,
    Posterior,
    fit,
    sample_nuts,
)
from probml_tp.diagnostics import annealed_importance_sampling
from probml_tp.gap.checks import checked_inputs
from probml_tp.identity import Domain

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
Y = X[:, 0]


class Net(nn.Module):
    """Two layers about an activation that is no module, hence not printed."""

    def __init__(self, act: Callable[[Tensor], Tensor] = torch.tanh, slope: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.act, self.slope = act, slope
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.act(self.slope * self.first(x)))
        return out


class Offset(Gaussian):
    """A likelihood with a number that it does not print."""

    def __init__(self, offset: float) -> None:
        super().__init__(scale=0.1)
        self.offset = offset

    def moments(self, outputs: Tensor, params: Any) -> tuple[Tensor, Tensor]:
        return super().moments(outputs + self.offset, params)

    def distribution(self, outputs: Tensor, params: Any) -> TorchDistribution:
        return super().distribution(outputs + self.offset, params)

    def log_prob(self, outputs: Tensor, y: Tensor, params: Any) -> Tensor:
        return super().log_prob(outputs + self.offset, y, params)


def model_of(net: nn.Module | None = None, likelihood: Gaussian | None = None) -> BayesianModel:
    return BayesianModel(net or Net(), NormalPrior(1.0), likelihood or Gaussian(scale=0.1))


OTHERS: dict[str, Callable[[], BayesianModel]] = {
    "activation": lambda: model_of(Net(torch.relu)),
    "lambda": lambda: model_of(Net(lambda h: torch.relu(h))),
    "number": lambda: model_of(Net(slope=1.001)),
    "likelihood": lambda: model_of(likelihood=Offset(0.01)),
    "noise": lambda: model_of(likelihood=Gaussian(scale=0.1 + 1e-8)),
}

SAME: dict[str, Callable[[], BayesianModel]] = {
    "again": model_of,
    "lambda": lambda: model_of(Net(lambda h: torch.tanh(h))),
    "other initial values": lambda: model_of(_other_weights(Net())),
    "rounded otherwise": lambda: model_of(Net(lambda h: torch.sinh(h) / torch.cosh(h))),
}


def _other_weights(net: nn.Module) -> nn.Module:
    for parameter in net.parameters():
        parameter.data *= 2
    return net


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Posterior, Path]:
    likelihood = Gaussian(scale=0.1)
    posterior = fit(model_of(likelihood=likelihood), Delta, (X, Y), epochs=2, progress=False)
    return posterior, posterior.save(tmp_path_factory.mktemp("identity") / "posterior")


def refuse(call: Callable[[], object], part: str) -> None:
    with pytest.raises(ValueError, match=part) as caught:
        call()
    assert type(caught.value) is ValueError


@pytest.mark.parametrize("name", OTHERS)
def test_another_model_is_refused_wherever_it_has_to_be_the_same(
    name: str, fitted: tuple[Posterior, Path]
) -> None:
    posterior, path = fitted
    if name == "likelihood":  # of one class, so that only the number differs
        posterior = fit(
            model_of(likelihood=Offset(0.0)), MeanFieldNormal, (X, Y), epochs=2, progress=False
        )
        path = posterior.save(path.parent / "offset")
    model = OTHERS[name]()
    refuse(lambda: Posterior.load(path, model), "differs in")
    quick = {"init": posterior, "progress": False}
    refuse(lambda: fit(model, Delta, (X, Y), epochs=1, **quick), "init must be")
    refuse(
        lambda: sample_nuts(model, (X, Y), draws=2, warmup=2, chains=1, **quick),
        "init must be",
    )


def test_annealing_and_comparisons_refuse_another_net() -> None:
    own, other = (
        fit(model_of(Net(act)), MeanFieldNormal, (X, Y), epochs=2, progress=False)
        for act in (torch.tanh, torch.relu)
    )
    refuse(lambda: annealed_importance_sampling(own.model, X, Y, start=other), "differs .* in beh")
    refuse(lambda: checked_inputs({"own": own, "other": other}, "own", X), "differs in beh")


@pytest.mark.parametrize("name", SAME)
def test_the_same_model_is_taken(name: str, fitted: tuple[Posterior, Path]) -> None:
    posterior, path = fitted
    model = SAME[name]()
    Posterior.load(path, model)
    fit(model, Delta, (X, Y), epochs=1, init=posterior, progress=False)
    assert model.differences(posterior.model) == {} == posterior.model.differences(model)


def test_a_checkpoint_is_not_resumed_by_another_net(tmp_path: Path) -> None:
    path = tmp_path / "fit.pt"

    def run(act: Callable[[Tensor], Tensor], epochs: int) -> Posterior:
        options = {"checkpoint": path, "progress": False}
        return fit(model_of(Net(act)), Delta, (X, Y), epochs=epochs, **options)

    run(lambda h: torch.tanh(h), 2)
    refuse(lambda: run(lambda h: torch.relu(h), 2), "a checkpoint must belong to the same fit")
    run(lambda h: torch.tanh(h), 2)


def test_what_was_never_run_is_known_by_the_names_of_its_functions(tmp_path: Path) -> None:
    path = Posterior(Delta(model_of())).save(tmp_path / "posterior")
    Posterior.load(path, model_of())
    refuse(lambda: Posterior.load(path, model_of(Net(torch.relu))), "differs in functions")


def test_specs_are_plain_json_and_stay_what_they_are() -> None:
    model = model_of()
    model.check_data(X, Y)
    spec = json.loads(json.dumps(model.spec()))
    assert spec == model.spec() == copy.deepcopy(model).spec()
    assert len(spec["behaviour"]["outputs"]) == 4
    assert len(spec["behaviour"]["log_likelihood"]) == 4
    assert model.differences(spec) == {}
    damaged = json.loads(json.dumps(spec))
    damaged["behaviour"]["outputs"] = "x"
    assert list(model.differences(damaged)) == ["behaviour"]
    del damaged["behaviour"]["x"]
    assert list(model.differences(damaged)) == ["behaviour"]


def test_one_model_on_another_number_of_threads_and_batch_is_the_same() -> None:
    model = model_of()
    model.check_data(X, Y)
    spec, threads = model.spec(), torch.get_num_threads()
    torch.set_num_threads(1 + threads % 2)
    try:
        assert model_of().differences(spec) == {}
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_compared_in_double(dtype: torch.dtype) -> None:
    model, other = (model_of(Net(act).to(dtype)) for act in (torch.tanh, torch.relu))
    for each in (model, other):
        each.check_data(X, Y)
    assert model.spec()["behaviour"]["dtype"] == "float64"
    assert list(model.differences(other)) == ["behaviour"]
    assert model.differences(copy.deepcopy(model)) == {}


def test_a_net_that_keeps_to_its_type_is_compared_in_it() -> None:
    model, other = (
        model_of(Net(lambda h, act=act: act(h.float())))  # type: ignore[misc]
        for act in (torch.tanh, torch.relu)
    )
    for each in (model, other):
        each.check_data(X, Y)
    assert model.spec()["behaviour"]["dtype"] == "float32"
    assert list(model.differences(other)) == ["behaviour"]


def test_indices_are_compared_within_their_range() -> None:
    class Embedded(nn.Module):
        def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.act, self.table, self.last = act, nn.Embedding(5, 4), nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.act(self.table(x.long()).flatten(1)))
            return out

    x = torch.tensor([[0, 4], [3, 1], [2, 2], [1, 0]])
    for inputs in (x, x.float()):
        model, other = (model_of(Embedded(act)) for act in (torch.tanh, torch.relu))
        for each in (model, other):
            each.check_data(inputs, torch.zeros(4))
        assert list(model.differences(other)) == ["behaviour"]


def test_domains_hold_ranges_and_make_rows_within_them() -> None:
    x = torch.tensor([[0.0, 5.0, 2.0], [1.0, 3.0, 2.0], [2.0, 9.0, 2.0]])
    domain = Domain.of(x)
    rows = domain.rows()
    assert domain.whole
    assert rows.shape == (4, 3)
    assert bool((rows >= x.amin(0)).all() and (rows <= x.amax(0)).all())
    assert bool((rows == rows.round()).all())
    wide = Domain.of(torch.rand(5, 1, 28, 28))
    assert len(wide.low) == 1
    assert wide.rows().shape == (4, 1, 28, 28)


def test_nets_with_constrained_sites_are_compared_inside_their_supports() -> None:
    net = nn.Linear(1, 1)
    nn.init.constant_(net.weight, 0.5)

    def of() -> BayesianModel:
        prior = {"weight": dist.Gamma(2.0, 1.0), "bias": dist.Normal(0.0, 1.0)}
        return BayesianModel(net, prior, Gaussian(scale=dist.HalfNormal(1.0)))

    model = of()
    model.check_data(X[:, :1], Y)
    assert None not in model.spec()["behaviour"]["log_likelihood"]
    assert of().differences(model) == {}
