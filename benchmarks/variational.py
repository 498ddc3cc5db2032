"""Time one step of mean-field variational inference on LeNet against other libraries, in one run.

``python benchmarks/variational.py`` prints a Markdown report; ``--write`` puts it in
docs/benchmarks.md. Before anything is timed, all are shown to have the same number of parameters
and the same loss: at equal draws where one draw is shared by the batch, else in mean.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import torch
from report import setting, verdict, write_section
from setups import PRIOR_SCALE, check_close, lenet_model, load_digits, pyro_at_its_best
from steps import WARMUP, both_adams, step_of
from timing import Comparison, Contender, compare, markdown
from torch import Tensor, nn
from variational_peers import BayesianTorch, TorchUncertainty

from probml_tp import BayesianModel, MeanFieldNormal
from probml_tp.streams import seeded

INIT_SCALE = 0.01
BY_EXAMPLE = ("flipout", "local-reparameterization")
PACKAGES = ("bayesian-torch", "torch-uncertainty")


Peer = BayesianTorch | TorchUncertainty


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        rounds: interleaved rounds.
        steps: steps a round.
        batch: points a step.
        repeats: losses averaged to compare estimators that draw differently.
    """

    rounds: int = 15
    steps: int = 20
    batch: int = 256
    repeats: int = 30

    @property
    def data(self) -> int:
        """``N``, the number of points that a batch stands for."""
        return 10 * self.batch


QUICK = Size(rounds=3, steps=5)


def of_peer(
    name: str, make: Callable[[], Peer], x: Tensor, y: Tensor, size: int
) -> list[Contender]:
    """A peer's step with torch's default Adam and with its fused one."""
    return both_adams(name, make, lambda net: net.loss(x, y, size=size))


def of_ours(
    name: str, model: BayesianModel, estimator: str, x: Tensor, y: Tensor, size: int
) -> Contender:
    """Our step, as ``fit`` takes it."""
    guide = guide_with(model, estimator)
    return step_of(name, guide, lambda g: g.loss(x, y, size=size), fused=True)


def guide_with(model: BayesianModel, estimator: str) -> MeanFieldNormal:
    """The mean-field guide at its start."""
    return MeanFieldNormal(model, init_scale=INIT_SCALE, estimator=estimator)


def shared_draw(model: BayesianModel, x: Tensor, y: Tensor, size: Size) -> Comparison:
    """One draw of the weights a step, shared by the batch."""
    scales = {"prior_scale": PRIOR_SCALE, "init_scale": INIT_SCALE}
    bayesian_torch = partial(BayesianTorch, model.net, kind="Reparameterization", **scales)
    uncertainty = partial(TorchUncertainty, model.net, **scales)
    guide = guide_with(model, "shared")
    check_bayesian_torch(guide, bayesian_torch(), x, y, size.data)
    check_torch_uncertainty(guide, uncertainty(), x, y, size.data)
    contenders = [
        of_ours("ours", model, "shared", x, y, size.data),
        *of_peer("bayesian-torch Reparameterization", bayesian_torch, x, y, size.data),
        *of_peer("torch-uncertainty", uncertainty, x, y, size.data),
    ]
    title = f"Mean-field step, one draw a batch, LeNet, batch {len(x)}"
    return compare(title, contenders, rounds=size.rounds, steps=size.steps, warmup=WARMUP)


def draws_by_example(model: BayesianModel, x: Tensor, y: Tensor, size: Size) -> Comparison:
    """Noise of its own for each example of the batch, which lowers the gradient's variance."""
    scales = {"prior_scale": PRIOR_SCALE, "init_scale": INIT_SCALE}
    flipout = partial(BayesianTorch, model.net, kind="Flipout", **scales)
    for estimator in BY_EXAMPLE:
        check_in_mean(guide_with(model, estimator), flipout(), x, y, size)
    contenders = [
        *(of_ours(f"ours, {how}", model, how, x, y, size.data) for how in BY_EXAMPLE),
        *of_peer("bayesian-torch Flipout", flipout, x, y, size.data),
    ]
    title = f"Mean-field step, noise by example, LeNet, batch {len(x)}"
    return compare(title, contenders, rounds=size.rounds, steps=size.steps, warmup=WARMUP)


PARTS = {"shared": shared_draw, "by-example": draws_by_example}


# --------------------------------------------------------------------------------- the same work


def check_sizes(guide: MeanFieldNormal, peer: nn.Module) -> None:
    """Equal numbers of variational parameters."""
    mine, theirs = (sum(p.numel() for p in m.parameters()) for m in (guide, peer))
    if mine != theirs:
        raise RuntimeError(f"numbers of parameters differ: {mine} and {theirs}.")


@torch.no_grad()
def check_bayesian_torch(
    guide: MeanFieldNormal, peer: BayesianTorch, x: Tensor, y: Tensor, size: int
) -> None:
    """Equal losses at equal draws."""
    check_sizes(guide, peer)
    theirs = peer.loss(x, y, size=size)
    check_close("losses", guide.loss_at(peer.noise(), x, y, size=size), theirs)


@torch.no_grad()
def check_torch_uncertainty(
    guide: MeanFieldNormal, peer: TorchUncertainty, x: Tensor, y: Tensor, size: int
) -> None:
    """Equal single-draw bounds at equal draws, up to half a nat a parameter."""
    check_sizes(guide, peer)
    model = guide.model
    theirs = peer.loss(x, y, size=size) + 0.5 * model.num_params / size
    draw = dict(zip(model.sites, peer.draw(), strict=True))
    log_q = guide.log_prob({n: v.unsqueeze(0) for n, v in draw.items()})[0]
    mine = (log_q - model.log_joint(draw, x, y, size=size)) / size
    check_close("bounds", mine, theirs)


@torch.no_grad()
def check_in_mean(
    guide: MeanFieldNormal, peer: BayesianTorch, x: Tensor, y: Tensor, size: Size
) -> None:
    """Equal divergences, and losses equal in mean, within 5 standard errors."""
    check_sizes(guide, peer)
    check_close("divergences", guide.kl(), peer.kl())
    with seeded(0):
        mine, theirs = (
            torch.stack([side.loss(x, y, size=size.data) for _ in range(size.repeats)])
            for side in (guide, peer)
        )
    error = ((mine.var() + theirs.var()) / size.repeats).sqrt().item()
    check_close("mean losses", mine.mean(), theirs.mean(), rtol=0, atol=5 * error)


# -------------------------------------------------------------------------------------- the report


def verdicts(comparison: Comparison) -> Iterator[str]:
    """Each estimator of ours against the fastest of the peers."""
    mine = [name for name in comparison.seconds if name.startswith("ours")]
    fastest = comparison.fastest(n for n in comparison.seconds if n not in mine)
    for name in mine:
        ratio = comparison.ratio(fastest, of=name)
        text = f"{comparison.task}: {name} takes {ratio:.2f} times the step of {fastest}"
        yield verdict(f"{text}, the fastest peer", "at most 1.1", ratio, 1.1)


def run(size: Size, root: Path | None, parts: tuple[str, ...] = tuple(PARTS)) -> str:
    """Measure, and report in Markdown."""
    digits, model = load_digits(size.batch, root), lenet_model()
    comparisons: list[Comparison] = []
    start = time.perf_counter()
    with seeded(0), pyro_at_its_best():
        for part in parts:
            comparisons.append(PARTS[part](model, digits.x, digits.y, size))
            done = comparisons[-1].task
            click.echo(f"{time.perf_counter() - start:4.0f} s  {done}", err=True)
    aims = "\n".join(line for comparison in comparisons for line in verdicts(comparison))
    rounds = f"{size.rounds} rounds of {size.steps} steps"
    return "\n\n".join([setting(digits, rounds, PACKAGES), aims, markdown(comparisons)])


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="A minute-long pass.")
@click.option("--only", type=click.Choice(list(PARTS)), multiple=True, help="Only these parts.")
@click.option("--write", is_flag=True, help="Put the figures into docs/benchmarks.md.")
@click.option("--data-root", type=click.Path(path_type=Path), help="Where the MNIST files are.")
def main(quick: bool, only: tuple[str, ...], write: bool, data_root: Path | None) -> None:
    text = run(QUICK if quick else Size(), data_root, only or tuple(PARTS))
    click.echo(text)
    if write:
        write_section("variational", text)


if __name__ == "__main__":
    main()
