r"""The curvature ``H`` of a log likelihood with respect to a group of sites, by its structure.

What a Laplace posterior and its evidence need of it: with the precision :math:`\delta` of the
prior, the log determinant of :math:`H + \mathrm{diag}(\delta)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from probml_tp.guides.cholesky import NotDefiniteError, not_definite

__all__ = [
    "Curvature",
    "DenseCurvature",
    "DiagonalCurvature",
    "KroneckerCurvature",
    "one_precision",
    "positive_precision",
]


class Curvature(ABC):
    """A symmetric matrix ``H``, ``(p, p)``, in float64."""

    @abstractmethod
    def log_det(self, prior: Tensor) -> Tensor:
        r""":math:`\log|H + \mathrm{diag}(\delta)|`, differentiable in ``prior``, ``(p,)``."""

    @abstractmethod
    def times(self, factor: Tensor) -> Curvature:
        """The curvature multiplied by a positive number."""


@dataclass(frozen=True)
class DenseCurvature(Curvature):
    """The whole matrix."""

    matrix: Tensor

    def log_det(self, prior: Tensor) -> Tensor:
        """See :meth:`Curvature.log_det`."""
        factor: Tensor = torch.linalg.cholesky_ex(self.matrix + torch.diag(prior))[0]
        return 2 * factor.diagonal().log().sum()

    def times(self, factor: Tensor) -> DenseCurvature:
        """See :meth:`Curvature.times`."""
        return DenseCurvature(self.matrix * factor)


@dataclass(frozen=True)
class DiagonalCurvature(Curvature):
    """Its diagonal, ``(p,)``."""

    diagonal: Tensor

    def log_det(self, prior: Tensor) -> Tensor:
        """See :meth:`Curvature.log_det`."""
        return (self.diagonal + prior).log().sum()

    def times(self, factor: Tensor) -> DiagonalCurvature:
        """See :meth:`Curvature.times`."""
        return DiagonalCurvature(self.diagonal * factor)


@dataclass(frozen=True)
class KroneckerCurvature(Curvature):
    r""":math:`H = B \otimes A` for the weights ``(M, K)`` of a layer, by eigendecompositions.

    Args:
        site: the weights' site.
        b: eigenvalues of ``B``, ``(M,)``.
        left: its eigenvectors, ``(M, M)``.
        a: eigenvalues of ``A``, ``(K,)``.
        right: its eigenvectors, ``(K, K)``.
    """

    site: str
    b: Tensor
    left: Tensor
    a: Tensor
    right: Tensor

    @property
    def eigenvalues(self) -> Tensor:
        """The eigenvalues of ``H``, ``(M, K)``."""
        return self.b.unsqueeze(-1) * self.a

    def log_det(self, prior: Tensor) -> Tensor:
        """See :meth:`Curvature.log_det`; the prior precision has to be the same for all weights."""
        return (self.eigenvalues + one_precision(prior, self.site)).log().sum()

    def times(self, factor: Tensor) -> KroneckerCurvature:
        """See :meth:`Curvature.times`."""
        return KroneckerCurvature(self.site, self.b * factor, self.left, self.a, self.right)


def one_precision(prior: Tensor, site: str) -> Tensor:
    """The one prior precision that all elements of a site have.

    Raises:
        ValueError: they have several.
    """
    if not torch.allclose(prior, prior[0], rtol=1e-6, atol=0.0):
        raise ValueError(
            f"a Kronecker factor needs the same prior precision for all weights of a layer; those "
            f"of {site!r} run from {prior.min().item():.3g} to {prior.max().item():.3g}. Use a "
            f"normal prior with one scale a layer, or structure='diagonal'."
        )
    return prior.mean()


def positive_precision(precision: Tensor, name: str) -> Tensor:
    """Return the eigenvalues of a posterior precision if they are positive.

    Raises:
        NotDefiniteError: one is not.
    """
    if not bool((precision > 0).all()):
        raise NotDefiniteError(not_definite(name, float(precision.min())))
    return precision
