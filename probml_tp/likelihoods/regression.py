"""Likelihoods of real targets: normal noise, known, unknown or a function of the inputs."""

from __future__ import annotations

from numbers import Real
from typing import cast

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import plain, positive
from probml_tp.likelihoods.base import Params, RegressionLikelihood
from probml_tp.priors import SiteDistribution
from probml_tp.priors.normal_sites import LOG_2PI

__all__ = ["Gaussian", "HeteroscedasticGaussian", "LocScaleGaussian"]


class Gaussian(RegressionLikelihood):
    r"""Regression with homoscedastic noise, :math:`y = f(x) + \sigma\varepsilon`.

    Args:
        scale: the noise standard deviation ``sigma`` in the units of ``y``: a number if it is
            known (a tensor of one element is one), or a distribution on the positive reals
            (``HalfNormal``, ``LogNormal``, ...) if it is not. The latter adds the site
            ``"noise_scale"`` to the model.

    Raises:
        ValueError: ``scale`` is not positive, or its prior not a scalar on the positive reals.

    Example:
        >>> likelihood = Gaussian(scale=1.0)
        >>> likelihood.log_prob(torch.zeros(2, 1), torch.zeros(2), {})
        tensor([-0.9189, -0.9189])
        >>> list(Gaussian(scale=dist.HalfNormal(1.0)).site_distributions())
        ['noise_scale']
    """

    scale: Tensor

    @checked(scale=None)
    def __init__(self, scale: float | Tensor | Distribution) -> None:
        super().__init__()
        self.noise_prior: SiteDistribution | None = None
        known = plain(scale)
        if isinstance(known, Real):
            self._scale = positive("Gaussian.scale", cast("float", known))
            value = torch.tensor(self._scale, dtype=torch.float64)
            self.register_buffer("scale", value.to(torch.get_default_dtype()), persistent=False)
        elif isinstance(scale, Distribution):
            self.noise_prior = _noise_prior(cast("TorchDistribution", scale))
        else:
            raise ValueError(
                f"Gaussian.scale must be a positive number, or a distribution on the positive "
                f"reals; got {type(scale).__name__} {scale!r:.60}. Pass for example 0.1 or "
                f"HalfNormal(1.0)."
            )

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        """Move like any module, but round the known scale once only, from the number given."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.noise_prior is None:
            self.scale = torch.full_like(self.scale, self._scale)
        return self

    @classmethod
    def from_precision(cls, precision: float) -> Gaussian:
        r"""Known noise of precision :math:`\beta = \sigma^{-2}` (Bishop 2006, eq. 3.8)."""
        return cls(scale=positive("precision", precision) ** -0.5)

    def site_distributions(self) -> dict[str, SiteDistribution]:
        """The prior of ``noise_scale``, if the noise is not known."""
        return {} if self.noise_prior is None else {"noise_scale": self.noise_prior}

    def noise_scale(self, outputs: Tensor, params: Params) -> Tensor:
        r""":math:`\sigma`, with dimensions appended so that it broadcasts over ``(batch, d)``."""
        if self.noise_prior is None:
            return self.scale
        return params["noise_scale"][..., None, None]

    def moments(self, outputs: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Mean and variance of each target component, both ``(*draws, batch, d)``."""
        return outputs, self.noise_scale(outputs, params).square().expand(outputs.shape)

    def distribution(self, outputs: Tensor, params: Params) -> TorchDistribution:
        """Normal over the targets, independent over ``d`` components."""
        return _normal(outputs, self.noise_scale(outputs, params).expand(outputs.shape))

    def log_prob(self, outputs: Tensor, y: Tensor, params: Params) -> Tensor:
        r""":math:`-\tfrac12 \sum_j ((y_j - f_j)/\sigma)^2 - d\log\sigma - \tfrac d2\log 2\pi`."""
        return _normal_log_prob(outputs, self.noise_scale(outputs, params), y)

    def check_outputs(self, shape: torch.Size) -> None:
        """Outputs are ``(batch, d)``."""
        _matrix_outputs("Gaussian", shape)

    def check_targets(self, y: Tensor, outputs: torch.Size) -> Tensor:
        """Targets are real, ``(batch,)`` for one output, else ``(batch, d)``."""
        return _real_targets(y, outputs[-1])

    def natural_inputs(self, outputs: Tensor, params: Params) -> Tensor:
        r"""``f``, and :math:`\sigma` where it is a site."""
        if self.noise_prior is None:
            return outputs
        scale = params["noise_scale"].expand(len(outputs), 1)
        return torch.cat([outputs, scale], dim=-1)

    def fisher(self, outputs: Tensor, params: Params) -> Tensor:
        r""":math:`\mathrm{diag}(\sigma^{-2}, \dots, \sigma^{-2}[, 2d\sigma^{-2}])`."""
        precision = self.noise_scale(outputs, params).square().reciprocal()
        diagonal = precision.expand(outputs.shape)
        if self.noise_prior is not None:
            noise = (2 * outputs.shape[-1] * precision).expand(len(outputs), 1)
            diagonal = torch.cat([diagonal, noise], dim=-1)
        return torch.diag_embed(diagonal)

    def extra_repr(self) -> str:
        """The known scale or its prior."""
        prior = self.noise_prior
        return f"scale={self._scale:.6g}" if prior is None else f"scale~{prior.describe()}"


class HeteroscedasticGaussian(RegressionLikelihood):
    r"""Regression whose net outputs both the mean and the noise scale of each target.

    For ``d`` targets the net has ``2 d`` outputs: means :math:`f`, then :math:`s`, with
    :math:`\sigma = \mathrm{softplus}(s) + \sigma_{\min}`.

    Args:
        min_scale: :math:`\sigma_{\min}`, in the units of ``y``; it keeps the density bounded.

    Raises:
        ValueError: ``min_scale`` is not positive.

    Example:
        >>> HeteroscedasticGaussian().log_prob(torch.zeros(3, 2), torch.zeros(3), {}).shape
        torch.Size([3])
    """

    def __init__(self, *, min_scale: float = 1e-3) -> None:
        super().__init__()
        self.min_scale = positive("HeteroscedasticGaussian.min_scale", min_scale)

    def _split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        loc, raw = outputs.chunk(2, dim=-1)
        return loc, F.softplus(raw) + self.min_scale

    def _slope(self, raw: Tensor) -> Tensor:
        """The derivative of the scale by the output."""
        return torch.sigmoid(raw)

    def moments(self, outputs: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Mean and variance of each target component, both ``(*draws, batch, d)``."""
        loc, scale = self._split(outputs)
        return loc, scale.square()

    def distribution(self, outputs: Tensor, params: Params) -> TorchDistribution:
        """Normal over the targets, independent over ``d`` components."""
        return _normal(*self._split(outputs))

    def log_prob(self, outputs: Tensor, y: Tensor, params: Params) -> Tensor:
        """Pointwise normal log density."""
        loc, scale = self._split(outputs)
        return _normal_log_prob(loc, scale, y)

    def check_outputs(self, shape: torch.Size) -> None:
        """Outputs are ``(batch, 2 d)``."""
        _matrix_outputs(type(self).__name__, shape)
        if shape[-1] % 2:
            raise ValueError(
                f"{type(self).__name__} needs two outputs (mean and scale) per target; the net "
                f"has {shape[-1]}. Give its last layer an even number of outputs."
            )

    def check_targets(self, y: Tensor, outputs: torch.Size) -> Tensor:
        """Targets are real, ``(batch,)`` for one target, else ``(batch, d)``."""
        return _real_targets(y, outputs[-1] // 2)

    def natural_inputs(self, outputs: Tensor, params: Params) -> Tensor:
        """The outputs."""
        return outputs

    def fisher(self, outputs: Tensor, params: Params) -> Tensor:
        r""":math:`\mathrm{diag}(\sigma^{-2}, 2\sigma^{-2}\,\mathrm{sigmoid}(s)^2)`."""
        _, scale = self._split(outputs)
        slope = self._slope(outputs.chunk(2, dim=-1)[1])
        diagonal = torch.cat([scale**-2, 2 * (slope / scale) ** 2], dim=-1)
        return torch.diag_embed(diagonal)

    def extra_repr(self) -> str:
        """The smallest scale."""
        return f"min_scale={self.min_scale:g}"


class LocScaleGaussian(HeteroscedasticGaussian):
    r"""Regression whose net returns the noise scale itself, beside the mean.

    For ``d`` targets the net has ``2 d`` outputs: means :math:`f`, then standard deviations
    :math:`\sigma`, which it has to keep positive. The scales may be known, observation by
    observation (standard errors in a column of ``x``, as in a meta-analysis), or parameters of the
    net with priors of their own.

    Example:
        >>> outputs = torch.tensor([[0.0, 2.0]])  # mean 0, standard deviation 2
        >>> LocScaleGaussian().distribution(outputs, {}).variance
        tensor([4.])
    """

    def __init__(self) -> None:
        super().__init__()

    def _split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        loc, scale = outputs.chunk(2, dim=-1)
        return loc, scale

    def _slope(self, raw: Tensor) -> Tensor:
        return torch.ones_like(raw)

    def extra_repr(self) -> str:
        """Nothing to add."""
        return ""


def _noise_prior(prior: TorchDistribution) -> SiteDistribution:
    site = SiteDistribution("noise_scale", prior, torch.zeros(()))
    lowest = getattr(site.support, "lower_bound", -torch.inf)
    if bool(torch.as_tensor(lowest) < 0):
        raise ValueError(
            f"the prior of a noise scale must live on the positive reals; got {site.describe()}. "
            f"Use for example HalfNormal, LogNormal or Gamma."
        )
    return site


def _normal(loc: Tensor, scale: Tensor) -> TorchDistribution:
    if loc.shape[-1] == 1:
        return dist.Normal(loc.squeeze(-1), scale.squeeze(-1))
    return cast("TorchDistribution", dist.Normal(loc, scale).to_event(1))


def _normal_log_prob(loc: Tensor, scale: Tensor, y: Tensor) -> Tensor:
    target = y if y.ndim == 2 else y.unsqueeze(-1)
    z = (target - loc) / scale
    return (-0.5 * z.square() - scale.log() - 0.5 * LOG_2PI).sum(-1)


def _matrix_outputs(name: str, shape: torch.Size) -> None:
    if len(shape) != 2:
        raise ValueError(
            f"{name} needs outputs of shape (batch, d); the net returns {tuple(shape)}. "
            f"Keep the last dimension (unsqueeze(-1)), or flatten the rest."
        )


def _real_targets(y: Tensor, num_outputs: int) -> Tensor:
    expected = (len(y),) if num_outputs == 1 else (len(y), num_outputs)
    if num_outputs == 1 and y.shape == (len(y), 1):
        y = y.squeeze(-1)
    if y.shape != expected:
        raise ValueError(
            f"y must have shape {expected} for a net with {num_outputs} mean output(s); "
            f"got {tuple(y.shape)}. Reshape y, or change the net's last layer."
        )
    return y if y.is_floating_point() else y.to(torch.get_default_dtype())
