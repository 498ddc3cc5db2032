"""Ensembles: many fits of one guide from different starting points, in parallel processes."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import data_pair, valid_seed
from probml_tp.convergence import worst
from probml_tp.digest import digest
from probml_tp.fit_info import FitInfo
from probml_tp.guide import Guide
from probml_tp.inference.fit_options import EarlyStopping
from probml_tp.inference.fitting import GuideFactory, fit
from probml_tp.inference.memory import peak_memory_mib
from probml_tp.inference.mixture import Mixture
from probml_tp.inference.optimizers import OptimizerFactory, OptimizerName, ScheduleName
from probml_tp.inference.parallel import number_of_jobs, run_tasks, single_thread
from probml_tp.inference.progress import ProgressCallback, progress_reporter
from probml_tp.inference.starts import check_same_model, random_start
from probml_tp.model import BayesianModel, check_model
from probml_tp.posterior import Posterior
from probml_tp.streams import Stream, seeded, substream

__all__ = ["fit_ensemble"]

START, TRAINING = 0, 1

Arrays = tuple[np.ndarray, np.ndarray]


@checked(guide=None, optimizer=None)
def fit_ensemble(
    model: BayesianModel,
    guide: GuideFactory,
    data: tuple[object, object],
    *,
    members: int = 5,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    optimizer: OptimizerName | OptimizerFactory | None = None,
    schedule: ScheduleName | None = None,
    validation: tuple[object, object] | None = None,
    early_stopping: EarlyStopping | None = None,
    first: Posterior | None = None,
    jobs: int | None = None,
    seed: int = 0,
    progress: bool | ProgressCallback = True,
) -> Posterior:
    r"""Fit one guide from several starting points, and mix the results with equal weights.

    ``Delta`` gives a deep ensemble (Lakshminarayanan et al. 2017, without adversarial examples),
    ``SWAG`` gives multi-SWAG (Wilson & Izmailov 2020). Each member is trained by :func:`fit`, on
    one thread of a process of its own, with its own starting point, batches and draws: the first
    starts at the net's own values, each other one at :func:`random_start`. Their number does not
    change them, nor does the number of processes.

    Training members together, ``fit(model, partial(Mixture, member=Delta, members=5), data)``,
    aims at the same thing; they see the same batches there. For a small fully connected net that
    is the faster way, for others this is, as far as there are free cores.

    Args:
        model: the model.
        guide: a guide class, or a callable making a guide from the model.
        data: inputs ``(N, ...)`` and targets ``(N,)`` or ``(N, d)``.
        members: how many, ``M``.
        epochs: passes over the data of each member; left out, as in :func:`fit`.
        batch_size: points a step, drawn without replacement; ``None`` takes all.
        lr: as in :func:`fit`.
        optimizer: as in :func:`fit`.
        schedule: as in :func:`fit`.
        validation: data whose loss is recorded at each epoch.
        early_stopping: when a member stops before ``epochs``, each by itself.
        first: a fit of this guide to these data from the net's own values, such as the MAP
            estimate that the ensemble is compared with: it is the first member, and only the
            others are fitted.
        jobs: processes; default: one a member, at most one a thread of torch (on a GPU: 1). 1 runs
            members one by one here.
        seed: determines every member, however many processes run.
        progress: show a bar (on terminals), or a callback ``(done, total, message)``.

    Returns:
        The posterior, whose guide is a :class:`Mixture`. Losses in ``posterior.info`` are means
        over members (one that stopped early counts with its last), ``info.members`` has each
        member's own; ``seconds`` is wall time, ``peak_memory_mib`` that of the largest process.

    Raises:
        ValueError: what :func:`fit` refuses, the guide cannot be the member of a mixture, or
            ``first`` is another guide's or another model's posterior.

    Example:
        >>> from probml_tp import Delta, NormalPrior
        >>> from probml_tp.models import mlp_regressor
        >>> model = mlp_regressor(1, hidden=(8,), prior=NormalPrior(1.0), likelihood=0.1)
        >>> x = torch.linspace(-1, 1, 20).unsqueeze(-1)
        >>> posterior = fit_ensemble(model, Delta, (x, x), members=3, epochs=5, jobs=1)
        >>> posterior.name, len(posterior.info.members)
        ('deep-ensemble', 3)
    """
    checked = _arrays(model, "data", data)
    held_out = None if validation is None else _arrays(model, "validation", validation)
    seed = valid_seed(seed)
    start = time.perf_counter()
    mixture = _started(model, guide, members, seed)
    fitted = [] if first is None else [_given(first, mixture, checked)]
    options = _Options(epochs, batch_size, lr, optimizer, schedule, early_stopping)
    tasks = [
        partial(_fit_member, member, checked, held_out, options, seed, index)  # type: ignore[arg-type]
        for index, member in enumerate(mixture.members)
        if index >= len(fitted)
    ]
    with progress_reporter(progress, mixture.name, unit="member") as report:

        def done(member: _Member) -> None:
            fitted.append(member)
            losses = member.info.losses
            report(len(fitted), members, f"loss {losses[-1]:.4g}" if losses else "")

        run_tasks(tasks, jobs=_jobs(model, jobs, len(tasks)), done=done, mmap_mode="c")
    fitted.sort(key=lambda member: member.index)
    for member, own in zip(fitted, mixture.members, strict=True):
        own.load_tensors(member.tensors)  # type: ignore[operator]
    info = _summary([member.info for member in fitted], seed)
    info.seconds = time.perf_counter() - start
    info.data = fitted[-1].info.data
    if first is not None:
        info.begin_from(first.info)
    return Posterior(mixture, seed=seed, info=info)


@dataclass(frozen=True)
class _Options:
    epochs: int | None
    batch_size: int | None
    lr: float | None
    optimizer: OptimizerName | OptimizerFactory | None
    schedule: ScheduleName | None
    early_stopping: EarlyStopping | None


@dataclass(frozen=True)
class _Member:
    index: int
    tensors: dict[str, Tensor]
    info: FitInfo


def _arrays(model: BayesianModel, name: str, data: tuple[object, object]) -> Arrays:
    """Checked data as arrays: joblib gives processes one copy of them to share."""
    x, y = check_model(model).check_data(*data_pair(name, data))
    return x.cpu().numpy(), y.cpu().numpy()


def _started(model: BayesianModel, guide: GuideFactory, members: int, seed: int) -> Mixture:
    """Untrained members, each at its starting point."""
    if not callable(guide) or isinstance(guide, torch.nn.Module):
        raise ValueError(
            f"an ensemble makes a guide for each of its members, so it needs a guide's class or a "
            f"callable; got {type(guide).__name__}. Pass for example Delta."
        )
    with seeded(substream(seed, Stream.MEMBERS), model.device):
        mixture = Mixture(model, member=guide, members=members)
    for index, member in enumerate(mixture.members):
        if index:
            with seeded(substream(seed, Stream.MEMBERS, index, START), model.device):
                member.start_at(random_start(model))  # type: ignore[operator]
    return mixture


def _given(first: Posterior, mixture: Mixture, data: Arrays) -> _Member:
    """A posterior as the first member of a mixture."""
    check_same_model(first, mixture.model)
    if first.info.data != digest(_tensors(data)):
        raise ValueError(
            "first must be a fit to the data of the other members; got one to other data. Leave it "
            "out, and all members are fitted."
        )
    own = mixture.members[0]
    if type(first.guide) is not type(own) or first.guide.options() != own.options():
        raise ValueError(
            f"first must be a fit of the members' guide, {own.name} with its options; got the "
            f"{first.name} posterior. Leave it out, and all members are fitted."
        )
    return _Member(0, {n: t.detach() for n, t in first.guide.state_dict().items()}, first.info)


def _jobs(model: BayesianModel, jobs: int | None, members: int) -> int:
    return number_of_jobs(1 if jobs is None and model.device.type == "cuda" else jobs, members)


def _fit_member(
    member: Guide, data: Arrays, held_out: Arrays | None, options: _Options, seed: int, index: int
) -> _Member:
    """One member's fit, in whatever process; its tensors go back."""
    with single_thread(), torch.enable_grad():
        posterior = fit(
            member.model,
            member,
            _tensors(data),
            epochs=options.epochs,
            batch_size=options.batch_size,
            lr=options.lr,
            optimizer=options.optimizer,
            schedule=options.schedule,
            validation=held_out and _tensors(held_out),
            early_stopping=options.early_stopping,
            seed=substream(seed, Stream.MEMBERS, index, TRAINING),
            progress=False,
        )
    tensors = {name: t.detach() for name, t in posterior.guide.state_dict().items()}
    return _Member(index, tensors, posterior.info)


def _tensors(data: Arrays) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(data[0]), torch.from_numpy(data[1])


def _summary(infos: list[FitInfo], seed: int) -> FitInfo:
    """One record of all members' fits."""
    options: dict[str, Any] = {**infos[0].options, "seed": seed, "members": len(infos)}
    own = ("losses", "validation_losses", "seconds", "stopped_early")
    return FitInfo(
        options=options,
        losses=_mean([info.losses for info in infos]),
        validation_losses=_mean([info.validation_losses for info in infos]),
        peak_memory_mib=max(peak_memory_mib(), *(info.peak_memory_mib for info in infos)),
        stopped_early=any(info.stopped_early for info in infos),
        forward_passes=sum(info.forward_passes for info in infos),
        members=[{name: asdict(info)[name] for name in own} for info in infos],
        convergence=worst([info.convergence for info in infos]),
    )


def _mean(traces: list[list[float]]) -> list[float]:
    """The mean over members at each epoch; a trace that ended goes on with its last value."""
    last = [trace[-1] if trace else 0.0 for trace in traces]
    epochs = zip_longest(*traces)
    return [
        sum(end if value is None else value for value, end in zip(epoch, last, strict=True))
        / len(traces)
        for epoch in epochs
    ]
