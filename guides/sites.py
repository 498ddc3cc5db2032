"""A site's distribution, from the flat unconstrained vector that a guide is made of."""

from __future__ import annotations

from math import prod
from typing import cast

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, transforms
from torch import Tensor
from torch.distributions.transforms import Transform

from probml_tp.model import BayesianModel

__all__ = ["flat_value", "point_mass", "site_distribution"]


def site_distribution(
    model: BayesianModel, name: str, flat: TorchDistribution
) -> TorchDistribution:
    """A distribution over flat unconstrained values, reshaped and pushed through the bijection.

    Args:
        model: the model.
        name: the site.
        flat: over vectors of the site's number of elements.

    Returns:
        The distribution over the site's own values.
    """
    shape = model.layout.shapes[name]
    parts: list[Transform] = [transforms.ReshapeTransform(torch.Size([prod(shape)]), shape)]
    if name in model.transforms:
        parts.append(model.transforms[name])
    return cast("TorchDistribution", dist.TransformedDistribution(flat, parts))


def flat_value(model: BayesianModel, name: str, value: Tensor) -> Tensor:
    """A site's value as a flat unconstrained vector: what the distribution above was made of."""
    transform = model.transforms.get(name)
    return (value if transform is None else transform.inv(value)).reshape(-1)


def point_mass(model: BayesianModel, name: str, u: Tensor) -> TorchDistribution:
    r"""A point mass, with log density :math:`-\log|\partial\theta/\partial u|`.

    Args:
        model: the model.
        name: the site.
        u: its unconstrained value, of the site's shape.

    Returns:
        The distribution of the site's own value.
    """
    value = model.constrain({name: u})[name]
    log_density = -model.log_abs_det_jacobian({name: u})
    return dist.Delta(value, log_density=log_density, event_dim=value.ndim)
