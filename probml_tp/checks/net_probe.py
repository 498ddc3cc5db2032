r"""Whether a net is what a model needs: a function of its parameters and of one row of ``x``.

What a net prints does not tell: functional dropout, a mean over the batch, a counter, a cache. So
it is probed when it first sees inputs of a shape and type: the same rows under other random
numbers, in another order, alone. Probes run at fixed generic parameters, since at zero weights all
of it is hidden, and leave torch's, NumPy's and Python's random state as they were.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from probml_tp.checks.net_gradients import check_gradients
from probml_tp.checks.net_runs import blame_for, close, first_line, run_net, same, widened
from probml_tp.net_call import call_net, multiply_adds

__all__ = ["NetProbe", "check_logits"]

ROWS = 4
"""Rows of ``x`` that a net is probed on."""

DRIFT = 30
"""What a later run may differ by, in units of what rounding may do to a first one."""


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
            outputs = run_net(net, free, given)
        _check_form(net, x, len(rows), outputs)
        _check_pure(net, given, rows, before, outputs)
        with torch.no_grad():
            _check_rows(net, params, rows, outputs.detach())
        check_gradients(net, free, rows, outputs)
        return cls(rows, outputs.detach(), generic, multiply_adds(net, params, rows))

    @torch.no_grad()
    def check_again(self, net: nn.Module, params: Mapping[str, Tensor], x: Tensor) -> None:
        """Run a row of the probe again, with one of ``x`` beside it.

        Raises:
            ValueError: the net cannot take that of ``x``, or returns something else than it did.
        """
        with blame_for(net, x):
            outputs = call_net(net, params, torch.cat([self.rows[-1:], x[:1]]))
        if not close(outputs[:1], self.outputs[-1:], times=DRIFT):
            raise ValueError(
                f"a net must stay the function that it was when its model first ran it; this "
                f"{type(net).__name__} now returns something else at the same parameters and "
                f"inputs, as when an attribute or a frozen value is changed. Leave model.net as it "
                f"is, and make a BayesianModel of each net."
            )


def _check_form(net: nn.Module, x: Tensor, count: int, outputs: Any) -> None:
    """A tensor of real numbers with a row for each point."""
    _check_output(net, outputs)
    if outputs.shape[:1] != (count,):
        raise ValueError(
            f"the net must return one row per data point; for x of shape {tuple(x.shape)}, of "
            f"which it was given {count} points, it returned shape {tuple(outputs.shape)}. Give x "
            f"the batch as its first dimension, and keep it in the net."
        )


def _check_output(net: nn.Module, outputs: Any) -> None:
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
    if not same(given, rows):
        raise ValueError(
            f"a net must not write to its inputs; this {name} changes x in place. Write "
            f"x = 2 * x in place of x *= 2, and leave inplace=True out of what takes x."
        )
    now = dict(net.named_buffers())
    for own, value in before.items():
        if own not in now or not same(now[own], value):
            raise ValueError(
                f"a net must be a function of its parameters and one row of x; this {name} writes "
                f"to its buffer {own!r} whenever it runs. Update it elsewhere, or only where "
                f"self.training is true."
            )


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
    if not close(run_net(net, params, rows[order], seed=1), outputs[order]):
        if not close(run_net(net, params, rows), outputs):
            raise ValueError(
                f"a net must be a function of its parameters and one row of x; this {name} "
                f"returns something else each time, at the same random numbers too: it remembers "
                f"earlier calls, or draws numbers of its own. Leave that out of forward()."
            )
        if not close(run_net(net, params, rows, seed=1), outputs):
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
        if not close(alone, outputs[one]) and not _agree_in_double(net, params, rows, one):
            _refuse_neighbours(name, "depends on the other rows of its batch")


def _run_alone(
    net: nn.Module, params: Mapping[str, Tensor], row: Tensor, outputs: Tensor
) -> Tensor:
    """The net's output at one row, of the same form as in a batch."""
    try:
        alone = run_net(net, params, row)
    except Exception as error:
        raise ValueError(
            f"a net must take a batch of one row; this {type(net).__name__} takes {len(outputs)} "
            f"rows but fails on one: {first_line(error)}. Leave squeeze() without a dimension, and "
            f"statistics of the batch, out of forward()."
        ) from error
    _check_output(net, alone)
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
        whole, part = run_net(net, wide, rows), run_net(net, wide, rows[index])
    except Exception:  # whatever it is that such a net does not take
        return False
    return whole.dtype == torch.float64 and close(part, whole[index])


def _refuse_neighbours(name: str, how: str) -> None:
    raise ValueError(
        f"a net must be a function of its parameters and one row of x; what this {name} returns "
        f"for a row {how}. Scale x beforehand by the training data's statistics; reduce along "
        f"dim=-1, not along the batch; use LayerNorm or GroupNorm; give recurrent and attention "
        f"layers batch_first=True."
    )
