"""``fit``: one entry for every guide."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor
from torch.distributed import ProcessGroup

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import (
    data_pair,
    valid_seed,
)
from probml_tp.digest import digest
from probml_tp.fit_info import FitInfo
from probml_tp.guide import Guide
from probml_tp.inference.autoguide import AutoGuideAdapter
from probml_tp.inference.fit_options import EarlyStopping, chosen_options
from probml_tp.inference.memory import peak_memory_mib
from probml_tp.inference.optimizers import (
    OptimizerFactory,
    OptimizerName,
    ScheduleName,
)
from probml_tp.inference.progress import ProgressCallback, progress_reporter
from probml_tp.inference.starts import check_same_model
from probml_tp.inference.together import Together
from probml_tp.inference.training import convergence_of, trained
from probml_tp.model import BayesianModel, check_model
from probml_tp.posterior import Posterior
from probml_tp.streams import seeded

__all__ = ["GuideFactory", "UnfinishedFitError", "fit"]

GuideFactory = Callable[[BayesianModel], Guide | AutoGuide]
"""A guide class, or any callable that makes a guide for a model."""


class UnfinishedFitError(ValueError):
    """What follows training in closed form failed; the training is not lost.

    Attributes:
        posterior: the point mass at the centre that was found. Other options of the guide can be
            tried around it: ``fit(model, guide, data, init=error.posterior, epochs=0)``.
    """

    def __init__(self, message: str, posterior: Posterior) -> None:
        super().__init__(message)
        self.posterior = posterior


@checked(guide=None, optimizer=None, process_group=None)
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
    process_group: ProcessGroup | None = None,
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
        process_group: of ``torch.distributed``, whose processes all call this with the same
            arguments and each train on their share of every batch: the fit of one process up to
            rounding, or for noise by example up to its random numbers. What follows in closed form
            each does whole; the first writes the checkpoint. See docs/scaling.md.
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
    together = Together(process_group)
    start, earlier = time.perf_counter(), 0.0
    with seeded(seed, model.device):
        built = _build(model, guide)
        options = chosen_options(
            built, len(x), epochs=epochs, batch_size=batch_size, lr=lr, optimizer=optimizer,
            schedule=schedule, early_stopping=early_stopping, checkpoint=checkpoint, seed=seed,
        )  # fmt: skip
        if init is not None:
            built.start_at(_centre(init, model))
        built.prepare(x, y)
        info = FitInfo()
        if built.is_trainable and options.epochs:
            shown = progress if together.rank == 0 else False
            with progress_reporter(shown, built.name, unit="epoch") as report:
                trainer = trained(built, x, y, held_out, options, report, together)
            info, earlier = trainer.info, trainer.earlier_seconds
        _finalize(built, x, y, seed=seed, info=info)
        info.convergence = info.convergence or convergence_of(built, x, y)
    info.seconds = earlier + time.perf_counter() - start
    info.peak_memory_mib = peak_memory_mib()
    info.data = digest([x, y])
    info.forward_passes += built.finalize_passes
    if init is not None:
        info.begin_from(init.info)
    return Posterior(built, seed=seed, info=info)


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
