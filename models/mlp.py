"""Multi-layer perceptrons for regression and classification."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import nn

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import positive_integer
from probml_tp.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood
from probml_tp.model import BayesianModel
from probml_tp.priors import PriorSpec

__all__ = ["mlp", "mlp_classifier", "mlp_regressor"]

Activation = Literal["relu", "tanh", "gelu", "silu"]
_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU}


@checked(activation=None)
def mlp(
    sizes: Sequence[int],
    *,
    activation: Activation = "relu",
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> nn.Sequential:
    """A fully connected net with layers ``fc1``, ``fc2``, ... and activations in between.

    Args:
        sizes: widths from input to output, such as ``(1, 50, 50, 1)``.
        activation: the non-linearity between layers.
        seed: determines the initial weights; the global random state is left alone.
        dtype: the floating type of the weights.

    Returns:
        A sequential module.

    Raises:
        ValueError: fewer than two sizes, a size below 1, or an unknown activation.

    Example:
        >>> [name for name, _ in mlp((1, 50, 1)).named_parameters()]
        ['fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias']
    """
    if len(sizes) < 2:
        raise ValueError(f"an MLP needs at least an input and an output size; got {tuple(sizes)}.")
    if activation not in get_args(Activation):
        raise ValueError(f"activation must be one of {get_args(Activation)}; got {activation!r}.")
    net = nn.Sequential()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for i, (k, m) in enumerate(pairwise(sizes), start=1):
            if i > 1:
                net.add_module(f"{activation}{i - 1}", _ACTIVATIONS[activation]())
            layer = nn.Linear(positive_integer("size", k), positive_integer("size", m), dtype=dtype)
            net.add_module(f"fc{i}", layer)
    return net


@checked(activation=None)
def mlp_regressor(
    num_features: int,
    *,
    hidden: Sequence[int],
    prior: PriorSpec,
    likelihood: Likelihood | float,
    num_targets: int = 1,
    activation: Activation = "tanh",
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> BayesianModel:
    """A Bayesian MLP for regression.

    Args:
        num_features: the length of ``x``.
        hidden: widths of the hidden layers.
        prior: the prior of the weights and biases.
        likelihood: the observation model, or a number: the known noise standard deviation. A
            ``HeteroscedasticGaussian`` gets two outputs for each target.
        num_targets: the length of ``y``.
        activation: the non-linearity.
        seed: determines the initial weights.
        dtype: the floating type of the weights.

    Returns:
        The model.

    Example:
        >>> from probml_tp import NormalPrior
        >>> mlp_regressor(1, hidden=(50, 50), prior=NormalPrior(1.0), likelihood=0.1).num_params
        2701
    """
    if not isinstance(likelihood, Likelihood):
        likelihood = Gaussian(scale=likelihood)
    per_target = 1 if isinstance(likelihood, Gaussian) else 2
    sizes = (num_features, *hidden, per_target * num_targets)
    net = mlp(sizes, activation=activation, seed=seed, dtype=dtype)
    return BayesianModel(net, prior, likelihood, name=f"mlp-regressor{sizes}")


@checked(activation=None)
def mlp_classifier(
    num_features: int,
    *,
    hidden: Sequence[int],
    prior: PriorSpec,
    num_classes: int = 2,
    activation: Activation = "relu",
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> BayesianModel:
    """A Bayesian MLP for classification: one logit for two classes, else one a class.

    Args:
        num_features: the length of ``x``.
        hidden: widths of the hidden layers.
        prior: the prior of the weights and biases.
        num_classes: the number of classes.
        activation: the non-linearity.
        seed: determines the initial weights.
        dtype: the floating type of the weights.

    Returns:
        The model.

    Example:
        >>> from probml_tp import NormalPrior
        >>> mlp_classifier(2, hidden=(50,), prior=NormalPrior(1.0)).num_params
        201
    """
    likelihood: Likelihood = Bernoulli() if num_classes == 2 else Categorical(num_classes)
    sizes = (num_features, *hidden, 1 if num_classes == 2 else num_classes)
    net = mlp(sizes, activation=activation, seed=seed, dtype=dtype)
    return BayesianModel(net, prior, likelihood, name=f"mlp-classifier{sizes}")
