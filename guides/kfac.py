r"""Kronecker-factored curvature of linear layers and convolutions, computed by curvlinops.

.. math:: H_{\text{weight}} \approx B \otimes A, \qquad H_{\text{bias}} \approx B, \qquad
          A = \frac1{NT}\sum_{n,t} a_{nt} a_{nt}^\top, \qquad
          B = \sum_{n,t}\sum_j b_{ntj} b_{ntj}^\top

for inputs ``a`` of a layer, gradients ``b`` at its outputs and the ``T`` positions that it is
applied to: KFAC-expand of Eschenhagen et al. 2023, after Martens & Grosse 2015 and Grosse & Martens
2016. Weights and biases are separate blocks. It is exact for one point and one position.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from probml_tp.guides.curvature import Curvature, DenseCurvature, KroneckerCurvature
from probml_tp.guides.factors import Factor, KroneckerFactor
from probml_tp.guides.jacobians import layers_called_once, plain_layers
from probml_tp.likelihoods import Bernoulli, Categorical, Gaussian, is_exactly
from probml_tp.model import BayesianModel

__all__ = ["kronecker_curvature"]

BATCH = 256


def kronecker_curvature(
    model: BayesianModel,
    flat: Tensor,
    x: Tensor,
    y: Tensor,
    factors: Sequence[Factor],
    kind: str,
) -> dict[Factor, Curvature]:
    """The curvature of weights and biases of layers.

    Args:
        model: the model.
        flat: unconstrained parameters ``(P,)``.
        x: all inputs.
        y: all targets in canonical shape.
        factors: Kronecker factors of weights, dense ones of biases; each knows its layer.
        kind: ``"ggn"``, ``"mc-fisher"`` or ``"empirical-fisher"``.

    Returns:
        The curvature of each factor; eigenvalues below zero, which are rounding, count as zero.

    Raises:
        ValueError: curvlinops does not know the likelihood, or a layer is called several times.
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
    inputs, gradients, scale = _covariances(model, params, x, y, list(dict.fromkeys(names)), kind)
    found: dict[Factor, Curvature] = {}
    for factor in factors:
        outer = scale * gradients[str(factor.layer)]
        if isinstance(factor, KroneckerFactor):
            b, left = _eigh(outer)
            a, right = _eigh(inputs[str(factor.layer)])
            found[factor] = KroneckerCurvature(factor.sites[0], b, left, a, right)
        else:
            found[factor] = DenseCurvature(outer.double())
    return found


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(matrix)
    return values.clamp_min(0).double(), vectors


def _covariances(
    model: BayesianModel,
    params: dict[str, Tensor],
    x: Tensor,
    y: Tensor,
    layers: Sequence[str],
    kind: str,
) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
    """``A`` and ``B`` of each layer by name, and what ``B`` has to be multiplied by."""
    with warnings.catch_warnings():  # of torch's own, from a library that curvlinops imports
        warnings.filterwarnings("ignore", r".*torch\.jit\.script.*", FutureWarning)
        from curvlinops import FisherType, KFACLinearOperator
    loss, targets, scale = _loss(model, params, y, kind)
    net = copy.deepcopy(model.net)
    for name, parameter in net.named_parameters():
        parameter.data = params[name].detach().clone()
    chosen = [p.requires_grad_() for n in layers for p in net.get_submodule(n).parameters()]
    types = {"ggn": FisherType.TYPE2, "mc-fisher": FisherType.MC}
    with torch.enable_grad():
        operator: Any = KFACLinearOperator(
            net,
            loss,
            chosen,
            list(zip(x.split(BATCH), targets.split(BATCH), strict=True)),
            check_deterministic=False,
            seed=int(torch.randint(2**31, ())),
            fisher_type=types.get(kind, FisherType.EMPIRICAL),
            num_per_example_loss_terms=1,
            num_data=len(x),
        )
        operator.compute_kronecker_factors()
    state = operator.state_dict()
    return state["input_covariances"], state["gradient_covariances"], scale


def _loss(
    model: BayesianModel, params: dict[str, Tensor], y: Tensor, kind: str
) -> tuple[nn.Module, Tensor, float]:
    r"""The loss that curvlinops knows, its targets, and the factor from it to our likelihood.

    The squared error without a half is the negative log likelihood times :math:`2\sigma^2`.
    """
    likelihood = model.likelihood
    if is_exactly(likelihood, Categorical):
        return nn.CrossEntropyLoss(reduction="sum"), y, 1.0
    column = y if y.ndim == 2 else y.unsqueeze(-1)
    if is_exactly(likelihood, Bernoulli):
        return nn.BCEWithLogitsLoss(reduction="sum"), column.to(model.dtype), 1.0
    if is_exactly(likelihood, Gaussian):
        halved = 1 / (2 * float(likelihood.noise_scale(column, params)) ** 2)
        return nn.MSELoss(reduction="sum"), column, halved ** (1 + (kind == "empirical-fisher"))
    raise ValueError(
        f"Kronecker factors are known for Gaussian, Bernoulli and Categorical likelihoods; got "
        f"{likelihood.describe()}. Use structure='diagonal' or 'full'."
    )
