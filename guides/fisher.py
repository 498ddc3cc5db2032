r"""Curvature of the log likelihood at a point: the Fisher information and its approximations.

.. math:: H = \sum_{n=1}^N \sum_j g_{nj} g_{nj}^\top

for gradients :math:`g_{nj}` that depend on the kind of curvature (Martens 2020; Kunstner, Balles &
Hennig 2019):

- ``"ggn"``: :math:`\sum_j g_{nj} g_{nj}^\top = J_n^\top F_n J_n` with the Fisher information
  :math:`F` of the likelihood in its natural inputs (the outputs, and the noise scale if it is a
  site): the exact Fisher information, and the generalised Gauss-Newton matrix wherever the
  likelihood is an exponential family in its natural parameter (Gaussian mean, logits).
- ``"mc-fisher"``: one gradient a point, of the log likelihood of a label drawn from the model: an
  unbiased estimate of the Fisher information, at a cost that does not grow with the outputs.
- ``"empirical-fisher"``: one gradient a point, of the log likelihood of the label observed. Neither
  the Fisher information nor an estimate of it: it vanishes where the data are fitted perfectly.
- ``"hessian"``: the exact second derivatives, which need not be positive semi-definite.

Sums run over points, they are never means.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, combinations_with_replacement
from typing import Literal, cast

import torch
from torch import Tensor
from torch.func import grad, jacrev

from probml_tp.guides.curvature import Curvature, DenseCurvature, DiagonalCurvature
from probml_tp.guides.factors import DenseFactor, DiagonalFactor, Factor, KroneckerFactor
from probml_tp.guides.in_double import in_double
from probml_tp.guides.jacobians import (
    Params,
    Rows,
    Scalars,
    gradient_rows,
    sum_of_products,
)
from probml_tp.guides.kfac import kronecker_curvature
from probml_tp.likelihoods import Categorical
from probml_tp.likelihoods.base import Likelihood, is_exactly
from probml_tp.model import BayesianModel

__all__ = [
    "CurvatureKind",
    "generalised_gauss_newton",
    "likelihood_curvature",
    "prior_hessian",
    "prior_precision",
]

CurvatureKind = Literal["ggn", "mc-fisher", "empirical-fisher", "hessian"]

BATCH = 1000


def likelihood_curvature(
    model: BayesianModel,
    flat: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    factors: Sequence[Factor],
    kind: CurvatureKind = "ggn",
) -> list[Curvature]:
    """The curvature of the negative log likelihood with respect to each factor's sites.

    Args:
        model: the model.
        flat: unconstrained parameters ``(P,)``.
        x: all inputs ``(N, ...)``.
        y: all targets in canonical shape.
        factors: what structure is wanted for which sites.
        kind: see the module.

    Returns:
        One curvature a factor, computed in float64; memory is flat in ``N``.

    Raises:
        ValueError: Kronecker factors do not exist for this net.
    """
    model = in_double(model, x)
    flat = flat.detach().to(model.dtype)
    if kind == "hessian":
        return [DenseCurvature(_hessian(model, flat, x, y, factor.index)) for factor in factors]
    by_layer = [f for f in factors if isinstance(f, KroneckerFactor) or f.layer is not None]
    others = [f for f in factors if f not in by_layer]
    data, scalars = _scalars(model, flat, x, y, kind)
    found: dict[Factor, Curvature] = kronecker_curvature(model, flat, x, data, scalars, by_layer)
    if others:
        found |= _accumulate(model, flat, x, data, scalars, others)
    return [found[factor] for factor in factors]


def _accumulate(
    model: BayesianModel,
    flat: Tensor,
    x: Tensor,
    data: Tensor,
    scalars: Scalars,
    factors: Sequence[Factor],
) -> dict[Factor, Curvature]:
    """Sums of outer products, or their diagonals, over all points."""
    totals = {
        factor: flat.new_zeros(
            (factor.size,) * (2 if isinstance(factor, DenseFactor) else 1), dtype=torch.float64
        )
        for factor in factors
    }
    sites = [name for factor in factors for name in factor.sites]
    dense = any(isinstance(factor, DenseFactor) for factor in factors)
    for _, _, rows in gradient_rows(model, flat, x, data, scalars, sites=sites, dense=dense):
        for factor, total in totals.items():
            _add(factor, total, rows)
    return {
        factor: DenseCurvature(total) if total.ndim == 2 else DiagonalCurvature(total)
        for factor, total in totals.items()
    }


@torch.no_grad()
def _add(factor: Factor, total: Tensor, rows: Rows) -> None:
    if isinstance(factor, DiagonalFactor):
        total += torch.cat([rows[name].squares() for name in factor.sites])
        return
    parts = [rows[name] for name in factor.sites]
    if all(part.num_scalars == 1 for part in parts):
        whole = torch.cat([part.dense() for part in parts], -1).flatten(0, 1).double()
        total.addmm_(whole.mT, whole)
        return
    ends = list(accumulate(factor.sizes))
    places = [slice(end - size, end) for end, size in zip(ends, factor.sizes, strict=True)]
    for i, j in combinations_with_replacement(range(len(places)), 2):
        block = sum_of_products(parts[i], parts[j])
        total[places[i], places[j]] += block
        if i != j:
            total[places[j], places[i]] += block.mT


def _scalars(
    model: BayesianModel, flat: Tensor, x: Tensor, y: Tensor, kind: CurvatureKind
) -> tuple[Tensor, Scalars]:
    """What to differentiate, and the data of each point that it depends on."""
    likelihood = model.likelihood

    def natural(outputs: Tensor, params: Params, _: Tensor) -> Tensor:
        fixed = {name: value.detach().double() for name, value in params.items()}
        root = fisher_root(likelihood, outputs.detach().double(), fixed)
        inputs = likelihood.natural_inputs(outputs, params).unsqueeze(-2)
        projected: Tensor = (inputs @ root.to(inputs)).squeeze(-2)
        return projected

    def score(outputs: Tensor, params: Params, data: Tensor) -> Tensor:
        return likelihood.log_prob(outputs, data, params).unsqueeze(-1)

    if kind == "ggn":
        return y, natural
    if kind == "empirical-fisher":
        return y, score
    return drawn_targets(model, flat, x, like=y), score


def fisher_root(likelihood: Likelihood, outputs: Tensor, params: Params) -> Tensor:
    r""":math:`R` with :math:`RR^\top = F`, the Fisher information in the natural inputs.

    Of ``C`` classes the root has ``C - 1`` columns, in closed form: with :math:`s = \sqrt p`,
    :math:`F = \mathrm{diag}(s)(I - ss^\top)\mathrm{diag}(s)`, and the Householder reflection that
    takes :math:`s` to the first axis gives a basis of what is orthogonal to it.

    Args:
        likelihood: the likelihood.
        outputs: the net's, ``(n, k)``, in float64: what rounding makes of an eigenvalue of 0 is
            curvature that is not there.
        params: of the likelihood, likewise.

    Returns:
        ``R``, ``(n, m, q)``.
    """
    if is_exactly(likelihood, Categorical):
        s = torch.softmax(outputs, -1).sqrt()
        first, rest = s[:, :1], s[:, 1:]
        below = torch.diag_embed(rest) - rest.square().unsqueeze(-1) * (
            rest / (1 + first)
        ).unsqueeze(-2)
        return torch.cat([-(first * rest).unsqueeze(-2), below], -2)
    fisher = likelihood.fisher(outputs, params)
    diagonal = fisher.diagonal(dim1=-2, dim2=-1)
    if not bool((fisher - torch.diag_embed(diagonal)).any()):
        return torch.diag_embed(diagonal.clamp_min(0).sqrt())
    values, vectors = torch.linalg.eigh(fisher)
    root: Tensor = vectors * values.clamp_min(0).sqrt().unsqueeze(-2)
    return root


@torch.no_grad()
def drawn_targets(model: BayesianModel, flat: Tensor, x: Tensor, *, like: Tensor) -> Tensor:
    """Targets drawn from the likelihood at a point, of the type of ``like``."""
    params = model.constrain(model.layout.unravel(flat))
    parts = [
        model.likelihood.distribution(model.outputs(params, batch), params).sample()
        for batch in x.split(BATCH)
    ]
    return torch.cat(parts).to(like.dtype)


def _hessian(model: BayesianModel, flat: Tensor, x: Tensor, y: Tensor, index: Tensor) -> Tensor:
    """Exact second derivatives of the negative log likelihood, batch by batch."""

    def negative_log_likelihood(own: Tensor, x: Tensor, y: Tensor) -> Tensor:
        params = model.constrain(model.layout.unravel(flat.index_copy(0, index, own)))
        return -model.log_likelihood(params, x, y).sum()

    second = jacrev(grad(negative_log_likelihood))
    total = flat.new_zeros(len(index), len(index), dtype=torch.float64)
    for batch in zip(x.split(BATCH), y.split(BATCH), strict=True):
        total += second(flat[index], *batch).double()
    return total


def generalised_gauss_newton(model: BayesianModel, flat: Tensor, x: Tensor) -> Tensor:
    r"""The generalised Gauss-Newton matrix of the negative log likelihood (Martens 2020, eq. 6).

    .. math:: G = \sum_{n=1}^N J_n^\top F_n J_n

    with :math:`F` the Fisher information of the likelihood in its natural inputs. It is positive
    semi-definite, and equal to the Hessian where the net is linear and the likelihood an
    exponential family in its natural parameter.

    Args:
        model: the model.
        flat: unconstrained parameters ``(P,)``.
        x: all inputs ``(N, ...)``.

    Returns:
        ``G``, shape ``(P, P)``, float64, in nats.
    """
    model = in_double(model, x)
    flat = flat.detach().to(model.dtype)
    everything = DenseFactor(model, list(model.sites))
    data, scalars = _scalars(model, flat, x, x, "ggn")
    found = _accumulate(model, flat, x, data, scalars, [everything])[everything]
    return cast("DenseCurvature", found).matrix


def prior_precision(model: BayesianModel, flat: Tensor) -> Tensor:
    r"""The diagonal of :math:`-\nabla_u^2 \log p(u)`; off-diagonal terms are zero, sites being
    element-wise and independent, so that one Hessian-vector product with ones gives it.

    Returns:
        A tensor ``(P,)``, float64; negative where a heavy-tailed prior is not log-concave.
    """
    model = in_double(model)

    def summed_gradient(u: Tensor) -> Tensor:
        gradient: Tensor = grad(model.log_prior_flat)(u)
        return gradient.sum()

    diagonal: Tensor = grad(summed_gradient)(flat.detach().to(model.dtype))
    return -diagonal.double()


def prior_hessian(model: BayesianModel, flat: Tensor) -> Tensor:
    r""":math:`-\nabla_u^2 \log p(u)` as a matrix, for sites whose priors depend on each other.

    Returns:
        A tensor ``(P, P)``, float64; it need not be positive definite.
    """
    model = in_double(model)
    second: Tensor = jacrev(grad(model.log_prior_flat))(flat.detach().to(model.dtype))
    return -second.double()
