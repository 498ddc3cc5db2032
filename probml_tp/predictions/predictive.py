"""Predictive distributions, their uncertainty split into epistemic and aleatoric parts."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from probml_tp.checks.arguments import checked, real_tensor
from probml_tp.checks.values import (
    as_tensor,
    finite,
    is_number,
    positive_integer,
    strictly_between_0_and_1,
    valid_seed,
)
from probml_tp.contracts import is_ours, require_shape
from probml_tp.likelihoods import ClassificationLikelihood, Likelihood, RegressionLikelihood
from probml_tp.predictions.distribution_functions import has_log_prob_of, independent_parts
from probml_tp.predictions.draws import DrawBatch
from probml_tp.predictions.target_mixture import NUM_DRAWS, TargetMixture

__all__ = ["ClassificationPredictive", "Predictive", "RegressionPredictive", "accumulator_for"]

TINY_PROBABILITY = 1e-30
"""Below it float32 loses digits, and then everything, to underflow."""

POINTS = 250
"""Points whose targets' distributions are held, and worked on, together."""


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
        labels = labels.long() if labels.dtype == torch.bool else labels
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
    r"""Mean and variance of the targets, by the law of total variance, and their distribution.

    .. math:: \mathrm{Var}[y] = \underbrace{\mathrm{Var}_\theta[E(y|\theta)]}_{\text{epistemic}} +
              \underbrace{E_\theta[\mathrm{Var}(y|\theta)]}_{\text{aleatoric}}

    Density, distribution function, quantiles and draws are those of the mixture
    :math:`\tfrac1S\sum_s p(y \mid \theta_s)` of the likelihood's own distributions. They need the
    outputs at every draw, except for normal noise where the moments are exact.

    Args:
        mean: :math:`E[y]` in the units of ``y``; ``(N,)``, or ``(N, d)`` for several targets.
        epistemic_variance: in squared units of ``y``, same shape.
        aleatoric_variance: in squared units of ``y``, same shape.
        component_means: means at each draw, ``(S, N[, d])``, if outputs were kept.
        component_scales: noise standard deviations at each draw, likewise.
        components: the distribution at each draw, where it is not normal.
    """

    mean: Tensor
    epistemic_variance: Tensor
    aleatoric_variance: Tensor
    component_means: Tensor | None = None
    component_scales: Tensor | None = None
    components: TargetMixture | None = None

    @property
    def variance(self) -> Tensor:
        """Epistemic plus aleatoric variance."""
        return self.epistemic_variance + self.aleatoric_variance

    @property
    def std(self) -> Tensor:
        """The predictive standard deviation, in the units of ``y``."""
        return self.variance.sqrt()

    def normal_components(self) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of the normals in the mixture, both ``(S, N[, d])``.

        Exact moments are those of one normal.

        Raises:
            ValueError: the likelihood is not normal, or the outputs were not kept.
        """
        if self.components is not None:
            raise ValueError(
                "this needs normal noise; the likelihood of these predictions is another. Use "
                "log_prob, cdf, quantile, interval and sample, which take any."
            )
        if self.component_means is not None and self.component_scales is not None:
            return self.component_means, self.component_scales
        if self.num_samples:
            self.require_outputs()
        return self.mean.unsqueeze(0), self.std.unsqueeze(0)

    def log_prob(self, y: object) -> Tensor:
        r"""Log predictive density of ``y`` in nats, ``(N,)``, float64.

        .. math:: \log \tfrac1S\sum_s p(y_n \mid \theta_s, x_n)

        Where the moments are exact and outputs were not kept, the normal density; for several
        targets the product of the marginal ones. Minus infinity where ``y`` is impossible.

        Args:
            y: targets, of the shape of ``mean``.

        Raises:
            ValueError: ``y`` has another shape or is not finite, or the outputs were not kept.
        """
        targets = self.check_targets(y)
        if self.components is not None:
            return self.components.log_prob(targets)
        means, scales = self.normal_components()
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

    def quantile(self, level: float, *, num_draws: int = NUM_DRAWS) -> Tensor:
        r"""The predictive quantile, :math:`\inf\{q : P(Y_n \le q) \ge \text{level}\}`.

        Of the mixture :math:`\tfrac1S\sum_s p(y \mid \theta_s)`; for discrete targets that is the
        smallest integer that is not exceeded with this probability. Where outputs were not kept
        and the moments are exact, that of the normal distribution.

        Args:
            level: between 0 and 1, exclusive.
            num_draws: draws of each target, used only where the likelihood's distribution has no
                known distribution function (a continuous one of your own without ``cdf``): the
                quantile is then theirs, the same at every call, and its probability off by about
                :math:`\sqrt{\text{level} (1 - \text{level}) / \text{num\_draws}}`.

        Returns:
            A tensor of the shape of ``mean``; several targets by their marginal distributions.

        Raises:
            ValueError: ``level`` is out of range, or the outputs were not kept.

        Example:
            >>> zero = torch.zeros(2)
            >>> normal = RegressionPredictive(0, None, zero, zero, zero + 1)
            >>> normal.quantile(0.975)
            tensor([1.9600, 1.9600])
        """
        strictly_between_0_and_1("a quantile's level", level)
        return self._quantiles(level, num_draws=num_draws)[0]

    @checked(y=_numbers)
    def cdf(self, y: Tensor, *, num_draws: int = NUM_DRAWS) -> Tensor:
        r"""The predictive distribution function at targets: the probability integral transform.

        Args:
            y: targets of the shape of ``mean``.
            num_draws: as for :meth:`quantile`.

        Returns:
            :math:`P(Y_n \le y_n)`, uniform over the data if the predictions are calibrated and the
            targets continuous.

        Raises:
            ValueError: the outputs were not kept.
        """
        return self._cdfs(self.check_targets(y), num_draws=num_draws)[0]

    def interval(self, level: float, *, num_draws: int = NUM_DRAWS) -> tuple[Tensor, Tensor]:
        """The central predictive interval that holds ``level`` of the probability.

        Both ends belong to it. Of discrete targets it holds at least that much.

        Args:
            level: for example 0.95.
            num_draws: as for :meth:`quantile`.

        Returns:
            Lower and upper end, each of the shape of ``mean``.
        """
        strictly_between_0_and_1("an interval's level", level)
        low, high = self._quantiles((1 - level) / 2, (1 + level) / 2, num_draws=num_draws)
        return low, high

    def covers(self, y: object, level: float, *, num_draws: int = NUM_DRAWS) -> Tensor:
        """Whether each target lies in :meth:`interval`, from the distribution function alone.

        Args:
            y: targets of the shape of ``mean``.
            level: the probability of the interval.
            num_draws: as for :meth:`quantile`.

        Returns:
            A boolean tensor of the shape of ``mean``.

        Raises:
            ValueError: ``y`` does not fit the predictions, ``level`` is out of range, or the
                outputs were not kept.
        """
        targets = self.check_targets(y)
        tail = (1 - strictly_between_0_and_1("an interval's level", level)) / 2
        just_below = torch.nextafter(targets, targets.new_tensor(-torch.inf))
        up_to, below = self._cdfs(targets, just_below, num_draws=num_draws)
        return (up_to >= tail) & (below < 1 - tail)

    def sample(self, num_draws: int = 100, *, seed: int = 0) -> Tensor:
        """Draws of new targets, as many from every component of the mixture as can be.

        Args:
            num_draws: how many of each target.
            seed: determines them.

        Returns:
            The draws, ``(num_draws, N[, d])``.

        Raises:
            ValueError: the outputs were not kept, or ``num_draws`` is below 1.

        Example:
            >>> zero = torch.zeros(2)
            >>> normal = RegressionPredictive(0, None, zero, zero, zero + 1)
            >>> normal.sample(5).shape
            torch.Size([5, 2])
        """
        count = positive_integer("num_draws", num_draws)
        generator = torch.Generator().manual_seed(valid_seed(seed))
        if self.components is not None:
            draws = self.components.sample(count, seed=seed).reshape(-1, *self.mean.shape)
            return draws[torch.randperm(len(draws), generator=generator)[:count].to(draws.device)]
        means, scales = self.normal_components()
        order = torch.randperm(-(-count // len(means)) * len(means), generator=generator)[:count]
        which = (order % len(means)).to(means.device)
        noise = torch.randn(count, *self.mean.shape, generator=generator, dtype=torch.float64)
        return means[which] + scales[which] * noise.to(means.device)

    def _quantiles(self, *levels: float, num_draws: int) -> list[Tensor]:
        count = positive_integer("num_draws", num_draws)
        if self.components is not None:
            found = self.components.quantile(*levels, num_draws=count)
            return [quantile.reshape(self.mean.shape) for quantile in found]
        means, scales = self.normal_components()
        if self.component_means is not None:
            return [_mixture_quantile(level, means, scales) for level in levels]
        z = torch.special.ndtri(self.mean.new_tensor(levels))
        return [self.mean + self.std * value for value in z]

    def _cdfs(self, *values: Tensor, num_draws: int) -> list[Tensor]:
        count = positive_integer("num_draws", num_draws)
        if self.components is not None:
            return self.components.cdf(*values, num_draws=count)
        means, scales = self.normal_components()
        return [cast("Tensor", torch.special.ndtr((y - means) / scales)).mean(0) for y in values]


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


def _drop_last(value: Tensor) -> Tensor:
    return value.squeeze(-1) if value.shape[-1] == 1 else value


def _mixture_quantile(level: float, means: Tensor, scales: Tensor) -> Tensor:
    """Bisection on the mixture's distribution function, to the last bit of float64."""
    low, high = (means - 40 * scales).amin(0), (means + 40 * scales).amax(0)
    for _ in range(80):
        middle = (low + high) / 2
        below = torch.special.ndtr((middle - means) / scales).mean(0) < level
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2
