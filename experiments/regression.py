"""What the two regression experiments share: options, one row of the table, bands, data seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probml_tp.config import ExperimentConfig, option
from probml_tp.metrics import regression_metrics
from probml_tp.plots.regression import Band
from probml_tp.posterior import Posterior
from probml_tp.predictive import RegressionPredictive

__all__ = ["COLUMNS", "Data", "RegressionConfig", "Row", "predictive_band", "row_metrics"]

Array = np.ndarray[Any, np.dtype[np.float64]]
Data = tuple[Tensor, Tensor]

COLUMNS = {
    "rmse": "Test RMSE (units of y) ↓",
    "nll": "Test NLL (nats/point) ↓",
    "coverage": "Coverage of 95 % intervals (%)",
    "epistemic_inside": "Epistemic SD in the training range (units of y)",
    "epistemic_far": "Epistemic SD far outside (units of y)",
    "mean_distance": "Posterior mean, distance to exact (exact SDs) ↓",
    "sd_distance": "Posterior SD, distance to exact (%) ↓",
    "elbo": "ELBO (nats) ↑",
    "log_evidence": "Log evidence (nats)",
    "seconds": "Fit (s) ↓",
}
"""Metric to heading, for every regression experiment.

Far outside means at least one width of the training range away from it. The distance of a mean is
the largest over the weights, in standard deviations of the exact posterior; that of a standard
deviation the largest relative difference.
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


def predictive_band(posterior: Posterior, grid: Tensor, *, num_samples: int) -> Band:
    """The predictive distribution along a grid, exact where the guide has it in closed form.

    Args:
        posterior: of a regression model with one input and one target.
        grid: ``(G, 1)``.
        num_samples: draws, where there is no closed form.

    Returns:
        The band of 95 % intervals.
    """
    predictive: RegressionPredictive = posterior.predict(grid, num_samples=num_samples)
    if predictive.num_samples:
        predictive = posterior.predict(grid, num_samples=num_samples, keep_outputs=True)
    return Band.from_predictive(grid, predictive)


def row_metrics(row: Row, band: Band, *, train: Data, test: Data, draws: int) -> dict[str, float]:
    """The metrics that every posterior has.

    Args:
        row: the posterior.
        band: its predictions along a grid that reaches far beyond the training range.
        train: the training data; their range tells inside from far outside.
        test: fresh data.
        draws: posterior draws to average over.

    Returns:
        Metric to value, for the first five of :data:`COLUMNS` and ``"seconds"``.
    """
    scores = regression_metrics(row.posterior, *test, num_samples=draws)
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
        "seconds": row.seconds,
    }


def even_grid(low: float, high: float, *, num: int) -> Tensor:
    """``num`` points from ``low`` to ``high``, as inputs ``(num, 1)`` in float64."""
    return torch.linspace(low, high, num, dtype=torch.float64).unsqueeze(-1)
