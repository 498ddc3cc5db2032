"""What a comparison tells of each posterior by itself, from the data alone."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from functools import partial

import pandas as pd

from probml_tp.diagnostics.evidence.bridge import NoBridgeError, bridge_sampling
from probml_tp.diagnostics.evidence.elbo import elbo_of
from probml_tp.diagnostics.evidence.importance import is_proper, joint_ratios
from probml_tp.diagnostics.evidence.iwelbo import LogEvidence, iwelbo_of
from probml_tp.diagnostics.loo import LEAST_DRAWS, loo
from probml_tp.diagnostics.psis import k_error, k_threshold, layers_of, pareto_k
from probml_tp.diagnostics.step_left import step_left
from probml_tp.empirical import Empirical
from probml_tp.posterior import Posterior

__all__ = ["evidence_tables"]

COLUMNS = (
    "step_left",
    "step_left_error",
    "pareto_k",
    "pareto_k_error",
    "k_threshold",
    "elbo",
    "elbo_error",
    "iwelbo",
    "iwelbo_error",
    "log_evidence",
    "log_evidence_error",
    "elpd_loo",
    "elpd_loo_error",
    "loo_worst_k",
)

MOST_PARAMS = 2000
"""Parameters up to which the step left is found: it takes their covariance."""

TRIED = 2
"""Draws that tell what one takes."""

Row = dict[str, float]

UNKNOWN = LogEvidence(math.nan, math.nan)


def evidence_tables(
    posteriors: Mapping[str, Posterior],
    data: tuple[object, object],
    *,
    num_samples: int,
    seeds: Mapping[str, int],
    until: float | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Judge each posterior by its density, its bounds and its predictions of points left out.

    Args:
        posteriors: name to posterior.
        data: inputs and targets that they were fitted to.
        num_samples: draws of a posterior that is not a chain.
        seeds: name to the seed of its draws.
        until: when to stop, by ``time.monotonic()``: what would take longer, by the seconds of a
            draw, and what cannot be found whatever the reason, is unknown. By default errors are
            raised.

    Returns:
        One row a posterior, NaN where a number is not defined; Pareto k-hat with a column for each
        layer; and its standard errors, likewise.

    Raises:
        ValueError: the data do not fit, or there are too few draws.
    """
    rows: dict[str, Row] = {}
    layers: dict[str, Row] = {}
    for name, posterior in posteriors.items():
        rows[name] = dict.fromkeys(COLUMNS, math.nan)
        layers[name] = {}
        k_hat = partial(_k_hat, layers[name])
        one = 0.0 if until is None else _seconds_of_a_draw(posterior, data)
        passes = {k_hat: 1 + len(layers_of(posterior.model)), _bounds: 1, _step: 3, _loo: 1}
        for part in (k_hat, _bounds, _step, _loo, _log_evidence):
            needed = one * num_samples * passes.get(part, 0)
            if until is not None and time.monotonic() + needed > until:
                continue
            try:
                rows[name] |= part(posterior, data, num_samples, seeds[name])
            except Exception:  # a user's net may raise anything
                if until is None:
                    raise
    layers = {name: row for name, row in layers.items() if row}
    errors = {
        name: {layer: k_error(k, num_samples) for layer, k in row.items()}
        for name, row in layers.items()
    }
    return _frame(rows), _frame(layers), _frame(errors)


def _seconds_of_a_draw(posterior: Posterior, data: tuple[object, object]) -> float:
    """What a draw takes over all the data; nothing where that cannot be told."""
    begin = time.monotonic()
    try:
        posterior.log_likelihood(*data, num_samples=TRIED)
    except Exception:  # what is wrong raises again where it is asked for
        return 0.0
    return (time.monotonic() - begin) / TRIED


def _frame(rows: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("posterior")


def _k_hat(
    layers: Row, posterior: Posterior, data: tuple[object, object], count: int, seed: int
) -> Row:
    """Pareto k-hat, by layer too."""
    if posterior.guide.no_density is not None:
        return {}
    found = pareto_k(posterior, *data, num_samples=count, seed=seed)
    layers.update(found.layers)
    return {
        "pareto_k": found.k,
        "pareto_k_error": found.error,
        "k_threshold": k_threshold(count),
    }


def _bounds(posterior: Posterior, data: tuple[object, object], count: int, seed: int) -> Row:
    """Lower bounds of the log evidence."""
    if posterior.guide.no_density or not is_proper(posterior.model):
        return {}
    ratios = joint_ratios(posterior, *data, what="the ELBO", num_samples=count, seed=seed)
    one, many = elbo_of(ratios), iwelbo_of(ratios, min(50, count))
    return {
        "elbo": one.value,
        "elbo_error": one.standard_error,
        "iwelbo": many.value,
        "iwelbo_error": many.standard_error,
    }


def _step(posterior: Posterior, data: tuple[object, object], count: int, seed: int) -> Row:
    """How far a variational normal is from its optimum; unknown for large models."""
    model = posterior.model
    if not posterior.guide.is_variational_normal or model.num_params > MOST_PARAMS:
        return {}
    found = step_left(posterior, model.check_data(*data), num_samples=count, seed=seed)
    return {"step_left": found.value, "step_left_error": found.se}


def _log_evidence(posterior: Posterior, data: tuple[object, object], _count: int, seed: int) -> Row:
    """The guide's own closed form, with no Monte Carlo error; of a chain by a bridge."""
    guide, found = posterior.guide, UNKNOWN
    if not is_proper(posterior.model):
        return {}
    if isinstance(guide, Empirical):
        found = _bridge(posterior, data, seed)
    elif hasattr(guide, "log_evidence") and guide.no_density is None:
        found = LogEvidence(float(guide.log_evidence()), 0.0)  # type: ignore[operator]
    return {"log_evidence": found.value, "log_evidence_error": found.standard_error}


def _bridge(posterior: Posterior, data: tuple[object, object], seed: int) -> LogEvidence:
    """The bridge's estimate, unknown where the chain is too short for one."""
    try:
        return bridge_sampling(posterior, *data, seed=seed)
    except NoBridgeError:
        return UNKNOWN


def _loo(posterior: Posterior, data: tuple[object, object], count: int, seed: int) -> Row:
    """Points left out, where the draws are, or can be weighted to be, of the posterior."""
    guide = posterior.guide
    if isinstance(guide, Empirical):
        if guide.flat.shape[:2].numel() < LEAST_DRAWS:
            return {}
    elif guide.no_density:
        return {}
    found = loo(posterior, *data, num_samples=count, seed=seed)
    return {
        "elpd_loo": float(found["elpd_loo"]),
        "elpd_loo_error": float(found["se"]),
        "loo_worst_k": float(found["pareto_k"].max()),
    }
