r"""Kronecker-factored curvature of linear layers and convolutions.

.. math:: H_{\text{weight}} \approx B \otimes A, \qquad H_{\text{bias}} \approx B, \qquad
          A = \frac1{NT}\sum_{n,t} a_{nt} a_{nt}^\top, \qquad
          B = \sum_{n,t}\sum_j b_{ntj} b_{ntj}^\top

for inputs ``a`` of a layer, gradients ``b`` at its outputs and the ``T`` positions that it is
applied to: KFAC-expand of Eschenhagen et al. 2023, after Martens & Grosse 2015 and Grosse & Martens
2016. Weights and biases are separate blocks. It is exact for one point and one position. Both are
summed and decomposed in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from probml_tp.guides.curvature import Curvature, DenseCurvature, KroneckerCurvature
from probml_tp.guides.factors import Factor, KroneckerFactor
from probml_tp.guides.jacobians import (
    Outer,
    PlainLayer,
    Scalars,
    gradient_rows,
    layers_called_once,
    plain_layers,
)
from probml_tp.model import BayesianModel

__all__ = ["kronecker_curvature"]


def kronecker_curvature(
    model: BayesianModel,
    flat: Tensor,
    x: Tensor,
    data: Tensor,
    scalars: Scalars,
    factors: Sequence[Factor],
) -> dict[Factor, Curvature]:
    """The curvature of weights and biases of layers.

    Args:
        model: the model.
        flat: unconstrained parameters ``(P,)``.
        x: all inputs.
        data: what else belongs to each point.
        scalars: gives the ``q`` scalars of each point whose gradients make up the curvature.
        factors: Kronecker factors of weights, dense ones of biases; each knows its layer.

    Returns:
        The curvature of each factor; eigenvalues below zero, which are rounding, count as zero.

    Raises:
        ValueError: a layer is called several times, or the factors are not finite.
    """
    if not factors:
        return {}
    params = model.constrain(model.layout.unravel(flat))
    names = [factor.layer for factor in factors if factor.layer is not None]
    layers = [plain_layers(model)[name] for name in dict.fromkeys(names)]
    for layer in set(layers) - set(layers_called_once(model, params, x[:1], layers)):
        raise ValueError(
            f"Kronecker factors need layers that are called once in a forward pass, on whole "
            f"examples; {layer.name!r} is not. Use structure='diagonal', or choose other sites."
        )
    inputs, gradients = _covariances(model, flat, x, data, scalars, layers)
    found: dict[Factor, Curvature] = {}
    for factor in factors:
        outer = gradients[str(factor.layer)]
        if isinstance(factor, KroneckerFactor):
            b, left = decomposed(outer, str(factor.layer))
            a, right = decomposed(inputs[str(factor.layer)], str(factor.layer))
            found[factor] = KroneckerCurvature(factor.sites[0], b, left, a, right)
        else:
            found[factor] = DenseCurvature(outer)
    return found


@torch.no_grad()
def _covariances(
    model: BayesianModel,
    flat: Tensor,
    x: Tensor,
    data: Tensor,
    scalars: Scalars,
    layers: Sequence[PlainLayer],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """``A`` and ``B`` of each layer by name."""
    inputs: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}
    sites = [layer.weight for layer in layers]
    for _, _, rows in gradient_rows(model, flat, x, data, scalars, sites=sites):
        for layer in layers:
            outer = cast("Outer", rows[layer.weight])
            positions = len(x) * outer.inputs.shape[-1]
            a, b = summed_outer(outer.inputs), summed_outer(outer.gradients)
            inputs[layer.name] = inputs.get(layer.name, 0) + a / positions
            gradients[layer.name] = gradients.get(layer.name, 0) + b
    return inputs, gradients


def summed_outer(vectors: Tensor) -> Tensor:
    """The sum of the outer products of vectors with themselves.

    Args:
        vectors: ``(..., M, T)``, each a column.

    Returns:
        The sum over all but ``M``, ``(M, M)``, float64: the vectors are cast and laid out for one
        product in a single copy.
    """
    if vectors.mT.is_contiguous():
        rows = vectors.mT.flatten(0, -2).double()
        return rows.mT @ rows
    moved = vectors.movedim(-2, 0)
    columns = torch.empty(moved.shape, dtype=torch.float64, device=moved.device)
    columns = columns.copy_(moved).flatten(1)
    return columns @ columns.mT


def decomposed(matrix: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """Eigenvalues, at least 0, and eigenvectors, in float64.

    Where the iteration does not converge, it does for a matrix with more on its diagonal, which
    has the same eigenvectors.
    """
    matrix = matrix.double()
    if not bool(matrix.isfinite().all()):
        raise ValueError(
            f"Kronecker factors must be finite; those of layer {layer!r} are not. Scale the inputs "
            f"to unit variance, or use structure='diagonal'."
        )
    size = matrix.diagonal().mean()
    for jitter in (0.0, 1e-12, 1e-10, 1e-8):
        shift = jitter * size
        try:
            values, vectors = torch.linalg.eigh(matrix + shift * torch.eye(len(matrix)).to(matrix))
        except RuntimeError:
            continue
        return (values - shift).clamp_min(0), vectors
    raise ValueError(
        f"the eigenvalues of the Kronecker factor of layer {layer!r}, {len(matrix)} on a side, do "
        f"not converge. Use structure='diagonal' for it."
    )
