r"""MC dropout as variational inference: the masks are the approximate posterior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast, get_args

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints
from torch.func import functional_call

from probml_tp.guide import Draws, Guide, Sites, check_num_samples, matches
from probml_tp.guides.layers import (
    LINEAR_LAYERS,
    calls_of,
    copy_sharing_tensors,
    is_on_whole_examples,
    is_shared,
    unit_dim,
)
from probml_tp.model import BayesianModel
from probml_tp.validation import probability

__all__ = ["MCDropout", "MaskedUnits"]

Masks = Literal["per-example", "shared"]


class MCDropout(Guide):
    r"""Dropout as the variational family (Gal & Ghahramani 2016).

    A layer with drop rate ``p`` on its ``K`` input units has weights

    .. math:: W = \hat W\,\mathrm{diag}(z) / (1 - p), \qquad z_k \sim \mathrm{Bernoulli}(1 - p)

    (inverted dropout: :math:`\hat W` is what a deterministic pass uses); the units of a
    convolution are its input channels. All other sites are point masses. A draw is one set of
    masks, hence one function, the same across batches.

    **The KL term.** A discrete ``q`` has no density, and its KL divergence to a continuous prior
    is infinite. As in the paper, ``q`` stands for a mixture of normals so narrow that they act as
    points; their entropy is a constant that is left out. Up to that constant

    .. math:: \mathrm{KL} = -\sum_i \left[(1-p_i)\log\pi(\hat w_i/(1-p_i)) + p_i\log\pi(0)\right]
              - \sum_l K_l H(p_l)

    with prior density :math:`\pi` and binary entropy ``H``. For :math:`\pi = \mathcal N(0, s^2)`
    the first sum is :math:`\|\hat W_l\|^2 / (2 s^2 (1-p_l))` and a constant: a weight decay of
    :math:`1/(N s^2 (1-p_l))` on the mean negative log likelihood. One global weight decay implies
    a different prior for each rate; here the prior is explicit and the decay follows. ``log_prob``
    is the log probability of the masks (counting measure); whatever needs a density refuses.

    ``loss`` is :math:`-\frac1B\sum_{n\in B}\log p(y_n|W) + \frac1N\mathrm{KL}`.

    Args:
        model: the model; weights start at the net's own.
        rates: drop rate in [0, 1) for each layer by name (``{"fc1": 0.5}``): ``nn.Linear`` and
            ungrouped convolutions. A single number goes to every such layer but the first.
        masks: in training, masks drawn for each example (``"per-example"``: the same expectation,
            lower variance) or one mask set a step (``"shared"``).

    Raises:
        ValueError: a rate is out of range, or a layer unknown or of another kind.

    Example:
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

    def __init__(
        self,
        model: BayesianModel,
        *,
        rates: Mapping[str, float] | float,
        masks: Masks = "per-example",
    ) -> None:
        super().__init__(model)
        if masks not in get_args(Masks):
            raise ValueError(f"masks must be 'per-example' or 'shared'; got {masks!r}.")
        self.masks = masks
        self.rates = _resolve_rates(model.net, rates)
        self.loc = nn.Parameter(model.layout.ravel(model.unconstrain(model.initial_params())))
        sites = {id(p): name for name, p in model.net.named_parameters()}
        self._site_rates = {
            sites[id(model.net.get_submodule(layer).weight)]: rate
            for layer, rate in self.rates.items()
        }
        for site in self._site_rates.keys() & model.transforms.keys():
            raise ValueError(
                f"dropped weights must be able to be zero, so their prior must be on the real "
                f"line; {site!r} has {model.sites[site].describe()}. Leave the layer out of rates."
            )
        object.__setattr__(self, "_masked_net", _with_dropout(model.net, self.rates))

    # ------------------------------------------------------------------------ the distribution

    def _values(self) -> dict[str, Tensor]:
        return self.model.constrain(self.model.layout.unravel(self.loc))

    def site_distributions(self) -> Sites:
        """Masked weights for layers with a rate, point masses for the rest."""
        u = self.model.layout.unravel(self.loc)
        for name, value in self._values().items():
            if name in self._site_rates:
                yield name, MaskedUnits(value, self._site_rates[name])
                continue
            log_density = -self.model.log_abs_det_jacobian({name: u[name]})
            yield name, dist.Delta(value, log_density=log_density, event_dim=value.ndim)

    @torch.no_grad()
    def sample(
        self, num_samples: int, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Weights under ``num_samples`` mask sets; constant sites are repeated without copying."""
        shape = torch.Size([check_num_samples(num_samples)])
        draws = {}
        values = {name: value.detach() for name, value in self._values().items()}
        for name, value in values.items():
            if name in self._site_rates:
                masked = MaskedUnits(value, self._site_rates[name])
                draws[name] = masked.rsample(shape, generator=generator)
            else:
                draws[name] = value.clone().expand(shape + value.shape)
        return draws

    def log_prob(self, draws: Draws) -> Tensor:
        """Log probability of the masks, minus infinity off the support; see the class."""
        values, u = self._values(), self.model.layout.unravel(self.loc)
        total = torch.zeros((), dtype=self.loc.dtype, device=self.loc.device)
        for name, value in values.items():
            if name in self._site_rates:
                total = total + MaskedUnits(value, self._site_rates[name]).log_prob(draws[name])
            else:
                hit = matches(draws[name], value)
                total = total + torch.where(hit, 0.0, -torch.inf).to(total)
        return total - self.model.log_abs_det_jacobian(u)

    def kl(self) -> Tensor:
        r"""The KL term above, up to the constant of the narrow-mixture limit, in nats."""
        total = -self.model.log_prior_flat(self.loc)
        weights = self.model.layout.unravel(self.loc)
        for name, rate in self._site_rates.items():
            weight = weights[name]
            total = total + self._masking_cost(name, weight, rate)
            total = total - weight.shape[1] * _binary_entropy(rate)
        return total

    def _masking_cost(self, name: str, weight: Tensor, rate: float) -> Tensor:
        r"""What masks add to the cross term: :math:`E_q[-\log\pi(W)] + \log\pi(\hat W)`.

        For a normal prior it is :math:`\tfrac{p}{1-p}\|\hat W\|^2 / (2 s^2)`, whatever its mean.
        """
        site = self.model.sites[name]
        if site.is_normal:
            precision = cast("Tensor", site.scale) ** -2
            return 0.5 * rate / (1 - rate) * (weight.square() * precision).sum()
        kept, dropped = site.log_prob(weight / (1 - rate)), site.log_prob(torch.zeros_like(weight))
        return site.log_prob(weight) - (1 - rate) * kept - rate * dropped

    @property
    def constant_sites(self) -> frozenset[str]:
        """All sites without a mask."""
        return frozenset(n for n in self.model.sites if not self._site_rates.get(n))

    # ----------------------------------------------------------------------------- fitting it

    def prepare(self, x: Tensor, y: Tensor) -> None:
        """Check that the net calls each layer with a rate once, on whole examples."""
        probe = x[:2]
        calls = calls_of(
            self.model.net, self.rates, lambda: self.model.outputs(self._values(), probe)
        )
        for layer, made in calls.items():
            if not is_on_whole_examples(made, len(probe)):
                raise ValueError(
                    f"a layer with a drop rate must be called once in a forward pass, on one row "
                    f"for each example; for {len(probe)} examples {layer!r} is called on "
                    f"{[len(x) for x, _ in made] or 'no'} rows. Leave it out of rates."
                )

    def loss(self, x: Tensor, y: Tensor, *, size: int) -> Tensor:
        """The negative ELBO per data point at fresh masks."""
        params = self._values()
        if self.masks == "shared":
            for name, rate in self._site_rates.items():
                params[name] = MaskedUnits(params[name], rate).rsample()
            outputs = self.model.outputs(params, x)
        else:
            own = {n: params[n] for n, _ in self.model.net.named_parameters()}
            outputs = functional_call(cast("nn.Module", self._masked_net), own, (x,))
        log_likelihood = self.model.likelihood.log_prob(outputs, y, params)
        return self.kl() / size - log_likelihood.mean()

    def options(self) -> dict[str, Any]:
        """The rates by layer, and the masks used in training."""
        return {"rates": dict(self.rates), "masks": self.masks}


class MaskedUnits(TorchDistribution):
    r"""The distribution of :math:`W = \hat W\,\mathrm{diag}(z)/(1-p)`, masks over dimension 1.

    Args:
        weight: :math:`\hat W`, shape ``(out, in, ...)``.
        rate: ``p``, the probability that an input unit is dropped.

    Example:
        >>> masked = MaskedUnits(torch.ones(2, 3), 0.5)
        >>> masked.log_prob(masked.rsample())
        tensor(-2.0794)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    def __init__(self, weight: Tensor, rate: float) -> None:
        self.weight, self.rate = weight, rate
        super().__init__(torch.Size(), weight.shape, validate_args=False)

    @property
    def support(self) -> Any:
        """Real tensors of the weight's shape; only ``2**in`` of them have mass."""
        return constraints.independent(constraints.real, self.weight.ndim)

    def rsample(
        self, sample_shape: Any = torch.Size(), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw masks; gradients flow to the weight."""
        ones = (1,) * (self.weight.ndim - 2)
        shape = (*sample_shape, 1, self.weight.shape[1], *ones)
        keep = torch.empty(shape, dtype=self.weight.dtype, device=self.weight.device)
        keep.bernoulli_(1 - self.rate, generator=generator)
        return self.weight * keep.div_(1 - self.rate)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of the masks that give ``value``, ``(*draws,)``; -inf if none does."""
        dims = tuple(d - self.weight.ndim for d in range(self.weight.ndim) if d != 1)
        kept = value == self.weight * (1 / (1 - self.rate)) if self.rate else value == self.weight
        kept, dropped = kept.all(dims), (value == 0).all(dims)
        p = torch.tensor(self.rate, dtype=self.weight.dtype, device=self.weight.device)
        both = torch.zeros_like(p)  # a unit whose weights are all zero: its mask cannot be seen
        log_mass = torch.where(kept, torch.log1p(-p), torch.where(dropped, p.log(), -torch.inf))
        return torch.where(kept & dropped, both, log_mass).sum(-1)


def _binary_entropy(rate: float) -> float:
    p = torch.tensor([rate, 1 - rate], dtype=torch.float64)
    return float(-(p * p.log()).sum())


def _resolve_rates(net: nn.Module, rates: Mapping[str, float] | float) -> dict[str, float]:
    layers = {
        name: module for name, module in net.named_modules() if isinstance(module, LINEAR_LAYERS)
    }
    if not isinstance(rates, Mapping):
        rates = dict.fromkeys(list(layers)[1:], rates)
    for layer, rate in rates.items():
        probability(f"the drop rate of layer {layer!r}", rate)
        if layer not in layers or getattr(layers[layer], "groups", 1) != 1:
            raise ValueError(
                f"a drop rate must name a linear layer or an ungrouped convolution; got "
                f"{layer!r}. The net's are {', '.join(map(repr, layers))}."
            )
        if is_shared(net, layers[layer].weight):
            raise ValueError(
                f"a drop rate needs a layer with weights of its own; those of {layer!r} are "
                f"shared with another layer. Leave it out of rates."
            )
    if not any(rates.values()):
        raise ValueError(
            f"MC dropout needs a positive rate in at least one layer; got {dict(rates)}. "
            f"Without one it is the Delta guide."
        )
    return dict(rates)


def _with_dropout(net: nn.Module, rates: Mapping[str, float]) -> nn.Module:
    """A copy of the net that shares its tensors, with per-example dropout before some layers."""
    masked = copy_sharing_tensors(net)
    for name, rate in rates.items():
        layer = masked.get_submodule(name)
        layer.register_forward_pre_hook(_DropUnits(rate, unit_dim(layer)))
    return masked


@dataclass(frozen=True)
class _DropUnits:
    """A hook that drops input units of each example, alike at all positions (pixels, tokens)."""

    rate: float
    unit_dim: int

    def __call__(self, _: nn.Module, args: tuple[Tensor]) -> Tensor:
        x = args[0]
        if x.ndim == 2:
            return F.dropout(x, self.rate, training=True)
        shape = [len(x), *([1] * (x.ndim - 1))]
        shape[self.unit_dim] = x.shape[self.unit_dim]
        return x * F.dropout(x.new_ones(shape), self.rate, training=True)
