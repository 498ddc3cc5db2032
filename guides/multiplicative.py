r"""Multiplicative noise on the input units of layers: what the dropout guides have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from probml_tp.checks.values import probability
from probml_tp.guide import Draws, Guide, Sites, check_num_samples, matches
from probml_tp.guides.layers import (
    LINEAR_LAYERS,
    calls_of,
    copy_sharing_tensors,
    is_on_whole_examples,
    is_shared,
    unit_dim,
)
from probml_tp.guides.sites import point_mass
from probml_tp.model import BayesianModel
from probml_tp.net_call import call_net

__all__ = ["MultiplicativeNoise", "NoiseMode", "NoisyUnits"]

NoiseMode = Literal["per-example", "shared"]
"""In training: noise of its own for each example, or one draw for the whole batch."""


class NoisyUnits(TorchDistribution):
    r"""The distribution of :math:`W = \hat W\,\mathrm{diag}(z)`, noise ``z`` over dimension 1.

    Args:
        weight: :math:`\hat W`, shape ``(out, in, ...)``.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        super().__init__(torch.Size(), weight.shape, validate_args=False)

    @property
    def support(self) -> Any:
        """Real tensors of the weight's shape, most of which have no density."""
        return constraints.independent(constraints.real, self.weight.ndim)

    @abstractmethod
    def multipliers(
        self, shape: Sequence[int], *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Independent draws of what units are multiplied by, of any shape."""

    def rsample(
        self, sample_shape: Any = torch.Size(), *, generator: torch.Generator | None = None
    ) -> Tensor:
        r"""Draw weights; gradients flow to :math:`\hat W`."""
        ones = (1,) * (self.weight.ndim - 2)
        shape = (*sample_shape, 1, self.weight.shape[1], *ones)
        return self.weight * self.multipliers(shape, generator=generator)


class MultiplicativeNoise(Guide):
    r"""Weights :math:`W = \hat W\,\mathrm{diag}(z)` in some layers, point masses elsewhere.

    A layer's ``K`` input units (of a convolution its input channels, each alike at all positions)
    are multiplied by independent noise :math:`z_1,\dots,z_K` of mean 1. A draw is one ``z``, hence
    one function, the same across batches. The base of the dropout guides, which differ in the
    distribution of ``z`` (:meth:`units`) and in its KL term (:meth:`noise_cost`):

    .. math:: \mathrm{KL} = -\log\pi(\hat\theta) + \sum_l \mathrm{cost}_l, \qquad
              \mathrm{cost}_l = E_q[-\log\pi(W_l)] + \log\pi(\hat W_l) - H_l

    with prior density :math:`\pi` and entropy :math:`H_l` of the layer's noise. ``loss`` is
    :math:`-\frac1B\sum_{n\in B}\log p(y_n|W) + \frac1N\mathrm{KL}`.

    Args:
        model: the model; weights start at the net's own.
        rates: drop rate in [0, 1) for each layer by name, or one for every layer but the first
            that can be treated; ``guide.rates`` says which they are.

    Raises:
        ValueError: a rate is out of range, or a layer unknown or of another kind.
    """

    replayable_loss: ClassVar[bool] = True

    def __init__(self, model: BayesianModel, *, rates: Mapping[str, float] | float) -> None:
        super().__init__(model)
        self._may_skip = not isinstance(rates, Mapping)
        self._initial_rates = _resolve_rates(model, rates)
        self.loc = nn.Parameter(model.layout.ravel(model.unconstrain(model.initial_params())))
        sites = {id(p): name for name, p in model.net.named_parameters()}
        self._layers = {
            sites[id(model.net.get_submodule(layer).weight)]: layer
            for layer, rate in self._initial_rates.items()
            if rate
        }
        object.__setattr__(self, "_noisy_net", self._with_noise(model.net))

    @property
    def rates(self) -> dict[str, float]:
        """The drop rate of each layer by name."""
        return dict(self._initial_rates)

    @property
    @abstractmethod
    def training_noise(self) -> NoiseMode:
        """Whether training draws noise for each example or shares it over the batch."""

    @abstractmethod
    def units(self, layer: str, weight: Tensor) -> NoisyUnits:
        """The distribution of a layer's weights about ``weight``."""

    def training_units(self, layer: str, weight: Tensor) -> NoisyUnits:
        """What the loss draws from in its place: the same, unless that has no gradients."""
        return self.units(layer, weight)

    @property
    def noise_by_example(self) -> bool:
        """Unless it is shared over the batch."""
        return self.training_noise == "per-example"

    @abstractmethod
    def noise_cost(self, layer: str, site: str, weight: Tensor) -> Tensor:
        """What a layer's noise adds to the KL term in nats; see the class."""

    # ------------------------------------------------------------------------ the distribution

    def _values(self) -> dict[str, Tensor]:
        return self.model.constrain(self.model.layout.unravel(self.loc))

    def site_distributions(self) -> Sites:
        """Noisy weights for layers with a rate, point masses for the rest."""
        u = self.model.layout.unravel(self.loc)
        for name, value in self._values().items():
            if name in self._layers:
                yield name, self.units(self._layers[name], value)
                continue
            yield name, point_mass(self.model, name, u[name])

    @torch.no_grad()
    def sample(
        self, num_samples: int, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Weights under ``num_samples`` draws of ``z``; constant sites repeated without copying."""
        shape = torch.Size([check_num_samples(num_samples)])
        draws = {}
        for name, value in self._values().items():
            if name in self._layers:
                units = self.units(self._layers[name], value)
                draws[name] = units.rsample(shape, generator=generator)
            else:
                draws[name] = value.clone().expand(shape + value.shape)
        return draws

    def log_prob(self, draws: Draws) -> Tensor:
        """Log probability or density of the noise, minus infinity off the support."""
        values, u = self._values(), self.model.layout.unravel(self.loc)
        total = torch.zeros((), dtype=self.loc.dtype, device=self.loc.device)
        for name, value in values.items():
            if name in self._layers:
                total = total + self.units(self._layers[name], value).log_prob(draws[name])
            else:
                hit = matches(draws[name], value)
                total = total + torch.where(hit, 0.0, -torch.inf).to(total)
        return total - self.model.log_abs_det_jacobian(u)

    def kl(self) -> Tensor:
        r"""The KL term above, up to the constant of the narrow-mixture limit, in nats."""
        total = -self.model.log_prior_flat(self.loc)
        weights = self.model.layout.unravel(self.loc)
        for site, layer in self._layers.items():
            total = total + self.noise_cost(layer, site, weights[site]).to(total)
        return total

    @property
    def constant_sites(self) -> frozenset[str]:
        """All sites without noise."""
        return frozenset(self.model.sites) - self._layers.keys()

    # ----------------------------------------------------------------------------- fitting it

    def prepare(self, x: Tensor, y: Tensor) -> None:
        """Check that the net calls each layer with a rate once, on whole examples."""
        probe = x[:2]
        calls = calls_of(
            self.model.net, self._initial_rates, lambda: self.model.outputs(self._values(), probe)
        )
        rows = {layer: [len(a) for a, _ in made] for layer, made in calls.items()}
        wrong = {n: rows[n] for n, m in calls.items() if not is_on_whole_examples(m, len(probe))}
        if wrong and (not self._may_skip or len(wrong) == len(rows)):
            layer = next(iter(wrong))
            remedy = "Name others in rates" if self._may_skip else "Leave it out of rates"
            raise ValueError(
                f"a layer with a drop rate must be called once in a forward pass, on one row "
                f"for each example; for {len(probe)} examples {layer!r} is called on "
                f"{wrong[layer] or 'no'} rows. {remedy}."
            )
        if wrong:
            self._keep([layer for layer in rows if layer not in wrong])

    def _keep(self, layers: Sequence[str]) -> None:
        """Leave noise in these layers only."""
        self._initial_rates = {layer: self._initial_rates[layer] for layer in layers}
        self._layers = {site: n for site, n in self._layers.items() if n in layers}
        object.__setattr__(self, "_noisy_net", self._with_noise(self.model.net))

    def extra_repr(self) -> str:
        """The layers with a drop rate."""
        rates = ", ".join(f"{layer!r}: {rate:.3g}" for layer, rate in self.rates.items())
        return f"rates={{{rates}}}"

    def loss(self, x: Tensor, y: Tensor, *, size: int) -> Tensor:
        """The negative ELBO per data point at fresh noise."""
        params = self._values()
        if self.training_noise == "shared":
            for site, layer in self._layers.items():
                params[site] = self.training_units(layer, params[site]).rsample()
            outputs = self.model.outputs(params, x)
        else:
            own = {n: params[n] for n, _ in self.model.net.named_parameters()}
            outputs = call_net(cast("nn.Module", self._noisy_net), own, x)
        log_likelihood = self.model.likelihood.log_prob(outputs, y, params)
        return self.kl() / size - log_likelihood.mean()

    def _with_noise(self, net: nn.Module) -> nn.Module:
        """A copy of the net that shares its tensors, with noise for each example before layers."""
        noisy = copy_sharing_tensors(net)
        for name in self._layers.values():
            layer = noisy.get_submodule(name)
            layer.register_forward_pre_hook(_MultiplyUnits(self, name, unit_dim(layer)))
        return noisy


def noise_mode(name: str, value: NoiseMode) -> NoiseMode:
    """Return ``value`` if it is one of :data:`NoiseMode`; else raise ``ValueError``."""
    if value not in get_args(NoiseMode):
        raise ValueError(f"{name} must be 'per-example' or 'shared'; got {value!r}.")
    return value


def _resolve_rates(model: BayesianModel, rates: Mapping[str, float] | float) -> dict[str, float]:
    """The rate of each layer; a single one leaves out what cannot be treated."""
    layers = {n: m for n, m in model.net.named_modules() if isinstance(m, LINEAR_LAYERS)}
    if not isinstance(rates, Mapping):
        rate = probability("a drop rate", rates)
        refused = {name: _refusal(model, layers, name) for name in layers}
        chosen = [name for name in list(layers)[1:] if refused[name] is None]
        if not chosen:
            able = [name for name in layers if refused[name] is None]
            named = (
                f"Name layers, as in rates={{{able[0]!r}: {rate or 0.1:g}}}, or use"
                if able
                else "Use"
            )
            raise ValueError(
                f"a single drop rate goes to every linear layer and ungrouped convolution but the "
                f"first that has a weight of its own; {model.name} has no such layer beyond it, "
                f"got rates={rate:g}. {named} another guide."
            )
        rates = dict.fromkeys(chosen, rate)
    for layer, rate in rates.items():
        probability(f"the drop rate of layer {layer!r}", rate)
        if reason := _refusal(model, layers, layer):
            raise ValueError(f"{reason} Leave it out of rates.")
    if not any(rates.values()):
        raise ValueError(
            f"dropout needs a positive rate in at least one layer; got {dict(rates)}. "
            f"Without one it is the Delta guide."
        )
    return dict(rates)


def _refusal(model: BayesianModel, layers: Mapping[str, nn.Module], layer: str) -> str | None:
    """Why a layer can have no noise on its weights, if it cannot: a sentence."""
    if layer not in layers or getattr(layers[layer], "groups", 1) != 1:
        return (
            f"a drop rate must name a linear layer or an ungrouped convolution; got {layer!r}. The "
            f"net's are {', '.join(map(repr, layers))}."
        )
    sites = {id(p): name for name, p in model.net.named_parameters()}
    weight = layers[layer].weight
    if "weight" not in layers[layer]._parameters:
        return (
            f"a drop rate needs a layer whose weight is a site of the model; that of {layer!r} is "
            f"frozen, or computed from others as under weight_norm."
        )
    site = sites[id(weight)]
    if is_shared(model.net, cast("Tensor", weight)):
        return (
            f"a drop rate needs a layer with weights of its own; those of {layer!r} are shared "
            f"with another layer."
        )
    if site in model.transforms:
        return (
            f"dropped weights must be able to be zero, so their prior must be on the real line; "
            f"{site!r} has {model.sites[site].describe()}."
        )
    for name, other in model.sites.items():
        if other.given and site in {name, *other.given}:  # the KL term takes them as independent
            return (
                f"dropped weights must have priors that neither depend on other sites nor are "
                f"depended on; {name!r} depends on {', '.join(other.given)}."
            )
    return None


@dataclass(frozen=True)
class _MultiplyUnits:
    """A hook: noise on the input units of each example, alike at all positions (pixels, tokens)."""

    guide: MultiplicativeNoise
    layer: str
    unit_dim: int

    def __call__(self, module: nn.Module, args: tuple[Tensor]) -> Tensor:
        x = args[0]
        shape = [len(x), *([1] * (x.ndim - 1))]
        shape[self.unit_dim] = x.shape[self.unit_dim]
        units = self.guide.training_units(self.layer, cast("Tensor", module.weight))
        return x * units.multipliers(shape)
