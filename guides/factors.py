r"""Structures of a normal's covariance, each for a group of sites: dense, diagonal, Kronecker.

A factor holds a root ``C`` of a covariance, :math:`\Sigma = CC^\top`, made from the curvature of
the log likelihood (:class:`Curvature`) and the precision of the prior. Everything a posterior needs
follows from ``C``: draws, densities, conditionals of one site given others, and the covariance of
functions that are linear in the parameters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from math import prod
from typing import Any, ClassVar, cast

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from probml_tp.guides.cholesky import scale_tril_of_precision
from probml_tp.guides.curvature import (
    DenseCurvature,
    DiagonalCurvature,
    KroneckerCurvature,
    one_precision,
    positive_precision,
)
from probml_tp.guides.jacobians import Outer, Rows
from probml_tp.guides.sites import LOG_2PI
from probml_tp.model import BayesianModel

__all__ = [
    "Conditionals",
    "DenseFactor",
    "DiagonalFactor",
    "Factor",
    "KroneckerFactor",
    "MatrixNormal",
    "standard_normal",
]

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
        places = [torch.arange(model.num_params)[model.layout.slices[n]] for n in sites]
        index = torch.cat(places).to(model.device)
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
        identity = torch.eye(self.size, dtype=epsilon.dtype, device=epsilon.device)
        white = self.whiten(identity[self._rows(sites)]).double()
        root = scale_tril_of_precision(white @ white.mT, "conditional")
        return epsilon @ root.to(epsilon).mT

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
        like = next(model.net.parameters())
        self.register_buffer("scale_tril", like.new_zeros(0, self.size))

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
        return epsilon @ self.scale_tril.mT

    def whiten(self, deviation: Tensor) -> Tensor:
        """See :meth:`Factor.whiten`."""
        white: Tensor = torch.linalg.solve_triangular(self.scale_tril, deviation.mT, upper=False)
        return white.mT

    def project(self, gradient: Tensor) -> Tensor:
        """See :meth:`Factor.project`."""
        return self.scale_tril.double().mT @ gradient.double()

    @property
    def log_det(self) -> Tensor:
        """See :attr:`Factor.log_det`."""
        return self.scale_tril.diagonal().log().sum()

    @property
    def variance(self) -> Tensor:
        """See :attr:`Factor.variance`."""
        return self.scale_tril.square().sum(-1)

    def function_covariance(self, rows: Rows) -> Tensor:
        """See :meth:`Factor.function_covariance`."""
        blocks = zip(self.sites, self.scale_tril.split(self.sizes), strict=True)
        half = torch.stack([rows[name].times(block) for name, block in blocks]).sum(0)
        return half @ half.mT

    def conditionals(self, loc: Tensor) -> Conditionals:
        r""":math:`u_b | u_{<b} \sim N(m_b + C_{b,<b}\varepsilon_{<b}, C_{bb}C_{bb}^\top)`."""
        epsilon, start = loc.new_zeros(0), 0
        for size in self.sizes:
            place = slice(start, start + size)
            tril = self.scale_tril[place, place]
            mean = loc[place] + self.scale_tril[place, :start] @ epsilon
            value = yield dist.MultivariateNormal(mean, scale_tril=tril)
            residual = (value - mean).unsqueeze(-1)
            new = torch.linalg.solve_triangular(tril, residual, upper=False).squeeze(-1)
            epsilon, start = torch.cat([epsilon, new]), start + size


class DiagonalFactor(Factor):
    """Independent elements, by their standard deviations."""

    scale: Tensor

    def __init__(self, model: BayesianModel, sites: Sequence[str]) -> None:
        super().__init__(model, sites)
        like = next(model.net.parameters())
        self.register_buffer("scale", like.new_zeros(0))

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
        return epsilon * self.scale

    def spread_given_rest(self, sites: Sequence[str], epsilon: Tensor) -> Tensor:
        """See :meth:`Factor.spread_given_rest`: the elements are independent."""
        return epsilon * self.scale[self._rows(sites)]

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
        for mean, scale in zip(loc.split(self.sizes), self.scale.split(self.sizes), strict=True):
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
        like = next(model.net.parameters())
        rows = model.layout.shapes[site][0]
        self.shape = (rows, self.size // rows)
        self.register_buffer("scale", like.new_zeros(0, self.shape[1]))
        self.register_buffer("left", like.new_zeros(0, self.shape[0]))
        self.register_buffer("right", like.new_zeros(0, self.shape[1]))

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
        spread: Tensor = self.left @ (self._matrix(epsilon) * self.scale) @ self.right.mT
        return spread.flatten(-2)

    def whiten(self, deviation: Tensor) -> Tensor:
        """See :meth:`Factor.whiten`."""
        white: Tensor = self.left.mT @ self._matrix(deviation) @ self.right / self.scale
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
        outer = cast("Outer", rows[self.sites[0]])
        return outer.rotate(self.left, self.right).gram(self.scale.square())

    def conditionals(self, loc: Tensor) -> Conditionals:
        """The one site."""
        yield MatrixNormal(loc, self)


class MatrixNormal(TorchDistribution):
    """The flat normal distribution of a Kronecker factor.

    Args:
        loc: the mean, ``(p,)``.
        factor: the covariance.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, factor: KroneckerFactor) -> None:
        self.loc, self.factor = loc, factor
        super().__init__(torch.Size(), loc.shape, validate_args=False)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draw vectors."""
        shape = (*sample_shape, len(self.loc))
        epsilon = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.factor.spread(epsilon)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density, ``(*draws,)``."""
        return standard_normal(self.factor.whiten(value - self.loc)) - self.factor.log_det


def standard_normal(white: Tensor) -> Tensor:
    """The log density of standard normal vectors ``(*draws, p)``."""
    return -0.5 * white.square().sum(-1) - 0.5 * LOG_2PI * white.shape[-1]


def _gram(rows: Rows, name: str, variance: Tensor) -> Tensor:
    found = rows[name]
    if isinstance(found, Outer):
        variance = variance.view(found.gradients.shape[2], found.inputs.shape[1])
    return found.gram(variance)
