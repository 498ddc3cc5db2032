"""Run a net with other parameters than its own.

``torch.func.functional_call`` sets a layer that a net holds under two names twice, and then puts
back what it had set first: the net keeps the values that it was called with. Here each place is
set once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["call_net", "multiply_adds"]

_aliases: WeakKeyDictionary[nn.Module, dict[str, list[str]]] = WeakKeyDictionary()


def call_net(net: nn.Module, params: Mapping[str, Tensor], *inputs: Tensor) -> Any:
    """What a net returns at the parameters given; it is left as it was.

    Args:
        net: the net; which of its tensors are shared must not change later.
        params: values by the first name of each parameter or buffer; the others keep their own.
        inputs: what its ``forward`` takes.

    Example:
        >>> import torch
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> twice = nn.Sequential(layer, layer)
        >>> call_net(twice, {"0.weight": torch.tensor([[3.0]])}, torch.ones(1, 1)).item()
        9.0
        >>> twice[0].weight is layer.weight and layer.weight.is_leaf
        True
    """
    others = _aliases.get(net)
    if others is None:
        others = _aliases[net] = _shared(net)
    values = dict(params)
    for first, names in others.items():
        if first in params:
            values |= dict.fromkeys(names, params[first])
    return functional_call(net, values, inputs, tie_weights=False)


def multiply_adds(net: nn.Module, params: Mapping[str, Tensor], x: Tensor) -> int:
    """Multiplications and additions of one row's pass through matrix products and convolutions.

    Args:
        net: the net.
        params: its parameters by name.
        x: some rows, ``(n, ...)``.

    Returns:
        Their number; 0 where they cannot be counted.

    Example:
        >>> import torch
        >>> net = nn.Linear(3, 2)
        >>> multiply_adds(net, dict(net.named_parameters()), torch.ones(4, 3))
        6
    """
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            call_net(net, params, x)
    except Exception:  # whatever a net does that the counter does not take
        return 0
    return int(counter.get_total_flops()) // (2 * len(x))


def _shared(net: nn.Module) -> dict[str, list[str]]:
    """First name of a tensor that several modules hold to its names in the others."""
    names: dict[int, list[str]] = {}
    for prefix, module in net.named_modules():  # each module once, whatever its names
        for own, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                names.setdefault(id(tensor), []).append(f"{prefix}.{own}" if prefix else own)
    return {first: rest for first, *rest in names.values() if rest}
