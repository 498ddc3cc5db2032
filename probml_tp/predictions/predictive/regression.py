"""The predicted distribution of real targets: moments, density, quantiles, draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

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
from probml_tp.predictions.predictive.base import Predictive
from probml_tp.predictions.target_mixture import NUM_DRAWS, TargetMixture
from probml_tp.priors.normal_sites import LOG_2PI

__all__ = ["RegressionPredictive"]


def _numbers(name: str, value: object) -> None:
    """The rule of targets, of which one number may stand for all."""
    if not is_number(value):
        real_tensor()(name, value)


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
        log_density = -0.5 * z.square() - scales.log() - 0.5 * LOG_2PI
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


def _mixture_quantile(level: float, means: Tensor, scales: Tensor) -> Tensor:
    """Bisection on the mixture's distribution function, to the last bit of float64."""
    low, high = (means - 40 * scales).amin(0), (means + 40 * scales).amax(0)
    for _ in range(80):
        middle = (low + high) / 2
        below = torch.special.ndtr((middle - means) / scales).mean(0) < level
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2
