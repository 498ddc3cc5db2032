"""Predictions from draws, batch by batch: sums whose memory does not grow with the draws."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import (
    positive_integer,
)
from probml_tp.contracts import is_ours, require_shape
from probml_tp.likelihoods import ClassificationLikelihood, Likelihood, RegressionLikelihood
from probml_tp.predictions.distribution_functions import has_log_prob_of, independent_parts
from probml_tp.predictions.draws import DrawBatch
from probml_tp.predictions.predictive.base import Predictive
from probml_tp.predictions.predictive.classification import ClassificationPredictive
from probml_tp.predictions.predictive.regression import RegressionPredictive
from probml_tp.predictions.target_mixture import TargetMixture

__all__ = ["Accumulator", "ClassificationAccumulator", "RegressionAccumulator", "accumulator_for"]

TINY_PROBABILITY = 1e-30
"""Below it float32 loses digits, and then everything, to underflow."""

POINTS = 250
"""Points whose targets' distributions are held, and worked on, together."""


class Accumulator(ABC):
    """Sums over draws, so that memory does not grow with their number."""

    def __init__(self, num_points: int, *, keep_outputs: bool) -> None:
        self.num_points = num_points
        self.num_samples = 0
        self._kept: dict[int, list[Tensor]] | None = {} if keep_outputs else None

    def update(self, batch: DrawBatch) -> None:
        """Take in the outputs of a chunk of draws at a batch of points."""
        self.num_samples = max(self.num_samples, batch.draws.stop)
        if self._kept is not None:
            self._kept.setdefault(batch.draws.start, []).append(batch.outputs)
        self.add(batch)

    @abstractmethod
    def add(self, batch: DrawBatch) -> None:
        """Add to the sums."""

    @abstractmethod
    def result(self) -> Predictive:
        """The predictions from the sums."""

    def outputs(self) -> Tensor | None:
        """The outputs kept, ``(S, N, k)``."""
        if self._kept is None:
            return None
        return torch.cat([torch.cat(batches, dim=1) for batches in self._kept.values()])


class ClassificationAccumulator(Accumulator):
    """Sums of probabilities (in log space, and thus without underflow), entropies and votes."""

    def __init__(
        self, likelihood: ClassificationLikelihood, num_points: int, *, keep_outputs: bool
    ) -> None:
        super().__init__(num_points, keep_outputs=keep_outputs)
        self.likelihood = likelihood

    def add(self, batch: DrawBatch) -> None:
        """Add a chunk."""
        log_probs = self.likelihood.log_probs(batch.outputs)
        shape = (*batch.outputs.shape[:2], self.likelihood.num_classes)
        owner = type(self.likelihood).__name__
        require_shape(owner, "log_probs", log_probs, shape, "(draws, batch, C)")
        probs = log_probs.exp()
        if not hasattr(self, "log_probs"):
            shape = (self.num_points, probs.shape[-1])
            self.log_probs = (
                torch.full_like(probs[0, :1], -torch.inf, dtype=torch.float64).expand(shape).clone()
            )
            self.entropy = probs.new_zeros(self.num_points)
            self.votes = torch.zeros(shape, dtype=torch.long, device=probs.device)
            self.sum_outputs = probs.new_zeros(self.num_points, batch.outputs.shape[-1])
        total = _log_sum(probs, log_probs)
        self.log_probs[batch.points] = torch.logaddexp(self.log_probs[batch.points], total)
        self.entropy[batch.points] += torch.special.entr(probs).sum((0, -1))
        self.sum_outputs[batch.points] += batch.outputs.sum(0)
        index = log_probs.argmax(-1)
        self.votes[batch.points].scatter_add_(1, index.mT, torch.ones_like(index.mT))

    def result(self) -> ClassificationPredictive:
        """Means over the draws."""
        log_probs = self.log_probs - math.log(self.num_samples)
        return ClassificationPredictive(
            num_samples=self.num_samples,
            outputs=self.outputs(),
            probs=log_probs.exp().to(self.entropy.dtype),
            expected_entropy=self.entropy / self.num_samples,
            votes=self.votes,
            log_probs=log_probs,
            mean_outputs=self.sum_outputs / self.num_samples,
        )


class RegressionAccumulator(Accumulator):
    """Running mean and squared deviations of the function, by Chan et al.'s pairwise update."""

    def __init__(
        self,
        likelihood: RegressionLikelihood,
        num_points: int,
        *,
        keep_outputs: bool,
        is_whole: bool = False,
    ) -> None:
        super().__init__(num_points, keep_outputs=keep_outputs)
        self.likelihood, self.is_whole = likelihood, is_whole
        self._normal: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._other: dict[int, list[Any]] = {}
        self._double = copy.deepcopy(likelihood).double() if keep_outputs else likelihood

    def add(self, batch: DrawBatch) -> None:
        """Merge a chunk's moments with those so far."""
        loc, noise = self.likelihood.moments(batch.outputs, batch.params)
        if not is_ours(self.likelihood):
            event_shape = self.likelihood.distribution(batch.outputs, batch.params).event_shape
            shape = (*batch.outputs.shape[:2], *(event_shape or (1,)))
            owner = type(self.likelihood).__name__
            for name, value in (("mean", loc), ("variance", noise)):
                require_shape(owner, f"the {name} in moments", value, shape, "(draws, batch, d)")
        if self._kept is not None:
            self._normal.setdefault(batch.draws.start, []).append((loc, noise.sqrt()))
            self._keep_distributions(batch)
        loc, noise = loc.double(), noise.double()
        if not hasattr(self, "mean"):
            self.mean, self.squares, self.noise = loc.new_zeros(3, self.num_points, loc.shape[-1])
        old, new = batch.draws.start, len(loc)
        mean = loc.mean(0)
        delta = mean - self.mean[batch.points]
        self.squares[batch.points] += (loc - mean).square().sum(0)
        self.squares[batch.points] += delta.square() * old * new / (old + new)
        self.mean[batch.points] += delta * new / (old + new)
        self.noise[batch.points] += noise.sum(0)

    def _keep_distributions(self, batch: DrawBatch) -> None:
        """Those that are not normal, in float64 and for few points at a time."""
        params = {name: value.double() for name, value in batch.params.items()}
        start = batch.points.start
        for outputs in batch.outputs.double().split(POINTS, dim=1):
            distribution = self._double.distribution(outputs, params)
            if has_log_prob_of(independent_parts(distribution), torch.distributions.Normal):
                return
            self._other.setdefault(start, []).append(distribution)
            start += outputs.shape[1]

    def result(self) -> RegressionPredictive:
        """Mean, and variance split in two."""
        means, scales = self._join(0), self._join(1)
        count = self.num_samples if self.is_whole else max(1, self.num_samples - 1)
        return RegressionPredictive(
            num_samples=self.num_samples,
            outputs=self.outputs(),
            mean=_drop_last(self.mean),
            epistemic_variance=_drop_last(self.squares / count),
            aleatoric_variance=_drop_last(self.noise / self.num_samples),
            component_means=means,
            component_scales=scales,
            components=self._mixture(),
        )

    def _mixture(self) -> TargetMixture | None:
        if not self._other:
            return None
        starts = sorted(self._other)
        stops = [*starts[1:], self.num_points]
        parts = [(slice(a, b), self._other[a]) for a, b in zip(starts, stops, strict=True)]
        event_shape = parts[0][1][0].event_shape
        return TargetMixture(self.num_samples, parts, event_shape, self.mean.device)

    def _join(self, which: int) -> Tensor | None:
        if self._kept is None:
            return None
        chunks = [torch.cat([b[which] for b in c], dim=1) for c in self._normal.values()]
        return _drop_last(torch.cat(chunks)).double()


@checked(num_points=positive_integer)
def accumulator_for(
    likelihood: Likelihood, num_points: int, *, keep_outputs: bool, is_whole: bool = False
) -> Accumulator:
    """The sums that a likelihood's predictions are made of.

    Args:
        likelihood: of the model.
        num_points: how many points will be predicted.
        keep_outputs: whether the outputs at every draw are kept.
        is_whole: whether the draws are all points of a finite posterior, each once. The variance
            over them is then that of the posterior, divided by their number ``M``; of draws it is
            an estimate, divided by ``M - 1``.

    Raises:
        ValueError: the likelihood is neither one of regression nor of classification.
    """
    if isinstance(likelihood, ClassificationLikelihood):
        return ClassificationAccumulator(likelihood, num_points, keep_outputs=keep_outputs)
    if isinstance(likelihood, RegressionLikelihood):
        return RegressionAccumulator(
            likelihood, num_points, keep_outputs=keep_outputs, is_whole=is_whole
        )
    raise ValueError(
        f"predictions need a likelihood that derives from RegressionLikelihood or "
        f"ClassificationLikelihood; got {likelihood.describe()}."
    )


def _log_sum(probs: Tensor, log_probs: Tensor) -> Tensor:
    """Log of the sum of probabilities over draws, in log space where they are too small to add."""
    total = probs.sum(0, dtype=torch.float64)
    tiny = total < TINY_PROBABILITY
    log_total = total.log()
    if bool(tiny.any()):
        log_total[tiny] = log_probs[:, tiny].double().logsumexp(0)
    return log_total


def _drop_last(value: Tensor) -> Tensor:
    return value.squeeze(-1) if value.shape[-1] == 1 else value
