"""The layers of a net as guides see them: who owns which weights, and who is called on what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from probml_tp.copying import copy_module
from probml_tp.model import BayesianModel
from probml_tp.net_call import call_net

__all__ = [
    "LINEAR_LAYERS",
    "calls_of",
    "copy_sharing_tensors",
    "is_on_whole_examples",
    "is_read_elsewhere",
    "is_shared",
    "own_sites",
    "unit_dim",
]

LINEAR_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose output is linear in input and weight, with input units along one dimension."""

Calls = Mapping[str, list[tuple[Tensor, Tensor]]]
"""For each layer its calls in a forward pass: input and output."""


def unit_dim(layer: nn.Module) -> int:
    """The dimension of a layer's input and output along which its units lie."""
    return -1 if isinstance(layer, nn.Linear) else 1


def copy_sharing_tensors(net: nn.Module) -> nn.Module:
    """A copy of a net, to put hooks on, that shares its parameters and buffers.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> copy_sharing_tensors(net).weight is net.weight
        True
    """
    return copy_module(net, shared=[*net.parameters(), *net.buffers()])


def is_shared(net: nn.Module, parameter: Tensor) -> bool:
    """Whether more than one layer has the parameter."""
    owners = [p is parameter for module in net.modules() for p in module._parameters.values()]
    return sum(owners) > 1


def calls_of(
    net: nn.Module,
    layers: Iterable[str],
    run: Callable[[], object],
    *,
    differentiable: bool = False,
) -> Calls:
    """What each layer is called on while the net runs, and what it returns.

    Args:
        net: the net.
        layers: names of its layers; they take one tensor.
        run: runs the net.
        differentiable: make the layers' outputs part of the graph, so that gradients with respect
            to them exist; default: run without gradients.

    Returns:
        For each layer the pairs of input and output, in the order of the calls.
    """
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in layers}

    def record(layer: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
            if differentiable and not out.requires_grad:
                out.requires_grad_()
            calls[layer].append(((*args, *kwargs.values())[0], out))

        return hook

    hooks = [
        net.get_submodule(layer).register_forward_hook(record(layer), with_kwargs=True)
        for layer in calls
    ]
    try:
        with torch.set_grad_enabled(differentiable):
            run()
    finally:
        for handle in hooks:
            handle.remove()
    return calls


def is_on_whole_examples(calls: list[tuple[Tensor, Tensor]], num_examples: int) -> bool:
    """Whether a layer's calls are one, on one row for each example."""
    return [len(x) for x, _ in calls] == [num_examples]


def own_sites(net: nn.Module, layer: str) -> list[str]:
    """The sites that are a layer's own parameters, those among them that its weight is made of."""
    module = net.get_submodule(layer)
    own = [name for name, _ in module.named_parameters(recurse=False)]
    made_of = [
        name for name, _ in module.named_parameters() if name.startswith("parametrizations.")
    ]
    return [f"{layer}.{name}" if layer else name for name in (*own, *made_of)]


@torch.no_grad()
def is_read_elsewhere(
    model: BayesianModel, layer: str, params: Mapping[str, Tensor], x: Tensor, outputs: Tensor
) -> bool:
    """Whether a layer's weights matter to the net beyond what the layer returns.

    The layer is made to return what it does, its weights are NaN: is the net's output?
    """
    net = copy_sharing_tensors(model.net)
    net.get_submodule(layer).register_forward_hook(lambda *_: outputs)
    values = {name: params[name] for name, _ in net.named_parameters()}
    values |= {site: torch.full_like(values[site], torch.nan) for site in own_sites(net, layer)}
    return bool(call_net(net, values, x).isnan().any())
