"""A user's own model and data, studied as the problems of the experiments are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probml_tp.digest import digest
from probml_tp.gap.page import TITLE, page_arrays, page_figures, page_findings
from probml_tp.gap.study import GapProblem, GapStudy, in_regions
from probml_tp.gap.tables import evidence_table, predictions_table, weights_table
from probml_tp.guides.exact import why_not_exact
from probml_tp.guides.recipes import Chains, FitSettings, guides_for
from probml_tp.harness.config import Options
from probml_tp.harness.experiment import (
    MAIN_TABLE,
    Experiment,
    ExperimentConfig,
    Figure,
    Progress,
    Results,
    option,
    run_experiment,
)
from probml_tp.kit.knobs import knob
from probml_tp.kit.posterior_checks import with_posterior_checks
from probml_tp.model import BayesianModel

__all__ = ["GUIDES", "Config", "GapOptions", "own_experiment", "own_problem", "usual_points"]

NAME = "which-posterior"
SUMMARY = "How far each posterior of one model is from a reference, and which one to use."

GUIDES = guides_for(
    "layers", without=("swag", "multi-swag", "concrete-dropout", "gaussian-dropout")
)
"""What can be asked for by name, besides ``"exact"``: what needs no choice of a path or rate."""

REFERENCES = ("exact", "nuts")

MOST_DENSE = 2000
"""Parameters up to which the full covariance of Laplace is among the usual guides."""

SMALL_LAPLACE = ("laplace", "laplace-linearized")
LARGE_LAPLACE = ("laplace-kronecker", "laplace-last-layer")
"""The usual kinds of Laplace of a net, by its size."""

MODE_ROUNDS = 20
WIDEN = 3.0
"""How many times as far from the mean of the inputs the points beyond the data are."""

WORDS = {
    "data": "training inputs (data)",
    "between": "midpoints of pairs of them (between)",
    "beyond": "inputs three times as far from their mean (beyond)",
}
"""What the usual regions are."""

Data = tuple[Tensor, Tensor]
Places = tuple[Tensor, dict[str, object], list[str]]


@dataclass(frozen=True, kw_only=True)
class GapOptions(Options):
    """How :func:`probml_tp.which_posterior` fits, samples and compares, for those who care.

    Args:
        epochs: passes over the data of each fit.
        lr: initial learning rate of Adam, cosine schedule.
        batch_size: points a step; all by default, and MAP by L-BFGS then.
        rate: drop rate of MC dropout.
        members: of the ensemble.
        chains: NUTS chains.
        draws: kept of each chain, at most.
        warmup: steps of each chain; by default what the time allows.
        max_tree_depth: at most 2 to this power leapfrog steps a draw; by default likewise.
        points: of each of the usual regions.
        num_samples: draws of each posterior that is not a chain, at least 100.
        resamples: bootstrap resamples for the intervals.
        level: of the intervals, and of the central intervals whose coverage is counted.

    Raises:
        ValueError: a value breaks a rule of its option.

    Example:
        >>> GapOptions(chains=2, draws=500).num_samples
        1000
    """

    epochs: int = knob("epochs", 3000)
    lr: float = knob("lr", 0.02)
    batch_size: int | None = knob("batch_size", None)
    rate: float = knob("rate", 0.1)
    members: int = knob("members", 5)
    chains: int = knob("chains", 4)
    draws: int = knob("draws", 1000, minimum=20)
    warmup: int | None = knob("warmup", None)
    max_tree_depth: int | None = knob("max_tree_depth", None)
    points: int = knob("points", 40)
    num_samples: int = knob("num_samples", 1000, minimum=100)
    resamples: int = knob("resamples", 200, minimum=20)
    level: float = knob("level", 0.95)


@dataclass(frozen=True, kw_only=True)
class Config(GapOptions, ExperimentConfig):
    """How a user's problem is studied, and how long it may take."""

    minutes: float = option(2.0, "How long it may take, about.", minimum=0.01)


def usual_points(model: BayesianModel, x: Tensor, *, points: int, seed: int) -> Places:
    r"""Inputs in the data, between them and beyond them.

    ``data`` are some of the training inputs, ``between`` midpoints of pairs of them, ``beyond``
    others moved to :math:`\bar x + 3 (x_n - \bar x)`. The last two are left out where inputs are no
    real numbers, or the net does not take such.

    Args:
        model: the model.
        x: training inputs ``(N, ...)``.
        points: of each region.
        seed: which.

    Returns:
        All points, name to which of them are of the region, and a sentence on them.

    Example:
        >>> from probml_tp import BayesianModel, Gaussian, NormalPrior
        >>> model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.1))
        >>> x, regions, note = usual_points(model, torch.randn(50, 1), points=20, seed=0)
        >>> x.shape, sorted(regions)
        (torch.Size([60, 1]), ['between', 'beyond', 'data'])
    """
    rng = np.random.default_rng(seed)
    first, second, third, fourth = (
        x[torch.from_numpy(rng.permutation(len(x))[:points]).to(x.device)] for _ in range(4)
    )
    parts = {"data": first}
    if x.is_floating_point():
        mean = x.mean(0)
        more = {"between": (second + third) / 2, "beyond": mean + WIDEN * (fourth - mean)}
        parts |= {name: inputs for name, inputs in more.items() if _takes(model, inputs)}
    words = [f"{len(inputs)} {WORDS[name]}" for name, inputs in parts.items()]
    note = f"Predictions are compared at {', '.join(words)}."
    if len(parts) < len(WORDS):
        left = " or ".join(name for name in WORDS if name not in parts)
        note += f" The net takes no inputs {left} the data: pass x to choose where else."
    return (*in_regions(parts), [note])


def _takes(model: BayesianModel, x: Tensor) -> bool:
    """Whether the net can be run at these inputs, whatever it raises where it cannot."""
    try:
        with torch.no_grad():
            outputs = model.outputs(model.initial_params(), x)
    except Exception:  # a user's net may raise anything
        return False
    return bool(outputs.isfinite().all())


def own_problem(
    model: BayesianModel,
    data: Data,
    *,
    x: Tensor | None,
    regions: Mapping[str, object] | None,
    guides: Sequence[str] | None,
    given: Sequence[str],
    reference: str | None,
    config: Config,
) -> GapProblem:
    """Complete what a user asked for by what is usual.

    Args:
        model: the model.
        data: checked inputs and targets.
        x: where to compare; by default the points of :func:`usual_points`.
        regions: of ``x``.
        guides: what to fit; by default what suits the model.
        given: the names of posteriors that are fitted already.
        reference: which posterior is the reference; by default the exact one, else NUTS.
        config: the options.

    Returns:
        The problem.

    Raises:
        ValueError: regions are given without ``x``, or a guide or the reference is unknown.
    """
    if x is None and regions is not None:
        raise ValueError(
            "regions say which of the points x are where; got regions and no x. Pass the inputs x "
            "where predictions are to be compared."
        )
    if reference not in (None, *REFERENCES, *given):
        raise ValueError(
            f"the reference must be {' or '.join(REFERENCES)}, or one of the posteriors passed; "
            f"got {reference!r}. Leave it out for the exact posterior or NUTS."
        )
    places, notes = dict(regions or {}), list[str]()
    if x is None:
        x, places, notes = usual_points(model, data[0], points=config.points, seed=config.seed)
    first = reference or ("nuts" if why_not_exact(model, data[0]) else "exact")
    asked = _usual_guides(model) if guides is None else _checked_guides(guides)
    names = dict.fromkeys([*given, *asked])
    others = [name for name in names if name != first]
    return GapProblem(
        name=NAME,
        title=model.name,
        model=model,
        data=data,
        x=x,
        regions=places,
        guides=[*others, first],
        how=_settings(model, config),
        reference=first,
        identified=True,
        notes=notes,
    )


def _usual_guides(model: BayesianModel) -> list[str]:
    """Laplace by the size of the model, what trains quickly, dropout and an ensemble for nets."""
    small = model.num_params <= MOST_DENSE
    deep = sum(parameter.ndim > 1 for parameter in model.net.parameters()) > 1
    left_out = {"nuts", "laplace-diagonal" if deep or small else "laplace"}
    left_out |= set(SMALL_LAPLACE if not small else LARGE_LAPLACE) if deep else set()
    return [
        guide
        for guide in guides_for(*(["layers"] if deep else []))
        if guide in GUIDES and guide not in left_out
    ]


def _checked_guides(guides: Sequence[str]) -> list[str]:
    known = ("exact", *GUIDES)
    is_row = isinstance(guides, Sequence) and not isinstance(guides, str) and len(guides) > 0
    if not is_row or any(guide not in known for guide in guides):
        raise ValueError(
            f"guides must be names among {', '.join(known)}; got {guides!r}. Fit others yourself, "
            f"and pass them as posteriors."
        )
    return list(guides)


def _settings(model: BayesianModel, config: Config) -> FitSettings:
    return FitSettings(
        epochs=config.epochs,
        lr=config.lr,
        rounds=MODE_ROUNDS if config.batch_size is None else None,
        batch_size=config.batch_size,
        init_scale=0.1,
        rank=min(10, model.num_params),
        rates=config.rate,
        members=config.members,
        chains=Chains(chains=config.chains, draws=config.draws),
        seed=config.seed,
    )


def own_experiment(study: GapStudy, config: Config) -> tuple[Experiment[Config], Results[Config]]:
    """What was found as results of an experiment, which can be saved and reported.

    Args:
        study: of :func:`own_problem`'s problem.
        config: the options.

    Returns:
        The experiment and its results.
    """

    def run(config: Config, _progress: Progress) -> Results[Config]:
        return _results(study, config)

    experiment = with_posterior_checks(
        Experiment(name=NAME, summary=SUMMARY, config=Config, run=run, figures=figures)
    )
    return experiment, run_experiment(experiment, config)


def figures(results: Results[Config]) -> Iterator[Figure]:
    """Draw the page's figures from its arrays."""
    yield from page_figures(results.arrays)


def _results(study: GapStudy, config: Config) -> Results[Config]:
    x, y = study.problem.data
    return Results(
        experiment=NAME,
        title=f"{TITLE} {study.problem.title}",
        config=config,
        main=predictions_table(study, main=MAIN_TABLE),
        findings=page_findings(study),
        data_source=f"{len(x):,} data points, digest {digest([x, y])}",
        arrays=page_arrays([study]),
        posteriors=dict(study.posteriors),
        inference_data={n: p.to_inference_data(x, y) for n, p in study.posteriors.items()},
        tables=[evidence_table(study), weights_table(study)],
    )
