"""Whether a net's gradients are those of what it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from probml_tp.checks.generic_values import generic_values, spread
from probml_tp.checks.net_runs import close, first_line, run_net, widened

__all__ = ["check_gradients"]


def check_gradients(
    net: nn.Module, params: Mapping[str, Tensor], rows: Tensor, outputs: Tensor
) -> None:
    """Check that where the output moves with a parameter, its gradient says so.

    Args:
        net: the net.
        params: its parameters, which require gradients.
        rows: inputs.
        outputs: what it returned for them.

    Raises:
        ValueError: there are no gradients, they fail, or they are not those of the output.
    """
    name = type(net).__name__
    found: Sequence[Tensor | None] = [None] * len(params)
    try:
        if outputs.requires_grad:
            found = torch.autograd.grad(
                outputs.square().sum() + outputs.sum(), list(params.values()), allow_unused=True
            )
    except RuntimeError as error:
        raise ValueError(
            f"a net must have gradients with respect to its parameters; those of this {name} "
            f"fail: {first_line(error)} Leave torch.utils.checkpoint, in-place writes and custom "
            f"gradients out of forward()."
        ) from error
    for (own, value), gradient in zip(params.items(), found, strict=True):
        if gradient is not None and bool((gradient != 0).any()):
            continue
        with torch.no_grad():
            moved = run_net(net, {**params, own: value + 1e-2 * value}, rows)
        if bool(outputs.isfinite().all()) and not close(moved, outputs):
            raise ValueError(
                f"a net must have gradients with respect to its parameters; this {name} changes "
                f"with {own!r}, whose gradient is 0: a fit would not see it. Leave "
                f"torch.no_grad(), detach(), .data, rounding and NumPy out of forward(), or freeze "
                f"it by requires_grad_(False)."
            )
    if not _gradients_agree(net, params, rows):
        raise ValueError(
            f"a net's gradients must be those of its output; those of this {name} differ from its "
            f"differences. Leave torch.utils.checkpoint, detach() and gradients of your own, such "
            f"as straight-through rounding, out of forward()."
        )


def _gradients_agree(net: nn.Module, params: Mapping[str, Tensor], rows: Tensor) -> bool:
    """In one direction, in double precision; ``True`` where the net does not take that."""
    with torch.no_grad():
        wide = widened({**dict(net.named_buffers()), **params})
        (rows,) = widened({"x": rows}).values()
        sizes = {name: torch.Size((2 * wide[name].numel(),)) for name in params}
        spreads = generic_values(sizes, dtype=torch.float64, device=rows.device)
        steps = {n: s[::2].reshape(wide[n].shape) * wide[n].abs() for n, s in spreads.items()}
    free = {name: wide[name].detach().clone().requires_grad_() for name in params}

    def f(values: Mapping[str, Tensor]) -> Tensor:
        outputs: Tensor = run_net(net, {**wide, **values}, rows)
        return outputs

    try:
        outputs = f(free)
    except Exception:  # whatever it is that such a net does not take
        return True
    if outputs.dtype != torch.float64 or not bool(outputs.isfinite().all()):
        return True
    if not outputs.requires_grad:  # of no parameter, as was seen before
        return True
    weights = spread(outputs.numel()).reshape(outputs.shape).to(outputs)
    total = (weights * outputs).sum()
    try:
        found = torch.autograd.grad(total, list(free.values()), allow_unused=True)
    except RuntimeError:  # the way back runs other layers than the way there
        return False
    pairs = zip(free, found, strict=True)
    slope = sum(float((g * steps[name]).sum()) for name, g in pairs if g is not None)
    with torch.no_grad():
        for h in (1e-5, 1e-7):  # a kink lies between the points of one of them at most
            up, down = (f({n: v + s * steps[n] for n, v in free.items()}) for s in (h, -h))
            difference = float((weights * (up - down)).sum()) / (2 * h)
            size = abs(slope) + abs(difference) + float(outputs.abs().max())
            if not abs(slope - difference) > 1e-3 * size:
                return True
    return False
