"""How the guides of one model are fitted: the settings, and the fit of each kind of guide."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor

from probml_tp.convergence import NotConvergedWarning
from probml_tp.guides import SWAG, Delta, Mixture
from probml_tp.guides.fisher import CurvatureKind
from probml_tp.harness.experiment import Update
from probml_tp.inference import GuideFactory, fit, fit_ensemble, sample_nuts
from probml_tp.inference.nuts.starts import MassMatrix
from probml_tp.model import BayesianModel
from probml_tp.posterior import Posterior

__all__ = [
    "Chains",
    "Cost",
    "Data",
    "FitSettings",
    "Job",
    "SwagPath",
    "by_its_cost",
    "ensemble",
    "mode",
    "nuts",
    "swag_around",
]

Data = tuple[Tensor, Tensor]
Cost = Literal["closed form", "chains", "curvature", "epochs"]
"""What a fit consists of."""


@dataclass(frozen=True, kw_only=True)
class SwagPath:
    r"""The stochastic gradient descent that SWAG looks at, from a mode at a constant rate.

    Its spread is that of the iterates, so the learning rate decides it. Were batches of ``S`` of
    ``N`` points drawn independently, plain SGD would come nearest to the posterior at
    :math:`2 S P / (N\, E\|g_n\|^2)`, ``g`` the gradients of the loss per point (Mandt, Hoffman &
    Blei 2017), if it is stable there: below 2 over the largest curvature. Here every epoch passes
    over all points once and ends in a snapshot, so that the noise of an epoch cancels in part: the
    spread is less.

    Args:
        lr: the learning rate.
        epochs: passes over the data; a snapshot is taken after each.
        batch_size: points a step.
        momentum: of the steps.
        rank: deviations kept.
    """

    lr: float
    epochs: int
    batch_size: int
    momentum: float = 0.0
    rank: int = 20

    @classmethod
    def of(cls, options: Any) -> SwagPath:
        """The path that options called ``swag_lr``, ``swag_epochs``, ``swag_batch_size`` choose."""
        return cls(
            lr=options.swag_lr, epochs=options.swag_epochs, batch_size=options.swag_batch_size
        )


@dataclass(frozen=True, kw_only=True)
class Chains:
    """How NUTS is run; see :func:`probml_tp.sample_nuts`.

    Args:
        chains: how many.
        draws: kept of each.
        warmup: steps of each.
        max_tree_depth: at most 2 to this power leapfrog steps a draw.
        mass_matrix: what is adapted.
        target_accept: the acceptance aimed at.
        start: the guide at whose centre they start; ``None`` for the model's own starts.
        per_batch: chains whose gradients are computed together; all that fit by default.
        jobs: processes; as many as there are cores by default.
        enough: whether a posterior of fewer draws will do, so that chains end there.
    """

    chains: int = 4
    draws: int = 1000
    warmup: int = 1000
    max_tree_depth: int = 10
    mass_matrix: MassMatrix = "diagonal"
    target_accept: float = 0.8
    start: str | None = None
    per_batch: int | None = None
    jobs: int | None = None
    enough: Callable[[Posterior], bool] | None = None

    @classmethod
    def of(cls, options: Any, **more: Any) -> Chains:
        """The chains that options of the same names choose.

        Args:
            options: with ``chains``, ``draws`` and ``warmup``, and perhaps others.
            more: what the options do not say.
        """
        own = {f.name: getattr(options, f.name) for f in fields(cls) if hasattr(options, f.name)}
        return cls(**own | more)


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How the guides of one model are fitted.

    The mode is found by L-BFGS if ``rounds`` is given, else by Adam on batches; the variational
    guides by Adam with a learning rate that falls to zero as a cosine. Where a setting is for some
    guides only, these are named, or the family or a trait that they share.

    Args:
        epochs: passes over the data of Adam.
        lr: initial learning rate of Adam.
        lrs: the same for some guides.
        rounds: rounds of L-BFGS, of up to 100 iterations each, on all the data.
        batch_size: points a step of Adam; all by default.
        init_scale: initial standard deviation of mean-field and low-rank normals.
        rank: of the low-rank normal.
        curvature: of Laplace with the full covariance.
        rates: drop rate by layer, where there are layers to drop from, or one for every layer but
            the first; learned from there on by concrete dropout.
        members: of ensembles.
        apart: fit the members of an ensemble apart, in processes, instead of all at once.
        from_mode: more guides that start at the MAP estimate, besides Laplace and SWAG.
        swag: the path of SWAG, where there is a SWAG.
        chains: how NUTS is run, where there are chains.
        one_thread: fit on one thread, which small nets are faster on; chains and members apart
            have a process each.
        seed: determines each fit.
    """

    epochs: int = 1000
    lr: float = 1e-2
    lrs: Mapping[str, float] = field(default_factory=dict)
    rounds: int | None = None
    batch_size: int | None = None
    init_scale: float = 0.01
    rank: int = 10
    curvature: CurvatureKind = "ggn"
    rates: Mapping[str, float] | float = field(default_factory=dict)
    members: int = 5
    apart: bool = False
    from_mode: Collection[str] = ()
    swag: SwagPath | None = None
    chains: Chains = Chains()
    one_thread: bool = True
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Job:
    """One fit.

    Args:
        make: the guide's class, or what makes one; ``None`` for what is no guide, such as chains.
        cost: what the fit consists of.
        lr: initial learning rate of Adam.
        model: the model.
        data: inputs and targets.
        how: the settings of all fits.
        start: the posterior that it starts from, if it does.
        update: told of the progress.
    """

    make: GuideFactory | None
    cost: Cost
    lr: float
    model: BayesianModel
    data: Data
    how: FitSettings
    start: Posterior | None
    update: Update

    def run(self, make: Any, **options: Any) -> Posterior:
        """Call :func:`probml_tp.fit`."""
        own = {"seed": self.how.seed, "progress": self.update, **options}
        return fit(self.model, make, self.data, **own)


def by_its_cost(job: Job) -> Posterior:
    """The fit of most guides: in closed form, by the curvature at a mode, or by Adam."""
    if job.cost == "closed form":
        return job.run(job.make)
    if job.cost == "curvature":
        with warnings.catch_warnings():  # tables show how far each is from its mode
            warnings.simplefilter("ignore", NotConvergedWarning)
            return job.run(job.make, init=job.start, epochs=0)
    start = {} if job.start is None else {"init": job.start}
    return job.run(job.make, **_adam(job), **start)


def _adam(job: Job) -> dict[str, Any]:
    how = job.how
    return {"epochs": how.epochs, "batch_size": how.batch_size, "lr": job.lr, "schedule": "cosine"}


def mode(job: Job) -> Posterior:
    """The MAP estimate, by L-BFGS where the settings have rounds of it."""
    if job.how.rounds is None:
        return job.run(Delta, **_adam(job))
    return job.run(Delta, epochs=job.how.rounds, optimizer="lbfgs")


def ensemble(job: Job) -> Posterior:
    """A deep ensemble, its members all at once or apart."""
    how = job.how
    if not how.apart:
        return by_its_cost(job)
    options = _adam(job) | {"seed": how.seed, "progress": job.update, "first": job.start}
    return fit_ensemble(job.model, Delta, job.data, members=how.members, **options)


def swag_around(job: Job) -> Posterior:
    """SWAG around a mode; around each mode of an ensemble a mixture of them."""
    path, start = job.how.swag, cast("Posterior", job.start)
    if path is None:
        raise ValueError("SWAG needs the path of its gradient descent; got none. Pass swag.")
    of = start.guide
    guides = []
    for centre in list(of.members) if isinstance(of, Mixture) else [of]:
        swag = SWAG(start.model, rank=path.rank)
        swag.loc.data = cast("Tensor", centre.loc).detach().clone()
        guides.append(swag)
    posterior = job.run(
        Mixture.of(guides) if isinstance(of, Mixture) else guides[0],
        epochs=path.epochs,
        batch_size=path.batch_size,
        optimizer=partial(torch.optim.SGD, lr=path.lr, momentum=path.momentum),
    )
    posterior.info.begin_from(start.info)
    return posterior


def nuts(job: Job) -> Posterior:
    """Chains, as the settings have them."""
    chains = job.how.chains
    return sample_nuts(
        job.model,
        job.data,
        draws=chains.draws,
        warmup=chains.warmup,
        chains=chains.chains,
        target_accept=chains.target_accept,
        max_tree_depth=chains.max_tree_depth,
        mass_matrix=chains.mass_matrix,
        init=job.start,
        chains_per_batch=chains.per_batch,
        jobs=chains.jobs,
        enough=chains.enough,
        seed=job.how.seed,
        progress=job.update,
    )
