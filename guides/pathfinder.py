r"""Where a variational normal starts: the best of some normals along a descent to the mode.

The mode itself may be far from where a normal puts its mass, or not exist: the density of a
hierarchical model is often unbounded. So independent normals at points on the way of L-BFGS, with
the curvature there for precision, are held against each other by their evidence lower bounds
(Zhang et al. 2022, "Pathfinder: Parallel quasi-Newton variational inference").
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from probml_tp.guide import Guide
from probml_tp.guides.newton import precision_diagonal
from probml_tp.inference.descent import descent_path, in_double
from probml_tp.streams import seeded

__all__ = ["start_on_path"]

ROUNDS = (5, 5, 10, 30, 50, 100, 300)
"""Iterations of L-BFGS between the points."""

LEAST = 1e-3
DRAWS = 16


def start_on_path(guide: Guide, x: Tensor, y: Tensor) -> None:
    """Move a guide to the normal of the greatest evidence lower bound on the way to a mode.

    Where the net's curvature cannot be had it stays where it is.

    Args:
        guide: at the centre where the way starts.
        x: all inputs.
        y: all targets.
    """
    wide, x64, y64 = in_double(guide.model, x, y)
    start = cast("Tensor", guide.loc)
    state = {name: tensor.clone() for name, tensor in guide.state_dict().items()}
    best, least = None, torch.inf
    try:
        for point, _ in descent_path(wide, start, x64, y64, rounds=ROUNDS, least=LEAST):
            precision = precision_diagonal(wide, point, x64, y64)
            scale = torch.where(precision > 0, precision.abs().rsqrt(), 1.0)
            guide.take_normal(point, scale)
            if (loss := _loss(guide, x, y)) < least:
                best, least = (point, scale), loss
    except (RuntimeError, ValueError):  # a net or likelihood without such a curvature
        best = None
    if best is None:
        guide.load_state_dict(state)
    else:
        guide.take_normal(*best)


def _loss(guide: Guide, x: Tensor, y: Tensor) -> float:
    """The mean loss at the same random numbers each time."""
    with torch.no_grad(), seeded(0, x.device):
        losses = [guide.loss(x, y, size=len(x)) for _ in range(DRAWS)]
    mean = torch.stack(losses).double().mean()
    return float(mean) if bool(mean.isfinite()) else torch.inf
