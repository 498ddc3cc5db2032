r"""How experiments fit each guide: one recipe a name, and what it starts from.

The Laplace guides and SWAG start at the MAP estimate, multi-SWAG at the members of the deep
ensemble, so these are fitted first. Around a mode Laplace needs no optimisation, only the
curvature.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

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
from probml_tp.harness.experiment import Update
from probml_tp.inference import GuideFactory, fit, fit_ensemble
from probml_tp.model import BayesianModel
from probml_tp.posterior import Posterior

__all__ = ["LAPLACE", "Recipes", "SwagPath"]

LAPLACE: Mapping[str, GuideFactory] = {
    "laplace": Laplace,
    "laplace-linearized": LinearizedLaplace,
    "laplace-kronecker": partial(LinearizedLaplace, structure="kronecker"),
    "laplace-diagonal": partial(LinearizedLaplace, structure="diagonal"),
    "laplace-last-layer": partial(LinearizedLaplace, sites="last-layer"),
}
"""Guide to what makes it; all but the first predict by the linearised net."""

STARTS: Mapping[str, str] = {
    **dict.fromkeys([*LAPLACE, "swag"], "map"),
    "multi-swag": "deep-ensemble",
}
"""Guide to the one whose posterior it starts from."""

Data = tuple[Tensor, Tensor]


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
class Recipes:
    """How the guides of one model are fitted.

    The mode is found by L-BFGS if ``rounds`` is given, else by Adam on batches; the variational
    guides by Adam with a learning rate that falls to zero as a cosine.

    Args:
        epochs: passes over the data of Adam.
        lr: initial learning rate of Adam.
        lrs: the same for single guides.
        rounds: rounds of L-BFGS, of up to 100 iterations each, on all the data.
        batch_size: points a step of Adam; all by default.
        init_scale: initial standard deviation of mean-field and low-rank normals.
        rank: of the low-rank normal.
        rates: drop rate by layer, where there are layers to drop from, or one for every layer but
            the first; learned from there on by concrete dropout.
        members: of ensembles.
        apart: fit the members of an ensemble apart, in processes, instead of all at once.
        from_mode: more guides that start at the MAP estimate, besides Laplace and SWAG.
        swag: the path of SWAG, where there is a SWAG.
        seed: determines each fit.
    """

    epochs: int
    lr: float
    lrs: Mapping[str, float] = field(default_factory=dict)
    rounds: int | None = None
    batch_size: int | None = None
    init_scale: float = 0.01
    rank: int = 10
    rates: Mapping[str, float] | float = field(default_factory=dict)
    members: int = 5
    apart: bool = False
    from_mode: Collection[str] = ()
    swag: SwagPath | None = None
    seed: int = 0

    def start(self, guide: str) -> str | None:
        """The guide whose posterior another one starts from; ``None`` for the net's own values."""
        return STARTS.get(guide, "map" if guide in self.from_mode else None)

    def missing(self, guide: str, done: Collection[str]) -> str | None:
        """The guide that another one starts from, if it is not fitted."""
        start = self.start(guide)
        return start if start and start not in done else None

    def order(self, guides: Iterable[str]) -> list[str]:
        """The guides to fit: each after the one that it starts from, which may have no row itself.

        Args:
            guides: those asked for.

        Returns:
            Their names and those of their starts, each once.

        Example:
            >>> recipes = Recipes(epochs=9, lr=0.1)
            >>> recipes.order(["nuts", "swag", "map"])
            ['map', 'nuts', 'swag']
        """
        asked = list(guides)
        starts = [start for guide in asked if (start := self.start(guide))]
        return list(dict.fromkeys([*starts, *asked]))

    def fit(
        self,
        guide: str,
        model: BayesianModel,
        data: Data,
        *,
        done: Mapping[str, Posterior],
        update: Update,
    ) -> Posterior:
        """Fit one guide.

        Args:
            guide: its name.
            model: the model.
            data: inputs and targets.
            done: the posteriors fitted before, that which the guide starts from among them.
            update: told of the progress.

        Returns:
            The posterior.
        """
        run: Any = partial(fit, model, data=data, seed=self.seed, progress=update)
        if guide == "exact":
            return cast("Posterior", run(Exact))
        if guide in LAPLACE:
            with warnings.catch_warnings():  # tables show how far each is from its mode
                warnings.simplefilter("ignore", NotConvergedWarning)
                return cast("Posterior", run(LAPLACE[guide], init=done["map"], epochs=0))
        if guide in ("swag", "multi-swag"):
            return self._fit_swag(run, done[STARTS[guide]])
        if guide == "map" and self.rounds is not None:
            return cast("Posterior", run(Delta, epochs=self.rounds, optimizer="lbfgs"))
        options: dict[str, Any] = {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "lr": self.lrs.get(guide, self.lr),
            "schedule": "cosine",
        }
        if guide == "deep-ensemble" and self.apart:
            options |= {"seed": self.seed, "progress": update}
            return fit_ensemble(model, Delta, data, members=self.members, **options)
        if start := self.start(guide):
            options["init"] = done[start]
        return cast("Posterior", run(self._factory(guide), **options))

    def _factory(self, guide: str) -> GuideFactory:
        rates, scale = self.rates, self.init_scale
        made: dict[str, GuideFactory] = {
            "map": Delta,
            "mean-field": partial(MeanFieldNormal, init_scale=scale),
            "low-rank-normal": partial(LowRankNormal, rank=self.rank, init_scale=scale),
            "mc-dropout": partial(MCDropout, rates=rates),
            "concrete-dropout": partial(ConcreteDropout, rates=rates),
            "gaussian-dropout": partial(GaussianDropout, rates=rates),
            "deep-ensemble": partial(Mixture, member=Delta, members=self.members),
        }
        return made[guide]

    def _fit_swag(self, run: Any, start: Posterior) -> Posterior:
        """SWAG around a mode; around each mode of an ensemble a mixture of them."""
        path, of = self.swag, start.guide
        if path is None:
            raise ValueError("SWAG needs the path of its gradient descent; got none. Pass swag.")
        centres = list(of.members) if isinstance(of, Mixture) else [of]
        guides = []
        for centre in centres:
            swag = SWAG(start.model, rank=path.rank)
            swag.loc.data = cast("Tensor", centre.loc).detach().clone()
            guides.append(swag)
        sgd = partial(torch.optim.SGD, lr=path.lr, momentum=path.momentum)
        posterior: Posterior = run(
            Mixture.of(guides) if isinstance(of, Mixture) else guides[0],
            epochs=path.epochs,
            batch_size=path.batch_size,
            optimizer=sgd,
        )
        posterior.info.begin_from(start.info)
        return posterior
