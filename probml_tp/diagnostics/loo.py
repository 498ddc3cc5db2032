r"""Leave-one-out cross-validation without refitting, corrected for the approximation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from arviz.stats.stats import ELPDData  # type: ignore[attr-defined]
from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import positive_integer, valid_seed
from probml_tp.diagnostics.evidence.importance import check_density, importance_ratios
from probml_tp.diagnostics.psis import k_threshold, smoothed_weights
from probml_tp.empirical import Empirical
from probml_tp.guide import Guide
from probml_tp.posterior import Posterior
from probml_tp.predictions.draws import draw_batches
from probml_tp.quiet_arviz import az
from probml_tp.records import InOrder

__all__ = ["elpd_of", "loo"]

Array = np.ndarray[Any, Any]

LEAST_DRAWS = 100
MAX_ELEMENTS = 50_000_000


@checked()
def loo(
    posterior: Posterior, x: object, y: object, *, num_samples: int = 1000, seed: int | None = None
) -> ELPDData:
    r"""Estimate the log predictive density of each point given all the others, by PSIS-LOO.

    .. math:: \mathrm{elpd} = \sum_n \log p(y_n \mid x_n, y_{-n})
              \approx \sum_n \log\sum_s w_{ns}\, p(y_n \mid x_n, \theta_s)

    Stored draws (NUTS) are taken as draws of the posterior, with weights
    :math:`w_{ns} \propto 1/p(y_n \mid x_n, \theta_s)` (Vehtari, Gelman & Gabry 2017) as in
    ``arviz.loo``, the relative efficiency being that of the likelihoods. Draws of a guide with a
    density are not draws of the posterior; their weights correct for that (Magnusson et al. 2019,
    "Bayesian leave-one-out cross-validation for large data"; ``loo_approximate_posterior`` of the R
    package loo):

    .. math:: w_{ns} \propto \frac{p(\theta_s, y \mid x)}{q(\theta_s)}
              \frac1{p(y_n \mid x_n, \theta_s)}

    each Pareto smoothed. It is then the elpd of the exact posterior that is estimated, whatever the
    guide, as far as the points' k-hats are below ``good_k``: the same number for all guides of a
    model, and a way to compare models. For the linearised Laplace guide the model is the linearised
    one.

    Args:
        posterior: a chain, or a posterior with a density.
        x: all inputs it was fitted to.
        y: all targets.
        num_samples: draws, ``S``; of a chain all stored draws are taken.
        seed: determines them; default: the posterior's.

    Returns:
        ArviZ's ``ELPDData`` with pointwise ``loo_i`` and ``pareto_k`` over ``observation``:
        ``az.compare({"a": loo_a, "b": loo_b})`` and ``az.plot_khat`` take it. ``p_loo`` is the
        effective number of parameters, ``warning`` whether a k-hat is above ``good_k``.

    Raises:
        ValueError: the guide has no density and is no chain, there are fewer than 100 draws, draws
            times points are more than 50 million, or the data do not fit.

    Example:
        >>> from probml_tp import BayesianModel, Exact, Gaussian, NormalPrior, fit
        >>> model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.1))
        >>> x = torch.linspace(-1, 1, 20).unsqueeze(-1)
        >>> found = loo(fit(model, Exact, (x, 2 * x)), x, 2 * x)
        >>> bool(found.elpd_loo > 0), found.loo_i.dims, bool(found.warning)
        (True, ('observation',), False)
    """
    guide = posterior.guide
    if not isinstance(guide, Empirical):
        check_density(posterior, "leave-one-out cross-validation")
    inputs, targets = posterior.model.check_data(x, y)
    seed = valid_seed(posterior.seed if seed is None else seed)
    count = positive_integer("num_samples", num_samples)
    if isinstance(guide, Empirical):
        count = guide.flat.shape[0] * guide.flat.shape[1]
    if count < LEAST_DRAWS:
        raise ValueError(
            f"leave-one-out weights need at least {LEAST_DRAWS} draws; got {count}. Pass "
            f"num_samples=1000, or run a longer chain."
        )
    if count * len(inputs) > MAX_ELEMENTS:
        raise ValueError(
            f"leave-one-out weights may be at most {MAX_ELEMENTS:,} numbers; {count} draws at "
            f"{len(inputs)} points make {count * len(inputs):,}. Pass fewer draws."
        )
    if isinstance(guide, Empirical):
        log_p = _log_likelihood(guide, inputs, targets)
        return elpd_of(np.zeros(count), log_p.reshape(count, -1), reff=_relative_efficiency(log_p))
    ratios = importance_ratios(
        guide,
        inputs,
        targets,
        num_samples=count,
        seed=seed,
        own_net=type(guide).outputs is Guide.outputs,
        pointwise=True,
    )
    return elpd_of(ratios.log_ratios.numpy(), ratios.log_likelihood.numpy(), reff=1.0)


def _log_likelihood(guide: Empirical, x: Tensor, y: Tensor) -> Array:
    """Of all stored draws in their order, ``(chains, draws, N)``."""
    chains, draws = guide.flat.shape[:2]
    values = torch.zeros(chains * draws, len(x), dtype=torch.float64)
    for batch in draw_batches(InOrder(guide), x, num_samples=len(values), seed=0):
        found = guide.model.likelihood.log_prob(batch.outputs, y[batch.points], batch.params)
        values[batch.draws, batch.points] = found.double().cpu()
    shaped: Array = values.reshape(chains, draws, len(x)).numpy()
    return shaped


def _relative_efficiency(log_p: Array) -> float:
    """Effective draws of the likelihoods as a share of the draws, the mean over points."""
    moving = log_p[..., np.ptp(log_p, axis=(0, 1)) > 0]
    if not moving.size:
        return 1.0
    likelihoods = np.exp(moving - moving.max((0, 1)))
    data = az.convert_to_dataset({"p": likelihoods})  # type: ignore[no-untyped-call]
    ess = az.ess(data, method="mean")["p"]  # type: ignore[no-untyped-call]
    return min(1.0, float(ess.mean()) / int(likelihoods[..., 0].size))


def elpd_of(log_ratios: Array, log_p: Array, *, reff: float = 1.0) -> ELPDData:
    """The estimate from importance ratios ``(S,)`` and pointwise log likelihoods ``(S, N)``."""
    log_p = log_p.T
    log_w, k = smoothed_weights(log_ratios - log_p, reff=reff)
    elpd = np.logaddexp.reduce(log_w + log_p, axis=1)
    lppd = np.logaddexp.reduce(smoothed_weights(log_ratios)[0] + log_p, axis=1)
    good_k, index = k_threshold(len(log_ratios)), {"observation": np.arange(len(elpd))}
    return ELPDData(
        {
            "elpd_loo": elpd.sum(),
            "se": (len(elpd) * elpd.var()) ** 0.5,
            "p_loo": (lppd - elpd).sum(),
            "n_samples": len(log_ratios),
            "n_data_points": len(elpd),
            "warning": bool((k > good_k).any()),
            "loo_i": xr.DataArray(elpd, coords=index, dims="observation", name="loo_i"),
            "pareto_k": xr.DataArray(k, coords=index, dims="observation", name="pareto_shape"),
            "scale": "log",
            "good_k": good_k,
        }
    )
