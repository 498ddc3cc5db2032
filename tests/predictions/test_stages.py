"""What no varying parameter reaches is run once, in any net, and the outputs stay what they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probml_tp import BayesianModel, MCDropout, NormalPrior, Posterior
from probml_tp.likelihoods import Categorical
from probml_tp.predictions.draws import draw_batches, draw_chunks
from probml_tp.predictions.stages import split_net
from probml_tp.scores.network_pass import network_pass
from probml_tp.scores.odin import input_gradient
from probml_tp.streams import seeded

DRAWS, CLASSES = 4, 3


class Residual(nn.Module):
    """A skip connection past the random layer, a buffer, a constant and a size that is read."""

    def __init__(self, *, condition: str = "") -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.noisy, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, CLASSES)
        self.register_buffer("offset", torch.tensor(0.3))
        self.condition = condition

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x) + self.offset
        if self.condition == "data" and x.abs().max() > 100:
            h = -h
        if self.condition == "type" and not isinstance(x, Tensor):
            h = -h
        h = h * torch.linspace(0.5, 1.5, 6)
        after, base = F.relu(self.noisy(h), inplace=True), h * 1.0
        if self.condition == "in place":
            after = (2 * after).add_(h)
        elif self.condition == "writes":
            after = base.add_(after)
        else:
            after = after + h
        return self.head(after.reshape(x.shape[0], 4, -1).mean(-1))


class Recurrent(nn.Module):
    """An LSTM and attention before a random layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 4, batch_first=True)
        self.attention = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.noisy = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out, (last, _) = self.lstm(x.flatten(1, 2))
        h = self.attention(out)[:, -1] + last[0]
        return self.noisy(h)


class Tied(nn.Module):
    """A random layer whose weight is used before it by name, so that little can be shared."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.noisy = nn.Linear(36, 5), nn.Linear(5, 5)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.flatten(1)).tanh()
        return self.head(self.noisy((h @ self.noisy.weight).tanh()))


def dropped(make: Callable[[], nn.Module]) -> MCDropout:
    with seeded(0):
        model = BayesianModel(make(), NormalPrior(1.0), Categorical(CLASSES))
    guide = MCDropout(model, rates={"noisy": 0.5})
    model.check_inputs(points())
    return guide


def points(count: int = 7) -> Tensor:
    with seeded(1):
        return torch.randn(count, 1, 6, 6)


def at_each_draw(guide: MCDropout, x: Tensor) -> Tensor:
    """The whole net at each draw."""
    (((_, draws)),) = draw_chunks(guide, DRAWS, seed=0)
    with torch.no_grad():
        each = [{n: v[s] for n, v in draws.items()} for s in range(DRAWS)]
        return torch.stack([guide.model.outputs(params, x) for params in each])


def calls_of_layers(guide: MCDropout, run: Callable[[], object]) -> dict[str, int]:
    """How often each leaf layer is called."""
    calls: dict[str, int] = {}

    def count(name: str) -> None:
        calls[name] = calls.get(name, 0) + 1

    layers = [(n, m) for n, m in guide.model.net.named_modules() if not list(m.children())]
    hooks = [m.register_forward_hook(lambda *_, n=n: count(n)) for n, m in layers]
    try:
        split_net(guide, guide.outputs, points())  # what is tried once for a net
        calls.clear()
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return calls


@pytest.mark.parametrize("vectorize", ["auto", "loop", "vmap"])
@pytest.mark.parametrize("make", [Residual, Recurrent, Tied])
def test_outputs_are_those_of_the_whole_net(make: Callable[[], nn.Module], vectorize: str) -> None:
    if make is Recurrent and vectorize == "vmap":
        pytest.skip("vmap takes no attention")
    guide, x = dropped(make), points()
    batches = draw_batches(
        guide,
        x,
        num_samples=DRAWS,
        seed=0,
        batch_size=3,
        vectorize=vectorize,  # type: ignore[arg-type]
    )
    found = torch.cat([batch.outputs for batch in batches], 1)
    torch.testing.assert_close(found, at_each_draw(guide, x))
    assert not vars(guide.model.net).keys() & {"_tensor_constant0"}


@pytest.mark.parametrize(
    ("make", "once", "each"),
    [
        (Residual, {"first.0"}, {"noisy", "head"}),
        (Recurrent, {"lstm"}, {"noisy"}),
        (Tied, {"embed"}, {"noisy", "head"}),
    ],
)
def test_shared_layers_are_called_once_a_batch(
    make: Callable[[], nn.Module], once: set[str], each: set[str]
) -> None:
    guide, x = dropped(make), points()

    def run() -> None:
        list(draw_batches(guide, x, num_samples=DRAWS, seed=0, batch_size=4, vectorize="loop"))

    calls = calls_of_layers(guide, run)
    assert {calls[name] for name in once} == {2}
    assert {calls[name] for name in each} == {2 * DRAWS}


@pytest.mark.parametrize("condition", ["data", "type", "in place", "writes"])
def test_a_net_that_cannot_be_cut_is_run_as_a_whole(condition: str) -> None:
    guide, x = dropped(lambda: Residual(condition=condition)), points()
    prefix, _ = split_net(guide, guide.outputs, x)
    whole = prefix(guide.centre(), x)[0] is x
    assert whole == (condition != "in place")
    batches = draw_batches(guide, x, num_samples=DRAWS, seed=0, vectorize="loop")
    torch.testing.assert_close(next(batches).outputs, at_each_draw(guide, x))


def test_only_what_is_read_later_is_kept() -> None:
    guide, x = dropped(Residual), points()
    prefix, suffix = split_net(guide, guide.outputs, x)
    hidden = prefix(guide.centre(), x)
    assert [v.shape for v in hidden if isinstance(v, Tensor)] == [torch.Size([7, 4, 6, 6])]
    torch.testing.assert_close(
        suffix(guide.centre(), hidden), guide.model.outputs(guide.centre(), x)
    )


def test_odin_goes_through_all_that_passes_between_the_stages() -> None:
    """Its direction is that of the mean probability's gradient through the whole net."""
    guide, x = dropped(Residual), points()
    run = network_pass(Posterior(guide), x, num_samples=DRAWS)
    leaf = x.clone().requires_grad_()
    (((_, draws)),) = draw_chunks(guide, DRAWS, seed=run.posterior.seed)
    each = [{n: v[s] for n, v in draws.items()} for s in range(DRAWS)]
    probs = [(guide.model.outputs(p, leaf) / 2.0).softmax(-1) for p in each]
    top = run.predictive.predicted_class.unsqueeze(1)
    loss = -torch.stack(probs).mean(0).gather(1, top).log().sum()
    (expected,) = torch.autograd.grad(loss, leaf)
    found = input_gradient(run, temperature=2.0, num_samples=DRAWS)
    torch.testing.assert_close(F.normalize(found.flatten(1)), F.normalize(expected.flatten(1)))
