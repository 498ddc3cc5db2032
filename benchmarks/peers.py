"""What the package is measured against: the same methods written by hand in plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BayesByBackprop", "Noise", "with_dropout"]

Noise = Callable[[Tensor], Tensor]
"""Standard normal noise of the shape of its argument."""


class VariationalLayer(nn.Module):
    """A linear layer or convolution with an independent normal over each weight and bias.

    Args:
        layer: where the means start.
        prior_scale: standard deviation of the normal prior with mean zero.
        init_scale: standard deviation that every weight starts with.
    """

    def __init__(
        self, layer: nn.Linear | nn.Conv2d, *, prior_scale: float, init_scale: float
    ) -> None:
        super().__init__()
        self.function = F.linear if isinstance(layer, nn.Linear) else F.conv2d
        self.prior_scale = prior_scale
        rho = math.log(math.expm1(init_scale))
        self.weight_mu = nn.Parameter(layer.weight.detach().clone())
        self.weight_rho = nn.Parameter(torch.full_like(self.weight_mu, rho))
        self.bias_mu = nn.Parameter(layer.bias.detach().clone())
        self.bias_rho = nn.Parameter(torch.full_like(self.bias_mu, rho))

    def forward(self, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """The layer's outputs at one draw of its weights, and its KL divergence in nats."""
        weight, weight_kl = self._draw(self.weight_mu, self.weight_rho, noise)
        bias, bias_kl = self._draw(self.bias_mu, self.bias_rho, noise)
        return self.function(x, weight, bias), weight_kl + bias_kl

    def _draw(self, mu: Tensor, rho: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        sigma = F.softplus(rho)
        half_precision = 0.5 / self.prior_scale**2
        kl = (half_precision * (mu.square() + sigma.square()) - sigma.log()).sum()
        kl = kl + mu.numel() * (math.log(self.prior_scale) - 0.5)
        return torch.addcmul(mu, sigma, noise(mu)), kl


class BayesByBackprop(nn.Module):
    """A mean-field normal net as one writes it by hand (Blundell et al. 2015).

    One draw of the weights a step, shared by the batch; softplus scales; KL in closed form.

    Args:
        net: a sequential net; its linear layers and convolutions become variational.
        prior_scale: standard deviation of the prior.
        init_scale: standard deviation that every weight starts with.
    """

    def __init__(self, net: nn.Sequential, *, prior_scale: float, init_scale: float = 0.01) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            VariationalLayer(m, prior_scale=prior_scale, init_scale=init_scale)
            if isinstance(m, nn.Linear | nn.Conv2d)
            else m
            for m in net
        )

    def forward(self, x: Tensor, noise: Noise = torch.randn_like) -> tuple[Tensor, Tensor]:
        """Outputs at one draw, and the KL divergence to the prior in nats."""
        kl = x.new_zeros(())
        for layer in self.layers:
            if isinstance(layer, VariationalLayer):
                x, layer_kl = layer(x, noise)
                kl = kl + layer_kl
            else:
                x = layer(x)
        return x, kl


def with_dropout(net: nn.Sequential, rates: dict[str, float]) -> nn.Sequential:
    """The net with ``nn.Dropout`` before the layers named, in training mode; tensors are shared."""
    children: Iterable[tuple[str, nn.Module]] = net.named_children()
    layers = nn.Sequential()
    for name, module in children:
        if name in rates:
            layers.add_module(f"dropout_{name}", nn.Dropout(rates[name]))
        layers.add_module(name, module)
    return layers.train()
