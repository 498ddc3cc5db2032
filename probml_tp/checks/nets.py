r"""Whether a net is what a model needs: a function of its parameters and of one row of ``x``.

What a net prints does not tell: functional dropout, a mean over the batch, a counter, a cache. So
it is probed when it first sees inputs of a shape and type: the same rows under other random
numbers, in another order, alone. Probes run at fixed generic parameters, since at zero weights all
of it is hidden, and leave torch's, NumPy's and Python's random state as they were.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probml_tp.net_call import call_net, multiply_adds

__all__ = [
    "NetProbe",
    "blame_for",
    "check_logits",
    "check_net",
    "check_output",
    "freeze",
    "generic_values",
    "plain_net",
    "spread",
    "widened",
]

GOLDEN = (5**0.5 - 1) / 2
ROWS = 4
"""Rows of ``x`` that a net is probed on."""

PERIOD = 4093
"""Generic values repeat after so many: a prime, so that the rows of a weight differ."""

DRIFT = 30
"""What a later run may differ by, in units of what rounding may do to a first one."""

STATISTICS = nn.modules.batchnorm._NormBase
PER_EXAMPLE = nn.modules.instancenorm._InstanceNorm


# ------------------------------------------------------------------------------- before any data


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


# -------------------------------------------------------------------------------- generic values


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


# -------------------------------------------------------------------------- once there are inputs


@dataclasses.dataclass
class NetProbe:
    """What a net returned when it was probed: what it has to return ever after.

    Args:
        rows: the rows that it was probed on, ``(n, ...)``.
        outputs: what it returned, ``(n, k)``.
        generic: whether that was at generic parameters, not at its own.
        multiply_adds: of one row.
    """

    rows: Tensor
    outputs: Tensor
    generic: bool
    multiply_adds: int

    @classmethod
    @torch.inference_mode(False)
    def of(
        cls, net: nn.Module, params: Mapping[str, Tensor], x: Tensor, *, generic: bool = True
    ) -> NetProbe:
        """Probe a net on a few rows of ``x``, at parameters in their supports.

        Raises:
            ValueError: the net cannot take them, returns no tensor with a row for each point, or
                is not a function of its parameters and one row.
        """
        some = torch.linspace(0, len(x) - 1, min(ROWS, len(x))).long().to(x.device)
        rows = x[some].clone()
        before = {name: buffer.clone() for name, buffer in net.named_buffers()}
        free = {name: value.clone().requires_grad_() for name, value in params.items()}
        given = rows.clone()
        with torch.enable_grad(), blame_for(net, x):
            outputs = _run(net, free, given)
        _check_form(net, x, len(rows), outputs)
        _check_pure(net, given, rows, before, outputs)
        with torch.no_grad():
            _check_rows(net, params, rows, outputs.detach())
        _check_gradients(net, free, rows, outputs)
        return cls(rows, outputs.detach(), generic, multiply_adds(net, params, rows))

    @torch.no_grad()
    def check_again(self, net: nn.Module, params: Mapping[str, Tensor], x: Tensor) -> None:
        """Run a row of the probe again, with one of ``x`` beside it.

        Raises:
            ValueError: the net cannot take that of ``x``, or returns something else than it did.
        """
        with blame_for(net, x):
            outputs = call_net(net, params, torch.cat([self.rows[-1:], x[:1]]))
        if not _close(outputs[:1], self.outputs[-1:], times=DRIFT):
            raise ValueError(
                f"a net must stay the function that it was when its model first ran it; this "
                f"{type(net).__name__} now returns something else at the same parameters and "
                f"inputs, as when an attribute or a frozen value is changed. Leave model.net as it "
                f"is, and make a BayesianModel of each net."
            )


def _run(net: nn.Module, params: Mapping[str, Tensor], rows: Tensor, *, seed: int = 0) -> Any:
    """What the net returns under random numbers that follow from ``seed``; restored after it."""
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
        name, reason = type(net).__name__, _reason(error)
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


def _close(a: Tensor, b: Tensor, *, times: float = 1.0) -> bool:
    if a.shape != b.shape:
        return False
    known = b[b.isfinite()]
    size = float(known.detach().abs().max()) if known.numel() else 0.0
    tolerance = min(0.1, times * _tolerance(b)) * size
    return bool(torch.allclose(a.detach(), b.detach(), rtol=0, atol=tolerance, equal_nan=True))


def _check_form(net: nn.Module, x: Tensor, count: int, outputs: Any) -> None:
    """A tensor of real numbers with a row for each point."""
    check_output(net, outputs)
    if outputs.shape[:1] != (count,):
        raise ValueError(
            f"the net must return one row per data point; for x of shape {tuple(x.shape)}, of "
            f"which it was given {count} points, it returned shape {tuple(outputs.shape)}. Give x "
            f"the batch as its first dimension, and keep it in the net."
        )


def check_output(net: nn.Module, outputs: Any) -> None:
    """Check that a net returned one tensor of real numbers.

    Raises:
        ValueError: it is a tuple, a mapping, an object with logits, or of another type.
    """
    if isinstance(outputs, Tensor):
        if outputs.is_floating_point():
            return
        raise ValueError(
            f"the net must return real numbers, such as logits; this {type(net).__name__} returns "
            f"{outputs.dtype}. Return what comes before argmax, rounding or comparison."
        )
    kind, access = type(outputs).__name__, None
    if getattr(outputs, "logits", None) is not None:
        access = ".logits"
    elif isinstance(outputs, Mapping) and outputs:
        access = f"[{'logits' if 'logits' in outputs else next(iter(outputs))!r}]"
    elif isinstance(outputs, tuple) and hasattr(outputs, "_fields"):
        access = f".{outputs._fields[0]}"
    elif isinstance(outputs, tuple | list) and outputs:
        kind, access = f"{kind} of length {len(outputs)}", "[0]"
    elif dataclasses.is_dataclass(outputs):
        access = f".{dataclasses.fields(outputs)[0].name}"
    remedy = (
        f"Wrap it in a module whose forward(self, x) is: return self.net(x){access}"
        if access
        else "Return the outputs from forward(self, x)"
    )
    raise ValueError(
        f"the net must return one tensor (batch, k); this {type(net).__name__} returns "
        f"{'None' if outputs is None else f'a value of type {kind}'}. {remedy}."
    )


def _check_pure(
    net: nn.Module,
    given: Tensor,
    rows: Tensor,
    before: Mapping[str, Tensor],
    outputs: Tensor,
) -> None:
    """It writes neither to its inputs nor to its buffers."""
    name = type(net).__name__
    if not _same(given, rows):
        raise ValueError(
            f"a net must not write to its inputs; this {name} changes x in place. Write "
            f"x = 2 * x in place of x *= 2, and leave inplace=True out of what takes x."
        )
    now = dict(net.named_buffers())
    for own, value in before.items():
        if own not in now or not _same(now[own], value):
            raise ValueError(
                f"a net must be a function of its parameters and one row of x; this {name} writes "
                f"to its buffer {own!r} whenever it runs. Update it elsewhere, or only where "
                f"self.training is true."
            )


def _check_gradients(
    net: nn.Module, params: Mapping[str, Tensor], rows: Tensor, outputs: Tensor
) -> None:
    """Where the output moves with a parameter, so does it by its gradient."""
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
            f"fail: {_reason(error)} Leave torch.utils.checkpoint, in-place writes and custom "
            f"gradients out of forward()."
        ) from error
    for (own, value), gradient in zip(params.items(), found, strict=True):
        if gradient is not None and bool((gradient != 0).any()):
            continue
        with torch.no_grad():
            moved = _run(net, {**params, own: value + 1e-2 * value}, rows)
        if bool(outputs.isfinite().all()) and not _close(moved, outputs):
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
        outputs: Tensor = _run(net, {**wide, **values}, rows)
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


def check_logits(net: nn.Module, outputs: Sequence[Tensor]) -> None:
    """Check that a classifier's net returns logits.

    Args:
        net: the net.
        outputs: what it returns at several parameters, of either sign, each ``(n, k)``.

    Raises:
        ValueError: wherever it was tried, it returns probabilities.
    """
    every = torch.cat([part.detach().double() for part in outputs])
    if not len(every) or not bool(((every >= 0) & (every <= 1)).all()):
        return
    sums_to_one = bool((every.sum(-1) - 1).abs().max() < 1e-3)  # half precision too
    single = every.shape[-1] == 1 and bool((every > 0).all())
    if single or sums_to_one:
        last = "sigmoid" if single else "softmax"
        raise ValueError(
            f"a classifier's net must return logits; this {type(net).__name__} returns "
            f"probabilities, from {float(every.min()):.3g} to {float(every.max()):.3g} wherever it "
            f"was tried. Leave the {last} at its end out: the likelihood has it."
        )


def _check_rows(
    net: nn.Module, params: Mapping[str, Tensor], rows: Tensor, outputs: Tensor
) -> None:
    """Other random numbers and another order change nothing; nor does leaving out all others."""
    name = type(net).__name__
    order = torch.arange(len(rows) - 1, -1, -1, device=rows.device)
    if not _close(_run(net, params, rows[order], seed=1), outputs[order]):
        if not _close(_run(net, params, rows), outputs):
            raise ValueError(
                f"a net must be a function of its parameters and one row of x; this {name} "
                f"returns something else each time, at the same random numbers too: it remembers "
                f"earlier calls, or draws numbers of its own. Leave that out of forward()."
            )
        if not _close(_run(net, params, rows, seed=1), outputs):
            raise ValueError(
                f"a net must be a function of its parameters and one row of x; this {name} draws "
                f"random numbers. Pass training=self.training to functional dropout, or use "
                f"nn.Dropout, which eval() turns off; for dropout as a posterior fit MCDropout."
            )
        if not _agree_in_double(net, params, rows, order):
            _refuse_neighbours(name, "changes when the rows of x are put in another order")
    for k in range(len(rows)) if len(rows) > 1 else ():
        one = torch.tensor([k], device=rows.device)
        alone = _run_alone(net, params, rows[one], outputs)
        if not _close(alone, outputs[one]) and not _agree_in_double(net, params, rows, one):
            _refuse_neighbours(name, "depends on the other rows of its batch")


def _run_alone(
    net: nn.Module, params: Mapping[str, Tensor], row: Tensor, outputs: Tensor
) -> Tensor:
    """The net's output at one row, of the same form as in a batch."""
    try:
        alone = _run(net, params, row)
    except Exception as error:
        raise ValueError(
            f"a net must take a batch of one row; this {type(net).__name__} takes {len(outputs)} "
            f"rows but fails on one: {_reason(error)}. Leave squeeze() without a dimension, and "
            f"statistics of the batch, out of forward()."
        ) from error
    check_output(net, alone)
    if alone.shape != (1, *outputs.shape[1:]):
        raise ValueError(
            f"a net must return rows of one shape for any batch; this {type(net).__name__} returns "
            f"shape {tuple(outputs.shape)} for {len(outputs)} rows and {tuple(alone.shape)} for "
            f"one. Leave squeeze() without a dimension out of forward()."
        )
    found: Tensor = alone
    return found


def _agree_in_double(
    net: nn.Module, params: Mapping[str, Tensor], rows: Tensor, index: Tensor
) -> bool:
    """Whether a difference was one of rounding: in double precision it is gone."""
    wide = widened({**dict(net.named_buffers()), **params})
    (rows,) = widened({"x": rows}).values()
    try:
        whole, part = _run(net, wide, rows), _run(net, wide, rows[index])
    except Exception:  # whatever it is that such a net does not take
        return False
    return whole.dtype == torch.float64 and _close(part, whole[index])


def widened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with floating types widened."""
    return {n: t.double() if t.is_floating_point() else t for n, t in tensors.items()}


def _refuse_neighbours(name: str, how: str) -> None:
    raise ValueError(
        f"a net must be a function of its parameters and one row of x; what this {name} returns "
        f"for a row {how}. Scale x beforehand by the training data's statistics; reduce along "
        f"dim=-1, not along the batch; use LayerNorm or GroupNorm; give recurrent and attention "
        f"layers batch_first=True."
    )


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
