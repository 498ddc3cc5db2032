r"""Per-example gradients, kept as the outer products that they are.

The gradient of a scalar with respect to the weights of a layer is a sum over the positions ``t``
that the layer is applied to, :math:`\sum_t b_t a_t^\top`, of its inputs ``a`` and the gradients
``b`` at its outputs. Diagonals, Kronecker factors and function-space covariances need ``a`` and
``b`` only: for linear layers no Jacobian of size batch x outputs x parameters is ever formed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import jacrev

from probml_tp.batching import OverRows
from probml_tp.guides.layers import (
    calls_of,
    is_on_whole_examples,
    is_read_elsewhere,
    is_shared,
)
from probml_tp.model import BayesianModel

__all__ = [
    "Dense",
    "Outer",
    "Params",
    "PlainLayer",
    "Rows",
    "Scalars",
    "gradient_rows",
    "layers_called_once",
    "plain_layers",
    "sum_of_products",
]

MAX_ELEMENTS = 2**24

SMALL = 1000
"""Multiply-adds for which a product of matrices of their own does not pay."""

Params = Mapping[str, Tensor]

Scalars = Callable[[Tensor, Params, Tensor], Tensor]
"""What is differentiated: outputs ``(n, k)``, parameters and per-example data to ``(n, q)``."""


@dataclass(frozen=True)
class Dense:
    """Gradients of ``q`` scalars of each example with respect to one site: ``(n, q, p)``."""

    values: Tensor

    def double(self) -> Dense:
        """The same in float64."""
        return Dense(self.values.double())

    @property
    def num_scalars(self) -> int:
        """``q``."""
        return self.values.shape[1]

    def dense(self) -> Tensor:
        """The gradients, ``(n, q, p)``."""
        return self.values

    @property
    def product(self) -> tuple[Tensor, Tensor]:
        """The gradients as outer products ``b a^T``: here ``a`` is 1."""
        return self.values, self.values.new_ones(len(self.values), 1)

    def squares(self) -> Tensor:
        """The sum of the squared gradients over examples and scalars, ``(p,)``."""
        return self.values.square().sum((0, 1))

    def gram(self, variance: Tensor) -> Tensor:
        r""":math:`G\,\mathrm{diag}(v)\,G^\top` of each example, ``(n, q, q)``."""
        return (self.values * variance.flatten()) @ self.values.mT

    def times(self, matrix: Tensor) -> Tensor:
        """The gradients times a matrix ``(p, r)``: ``(n, q, r)``."""
        return self.values @ matrix


@dataclass(frozen=True)
class Outer:
    r"""Gradients with respect to the weights ``(M, K)`` of a layer: :math:`\sum_t b_t a_t^\top`.

    Args:
        inputs: ``a``, what the layer is applied to, ``(n, K, T)``.
        gradients: ``b``, gradients of ``q`` scalars at its outputs, ``(n, q, M, T)``.
    """

    inputs: Tensor
    gradients: Tensor

    def double(self) -> Outer:
        """The same in float64."""
        return Outer(self.inputs.double(), self.gradients.double())

    @property
    def num_scalars(self) -> int:
        """``q``."""
        return self.gradients.shape[1]

    def dense(self) -> Tensor:
        """The gradients, ``(n, q, M K)``."""
        n, q, m, t = self.gradients.shape
        product = self.gradients.reshape(n, q * m, t) @ self.inputs.mT
        return product.view(n, q, -1)

    @property
    def product(self) -> tuple[Tensor, Tensor] | None:
        """``b``, ``(n, q, M)``, and ``a``, ``(n, K)``, where there is one position only."""
        if self.inputs.shape[-1] > 1:
            return None
        return self.gradients.squeeze(-1), self.inputs.squeeze(-1)

    def squares(self) -> Tensor:
        """The sum of the squared gradients over examples and scalars, ``(M K,)``."""
        if self.product is None:
            return self.dense().square_().sum((0, 1))
        b, a = self.product
        return (b.square().sum(1).mT @ a.square()).flatten()

    def gram(self, variance: Tensor) -> Tensor:
        r""":math:`G\,\mathrm{diag}(v)\,G^\top` of each example; ``v`` is ``(M, K)``."""
        if self.product is None:
            return Dense(self.dense()).gram(variance)
        b, a = self.product
        return (b * (a.square() @ variance.mT).unsqueeze(1)) @ b.mT

    def times(self, matrix: Tensor) -> Tensor:
        """The gradients times a matrix ``(M K, r)``: ``(n, q, r)``."""
        _, q, m, _ = self.gradients.shape
        if m > q or self.product is None:
            return self.dense() @ matrix
        b, a = self.product
        by_input = matrix.view(m, a.shape[1], -1).transpose(0, 1).reshape(a.shape[1], -1)
        return b @ (a @ by_input).view(len(a), m, -1)

    def rotate(self, left: Tensor, right: Tensor) -> Outer:
        r"""The gradients :math:`U^\top G V`, ``U`` being ``(M, M)`` and ``V`` ``(K, K)``."""
        return replace(self, inputs=right.mT @ self.inputs, gradients=left.mT @ self.gradients)


Rows = Mapping[str, Dense | Outer]
"""The gradients of a chunk of examples by site."""


def sum_of_products(first: Dense | Outer, second: Dense | Outer) -> Tensor:
    r"""The sum of outer products :math:`\sum_{n,j} g_{nj} h_{nj}^\top` over examples and scalars.

    For gradients :math:`g = b \otimes a` and :math:`h = d \otimes c` it is
    :math:`\sum_n (\sum_j b_{nj} d_{nj}^\top) \otimes a_n c_n^\top`: the scalars are summed over
    first, and then there is one product of matrices for each pair of outputs. Where that saves
    little, the gradients are made dense, for a single product.

    Args:
        first: gradients with respect to a site of ``p`` elements.
        second: with respect to one of ``r`` elements, for the same examples and scalars.

    Returns:
        The sum, ``(p, r)``, float64.
    """
    left, right = first.product, second.product
    if left is None or right is None or _dense_is_faster(*left, *right):
        g, h = (row.dense().flatten(0, 1).double() for row in (first, second))
        return g.mT @ h
    (b, a), (d, c) = ((one.double() for one in pair) for pair in (left, right))
    m, k, s, l = b.shape[2], a.shape[1], d.shape[2], c.shape[1]  # noqa: E741
    weights = b.mT @ d
    if min(k, l) == 1:
        inputs = (a.unsqueeze(-1) * c.unsqueeze(-2)).flatten(1)
        total = (weights.flatten(1).mT @ inputs).view(m, s, k, l)
    else:
        total = b.new_empty(m, s, k, l)
        for i in range(m):
            for j in range(i if first is second else 0, s):
                torch.mm((a * weights[:, i, j, None]).mT, c, out=total[i, j])
                if first is second:
                    total[j, i] = total[i, j]
    return total.transpose(1, 2).reshape(m * k, s * l)


def _dense_is_faster(b: Tensor, a: Tensor, d: Tensor, c: Tensor) -> bool:
    """Whether a sum of products is found sooner with the gradients made dense."""
    q, inputs = b.shape[1], a.shape[1] * c.shape[1]
    both_dense = inputs == 1
    return q == 1 or both_dense or (min(a.shape[1], c.shape[1]) > 1 and q * inputs < SMALL)


@dataclass(frozen=True)
class PlainLayer:
    """A layer whose parameters are sites of their own, on the real line."""

    name: str
    module: nn.Linear | nn.Conv2d
    weight: str
    bias: str | None

    @property
    def sites(self) -> tuple[str, ...]:
        """The names of its weight and, if it has one, its bias."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def split(self, a: Tensor, b: Tensor, q: int) -> tuple[Tensor, Tensor]:
        """Inputs as ``(n, K, T)`` and gradients at the outputs as ``(n, q, M, T)``."""
        if isinstance(self.module, nn.Conv2d):
            conv = self.module
            patches = F.unfold(
                a, conv.kernel_size, conv.dilation, cast("int", conv.padding), conv.stride
            )
            return patches, b.flatten(3)
        n, size = len(a), b.shape[-1]
        return a.reshape(n, -1, a.shape[-1]).mT, b.reshape(n, q, -1, size).mT


def plain_layers(model: BayesianModel) -> dict[str, PlainLayer]:
    """The layers whose gradients are outer products, by name.

    They are linear layers and ungrouped two-dimensional convolutions with zero padding whose
    weight and bias are sites without a constraint and no other layer's.

    Args:
        model: the model.

    Returns:
        Layer by name.
    """
    names = {id(p): name for name, p in model.net.named_parameters()}
    layers = {}
    for name, module in model.net.named_modules():
        if type(module) is nn.Linear or (type(module) is nn.Conv2d and _unfolds(module)):
            own = dict(module.named_parameters(recurse=False))
            if "weight" not in own:  # it is computed from others, by weight_norm say
                continue
            sites = {key: names[id(p)] for key, p in own.items()}
            alone = not any(is_shared(model.net, p) for p in own.values())
            if "weight" in own and alone and not set(sites.values()) & model.transforms.keys():
                layers[name] = PlainLayer(name, module, sites["weight"], sites.get("bias"))
    return layers


def _unfolds(conv: nn.Conv2d) -> bool:
    return conv.groups == 1 and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def gradient_rows(
    model: BayesianModel,
    flat: Tensor,
    x: Tensor,
    data: Tensor,
    scalars: Scalars,
    *,
    sites: Sequence[str],
    dense: bool = False,
) -> Iterator[tuple[slice, Tensor, Rows]]:
    """Gradients of scalars of each example with respect to sites, in chunks of bounded memory.

    Args:
        model: the model.
        flat: unconstrained parameters ``(P,)``; gradients are with respect to these.
        x: inputs ``(N, ...)``.
        data: what else belongs to each example, ``(N, ...)``.
        scalars: gives the ``q`` scalars of each example.
        sites: the sites to differentiate by.
        dense: whether the caller makes all gradients dense, which limits the chunks.

    Yields:
        The chunk's slice, its scalars ``(n, q)`` and the gradients by site.
    """
    u = model.layout.unravel(flat.detach())
    params = model.constrain(u)
    layers = [one for one in plain_layers(model).values() if set(one.sites) & set(sites)]
    layers = layers_called_once(model, params, x[:1], layers)
    cost, q = _cost(model, params, x[:1], data[:1], scalars, layers)
    covered = {name for layer in layers for name in layer.sites}
    rest = [name for name in sites if name not in covered]
    shapes = model.layout.shapes
    size = sum(shapes[n].numel() for n in (sites if dense else rest)) * q
    chunk = max(1, MAX_ELEMENTS // max(1, cost + size))
    others = _other_rows(model, u, scalars, rest)
    for start in range(0, len(x), chunk):
        part = slice(start, min(start + chunk, len(x)))
        values, found = _layer_rows(model, params, x[part], data[part], scalars, layers, sites)
        if rest:
            found |= others(x[part], data[part])
        yield part, values, {name: found[name] for name in sites}


@torch.no_grad()
def layers_called_once(
    model: BayesianModel, params: Params, x: Tensor, layers: Sequence[PlainLayer]
) -> list[PlainLayer]:
    """Those of the layers that alone read their weights, once in a pass, on whole examples."""
    probe = x[:1]
    calls = calls_of(
        model.net, [layer.name for layer in layers], lambda: model.outputs(params, probe)
    )
    return [
        layer
        for layer in layers
        if is_on_whole_examples(calls[layer.name], 1)
        and not is_read_elsewhere(model, layer.name, params, probe, calls[layer.name][0][1])
    ]


@torch.no_grad()
def _cost(
    model: BayesianModel,
    params: Params,
    x: Tensor,
    data: Tensor,
    scalars: Scalars,
    layers: Sequence[PlainLayer],
) -> tuple[int, int]:
    """How many elements an example needs in the layers, and ``q``."""
    names = [layer.name for layer in layers]
    seen = calls_of(model.net, names, lambda: model.outputs(params, x))
    q = scalars(model.outputs(params, x), params, data).shape[-1]
    cost = 0
    for layer in layers:
        ((a, out),) = seen[layer.name]
        inputs, gradients = layer.split(a, out.unsqueeze(1), 1)
        cost += inputs.numel() + q * gradients.numel()
        if inputs.shape[-1] > 1:
            cost += q * gradients.shape[2] * inputs.shape[1]
    return cost, q


@torch.enable_grad()
def _layer_rows(
    model: BayesianModel,
    params: Params,
    x: Tensor,
    data: Tensor,
    scalars: Scalars,
    layers: Sequence[PlainLayer],
    sites: Sequence[str],
) -> tuple[Tensor, dict[str, Dense | Outer]]:
    """One pass forward, and one backward for each of the ``q`` scalars."""
    values = x.new_zeros(0)

    def run() -> None:
        nonlocal values
        values = scalars(model.outputs(params, x), params, data)

    seen = calls_of(model.net, [layer.name for layer in layers], run, differentiable=True)
    q = values.shape[-1]
    outputs = [seen[layer.name][0][1] for layer in layers]
    gradients = [out.new_empty(len(x), q, *out.shape[1:]) for out in outputs]
    for j in range(q if layers else 0):
        found = torch.autograd.grad(
            values[:, j].sum(), outputs, retain_graph=j < q - 1, materialize_grads=True
        )
        for total, new in zip(gradients, found, strict=True):
            total[:, j] = new
    rows: dict[str, Dense | Outer] = {}
    for layer, b in zip(layers, gradients, strict=True):
        rows[layer.weight] = Outer(*layer.split(seen[layer.name][0][0].detach(), b, q))
        if layer.bias is not None and layer.bias in sites:
            rows[layer.bias] = Dense(cast("Outer", rows[layer.weight]).gradients.sum(-1))
    return values.detach(), rows


def _other_rows(
    model: BayesianModel, u: Mapping[str, Tensor], scalars: Scalars, sites: Sequence[str]
) -> Callable[[Tensor, Tensor], dict[str, Dense | Outer]]:
    """Gradients with respect to any sites, by reverse mode over one example after another."""
    own = {name: u[name] for name in sites}

    def of_one(own: dict[str, Tensor], x_n: Tensor, data_n: Tensor) -> Tensor:
        params = model.constrain({name: own.get(name, value) for name, value in u.items()})
        outputs = model.outputs(params, x_n.unsqueeze(0))
        return scalars(outputs, params, data_n.unsqueeze(0)).squeeze(0)

    rows_of = OverRows(
        partial(jacrev(of_one), own), one_by_one=partial(jacrev(of_one, chunk_size=1), own)
    )

    @torch.enable_grad()
    def rows(x: Tensor, data: Tensor) -> dict[str, Dense | Outer]:
        found = rows_of(x, data)
        return {name: Dense(one.reshape(*one.shape[:2], -1)) for name, one in found.items()}

    return rows
