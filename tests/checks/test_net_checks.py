"""A net is a function of its parameters and one row of x, and stays it: else it is refused."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probml_tp import (
    BayesianModel,
    Bernoulli,
    Categorical,
    Delta,
    Gaussian,
    MeanFieldNormal,
    NormalPrior,
    fit,
)
from probml_tp.checks.generic_values import generic_values

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y = X[:, 0]

Two = namedtuple("Two", ["mean", "sd"])


@dataclasses.dataclass
class WithLogits:
    logits: Tensor
    loss: None = None


class Net(nn.Module):
    """Two layers and whatever is done with them."""

    def __init__(self, run: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.run, self.calls = run, 0
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 1)
        self.register_buffer("counter", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)

    def plain(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))


def model_of(run: Callable[[Any, Tensor], Any], likelihood: Any = None) -> BayesianModel:
    return BayesianModel(Net(run), NormalPrior(1.0), likelihood or Gaussian(scale=0.1))


def counts_in_a_buffer(net: Any, x: Tensor) -> Tensor:
    net.counter += 1
    return net.plain(x)


def counts_in_an_attribute(net: Any, x: Tensor) -> Tensor:
    net.calls += 1
    return net.plain(x) * net.calls


@torch.no_grad()
def without_gradients(net: Any, x: Tensor) -> Tensor:
    return net.plain(x)


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "a branch by the batch": (
        lambda n, x: n.plain(x) if x.sum() > 0 else n.last(n.first(x)), "other rows|another order",
    ),
    "a layer hidden from gradients": (
        lambda n, x: n.last(torch.tanh(n.first(x).detach())), "changes with 'first.weight'",
    ),
    "recomputed layers": (
        lambda n, x: n.last(
            torch.utils.checkpoint.checkpoint(lambda z: n.first(z).tanh(), x, use_reentrant=False)
        ),
        "gradients must be those of its output",
    ),
    "straight-through rounding": (
        lambda n, x: n.plain(x) + (n.plain(x).round(decimals=1) - n.plain(x)).detach(),
        "gradients must be those of its output",
    ),
    "functional dropout": (
        lambda n, x: n.last(F.dropout(n.first(x), 0.5)), "draws random numbers. Pass training=self",
    ),
    "torch noise": (lambda n, x: n.plain(x) + torch.randn(len(x), 1), "draws random numbers"),
    "numpy noise": (lambda n, x: n.plain(x) + np.random.randn(), "draws random numbers"),
    "python noise": (lambda n, x: n.plain(x) + random.random(), "draws random numbers"),
    "mean of the batch": (lambda n, x: n.plain(x - x.mean(0)), "other rows of its batch. Scale x"),
    "largest of the batch": (lambda n, x: n.plain(x / x.abs().max()), "other rows of its batch"),
    "softmax over the batch": (lambda n, x: n.plain(x).softmax(0), "other rows of its batch"),
    "cumulative": (lambda n, x: n.plain(x).cumsum(0), "put in another order"),
    "first row": (lambda n, x: n.plain(x) * x[0, 0], "put in another order"),
    "turned": (lambda n, x: n.plain(x).flip(0), "other rows of its batch"),
    "batch norm": (
        lambda n, x: n.last(F.batch_norm(n.first(x), None, None, training=True)),
        "takes 4 rows but fails on one: Expected more than 1 value",
    ),
    "squeeze": (lambda n, x: n.plain(x).squeeze(), "rows of one shape for any batch"),
    "counter": (counts_in_a_buffer, "writes to its buffer 'counter'"),
    "attribute": (counts_in_an_attribute, "remembers earlier calls"),
    "writes to x": (lambda n, x: n.plain(x.mul_(2)), "changes x in place"),
    "no gradients": (without_gradients, "whose gradient is 0"),
    "detached": (lambda n, x: n.plain(x).detach(), "whose gradient is 0"),
    "numpy": (lambda n, x: n.plain(x).numpy(), "must have gradients"),
    "tuple": (lambda n, x: (n.plain(x), x), r"tuple of length 2.*return self\.net\(x\)\[0\]"),
    "dict": (lambda n, x: {"mean": n.plain(x)}, r"dict\. .*return self\.net\(x\)\['mean'\]"),
    "named tuple": (lambda n, x: Two(n.plain(x), 1), r"Two\. .*return self\.net\(x\)\.mean"),
    "dataclass": (
        lambda n, x: WithLogits(n.plain(x)), r"WithLogits\. .*return self\.net\(x\)\.logits",
    ),
    "nothing": (lambda n, x: None, r"returns None\. Return the outputs"),
    "labels": (lambda n, x: n.plain(x).argmax(-1, keepdim=True), "before argmax"),
    "another argument": (lambda n, x, *, mask: n.plain(x), "x alone.*missing.*mask.*Wrap it"),
    "a bug": (lambda n, x: n.nowhere(x), "AttributeError.*'nowhere'. Mend its forward"),
    "a shape": (lambda n, x: n.plain(x[:, :2]), "Reshape x, or change the net's first layer"),
    "one number": (lambda n, x: n.plain(x).mean(), "one row per data point"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_function_of_parameters_and_a_row_is_refused(case: str) -> None:
    run, message = REFUSED[case]
    x, model = X.clone(), model_of(run)
    states = (torch.get_rng_state(), np.random.get_state()[1], random.getstate())
    with pytest.raises(ValueError, match=message) as caught:
        model.check_data(x, Y)
    assert type(caught.value) is ValueError
    if case not in ("a shape",):
        assert "Reshape" not in str(caught.value)
    assert torch.equal(x, X)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]


TAKEN: dict[str, Callable[[], nn.Module]] = {
    "dropout that eval turns off": lambda: Net(
        lambda n, x: n.last(F.dropout(n.first(x), 0.5, training=n.training))
    ),
    "layer norm": lambda: nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 1)),
    "zero weights": lambda: _zeroed(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))),
    "attention": lambda: nn.Sequential(
        nn.Unflatten(1, (3, 1)), nn.Linear(1, 4),
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Flatten(), nn.Linear(12, 1),
    ),
    "large arguments": lambda: Net(lambda n, x: n.last(torch.sin(1e4 * n.first(x)))),
}  # fmt: skip


def _zeroed(net: nn.Module) -> nn.Module:
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    return net


@pytest.mark.parametrize("case", TAKEN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_functions_of_parameters_and_a_row_are_taken(case: str, dtype: torch.dtype) -> None:
    if case == "large arguments" and dtype == torch.bfloat16:
        pytest.skip("there is no digit left")
    model = BayesianModel(TAKEN[case]().to(dtype), NormalPrior(1.0), Gaussian(scale=0.1))
    for x in (X, X[:1], X[:2]):
        assert len(model.check_inputs(x)) == len(x)


def test_what_zero_weights_hide_is_found() -> None:
    net = Net(lambda n, x: n.plain(x - x.mean(0)))
    model = BayesianModel(_zeroed(net), NormalPrior(1.0), Gaussian(scale=0.1))
    with pytest.raises(ValueError, match="other rows of its batch"):
        model.check_inputs(X)


def test_recurrent_nets_that_take_the_batch_for_the_sequence_are_refused() -> None:
    class Recurrent(nn.Module):
        def __init__(self, **options: Any) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(3, 4, **options), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.rnn(x)[0][:, -1])
            return out

    x = X[:20].reshape(5, 4, 3)
    ok = BayesianModel(Recurrent(batch_first=True), NormalPrior(1.0), Gaussian(scale=0.1))
    ok.check_inputs(x)
    with pytest.raises(ValueError, match="batch_first=True"):
        BayesianModel(Recurrent(), NormalPrior(1.0), Gaussian(scale=0.1)).check_inputs(x)


def test_checks_run_in_inference_mode_too() -> None:
    model = model_of(lambda n, x: n.plain(x))
    with torch.inference_mode():
        model.check_inputs(X.clone())


# ------------------------------------------------------------------------------- it stays as it is


def test_train_mode_set_on_the_models_net_is_taken_back() -> None:
    model = model_of(lambda n, x: n.last(F.dropout(n.first(x), 0.5, training=n.training)))
    posterior = fit(model, Delta, (X, Y), epochs=2, progress=False)
    before = posterior.predict(X).mean
    for module in (model, model.net, model.net.first):
        module.train()
        assert torch.equal(posterior.predict(X).mean, before)


@pytest.mark.parametrize(
    "change",
    [
        lambda net: setattr(net, "run", lambda n, x: torch.relu(n.plain(x))),
        lambda net: setattr(net, "run", lambda n, x: n.last(F.dropout(n.first(x), 0.5))),
        lambda net: net.frozen.fill_(2.0),
    ],
    ids=["activation", "dropout", "frozen value"],
)
def test_a_net_that_is_changed_later_is_refused(change: Callable[[Any], None]) -> None:
    net = Net(lambda n, x: n.plain(x) * n.frozen)
    net.frozen = nn.Parameter(torch.ones(()), requires_grad=False)
    model = BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.1))
    posterior = fit(model, MeanFieldNormal, (X, Y), epochs=2, progress=False)
    posterior.predict(X)
    change(model.net)
    for use in (
        lambda: posterior.predict(X),
        lambda: posterior.log_likelihood(X, Y),
        lambda: fit(model, Delta, (X, Y), epochs=1, progress=False),
    ):
        with pytest.raises(ValueError, match="must stay the function that it was"):
            use()


def test_other_weights_in_the_models_net_are_no_change() -> None:
    model = model_of(lambda n, x: n.plain(x))
    model.check_inputs(X)
    for parameter in model.net.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    model.check_inputs(X)
    copy.deepcopy(model).double().check_inputs(X)


def test_inputs_of_several_shapes_are_each_probed() -> None:
    net = Net(lambda n, x: n.plain(x if x.ndim == 2 else x.mean(1) - x.mean((0, 1))))
    model = BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.1))
    model.check_inputs(X)
    with pytest.raises(ValueError, match="other rows of its batch"):
        model.check_inputs(X[:20].reshape(5, 4, 3))


def test_a_single_point_does_not_end_the_probing() -> None:
    model = model_of(lambda n, x: n.plain(x - x.mean(0)))
    model.check_inputs(X[:1])
    with pytest.raises(ValueError, match="other rows of its batch"):
        model.check_inputs(X)


def test_messages_name_what_is_wrong_with_a_bernoulli_too() -> None:
    with pytest.raises(ValueError, match=r"WithLogits.*\.logits"):
        model_of(lambda n, x: WithLogits(n.plain(x)), Bernoulli()).check_inputs(X)


def test_generic_values_have_full_rank_and_unit_gain() -> None:
    values = generic_values(
        {"w": torch.Size([64, 256]), "b": torch.Size([64])},
        dtype=torch.float64, device=torch.device("cpu"),
    )  # fmt: skip
    singular = torch.linalg.svdvals(values["w"])
    assert singular.min() > 0.1 * singular.max()
    assert abs(float(values["w"].square().sum(1).mean()) - 1) < 0.1


@pytest.mark.parametrize(
    ("layers", "classes"),
    [([nn.Linear(3, 4), nn.Softmax(-1)], 4), ([nn.Linear(3, 1), nn.Sigmoid()], 1)],
)
def test_a_classifier_that_returns_probabilities_is_refused(
    layers: list[nn.Module], classes: int
) -> None:
    likelihood = Bernoulli() if classes == 1 else Categorical(classes)
    labels = (Y > 0).long()
    with pytest.raises(ValueError, match=r"must return logits; .* returns probabilities"):
        BayesianModel(nn.Sequential(*layers), NormalPrior(1.0), likelihood).check_data(X, labels)
    for last in (nn.LogSoftmax(-1), nn.ReLU(), nn.Tanh(), nn.Identity()):
        net = nn.Sequential(layers[0], last)
        BayesianModel(net, NormalPrior(1.0), likelihood).check_data(X, labels)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.LazyLinear(1)), r"waits for a first input. Run net\(x\) once"),
        (nn.Sequential(nn.Embedding(5, 2, max_norm=1.0), nn.Flatten()), "Leave max_norm out"),
        (nn.Linear(3, 1), "is scripted. Pass the module"),
    ],
)
def test_nets_that_cannot_be_run_with_other_parameters_are_refused(
    net: nn.Module, message: str
) -> None:
    if "scripted" in message:
        with pytest.warns(FutureWarning, match="deprecated"):
            net = torch.jit.trace(nn.Linear(3, 1), X)
    with pytest.raises(ValueError, match=message):
        BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.1))


def test_compiled_and_parallel_nets_are_the_nets_themselves() -> None:
    net = nn.Linear(3, 1)
    for wrapped in (nn.DataParallel(net), torch.compile(net)):
        model = BayesianModel(wrapped, NormalPrior(1.0), Gaussian(scale=0.1))
        assert list(model.sites) == ["weight", "bias"]
        assert not model.differences(BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.1)))


def test_a_layer_under_two_names_keeps_its_values() -> None:
    """functional_call would leave those of the last draw in the net."""
    net = Net(lambda n, x: n.last(n.again(n.first(x).tanh()).tanh()))
    net.first = net.again = nn.Linear(3, 3)
    net.last = nn.Linear(3, 1)
    own = copy.deepcopy(net)(X).detach()
    model = BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.1))
    fit(model, MeanFieldNormal, (X, Y), epochs=2, progress=False).predict(X, num_samples=3)
    assert torch.equal(model.net(X), own)
    assert torch.equal(model.outputs(model.initial_params(), X), own)
    double = {name: 2 * value for name, value in model.initial_params().items()}
    first = nn.functional.linear(X, double["first.weight"], double["first.bias"]).tanh()
    second = nn.functional.linear(first, double["first.weight"], double["first.bias"]).tanh()
    expected = nn.functional.linear(second, double["last.weight"], double["last.bias"])
    assert torch.allclose(model.outputs(double, X), expected)


def test_sparse_embeddings_are_fitted_as_dense_ones() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(4, 1))
    x, sparse = torch.randint(5, (20, 2)), copy.deepcopy(net)
    sparse[0].sparse = True
    fits = [
        fit(
            BayesianModel(n, NormalPrior(1.0), Gaussian(scale=0.1)), Delta, (x, x[:, 0].float()),
            progress=False,
        ).predict(x).mean
        for n in (net, sparse)
    ]  # fmt: skip
    assert torch.equal(*fits)
