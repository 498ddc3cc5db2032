r"""MC dropout as variational inference: the masks are the approximate posterior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import positive, positive_integer, probability
from probml_tp.guides.multiplicative import MultiplicativeNoise, NoiseMode, NoisyUnits, noise_mode
from probml_tp.model import BayesianModel
from probml_tp.priors import SiteDistribution

__all__ = ["MCDropout", "MaskedUnits", "implied_prior_precision"]


class MCDropout(MultiplicativeNoise):
    r"""Dropout as the variational family (Gal & Ghahramani 2016).

    A layer with drop rate ``p`` on its ``K`` input units has weights

    .. math:: W = \hat W\,\mathrm{diag}(z) / (1 - p), \qquad z_k \sim \mathrm{Bernoulli}(1 - p)

    (inverted dropout: :math:`\hat W` is what a deterministic pass uses). The units of a
    convolution are its input channels, dropped at all positions alike: ``nn.Dropout2d`` before the
    layer, which a mask on the weights amounts to, not ``nn.Dropout``. All other sites are point
    masses. A draw is one set of masks, hence one function, the same across batches.

    **The KL term.** A discrete ``q`` has no density, and its KL divergence to a continuous prior
    is infinite. As in the paper, ``q`` stands for a mixture of normals so narrow that they act as
    points; their entropy is a constant that is left out. Up to that constant

    .. math:: \mathrm{KL} = -\sum_i \left[(1-p_i)\log\pi(\hat w_i/(1-p_i)) + p_i\log\pi(0)\right]
              - \sum_l K_l H(p_l)

    with prior density :math:`\pi` and binary entropy ``H``. For :math:`\pi = \mathcal N(0, s^2)`
    the first sum is :math:`\|\hat W_l\|^2 / (2 s^2 (1-p_l))` and a constant: a weight decay of
    :math:`1/(N s^2 (1-p_l))` on the mean negative log likelihood. One global weight decay
    :math:`\lambda` implies a different prior for each rate, :math:`s^{-2} = \lambda N (1-p_l)`
    (:func:`implied_prior_precision`); here the prior is explicit and the decay follows.
    ``log_prob`` is the log probability of the masks (counting measure); whatever needs a density
    refuses.

    ``loss`` is :math:`-\frac1B\sum_{n\in B}\log p(y_n|W) + \frac1N\mathrm{KL}`.

    Args:
        model: the model; weights start at the net's own.
        rates: drop rate in [0, 1) for each layer by name (``{"fc1": 0.5}``): ``nn.Linear`` and
            ungrouped convolutions. A single number goes to every such layer but the first, and
            skips those that cannot have it: weights that are shared, computed (weight_norm) or
            read without a call of the layer (attention); ``guide.rates`` names those that do.
        masks: in training, masks drawn for each example (``"per-example"``: the same expectation,
            lower variance) or one mask set a step (``"shared"``).

    Raises:
        ValueError: a rate is out of range, or a layer unknown or of another kind.

    Example:
        >>> from torch import nn
        >>> from probml_tp import BayesianModel, Gaussian, NormalPrior
        >>> net = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> model = BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.1))
        >>> guide = MCDropout(model, rates={"2": 0.25})
        >>> guide.sample(3)["2.weight"].shape
        torch.Size([3, 1, 8])
    """

    name: ClassVar[str] = "mc-dropout"
    no_density: ClassVar[str | None] = (
        "MC dropout is a discrete distribution over masks: it has no density"
    )

    @checked(rates=None, masks=None)
    def __init__(
        self,
        model: BayesianModel,
        *,
        rates: Mapping[str, float] | float,
        masks: NoiseMode = "per-example",
    ) -> None:
        super().__init__(model, rates=rates)
        self.masks = noise_mode("masks", masks)

    @property
    def training_noise(self) -> NoiseMode:
        """``masks``."""
        return self.masks

    def units(self, layer: str, weight: Tensor) -> MaskedUnits:
        """Weights under Bernoulli masks."""
        return MaskedUnits(weight, self.rates[layer])

    def drop_and_keep(self, layer: str) -> tuple[Tensor, Tensor]:
        """``p`` and ``1 - p`` of a layer in float64, each to full relative precision."""
        rate = torch.tensor(self.rates[layer], dtype=torch.float64)
        return rate, 1 - rate

    def noise_cost(self, layer: str, site: str, weight: Tensor) -> Tensor:
        """What masks add to the cross term, minus the entropy of the masks."""
        drop, keep = self.drop_and_keep(layer)
        entropy: Tensor = torch.special.entr(torch.stack([drop, keep])).sum().to(weight)
        cost = _masking_cost(self.model.sites[site], weight, drop, keep)
        return cost - weight.shape[1] * entropy

    def options(self) -> dict[str, Any]:
        """The rates by layer, and the masks used in training."""
        return {"rates": dict(self._initial_rates), "masks": self.masks}


class MaskedUnits(NoisyUnits):
    r"""The distribution of :math:`W = \hat W\,\mathrm{diag}(z)/(1-p)`, masks over dimension 1.

    Args:
        weight: :math:`\hat W`, shape ``(out, in, ...)``.
        rate: ``p``, the probability that an input unit is dropped.

    Example:
        >>> masked = MaskedUnits(torch.ones(2, 3), 0.5)
        >>> masked.log_prob(masked.rsample())
        tensor(-2.0794)
    """

    def __init__(self, weight: Tensor, rate: float) -> None:
        super().__init__(weight)
        self.rate = rate

    def multipliers(
        self, shape: Sequence[int], *, generator: torch.Generator | None = None
    ) -> Tensor:
        """0 with probability ``p``, else ``1 / (1 - p)``."""
        keep = torch.empty(shape, dtype=self.weight.dtype, device=self.weight.device)
        return keep.bernoulli_(1 - self.rate, generator=generator).div_(1 - self.rate)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of the masks that give ``value``, ``(*draws,)``; -inf if none does."""
        dims = tuple(d - self.weight.ndim for d in range(self.weight.ndim) if d != 1)
        scale = self.weight.new_ones(1).div_(1 - self.rate)  # rounded as in a draw
        kept, dropped = (value == self.weight * scale).all(dims), (value == 0).all(dims)
        p = torch.tensor(self.rate, dtype=self.weight.dtype, device=self.weight.device)
        both = torch.zeros_like(p)  # a unit whose weights are all zero: its mask cannot be seen
        log_mass = torch.where(kept, torch.log1p(-p), torch.where(dropped, p.log(), -torch.inf))
        return torch.where(kept & dropped, both, log_mass).sum(-1)


def _masking_cost(site: SiteDistribution, weight: Tensor, drop: Tensor, keep: Tensor) -> Tensor:
    r"""What masks add to the cross term: :math:`E_q[-\log\pi(W)] + \log\pi(\hat W)`.

    For a normal prior it is :math:`\tfrac{p}{1-p}\|\hat W\|^2 / (2 s^2)`, whatever its mean.
    """
    if site.is_normal:
        precision = cast("Tensor", site.scale) ** -2
        return 0.5 * (drop / keep).to(weight) * (weight.square() * precision).sum()
    kept, dropped = site.log_prob(weight / keep), site.log_prob(torch.zeros_like(weight))
    return site.log_prob(weight) - keep.to(kept) * kept - drop.to(kept) * dropped


def implied_prior_precision(
    weight_decay: float,
    *,
    rate: float,
    size: int,
    noise_precision: float | None = None,
    num_targets: int = 1,
) -> float:
    r"""The prior under which ordinary dropout with weight decay is the inference done here.

    Training a layer with inverted dropout (torch's) on the mean negative log likelihood plus
    :math:`\tfrac\lambda2\|W\|^2` has the gradient of :class:`MCDropout`'s loss with prior
    :math:`\mathcal N(0, s^2)`, whose KL term holds :math:`\|W\|^2/(2 s^2 (1-p))`, if

    .. math:: s^{-2} = \lambda N (1-p).

    If the loss is ``torch.nn.MSELoss`` instead (no factor 1/2, mean over points and their ``d``
    targets) for noise of precision :math:`\tau`, the negative log likelihood is
    :math:`\tfrac{\tau d}2` times it and a constant, so that

    .. math:: s^{-2} = \tfrac12\lambda N \tau d (1-p)

    (Gal & Ghahramani 2016, eq. 7, in terms of the inverted weights). Parameters without dropout,
    the biases among them, have ``p = 0``: with one weight decay for all, their prior is another.

    Args:
        weight_decay: :math:`\lambda`, as ``torch.optim.SGD`` takes it: the gradient has
            :math:`\lambda W` added. ``AdamW`` decays otherwise, and Adam rescales what is added:
            neither is a prior.
        rate: ``p``, the drop rate on the layer's inputs, in [0, 1).
        size: ``N``, the number of training points.
        noise_precision: :math:`\tau = \sigma^{-2}` if the loss is ``MSELoss``; ``None`` if it is
            a mean negative log likelihood, such as ``CrossEntropyLoss``.
        num_targets: ``d``, for ``MSELoss``.

    Returns:
        The precision :math:`s^{-2}`, for ``NormalPrior.from_precision``.

    Raises:
        ValueError: a value is out of range.

    Example:
        >>> implied_prior_precision(1e-4, rate=0.5, size=60_000)
        3.0
    """
    if noise_precision is None and num_targets != 1:
        raise ValueError(
            f"num_targets goes with noise_precision, for a mean squared error; got {num_targets} "
            f"without. A negative log likelihood is a sum over targets already: leave it out."
        )
    d, scale = positive_integer("num_targets", num_targets), 1.0
    if noise_precision is not None:
        scale = positive("noise_precision", noise_precision) * d / 2
    decay, n = positive("weight_decay", weight_decay), positive_integer("size", size)
    return scale * decay * n * (1 - probability("rate", rate))
