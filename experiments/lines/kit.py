"""What the two regression experiments share: options, one row of the table, bands, data seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probml_tp.diagnostics import elbo
from probml_tp.empirical import Empirical
from probml_tp.guides import Delta, MeanFieldNormal
from probml_tp.guides.gaussian import StructuredNormal
from probml_tp.guides.low_rank import LowRankPlusDiagonal
from probml_tp.harness.config import ExperimentConfig, option
from probml_tp.plots.regression import Band
from probml_tp.posterior import Posterior
from probml_tp.predictions.predictive import RegressionPredictive

Array = np.ndarray[Any, np.dtype[np.float64]]
Data = tuple[Tensor, Tensor]

COLUMNS = {
    "rmse": "RMSE (units of y) ↓",
    "nll": "NLL (nats/point) ↓",
    "coverage": "Inside 95 % interval (%)",
    "epistemic_inside": "Epistemic SD, inside (units of y)",
    "epistemic_far": "Epistemic SD, far out (units of y)",
    "mean_distance": "Means off by (exact SDs) ↓",
    "sd_distance": "SDs off by (%) ↓",
    "elbo": "ELBO (nats) ↑",
    "log_evidence": "Log evidence (nats)",
    "seconds": "Fit (s) ↓",
}
"""Metric to heading, for every regression experiment.

RMSE, NLL and the share of targets inside their 95 % intervals are those of fresh data. Inside is
the training range; far out is at least one width of it away. Means and standard deviations of the
weights are compared with the exact ones; the largest difference over the weights counts.
"""


@dataclass(frozen=True, kw_only=True)
class RegressionConfig(ExperimentConfig):
    """Options that every regression experiment has."""

    noise: float = option(0.2, "Noise standard deviation of the data, in units of y.", minimum=0.01)
    test_points: int = option(
        1000, "Fresh points that the metrics are computed on.", quick=300, full=10_000, minimum=10
    )
    draws: int = option(
        500, "Posterior draws in predictions and in each ArviZ record.", quick=200, minimum=50
    )
    chains: int = option(2, "NUTS chains.", full=4, minimum=2)
    jobs: int | None = option(
        None, "Processes that run the chains; none for one a core.", quick=1, minimum=1
    )

    @property
    def test_seed(self) -> int:
        """The seed of the fresh data, which are never those of training."""
        return int(np.random.SeedSequence([self.seed, 1]).generate_state(1)[0])


@dataclass(frozen=True)
class Row:
    """A fitted posterior and where it stands in tables, figures and files.

    Args:
        key: file name, and prefix of its arrays, such as ``"line-exact"``.
        label: its row in the table, such as ``"line · exact"``.
        guide: the name that its style goes by.
        posterior: the posterior.
        seconds: time to fit it, all that it started from included.
    """

    key: str
    label: str
    guide: str
    posterior: Posterior
    seconds: float


def predict(posterior: Posterior, x: Tensor, *, num_samples: int) -> RegressionPredictive:
    """The predictive distribution, in closed form where the guide has it, else by draws.

    Args:
        posterior: of a regression model.
        x: inputs ``(N, 1)``.
        num_samples: draws, where there is no closed form; their outputs are kept.

    Returns:
        A distribution that knows its quantiles.
    """
    predictive: RegressionPredictive = posterior.predict(x, num_samples=num_samples)
    if predictive.num_samples:
        predictive = posterior.predict(x, num_samples=num_samples, keep_outputs=True)
    return predictive


def row_metrics(band: Band, scores: Mapping[str, float], train: Data) -> dict[str, float]:
    """The metrics of predictions, which every posterior has.

    Args:
        band: predictions along a grid that reaches far beyond the training range.
        scores: RMSE, NLL and coverage on fresh data.
        train: the training data; their range tells inside from far outside.

    Returns:
        Metric to value, for the first five of :data:`COLUMNS`.
    """
    low, high = float(train[0].min()), float(train[0].max())
    inside = (band.x >= low) & (band.x <= high)
    far = (band.x <= 2 * low - high) | (band.x >= 2 * high - low)
    sd = np.sqrt(band.epistemic_variance)
    return {
        "rmse": scores["rmse"],
        "nll": scores["nll"],
        "coverage": 100 * scores["coverage"],
        "epistemic_inside": float(sd[inside].mean()),
        "epistemic_far": float(sd[far].mean()),
    }


def evidence(posterior: Posterior, data: Data, *, num_samples: int) -> dict[str, float]:
    """ELBO and log evidence in nats, where the guide has them.

    Args:
        posterior: the posterior.
        data: the training data.
        num_samples: draws that the ELBO is estimated by.

    Returns:
        ``"elbo"`` for guides with a density, ``"log_evidence"`` for the exact posterior and
        Laplace; that of a last layer is the evidence given the layers before it.
    """
    values: dict[str, float] = {}
    if not posterior.guide.no_density:
        values["elbo"] = elbo(posterior, *data, num_samples=num_samples).value
    if isinstance(posterior.guide, StructuredNormal):
        values["log_evidence"] = posterior.guide.log_evidence()
    return values


def even_grid(low: float, high: float, *, num: int) -> Tensor:
    """``num`` points from ``low`` to ``high``, as inputs ``(num, 1)`` in float64."""
    return torch.linspace(low, high, num, dtype=torch.float64).unsqueeze(-1)


def weight_moments(posterior: Posterior) -> tuple[Array, Array]:
    """Mean ``(P,)`` and covariance ``(P, P)`` of the weights.

    Args:
        posterior: of a model whose sites are all on the real line.

    Returns:
        The moments: in closed form where the guide has them, else those of the stored draws.
    """
    guide = posterior.guide
    if isinstance(guide, StructuredNormal):
        return to_numpy(guide.loc), to_numpy(guide.covariance())
    if isinstance(guide, LowRankPlusDiagonal):
        d, factor = guide.scale_and_factor()
        return to_numpy(guide.loc), to_numpy(d.square().diag() + factor @ factor.mT)
    if isinstance(guide, MeanFieldNormal):
        return to_numpy(guide.loc), to_numpy(torch.diag((2 * guide.log_scale).exp()))
    if isinstance(guide, Delta):
        return to_numpy(guide.loc), np.zeros((guide.model.num_params,) * 2)
    draws = stored_draws(posterior)
    return draws.mean(0), np.cov(draws, rowvar=False)


def stored_draws(posterior: Posterior) -> Array:
    """All draws of a posterior that is known by draws, such as a Markov chain's, ``(S, P)``.

    Args:
        posterior: the posterior.

    Returns:
        The draws of the flat vector of weights, chain after chain.

    Raises:
        ValueError: its guide stores no draws.
    """
    if not isinstance(posterior.guide, Empirical):
        raise ValueError(
            f"stored draws need a posterior known by its draws; got the {posterior.name} guide. "
            f"Use posterior.draws()."
        )
    return to_numpy(posterior.guide.flat.flatten(0, 1))


def to_numpy(tensor: Tensor) -> Array:
    """The tensor as a float64 array."""
    return tensor.detach().double().cpu().numpy()
