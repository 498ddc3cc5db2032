"""The training loop: epochs, early stopping, checkpoints, and when a fit has settled."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS

from probml_tp.convergence import Convergence
from probml_tp.digest import digest
from probml_tp.fit_info import FitInfo
from probml_tp.guide import Guide, check_loss
from probml_tp.inference.checkpoint import load_checkpoint, save_checkpoint
from probml_tp.inference.descent import WORK, Wall, guide_in_double
from probml_tp.inference.fit_options import EarlyStopping, FitOptions
from probml_tp.inference.optimizers import (
    describe_optimizer,
    make_optimizer,
    make_schedule,
)
from probml_tp.inference.progress import ProgressCallback
from probml_tp.inference.together import Together
from probml_tp.inference.traced import Replay
from probml_tp.streams import Stream, seeded, substream

__all__ = ["Trainer", "convergence_of", "trained"]

MAX_CHUNK = 10_000

REPLAYED_AFTER = {"lbfgs": 1}
"""Epochs until the steps of a small fit on all the data are replayed from a trace."""

SMALL_GAIN, NO_GAIN = 1e-3, 1e-9
"""Nats that a round of L-BFGS has to gain to go on: without a look at the mode, and at all."""


def trained(
    guide: Guide,
    x: Tensor,
    y: Tensor,
    held_out: tuple[Tensor, Tensor] | None,
    options: FitOptions,
    report: ProgressCallback,
    together: Together,
) -> Trainer:
    """Train a guide, by L-BFGS on a copy in double precision.

    Args:
        guide: trained in place.
        x: checked inputs.
        y: checked targets.
        held_out: checked inputs and targets whose loss is recorded, if any.
        options: all of them.
        report: called after each epoch.
        together: the processes that train it.

    Returns:
        The loop, with its record and whether the guide has settled.

    Raises:
        ValueError: the loss stops being finite, or the checkpoint is another fit's.
    """
    if options.optimizer == "scaled-adam":
        guide.start_near(x, y)
    own = guide
    if options.optimizer == "lbfgs":
        own, x, y = guide_in_double(guide, x, y)
        if held_out is not None:
            held_out = _as(held_out[0], x), _as(held_out[1], x)
    trainer = Trainer(own, x, y, held_out, options, together)
    trainer.run(report)
    if own is guide:
        trainer.info.convergence = trainer.convergence
    else:
        guide.load_state_dict(own.state_dict())
    return trainer


def _as(values: Tensor, like: Tensor) -> Tensor:
    """Real numbers in another tensor's precision; whole ones as they are."""
    return values.to(like) if values.is_floating_point() and like.is_floating_point() else values


def convergence_of(guide: Guide, x: Tensor, y: Tensor) -> Convergence | None:
    """Whether a guide has settled; nothing where that cannot be found.

    Args:
        guide: as it is now.
        x: checked inputs.
        y: checked targets.
    """
    try:
        return guide.convergence(x, y)
    except (RuntimeError, ValueError):  # a fit is not lost for want of a figure
        return None


class Trainer:
    """The training loop and all of its state.

    Args:
        guide: trained in place.
        x: checked inputs.
        y: checked targets.
        held_out: checked inputs and targets whose loss is recorded, if any.
        options: all of them.
        together: the processes that train it, with the same arguments.
    """

    def __init__(
        self,
        guide: Guide,
        x: Tensor,
        y: Tensor,
        held_out: tuple[Tensor, Tensor] | None,
        options: FitOptions,
        together: Together,
    ) -> None:
        self.together = together
        self.guide, self.x, self.y, self.held_out, self.options = guide, x, y, held_out, options
        self.spec = guide.model.spec() if options.checkpoint else {}
        self.initial_values = digest([*guide.model.net.state_dict().values(), *guide.parameters()])
        self.optimizer = make_optimizer(
            guide, options.optimizer, lr=options.lr, batch_size=options.batch_size
        )
        self.optimizer_identity = describe_optimizer(self.optimizer)
        size = options.batch_size or len(x)
        self.steps_per_epoch = -(-len(x) // size)
        course = options.period or options.epochs
        self.scheduler = make_schedule(
            self.optimizer,
            options.schedule,
            course * self.steps_per_epoch,
            repeated=options.period is not None,
        )
        is_small = options.batch_size is None and guide.model.work(len(x)) <= WORK
        after = REPLAYED_AFTER.get(str(options.optimizer), 100)
        self.replay = Replay(
            guide,
            x,
            y,
            first=after if is_small and together.is_alone and guide.replayable_loss else None,
        )
        self.convergence: Convergence | None = None
        self.info = FitInfo(options=options.describe())
        self.best: dict[str, Tensor] | None = None
        self.best_loss, self.best_epoch = torch.inf, 0
        self.start, self.earlier_seconds = time.perf_counter(), 0.0

    def run(self, report: ProgressCallback) -> FitInfo:
        """Train to the last epoch, or until early stopping."""
        identity = self._identity() if self.options.checkpoint else {}
        if self.options.checkpoint and Path(self.options.checkpoint).exists():
            self._restore(load_checkpoint(self.options.checkpoint, identity=identity))
        if self.guide.noise_by_example:
            self.together.part_noise(self.options.seed, len(self.info.losses))
        total = self.options.epochs
        while len(self.info.losses) < total and not self.info.stopped_early:
            if self._has_settled():
                break
            self._epoch()
            if self.options.checkpoint and self.together.rank == 0:
                save_checkpoint(self.options.checkpoint, identity=identity, state=self._state())
            report(len(self.info.losses), total, f"loss {self.info.losses[-1]:.4g}")
        if self.best is not None:
            self.guide.load_state_dict(self.best)
        return self.info

    def _has_settled(self) -> bool:
        """Whether a fit without a fixed number of epochs may end."""
        losses, period = self.info.losses, self.options.period
        if period is None or not losses or len(losses) % period:
            return False
        if isinstance(self.optimizer, LBFGS):
            gain = (losses[-2] - losses[-1]) * len(self.x) if len(losses) > 1 else torch.inf
            if not NO_GAIN < gain < SMALL_GAIN:
                return gain <= NO_GAIN
        self.convergence = convergence_of(self.guide, self.x, self.y)
        return self.convergence is None or self.convergence.converged

    def _epoch(self) -> None:
        total = sum(self._step(xb, yb) * len(xb) for xb, yb in self._batches())
        self.info.losses.append(float(total) / len(self.x))
        self._check_finite()
        with torch.no_grad():
            self.guide.end_epoch()
        if self.held_out is not None:
            self.info.validation_losses.append(self._loss_of(*self.held_out))
        if self.options.early_stopping is not None:
            self._watch(self.options.early_stopping)
        self.info.seconds = self.earlier_seconds + time.perf_counter() - self.start

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.options.batch_size is None:
            yield self.x, self.y
            return
        order = self.together.agree(torch.randperm(len(self.x), device=self.x.device))
        for index in order.split(self.options.batch_size):
            yield self.x[index], self.y[index]

    def _step(self, x: Tensor, y: Tensor) -> Tensor:
        replayed = self.replay.loss(len(self.info.losses))

        def closure() -> Tensor:
            if replayed is not None:
                self._count(x)
                return replayed()
            self.optimizer.zero_grad(set_to_none=True)
            if not self.together.is_alone:
                return self._share_of_step(x, y)
            loss = self._evaluate(x, y)
            loss.backward()
            return loss

        search: Any = closure
        if isinstance(self.optimizer, LBFGS):
            search = Wall(closure, self.guide.parameters())
        loss: Any = self.optimizer.step(search)
        self.scheduler.step()
        detached: Tensor = loss.detach()
        return detached

    def _share_of_step(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of a batch of which each process takes a part, and its gradients."""
        own, targets = self.together.share(x), self.together.share(y)
        share = len(own) / len(x)
        if not len(own):  # so that shared random numbers stay the same in all processes
            own, targets = x[:1], y[:1]
        loss = self._evaluate(own, targets) * share
        loss.backward()
        return self.together.add(loss, self.guide.parameters())

    def _evaluate(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of some points, which is counted."""
        self._count(x)
        return check_loss(self.guide, self.guide.loss(x, y, size=len(self.x)))

    def _count(self, x: Tensor) -> None:
        self.info.forward_passes += self.guide.loss_passes * len(x) / len(self.x)

    def _check_finite(self) -> None:
        if not math.isfinite(self.info.losses[-1]):
            raise ValueError(
                f"the loss must stay finite; it became {self.info.losses[-1]} in epoch "
                f"{len(self.info.losses)} of the {self.guide.name} guide. Lower lr (now "
                f"{self.options.lr:g}), or scale the inputs to unit variance."
            )

    def _loss_of(self, x: Tensor, y: Tensor) -> float:
        """The loss now, at the same random numbers each time, so that epochs compare."""
        chunk = self.options.batch_size or MAX_CHUNK
        total = 0.0
        with torch.no_grad(), seeded(substream(self.options.seed, Stream.VALIDATION), x.device):
            for xb, yb in zip(x.split(chunk), y.split(chunk), strict=True):
                total += float(self._evaluate(xb, yb)) * len(xb)
        return total / len(x)

    def _watch(self, rule: EarlyStopping) -> None:
        losses = self.info.validation_losses
        loss = losses[-1] if losses else self._loss_of(self.x, self.y)
        if loss < self.best_loss - rule.min_delta or self.best is None:
            self.best = {n: t.clone() for n, t in self.guide.state_dict().items()}
            self.best_loss, self.best_epoch = loss, len(self.info.losses)
        self.info.stopped_early = len(self.info.losses) - self.best_epoch >= rule.patience

    # ------------------------------------------------------------------------- checkpoints

    def _identity(self) -> dict[str, Any]:
        model, options = self.guide.model, self.options.describe()
        if options["schedule"] == "constant":
            del options["epochs"]  # it may grow: no step depends on it
        return {
            "model": model.fingerprint(),
            "guide": self.guide.name,
            "guide options": self.guide.options(),
            "initial values": self.initial_values,
            "data": digest([self.x, self.y, *(self.held_out or ())]),
            **options,
            "optimizer settings": self.optimizer_identity,
        }

    def _state(self) -> dict[str, Any]:
        device = self.x.device
        return {
            "model": self.spec,
            "guide": self.guide.state_dict(),
            "parameters": [name for name, _ in self.guide.named_parameters()],
            "optimizer": self.optimizer.state_dict(),
            "scheduler": {"last_epoch": self.scheduler.last_epoch},
            "lr": [float(g["lr"]) for g in self.optimizer.param_groups],
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "info": asdict(self.info),
            "best": self.best,
            "best_loss": self.best_loss,
            "best_epoch": self.best_epoch,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        if differing := self.guide.model.differences(state["model"]):
            there, here = next(iter(differing.values()))
            raise ValueError(
                f"a checkpoint must belong to the same fit; {self.options.checkpoint} is of a "
                f"model that differs in {', '.join(differing)}: {there[:200]} there, {here[:200]} "
                f"here. Use another path, or delete it."
            )
        done = len(state["info"]["losses"])
        if done > self.options.epochs:
            raise ValueError(
                f"epochs must be at least those that a checkpoint has done, {done}; got "
                f"{self.options.epochs}. Give {done} or more, or another path."
            )
        self.guide.load_state_dict(state["guide"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.last_epoch = state["scheduler"]["last_epoch"]
        for group, lr in zip(self.optimizer.param_groups, state["lr"], strict=True):
            group["lr"] = lr
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"], self.x.device)
        self.info = FitInfo(**state["info"] | {"options": self.options.describe()})
        self.earlier_seconds = self.info.seconds
        self.best, self.best_loss = state["best"], state["best_loss"]
        self.best_epoch = state["best_epoch"]
