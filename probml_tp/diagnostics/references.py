r"""Posteriors with known answers, and how far an approximation's moments are from theirs.

For a scalar quantity of posterior mean :math:`m^*` and standard deviation :math:`s^*`, a posterior
with mean ``m`` and standard deviation ``s`` has the errors

.. math:: e = (m - m^*) / s^*, \qquad r = s / s^*

each with its Monte Carlo standard error. The answers are in closed form or by quadrature where that
is possible, else of long runs of two samplers that agree; ``benchmarks/reference_posteriors.py``
makes them, and checks the former against the latter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.empirical import Empirical
from probml_tp.guide import check_num_samples
from probml_tp.posterior import Posterior
from probml_tp.predictions.draws import draw_chunks
from probml_tp.quiet_arviz import az

__all__ = ["ReferencePosterior", "moment_errors", "reference_names", "reference_posterior"]

FILE = "reference_posteriors.json"
COLUMNS = ("mean", "sd", "mcse_mean", "mcse_sd")

Quantities = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


@dataclass(frozen=True)
class ReferencePosterior:
    """What is known of a posterior.

    Args:
        name: what models, tables and the file call it.
        method: how the moments were found: ``"closed form"``, ``"quadrature"`` or
            ``"two samplers"``.
        moments: a row for each scalar quantity, ``tau`` or ``theta[0]``, with the columns ``mean``,
            ``sd``, ``mcse_mean`` and ``mcse_sd``, in the quantity's own units.
        agreement: sampler to the largest deviation of its means and standard deviations from these,
            in standard errors, and the number of divergences; of this package's sampler also the
            largest R-hat and the smallest effective sample size.
    """

    name: str
    method: str
    moments: pd.DataFrame
    agreement: Mapping[str, Mapping[str, float]]


@cache
def _file() -> dict[str, Any]:
    text = files("probml_tp.diagnostics").joinpath(FILE).read_text(encoding="utf-8")
    return cast("dict[str, Any]", json.loads(text))


def reference_names() -> list[str]:
    """The posteriors whose moments are known.

    Example:
        >>> "eight-schools-centered" in reference_names()
        True
    """
    return list(_file())


def reference_posterior(name: str) -> ReferencePosterior:
    """What is known of a classical posterior; the model is ``probml_tp.models.CLASSICS[name]()``.

    Args:
        name: one of :func:`reference_names`.

    Returns:
        Its moments.

    Raises:
        ValueError: the name is unknown.

    Example:
        >>> known = reference_posterior("eight-schools-noncentered")
        >>> known.moments.loc["tau", ["mean", "sd"]].round(1).tolist()
        [3.6, 3.2]
    """
    if name not in _file():
        raise ValueError(
            f"a reference posterior must be one of {', '.join(reference_names())}; got {name!r}."
        )
    entry = _file()[name]
    moments = pd.DataFrame.from_dict(entry["moments"], orient="index", columns=list(COLUMNS))
    return ReferencePosterior(name, entry["method"], moments, entry["agreement"])


@checked()
@torch.no_grad()
def moment_errors(
    posterior: Posterior,
    reference: ReferencePosterior,
    *,
    quantities: Quantities | None = None,
    num_samples: int = 4000,
    seed: int | None = None,
) -> pd.DataFrame:
    """How far a posterior's means and standard deviations are from known ones.

    Args:
        posterior: the posterior; of chains all draws are used, and their autocorrelation counts.
        reference: what is known.
        quantities: a function of draws ``{site: (*draws, *shape)}`` that gives the reference's
            quantities, ``{name: (*draws, *shape)}``; by default the sites themselves.
        num_samples: draws of a posterior that is not made of chains.
        seed: determines them; default: the posterior's.

    Returns:
        A row for each scalar quantity: ``mean``, ``sd``; ``mean_error`` in reference standard
        deviations and ``sd_ratio``, each with its Monte Carlo standard error ``..._se``, the
        reference's own included. A point mass has a ratio of 0, without error, and an infinite
        error of the mean where a quantity is infinite at the point.

    Raises:
        ValueError: the quantities are not the reference's, or ``num_samples`` is below 4.

    Example:
        >>> from probml_tp import Laplace, fit
        >>> from probml_tp.models import dugongs_line
        >>> known = reference_posterior("dugongs-line")
        >>> classic = dugongs_line()
        >>> posterior = fit(classic.model, Laplace, classic.data, epochs=9, optimizer="lbfgs")
        >>> errors = moment_errors(posterior, known)
        >>> bool((errors["mean_error"].abs() < 5 * errors["mean_error_se"]).all())
        True
    """
    draws = _draws(posterior, num_samples, posterior.seed if seed is None else seed)
    values = _by_scalar(quantities(draws) if quantities else draws)
    known = reference.moments
    if set(values) != set(known.index):
        raise ValueError(
            f"the quantities must be those of {reference.name!r}, {', '.join(known.index)}; got "
            f"{', '.join(values)}. Pass the quantities of probml_tp.models.CLASSICS"
            f"[{reference.name!r}]()."
        )
    rows = {name: _errors(values[name], known.loc[name]) for name in known.index}
    return pd.DataFrame.from_dict(rows, orient="index")


def _draws(posterior: Posterior, num_samples: int, seed: int) -> dict[str, Tensor]:
    """Draws ``{site: (chains, draws, *shape)}``; independent ones make one chain."""
    if isinstance(posterior.guide, Empirical):
        return {name: chains.double() for name, chains in posterior.guide.chains.items()}
    if check_num_samples(num_samples) < 4:
        raise ValueError(f"moments need at least 4 draws; got num_samples={num_samples}.")
    chunks = [draws for _, draws in draw_chunks(posterior.guide, num_samples, seed=seed)]
    return {
        name: torch.cat([chunk[name] for chunk in chunks]).unsqueeze(0).double()
        for name in posterior.model.sites
    }


def _by_scalar(quantities: Mapping[str, Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    """Each element of each quantity, ``(chains, draws)``, under a name such as ``theta[0]``."""
    found = {}
    for name, value in quantities.items():
        array = value.cpu().numpy()
        for index in np.ndindex(array.shape[2:]):
            label = f"{name}[{', '.join(map(str, index))}]" if index else name
            found[label] = array[(slice(None), slice(None), *index)]
    return found


def _errors(values: np.ndarray[Any, Any], known: pd.Series[float]) -> dict[str, float]:
    constant = bool((values == values.flat[0]).all())  # also where it is infinite
    mean, sd = float(values.mean()), 0.0 if constant else float(values.std(ddof=1))
    mcse_mean, mcse_sd = (
        0.0 if constant else float(az.mcse(values, method=method))  # type: ignore[no-untyped-call]
        for method in ("mean", "sd")
    )
    ratio = sd / known["sd"]
    return {
        "mean": mean,
        "sd": sd,
        "mean_error": (mean - known["mean"]) / known["sd"],
        "mean_error_se": float(np.hypot(mcse_mean, known["mcse_mean"]) / known["sd"]),
        "sd_ratio": ratio,
        "sd_ratio_se": float(np.hypot(mcse_sd, ratio * known["mcse_sd"]) / known["sd"]),
    }
