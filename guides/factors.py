r"""Structures of a normal's covariance, each for a group of sites: dense, diagonal, Kronecker.

A factor holds a root ``C`` of a covariance, :math:`\Sigma = CC^\top`, made from the curvature of
the log likelihood (:class:`Curvature`) and the precision of the prior. Everything a posterior needs
follows from ``C``: draws, densities, conditionals of one site given others, and the covariance of
functions that are linear in the parameters. It is kept in float64 whatever the model's type: on
inputs of a thousand the elements of a row of ``JC`` cancel to a thousandth of their size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from math import prod
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from probml_tp.guides.cholesky import scale_tril_of_precision
from probml_tp.guides.curvature import (
    DenseCurvature,
    DiagonalCurvature,
    KroneckerCurvature,
    one_precision,
    positive_precision,
)
from probml_tp.guides.flat_normal import Block, FlatNormal
from probml_tp.guides.jacobians import Outer, Rows
from probml_tp.model import BayesianModel

__all__ = ["Conditionals", "DenseFactor", "DiagonalFactor", "Factor", "KroneckerFactor"]

Conditionals = Generator[TorchDistribution, Tensor, None]
"""Flat distributions of a factor's sites, one by one; what is sent in is the value sampled."""


class Factor(nn.Module, ABC):
    r"""The covariance of a group of sites, independent of all other sites.

    Args:
        model: the model.
        sites: the group, in the model's order.
        layer: the name of the layer whose Kronecker-factored curvature is wanted, if any.
    """

    def __init__(
        self, model: BayesianModel, sites: Sequence[str], *, layer: str | None = None
    ) -> None:
        super().__init__()
        self.sites, self.layer = tuple(sites), layer
        self.sizes = [prod(model.layout.shapes[name]) for name in sites]
        index = model.layout.positions(sites).to(model.device)
        self.register_buffer("index", index, persistent=False)

    index: Tensor

    @property
    def size(self) -> int:
        """``p``, the number of parameters in the group."""
        return sum(self.sizes)

    @property
    @abstractmethod
    def is_fitted(self) -> bool:
        """Whether there is a covariance yet."""

    @abstractmethod
    def fit(self, curvature: Any, prior: Tensor, name: str) -> None:
        r"""Take the covariance :math:`(H + \mathrm{diag}(\delta))^{-1}`.

        Args:
            curvature: ``H``, of the structure's own kind.
            prior: :math:`\delta`, the precision of the prior, ``(p,)``, float64.
            name: the guide's, for error messages.

        Raises:
            ValueError: the sum is not positive definite.
        """

    @abstractmethod
    def spread(self, epsilon: Tensor) -> Tensor:
        r""":math:`C\varepsilon` for standard normal vectors ``(S, p)``."""

    def spread_given_rest(self, sites: Sequence[str], epsilon: Tensor) -> Tensor:
        r"""Deviations of some of its sites given that all others have none.

        Their covariance is the inverse of their block of the precision,
        :math:`\Lambda_{ll} = A^\top A` with ``A`` the columns ``l`` of :math:`C^{-1}`.

        Args:
            sites: which.
            epsilon: standard normal vectors ``(S, p_l)``.

        Returns:
            ``(S, p_l)``.
        """
        if len(sites) == len(self.sites):
            return self.spread(epsilon)
        identity = torch.eye(self.size, dtype=torch.float64, device=epsilon.device)
        white = self.whiten(identity[self._rows(sites)])
        root = scale_tril_of_precision(white @ white.mT, "conditional")
        return epsilon.double() @ root.mT

    def _rows(self, sites: Sequence[str]) -> Tensor:
        """Where the elements of some of its sites stand in the group."""
        places = torch.arange(self.size, device=self.index.device).split(self.sizes)
        return torch.cat([p for n, p in zip(self.sites, places, strict=True) if n in sites])

    @abstractmethod
    def whiten(self, deviation: Tensor) -> Tensor:
        """The inverse of :meth:`spread`."""

    @abstractmethod
    def project(self, gradient: Tensor) -> Tensor:
        r""":math:`C^\top g`, float64: the gradient ``(p,)`` in the coordinates ``epsilon``."""

    @property
    @abstractmethod
    def log_det(self) -> Tensor:
        r""":math:`\log|C|`, half the log determinant of the covariance."""

    @property
    @abstractmethod
    def variance(self) -> Tensor:
        """The marginal variances, ``(p,)``."""

    @abstractmethod
    def function_covariance(self, rows: Rows) -> Tensor:
        r""":math:`J\Sigma J^\top` of each example from the gradients by site: ``(n, k, k)``."""

    @abstractmethod
    def conditionals(self, loc: Tensor) -> Conditionals:
        """Each site given the ones before it in the group, as flat vectors around ``loc``."""


class DenseFactor(Factor):
    """A full covariance, by its lower triangular root."""

    scale_tril: Tensor

    def __init__(
        self, model: BayesianModel, sites: Sequence[str], *, layer: str | None = None
    ) -> None:
        super().__init__(model, sites, layer=layer)
        self.register_buffer("scale_tril", _empty(model, self.size))

    @property
    def is_fitted(self) -> bool:
        """Whether there is a covariance yet."""
        return len(self.scale_tril) > 0

    def fit(self, curvature: DenseCurvature, prior: Tensor, name: str) -> None:
        """See :meth:`Factor.fit`."""
        precision = curvature.matrix + torch.diag(prior)
        self.scale_tril = scale_tril_of_precision(precision, name).to(self.scale_tril).contiguous()

    def spread(self, epsilon: Tensor) -> Tensor:
        """See :meth:`Factor.spread`."""
        return Block(self.scale_tril).spread(epsilon)

    def whiten(self, deviation: Tensor) -> Tensor:
        """See :meth:`Factor.whiten`."""
        return Block(self.scale_tril).whiten(deviation)

    def project(self, gradient: Tensor) -> Tensor:
        """See :meth:`Factor.project`."""
        return self.scale_tril.double().mT @ gradient.double()

    @property
    def log_det(self) -> Tensor:
        """See :attr:`Factor.log_det`."""
        return Block(self.scale_tril).log_det

    @property
    def variance(self) -> Tensor:
        """See :attr:`Factor.variance`."""
        return self.scale_tril.square().sum(-1)

    def function_covariance(self, rows: Rows) -> Tensor:
        """See :meth:`Factor.function_covariance`."""
        blocks = zip(self.sites, self.scale_tril.split(self.sizes), strict=True)
        half = torch.stack([rows[name].double().times(block) for name, block in blocks]).sum(0)
        return half @ half.mT

    def conditionals(self, loc: Tensor) -> Conditionals:
        r""":math:`u_b | u_{<b} \sim N(m_b + C_{b,<b}\varepsilon_{<b}, C_{bb}C_{bb}^\top)`."""
        epsilon, start = self.scale_tril.new_zeros(0), 0
        for size in self.sizes:
            rows = self.scale_tril[start : start + size]
            mean = loc[start : start + size] + (rows[:, :start] @ epsilon).to(loc)
            block = Block(rows[:, start : start + size])
            value = yield FlatNormal(mean, block)
            epsilon = torch.cat([epsilon, block.whiten((value - mean).unsqueeze(0))[0]])
            start += size


class DiagonalFactor(Factor):
    """Independent elements, by their standard deviations."""

    scale: Tensor

    def __init__(self, model: BayesianModel, sites: Sequence[str]) -> None:
        super().__init__(model, sites)
        self.register_buffer("scale", _empty(model))

    @property
    def is_fitted(self) -> bool:
        """Whether there is a covariance yet."""
        return len(self.scale) > 0

    def fit(self, curvature: DiagonalCurvature, prior: Tensor, name: str) -> None:
        """See :meth:`Factor.fit`."""
        precision = positive_precision(curvature.diagonal + prior, name)
        self.scale = precision.rsqrt().to(self.scale)

    def spread(self, epsilon: Tensor) -> Tensor:
        """See :meth:`Factor.spread`."""
        return epsilon * self.scale.to(epsilon)

    def spread_given_rest(self, sites: Sequence[str], epsilon: Tensor) -> Tensor:
        """See :meth:`Factor.spread_given_rest`: the elements are independent."""
        return epsilon * self.scale[self._rows(sites)].to(epsilon)

    def whiten(self, deviation: Tensor) -> Tensor:
        """See :meth:`Factor.whiten`."""
        return deviation / self.scale

    def project(self, gradient: Tensor) -> Tensor:
        """See :meth:`Factor.project`."""
        return self.scale.double() * gradient.double()

    @property
    def log_det(self) -> Tensor:
        """See :attr:`Factor.log_det`."""
        return self.scale.log().sum()

    @property
    def variance(self) -> Tensor:
        """See :attr:`Factor.variance`."""
        return self.scale.square()

    def function_covariance(self, rows: Rows) -> Tensor:
        """See :meth:`Factor.function_covariance`."""
        parts = zip(self.sites, self.variance.split(self.sizes), strict=True)
        return torch.stack([_gram(rows, name, variance) for name, variance in parts]).sum(0)

    def conditionals(self, loc: Tensor) -> Conditionals:
        """Independent normals."""
        scales = self.scale.to(loc).split(self.sizes)
        for mean, scale in zip(loc.split(self.sizes), scales, strict=True):
            yield dist.Normal(mean, scale).to_event(1)


class KroneckerFactor(Factor):
    r"""The weights of one layer, ``(M, K)``, with curvature :math:`H = B \otimes A`.

    With :math:`B = U\,\mathrm{diag}(b)\,U^\top`, :math:`A = V\,\mathrm{diag}(a)\,V^\top` and one
    prior precision :math:`\delta` for all weights the covariance is exact in the eigenbasis:

    .. math:: (B \otimes A + \delta I)^{-1}
              = (U \otimes V)\,\mathrm{diag}\big((b_i a_j + \delta)^{-1}\big)\,(U \otimes V)^\top

    ``scale`` is :math:`(b_i a_j + \delta)^{-1/2}`, ``left`` is ``U`` and ``right`` is ``V``.
    """

    scale: Tensor
    left: Tensor
    right: Tensor

    def __init__(self, model: BayesianModel, site: str, *, layer: str) -> None:
        super().__init__(model, [site], layer=layer)
        rows = model.layout.shapes[site][0]
        self.shape = (rows, self.size // rows)
        self.register_buffer("scale", _empty(model, self.shape[1]))
        self.register_buffer("left", _empty(model, self.shape[0]))
        self.register_buffer("right", _empty(model, self.shape[1]))

    @property
    def is_fitted(self) -> bool:
        """Whether there is a covariance yet."""
        return len(self.scale) > 0

    def fit(self, curvature: KroneckerCurvature, prior: Tensor, name: str) -> None:
        """See :meth:`Factor.fit`."""
        eigenvalues = curvature.eigenvalues + one_precision(prior, self.sites[0])
        root = positive_precision(eigenvalues, name).rsqrt()
        self.scale, self.left, self.right = (
            value.to(self.scale).contiguous() for value in (root, curvature.left, curvature.right)
        )

    def _matrix(self, flat: Tensor) -> Tensor:
        matrix: Tensor = flat.unflatten(-1, self.shape)
        return matrix

    def spread(self, epsilon: Tensor) -> Tensor:
        r""":math:`U (\varepsilon \odot s) V^\top`."""
        white = self._matrix(epsilon.double())
        spread: Tensor = self.left @ (white * self.scale) @ self.right.mT
        return spread.flatten(-2)

    def whiten(self, deviation: Tensor) -> Tensor:
        """See :meth:`Factor.whiten`."""
        rotated = self.left.mT @ self._matrix(deviation.double()) @ self.right
        white: Tensor = rotated / self.scale
        return white.flatten(-2)

    def project(self, gradient: Tensor) -> Tensor:
        """See :meth:`Factor.project`."""
        rotated = self.left.double().mT @ self._matrix(gradient.double()) @ self.right.double()
        projected: Tensor = rotated * self.scale.double()
        return projected.flatten(-2)

    @property
    def log_det(self) -> Tensor:
        """See :attr:`Factor.log_det`."""
        return self.scale.log().sum()

    @property
    def variance(self) -> Tensor:
        """See :attr:`Factor.variance`."""
        return (self.left.square() @ self.scale.square() @ self.right.square().mT).flatten()

    def function_covariance(self, rows: Rows) -> Tensor:
        """See :meth:`Factor.function_covariance`."""
        outer = cast("Outer", rows[self.sites[0]]).double()
        return outer.rotate(self.left, self.right).gram(self.scale.square())

    def conditionals(self, loc: Tensor) -> Conditionals:
        """The one site."""
        yield FlatNormal(loc, self)


def _empty(model: BayesianModel, *shape: int) -> Tensor:
    """What a root is before it is fitted."""
    return torch.zeros(0, *shape, dtype=torch.float64, device=model.device)


def _gram(rows: Rows, name: str, variance: Tensor) -> Tensor:
    found = rows[name].double()
    if isinstance(found, Outer):
        variance = variance.view(found.gradients.shape[2], found.inputs.shape[1])
    return found.gram(variance)
