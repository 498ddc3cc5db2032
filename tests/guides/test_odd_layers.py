"""Recurrent layers, attention and weight norm under Laplace and dropout; the last layer called."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from probml_tp import (
    BayesianModel,
    Categorical,
    ConcreteDropout,
    Gaussian,
    Laplace,
    LinearizedLaplace,
    MCDropout,
    NormalPrior,
    Posterior,
    fit,
    maximize_evidence,
)


class Recurrent(nn.Module):
    def __init__(self, layer: type[nn.RNNBase]) -> None:
        super().__init__()
        self.head, self.inner = nn.Linear(3, 3), layer(2, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.embed = nn.Linear(2, 3), nn.Linear(2, 2)
        self.inner = nn.MultiheadAttention(2, 1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embed(x)
        return self.head(self.inner(hidden, hidden, hidden, need_weights=False)[0].sum(1))


class Normed(nn.Module):
    def __init__(self, norm: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.head, self.inner = nn.Linear(3, 3), norm(nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(x.flatten(1))))


def old_weight_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


NETS: dict[str, Callable[[], nn.Module]] = {
    "gru": lambda: Recurrent(nn.GRU),
    "rnn": lambda: Recurrent(nn.RNN),
    "lstm": lambda: Recurrent(nn.LSTM),
    "attention": Attention,
    "weight-norm": lambda: Normed(nn.utils.parametrizations.weight_norm),
    "old-weight-norm": lambda: Normed(old_weight_norm),
}


def model_of(name: str) -> tuple[BayesianModel, Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = NETS[name]().double()
        x, y = torch.randn(7, 4, 2).double(), torch.arange(7) % 3
    return BayesianModel(net, NormalPrior(1.0), Categorical(3)), x, y


def jacobian(model: BayesianModel, x: Tensor) -> Tensor:
    """``(N, 3, P)``, by plain autograd: row by row, output by output."""
    flat = model.layout.ravel(model.initial_params())
    rows = []
    for row in x:
        u = flat.clone().requires_grad_()
        out = model.outputs(model.layout.unravel(u), row.unsqueeze(0))[0]
        rows += [torch.autograd.grad(f, u, retain_graph=True)[0] for f in out]
    return torch.stack(rows).unflatten(0, (len(x), -1))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NETS)
def test_laplace_and_its_linearised_net_are_those_of_plain_autograd(name: str) -> None:
    """Curvature, moments, outputs at draws and evidence; without a word from torch."""
    model, x, y = model_of(name)
    J = jacobian(model, x)
    p = model.outputs(model.initial_params(), x).softmax(-1)
    H = torch.einsum("nip,nij,njq->pq", J, p.diag_embed() - p[:, :, None] * p[:, None], J)
    prior = torch.eye(model.num_params).double()
    head = model.layout.positions(["head.weight", "head.bias"])
    cases: list[tuple[dict[str, Any], Tensor | None]] = [
        ({"structure": "full"}, torch.linalg.inv(H + prior)),
        ({"structure": "diagonal"}, torch.linalg.inv(H.diagonal().diag() + prior)),
        ({"sites": "last-layer"}, torch.zeros_like(prior)),
        ({"structure": "kronecker"}, None),
    ]
    cases[2][1][head[:, None], head] = torch.linalg.inv((H + prior)[head[:, None], head])
    for options, covariance in cases:
        guide = LinearizedLaplace(model, **options)  # at the net's values, wherever the mode is
        guide.prepare(x, y)
        guide.take_curvature(x, y)
        posterior = Posterior(guide)
        found = posterior.guide.covariance()
        if covariance is not None:
            torch.testing.assert_close(found, covariance)
        moments = posterior.guide.linearized_moments(x)[1]
        torch.testing.assert_close(moments, J @ found @ J.mT)
        draws = posterior.draws(5)
        moved = model.layout.ravel(draws) - posterior.guide.loc
        outputs = posterior.guide.loc.new_tensor(0) + model.outputs(model.initial_params(), x)
        expected = outputs + torch.einsum("nip,sp->sni", J, moved.detach())
        kept = posterior.predict(x, num_samples=5, keep_outputs=True).outputs
        torch.testing.assert_close(kept, expected)
        y_n = y.expand(5, -1).unsqueeze(-1)
        log_p = expected.log_softmax(-1).gather(-1, y_n).squeeze(-1)
        torch.testing.assert_close(posterior.log_likelihood(x, y, num_samples=5), log_p)
        posterior.log_predictive_density(x, y, num_samples=3)
        posterior.to_inference_data(x, y, num_samples=3)
        tuned = maximize_evidence(posterior, (x, y))
        assert tuned.info.log_evidence[1] >= tuned.info.log_evidence[0]


def test_the_last_layer_is_the_one_called_last(tmp_path: Any) -> None:
    """Here it is the one defined first; a saved posterior keeps it."""
    model, x, y = model_of("weight-norm")
    posterior = fit(model, lambda m: Laplace(m, sites="last-layer"), (x, y), epochs=0)
    assert posterior.guide.random_sites == ["head.weight", "head.bias"]
    again = Posterior.load(posterior.save(tmp_path / "p"), model)
    assert again.guide.random_sites == ["head.weight", "head.bias"]
    swapped = BayesianModel(
        nn.Sequential(nn.Linear(8, 3), nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))),
        NormalPrior(1.0),
        Categorical(3),
    )
    guide = Laplace(swapped, sites="last-layer")
    assert guide.random_sites == [n for n in swapped.sites if n.startswith("1.")]


@pytest.mark.parametrize("make", [MCDropout, ConcreteDropout])
def test_one_rate_skips_layers_that_cannot_have_it(make: Any) -> None:
    """Attention reads the weight of ``out_proj`` itself; the guide says what it took."""
    model, x, y = model_of("attention")
    posterior = fit(model, lambda m: make(m, rates=0.1), (x, y), epochs=2, progress=False)
    assert list(posterior.guide.rates) == ["embed"]
    assert repr(posterior.guide).startswith(f"{make.__name__}(rates={{'embed': 0.1")


@pytest.mark.parametrize("name", ["weight-norm", "old-weight-norm"])
def test_a_computed_weight_has_no_drop_rate(name: str) -> None:
    model, _, _ = model_of(name)
    with pytest.raises(ValueError, match=r"that of 'inner' is frozen, or computed"):
        MCDropout(model, rates={"inner": 0.1})
    with pytest.raises(ValueError, match=r"no such layer.*got rates=0\.1.*rates=\{'head': 0\.1\}"):
        MCDropout(model, rates=0.1)


def test_a_rate_for_a_net_of_one_layer_says_what_to_name() -> None:
    model = BayesianModel(nn.Linear(2, 1), NormalPrior(1.0), Gaussian(scale=0.1))
    with pytest.raises(ValueError, match=r"but the first.*got rates=0\.1.*rates=\{'': 0\.1\}"):
        MCDropout(model, rates=0.1)


def test_a_model_of_many_layers_keeps_no_range_for_each() -> None:
    """A prior of one number is one number; positions are not slices of one range each."""
    model = BayesianModel(
        nn.Sequential(*[nn.Linear(4, 4) for _ in range(9)]), NormalPrior(1.0), Categorical(4)
    )
    held = [b.untyped_storage().nbytes() for b in model.normal_sites.buffers()]
    assert sum(held) <= 2 * 8
    index = Laplace(model, structure="diagonal").factor_list[0].index
    assert index.untyped_storage().nbytes() == 8 * model.num_params
    assert torch.equal(index, torch.arange(model.num_params))
