"""Hashes of tensors: whether two models, fits or data sets are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["digest"]


def digest(tensors: Iterable[Tensor]) -> str:
    """Hash the shapes, types and bytes of tensors, in order.

    Args:
        tensors: on any device.

    Returns:
        16 hexadecimal digits.

    Example:
        >>> digest([torch.zeros(2)]) == digest([torch.zeros(3)])
        False
    """
    state = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        state.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
        plain = tensor.detach().cpu().flatten().clone(memory_format=torch.contiguous_format)
        state.update(plain.view(torch.uint8).numpy().data)
    return state.hexdigest()
