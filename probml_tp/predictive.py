"""Predictive distributions, their uncertainty split into epistemic and aleatoric parts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from probml_tp.arguments import checked, real_tensor
from probml_tp.evaluate import DrawBatch
from probml_tp.likelihoods import ClassificationLikelihood, Likelihood, RegressionLikelihood
from probml_tp.validation import (
    as_tensor,
    finite,
    is_number,
    positive_integer,
    strictly_between_0_and_1,
)

__all__ = ["ClassificationPredictive", "Predictive", "RegressionPredictive", "accumulator_for"]

TINY_PROBABILITY = 1e-30
"""Below it float32 loses digits, and then everything, to underflow."""


def _numbers(name: str, value: object) -> None:
    """The rule of targets, of which one number may stand for all."""
    if not is_number(value):
        real_tensor()(name, value)


@dataclass(frozen=True)
class Predictive:
    """What a posterior predicts at ``N`` points.

    Args:
        num_samples: the number of draws ``S`` that the predictions average over; 0 for closed
            forms.
        outputs: the net's outputs at every draw, ``(S, N, k)``, if they were kept.
    """

    num_samples: int
    outputs: Tensor | None

    def require_outputs(self) -> Tensor:
        """The outputs at every draw.

        Raises:
            ValueError: they were not kept.
        """
        if self.outputs is None:
            raise ValueError(
                "this needs the outputs at every draw, which were not kept. "
                "Call predict(..., keep_outputs=True)."
            )
        return self.outputs


@dataclass(frozen=True)
class ClassificationPredictive(Predictive):
    r"""Class probabilities and the measures of their uncertainty, all in nats.

    With :math:`p_s` the class probabilities at draw ``s`` and :math:`\bar p` their mean (never
    the softmax of a mean logit):

    .. math:: \underbrace{H(\bar p)}_{\text{predictive}} =
              \underbrace{\tfrac1S\sum_s H(p_s)}_{\text{expected (aleatoric)}} +
              \underbrace{I(y; \theta)}_{\text{mutual information (epistemic)}}

    (Depeweg et al. 2018; Houlsby et al. 2011). The variation ratio is the share of draws whose
    most probable class is not the most voted one (Gal 2016, section 3.3.1); it has only ``S``
    levels, so ties are many.

    Args:
        probs: :math:`\bar p`, shape ``(N, C)``.
        expected_entropy: shape ``(N,)``; ``None`` where it is not known.
        votes: how many draws have each class on top, ``(N, C)``; ``None`` where none were taken.
        log_probs: :math:`\log\bar p` in float64, ``(N, C)``, summed in log space: finite where
            ``probs`` has underflowed to 0. By default the logarithm of ``probs``.
        mean_outputs: the mean over draws of the net's outputs, ``(N, k)``: for scores of logits
            such as the energy, never for probabilities; ``None`` where it is not known.
    """

    probs: Tensor
    expected_entropy: Tensor | None
    votes: Tensor | None
    log_probs: Tensor = field(default_factory=lambda: torch.empty(0))
    mean_outputs: Tensor | None = None

    def __post_init__(self) -> None:
        """Fill in the log probabilities."""
        if not len(self.log_probs):
            object.__setattr__(self, "log_probs", self.probs.double().log())

    def log_prob(self, y: object) -> Tensor:
        r""":math:`\log\bar p_{n, y_n}` of the labels ``y`` in nats, ``(N,)``, float64.

        Raises:
            ValueError: ``y`` is not one label from 0 to C - 1 for each point.
        """
        labels = self.check_labels(y)
        return self.log_probs.gather(1, labels.unsqueeze(1)).squeeze(1)

    def check_labels(self, y: object) -> Tensor:
        """Return ``y`` as integer labels on the predictions' device.

        Raises:
            ValueError: ``y`` is not one label from 0 to C - 1 for each point.
        """
        labels = finite("y", as_tensor("y", y)).to(self.probs.device)
        num_points, num_classes = self.probs.shape
        in_range = (labels >= 0) & (labels < num_classes) & (labels == labels.round())
        if labels.shape != (num_points,) or not bool(in_range.all()):
            raise ValueError(
                f"y must hold one label from 0 to {num_classes - 1} for each of the {num_points} "
                f"points predicted; got shape {tuple(labels.shape)} with values from "
                f"{labels.min().item():g} to {labels.max().item():g}. Pass the labels of the "
                f"points that were predicted."
            )
        return labels.long()

    @property
    def predicted_class(self) -> Tensor:
        """The most probable class, ``(N,)``."""
        return self.probs.argmax(-1)

    @property
    def confidence(self) -> Tensor:
        """The probability of the predicted class, ``(N,)``."""
        return self.probs.amax(-1)

    @property
    def predictive_entropy(self) -> Tensor:
        r""":math:`H(\bar p)`, total uncertainty, ``(N,)``."""
        terms: Tensor = torch.special.entr(self.probs)
        return terms.sum(-1)

    @property
    def mutual_information(self) -> Tensor:
        r""":math:`H(\bar p) - \tfrac1S\sum_s H(p_s) \ge 0`, epistemic uncertainty, ``(N,)``.

        Raises:
            ValueError: only the mean probabilities are known.
        """
        if self.expected_entropy is None:
            raise ValueError(
                "mutual information needs the spread of the class probabilities; the probit link "
                "and temperature scaling give their mean only. Call predict(..., link='sampled'), "
                "or use the predictions before scaling."
            )
        return (self.predictive_entropy - self.expected_entropy).clamp_min(0.0)

    def require_votes(self) -> Tensor:
        """How many draws have each class on top, ``(N, C)``.

        Raises:
            ValueError: the probabilities are in closed form, without draws.
        """
        if self.votes is None:
            raise ValueError(
                "votes need draws; these probabilities are in closed form. Call "
                "predict(..., link='sampled')."
            )
        return self.votes

    @property
    def voted_class(self) -> Tensor:
        """The class on top in most draws, ``(N,)``."""
        return self.require_votes().argmax(-1)

    @property
    def variation_ratio(self) -> Tensor:
        """One minus the share of votes of the voted class, ``(N,)``."""
        votes = self.require_votes()
        return 1 - votes.amax(-1).to(self.probs) / votes.sum(-1)


@dataclass(frozen=True)
class RegressionPredictive(Predictive):
    r"""Mean and variance of the targets, by the law of total variance.

    .. math:: \mathrm{Var}[y] = \underbrace{\mathrm{Var}_\theta[E(y|\theta)]}_{\text{epistemic}} +
              \underbrace{E_\theta[\mathrm{Var}(y|\theta)]}_{\text{aleatoric}}

    Args:
        mean: :math:`E[y]` in the units of ``y``; ``(N,)``, or ``(N, d)`` for several targets.
        epistemic_variance: in squared units of ``y``, same shape.
        aleatoric_variance: in squared units of ``y``, same shape.
        component_means: means at each draw, ``(S, N[, d])``, if outputs were kept.
        component_scales: noise standard deviations at each draw, likewise.
    """

    mean: Tensor
    epistemic_variance: Tensor
    aleatoric_variance: Tensor
    component_means: Tensor | None = None
    component_scales: Tensor | None = None

    @property
    def variance(self) -> Tensor:
        """Epistemic plus aleatoric variance."""
        return self.epistemic_variance + self.aleatoric_variance

    @property
    def std(self) -> Tensor:
        """The predictive standard deviation, in the units of ``y``."""
        return self.variance.sqrt()

    def log_prob(self, y: object) -> Tensor:
        r"""Log predictive density of ``y`` in nats, ``(N,)``, float64.

        .. math:: \log \tfrac1S\sum_s \prod_j \mathcal N(y_{nj} \mid \mu_{snj}, \sigma_{snj}^2)

        Where the moments are exact and outputs were not kept, the normal density; for several
        targets the product of the marginal ones.

        Args:
            y: targets, of the shape of ``mean``.

        Raises:
            ValueError: ``y`` has another shape or is not finite, or the outputs were not kept.
        """
        targets = self.check_targets(y)
        means, scales = self.component_means, self.component_scales
        if means is None or scales is None:
            if self.num_samples:
                self.require_outputs()
            means, scales = self.mean.unsqueeze(0), self.std.unsqueeze(0)
        z = (targets - means) / scales
        log_density = -0.5 * z.square() - scales.log() - 0.5 * math.log(2 * math.pi)
        joint = log_density.sum(-1) if log_density.ndim == 3 else log_density
        return joint.logsumexp(0) - math.log(len(joint))

    def check_targets(self, y: object) -> Tensor:
        """Return ``y`` as a float64 tensor on the predictions' device.

        Raises:
            ValueError: ``y`` does not have the shape of ``mean``, or is not finite.
        """
        targets = finite("y", as_tensor("y", y)).to(self.mean.device).double()
        if targets.shape == (*self.mean.shape, 1):
            targets = targets.squeeze(-1)
        if targets.shape != self.mean.shape:
            raise ValueError(
                f"y must have the shape of the predictions, {tuple(self.mean.shape)}; got "
                f"{tuple(targets.shape)}. Pass the targets of the points that were predicted."
            )
        return targets

    def quantile(self, level: float) -> Tensor:
        r"""The predictive quantile, of the mixture :math:`\tfrac1S\sum_s N(\mu_s, \sigma_s^2)`.

        Where outputs were not kept and the moments are exact, that of the normal distribution.

        Args:
            level: between 0 and 1, exclusive.

        Returns:
            A tensor of the shape of ``mean``.

        Raises:
            ValueError: ``level`` is out of range, or the outputs were not kept.
        """
        strictly_between_0_and_1("a quantile's level", level)
        if self.component_means is None:
            if self.num_samples:
                self.require_outputs()
            z: Tensor = torch.special.ndtri(self.mean.new_tensor(level))
            return self.mean + self.std * z
        return _mixture_quantile(level, self.component_means, self.component_scales)

    @checked(y=_numbers)
    def cdf(self, y: Tensor | float) -> Tensor:
        r"""The predictive distribution function at targets: the probability integral transform.

        Args:
            y: targets of the shape of ``mean``.

        Returns:
            :math:`P(Y_n \le y_n)`, uniform over the data if the predictions are calibrated.

        Raises:
            ValueError: the outputs were not kept.
        """
        shape = y.shape if isinstance(y, Tensor) else ()
        if any(m not in (1, n) for m, n in zip(shape[::-1], self.mean.shape[::-1], strict=False)):
            raise ValueError(
                f"y must hold one target for each point predicted, {tuple(self.mean.shape)}; "
                f"got shape {tuple(shape)}. Pass the targets of the points that were predicted."
            )
        if self.component_means is None or self.component_scales is None:
            if self.num_samples:
                self.require_outputs()
            return cast("Tensor", torch.special.ndtr((y - self.mean) / self.std))
        z = (y - self.component_means) / self.component_scales
        return cast("Tensor", torch.special.ndtr(z)).mean(0)

    def interval(self, level: float) -> tuple[Tensor, Tensor]:
        """The central predictive interval that holds ``level`` of the probability.

        Args:
            level: for example 0.95.

        Returns:
            Lower and upper end, each of the shape of ``mean``.
        """
        strictly_between_0_and_1("an interval's level", level)
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)


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


@checked(num_points=positive_integer)
def accumulator_for(likelihood: Likelihood, num_points: int, *, keep_outputs: bool) -> Accumulator:
    """The sums that a likelihood's predictions are made of.

    Raises:
        ValueError: the likelihood is neither one of regression nor of classification.
    """
    if isinstance(likelihood, ClassificationLikelihood):
        return ClassificationAccumulator(likelihood, num_points, keep_outputs=keep_outputs)
    if isinstance(likelihood, RegressionLikelihood):
        return RegressionAccumulator(likelihood, num_points, keep_outputs=keep_outputs)
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


class RegressionAccumulator(Accumulator):
    """Running mean and squared deviations of the function, by Chan et al.'s pairwise update."""

    def __init__(
        self, likelihood: RegressionLikelihood, num_points: int, *, keep_outputs: bool
    ) -> None:
        super().__init__(num_points, keep_outputs=keep_outputs)
        self.likelihood = likelihood
        self._components: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def add(self, batch: DrawBatch) -> None:
        """Merge a chunk's moments with those so far."""
        loc, noise = self.likelihood.moments(batch.outputs, batch.params)
        if self._kept is not None:
            self._components.setdefault(batch.draws.start, []).append((loc, noise.sqrt()))
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

    def result(self) -> RegressionPredictive:
        """Mean, and variance split in two."""
        means, scales = self._join(0), self._join(1)
        return RegressionPredictive(
            num_samples=self.num_samples,
            outputs=self.outputs(),
            mean=_drop_last(self.mean),
            epistemic_variance=_drop_last(self.squares / max(1, self.num_samples - 1)),
            aleatoric_variance=_drop_last(self.noise / self.num_samples),
            component_means=means,
            component_scales=scales,
        )

    def _join(self, which: int) -> Tensor | None:
        if self._kept is None:
            return None
        chunks = [torch.cat([b[which] for b in c], dim=1) for c in self._components.values()]
        return _drop_last(torch.cat(chunks)).double()


def _drop_last(value: Tensor) -> Tensor:
    return value.squeeze(-1) if value.shape[-1] == 1 else value


def _mixture_quantile(level: float, means: Tensor, scales: Tensor | None) -> Tensor:
    """Bisection on the mixture's distribution function, to the last bit of float64."""
    if scales is None:
        raise ValueError("a mixture needs the scales of its components; got none.")
    low, high = (means - 40 * scales).amin(0), (means + 40 * scales).amax(0)
    for _ in range(80):
        middle = (low + high) / 2
        below = torch.special.ndtr((middle - means) / scales).mean(0) < level
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2
