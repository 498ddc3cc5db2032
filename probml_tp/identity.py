r"""Whether two models are the same: what they consist of, and what their nets do.

What a net prints does not identify it (``act=torch.tanh`` against ``act=torch.relu``). So the spec
of a model that has seen data holds what its net and likelihood return at fixed places within the
range of those data, and another model is compared by being run at the same places. Numbers are
compared up to rounding, so that a posterior loads on another machine.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from probml_tp.checks.generic_values import generic_values, spread
from probml_tp.checks.net_runs import widened
from probml_tp.net_call import call_net

if TYPE_CHECKING:
    from probml_tp.model import BayesianModel

__all__ = ["Domain", "behaves_alike", "behaviour", "named_functions"]

ROWS = 4
MAX_COLUMNS = 64
"""Rows of more elements than this have one range for all of them."""

MAX_VALUES = 64
"""At most so many numbers are kept of what a net returns."""


@dataclass(frozen=True)
class Domain:
    """Where inputs or targets lie: enough to make others like them, none of the data themselves.

    Args:
        shape: of one row.
        whole: whether all are whole numbers.
        floating: whether they are of a floating type.
        low: the least value of each element, or of all if they are many.
        high: the greatest, likewise.
        count: how many rows it was found from.
    """

    shape: list[int]
    whole: bool
    floating: bool
    low: list[float]
    high: list[float]
    count: int

    @classmethod
    def of(cls, values: Tensor) -> Domain:
        """The domain of rows ``(N, ...)``, of which 1,000 at most are looked at.

        Example:
            >>> Domain.of(torch.tensor([[0, 5], [1, 3]])).high
            [1.0, 5.0]
        """
        some = values.detach()[:: -(-len(values) // 1000)]
        some = some.reshape(len(some), -1)
        some = some if 0 < some.shape[1] <= MAX_COLUMNS else some.reshape(-1, 1)
        wide = some.double()
        return cls(
            shape=list(values.shape[1:]),
            whole=bool((wide == wide.round()).all()),
            floating=values.is_floating_point(),
            low=wide.amin(0).tolist(),
            high=wide.amax(0).tolist(),
            count=min(len(values), ROWS),
        )

    def rows(self) -> Tensor:
        """Fixed rows in it, ``(4, ...)``, the last two near zero if it reaches there."""
        size = max(1, torch.Size(self.shape).numel())
        low, high = torch.tensor([self.low, self.high], dtype=torch.float64).unbind()
        u = spread(ROWS * size).reshape(ROWS, size)
        values = low + (u + 1) / 2 * (high - low + self.whole)
        values[2:] = torch.where(torch.tensor(self.whole), values[2:], u[2:])
        values = values.floor() if self.whole else values
        values = values.clamp(low, high).reshape(ROWS, *self.shape)
        return values if self.floating else values.long()


def named_functions(net: nn.Module) -> dict[str, str]:
    """The functions that the modules of a net hold as attributes, by name.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> net.act = torch.tanh
        >>> named_functions(net)
        {'act': 'tanh'}
    """
    return {
        f"{prefix}.{key}" if prefix else key: str(value.__name__)
        for prefix, module in net.named_modules()
        for key, value in vars(module).items()
        if not key.startswith("_") and callable(value) and hasattr(value, "__name__")
    }


def behaviour(model: BayesianModel, x: Domain, y: Domain | None) -> dict[str, Any]:
    """What a model returns at fixed places, in plain JSON types.

    Args:
        model: the model.
        x: the domain of its inputs.
        y: that of its targets, if any have been seen.

    Returns:
        The domains, the outputs and the log likelihoods; those that fail there are left out.
    """
    found: dict[str, Any] = {"x": asdict(x), "y": y and asdict(y)}
    for dtype in (torch.float64, model.dtype):  # own: some nets hold on to theirs
        try:
            outputs, params = _outputs(model, x, dtype)
        except Exception:
            continue
        found |= {"dtype": str(dtype).removeprefix("torch."), "outputs": _numbers(outputs)}
        if y is not None:
            try:
                likelihood = copy.deepcopy(model.likelihood).to(dtype=dtype)
                targets = y.rows().to(outputs.device)
                targets = targets.to(dtype) if y.floating else targets
                found["log_likelihood"] = _numbers(likelihood.log_prob(outputs, targets, params))
            except Exception:
                pass
        break
    return found


@torch.no_grad()
def _outputs(
    model: BayesianModel, x: Domain, dtype: torch.dtype
) -> tuple[Tensor, dict[str, Tensor]]:
    values = generic_values(model.layout.shapes, dtype=dtype, device=model.device)
    params = model.constrain(values)
    own = {name: params[name] for name, _ in model.net.named_parameters()}
    buffers = dict(model.net.named_buffers())
    rows = x.rows().to(model.device)
    tensors = {**(widened(buffers) if dtype == torch.float64 else buffers), **own}
    outputs = call_net(model.net, tensors, rows.to(dtype) if x.floating else rows)
    return outputs.to(dtype), params


def behaves_alike(model: BayesianModel, other: Mapping[str, Any]) -> tuple[str, str] | None:
    """Compare a model's behaviour with that of another, run at the same places.

    Args:
        model: the model.
        other: what :func:`behaviour` found of the other.

    Returns:
        ``None`` if they agree, else what the other returns and what this one does.
    """
    try:
        y = other["y"]
        here = behaviour(model, Domain(**other["x"]), None if y is None else Domain(**y))
        for key in ("outputs", "log_likelihood"):
            if not _alike(other.get(key), here.get(key), other.get("dtype"), here.get("dtype")):
                return f"{key} {other.get(key)}", f"{key} {here.get(key)}"
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return f"a record that cannot be read ({error})", "another"
    return None


def _alike(a: list[Any] | None, b: list[Any] | None, *dtypes: str | None) -> bool:
    if a is None or b is None:
        return a is b
    if len(a) != len(b) or any((p is None) != (q is None) for p, q in zip(a, b, strict=True)):
        return False
    eps = max(torch.finfo(getattr(torch, str(name))).eps for name in dtypes)
    size = max([abs(p) for p in a if p is not None], default=0.0)
    tolerance = min(0.1, 30 * eps**0.5) * size
    return all(abs(p - q) <= tolerance for p, q in zip(a, b, strict=True) if p is not None)


def _numbers(values: Tensor) -> list[float | None]:
    """Some of the values, evenly spaced, with 9 digits; None where one is not finite."""
    flat = values.detach().double().flatten().cpu()
    if len(flat) > MAX_VALUES:
        flat = flat[torch.linspace(0, len(flat) - 1, MAX_VALUES).long()]
    return [float(f"{v:.9g}") if abs(v) < torch.inf else None for v in flat.tolist()]
