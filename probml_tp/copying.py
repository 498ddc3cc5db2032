"""Copies of modules, of those too that keep results of a computation as attributes."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TypeVar

from torch import Tensor, nn

__all__ = ["copy_module"]

Module = TypeVar("Module", bound=nn.Module)


def copy_module(module: Module, *, shared: Iterable[Tensor] = ()) -> Module:
    """A deep copy; what ``copy.deepcopy`` refuses, a tensor computed from others, is copied too.

    The weight that ``torch.nn.utils.weight_norm`` leaves in a layer is one.

    Args:
        module: the module.
        shared: tensors that the copy shares with it.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> layer.twice = 2 * layer.weight
        >>> copy_module(layer).twice.requires_grad
        False
    """
    attributes = [value for part in module.modules() for value in vars(part).values()]
    memo = {
        id(value): value.detach().clone()
        for value in attributes
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(module, memo | {id(tensor): tensor for tensor in shared})
