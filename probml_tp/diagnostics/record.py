"""What an ArviZ record says of its posterior: convergence, k-hat, leave-one-out, PIT values."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from probml_tp.diagnostics.loo import LEAST_DRAWS, elpd_of
from probml_tp.diagnostics.psis import smoothed_weights
from probml_tp.quiet_arviz import az

__all__ = ["divergences", "pit_values", "record_diagnostics", "worst_convergence"]

Array = np.ndarray[Any, Any]


def record_diagnostics(record: az.InferenceData) -> dict[str, float]:
    r"""Diagnose a posterior by its record alone, as far as the record tells.

    Args:
        record: of :func:`probml_tp.diagnostics.to_inference_data`.

    Returns:
        Where it is known whether the fit has settled, ``unsettled``: its figure of convergence over
        the limit of that, above 1 where it has not.
        Of chains ``r_hat`` (the largest rank-normalised split R-hat over the parameters) and
        ``ess`` (the smallest bulk effective sample size), by ArviZ, and ``divergences``. If the
        record is at the training data and has 100 draws, of chains and of guides with a density:
        ``elpd_loo`` in nats, ``p_loo`` and ``worst_k`` of the points (see
        :func:`probml_tp.diagnostics.loo`), and of guides with a density ``pareto_k`` (see
        :func:`probml_tp.diagnostics.pareto_k`). Values that are not finite are left out.

    Example:
        >>> import torch
        >>> from probml_tp import BayesianModel, Gaussian, Laplace, NormalPrior, fit
        >>> net = torch.nn.Linear(1, 1).double()
        >>> model = BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.1))
        >>> x = torch.linspace(-1, 1, 20).unsqueeze(-1)
        >>> record = fit(model, Laplace, (x, x)).to_inference_data(x, x)
        >>> sorted(record_diagnostics(record))
        ['elpd_loo', 'p_loo', 'unsettled', 'worst_k']
    """
    stats = record["sample_stats"]
    found: dict[str, float] = {}
    if "converged" in record.attrs:
        found["unsettled"] = _unsettled(record.attrs)
    is_chain = "diverging" in stats
    if is_chain:
        r_hat, ess = worst_convergence(record["posterior"])
        found |= {"r_hat": r_hat, "ess": ess, "divergences": float(divergences(record))}
    if record.attrs.get("training_data") and (is_chain or "log_q" in stats):
        found |= _importance(record)
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _unsettled(attributes: Mapping[str, Any]) -> float:
    """The figure of convergence over its limit."""
    return float(attributes["convergence_value"]) / float(attributes["convergence_limit"])


def worst_convergence(group: xr.Dataset) -> tuple[float, float]:
    """The largest rank-normalised split R-hat and the smallest bulk effective sample size.

    Args:
        group: of chains, such as a record's ``posterior``; the worst over all its variables.

    Returns:
        Both, by ArviZ; a constant has no R-hat, nor has a single chain.
    """
    r_hat = np.nan
    with np.errstate(divide="ignore", invalid="ignore"):  # a constant, or chains that are stuck
        if group.sizes["chain"] > 1:
            found = az.rhat(group)  # type: ignore[no-untyped-call]
            r_hat = max(float(values.max()) for values in found.values())
        ess = az.ess(group)  # type: ignore[no-untyped-call]
    return r_hat, min(float(values.min()) for values in ess.values())


def divergences(record: az.InferenceData) -> int:
    """The number of divergent transitions of its chains."""
    return int(record["sample_stats"]["diverging"].sum())


def pit_values(record: az.InferenceData) -> Array | None:
    r"""Probability integral transforms :math:`u_n = \frac1S\sum_s 1[y^{rep}_{sn} \le y_n]`.

    Args:
        record: of :func:`probml_tp.diagnostics.to_inference_data`.

    Returns:
        ``(N,)``; none where targets are labels, or several a point.
    """
    (observed,) = (values.to_numpy() for values in record["observed_data"].values())
    (replicated,) = (values.to_numpy() for values in record["posterior_predictive"].values())
    is_real = np.issubdtype(observed.dtype, np.floating) and not np.isin(observed, (0, 1)).all()
    if observed.ndim > 1 or not is_real:
        return None
    return np.asarray((replicated.reshape(-1, len(observed)) <= observed).mean(0))


def _importance(record: az.InferenceData) -> dict[str, float]:
    stats = record["sample_stats"]
    (log_p,) = (values.to_numpy() for values in record["log_likelihood"].values())
    log_p = log_p.reshape(-1, log_p.shape[-1])
    if len(log_p) < LEAST_DRAWS:
        return {}
    found: dict[str, float] = {}
    if "log_q" in stats:
        ratios = (stats["lp"] - stats["log_q"]).to_numpy().ravel()
        if not np.isfinite(ratios).all():
            return {}
        found["pareto_k"] = float(smoothed_weights(ratios)[1])
        elpd = elpd_of(ratios, log_p)
    else:
        with warnings.catch_warnings():  # its warning of a large k-hat is in the numbers
            warnings.simplefilter("ignore")
            elpd = az.loo(record, pointwise=True)  # type: ignore[no-untyped-call]
    return found | {
        "elpd_loo": float(elpd.elpd_loo),
        "p_loo": float(elpd.p_loo),
        "worst_k": float(elpd.pareto_k.max()),
    }
