"""Mean-field LeNets of bayesian-torch and torch-uncertainty, with the objective of ours.

Both libraries average where a divergence is a sum: bayesian-torch over the elements of each tensor,
torch-uncertainty over layers. Here the sums are restored, so that every contender minimises the
same negative evidence lower bound per data point.
"""

from __future__ import annotations

import copy
import math
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from report import peer
from torch import Tensor, nn

__all__ = ["BayesianTorch", "TorchUncertainty"]


def rho_of(scale: float) -> float:
    """What softplus maps to a scale."""
    return math.log(math.expm1(scale))


class BayesianTorch(nn.Module):
    """The net converted by bayesian-torch's ``dnn_to_bnn``; its KL divergence is in closed form.

    Args:
        net: where the means start; its linear layers and convolutions become variational.
        kind: ``"Reparameterization"``, one draw shared by the batch, or ``"Flipout"``.
        prior_scale: standard deviation of the prior.
        init_scale: standard deviation that every weight starts with.
    """

    def __init__(self, net: nn.Module, *, kind: str, prior_scale: float, init_scale: float) -> None:
        super().__init__()
        convert = peer("bayesian_torch.models.dnn_to_bnn")
        self.kl_loss = convert.get_kl_loss
        self.net = copy.deepcopy(net).requires_grad_(True)
        options = {
            "prior_mu": 0.0,
            "prior_sigma": prior_scale,  # its "variance", used as a standard deviation
            "posterior_mu_init": 0.0,
            "posterior_rho_init": rho_of(init_scale),
            "type": kind,
            "moped_enable": True,  # the means start at the net's weights
            "moped_delta": 0.1,
        }
        convert.dnn_to_bnn(self.net, options)
        for name, parameter in self.net.named_parameters():
            if ".rho_" in name:
                parameter.data.fill_(rho_of(init_scale))
        for module in self.net.modules():
            if hasattr(module, "kl_div"):
                module.kl_div = MethodType(summed_kl, module)

    def loss(self, x: Tensor, y: Tensor, *, size: int) -> Tensor:
        """The negative evidence lower bound per data point."""
        return F.cross_entropy(self.net(x), y) + self.kl() / size

    def kl(self) -> Tensor:
        """The divergence from the prior in nats."""
        divergence: Tensor = self.kl_loss(self.net)
        return divergence

    def noise(self) -> Tensor:
        """The standard normal noise of the last forward pass, in the order of the parameters."""
        layers = [m for m in self.net.modules() if hasattr(m, "kl_div")]
        names = ("eps_weight" if hasattr(m, "eps_weight") else "eps_kernel" for m in layers)
        pairs = [(getattr(m, n), m.eps_bias) for m, n in zip(layers, names, strict=True)]
        return torch.cat([noise.flatten() for pair in pairs for noise in pair])


def summed_kl(layer: Any, mu: Tensor, sigma: Tensor, prior_mu: Tensor, prior: Tensor) -> Tensor:
    """The layer's own divergence, which is a mean over elements, as the sum."""
    mean: Tensor = type(layer).kl_div(layer, mu, sigma, prior_mu, prior)
    return mu.numel() * mean


class TorchUncertainty(nn.Module):
    """The net in torch-uncertainty's Bayesian layers, which estimate the KL from the step's draw.

    Their estimate has a constant of a half for each parameter, which gradients do not see.

    Args:
        net: where the means start.
        prior_scale: standard deviation of the prior.
        init_scale: standard deviation that every weight starts with.
    """

    def __init__(self, net: nn.Sequential, *, prior_scale: float, init_scale: float) -> None:
        super().__init__()
        layers = peer("torch_uncertainty.layers.bayesian")
        losses = peer("torch_uncertainty.losses")
        prior = {"prior_sigma_1": prior_scale, "prior_sigma_2": prior_scale}
        converted = [_bayesian(layers, m, prior, init_scale) for m in net]
        self.net = nn.Sequential(*converted)
        self.num_layers = sum(isinstance(m, layers.bayesian_modules) for m in converted)
        self.elbo = partial_elbo(losses.ELBOLoss, self.net)

    def loss(self, x: Tensor, y: Tensor, *, size: int) -> Tensor:
        """The negative evidence lower bound per data point, and a constant."""
        self.elbo.kl_weight = self.num_layers / size
        value: Tensor = self.elbo(x, y)
        return value.squeeze()

    def draw(self) -> list[Tensor]:
        """The weights and biases of the last forward pass, in the order of the parameters."""
        samplers = [
            sampler
            for m in self.net
            if hasattr(m, "weight_sampler")
            for sampler in (m.weight_sampler, m.bias_sampler)
        ]
        return [sampler.weight for sampler in samplers]


def partial_elbo(elbo: Any, net: nn.Module) -> nn.Module:
    """Its own objective with cross-entropy and one draw; the weight of the KL is set each step."""
    loss: nn.Module = elbo(net, nn.CrossEntropyLoss(), kl_weight=1.0, num_samples=1)
    return loss


def _bayesian(layers: Any, module: nn.Module, prior: dict[str, float], scale: float) -> nn.Module:
    """The Bayesian counterpart of a linear layer or convolution; other modules as they are."""
    options = {**prior, "mu_init": 0.0, "sigma_init": rho_of(scale)}
    if isinstance(module, nn.Linear):
        made = layers.BayesLinear(module.in_features, module.out_features, **options)
    elif isinstance(module, nn.Conv2d):
        shape = (module.in_channels, module.out_channels, module.kernel_size)
        made = layers.BayesConv2d(*shape, **options)
    else:
        return copy.deepcopy(module)
    for name in ("weight", "bias"):
        getattr(made, f"{name}_mu").data.copy_(getattr(module, name).detach())
        getattr(made, f"{name}_sigma").data.fill_(rho_of(scale))
    bayesian: nn.Module = made
    return bayesian
