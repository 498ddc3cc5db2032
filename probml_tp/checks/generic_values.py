"""Fixed numbers of no particular place, at which functions are run and compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

__all__ = ["generic_values", "spread"]

GOLDEN = (5**0.5 - 1) / 2

PERIOD = 4093
"""Generic values repeat after so many: a prime, so that the rows of a weight differ."""


def spread(size: int) -> Tensor:
    r"""Fixed numbers spread over (-1, 1), :math:`2 \{i^2\varphi\} - 1`, ``(size,)``.

    The phase is quadratic in ``i``, so that a matrix filled with them has full rank, and the
    arithmetic simple, so that all machines agree.

    Example:
        >>> bool(spread(1000).abs().max() < 1)
        True
    """
    i = torch.arange(1, min(size, PERIOD) + 1, dtype=torch.float64)
    block = 2 * (i * i * GOLDEN).frac() - 1
    return block.repeat(-(-size // PERIOD))[:size]


@cache
def _block(dtype: torch.dtype, device: torch.device) -> Tensor:
    return spread(2 * PERIOD).to(dtype=dtype, device=device)


def generic_values(
    shapes: Mapping[str, torch.Size], *, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """Values of no particular place for each site, that keep signals of order one in most nets.

    Args:
        shapes: of the sites.
        dtype: of the values.
        device: where they are put.

    Returns:
        Values on the real line; those of matrices have variance one over the fan-in.
    """
    block = _block(dtype, device)
    values, start = {}, 0
    for name, shape in shapes.items():
        size = math.prod(shape)
        scale = (3 * shape[0] / max(1, size)) ** 0.5 if len(shape) > 1 else 0.5
        first = block[start : start + PERIOD]
        tiled = first.repeat(-(-size // PERIOD))[:size]
        values[name] = tiled.reshape(shape) * scale
        start = (start + size) % PERIOD
    return values
