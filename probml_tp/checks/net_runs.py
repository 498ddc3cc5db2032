"""Running a net that is not known yet, and comparing what it returns up to rounding."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probml_tp.net_call import call_net

__all__ = ["blame_for", "close", "first_line", "run_net", "same", "widened"]


def run_net(net: nn.Module, params: Mapping[str, Tensor], rows: Tensor, *, seed: int = 0) -> Any:
    """What the net returns under random numbers that follow from ``seed``; restored after it.

    Args:
        net: the net.
        params: its parameters.
        rows: its inputs.
        seed: of torch's, NumPy's and Python's numbers.
    """
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[rows.device] if rows.is_cuda else []):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            return call_net(net, params, rows)
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def blame_for(net: nn.Module, x: Tensor) -> Iterator[None]:
    """Say what a net that fails on ``x`` was given, and whether ``x`` or the net is to change.

    Raises:
        ValueError: whatever the net raises within the block.
    """
    try:
        yield
    except Exception as error:
        name, reason = type(net).__name__, first_line(error)
        if isinstance(error, RuntimeError) and "requires grad" in reason:
            rule = f"a net's output must have gradients with respect to its parameters; this {name}"
            remedy = "Leave torch.no_grad(), detach(), .data and NumPy out of forward()"
        elif isinstance(error, TypeError) and "argument" in reason:
            rule = f"the net is called as net(x), with x alone; this {name} fails"
            remedy = "Wrap it in a module whose forward(self, x) passes what else it needs"
        elif isinstance(error, RuntimeError | IndexError | TypeError | ValueError) and not (
            isinstance(error, NotImplementedError | RecursionError)
        ):
            rule = "x must have a shape and type that the net takes"
            remedy = "Reshape x, or change the net's first layer"
        else:
            rule = f"the net must run on x; the forward() of this {name} fails"
            reason = f"{type(error).__name__}: {reason}"
            remedy = "Mend its forward(self, x)"
        raise ValueError(
            f"{rule}; got {tuple(x.shape)} ({x.dtype}): {reason}. {remedy}."
        ) from error


def _tolerance(like: Tensor) -> float:
    """What rounding may do to outputs, relative to the largest: half of the digits."""
    coarse = like.is_cuda and like.dtype == torch.float32  # convolutions in TensorFloat32
    return max(math.sqrt(torch.finfo(like.dtype).eps), 1e-2 * coarse)


def close(a: Tensor, b: Tensor, *, times: float = 1.0) -> bool:
    """Whether outputs are the same up to rounding.

    Args:
        a: outputs.
        b: others.
        times: how many times what rounding may do to a first run.
    """
    if a.shape != b.shape:
        return False
    known = b[b.isfinite()]
    size = float(known.detach().abs().max()) if known.numel() else 0.0
    tolerance = min(0.1, times * _tolerance(b)) * size
    return bool(torch.allclose(a.detach(), b.detach(), rtol=0, atol=tolerance, equal_nan=True))


def widened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with floating types widened."""
    return {n: t.double() if t.is_floating_point() else t for n, t in tensors.items()}


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers, NaN at the same places included."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def first_line(error: Exception) -> str:
    """What an error says, or its type where it says nothing."""
    return (str(error) or type(error).__name__).splitlines()[0]
