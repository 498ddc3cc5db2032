"""One training step: mean-field against Bayes by backprop and Pyro, MC dropout against dropout."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from peers import BayesByBackprop, with_dropout
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_value
from setups import NOISE, PRIOR_SCALE, check_close, lenet_model
from timing import Comparison, Contender, compare
from torch import Tensor, nn
from torch.optim import Adam

from probml_tp import BayesianModel, MCDropout, MeanFieldNormal
from probml_tp.models import LENET_DROPOUT
from probml_tp.streams import seeded

__all__ = ["dropout_step", "mean_field_step"]

LR = 1e-3
WARMUP = 3

Loss = Callable[[nn.Module], Tensor]


def step_of(name: str, module: nn.Module, loss: Loss, **options: Any) -> Contender:
    """What a trainer does with a batch; ``options`` are Adam's."""
    optimizer = Adam([p for p in module.parameters() if p.requires_grad], lr=LR, **options)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(module).backward()
        optimizer.step()

    return Contender(name, step)


def both_adams(
    name: str, make: Callable[[], nn.Module], loss: Loss, **adam: Any
) -> list[Contender]:
    """A peer with torch's default Adam, and with the fused one."""
    return [
        step_of(f"{name}, Adam", make(), loss, **adam),
        step_of(f"{name}, fused Adam", make(), loss, fused=True, **adam),
    ]


def channels_last(name: str, net: nn.Module, loss: Loss, **adam: Any) -> list[Contender]:
    """A peer whose convolutions have their weights in channels-last order, if it has any."""
    if not any(p.ndim == 4 for p in net.parameters()):
        return []
    net = copy.deepcopy(net).to(memory_format=torch.channels_last)
    return [step_of(f"channels-last {name}, fused Adam", net, loss, fused=True, **adam)]


# ------------------------------------------------------------------------------------ mean-field


def mean_field_step(
    task: str, model: BayesianModel, x: Tensor, y: Tensor, *, rounds: int, steps: int
) -> Comparison:
    """Ours, Bayes by backprop written by hand, and Pyro's AutoNormal with Trace_ELBO."""
    size = 10 * len(x)
    guide = MeanFieldNormal(model, estimator="shared")
    by_hand = BayesByBackprop(model.net, prior_scale=PRIOR_SCALE)
    check_by_hand(guide, by_hand, x, y, size)
    check_pyro(guide, pyro_elbo(model, x, y, size), x, y, size)

    def hand_loss(net: nn.Module) -> Tensor:
        outputs, kl = net(x)
        return kl / size - mean_log_likelihood(outputs, y)

    def pyro_loss(elbo: nn.Module) -> Tensor:
        loss: Tensor = elbo(x, y, size=size)
        return loss / size

    contenders = [
        step_of("ours", guide, lambda g: g.loss(x, y, size=size), fused=True),
        *both_adams("by hand", partial(copy.deepcopy, by_hand), hand_loss),
        *channels_last("by hand", by_hand, hand_loss),
        *both_adams("Pyro AutoNormal", partial(pyro_elbo, model, x, y, size), pyro_loss),
    ]
    title = f"Mean-field step, {task}, batch {len(x)}"
    return compare(title, contenders, rounds=rounds, steps=steps, warmup=WARMUP)


def mean_log_likelihood(outputs: Tensor, y: Tensor) -> Tensor:
    """As one writes it by hand: cross-entropy, or squared error and a constant."""
    if y.dtype == torch.long:
        return -F.cross_entropy(outputs, y)
    squared_error = F.mse_loss(outputs.squeeze(-1), y)
    return -0.5 / NOISE**2 * squared_error - 0.5 * math.log(2 * math.pi * NOISE**2)


def pyro_elbo(model: BayesianModel, x: Tensor, y: Tensor, size: int) -> nn.Module:
    """Pyro's own objective as a module; one call creates the guide's parameters."""
    init = init_to_value(values=model.initial_params())
    elbo: nn.Module = Trace_ELBO()(model, AutoNormal(model, init_loc_fn=init, init_scale=0.01))
    elbo(x, y, size=size)
    return elbo


def check_by_hand(
    guide: MeanFieldNormal, by_hand: BayesByBackprop, x: Tensor, y: Tensor, size: int
) -> None:
    """Equal losses at equal draws: the hand-written net is fed the pieces of our noise."""
    epsilon = torch.randn_like(guide.loc)
    pieces = iter(guide.model.layout.unravel(epsilon).values())
    outputs, kl = by_hand(x, lambda _: next(pieces))
    theirs = kl / size - mean_log_likelihood(outputs, y)
    check_close("mean-field losses", guide.loss_at(epsilon, x, y, size=size), theirs)


def check_pyro(guide: MeanFieldNormal, elbo: Any, x: Tensor, y: Tensor, size: int) -> None:
    """Pyro's single-draw ELBO equals the one from our densities at the same draw."""
    with seeded(0):
        theirs = elbo(x, y, size=size)
    with seeded(0):
        draw = elbo.guide(x, y, size=size)
    log_q = guide.log_prob({n: v.unsqueeze(0) for n, v in draw.items()})[0]
    check_close("ELBOs", log_q - guide.model.log_joint(draw, x, y, size=size), theirs)


# ------------------------------------------------------------------------------------ MC dropout


def dropout_step(x: Tensor, y: Tensor, *, rounds: int, steps: int) -> Comparison:
    """Ours, with its KL term, against nn.Dropout, cross-entropy and Adam's weight decay."""
    model, size = lenet_model(), 10 * len(x)
    guide = MCDropout(model, rates=LENET_DROPOUT)

    def make() -> nn.Module:
        return with_dropout(copy.deepcopy(model.net).requires_grad_(True), LENET_DROPOUT)

    def plain_loss(net: nn.Module) -> Tensor:
        return F.cross_entropy(net(x), y)

    check_dropout(guide, make(), x, y, size)
    decay = {"weight_decay": 1 / (size * PRIOR_SCALE**2)}
    contenders = [
        step_of("ours", guide, lambda g: g.loss(x, y, size=size), fused=True),
        *both_adams("plain", make, plain_loss, **decay),
        *channels_last("plain", make(), plain_loss, **decay),
    ]
    title = f"MC-dropout step, LeNet, batch {len(x)}"
    return compare(title, contenders, rounds=rounds, steps=steps, warmup=WARMUP)


@torch.no_grad()
def check_dropout(
    guide: MCDropout, plain: nn.Module, x: Tensor, y: Tensor, size: int, *, repeats: int = 30
) -> None:
    """Equal cross-entropies without masks; with masks equal in mean, within 5 standard errors."""
    outputs = guide.model.outputs(guide.model.initial_params(), x)
    check_close("outputs without masks", outputs, plain.eval()(x))
    plain.train()
    with seeded(0):
        kl = guide.kl() / size
        ours = torch.stack([guide.loss(x, y, size=size) - kl for _ in range(repeats)])
        theirs = torch.stack([F.cross_entropy(plain(x), y) for _ in range(repeats)])
    error = ((ours.var() + theirs.var()) / repeats).sqrt().item()
    check_close("mean MC-dropout losses", ours.mean(), theirs.mean(), atol=5 * error)
