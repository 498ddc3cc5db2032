"""What the regression experiments share: options, rows of the table, bands, moments."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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
from probml_tp.guides.recipes import Stage, SwagPath
from probml_tp.harness.config import ExperimentConfig
from probml_tp.harness.experiment import Progress, Results, Table
from probml_tp.kit.knobs import knob
from probml_tp.metrics.accuracy import regression_scores
from probml_tp.metrics.over_runs import mean_interval
from probml_tp.plots.regression import Band, mark_training_range, plot_band, plot_data
from probml_tp.posterior import Posterior
from probml_tp.predictions.predictive import RegressionPredictive
from probml_tp.quiet_arviz import az

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
weights are compared with the exact ones; the largest difference over the weights counts. The
evidence of a last layer is that given the layers before it.
"""


@dataclass(frozen=True, kw_only=True)
class RegressionConfig(ExperimentConfig):
    """Options that every regression experiment has."""

    noise: float = knob("noise", 0.2, minimum=0.01)
    test_size: int = knob("test_size", 1000, quick=300, full=10_000, minimum=10)
    num_samples: int = knob(
        "num_samples", 500, quick=200, minimum=50, remark="Each ArviZ record has as many."
    )
    chains: int = knob("chains", 2, full=4)
    jobs: int | None = knob("jobs", None, quick=1)
    swag_lr: float = knob("swag_lr", 0.004)
    swag_batch_size: int = knob("swag_batch_size", 2)
    swag_epochs: int = knob("swag_epochs", 300, quick=100, full=2000)

    @property
    def test_seed(self) -> int:
        """The seed of the fresh data, which are never those of training."""
        return int(np.random.SeedSequence([self.seed, 1]).generate_state(1)[0])

    @property
    def coverage_error(self) -> float:
        """The standard error of the share of fresh points inside 95 % intervals, in percent."""
        return 100 * math.sqrt(0.95 * 0.05 / self.test_size)

    @property
    def swag(self) -> SwagPath:
        """The path of SWAG."""
        return SwagPath(lr=self.swag_lr, epochs=self.swag_epochs, batch_size=self.swag_batch_size)


@dataclass(frozen=True)
class Problem:
    """One data set and where predictions are looked at.

    Args:
        train: the training data.
        test: fresh data.
        grid: inputs ``(G, 1)`` that reach far beyond the training range.
    """

    train: Data
    test: Data
    grid: Tensor


Predict = Callable[[Tensor], RegressionPredictive]


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


def stages_of(progress: Progress, group: str) -> Stage:
    """The stages of fits, as :func:`~probml_tp.guides.recipes.fit_all` enters them.

    Args:
        progress: who watches.
        group: what is fitted.

    Returns:
        From a guide's name to its stage.
    """
    return lambda guide: progress.stage(f"{group}: {guide}")


def enter_predictions(
    results: Results[Any],
    group: str,
    name: str,
    problem: Problem,
    predictor: Predict,
    own: Mapping[str, float],
    *,
    diverges: bool = False,
) -> None:
    """Enter predictions into the results: metrics as ``"<group> · <name>"``, and their band.

    Args:
        results: where to.
        group: the data or the model.
        name: the guide.
        problem: the data and the grid; the range of the training data tells inside from far out.
        predictor: from inputs to predictions.
        own: further metrics.
        diverges: whether nothing is to be said of predictions far out, where the number would be
            that of the grid's end.
    """
    x, inputs = problem.grid[:, 0].numpy(), problem.train[0]
    low, high = float(inputs.min()), float(inputs.max())
    regions = {
        "epistemic_inside": (x >= low) & (x <= high),
        "epistemic_far": (x <= 2 * low - high) | (x >= 2 * high - low),
    }
    if diverges:
        del regions["epistemic_far"]
    band = Band.from_predictive(problem.grid, predictor(problem.grid))
    scores = regression_scores(predictor(problem.test[0]), problem.test[1])
    sd = np.sqrt(band.epistemic_variance)
    values = {"rmse": scores["rmse"], "nll": scores["nll"], "coverage": 100 * scores["coverage"]}
    values |= {region: float(sd[where].mean()) for region, where in regions.items()}
    results.main.put(f"{group} · {name}", values | dict(own))
    results.arrays |= band.to_arrays(f"{group}-{name}")


def enter(
    results: Results[Any],
    group: str,
    guide: str,
    posterior: Posterior,
    problem: Problem,
    *,
    predictor: Predict | None = None,
    own: Mapping[str, float] | None = None,
    diverges: bool = False,
) -> az.InferenceData:
    """Enter a posterior into the results: what it predicts, its evidence, itself and its record.

    Args:
        results: where to; its config says how many draws to take.
        group: the data or the model.
        guide: its name.
        posterior: of the guide.
        problem: the data and the grid.
        predictor: from inputs to predictions; :func:`predict` by default.
        own: further metrics.
        diverges: see :func:`enter_predictions`.

    Returns:
        The record.
    """
    num_samples, train = results.config.num_samples, problem.train
    predictor = predictor or partial(predict, posterior, num_samples=num_samples)
    key = f"{group}-{guide}"
    values = {"seconds": posterior.info.total_seconds, **(own or {})}
    if not posterior.guide.no_density:
        values["elbo"] = elbo(posterior, *train, num_samples=num_samples).value
    if isinstance(posterior.guide, StructuredNormal):
        values["log_evidence"] = posterior.guide.log_evidence()
    enter_predictions(results, group, guide, problem, predictor, values, diverges=diverges)
    record = posterior.to_inference_data(*train, num_samples=num_samples)
    results.posteriors[key], results.inference_data[key] = posterior, record
    return record


def put_mean(table: Table, row: str, metric: str, values: Array) -> None:
    """Enter a mean with its t interval.

    Args:
        table: where to.
        row: which row of it.
        metric: which metric.
        values: of each run or data set; one alone has no interval.
    """
    found = mean_interval(values)
    ends = {} if found.interval is None else {metric: found.interval}
    table.put(row, {metric: found.mean}, ends)


def band_of(results: Results[Any], row: str) -> Band:
    """The band of predictions entered as ``"<group>-<name>"``."""
    return Band.from_arrays(results.arrays, row)


def plot_fit(band: Band, x: Array, y: Array, *, ax: Axes, color: str) -> None:
    """Draw a band with the training data and their range.

    Args:
        band: the predictive distribution.
        x: training inputs ``(n,)``.
        y: their targets ``(n,)``.
        ax: where to draw.
        color: of the band.
    """
    plot_band(band, ax=ax, color=color)
    plot_data(x, y, ax=ax)
    mark_training_range(x, ax=ax)


def as_title(sentence: str | None) -> str:
    """A finding as the title of a figure."""
    return (sentence or "").removesuffix(".")


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
