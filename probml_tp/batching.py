"""A function at many inputs: at once by ``torch.func.vmap``, or one by one where that fails."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["OverRows", "vmap"]

Result = TypeVar("Result")


def vmap(function: Callable[..., Result], **options: Any) -> Callable[..., Result]:
    """``torch.func.vmap`` without its requests to file an issue about operations that are slow.

    Args:
        function: the function of one row.
        options: those of ``torch.func.vmap``.

    Example:
        >>> vmap(torch.dot, in_dims=(0, None))(torch.eye(2), torch.tensor([3.0, 4.0]))
        tensor([3., 4.])
    """
    mapped = torch.func.vmap(function, **options)

    def run(*args: Any) -> Result:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"There is a performance drop because", UserWarning)
            return mapped(*args)

    return run


class OverRows:
    """A function of rows, made one of batches by ``vmap``, or in a loop once that has failed.

    Args:
        function: the function of one row of each argument; what it returns is tensors.
        one_by_one: what the loop calls in its place; default: the same.
        chunk_size: rows that ``vmap`` runs at a time; default: all.

    Example:
        >>> OverRows(lambda a: a * float(a))(torch.tensor([1.0, 2.0]))  # vmap has no float()
        tensor([1., 4.])
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        one_by_one: Callable[..., Any] | None = None,
        chunk_size: int | None = None,
    ) -> None:
        self.batched = vmap(function, chunk_size=chunk_size)
        self.one_by_one = one_by_one or function
        self.takes_vmap = True

    def __call__(self, *args: Any) -> Any:
        """The results of all rows, stacked along the first dimension."""
        if self.takes_vmap:
            try:
                return self.batched(*args)
            except Exception:  # what vmap cannot batch; what is wrong raises again in the loop
                self.takes_vmap = False
        count = len(tree_leaves(args)[0])
        rows = [self.one_by_one(*tree_map(lambda t, n=n: t[n], args)) for n in range(count)]
        return tree_map(lambda *parts: torch.stack(parts), *rows)
