"""Traced graphs with fewer operations: small nets wait for the dispatch of each, not for sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

__all__ = ["simplify"]

aten = torch.ops.aten

MADE_BY_SHAPE = (
    aten.ones_like.default, aten.zeros_like.default, aten.full_like.default,
    aten.new_ones.default, aten.new_zeros.default, aten.new_full.default,
)  # fmt: skip
"""What depends on the shape of its argument only."""

VIEWS = (
    aten.view.default, aten._unsafe_view.default, aten.expand.default, aten.slice.Tensor,
    aten.alias.default, aten.detach.default, aten.clone.default,
)  # fmt: skip
"""What changes nothing where it keeps shape and strides."""

NEUTRAL: dict[Any, tuple[int, bool]] = {
    aten.mul.Tensor: (1, True),
    aten.div.Tensor: (1, False),
    aten.pow.Tensor_Scalar: (1, False),
    aten.add.Tensor: (0, True),
    aten.sub.Tensor: (0, False),
}
"""The second argument that changes nothing, and whether the first may be it as well."""


def simplify(graph: fx.GraphModule, *inputs: Tensor) -> fx.GraphModule:
    """Take out what is constant or changes nothing: a third to two thirds of a gradient.

    The derivative of a log density starts from a one, and much of what is differentiated is the
    same at every point: tracing keeps it all. Constants are evaluated once here; views that keep
    shape and strides, and products with one or sums with zero, go. Values stay the same to the last
    bit, but for the sign of a zero.

    Args:
        graph: plain tensor operations, as ``make_fx`` traces them; it is changed in place, unless
            an operation writes into its arguments.
        inputs: what it was traced with.

    Returns:
        The graph.

    Example:
        >>> from torch.fx.experimental.proxy_tensor import make_fx
        >>> graph = make_fx(lambda u: torch.zeros_like(u).exp() * u)(torch.ones(3))
        >>> [n.name for n in simplify(graph, torch.ones(3)).graph.nodes if n.op == "call_function"]
        []
    """
    nodes = [node for node in graph.graph.nodes if node.op == "call_function"]
    operations = [operation for node in nodes if (operation := _operation(node))]
    if any(operation._schema.is_mutable for operation in operations):
        return graph
    values = _Recorder(graph).record(*inputs)
    constants = {node: values[node] for node in graph.graph.nodes if node.op == "get_attr"}
    for node in nodes:
        if not isinstance(values[node], Tensor):
            continue
        if _is_constant(node, values[node], constants):
            name = f"constant_{len(constants)}"
            graph.register_buffer(name, values[node].detach())
            with graph.graph.inserting_before(node):
                new = graph.graph.get_attr(name)
            values[new] = constants[new] = values[node]
        elif (same := _same(node, values, constants)) is not None:
            new = same
        else:
            continue
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


class _Recorder(fx.Interpreter):
    """Keeps what each node gives."""

    def record(self, *inputs: Tensor) -> dict[fx.Node, Any]:
        self.values: dict[fx.Node, Any] = {}
        self.run(*inputs)
        return self.values

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = super().run_node(n)
        return self.values[n]


def _operation(node: fx.Node) -> OpOverload | None:
    """What it does to tensors, if anything."""
    return node.target if isinstance(node.target, OpOverload) else None


def _is_constant(node: fx.Node, value: Tensor, constants: Mapping[fx.Node, Tensor]) -> bool:
    operation = _operation(node)
    if operation is None or torch.Tag.nondeterministic_seeded in operation.tags:
        return False
    shape_only = node.target in MADE_BY_SHAPE or value.numel() == 0
    return shape_only or all(given in constants for given in node.all_input_nodes)


def _same(
    node: fx.Node, values: Mapping[fx.Node, Any], constants: Mapping[fx.Node, Tensor]
) -> fx.Node | None:
    """The argument that the node gives back as it is, if there is one."""
    value: Tensor = values[node]
    given: list[Any] = list(node.args)
    if node.target is aten.cat.default and len(given[0]) == 1:
        candidates = [given[0][0]]
    elif node.target in VIEWS:
        candidates = given[:1]
    elif node.target in NEUTRAL and not node.kwargs:
        neutral, either = NEUTRAL[node.target]
        candidates = given[:1] if _is(given[1], neutral, constants) else []
        if either and _is(given[0], neutral, constants):
            candidates.append(given[1])
    else:
        return None
    for candidate in candidates:
        if isinstance(candidate, fx.Node):
            own = values[candidate]
            if (own.shape, own.stride(), own.dtype) == (value.shape, value.stride(), value.dtype):
                return candidate
    return None


def _is(argument: Any, number: int, constants: Mapping[fx.Node, Tensor]) -> bool:
    if isinstance(argument, fx.Node):
        return argument in constants and bool((constants[argument] == number).all())
    return bool(argument == number)
