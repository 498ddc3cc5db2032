"""Replayed steps are those of autograd: same draws, same losses, same parameters to rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from probml_tp import (
    BayesianModel,
    Categorical,
    Gaussian,
    NormalPrior,
    fit,
)
from probml_tp.guide import Guide
from probml_tp.guides import (
    ConcreteDropout,
    Delta,
    GaussianDropout,
    Laplace,
    LowRankNormal,
    MCDropout,
    MeanFieldNormal,
    Mixture,
)
from probml_tp.inference import training
from probml_tp.inference.optimizers import ScaledAdam
from probml_tp.inference.traced import Replay, TracedLoss, traced
from probml_tp.priors import StudentTPrior
from probml_tp.streams import seeded

Data = tuple[Tensor, Tensor]

GUIDES: dict[str, Callable[[BayesianModel], Guide]] = {
    "map": Delta,
    "laplace": Laplace,
    "local reparameterisation": MeanFieldNormal,
    "shared": lambda m: MeanFieldNormal(m, estimator="shared"),
    "flipout": lambda m: MeanFieldNormal(m, estimator="flipout"),
    "tempered": lambda m: MeanFieldNormal(m, temperature=0.5),
    "low rank": lambda m: LowRankNormal(m, rank=2),
    "no rank": lambda m: LowRankNormal(m, rank=0),
    "dropout": lambda m: MCDropout(m, rates=0.2),
    "one mask a step": lambda m: MCDropout(m, rates=0.2, masks="shared"),
    "gaussian dropout": lambda m: GaussianDropout(m, rates=0.2),
    "concrete dropout": lambda m: ConcreteDropout(m, rates=0.2),
    "ensemble": lambda m: Mixture(m, member=Delta, members=2),
}


class Convolution(nn.Module):
    """A convolution, a norm of layers and a head, on images of 5 x 5."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.LayerNorm(18)
        self.head = nn.Linear(18, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        out: Tensor = self.head(self.norm(self.conv(x).flatten(1).relu()))
        return out


class Branching(nn.Module):
    """A net with control flow on values of its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Bend where the slope is positive."""
        out: Tensor = self.line(x)
        return out.tanh() if self.line.weight.sum() > 0 else out


def regressor(dtype: torch.dtype = torch.float64) -> tuple[BayesianModel, Data]:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1)).to(dtype)
    x = torch.linspace(-1, 1, 12, dtype=dtype).unsqueeze(-1)
    return BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.3)), (x, x[:, 0].sin())


def heavy_tailed() -> tuple[BayesianModel, Data]:
    """Priors without a closed form of the divergence."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    prior = StudentTPrior(df=4.0, scale=1.0)
    x = torch.randn(15, 2, dtype=torch.float64)
    return BayesianModel(net, prior, Gaussian(scale=0.3)), (x, x.sum(1))


def images() -> tuple[BayesianModel, Data]:
    torch.manual_seed(1)
    x = torch.randn(9, 1, 5, 5, dtype=torch.float64)
    return BayesianModel(Convolution().double(), NormalPrior(1.0), Categorical(3)), (
        x,
        torch.arange(9) % 3,
    )


MODELS = {"regressor": regressor, "heavy-tailed": heavy_tailed, "images": images}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("guide", GUIDES)
def test_a_replayed_fit_is_that_of_autograd(guide, model, monkeypatch) -> None:
    problem, data = MODELS[model]()
    options: dict[str, Any] = {"epochs": 8, "lr": 0.02, "progress": False}

    def losses(after: int) -> tuple[list[float], list[Tensor], bool]:
        torch.manual_seed(2)  # of what guides draw when they are made
        made = GUIDES[guide](problem)
        is_replayed = []
        monkeypatch.setattr(training, "REPLAYED_AFTER", {"adam": after})
        loss = Replay.loss

        def watched(self: Replay, epoch: int) -> TracedLoss | None:
            found = loss(self, epoch)
            is_replayed.append(found is not None)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(Replay, "loss", watched)
            info = fit(problem, made, data, optimizer="adam", **options).info
        return info.losses, [p.detach().clone() for p in made.parameters()], is_replayed[-1]

    eager, expected, never = losses(10**9)
    found, values, ends = losses(2)
    assert not never
    assert ends
    assert found == pytest.approx(eager, rel=1e-9)
    for value, other in zip(values, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-7, atol=1e-9)


def test_a_fit_resumed_where_steps_are_replayed_is_the_same(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(training, "REPLAYED_AFTER", {"adam": 3})
    model, data = regressor(torch.float32)
    options: dict[str, Any] = {"lr": 0.02, "progress": False}
    whole = fit(model, MeanFieldNormal, data, epochs=12, **options)
    path = tmp_path / "fit"
    for epochs in (2, 5, 12):
        parts = fit(model, MeanFieldNormal, data, epochs=epochs, checkpoint=path, **options)
    assert parts.info.losses == whole.info.losses
    assert torch.equal(parts.guide.loc, whole.guide.loc)


def test_lbfgs_goes_to_the_same_mode(monkeypatch) -> None:
    torch.manual_seed(0)
    x = torch.randn(30, 2)
    model = BayesianModel(nn.Linear(2, 3), NormalPrior(1.0), Categorical(3))
    modes = []
    for after in (0, 10**9):
        monkeypatch.setattr(training, "REPLAYED_AFTER", {"lbfgs": after})
        modes.append(fit(model, Delta, (x, torch.arange(30) % 3), progress=False).guide.loc)
    torch.testing.assert_close(*modes, rtol=1e-5, atol=1e-6)


def test_draws_that_nothing_is_made_of_are_drawn() -> None:
    def wasteful(u: Tensor) -> Tensor:
        torch.randn(3)
        return (u * torch.randn_like(u)).sum()

    u = torch.ones(4, requires_grad=True)
    loss = TracedLoss.of(wasteful, [u])
    with seeded(0):
        found, left = loss(), torch.rand(())
    with seeded(0):
        torch.randn(3)
        noise = torch.randn(4)
        torch.testing.assert_close(found, noise.sum())
        torch.testing.assert_close(u.grad, noise)
        assert left == torch.rand(())


def test_tracing_leaves_the_random_state_as_it_was() -> None:
    before = torch.get_rng_state()
    assert TracedLoss.of(lambda u: (u * torch.randn_like(u)).sum(), [torch.ones(2)])
    assert torch.equal(before, torch.get_rng_state())


def test_another_function_is_not_taken_for_the_same() -> None:
    assert traced(lambda u: (u.square(),), [torch.ones(2)], lambda u: (u**3,)) is None


def test_control_flow_on_values_falls_back_to_autograd() -> None:
    model = BayesianModel(Branching(), NormalPrior(1.0), Gaussian(scale=0.1))
    x = torch.linspace(-1, 1, 7).unsqueeze(-1)
    assert Replay(Delta(model), *model.check_data(x, x), first=0).loss(0) is None


class Annealed(MeanFieldNormal):
    """Its temperature changes after each epoch."""

    name: ClassVar[str] = "annealed-for-a-test"

    def end_epoch(self) -> None:
        """Cool."""
        self.temperature *= 0.5


class Counting(Delta):
    """A loss that counts its calls."""

    name: ClassVar[str] = "counting-for-a-test"
    calls = 0

    def loss(self, x: Tensor, y: Tensor, *, size: int) -> Tensor:
        """Grow."""
        self.calls += 1
        return super().loss(x, y, size=size) * self.calls


@pytest.mark.parametrize("kind", [Annealed, Counting])
def test_guides_whose_loss_changes_are_followed(kind, monkeypatch) -> None:
    model, data = regressor()
    options: dict[str, Any] = {"epochs": 6, "lr": 0.01, "progress": False}
    losses = []
    for after in (1, 10**9):
        monkeypatch.setattr(training, "REPLAYED_AFTER", {"adam": after})
        losses.append(fit(model, kind, data, **options).info.losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert Delta.replayable_loss and not Counting.replayable_loss


def test_a_loss_that_stops_being_finite_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(training, "REPLAYED_AFTER", {"adam": 1})
    model, data = regressor(torch.float32)
    with pytest.raises(ValueError, match="must stay finite"):
        fit(model, Delta, data, epochs=50, lr=1e19, progress=False)


def test_scaled_adam_is_adam_in_units_of_standard_deviations() -> None:
    """By the formula, over some steps at which the scales change as well."""
    torch.manual_seed(0)
    loc, log_scale = nn.Parameter(torch.randn(3).double()), nn.Parameter(torch.randn(3).double())
    m, s = loc.detach().clone(), log_scale.detach().clone()
    optimizer = ScaledAdam([loc, log_scale], loc, log_scale, lr=0.1)
    first, second = torch.zeros(2, 3).double(), torch.zeros(2, 3).double()
    for t in range(1, 6):
        loc.grad, log_scale.grad = gradients = torch.randn(2, 3).double()
        unit = torch.stack([s.exp(), torch.ones(3).double()])
        g = gradients * unit
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        root = (second / (1 - 0.999**t)).sqrt() + 1e-12
        move = 0.1 * unit * (first / (1 - 0.9**t)) / root
        m, s = m - move[0], s - move[1]
        optimizer.step()
        torch.testing.assert_close(loc.detach(), m, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(log_scale.detach(), s, rtol=1e-10, atol=1e-12)
