"""Traced graphs lose operations and keep their values."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from model_cases import CASES, F64
from torch import Tensor
from torch.func import functionalize, grad_and_value, vmap
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from probml_tp.inference.graphs import simplify
from probml_tp.inference.nuts.potential import potential
from probml_tp.inference.traced import unchecked
from probml_tp.models import CLASSICS

U = torch.tensor([0.3, -1.2, 2.0], dtype=F64)


def operations(graph: GraphModule) -> list[object]:
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def simplified(function: Callable[[Tensor], object]) -> GraphModule:
    return simplify(make_fx(function)(U), U)


@pytest.mark.parametrize(
    "function",
    [
        lambda u: u * torch.ones_like(u),
        lambda u: torch.ones_like(u) * u,
        lambda u: u / 1 + u.new_zeros(3),
        lambda u: torch.zeros(3, dtype=F64) + u,
        lambda u: (u - 0.0) ** 1,
        lambda u: u.view(3).expand(3)[:],
        lambda u: torch.cat([u]),
        lambda u: u * torch.exp(torch.zeros(3, dtype=F64)),
    ],
)  # fmt: skip
def test_what_changes_nothing_goes(function: Callable[[Tensor], Tensor]) -> None:
    graph = simplified(function)
    assert operations(graph) == []
    other = U + 0.7
    torch.testing.assert_close(graph(other), function(other), rtol=0, atol=0)


@pytest.mark.parametrize(
    "function",
    [
        lambda u: torch.ones_like(u) - u,
        lambda u: 1 / u,
        lambda u: u * torch.tensor([1.0, 1.0, 2.0], dtype=F64),
        lambda u: torch.ones(2, 3, dtype=F64) * u,  # gives the shape
        lambda u: u[1:] * 1.0,
        lambda u: u.float() * torch.ones(3, dtype=F64),  # gives the type
        lambda u: torch.zeros(3, dtype=F64) * u,  # NaN where u is not finite
        lambda u: torch.rsub(u, 1.0),
        lambda u: torch.add(u, 0.0, alpha=2.0) + torch.add(torch.zeros(3, dtype=F64), u, alpha=2.0),
        lambda u: u.flip(0).view(3),
    ],
)  # fmt: skip
def test_what_changes_something_stays(function: Callable[[Tensor], Tensor]) -> None:
    graph = simplified(function)
    for other in (U + 0.7, U.new_tensor([torch.inf, torch.nan, -0.0])):
        found, expected = graph(other), function(other)
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    assert operations(graph)


def test_random_numbers_are_drawn_anew() -> None:
    graph = simplified(lambda u: u + torch.rand(3, dtype=F64))
    assert not torch.equal(graph(U), graph(U))


def test_what_is_written_into_is_left_alone() -> None:
    def function(u: Tensor) -> Tensor:
        return torch.zeros_like(u).add_(u) * torch.ones_like(u)

    graph = simplified(function)
    for _ in range(2):
        torch.testing.assert_close(graph(U), U)
    assert operations(simplify(make_fx(functionalize(function))(U), U)) == []


@pytest.mark.parametrize("name", [*CASES, "rats", "eight-schools-centered", "dugongs"])
def test_gradients_are_the_same_to_the_last_bit_with_fewer_operations(name: str) -> None:
    if name in CASES:
        case = CASES[name]()
        model, data = case.model, case.model.check_data(case.x, case.y)
    else:
        classic = CLASSICS[name]()
        model, data = classic.model, classic.model.check_data(*classic.data)
    start = model.layout.ravel(model.unconstrain(model.initial_params()))
    u = start + 0.01 * torch.arange(3).to(start).unsqueeze(-1)
    with torch.no_grad(), unchecked():
        graph = make_fx(functionalize(vmap(grad_and_value(partial(potential, model, *data)))))(u)
        before, other = operations(graph), u + 0.05
        expected = graph(other)
        found = simplify(graph, u)(other)
    assert all(map(torch.equal, found, expected))
    if name != "batch-norm":  # its operation may write into the statistics
        assert len(operations(graph)) < 0.75 * len(before)
