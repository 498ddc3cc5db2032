"""What the regression experiments share: options, rows of the table, bands, moments."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from probml_tp.diagnostics import elbo
from probml_tp.empirical import Empirical
from probml_tp.guides import Delta, MeanFieldNormal
from probml_tp.guides.gaussian import StructuredNormal
from probml_tp.guides.low_rank import LowRankPlusDiagonal
from probml_tp.harness.config import ExperimentConfig
from probml_tp.harness.experiment import Results, Table
from probml_tp.kit.common import Array
from probml_tp.kit.knobs import knob
from probml_tp.metrics.accuracy import regression_scores
from probml_tp.metrics.over_runs import mean_interval
from probml_tp.plots.regression import Band, mark_training_range, plot_band, plot_data
from probml_tp.plots.style import GuideStyle, guide_style
from probml_tp.posterior import Posterior
from probml_tp.predictions.predictive import RegressionPredictive

Data = tuple[Tensor, Tensor]
RECORDS = "Each ArviZ record has as many."

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

Scores are of fresh data. Inside is the training range; far out is at least one width of it away.
Of means and standard deviations of the weights the largest difference from the exact ones counts.
"""


@dataclass(frozen=True, kw_only=True)
class RegressionConfig(ExperimentConfig):
    """Options that every regression experiment has."""

    noise: float = knob("noise", 0.2, minimum=0.01)
    test_size: int = knob("test_size", 1000, quick=300, full=10_000, minimum=10)
    num_samples: int = knob("num_samples", 500, quick=200, minimum=50, remark=RECORDS)
    chains: int = knob("chains", 2, full=4)
    warmup: int = knob("warmup", 200, quick=50, full=1000)
    draws: int = knob("draws", 400, quick=100, full=1000)
    jobs: int | None = knob("jobs", None, quick=1)
    swag_lr: float = knob("swag_lr", 0.004)
    swag_batch_size: int = knob("swag_batch_size", 2)
    swag_epochs: int = knob("swag_epochs", 300, quick=50, full=2000)

    @property
    def test_seed(self) -> int:
        """The seed of the fresh data, which are never those of training."""
        return int(np.random.SeedSequence([self.seed, 1]).generate_state(1)[0])

    @property
    def coverage_error(self) -> float:
        """The standard error of the share of fresh points inside 95 % intervals, in percent."""
        return 100 * math.sqrt(0.95 * 0.05 / self.test_size)


def require_exact(guides: Sequence[str]) -> None:
    """Refuse guides without the exact posterior, which the others are compared with."""
    if "exact" not in guides:
        raise ValueError(
            f"Option guides must include exact, which the others are compared with; "
            f"got {', '.join(guides)}. Add exact."
        )


@dataclass(frozen=True)
class Problem:
    """Training data, fresh data, and inputs ``(G, 1)`` that reach far beyond the former."""

    train: Data
    test: Data
    grid: Tensor


def predict(posterior: Posterior, x: Tensor, *, num_samples: int) -> RegressionPredictive:
    """The predictive distribution at inputs ``(N, 1)``, in closed form where the guide has it.

    Of others the outputs of ``num_samples`` draws are kept, so that quantiles are known.
    """
    predictive: RegressionPredictive = posterior.predict(x, num_samples=num_samples)
    if predictive.num_samples:
        predictive = posterior.predict(x, num_samples=num_samples, keep_outputs=True)
    return predictive


def enter(
    results: Results[Any],
    group: str,
    name: str,
    problem: Problem,
    posterior: Posterior | None = None,
    *,
    predictor: Callable[[Tensor], RegressionPredictive] | None = None,
    own: Mapping[str, float] | None = None,
    diverges: bool = False,
) -> None:
    """Enter a posterior, or what predicts, into the results.

    Args:
        results: where to; their config says how many draws to take.
        group: the data or the model; metrics are those of the row ``"<group> · <name>"``, all else
            goes by ``"<group>-<name>"``.
        name: the guide.
        problem: the data and the grid; the range of the training data tells inside from far out.
        posterior: of the guide, if it is one.
        predictor: from inputs to predictions; :func:`predict` of the posterior by default.
        own: further metrics.
        diverges: whether a number far out would be that of the grid's end, and is left out.
    """
    key, train, num_samples = f"{group}-{name}", problem.train, results.config.num_samples
    values = dict(own or {})
    if posterior is not None:
        predictor = predictor or partial(predict, posterior, num_samples=num_samples)
        values["seconds"] = posterior.info.total_seconds
        if not posterior.guide.no_density:
            values["elbo"] = elbo(posterior, *train, num_samples=num_samples).value
        if isinstance(posterior.guide, StructuredNormal):
            values["log_evidence"] = posterior.guide.log_evidence()
        record = posterior.to_inference_data(*train, num_samples=num_samples)
        results.posteriors[key], results.inference_data[key] = posterior, record
    if predictor is None:
        raise ValueError("what is entered must predict; got neither a posterior nor a predictor.")
    band = Band.from_predictive(problem.grid, predictor(problem.grid))
    scores = regression_scores(predictor(problem.test[0]), problem.test[1])
    low, high, sd = float(train[0].min()), float(train[0].max()), np.sqrt(band.epistemic_variance)
    values |= {"rmse": scores["rmse"], "nll": scores["nll"], "coverage": 100 * scores["coverage"]}
    values["epistemic_inside"] = float(sd[(band.x >= low) & (band.x <= high)].mean())
    if not diverges:
        far = (band.x <= 2 * low - high) | (band.x >= 2 * high - low)
        values["epistemic_far"] = float(sd[far].mean())
    results.main.put(f"{group} · {name}", values)
    results.arrays |= band.to_arrays(key)


def put_mean(table: Table, row: str, metric: str, values: Array) -> None:
    """Enter the mean of each run or data set's value into a row, with its t interval."""
    found = mean_interval(values)
    ends = {} if found.interval is None else {metric: found.interval}
    table.put(row, {metric: found.mean}, ends)


def band_of(results: Results[Any], row: str) -> Band:
    """The band of predictions entered as ``"<group>-<name>"``."""
    return Band.from_arrays(results.arrays, row)


def plot_fit(band: Band, x: Array, y: Array, *, ax: Axes, guide: str) -> None:
    """Draw a band in a guide's colour, with the training data ``(n,)`` and their range."""
    plot_band(band, ax=ax, color=guide_style(guide).color)
    plot_data(x, y, ax=ax)
    mark_training_range(x, ax=ax)


def plot_line(x: Array, y: Array, style: GuideStyle, *, ax: Axes, label: str | None = None) -> None:
    """Draw a line ``(G,)`` in a guide's style, with another label if one is given."""
    look: dict[str, Any] = {"color": style.color, "linestyle": style.linestyle}
    ax.plot(x, y, label=style.label if label is None else label, **look)


def as_title(sentence: str | None) -> str:
    """A finding as the title of a figure."""
    return (sentence or "").removesuffix(".")


def even_grid(low: float, high: float, *, num: int) -> Tensor:
    """``num`` points from ``low`` to ``high``, as inputs ``(num, 1)`` in float64."""
    return torch.linspace(low, high, num, dtype=torch.float64).unsqueeze(-1)


def weight_moments(posterior: Posterior) -> tuple[Array, Array]:
    """Mean ``(P,)`` and covariance ``(P, P)`` of unconstrained weights; of draws, if stored."""
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
    """All draws ``(S, P)`` of a posterior that is known by draws, chain after chain."""
    if not isinstance(posterior.guide, Empirical):
        raise ValueError(
            f"stored draws need a posterior known by its draws; got the {posterior.name} guide. "
            f"Use posterior.draws()."
        )
    return to_numpy(posterior.guide.flat.flatten(0, 1))


def to_numpy(tensor: Tensor) -> Array:
    """The tensor as a float64 array."""
    return tensor.detach().double().cpu().numpy()
