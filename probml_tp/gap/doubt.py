r"""Why a recommendation is provisional: the fault of the reference, and what is known without.

Chains that have not converged may be too short, or stay where they began, each in a mode of its
own. With :math:`B` the variance of the chains' means of a function value and :math:`W` the mean
variance within a chain, they stay apart where :math:`B/W` is large while the means of a chain's own
halves, measured likewise, differ by much less.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from torch import Tensor

from probml_tp.diagnostics.step_left import StepLeft
from probml_tp.empirical import Empirical
from probml_tp.gap.checks import HIGHEST_R_HAT, LEAST_ESS, has_converged
from probml_tp.gap.sample import Sample, collect
from probml_tp.posterior import Posterior

__all__ = ["Doubt", "agreement", "doubt_of_chains", "has_settled", "unaided_scores"]

Array = np.ndarray[Any, Any]

APART = 0.2
"""Variance between chains over that within, from which they disagree: R-hat of about 1.1."""

OWN_PART = 0.25
"""The share of that which the halves of single chains show, at most, where these are modes."""

PEEK = 50
"""Draws of each approximation that are compared with the others'."""

UNTOLD = (
    "Knowing how much each mode weighs: longer chains need not tell, and how long they would take "
    "cannot be told, for none was seen to change from one mode to another."
)

MEASURES = {"pareto_k": "k-hat", "elbo": "ELBO", "iwelbo": "IWELBO", "elpd_loo": "PSIS-LOO"}


@dataclass(frozen=True)
class Doubt:
    """Why a recommendation is provisional.

    Args:
        kind: the chains are in different ``"modes"``, they lack ``"length"``, or there is ``"no
            reference"`` at all.
        sentences: what was found of the reference, and what needs none.
        remedy: sentences: what would settle it.
    """

    kind: Literal["modes", "length", "no reference"]
    sentences: tuple[str, ...] = ()
    remedy: tuple[str, ...] = ()


def doubt_of_chains(name: str, posterior: Posterior, x: Tensor) -> Doubt | None:
    """Say what is wrong with chains as a reference at these inputs.

    Args:
        name: what to call them.
        posterior: the reference.
        x: checked inputs ``(N, ...)``.

    Returns:
        The doubt; ``None`` where they have converged, or are no chains.

    Example:
        >>> import torch
        >>> from probml_tp import BayesianModel, Gaussian, NormalPrior
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> model = BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.1))
        >>> apart = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1) + torch.randn(2, 50, 1, 1) / 9
        >>> chains = Posterior(Empirical(model, method="nuts", draws={"weight": apart}))
        >>> doubt_of_chains("nuts", chains, torch.ones(1, 1)).kind
        'modes'
    """
    if not isinstance(posterior.guide, Empirical):
        return None
    sample = collect(posterior, x, sites=(), num_samples=1, seed=0)
    found = sample.convergence
    if found is None or has_converged(found):
        return None
    values = _values(sample)
    seconds = posterior.info.seconds
    after = f" after {seconds:.0f} s" if seconds else ""
    figures = (
        f"R-hat of the functions is {found.r_hat:.3f} (at most {HIGHEST_R_HAT} is wanted), their "
        f"effective sample size {found.ess:.0f} (at least {LEAST_ESS}){after}."
    )
    if _apart(values.reshape(sample.chains, -1, values[0].size)):
        return Doubt(
            "modes",
            (f"The chains of {name} disagree: each stays in a mode of its own. {figures}",),
            (UNTOLD,),
        )
    return Doubt(
        "length",
        (f"The chains of {name} have not converged: {figures}",),
        _time_needed(found.r_hat, found.ess, seconds),
    )


def _values(sample: Sample) -> Array:
    """Class probabilities, or the function of a regression, draw by draw."""
    functions = sample.functions
    return functions["probs"] if "probs" in functions else functions["mean"]


def _time_needed(r_hat: float, ess: float, seconds: float) -> tuple[str, ...]:
    """By the pace of effective samples, and R-hat less one falling as one over the length."""
    factor = max(LEAST_ESS / max(ess, 1.0), (r_hat - 1) / (HIGHEST_R_HAT - 1))
    if not seconds or not math.isfinite(factor):
        return ("Longer chains.",)
    need = factor * seconds / 60
    return (f"A converged reference, which would take about {need:.2g} minutes at this pace.",)


def _apart(values: Array) -> bool:
    """Whether chains ``(C, S, M)`` differ where they differ most, and their halves do not."""
    chains, length, _ = values.shape
    if chains < 2 or length < 4:
        return False
    between = _spread(values)
    worst = int(between.argmax())
    halves = values[:, : length // 2 * 2, worst].reshape(chains, 2, -1, 1)
    own = float(np.mean([_spread(half)[0] for half in halves]))
    return bool(between[worst] > APART and own < OWN_PART * between[worst])


def _spread(values: Array) -> Array:
    """Variance of the means of chains over the mean of their variances, ``(M,)``."""
    within, means = values.var(1).mean(0), values.mean(1).var(0, ddof=1)
    floor = 1e-12 * (1e-12 + np.square(values).mean((0, 1)))
    spread: Array = (means + floor) / (within + floor) - floor / (within + floor)
    return spread


def has_settled(posterior: Posterior, evidence: Mapping[str, float]) -> bool | None:
    """Whether a fit has reached its optimum, as far as it is known.

    Args:
        posterior: the fit.
        evidence: its row of a gap report's ``evidence``.

    Returns:
        Yes, no, or ``None`` where nothing tells.
    """
    known = getattr(posterior, "converged", None)
    if isinstance(known, bool):
        return known
    value = evidence.get("step_left", math.nan)
    if math.isnan(value):
        return None
    return StepLeft(value, evidence["step_left_error"]).is_settled


def unaided_scores(posteriors: Mapping[str, Posterior], evidence: pd.DataFrame) -> Iterator[str]:
    """What is known of each posterior without a reference: a line each.

    Args:
        posteriors: name to posterior.
        evidence: of a gap report.

    Yields:
        Sentences.
    """
    for name, posterior in posteriors.items():
        row = evidence.loc[name].to_dict() if name in evidence.index else {}
        said = [
            f"{words} {row[key]:.4g} ± {row[f'{key}_error']:.2g}"
            for key, words in MEASURES.items()
            if math.isfinite(row.get(key, math.nan))
        ]
        settled = has_settled(posterior, row)
        if settled is not None:
            said.append("the fit has settled" if settled else "the fit has not settled")
        if said:
            yield f"{name}: {', '.join(said)}."


def agreement(posteriors: Mapping[str, Posterior], x: Tensor, *, seed: int) -> Iterator[str]:
    """How far approximations are from each other in what they predict.

    Args:
        posteriors: name to posterior; chains are left out.
        x: checked inputs.
        seed: of their draws.

    Yields:
        A sentence, where there are at least two.
    """
    means, sds = [], []
    for posterior in posteriors.values():
        if isinstance(posterior.guide, Empirical):
            continue
        values = _values(collect(posterior, x, sites=(), num_samples=PEEK, seed=seed))
        means.append(values.mean(0))
        if len(values) > 1:
            sds.append(values.std(0))
    if len(means) < 2:
        return
    apart = float(np.median(np.ptp(np.stack(means), axis=0)))
    said = f"The approximations' mean predictions are {apart:.2g} apart (median over x)"
    spread = np.stack(sds) if len(sds) > 1 else np.zeros((1, 1))
    moving = spread[:, (spread > 0).all(0)]
    if moving.size:
        factor = float(np.median(moving.max(0) / moving.min(0)))
        said += f", their standard deviations differ by a factor of {factor:.2g}"
    yield f"{said}."
