r"""A model in double precision, for what single precision is too coarse for.

A curvature sums :math:`g g^\top` over points. In a direction that the data leave open the terms
cancel, and what single precision leaves of them grows with :math:`N` times the square of the
inputs: on features of a thousand it outweighs a prior of unit scale. Sums are therefore in float64
always; small nets, which cost little, also run in it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from probml_tp.copying import copy_module
from probml_tp.model import BayesianModel

__all__ = ["in_double"]

LARGE = 2**15
"""Nets of more parameters run in their own type, unless that is a half one."""


@torch.no_grad()
def in_double(model: BayesianModel, x: Tensor | None = None) -> BayesianModel:
    """The same model in float64; it casts floating inputs itself, batch by batch.

    Args:
        model: the model.
        x: inputs, of which the net is tried on the first two.

    Returns:
        A copy; the model itself if it is in double precision already, large, or has a net that
        makes tensors of a fixed type in ``forward``.

    Example:
        >>> from probml_tp import Gaussian, NormalPrior
        >>> model = BayesianModel(nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.1))
        >>> in_double(model).outputs(in_double(model).initial_params(), torch.zeros(3, 1)).dtype
        torch.float64
    """
    large = model.num_params > LARGE and model.dtype == torch.float32
    if large or model.dtype == torch.float64:
        return model
    double = copy_module(model).double()
    double.net.register_forward_pre_hook(_cast)
    if x is not None and len(x):
        try:
            double.outputs(double.initial_params(), x[:2])
        except (RuntimeError, TypeError, ValueError):  # mixed types: the model's own will do
            return model
    return double


def _cast(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)
