"""The step left to a variational optimum: of which guides, and where it is found."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from guide_cases import build
from torch import nn

from probml_tp import (
    BayesianModel,
    Gaussian,
    LowRankNormal,
    MeanFieldNormal,
    NormalPrior,
    Posterior,
    fit,
)
from probml_tp.diagnostics import step_left
from probml_tp.inference import settling
from probml_tp.models import dugongs_line


@pytest.mark.parametrize("name", ["laplace", "map", "mc-dropout"])
def test_what_maximises_no_bound_over_normals_is_refused(name):
    guide, case = build(name, "mlp")
    with pytest.raises(ValueError, match="a normal that maximises the evidence lower bound"):
        step_left(Posterior(guide), (case.x, case.y))


def test_a_tempered_one_is_refused():
    classic = dugongs_line()
    tempered = MeanFieldNormal(classic.model, temperature=0.5)
    with pytest.raises(ValueError, match="maximises the evidence lower bound"):
        step_left(Posterior(tempered), classic.data)


@pytest.mark.parametrize("guide", [MeanFieldNormal, partial(LowRankNormal, rank=2)])
def test_chunks_change_nothing(guide, monkeypatch):
    classic = dugongs_line()
    posterior = fit(classic.model, guide, classic.data, epochs=20, lr=0.02, progress=False)
    whole = step_left(posterior, classic.data, num_samples=200)
    monkeypatch.setattr(settling, "CHUNK_WORK", 300)
    parts = step_left(posterior, classic.data, num_samples=200)
    assert parts.value == pytest.approx(whole.value, rel=1e-9)
    assert not whole.is_settled


class Branching(nn.Module):
    """Its path depends on values, which vmap does not take."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        positive = bool(self.weight[1] > 0)
        return (self.weight[0] + (self.weight[1] if positive else 0 * self.weight[1])) * x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [lambda dtype: nn.Linear(1, 1, dtype=dtype), Branching])
def test_any_net_of_any_precision_has_a_step_left(make, dtype):
    net = make(dtype)
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    model = BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.5))
    x = torch.linspace(-1, 1, 10, dtype=dtype).unsqueeze(-1)
    short = fit(model, MeanFieldNormal, (x, x.squeeze(-1)), epochs=2, progress=False)
    found = step_left(short, (x, x.squeeze(-1)), num_samples=100)
    assert found.value > 0.3
