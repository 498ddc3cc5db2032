"""The last layer of a net: the one that it calls last, whatever the order of definition."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from probml_tp.model import BayesianModel

__all__ = ["last_called", "last_defined"]


def last_defined(net: nn.Module) -> str | None:
    """The name of the last module with parameters of its own, in the order of definition."""
    names = list(_with_parameters(net))
    return names[-1] if names else None


@torch.no_grad()
def last_called(model: BayesianModel, x: Tensor, *, frozen: bool = False) -> str | None:
    """The name of the last module with parameters of its own that the net calls.

    Args:
        model: the model.
        x: one input or more.
        frozen: whether a layer counts all of whose parameters are frozen.

    Returns:
        The name; ``None`` if no such module is called.

    Example:
        >>> from probml_tp import Gaussian, NormalPrior
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> last_called(BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.1)), torch.ones(1, 2))
        '2'
    """
    called: list[str] = []

    def record(name: str) -> None:
        called.append(name)

    layers = _with_parameters(model.net)
    if frozen:
        owners = {name.rpartition(".")[0] for name in model.constants}
        layers |= {name: model.net.get_submodule(name) for name in owners}
    hooks = [
        module.register_forward_hook(lambda *_, name=name: record(name))
        for name, module in layers.items()
    ]
    try:
        model.outputs(model.initial_params(), x)
    finally:
        for hook in hooks:
            hook.remove()
    return called[-1] if called else None


def _with_parameters(net: nn.Module) -> dict[str, nn.Module]:
    """Modules with parameters of their own, or with weights that are made of some."""
    return {
        name: module
        for name, module in net.named_modules()
        if "parametrizations" not in name.split(".")
        and (is_parametrized(module) or any(True for _ in module.parameters(recurse=False)))
    }
