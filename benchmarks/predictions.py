"""Predictions by many draws: time against the plain loop, peak memory, loop against vmap."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from peers import with_dropout
from setups import Digits, lenet_model
from timing import Comparison, Contender, added_mib, compare, fresh_process_mib
from torch import Tensor, nn

from probml_tp import BayesianModel, MCDropout, MeanFieldNormal, Posterior
from probml_tp.models import LENET_DROPOUT
from probml_tp.streams import seeded

__all__ = ["MEMORY_OF", "dropout_prediction", "loop_or_vmap", "memory_of", "peak_memory"]

MEMORY_OF = ("ours", "plain loop")
"""The contenders whose memory is measured, each in a process of its own."""

CHECKED_POINTS = 100


def dropout_prediction(digits: Digits, *, draws: int, rounds: int) -> Comparison:
    """Averaged class probabilities; ours gives entropies and votes in the same pass."""
    posterior, net = dropout_contenders()
    check_predictions(posterior, net, digits.x[:CHECKED_POINTS])
    contenders = [
        Contender("ours", lambda: posterior.predict(digits.x, num_samples=draws)),
        Contender("plain loop", lambda: loop_predict(net, digits.x, draws)),
        Contender("loop after shared layers", lambda: cached_loop_predict(net, digits.x, draws)),
    ]
    task = f"MC-dropout prediction, LeNet, {draws} draws, {len(digits.x):,} digits"
    return compare(task, contenders, rounds=rounds, steps=1, warmup=0)


def dropout_contenders() -> tuple[Posterior, nn.Sequential]:
    """The same weights, as our posterior and as a net with dropout."""
    model = lenet_model()
    return Posterior(MCDropout(model, rates=LENET_DROPOUT)), with_dropout(model.net, LENET_DROPOUT)


@torch.no_grad()
def loop_predict(net: nn.Module, x: Tensor, num_samples: int) -> Tensor:
    """The usual loop: forward passes in training mode, probabilities averaged."""
    batches = []
    for batch in x.split(1000):
        total = torch.zeros(())
        for _ in range(num_samples):
            total = total + net(batch).softmax(-1)
        batches.append(total / num_samples)
    return torch.cat(batches)


@torch.no_grad()
def cached_loop_predict(net: nn.Sequential, x: Tensor, num_samples: int) -> Tensor:
    """The same, with the layers before the first dropout run once a batch."""
    first = next(i for i, m in enumerate(net) if isinstance(m, nn.Dropout))
    shared, rest = net[:first], net[first:]
    return torch.cat([loop_predict(rest, shared(batch), num_samples) for batch in x.split(1000)])


def check_predictions(posterior: Posterior, net: nn.Sequential, x: Tensor) -> None:
    """Equal shapes, and class probabilities equal up to Monte Carlo error."""
    with seeded(0):
        theirs, again = loop_predict(net, x, 100), loop_predict(net, x, 100)
        cached = cached_loop_predict(net, x, 100)
    noise = float((theirs - again).abs().mean())
    for other in (posterior.predict(x, num_samples=100).probs, cached):
        if other.shape != theirs.shape or float((other - theirs).abs().mean()) > 1.5 * noise:
            raise RuntimeError("predictions differ. Contenders must do the same work.")


def loop_or_vmap(
    task: str, model: BayesianModel, x: Tensor, *, draws: int, rounds: int
) -> Comparison:
    """Mean-field prediction by a loop over draws, and by chunked vmap; ours picks one."""
    posterior = Posterior(MeanFieldNormal(model))
    names = {"ours": "auto", "loop": "loop", "vmap": "vmap"}
    contenders = [
        Contender(name, partial(posterior.predict, x, num_samples=draws, vectorize=how))
        for name, how in names.items()
    ]
    title = f"Mean-field prediction, {task}, {draws} draws, {len(x):,} points"
    return compare(title, contenders, rounds=rounds, steps=1)


def memory_of(what: str, digits: Digits, draws: int) -> float:
    """Peak memory in MiB that a prediction adds to this process."""
    posterior, net = dropout_contenders()
    runs = {
        "ours": lambda: posterior.predict(digits.x, num_samples=draws),
        "plain loop": lambda: loop_predict(net, digits.x, draws),
    }
    return added_mib(runs[what])


def peak_memory(script: Path, *, digits: int, draws: int, root: Path | None) -> dict[str, float]:
    """What each contender's prediction adds to the peak memory of a fresh process, in MiB."""
    options = ["--digits", str(digits), "--draws", str(draws)]
    options += [] if root is None else ["--data-root", str(root)]
    return {what: fresh_process_mib(script, [*options, "--memory-of", what]) for what in MEMORY_OF}
