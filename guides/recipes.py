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

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal

from probml_tp.guides import (
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
from probml_tp.guides.fit_settings import (
    Chains,
    Cost,
    Data,
    FitSettings,
    Job,
    SwagPath,
    by_its_cost,
    ensemble,
    mode,
    nuts,
    swag_around,
)
from probml_tp.harness.experiment import Update, no_update
from probml_tp.inference import GuideFactory
from probml_tp.inference.parallel import single_thread
from probml_tp.model import BayesianModel
from probml_tp.posterior import Posterior

__all__ = [
    "RECIPES",
    "Chains",
    "FitSettings",
    "Make",
    "Recipe",
    "SwagPath",
    "fit_all",
    "fit_one",
    "guides_for",
    "one_of_each_family",
    "order_of",
    "start_of",
]

Family = Literal["reference", "curvature", "normal", "dropout", "ensemble", "point"]
Stage = Callable[[str], AbstractContextManager[Update]]
"""Called with a guide's name around its fit; gives what is told of the progress."""

Make = Callable[[FitSettings], GuideFactory]
Fit = Callable[[Job], Posterior]


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
        start: the guide whose posterior it starts from, or which that is by the settings; ``None``
            for the net's own values.
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
    fit: Fit = by_its_cost
    start: str | Callable[[FitSettings], str | None] | None = None
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
        fit=nuts, start=lambda how: how.chains.start, cost="chains",
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
        fit=ensemble, start=lambda how: "map" if how.apart else None, needs=LAYERS,
    ),
    "multi-swag": Recipe(
        label="Multi-SWAG", family="ensemble", color="#666633", linestyle=(0, (8, 2, 2, 2)),
        marker=">", fit=swag_around, start="deep-ensemble", needs=LAYERS,
    ),
    "swag": Recipe(
        label="SWAG", family="ensemble", color="#332288", linestyle=(0, (8, 2)), marker="<",
        fit=swag_around, start="map",
    ),
    "map": Recipe(
        label="MAP", family="point", color="#E69F00", linestyle=(0, (1, 1)), marker="X",
        make=lambda how: Delta, fit=mode,
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


def start_of(guide: str, how: FitSettings) -> str | None:
    """The guide whose posterior another one starts from; ``None`` for the net's own values."""
    recipe = RECIPES[guide]
    start = recipe.start(how) if callable(recipe.start) else recipe.start
    if start is None and recipe.names(guide) & set(how.from_mode):
        return "map"
    return start


def lr_of(guide: str, how: FitSettings) -> float:
    """The initial learning rate of a guide."""
    own = [lr for name, lr in how.lrs.items() if name in RECIPES[guide].names(guide)]
    return own[0] if own else how.lr


def order_of(guides: Iterable[str], how: FitSettings, *, given: Collection[str] = ()) -> list[str]:
    """The guides to fit: each after the one that it starts from, which may have no row itself.

    Args:
        guides: those asked for.
        how: the settings.
        given: those that are fitted already.

    Returns:
        Their names and those of their starts, each once.

    Raises:
        ValueError: a guide has no recipe.

    Example:
        >>> order_of(["nuts", "swag", "map"], FitSettings())
        ['map', 'nuts', 'swag']
    """
    asked = [guide for guide in guides if guide not in given]
    if unknown := [guide for guide in asked if guide not in RECIPES]:
        raise ValueError(
            f"every guide must have a recipe; got {', '.join(unknown)}. "
            f"They are {', '.join(RECIPES)}."
        )
    starts = [start for guide in asked for start in _starts(guide, how)]
    return [guide for guide in dict.fromkeys([*starts, *asked]) if guide not in given]


def _starts(guide: str, how: FitSettings) -> list[str]:
    """What it starts from, after what that starts from."""
    start = start_of(guide, how)
    return [] if start is None else [*_starts(start, how), start]


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
    start = start_of(guide, how)
    if start is not None and start not in done:
        raise ValueError(f"it starts from {start}, which was refused")
    recipe = RECIPES[guide]
    own_process = recipe.cost == "chains" or (recipe.family == "ensemble" and how.apart)
    job = Job(
        make=None if recipe.make is None else recipe.make(how),
        cost=recipe.cost,
        lr=lr_of(guide, how),
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
        >>> import torch
        >>> from probml_tp import BayesianModel, Gaussian, NormalPrior
        >>> x = torch.linspace(-1, 1, 9).unsqueeze(-1)
        >>> model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.2))
        >>> list(fit_all(["laplace"], model, (x, x[:, 0]), FitSettings(rounds=2)))
        ['map', 'laplace']
    """
    done = dict(given or {})
    for guide in order_of(guides, how, given=done):
        with stage(guide) as update:
            try:
                done[guide] = fit_one(guide, model, data, how, done=done, update=update)
            except ValueError as error:
                if refused is None:
                    raise
                refused[guide] = str(error)
    return done
