r"""Gaussian dropout: multiplicative normal noise on units as the approximate posterior."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.guides.multiplicative import MultiplicativeNoise, NoiseMode, NoisyUnits, noise_mode
from probml_tp.model import BayesianModel
from probml_tp.priors import SiteDistribution

__all__ = ["GaussianDropout", "GaussianUnits"]

NUM_NODES = 32


class GaussianDropout(MultiplicativeNoise):
    r"""Multiplicative normal noise as the variational family (Srivastava et al. 2014, section 10).

    A layer with drop rate ``p`` on its ``K`` input units has weights

    .. math:: W = \hat W\,\mathrm{diag}(z), \qquad z_k \sim \mathcal N(1, \alpha), \quad
              \alpha = p / (1 - p):

    noise with the mean and variance of inverted dropout's. The units of a convolution are its
    input channels. All other sites are point masses. A draw is one ``z``, hence one function.

    **The KL term.** A unit's outgoing weights :math:`w_k = \hat w_k z_k` lie on a line through 0,
    where ``q`` has the density :math:`\mathcal N(z_k; 1, \alpha)/\|\hat w_k\|` with respect to
    length (one-dimensional Hausdorff measure) but none with respect to volume. As for
    :class:`~probml_tp.guides.MCDropout`, ``q`` stands for normals so narrow across the line that
    they act as points, :math:`\mathcal N(\hat w_k, \alpha \hat w_k \hat w_k^\top + \sigma^2 I)`
    as :math:`\sigma \to 0`; in ``d`` dimensions their entropy is
    :math:`\log\|\hat w_k\| + \tfrac12\log(2\pi e\alpha)` and
    :math:`\tfrac{d-1}2\log(2\pi e\sigma^2)`, a constant that is left out. So

    .. math:: \mathrm{KL} = E_q[-\log\pi(W)]
              - \sum_l \sum_{k=1}^{K_l} \log\|\hat w_k\| + \tfrac12\log(2\pi e\alpha_l),

    with prior density :math:`\pi`; for :math:`\pi = \mathcal N(0, s^2)` the cross term is
    :math:`(1+\alpha_l)\|\hat W_l\|^2/(2s^2)` and a constant. Other priors are integrated over
    ``z`` by 32-point Gauss-Hermite quadrature: for Student-t and Laplace priors, ``p`` up to 0.5
    and weights of up to five prior scales, each weight's term is off by 0.015 nats at most, by
    far less for smaller weights and rates. The logarithm repels columns from 0, where their line,
    and the KL term, ceases to exist. ``log_prob`` is the density of the
    draw on its lines (Hausdorff measure), minus infinity elsewhere; whatever needs a Lebesgue
    density refuses.

    Noise on units is not noise on weights. "Variational Gaussian dropout" with independent noise
    for each weight (Kingma, Salimans & Welling 2015, their type A) is a mean-field normal with
    scales :math:`\sqrt\alpha\,|\hat w|`; here all weights of a unit vary together, as in dropout
    (their type B).

    ``loss`` is :math:`-\frac1B\sum_{n\in B}\log p(y_n|W) + \frac1N\mathrm{KL}`.

    Args:
        model: the model; weights start at the net's own.
        rates: drop rate ``p`` in [0, 1) for each layer by name, as in
            :class:`~probml_tp.guides.MCDropout`; a number goes to every layer but the first.
        noise: in training, noise drawn for each example (``"per-example"``: the same expectation,
            lower variance) or one draw a step (``"shared"``).

    Raises:
        ValueError: a rate is out of range, or a layer unknown or of another kind.

    Example:
        >>> from torch import nn
        >>> from probml_tp import BayesianModel, Gaussian, NormalPrior
        >>> net = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> model = BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.1))
        >>> guide = GaussianDropout(model, rates={"2": 0.25})
        >>> guide.sample(3)["2.weight"].shape
        torch.Size([3, 1, 8])
    """

    name: ClassVar[str] = "gaussian-dropout"
    no_density: ClassVar[str | None] = (
        "Gaussian dropout lies on a line for each input unit: it has no Lebesgue density"
    )

    @checked(rates=None, noise=None)
    def __init__(
        self,
        model: BayesianModel,
        *,
        rates: Mapping[str, float] | float,
        noise: NoiseMode = "per-example",
    ) -> None:
        super().__init__(model, rates=rates)
        self.noise = noise_mode("noise", noise)

    @property
    def training_noise(self) -> NoiseMode:
        """``noise``."""
        return self.noise

    def _alpha(self, layer: str) -> float:
        rate = self._initial_rates[layer]
        return rate / (1 - rate)

    def units(self, layer: str, weight: Tensor) -> GaussianUnits:
        """Weights under normal noise."""
        return GaussianUnits(weight, self._alpha(layer))

    def noise_cost(self, layer: str, site: str, weight: Tensor) -> Tensor:
        """What noise adds to the cross term, minus the entropy on the lines."""
        alpha = self._alpha(layer)
        entropy = _column_norms(weight).log() + 0.5 * math.log(2 * math.pi * math.e * alpha)
        return _noise_cross_term(self.model.sites[site], weight, alpha) - entropy.sum()

    def prepare(self, x: Tensor, y: Tensor) -> None:
        """Check also that no unit's weights are all zero.

        Raises:
            ValueError: those of some unit are.
        """
        super().prepare(x, y)
        weights = self.model.layout.unravel(self.loc.detach())
        for site in self._layers:
            zero = (_column_norms(weights[site]) == 0).nonzero().flatten().tolist()
            if zero:
                raise ValueError(
                    f"noise on an input unit needs outgoing weights that are not all zero, for its "
                    f"KL term holds their log norm; in {site!r} those of {len(zero)} units are "
                    f"zero, the first at index {zero[0]}. Initialise them at random."
                )

    def options(self) -> dict[str, Any]:
        """The rates by layer, and the noise used in training."""
        return {"rates": dict(self._initial_rates), "noise": self.noise}


class GaussianUnits(NoisyUnits):
    r"""The distribution of :math:`W = \hat W\,\mathrm{diag}(z)` for normal noise with mean 1.

    Its density is with respect to length on each unit's line.

    Args:
        weight: :math:`\hat W`, shape ``(out, in, ...)``.
        alpha: the variance of the noise.

    Example:
        >>> noisy = GaussianUnits(torch.ones(1, 2), 1.0)
        >>> noisy.log_prob(torch.ones(1, 2))
        tensor(-1.8379)
    """

    def __init__(self, weight: Tensor, alpha: float) -> None:
        super().__init__(weight)
        self.alpha = alpha

    def multipliers(
        self, shape: Sequence[int], *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Normal with mean 1."""
        like = self.weight
        epsilon = torch.randn(
            tuple(shape), generator=generator, dtype=like.dtype, device=like.device
        )
        return epsilon.mul_(math.sqrt(self.alpha)).add_(1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density on the lines, ``(*draws,)``; minus infinity off them, within rounding."""
        w, v = _columns(self.weight, self.weight.ndim), _columns(value, self.weight.ndim)
        largest = w.abs().argmax(-1, keepdim=True)
        z = v.gather(-1, largest.expand(*v.shape[:-1], 1)) / w.gather(-1, largest)
        info = torch.finfo(w.dtype)
        on_line = ((v - w * z).abs() <= 8 * info.eps * v.abs() + info.tiny).all(-1)
        normal = -0.5 * (z.squeeze(-1) - 1).square() / self.alpha
        normal = normal - 0.5 * math.log(2 * math.pi * self.alpha)
        log_density = normal - _column_norms(self.weight).log()
        return torch.where(on_line, log_density, -torch.inf).sum(-1)


def _columns(weight: Tensor, ndim: int) -> Tensor:
    """Weights ``(*draws, out, in, ...)`` by input unit: ``(*draws, in, out * ...)``."""
    return weight.transpose(-ndim, 1 - ndim).flatten(1 - ndim)


def _column_norms(weight: Tensor) -> Tensor:
    r""":math:`\|\hat w_k\|` of each input unit, ``(in,)``."""
    norms: Tensor = torch.linalg.vector_norm(_columns(weight, weight.ndim), dim=-1)
    return norms


def _noise_cross_term(site: SiteDistribution, weight: Tensor, alpha: float) -> Tensor:
    r"""What noise adds to the cross term: :math:`E_q[-\log\pi(W)] + \log\pi(\hat W)`.

    For a normal prior it is :math:`\alpha\|\hat W\|^2 / (2 s^2)`, whatever its mean.
    """
    if site.is_normal:
        precision = cast("Tensor", site.scale) ** -2
        return 0.5 * alpha * (weight.square() * precision).sum()
    nodes, masses = (torch.as_tensor(v).to(weight) for v in hermegauss(NUM_NODES))
    z = (1 + math.sqrt(alpha) * nodes).reshape(-1, *[1] * weight.ndim)
    return site.log_prob(weight) - (masses / masses.sum()) @ site.log_prob(weight * z)
