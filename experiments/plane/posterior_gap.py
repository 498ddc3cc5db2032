"""Posteriors of one classifier on the plane: how far from NUTS, and at which bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from probml_tp.diagnostics import elbo, to_inference_data
from probml_tp.experiments.plane.kit import REFERENCE, ring
from probml_tp.gap import GapReport, compare
from probml_tp.gap.checks import NOISE_FLOOR
from probml_tp.gap.study import GapProblem, fit_problem, in_regions
from probml_tp.guides.gaussian import StructuredNormal
from probml_tp.harness.experiment import Progress
from probml_tp.inference.parallel import single_thread
from probml_tp.kit.common import FIT_COLUMN, HALF_WIDTH, Array, Intervals, Rows
from probml_tp.posterior import Posterior

if TYPE_CHECKING:
    import arviz as az

BLOBS_GUIDES = ("map", "laplace", "laplace-diagonal", "mean-field", "low-rank-normal", "nuts")
MOONS_GUIDES = (
    "map",
    "laplace",
    "laplace-linearized",
    "laplace-kronecker",
    "laplace-diagonal",
    "laplace-last-layer",
    "mean-field",
    "low-rank-normal",
    "mc-dropout",
    "nuts",
)
REGIONS: Mapping[str, str] = {
    "data": "at fresh data",
    "around": "around the data",
    "far": "on a far ring",
}
"""Where predictions are compared: name to words."""


@dataclass(frozen=True)
class ProblemStudy:
    """What was found of a problem."""

    name: str
    title: str
    posteriors: Mapping[str, Posterior]
    record: az.InferenceData
    report: GapReport
    metrics: Rows
    intervals: Intervals

    @property
    def columns(self) -> dict[str, str]:
        """Headings of the metrics."""
        return {
            **{f"kl_{region}": f"KL {words} (nats) ↓" for region, words in REGIONS.items()},
            "elbo": "ELBO (nats) ↑",
            "log_evidence": "Laplace evidence (nats)",
            **FIT_COLUMN,
        }

    def arrays(self) -> dict[str, Array]:
        """What the figures need: of each region value and ends by guide, the floor first."""
        arrays = {}
        for region in REGIONS:
            table = self.report.table(of=region)["kl"]
            arrays[f"{self.name}.kl.{region}"] = table.to_numpy()
            arrays[f"{self.name}.rows"] = np.array([str(name) for name in table.index])
        elbos = {g: row["elbo"] for g, row in self.metrics.items() if "elbo" in row}
        arrays[f"{self.name}.elbo.guides"] = np.array(list(elbos))
        arrays[f"{self.name}.elbo"] = np.array(
            [[value, *self.intervals[guide]["elbo"]] for guide, value in elbos.items()]
        )
        arrays[f"{self.name}.evidence"] = np.array(
            [self.metrics[guide].get("log_evidence", np.nan) for guide in elbos]
        )
        return arrays


def study_problem(
    problem: GapProblem,
    *,
    num_samples: int,
    elbo_samples: int,
    resamples: int,
    seed: int,
    progress: Progress,
) -> ProblemStudy:
    """Fit every guide, and compare what they predict with NUTS, region by region."""
    with progress.stage(f"fit {problem.name}") as update:
        done = fit_problem(problem, update=update)
    posteriors = {guide: done[guide] for guide in problem.guides}
    with progress.stage(f"compare {problem.name}"), single_thread():
        report = compare(
            posteriors,
            REFERENCE,
            problem.x,
            regions=problem.regions,
            sites=(),
            num_samples=num_samples,
            resamples=resamples,
            accept_reference=True,
            seed=seed,
        )
        metrics, intervals = _rows(problem, done, report, elbo_samples)
        record = to_inference_data(done[REFERENCE], *problem.data)
    return ProblemStudy(problem.name, problem.title, posteriors, record, report, metrics, intervals)


def plane_regions(
    train: Tensor, test: Tensor, *, points: int, radius: float, seed: int
) -> tuple[Tensor, dict[str, object]]:
    """Fresh data, the box of the data widened by half its width each way, and a far ring."""
    rng = np.random.default_rng(seed)
    low, high = train.min(0).values.numpy(), train.max(0).values.numpy()
    margin = (high - low) / 2
    around = rng.uniform(low - margin, high + margin, size=(points, 2))
    far = ring(train.mean(0).numpy(), radius=radius, points=points)
    parts = {"data": test[:points], "around": around, "far": far}
    return in_regions({name: torch.as_tensor(part).to(train) for name, part in parts.items()})


def _rows(
    problem: GapProblem, done: Mapping[str, Posterior], report: GapReport, elbo_samples: int
) -> tuple[Rows, Intervals]:
    metrics: Rows = {guide: {} for guide in [*problem.guides, NOISE_FLOOR]}
    intervals: Intervals = {guide: {} for guide in metrics}
    for region in REGIONS:
        for guide, (value, low, high) in report.table(of=region)["kl"].iterrows():
            metrics[str(guide)][f"kl_{region}"] = float(value)
            intervals[str(guide)][f"kl_{region}"] = (float(low), float(high))
    for guide in problem.guides:
        posterior = done[guide]
        metrics[guide]["seconds"] = done[guide].info.total_seconds
        if posterior.guide.no_density is None:
            bound = elbo(posterior, *problem.data, num_samples=elbo_samples)
            half = HALF_WIDTH * bound.standard_error
            metrics[guide]["elbo"] = bound.value
            intervals[guide]["elbo"] = (bound.value - half, bound.value + half)
        if isinstance(posterior.guide, StructuredNormal):
            metrics[guide]["log_evidence"] = posterior.guide.log_evidence()
    return metrics, intervals
