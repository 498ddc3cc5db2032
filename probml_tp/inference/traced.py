r"""Gradients replayed from a trace: what small problems are to spend their time on.

For small nets most of a gradient's time goes into dispatching its operations. So a function and its
gradient are traced once into a graph of plain tensor operations, random draws among them, which a
C++ interpreter replays without autograd or function transforms. The draws are those of torch's
global generator, one after the other as before: what follows from a seed still does.

A trace is taken where it is the same function, and only there. What cannot be traced (control flow
on values, exotic operations) raises; and a trace is held against autograd at another place, at the
same random numbers, of which it has to use as many.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from operator import is_

import pyro
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.func import functional_call, functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from probml_tp.guide import Guide
from probml_tp.inference.graphs import simplify

__all__ = ["Objective", "Replay", "TracedLoss", "traced", "unchecked"]

Function = Callable[..., tuple[Tensor, ...]]

TRACING_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError)
"""What a net raises that cannot be traced: control flow on values, exotic operations."""

OFF = 0.02
"""How far from where it was made a trace is held against autograd."""

RUNS = 3
"""The interpreter optimises what it has run before."""


def traced(
    function: Function, arguments: Sequence[Tensor], by_autograd: Function
) -> Function | None:
    """Trace a function of tensors that returns tensors.

    Args:
        function: of such tensors alone; it may differentiate.
        arguments: where it is traced.
        by_autograd: the same function otherwise.

    Returns:
        The traced function; nothing if there is none or it is not the same function.

    Example:
        >>> def square(u):
        ...     return (u.square(),)
        >>> traced(square, [torch.ones(2)], square)(torch.full((2,), 3.0))
        (tensor([9., 9.]),)
    """
    places = [argument + OFF for argument in arguments]
    devices = [a.device for a in arguments[:1] if a.device.type == "cuda"]
    with torch.no_grad(), unchecked(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is no longer developed
        with torch.random.fork_rng(devices=devices):
            try:
                replayed = _compiled(function, arguments)
                start = _random_state(devices)
                for _ in range(RUNS):
                    _set_random_state(start, devices)
                    found = replayed(*places)
                reached = _random_state(devices)
                _set_random_state(start, devices)
                expected = by_autograd(*places)
            except TRACING_ERRORS:
                return None
            same_draws = all(map(torch.equal, reached, _random_state(devices)))
    return replayed if same_draws and all(map(_close, found, expected)) else None


def _compiled(function: Function, arguments: Sequence[Tensor]) -> Function:
    """The graph of a function; draws that nothing is made of are drawn all the same.

    What autograd does is traced first, as functions with derivatives of their own allow no
    transform; and the graph is compiled, not traced again, as that takes no lists of booleans.
    """
    graph = make_fx(function)(*arguments)
    (end,) = (node for node in graph.graph.nodes if node.op == "output")
    results = tuple(end.args[0])
    draws = (node for node in graph.graph.nodes if _is_random(node.target))
    end.args = ((*results, *draws),)
    graph.recompile()
    graph = simplify(make_fx(functionalize(graph))(*arguments), *arguments)
    for node in graph.graph.nodes:
        if isinstance(node.target, OpOverload):
            node.target = node.target.overloadpacket  # the compiler chooses for itself
    graph.recompile()
    run: Function = graph.eval()
    with suppress(*TRACING_ERRORS):  # what it has no types for, Python runs
        run = torch.jit.freeze(torch.jit.script(graph))
    return lambda *values: tuple(run(*values)[: len(results)])


def _is_random(operation: object) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(operation, "tags", ())


def _random_state(devices: Sequence[torch.device]) -> list[Tensor]:
    return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]


def _set_random_state(states: Sequence[Tensor], devices: Sequence[torch.device]) -> None:
    torch.set_rng_state(states[0])
    for device, state in zip(devices, states[1:], strict=True):
        torch.cuda.set_rng_state(state, device)


def _close(found: Tensor, expected: Tensor) -> bool:
    if not expected.numel():  # a factor without columns
        return found.shape == expected.shape
    tolerance = 4 * torch.finfo(expected.dtype).eps ** 0.5
    largest = float(expected.nan_to_num(0.0, 0.0, 0.0).abs().max())
    return torch.allclose(
        found, expected, rtol=tolerance, atol=tolerance * (1 + largest), equal_nan=True
    )


def unchecked() -> AbstractContextManager[None]:
    """Distributions without argument checks: values far out are no errors here."""
    context: AbstractContextManager[None] = pyro.settings.context(
        validate_distributions_torch=False, validate_distributions_pyro=False
    )
    return context


class Objective(nn.Module):
    """A guide's loss as a module's output, so that its parameters can be replaced.

    Args:
        guide: the guide.
        x: inputs.
        y: targets.
        size: the number of all points.
    """

    def __init__(self, guide: Guide, x: Tensor, y: Tensor, size: int) -> None:
        super().__init__()
        self.guide, self.x, self.y, self.size = guide, x, y, size

    def forward(self) -> Tensor:
        """The loss."""
        return self.guide.loss(self.x, self.y, size=self.size)


class TracedLoss:
    """A loss of tensors that, when called, is replayed, and leaves their gradients with them.

    Args:
        parameters: the tensors.
        replayed: from their values to gradients and loss.
    """

    def __init__(self, parameters: Iterable[Tensor], replayed: Function) -> None:
        self.parameters, self.replayed = list(parameters), replayed

    def __call__(self) -> Tensor:
        """The loss."""
        with torch.no_grad():
            *gradients, loss = self.replayed(*(p.detach() for p in self.parameters))
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        return loss

    @classmethod
    def of(cls, loss: Callable[..., Tensor], parameters: Iterable[Tensor]) -> TracedLoss | None:
        """Trace a loss.

        Args:
            loss: a function of tensors in the parameters' place.
            parameters: the tensors.

        Returns:
            It, or nothing where it cannot be replayed.

        Example:
            >>> u = torch.ones(2, requires_grad=True)
            >>> loss = TracedLoss.of(lambda v: v.square().sum(), [u])
            >>> loss(), u.grad
            (tensor(2.), tensor([2., 2.]))
        """
        own = list(parameters)

        def by_autograd(*values: Tensor) -> tuple[Tensor, ...]:
            leaves = [value.detach().clone().requires_grad_() for value in values]
            with torch.enable_grad():
                value = loss(*leaves)
                return *torch.autograd.grad(value, leaves), value.detach()

        replayed = traced(by_autograd, [p.detach() for p in own], by_autograd)
        return None if replayed is None else cls(own, replayed)

    @classmethod
    def of_guide(cls, guide: Guide, x: Tensor, y: Tensor) -> TracedLoss | None:
        """Trace the loss of a guide on all the data.

        Args:
            guide: the guide.
            x: checked inputs.
            y: checked targets.

        Returns:
            It, or nothing where it cannot be replayed.
        """
        objective = Objective(guide, x, y, len(x))
        named = {f"guide.{n}": p for n, p in guide.named_parameters() if p.requires_grad}

        def loss(*values: Tensor) -> Tensor:
            own = dict(zip(named, values, strict=True))
            found: Tensor = functional_call(objective, own, ())
            return found

        before = GuideState(guide)
        made = cls.of(loss, named.values())
        return made if before.is_kept() else None


class GuideState:
    """What a guide's loss may depend on besides its parameters, as it is now.

    Args:
        guide: the guide.
    """

    def __init__(self, guide: Guide) -> None:
        self.guide = guide
        self.attributes, self.versions = self._now()

    def _now(self) -> tuple[list[object], list[int]]:
        attributes: list[object] = []
        for module in self.guide.modules():
            attributes += [*vars(module).values(), *module._buffers.values()]
        return attributes, [b._version for b in self.guide.buffers()]

    def is_kept(self) -> bool:
        """Whether no attribute has been set since, and no buffer written to."""
        attributes, versions = self._now()
        return (
            len(attributes) == len(self.attributes)
            and all(map(is_, attributes, self.attributes))
            and versions == self.versions
        )


class Replay:
    """The loss of a guide on all the data from a trace, once it has been trained for a while.

    The trace takes as long as about a hundred steps that it saves. From which epoch on steps are
    replayed does not depend on how many are to follow, so that a fit that is resumed and one that
    was never interrupted are the same.

    Args:
        guide: the guide.
        x: checked inputs.
        y: checked targets.
        first: the first epoch whose steps are replayed; ``None``: none are.
    """

    def __init__(self, guide: Guide, x: Tensor, y: Tensor, *, first: int | None) -> None:
        self.guide, self.x, self.y, self.first = guide, x, y, first
        self._state = GuideState(guide)
        self._loss: TracedLoss | None = None

    def loss(self, epoch: int) -> TracedLoss | None:
        """The loss in an epoch, counted from 0; nothing where it is not replayed."""
        if self.first is not None and epoch >= self.first:
            self.first, self._state = None, GuideState(self.guide)
            self._loss = TracedLoss.of_guide(self.guide, self.x, self.y)
        elif self._loss is not None and not self._state.is_kept():
            self._loss = None
        return self._loss
