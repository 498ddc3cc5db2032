r"""Cholesky factors of precisions, with a clear answer where there is none."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["NotDefiniteError", "not_definite", "scale_tril_of_precision", "stable_cholesky"]


class NotDefiniteError(ValueError):
    """A posterior precision is not positive definite."""


def not_definite(name: str, smallest: float) -> str:
    """What to say of a posterior precision that is not positive definite."""
    return (
        f"the {name} guide needs a positive definite posterior precision; its smallest eigenvalue "
        f"is {smallest:.3g}. The data leave a direction undetermined, or the point is not a mode: "
        f"use a proper or log-concave prior, train longer, or take curvature='ggn'."
    )


def stable_cholesky(matrix: Tensor) -> Tensor | None:
    r"""The lower Cholesky factor of a symmetric matrix, or ``None`` if it is not safely definite.

    The matrix is first scaled to a unit diagonal; a pivot at rounding level,
    :math:`l_{ii}^2 < P\epsilon`, then marks it as singular whatever the parameters' units.
    """
    diagonal = matrix.diagonal()
    if not bool((diagonal > 0).all()):
        return None
    scale = diagonal.sqrt()
    factor, info = torch.linalg.cholesky_ex(matrix / (scale.unsqueeze(-1) * scale))
    pivots = factor.diagonal().square()
    if int(info) or bool((pivots < len(matrix) * torch.finfo(matrix.dtype).eps).any()):
        return None
    unscaled: Tensor = scale.unsqueeze(-1) * factor
    return unscaled


def scale_tril_of_precision(precision: Tensor, name: str) -> Tensor:
    r"""The lower triangular ``C`` with :math:`CC^\top = A^{-1}`, for a precision ``A``.

    With ``J`` the exchange matrix and :math:`JAJ = LL^\top`, :math:`C = (JLJ)^{-\top}`: the
    inverse itself is never formed.

    Raises:
        NotDefiniteError: ``A`` is not positive definite.
    """
    factor = stable_cholesky(precision.flip(-2, -1))
    if factor is None:
        raise NotDefiniteError(not_definite(name, float(torch.linalg.eigvalsh(precision)[0])))
    upper = factor.flip(-2, -1)
    identity = torch.eye(len(precision), dtype=precision.dtype, device=precision.device)
    inverse: Tensor = torch.linalg.solve_triangular(upper, identity, upper=True)
    return inverse.mT
