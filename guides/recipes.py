r"""What is known of each guide: what it is called and drawn like, how it is fitted, from where.

One row a guide in :data:`RECIPES`, in the order of tables; chains and the exact posterior are rows
too. :func:`fit_all` fits any of them: those that others start from come first. The Laplace guides
and SWAG start at the MAP estimate, multi-SWAG at the members of the deep ensemble. Around a mode
Laplace needs no optimisation, only the curvature.

A guide of one's own is one more row::

    RECIPES["my-guide"] = Recipe(
        label="Mine", family="normal", color="#000000", linestyle="-", marker="o",
        make=lambda how: MyGuide,
    )
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor

from probml_tp.convergence import NotConvergedWarning
from probml_tp.guides import (
    SWAG,
    ConcreteDropout,
    Delta,
    Exact,
    GaussianDropout,
    Laplace,
    LinearizedLaplace,
    LowRankNormal,
    MCDropout,
    MeanFieldNormal,
    Mixture,
)
from probml_tp.guides.fisher import CurvatureKind
from probml_tp.harness.experiment import Update, no_update
from probml_tp.inference import GuideFactory, fit, fit_ensemble, sample_nuts
from probml_tp.inference.nuts.starts import MassMatrix
from probml_tp.inference.parallel import single_thread
from probml_tp.model import BayesianModel
from probml_tp.posterior import Posterior

__all__ = [
    "RECIPES",
    "Chains",
    "FitSettings",
    "Job",
    "Make",
    "Recipe",
    "SwagPath",
    "fit_all",
    "fit_one",
    "guides_for",
    "one_of_each_family",
]

Data = tuple[Tensor, Tensor]
Family = Literal["reference", "curvature", "normal", "dropout", "ensemble", "point"]
Cost = Literal["closed form", "chains", "curvature", "epochs"]
Stage = Callable[[str], AbstractContextManager[Update]]
"""Called with a guide's name around its fit; gives what is told of the progress."""


# ------------------------------------------------------------------------- how guides are fitted


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

    def start(self, guide: str) -> str | None:
        """The guide whose posterior another one starts from; ``None`` for the net's own values."""
        if guide == "nuts":
            return self.chains.start
        recipe = RECIPES[guide]
        if recipe.start is None and recipe.names(guide) & set(self.from_mode):
            return "map"
        return recipe.start

    def order(self, guides: Iterable[str], given: Collection[str] = ()) -> list[str]:
        """The guides to fit: each after the one that it starts from, which may have no row itself.

        Args:
            guides: those asked for.
            given: those that are fitted already.

        Returns:
            Their names and those of their starts, each once.

        Raises:
            ValueError: a guide has no recipe.

        Example:
            >>> FitSettings().order(["nuts", "swag", "map"])
            ['map', 'nuts', 'swag']
        """
        asked = [guide for guide in guides if guide not in given]
        if unknown := [guide for guide in asked if guide not in RECIPES]:
            raise ValueError(
                f"every guide must have a recipe; got {', '.join(unknown)}. "
                f"They are {', '.join(RECIPES)}."
            )
        starts = [start for guide in asked for start in self._starts(guide)]
        return [g for g in dict.fromkeys([*starts, *asked]) if g not in given]

    def _starts(self, guide: str) -> list[str]:
        """What it starts from, after what that starts from."""
        start = self.start(guide)
        return [] if start is None else [*self._starts(start), start]

    def lr_of(self, guide: str) -> float:
        """The initial learning rate of a guide."""
        own = [lr for name, lr in self.lrs.items() if name in RECIPES[guide].names(guide)]
        return own[0] if own else self.lr


@dataclass(frozen=True, kw_only=True)
class Job:
    """One fit.

    Args:
        guide: its name.
        model: the model.
        data: inputs and targets.
        how: the settings of all fits.
        start: the posterior that it starts from, if it does.
        update: told of the progress.
    """

    guide: str
    model: BayesianModel
    data: Data
    how: FitSettings
    start: Posterior | None
    update: Update

    def run(self, make: Any, **options: Any) -> Posterior:
        """Call :func:`probml_tp.fit`."""
        own = {"seed": self.how.seed, "progress": self.update, **options}
        return fit(self.model, make, self.data, **own)


Fit = Callable[[Job], Posterior]
Make = Callable[[FitSettings], GuideFactory]


def _by_its_cost(job: Job) -> Posterior:
    """The fit of most guides: in closed form, by the curvature at a mode, or by Adam."""
    recipe = RECIPES[job.guide]
    make = cast("Make", recipe.make)(job.how)
    if recipe.cost == "closed form":
        return job.run(make)
    if recipe.cost == "curvature":
        with warnings.catch_warnings():  # tables show how far each is from its mode
            warnings.simplefilter("ignore", NotConvergedWarning)
            return job.run(make, init=job.start, epochs=0)
    start = {} if job.start is None else {"init": job.start}
    return job.run(make, **_adam(job), **start)


def _adam(job: Job) -> dict[str, Any]:
    how = job.how
    lr = how.lr_of(job.guide)
    return {"epochs": how.epochs, "batch_size": how.batch_size, "lr": lr, "schedule": "cosine"}


def _mode(job: Job) -> Posterior:
    if job.how.rounds is None:
        return job.run(Delta, **_adam(job))
    return job.run(Delta, epochs=job.how.rounds, optimizer="lbfgs")


def _ensemble(job: Job) -> Posterior:
    how = job.how
    if not how.apart:
        return _by_its_cost(job)
    options = _adam(job) | {"seed": how.seed, "progress": job.update}
    return fit_ensemble(job.model, Delta, job.data, members=how.members, **options)


def _swag(job: Job) -> Posterior:
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


def _nuts(job: Job) -> Posterior:
    chains = job.how.chains
    return sample_nuts(
        job.model,
        job.data,
        num_samples=chains.draws,
        warmup=chains.warmup,
        chains=chains.chains,
        target_accept=chains.target_accept,
        max_tree_depth=chains.max_tree_depth,
        mass_matrix=chains.mass_matrix,
        init=job.start,
        chains_per_batch=chains.per_batch,
        jobs=chains.jobs,
        seed=job.how.seed,
        progress=job.update,
    )


# ------------------------------------------------------------------------------------- the rows


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is known of one guide.

    Args:
        label: what tables, legends and sentences call it.
        family: the guides that it is akin to; the first row of a family stands for it in figures
            that cannot hold all their lines.
        color: of the Okabe-Ito palette, or one of Tol's.
        linestyle: of its lines, so that it is told apart without colour as well.
        marker: of its points, likewise.
        make: the guide's class, or what makes one, by the settings.
        fit: fits it; by what its cost says if not given.
        start: the guide whose posterior it starts from; ``None`` for the net's own values.
        cost: what its fit consists of.
        needs: what a model must have: ``"conjugate"``, that the posterior is known in closed form;
            ``"layers"``, hidden layers.
        traits: what else settings may name it by.
    """

    label: str
    family: Family
    color: str
    linestyle: str | tuple[int, tuple[float, ...]]
    marker: str
    make: Make | None = None
    fit: Fit = _by_its_cost
    start: str | None = None
    cost: Cost = "epochs"
    needs: frozenset[str] = frozenset()
    traits: frozenset[str] = frozenset()

    def names(self, guide: str) -> set[str]:
        """All that settings may name it by."""
        return {guide, self.family, *self.traits}


LAYERS = frozenset({"layers"})
_laplace = partial(Recipe, family="curvature", start="map", cost="curvature")
_dropout = partial(Recipe, family="dropout", needs=LAYERS)
_normal = partial(Recipe, family="normal")

RECIPES: dict[str, Recipe] = {
    "exact": Recipe(
        label="Exact", family="reference", color="#000000", linestyle="-", marker="o",
        make=lambda how: Exact, cost="closed form", needs=frozenset({"conjugate"}),
    ),
    "nuts": Recipe(
        label="NUTS", family="reference", color="#D55E00", linestyle=(0, (6, 1.5)), marker="s",
        fit=_nuts, cost="chains",
    ),
    "laplace-linearized": _laplace(
        label="Laplace, linearised", color="#56B4E9", linestyle=(0, (4, 1, 1, 1)), marker="v",
        make=lambda how: LinearizedLaplace, needs=LAYERS,
    ),
    "laplace-kronecker": _laplace(
        label="Laplace, Kronecker", color="#222255", linestyle=(0, (6, 1, 1, 1)), marker="8",
        make=lambda how: partial(LinearizedLaplace, structure="kronecker"), needs=LAYERS,
    ),
    "laplace-diagonal": _laplace(
        label="Laplace, diagonal", color="#6699CC", linestyle=(0, (2, 2)), marker="1",
        make=lambda how: partial(LinearizedLaplace, structure="diagonal"),
    ),
    "laplace-last-layer": _laplace(
        label="Laplace, last layer", color="#88CCEE", linestyle=(0, (6, 3)), marker="H",
        make=lambda how: partial(LinearizedLaplace, sites="last-layer"), needs=LAYERS,
    ),
    "laplace": _laplace(
        label="Laplace", color="#0072B2", linestyle=(0, (4, 2)), marker="^",
        make=lambda how: partial(Laplace, curvature=how.curvature),
    ),
    "mean-field": _normal(
        label="Mean-field", color="#009E73", linestyle=(0, (2, 1)), marker="D",
        make=lambda how: partial(MeanFieldNormal, init_scale=how.init_scale),
        traits=frozenset({"factorised"}),
    ),
    "low-rank-normal": _normal(
        label="Low-rank normal", color="#225522", linestyle=(0, (2, 1, 4, 1)), marker="d",
        make=lambda how: partial(LowRankNormal, rank=how.rank, init_scale=how.init_scale),
        traits=frozenset({"correlated"}),
    ),
    "mc-dropout": _dropout(
        label="MC dropout", color="#CC79A7", linestyle=(0, (5, 1, 1, 1, 1, 1)), marker="P",
        make=lambda how: partial(MCDropout, rates=how.rates),
    ),
    "concrete-dropout": _dropout(
        label="Concrete dropout", color="#882255", linestyle=(0, (5, 1, 2, 1)), marker="p",
        make=lambda how: partial(ConcreteDropout, rates=how.rates),
    ),
    "gaussian-dropout": _dropout(
        label="Gaussian dropout", color="#661100", linestyle=(0, (3, 1, 1, 1, 1, 1)), marker="*",
        make=lambda how: partial(GaussianDropout, rates=how.rates),
    ),
    "deep-ensemble": Recipe(
        label="Deep ensemble", family="ensemble", color="#AA3377", linestyle=(0, (3, 1)),
        marker="h", make=lambda how: partial(Mixture, member=Delta, members=how.members),
        fit=_ensemble, needs=LAYERS,
    ),
    "multi-swag": Recipe(
        label="Multi-SWAG", family="ensemble", color="#666633", linestyle=(0, (8, 2, 2, 2)),
        marker=">", fit=_swag, start="deep-ensemble", needs=LAYERS,
    ),
    "swag": Recipe(
        label="SWAG", family="ensemble", color="#332288", linestyle=(0, (8, 2)), marker="<",
        fit=_swag, start="map",
    ),
    "map": Recipe(
        label="MAP", family="point", color="#E69F00", linestyle=(0, (1, 1)), marker="X",
        make=lambda how: Delta, fit=_mode,
    ),
}  # fmt: skip
"""Guide to what is known of it, in the order of tables: references first, a point last.

The colours are those of Okabe and Ito (2008, "Color universal design"), which people with any
common colour vision deficiency tell apart, and ones of Tol (2021, "Colour schemes"); the Laplace
guides are all blue, normals by variational inference green.
"""


def guides_for(
    *has: str, without: Collection[str] = (), families: Collection[Family] | None = None
) -> tuple[str, ...]:
    """The guides that suit a model.

    Args:
        has: what the model has, of :attr:`Recipe.needs`: ``"conjugate"``, ``"layers"``.
        without: guides, families or traits to leave out.
        families: those to choose from; all by default.

    Returns:
        Their names, in the order of tables.

    Example:
        >>> guides_for("conjugate", without=("curvature", "swag"))
        ('exact', 'nuts', 'mean-field', 'low-rank-normal', 'map')
    """
    return tuple(
        guide
        for guide, recipe in RECIPES.items()
        if recipe.needs <= set(has)
        and not recipe.names(guide) & set(without)
        and (families is None or recipe.family in families)
    )


def one_of_each_family(guides: Iterable[str], *, most: int = 7) -> list[str]:
    """Choose guides for a figure that could not hold all their lines.

    Args:
        guides: their names.
        most: so many lines are drawn without choosing.

    Returns:
        All of them if they are few, else the references, the first of each family by
        :data:`RECIPES`, and any others that have no recipe.

    Example:
        >>> one_of_each_family(["swag", "map", "laplace", "laplace-linearized", "mine"], most=3)
        ['swag', 'map', 'laplace-linearized', 'mine']
    """
    asked = list(guides)
    if len(asked) <= most:
        return asked
    first: dict[str, str] = {}
    for guide in RECIPES:
        if guide in asked and RECIPES[guide].family != "reference":
            first.setdefault(RECIPES[guide].family, guide)
    return [
        guide
        for guide in asked
        if guide not in RECIPES or RECIPES[guide].family == "reference" or guide in first.values()
    ]


# ------------------------------------------------------------------------------------- the fits


def fit_one(
    guide: str,
    model: BayesianModel,
    data: Data,
    how: FitSettings,
    *,
    done: Mapping[str, Posterior],
    update: Update = no_update,
) -> Posterior:
    """Fit one guide.

    Args:
        guide: its name in :data:`RECIPES`.
        model: the model.
        data: inputs and targets.
        how: the settings.
        done: the posteriors fitted before, that which the guide starts from among them.
        update: told of the progress.

    Returns:
        The posterior.

    Raises:
        ValueError: the guide refuses the model, or what it starts from is not there.
    """
    start = how.start(guide)
    if start is not None and start not in done:
        raise ValueError(f"it starts from {start}, which was refused")
    recipe = RECIPES[guide]
    own_process = recipe.cost == "chains" or (recipe.family == "ensemble" and how.apart)
    job = Job(
        guide=guide,
        model=model,
        data=data,
        how=how,
        start=None if start is None else done[start],
        update=update,
    )
    with single_thread() if how.one_thread and not own_process else nullcontext():
        return recipe.fit(job)


def fit_all(
    guides: Iterable[str],
    model: BayesianModel,
    data: Data,
    how: FitSettings,
    *,
    stage: Stage = lambda _: nullcontext(no_update),
    given: Mapping[str, Posterior] | None = None,
    refused: dict[str, str] | None = None,
) -> dict[str, Posterior]:
    """Fit guides of one model to one data set, those first that others start from.

    Args:
        guides: their names in :data:`RECIPES`.
        model: the model.
        data: inputs and targets.
        how: the settings.
        stage: entered around each fit with the guide's name.
        given: posteriors by guide that are fitted already.
        refused: where given, guides that refuse the model are entered here with their reasons, and
            the others go on.

    Returns:
        Guide to posterior, those given and those that others start from included.

    Raises:
        ValueError: a guide refuses the model and ``refused`` is not given.

    Example:
        >>> from probml_tp import BayesianModel, Gaussian, NormalPrior
        >>> x = torch.linspace(-1, 1, 9).unsqueeze(-1)
        >>> model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.2))
        >>> list(fit_all(["laplace"], model, (x, x[:, 0]), FitSettings(rounds=2)))
        ['map', 'laplace']
    """
    done = dict(given or {})
    for guide in how.order(guides, done):
        with stage(guide) as update:
            try:
                done[guide] = fit_one(guide, model, data, how, done=done, update=update)
            except ValueError as error:
                if refused is None:
                    raise
                refused[guide] = str(error)
    return done
