r"""Weight noise drawn anew for each example: local reparameterisation and flipout.

One draw of the weights shared by a batch of ``B`` examples gives a gradient whose variance does
not fall with ``B``. As the log likelihood is a sum over examples, its expectation is the same where
each example has a draw of its own, and the noise then averages out over the batch. What has to
hold is the law of *all* that one example sees of a layer's weights:

- **Local reparameterisation** (Kingma, Salimans & Welling 2015, section 3) draws a linear layer's
  outputs, :math:`a_n \sim \mathcal N(m^\top x_n + m_b,\; (s^2)^\top x_n^2 + s_b^2)`: exact where
  each example passes through the layer once, as the rows of the weight are independent.
- **Flipout** (Wen et al. 2018) flips the signs of one shared perturbation,
  :math:`\Delta_n = (s \odot \varepsilon) \odot t_n r_n^\top`, with independent random signs
  :math:`r_n` for the input units and :math:`t_n` for the output units. Each example's weights are
  then exactly :math:`\mathcal N(m, s^2)`, whatever the number of positions (pixels, tokens) that
  they are applied to; between examples they are uncorrelated.

At several positions of one example the outputs share the weights, hence are correlated.
Independent noise at each position, as local reparameterisation of a convolution has it (Shridhar
et al. 2019), is another law, and its objective not the ELBO: on a trained LeNet it is lower by
0.009 nats a point (5 standard errors; docs/benchmarks.md). So local reparameterisation leaves
convolutions, and linear layers applied to sequences, to the draw that the batch shares; flipout
would be as exact there, but costs a second convolution, more time than its variance saves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probml_tp.guides.layers import (
    LINEAR_LAYERS,
    calls_of,
    copy_sharing_tensors,
    is_on_whole_examples,
    is_read_elsewhere,
    is_shared,
    own_sites,
    unit_dim,
)
from probml_tp.model import BayesianModel
from probml_tp.net_call import call_net

__all__ = ["ExampleNoise", "Noise", "treatments"]

Noise = Literal["local-reparameterization", "flipout"]
"""How examples are given weight noise of their own."""

Values = Mapping[str, Tensor]


class ExampleNoise:
    r"""A model's net under independent normals, with weight noise drawn for each example.

    The weights of layers that are left out take the draw that the batch shares.

    Args:
        model: the model.
        layers: for each layer that is treated, how; see :func:`treatments`.
    """

    def __init__(self, model: BayesianModel, layers: Mapping[str, Noise]) -> None:
        self.layers = dict(layers)
        self.layout = model.layout
        self.net = copy_sharing_tensors(model.net)
        for layer, kind in self.layers.items():
            _add_noise(self.net.get_submodule(layer), kind)

    def outputs(
        self, loc: Tensor, scale: Tensor, epsilon: Tensor, params: Values, x: Tensor
    ) -> Tensor:
        r"""The net's outputs, each example's at treated weights of its own.

        Args:
            loc: the means ``m`` of all sites, ``(P,)``.
            scale: the standard deviations ``s``.
            epsilon: the step's shared noise.
            params: the step's shared draw by site, at :math:`m + s \odot \varepsilon`.
            x: inputs ``(B, ...)``.

        Returns:
            Outputs ``(B, k)``.
        """
        values = {name: params[name] for name, _ in self.net.named_parameters()}
        means, noise = self.layout.unravel(loc), {"local-reparameterization": scale}
        if "flipout" in self.layers.values():
            noise["flipout"] = scale * epsilon
        noises = {kind: self.layout.unravel(flat) for kind, flat in noise.items()}
        for layer, kind in self.layers.items():
            for site in own_sites(self.net, layer):
                values[site] = means[site]
                values[f"{site}_noise"] = noises[kind][site]
        outputs: Tensor = call_net(self.net, values, x)
        return outputs


# ------------------------------------------------------------------- which layers are treated, how


def treatments(model: BayesianModel, noise: Noise, params: Values, x: Tensor) -> dict[str, Noise]:
    """The layers that can be given noise for each example, each with how.

    They are linear layers and convolutions whose weights are their own, on the real line, and read
    by nothing else, and which are called once in a forward pass, on one row for each example.

    Args:
        model: the model.
        noise: how; local reparameterisation only where layers have one position an example.
        params: a value of every site, at which the net is tried.
        x: inputs; the first two are used to see how layers are called.

    Returns:
        Names of layers, each with its noise.

    Example:
        >>> from probml_tp import Gaussian, NormalPrior
        >>> net = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(6, 1))
        >>> model = BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.1))
        >>> params, x = model.initial_params(), torch.zeros(4, 1, 5)
        >>> treatments(model, "local-reparameterization", params, x)
        {'2': 'local-reparameterization'}
        >>> treatments(model, "flipout", params, x)
        {'0': 'flipout', '2': 'flipout'}
    """
    return dict(_treatments(model, noise, params, x))


def _treatments(
    model: BayesianModel, noise: Noise, params: Values, x: Tensor
) -> Iterator[tuple[str, Noise]]:
    layers = [name for name, _ in model.net.named_modules() if _has_own_weights(model, name)]
    probes = [x[:1], x[:2]]
    calls = [calls_of(model.net, layers, partial(model.outputs, params, p)) for p in probes]
    for layer in layers:
        made = [c[layer] for c in calls]
        if not all(
            is_on_whole_examples(*pair) for pair in zip(made, map(len, probes), strict=True)
        ):
            continue
        inputs, outputs = made[0][0]
        is_linear = isinstance(model.net.get_submodule(layer), nn.Linear)
        is_exact = noise == "flipout" or (is_linear and inputs.ndim == 2)
        if is_exact and not is_read_elsewhere(model, layer, params, probes[0], outputs):
            yield layer, noise


def _has_own_weights(model: BayesianModel, layer: str) -> bool:
    """Whether a layer is linear in weights that are its own and on the real line."""
    module, sites = model.net.get_submodule(layer), own_sites(model.net, layer)
    return (
        type(module) in LINEAR_LAYERS
        and "weight" in module._parameters
        and not model.transforms.keys() & set(sites)
        and not any(is_shared(model.net, p) for p in module.parameters())
    )


# ------------------------------------------------------------------------------------- the noise


def _add_noise(layer: nn.Module, kind: Noise) -> None:
    """Let a layer, called at its weights' means, add noise to its output.

    What the noise is made of comes in as further tensors of the layer, ``weight_noise`` and
    ``bias_noise``: standard deviations, or for flipout the shared perturbation.
    """
    for name, parameter in list(layer.named_parameters(recurse=False)):
        layer.register_buffer(f"{name}_noise", torch.zeros_like(parameter))
    hook = _flipout if kind == "flipout" else _local_reparameterization
    layer.register_forward_hook(hook, with_kwargs=True)


def _local_reparameterization(
    layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], mean: Tensor
) -> Tensor:
    r""":math:`a = m^\top x + m_b + \sqrt{(s^2)^\top x^2 + s_b^2}\,\varepsilon`."""
    (x,) = (*args, *kwargs.values())
    s, s_b = _noise_of(layer)
    variance = _linear_map(layer, x.square(), s.square(), None if s_b is None else s_b.square())
    tiny = torch.finfo(variance.dtype).tiny  # the square root has no gradient at 0
    return torch.addcmul(mean, variance.clamp_min(tiny).sqrt(), torch.randn_like(mean))


def _flipout(
    layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], mean: Tensor
) -> Tensor:
    r""":math:`a = m^\top x + m_b + t \odot (\Delta^\top(r \odot x) + \Delta_b)`."""
    (x,) = (*args, *kwargs.values())
    dim = unit_dim(layer)
    noise = _linear_map(layer, x * _signs(x, dim), *_noise_of(layer))
    return torch.addcmul(mean, noise, _signs(mean, dim))


def _signs(like: Tensor, dim: int) -> Tensor:
    """Independent signs for the units of each example, alike at all positions."""
    shape = [1] * like.ndim
    shape[0], shape[dim] = like.shape[0], like.shape[dim]
    return like.new_empty(shape).bernoulli_(0.5).mul_(2).sub_(1)


def _noise_of(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    return cast("Tensor", layer.weight_noise), getattr(layer, "bias_noise", None)


def _linear_map(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What the layer is with another weight and bias."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    mapped: Tensor = cast("nn.Conv2d", layer)._conv_forward(x, weight, bias)
    return mapped
