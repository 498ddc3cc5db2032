"""What an ArviZ record says of the posterior it is of: convergence, k-hat, leave-one-out."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from probml_tp.diagnostics.loo import LEAST_DRAWS, elpd_of
from probml_tp.diagnostics.psis import smoothed_weights

with warnings.catch_warnings():  # ArviZ 0.x announces ArviZ 1 when it is imported
    warnings.filterwarnings("ignore", category=FutureWarning, message=r"\s*ArviZ is undergoing")
    import arviz as az

__all__ = ["record_diagnostics"]

Array = np.ndarray[Any, Any]


def record_diagnostics(record: az.InferenceData) -> dict[str, float]:
    r"""Diagnose a posterior by its record alone, as far as the record tells.

    Args:
        record: of :func:`probml_tp.diagnostics.to_inference_data`.

    Returns:
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
        ['elpd_loo', 'p_loo', 'worst_k']
    """
    stats = record["sample_stats"]
    found: dict[str, float] = {}
    is_chain = "diverging" in stats
    if is_chain:
        found |= _convergence(record)
    if record.attrs.get("training_data") and (is_chain or "log_q" in stats):
        found |= _importance(record)
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _convergence(record: az.InferenceData) -> dict[str, float]:
    posterior = record["posterior"]
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", category=RuntimeWarning)
        r_hat, ess = az.rhat(posterior), az.ess(posterior)  # type: ignore[no-untyped-call]
    return {
        "r_hat": max(float(values.max()) for values in r_hat.values()),
        "ess": min(float(values.min()) for values in ess.values()),
        "divergences": float(record["sample_stats"]["diverging"].sum()),
    }


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
    worst = float(elpd.pareto_k.max())
    return found | {
        "elpd_loo": float(elpd.elpd_loo),
        "p_loo": float(elpd.p_loo),
        "worst_k": worst,
    }
