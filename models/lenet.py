"""LeNet for 28 x 28 images."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import positive_integer
from probml_tp.likelihoods import Categorical
from probml_tp.model import BayesianModel
from probml_tp.priors import PriorSpec

__all__ = ["LENET_DROPOUT", "lenet", "lenet_net"]

LENET_DROPOUT = {"fc1": 0.5, "fc2": 0.25}
"""The drop rates that go with LeNet; they belong to the guide ``MCDropout``, not to the net."""


@checked(num_classes=positive_integer)
def lenet_net(
    *, num_classes: int = 10, seed: int = 0, dtype: torch.dtype | None = None
) -> nn.Sequential:
    """The net: conv 16 5x5, pool, conv 32 5x5, pool, fc 100, fc ``num_classes``, ReLU in between.

    Args:
        num_classes: the number of outputs.
        seed: determines the initial weights; the global random state is left alone.
        dtype: the floating type of the weights.

    Returns:
        A sequential module taking ``(batch, 1, 28, 28)``.

    Example:
        >>> lenet_net()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = OrderedDict(
            conv1=nn.Conv2d(1, 16, 5, dtype=dtype),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(16, 32, 5, dtype=dtype),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(512, 100, dtype=dtype),
            relu3=nn.ReLU(),
            fc2=nn.Linear(100, num_classes, dtype=dtype),
        )
    return nn.Sequential(layers)


@checked(num_classes=positive_integer)
def lenet(
    *,
    prior: PriorSpec,
    num_classes: int = 10,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> BayesianModel:
    """A Bayesian LeNet for 28 x 28 grey images.

    Args:
        prior: the prior of the weights and biases.
        num_classes: the number of classes.
        seed: determines the initial weights.
        dtype: the floating type of the weights.

    Returns:
        The model, with a Categorical likelihood.

    Example:
        >>> from probml_tp import NormalPrior
        >>> lenet(prior=NormalPrior(1.0)).num_params
        65558
    """
    net = lenet_net(num_classes=num_classes, seed=seed, dtype=dtype)
    return BayesianModel(net, prior, Categorical(num_classes), name="lenet")
