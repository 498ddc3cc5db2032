"""``fit``: one entry for every guide."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor
from torch.nn import Parameter
from torch.optim import LBFGS, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler
from tqdm.auto import tqdm

from probml_tp.arguments import checked
from probml_tp.digest import digest
from probml_tp.evaluate import seeded, substream
from probml_tp.guide import Guide
from probml_tp.inference.autoguide import AutoGuideAdapter
from probml_tp.inference.checkpoint import load_checkpoint, save_checkpoint
from probml_tp.inference.memory import peak_memory_mib
from probml_tp.inference.starts import check_same_model
from probml_tp.model import BayesianModel
from probml_tp.posterior import FitInfo, Posterior
from probml_tp.validation import (
    data_pair,
    non_negative_integer,
    positive,
    positive_integer,
    valid_seed,
)

__all__ = ["EarlyStopping", "GuideFactory", "ProgressCallback", "fit", "progress_reporter"]

VALIDATION = 3
MAX_CHUNK = 10_000

GuideFactory = Callable[[BayesianModel], Guide | AutoGuide]
"""A guide class, or any callable that makes a guide for a model."""

ProgressCallback = Callable[[int, int, str], None]
"""Called with (epochs done, epochs in all, message)."""

OptimizerName = Literal["adam", "lbfgs"]
OptimizerFactory = Callable[[Iterable[Parameter]], Optimizer]
ScheduleName = Literal["constant", "cosine", "linear"]


@checked()
@dataclass(frozen=True)
class EarlyStopping:
    """End a fit when the loss no longer falls, and keep the best epoch's parameters.

    The loss watched is that of the validation data if there are any, else of the training data,
    evaluated after each epoch at the same random numbers.

    Args:
        patience: epochs without improvement before stopping.
        min_delta: the least decrease that counts, in nats per data point.

    Raises:
        ValueError: ``patience`` is below 1 or ``min_delta`` negative.
    """

    patience: int = 10
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        positive_integer("EarlyStopping.patience", self.patience)
        if self.min_delta < 0:
            raise ValueError(f"EarlyStopping.min_delta must not be negative; got {self.min_delta}.")


@checked(guide=None, optimizer=None)
def fit(
    model: BayesianModel,
    guide: Guide | AutoGuide | GuideFactory,
    data: tuple[object, object],
    *,
    epochs: int = 1000,
    batch_size: int | None = None,
    lr: float = 1e-2,
    optimizer: OptimizerName | OptimizerFactory = "adam",
    schedule: ScheduleName = "constant",
    validation: tuple[object, object] | None = None,
    early_stopping: EarlyStopping | None = None,
    init: Posterior | None = None,
    checkpoint: str | Path | None = None,
    seed: int = 0,
    progress: bool | ProgressCallback = True,
) -> Posterior:
    r"""Fit a guide to data: maximise its evidence lower bound, then its closed-form part.

    Guides with parameters are trained on :math:`-\mathrm{ELBO}/N` (each guide states its own),
    then ``finalize`` does what follows in closed form (the curvature of Laplace; all of Exact).
    The same seed gives the same posterior; torch's global random state is left as it was.

    Args:
        model: the model.
        guide: a guide class, a callable making a guide from the model, a guide (trained further in
            place), or any Pyro ``AutoGuide`` class or instance.
        data: inputs ``(N, ...)`` and targets ``(N,)`` or ``(N, d)``.
        epochs: passes over the data; 0 leaves the guide where it starts and only does what follows
            in closed form: Laplace around a net that is trained already.
        batch_size: points a step, drawn without replacement; ``None`` takes all.
        lr: the learning rate.
        optimizer: ``"adam"``; ``"lbfgs"``, for full batches of a deterministic objective (MAP,
            Laplace), which converges to machine precision; or a callable from parameters to a
            torch optimiser (``lr`` is then yours to set).
        schedule: the learning rate over steps: constant, or falling to 0 as a cosine or a line.
        validation: data whose loss is recorded at each epoch.
        early_stopping: when to stop before ``epochs``.
        init: a posterior of the same model whose centre (for MAP and Laplace the mode, for normals
            the mean) the guide starts from; default: the net's own parameters.
        checkpoint: a file written after each epoch. If it exists, the fit goes on from there, to
            the same result as one that was never interrupted.
        seed: determines initial values drawn by the guide, batches and draws.
        progress: show a bar (on terminals), or a callback ``(done, total, message)``.

    Returns:
        The posterior; ``posterior.info`` has the losses, time, memory and passes of the net.

    Raises:
        ValueError: the data do not fit the model, the guide belongs to another model, options do
            not go together, the loss stops being finite, or the checkpoint is another fit's.

    Example:
        >>> from probml_tp import BayesianModel, Gaussian, MeanFieldNormal, NormalPrior
        >>> model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.1))
        >>> x = torch.linspace(-1, 1, 20).unsqueeze(-1)
        >>> posterior = fit(model, MeanFieldNormal, (x, 2 * x), epochs=500, lr=0.05)
        >>> bool((posterior.predict([[1.0]]).mean - 2).abs() < 0.2)
        True
    """
    x, y = model.check_data(*data_pair("data", data))
    held_out = None
    if validation is not None:
        held_out = model.check_data(*data_pair("validation", validation))
    epochs, lr = non_negative_integer("epochs", epochs), positive("lr", lr)
    seed = valid_seed(seed)
    if batch_size is not None:
        batch_size = min(positive_integer("batch_size", batch_size), len(x))
    start, earlier = time.perf_counter(), 0.0
    with seeded(seed, model.device):
        built = _build(model, guide)
        if init is not None:
            built.start_at(_centre(init, model))
        built.prepare(x, y)
        info = FitInfo()
        if built.is_trainable and epochs:
            options = _Options(
                epochs, batch_size, lr, optimizer, schedule, early_stopping, checkpoint, seed
            )
            trainer = _Trainer(built, x, y, held_out, options)
            with progress_reporter(progress, built.name, unit="epoch") as report:
                info = trainer.run(report)
            earlier = trainer.earlier_seconds
        built.finalize(x, y)
    info.seconds = earlier + time.perf_counter() - start
    info.peak_memory_mib = peak_memory_mib()
    info.data = digest([x, y])
    info.forward_passes += built.finalize_passes
    if init is not None:
        info.begin_from(init.info)
    return Posterior(built, seed=seed, info=info)


@dataclass(frozen=True)
class _Options:
    epochs: int
    batch_size: int | None
    lr: float
    optimizer: OptimizerName | OptimizerFactory
    schedule: ScheduleName
    early_stopping: EarlyStopping | None
    checkpoint: str | Path | None
    seed: int

    def describe(self) -> dict[str, Any]:
        """The options in plain types."""
        named = isinstance(self.optimizer, str)
        return {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "lr": self.lr,
            "optimizer": self.optimizer if named else _callable_name(self.optimizer),
            "schedule": self.schedule,
            "early_stopping": self.early_stopping and asdict(self.early_stopping),
            "seed": self.seed,
        }


class _Trainer:
    """The training loop and all of its state."""

    def __init__(
        self,
        guide: Guide,
        x: Tensor,
        y: Tensor,
        held_out: tuple[Tensor, Tensor] | None,
        options: _Options,
    ) -> None:
        self.guide, self.x, self.y, self.held_out, self.options = guide, x, y, held_out, options
        self.initial_values = digest([*guide.model.net.state_dict().values(), *guide.parameters()])
        self.optimizer = _make_optimizer(guide, options)
        size = options.batch_size or len(x)
        self.steps_per_epoch = -(-len(x) // size)
        self.scheduler = _make_schedule(
            self.optimizer, options.schedule, options.epochs * self.steps_per_epoch
        )
        self.info = FitInfo(options=options.describe())
        self.best: dict[str, Tensor] | None = None
        self.best_loss, self.best_epoch = torch.inf, 0
        self.start, self.earlier_seconds = time.perf_counter(), 0.0

    def run(self, report: ProgressCallback) -> FitInfo:
        """Train to the last epoch, or until early stopping."""
        identity = self._identity() if self.options.checkpoint else {}
        if self.options.checkpoint and Path(self.options.checkpoint).exists():
            self._restore(load_checkpoint(self.options.checkpoint, identity=identity))
        total = self.options.epochs
        while len(self.info.losses) < total and not self.info.stopped_early:
            self._epoch()
            if self.options.checkpoint:
                save_checkpoint(self.options.checkpoint, identity=identity, state=self._state())
            with torch.random.fork_rng(devices=[]):  # a callback may draw; the fit must not notice
                report(len(self.info.losses), total, f"loss {self.info.losses[-1]:.4g}")
        if self.best is not None:
            self.guide.load_state_dict(self.best)
        return self.info

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
        order = torch.randperm(len(self.x), device=self.x.device)
        for index in order.split(self.options.batch_size):
            yield self.x[index], self.y[index]

    def _step(self, x: Tensor, y: Tensor) -> Tensor:
        def closure() -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            loss = self._evaluate(x, y)
            loss.backward()
            return loss

        loss: Any = self.optimizer.step(closure)  # type: ignore[arg-type]
        self.scheduler.step()
        detached: Tensor = loss.detach()
        return detached

    def _evaluate(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of some points, which is counted."""
        self.info.forward_passes += self.guide.loss_passes * len(x) / len(self.x)
        return self.guide.loss(x, y, size=len(self.x))

    def _check_finite(self) -> None:
        if not torch.isfinite(torch.tensor(self.info.losses[-1])):
            raise ValueError(
                f"the loss must stay finite; it became {self.info.losses[-1]} in epoch "
                f"{len(self.info.losses)} of the {self.guide.name} guide. Lower lr (now "
                f"{self.options.lr:g}), or scale the inputs to unit variance."
            )

    def _loss_of(self, x: Tensor, y: Tensor) -> float:
        """The loss now, at the same random numbers each time, so that epochs compare."""
        chunk = self.options.batch_size or MAX_CHUNK
        total = 0.0
        with torch.no_grad(), seeded(substream(self.options.seed, VALIDATION), x.device):
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
        model = self.guide.model
        return {
            "model": model.fingerprint(),
            "guide": self.guide.name,
            "guide options": self.guide.options(),
            "initial values": self.initial_values,
            "data": digest([self.x, self.y, *(self.held_out or ())]),
            **self.options.describe(),
        }

    def _state(self) -> dict[str, Any]:
        device = self.x.device
        return {
            "guide": self.guide.state_dict(),
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
        self.guide.load_state_dict(state["guide"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.last_epoch = state["scheduler"]["last_epoch"]
        for group, lr in zip(self.optimizer.param_groups, state["lr"], strict=True):
            group["lr"] = lr
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"], self.x.device)
        self.info = FitInfo(**state["info"])
        self.earlier_seconds = self.info.seconds
        self.best, self.best_loss = state["best"], state["best_loss"]
        self.best_epoch = state["best_epoch"]


def _build(model: BayesianModel, guide: Guide | AutoGuide | GuideFactory) -> Guide:
    built: object = guide
    if callable(guide) and not isinstance(guide, torch.nn.Module):
        built = guide(model)
    if isinstance(built, AutoGuide):
        return AutoGuideAdapter(model, built)
    if not isinstance(built, Guide):
        raise ValueError(
            f"guide must be a guide, a Pyro AutoGuide, or a callable that makes one from the "
            f"model; got {guide!r}. Pass for example MeanFieldNormal."
        )
    if built.model is not model:
        raise ValueError(
            f"a guide must belong to the model it is fitted for; this {built.name} guide was made "
            f"for {built.model.name!r}, not for this {model.name!r}. Pass the guide's class."
        )
    return built


def _centre(posterior: Posterior, model: BayesianModel) -> dict[str, Tensor]:
    """The values of the sites at a posterior's centre, to start another fit from."""
    if not isinstance(getattr(posterior.guide, "loc", None), Tensor):
        raise ValueError(
            f"init must be a posterior with a centre, such as MAP's; the {posterior.name} "
            f"posterior has none. Fit Delta first, and pass that."
        )
    check_same_model(posterior, model)
    return posterior.guide.centre()


def _make_optimizer(guide: Guide, options: _Options) -> Optimizer:
    parameters = [p for p in guide.parameters() if p.requires_grad]
    if callable(options.optimizer):
        return options.optimizer(parameters)
    if options.optimizer not in get_args(OptimizerName):
        raise ValueError(
            f"optimizer must be one of {get_args(OptimizerName)} or a callable; "
            f"got {options.optimizer!r}."
        )
    if options.optimizer == "adam":
        return Adam(parameters, lr=options.lr, fused=True)
    if not guide.deterministic_loss or options.batch_size is not None:
        raise ValueError(
            f"lbfgs needs a deterministic objective on all the data; the {guide.name} guide with "
            f"batch_size={options.batch_size} has none. Use optimizer='adam', or a MAP or Laplace "
            f"guide without batches."
        )
    return LBFGS(
        parameters,
        lr=1.0,
        max_iter=100,
        tolerance_grad=1e-12,
        tolerance_change=1e-15,
        history_size=50,
        line_search_fn="strong_wolfe",
    )


def _make_schedule(optimizer: Optimizer, schedule: ScheduleName, steps: int) -> LRScheduler:
    if schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    if schedule == "linear":
        return LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
    if schedule == "constant":
        return LambdaLR(optimizer, lambda _: 1.0)
    raise ValueError(f"schedule must be one of {get_args(ScheduleName)}; got {schedule!r}.")


@contextmanager
def progress_reporter(
    progress: bool | ProgressCallback, name: str, *, unit: str
) -> Iterator[ProgressCallback]:
    """A callback ``(done, total, message)``: the caller's own, or a bar on terminals."""
    if callable(progress):
        yield progress
        return
    with tqdm(desc=name, unit=unit, disable=None if progress else True) as bar:

        def report(done: int, total: int, message: str) -> None:
            bar.total = total
            bar.set_postfix_str(message, refresh=False)
            bar.update(done - bar.n)

        yield report


def _callable_name(function: object) -> str:
    target = getattr(function, "func", function)
    name = f"{getattr(target, '__module__', '?')}.{getattr(target, '__qualname__', repr(target))}"
    bound = [*getattr(function, "args", ()), *sorted(getattr(function, "keywords", {}).items())]
    return f"{name}{bound}" if bound else name
