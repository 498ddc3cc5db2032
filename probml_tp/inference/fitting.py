"""``fit``: one entry for every guide."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor
from torch.optim import LBFGS
from tqdm.auto import tqdm

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import (
    data_pair,
    non_negative,
    non_negative_integer,
    positive,
    positive_integer,
    valid_seed,
)
from probml_tp.convergence import Convergence
from probml_tp.digest import digest
from probml_tp.fit_info import FitInfo
from probml_tp.guide import Guide, check_loss
from probml_tp.inference.autoguide import AutoGuideAdapter
from probml_tp.inference.checkpoint import load_checkpoint, save_checkpoint
from probml_tp.inference.descent import Wall, guide_in_double
from probml_tp.inference.memory import peak_memory_mib
from probml_tp.inference.optimizers import (
    OptimizerFactory,
    OptimizerName,
    ScheduleName,
    callable_name,
    default_optimizer,
    describe_optimizer,
    make_optimizer,
    make_schedule,
)
from probml_tp.inference.starts import check_same_model
from probml_tp.model import BayesianModel, check_model
from probml_tp.posterior import Posterior
from probml_tp.streams import Stream, seeded, substream

__all__ = [
    "EarlyStopping",
    "GuideFactory",
    "ProgressCallback",
    "UnfinishedFitError",
    "fit",
    "progress_reporter",
]

MAX_CHUNK = 10_000

DEFAULTS: dict[str, tuple[int, float, ScheduleName, int | None]] = {
    "adam": (1000, 1e-2, "constant", None),
    "scaled-adam": (4000, 0.1, "cosine", 1000),
    "lbfgs": (30, 1e-2, "constant", 1),
}
"""Of each optimiser: epochs at most, rate, schedule, and after how many epochs a fit may end."""

SMALL_GAIN, NO_GAIN = 1e-3, 1e-9
"""Nats that a round of L-BFGS has to gain to go on: without a look at the mode, and at all."""

GuideFactory = Callable[[BayesianModel], Guide | AutoGuide]
"""A guide class, or any callable that makes a guide for a model."""

ProgressCallback = Callable[[int, int, str], None]
"""Called with (epochs done, epochs in all, message)."""


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
        ValueError: ``patience`` is below 1, or ``min_delta`` negative or not finite.
    """

    patience: int = 10
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        positive_integer("EarlyStopping.patience", self.patience)
        non_negative("EarlyStopping.min_delta", self.min_delta)


class UnfinishedFitError(ValueError):
    """What follows training in closed form failed; the training is not lost.

    Attributes:
        posterior: the point mass at the centre that was found. Other options of the guide can be
            tried around it: ``fit(model, guide, data, init=error.posterior, epochs=0)``.
    """

    def __init__(self, message: str, posterior: Posterior) -> None:
        super().__init__(message)
        self.posterior = posterior


@checked(guide=None, optimizer=None)
def fit(
    model: BayesianModel,
    guide: Guide | AutoGuide | GuideFactory,
    data: tuple[object, object],
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    optimizer: OptimizerName | OptimizerFactory | None = None,
    schedule: ScheduleName | None = None,
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

    **Without options** a small problem (passes of at most 10 million multiply-adds, all data in a
    step) is trained until it has settled. MAP and Laplace go to the mode by L-BFGS, in at most 30
    rounds of 100 iterations. Mean-field and low-rank normals start from the best normal on the
    way there and take Adam's steps in units of their own standard deviations, at a rate that
    falls as a cosine over 1,000 epochs, at most four times. Everything else is trained by Adam at
    a constant rate of 0.01 for 1,000 epochs. ``posterior.converged`` tells whether it has settled.

    Args:
        model: the model.
        guide: a guide class, a callable making a guide from the model, a guide (trained further in
            place), or any Pyro ``AutoGuide`` class or instance.
        data: inputs ``(N, ...)`` and targets ``(N,)`` or ``(N, d)``.
        epochs: passes over the data (of L-BFGS: rounds of up to 100 iterations); 0 leaves the guide
            where it starts and only does what follows in closed form: Laplace around a net that is
            trained already. Given alone, MAP and Laplace are trained by Adam.
        batch_size: points a step, drawn without replacement; ``None`` takes all.
        lr: the learning rate; where it is given, the optimiser is Adam unless another is named.
        optimizer: ``"adam"``; ``"scaled-adam"``, for mean-field and low-rank normals, whose rate is
            in standard deviations a step (0.1 by default); ``"lbfgs"``, for full batches of a
            deterministic objective (MAP, Laplace), which needs no rate and runs in double
            precision, whatever the net's: the mode is then exact to the rounding of the net's own
            type; or a callable from parameters to a torch optimiser (``lr`` is then yours to set).
        schedule: the learning rate over steps: constant, or falling to 0 as a cosine or a line.
        validation: data whose loss is recorded at each epoch.
        early_stopping: when to stop before ``epochs``.
        init: a posterior of the same model whose centre (for MAP and Laplace the mode, for normals
            the mean) the guide starts from; default: the net's own parameters.
        checkpoint: a file written after each epoch. If it exists, the fit goes on from there, to
            the same result as one that was never interrupted. With a constant ``schedule``,
            ``epochs`` may be another number than before, of at least the epochs done: the result
            is that of a fit of so many. A cosine and a line fall to 0 over all epochs, so a fit of
            more is another from its first step on, and is refused; to train further, pass
            ``posterior.guide``.
        seed: determines initial values drawn by the guide, batches and draws.
        progress: show a bar (on terminals), or a callback ``(done, total, message)``.

    Returns:
        The posterior; ``posterior.info`` has the losses, time, memory, passes of the net and
        whether it has settled.

    Raises:
        ValueError: the data do not fit the model, the guide belongs to another model, options do
            not go together, the loss stops being finite, or the checkpoint is another fit's.
        UnfinishedFitError: the closed form failed; it holds what was trained.

    Example:
        >>> from probml_tp import BayesianModel, Gaussian, MeanFieldNormal, NormalPrior
        >>> model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.1))
        >>> x = torch.linspace(-1, 1, 20).unsqueeze(-1)
        >>> posterior = fit(model, MeanFieldNormal, (x, 2 * x), epochs=500)
        >>> bool((posterior.predict([[1.0]]).mean - 2).abs() < 0.2), posterior.converged
        (True, True)
    """
    x, y = check_model(model).check_data(*data_pair("data", data))
    held_out = None
    if validation is not None:
        held_out = model.check_data(*data_pair("validation", validation))
    seed = valid_seed(seed)
    start, earlier = time.perf_counter(), 0.0
    with seeded(seed, model.device):
        built = _build(model, guide)
        options = _options(
            built, len(x), epochs=epochs, batch_size=batch_size, lr=lr, optimizer=optimizer,
            schedule=schedule, early_stopping=early_stopping, checkpoint=checkpoint, seed=seed,
        )  # fmt: skip
        if init is not None:
            built.start_at(_centre(init, model))
        built.prepare(x, y)
        info = FitInfo()
        if built.is_trainable and options.epochs:
            with progress_reporter(progress, built.name, unit="epoch") as report:
                trainer = _trained(built, x, y, held_out, options, report)
            info, earlier = trainer.info, trainer.earlier_seconds
        _finalize(built, x, y, seed=seed, info=info)
        info.convergence = info.convergence or _convergence(built, x, y)
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
    period: int | None = None
    """Epochs after which a fit ends if it has settled; ``None``: it goes on to the last."""

    def describe(self) -> dict[str, Any]:
        """The options in plain types."""
        named = isinstance(self.optimizer, str)
        own = {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "lr": self.lr,
            "optimizer": self.optimizer if named else callable_name(self.optimizer),
            "schedule": self.schedule,
            "early_stopping": self.early_stopping and asdict(self.early_stopping),
            "seed": self.seed,
        }
        return own if self.period is None else own | {"period": self.period}


def _options(
    guide: Guide,
    size: int,
    *,
    epochs: int | None,
    batch_size: int | None,
    lr: float | None,
    optimizer: OptimizerName | OptimizerFactory | None,
    schedule: ScheduleName | None,
    early_stopping: EarlyStopping | None,
    checkpoint: str | Path | None,
    seed: int,
) -> _Options:
    """The options given, and what is chosen in place of the others; see :func:`fit`."""
    if batch_size is not None:
        batch_size = min(positive_integer("batch_size", batch_size), size)
    whole_fit = epochs is None and early_stopping is None
    optimizer = optimizer or default_optimizer(
        guide, size, batch_size=batch_size, whole_fit=whole_fit,
        has_rate=lr is not None or schedule is not None,
    )  # fmt: skip
    count, rate, course, period = DEFAULTS.get(str(optimizer), DEFAULTS["adam"])
    return _Options(
        count if epochs is None else non_negative_integer("epochs", epochs),
        batch_size,
        rate if lr is None else positive("lr", lr),
        optimizer,
        schedule or course,
        early_stopping,
        checkpoint,
        seed,
        period if whole_fit else None,
    )


def _trained(
    guide: Guide,
    x: Tensor,
    y: Tensor,
    held_out: tuple[Tensor, Tensor] | None,
    options: _Options,
    report: ProgressCallback,
) -> _Trainer:
    """Train a guide, by L-BFGS on a copy in double precision."""
    if options.optimizer == "scaled-adam":
        guide.start_near(x, y)
    own = guide
    if options.optimizer == "lbfgs":
        own, x, y = guide_in_double(guide, x, y)
        if held_out is not None:
            held_out = _as(held_out[0], x), _as(held_out[1], x)
    trainer = _Trainer(own, x, y, held_out, options)
    trainer.run(report)
    if own is guide:
        trainer.info.convergence = trainer.convergence
    else:
        guide.load_state_dict(own.state_dict())
    return trainer


def _as(values: Tensor, like: Tensor) -> Tensor:
    """Real numbers in another tensor's precision; whole ones as they are."""
    return values.to(like) if values.is_floating_point() and like.is_floating_point() else values


def _finalize(guide: Guide, x: Tensor, y: Tensor, *, seed: int, info: FitInfo) -> None:
    """What follows training in closed form.

    Raises:
        UnfinishedFitError: it failed; the error holds what was trained.
    """
    try:
        guide.finalize(x, y)
    except (ValueError, RuntimeError, MemoryError) as error:
        if not isinstance(getattr(guide, "loc", None), torch.nn.Parameter):
            raise
        point = Guide.registry["map"](guide.model)
        point.start_at(guide.centre())
        raise UnfinishedFitError(
            f"{error} What was trained is not lost: the error's .posterior is the point mass "
            f"there, to pass as init with other options and epochs=0.",
            Posterior(point, seed=seed, info=info),
        ) from error


def _convergence(guide: Guide, x: Tensor, y: Tensor) -> Convergence | None:
    """Whether a guide has settled; nothing where that cannot be found."""
    try:
        return guide.convergence(x, y)
    except (RuntimeError, ValueError):  # a fit is not lost for want of a figure
        return None


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
        total = self.options.epochs
        while len(self.info.losses) < total and not self.info.stopped_early:
            if self._has_settled():
                break
            self._epoch()
            if self.options.checkpoint:
                save_checkpoint(self.options.checkpoint, identity=identity, state=self._state())
            with torch.random.fork_rng(devices=[]):  # a callback may draw; the fit must not notice
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
        self.convergence = _convergence(self.guide, self.x, self.y)
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
        order = torch.randperm(len(self.x), device=self.x.device)
        for index in order.split(self.options.batch_size):
            yield self.x[index], self.y[index]

    def _step(self, x: Tensor, y: Tensor) -> Tensor:
        def closure() -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
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

    def _evaluate(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of some points, which is counted."""
        self.info.forward_passes += self.guide.loss_passes * len(x) / len(self.x)
        return check_loss(self.guide, self.guide.loss(x, y, size=len(self.x)))

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
