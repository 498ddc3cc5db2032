"""What can be seen of a net before it has run, and what a model makes of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["check_net", "freeze", "plain_net"]

STATISTICS = nn.modules.batchnorm._NormBase
PER_EXAMPLE = nn.modules.instancenorm._InstanceNorm


def plain_net(net: nn.Module) -> nn.Module:
    """The net itself, of one that is compiled or spread over devices.

    Raises:
        ValueError: it is scripted, so that its parameters cannot be exchanged.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> plain_net(nn.DataParallel(net)) is net
        True
    """
    while isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
        net = net.module
    if isinstance(net, torch.jit.ScriptModule):
        raise ValueError(
            f"a net must run with other parameters than its own; this {type(net).__name__} is "
            f"scripted. Pass the module that it was made from."
        )
    original = getattr(net, "_orig_mod", net)  # of torch.compile
    return original if isinstance(original, nn.Module) else net


def freeze(net: nn.Module) -> dict[str, Tensor]:
    """Make buffers of the parameters that do not require gradients: they are constants.

    Args:
        net: the net, changed in place; a parameter shared by layers stays shared.

    Returns:
        The constants by name.
    """
    shared: dict[int, Tensor] = {}
    frozen = {n: p.detach() for n, p in net.named_parameters() if not p.requires_grad}
    for name, parameter in list(net.named_parameters(remove_duplicate=False)):
        if parameter.requires_grad:
            continue
        owner, _, own = name.rpartition(".")
        module = net.get_submodule(owner)
        constant = shared.setdefault(id(parameter), frozen.get(name, parameter))
        del module._parameters[own]
        module.register_buffer(own, constant)
    return frozen


def check_net(net: nn.Module, parameters: Mapping[str, Tensor]) -> None:
    """Check what can be seen of a net before it has run.

    Args:
        net: the net.
        parameters: those that require gradients, by name.

    Raises:
        ValueError: the net has none, they are of several types, or a layer normalises by the batch.
    """
    if not parameters:
        frozen = sum(1 for _ in net.parameters())
        raise ValueError(
            f"a Bayesian model needs a net with at least one parameter; {type(net).__name__} has "
            + (
                f"none that requires gradients: frozen ones ({frozen} here) are constants. Call "
                f"requires_grad_(True) on the layers that are to be random."
                if frozen
                else "none."
            )
        )
    for name, parameter in parameters.items():
        if nn.parameter.is_lazy(parameter):
            raise ValueError(
                f"a net's parameters must have their shapes; {name!r} of this "
                f"{type(net).__name__} waits for a first input. Run net(x) once beforehand."
            )
    dtypes = {p.dtype for p in parameters.values()}
    if len(dtypes) > 1 or not next(iter(dtypes)).is_floating_point:
        raise ValueError(
            f"a net's parameters must share one floating type; got {sorted(map(str, dtypes))}. "
            f"Call net.float() or net.double()."
        )
    for name, module in net.named_modules():
        if getattr(module, "max_norm", None) is not None:
            raise ValueError(
                f"a net must not write to its parameters; layer {name!r} "
                f"({type(module).__name__}) shortens its rows to max_norm as it runs. Leave "
                f"max_norm out: the prior keeps weights small."
            )
        if (
            isinstance(module, STATISTICS)
            and not isinstance(module, PER_EXAMPLE)
            and (module.training or module.running_mean is None)
        ):
            raise ValueError(
                f"a net's output must not depend on the rest of the batch; layer {name!r} "
                f"({type(module).__name__}) is in training mode or keeps no running statistics. "
                f"Call net.eval() once its statistics are fitted, or use GroupNorm or LayerNorm "
                f"instead."
            )
