r"""Multivariate normal posteriors over all sites at once, and the curvature they are made of."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from math import prod
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, transforms
from torch import Tensor, nn
from torch.distributions.transforms import Transform
from torch.func import grad, jacrev, vmap

from probml_tp.guide import Draws, Guide, Sites, check_num_samples
from probml_tp.likelihoods import Gaussian
from probml_tp.model import BayesianModel

__all__ = ["FullNormal", "generalised_gauss_newton", "prior_precision", "scale_tril_of_precision"]

MAX_JACOBIAN_ELEMENTS = 2**24
BATCH = 10_000


class FullNormal(Guide):
    r"""A normal with full covariance in unconstrained space, :math:`q(u) = \mathcal N(m, CC^\top)`.

    The base of Laplace and of the exact conjugate posterior, which differ in how they find the
    mean and the precision. ``C`` is lower triangular, so that the sites have the sequential
    conditionals that a Pyro program needs:
    :math:`u_b \mid u_{<b} \sim \mathcal N(m_b + C_{b,<b}\varepsilon_{<b},\; C_{bb}C_{bb}^\top)`.

    Args:
        model: the model.
        max_params: the largest ``P`` accepted: memory is ``P^2`` and time ``P^3``.

    Raises:
        ValueError: the model has more parameters than ``max_params``.
    """

    scale_tril: Tensor
    log_evidence_value: Tensor

    def __init__(self, model: BayesianModel, *, max_params: int = 10_000) -> None:
        super().__init__(model)
        if model.num_params > max_params:
            gib = model.num_params**2 * 8 / 2**30
            raise ValueError(
                f"the {self.name} guide keeps a full P x P covariance and takes at most "
                f"{max_params} parameters; {model.name} has {model.num_params} ({gib:.1f} GiB). "
                f"Use the mean-field guide, a smaller net, or raise max_params."
            )
        self.max_params = max_params
        self.loc = nn.Parameter(model.layout.ravel(model.unconstrain(model.initial_params())))
        self.register_buffer("scale_tril", self.loc.new_zeros(0, model.num_params))
        nothing = torch.tensor(torch.nan, dtype=torch.float64, device=self.loc.device)
        self.register_buffer("log_evidence_value", nothing)

    # --------------------------------------------------------------------------- fitting it

    @abstractmethod
    def solve(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        r"""The mean ``(P,)`` and the posterior precision ``(P, P)``, in float64."""

    def finalize(self, x: Tensor, y: Tensor) -> None:
        """Find the mean and the covariance from all the data, and the log evidence."""
        loc, precision = self.solve(x, y)
        scale_tril = scale_tril_of_precision(precision, self.name)
        self.loc.data = loc.to(self.loc)
        self.scale_tril = scale_tril.to(self.loc)
        with torch.no_grad():
            log_q = torch.diagonal(scale_tril).log().sum().neg() - 0.5 * len(loc) * _LOG_2PI
            value = self._log_joint(x, y).double() - log_q
        self.log_evidence_value = value if self._is_proper else torch.full_like(value, torch.nan)

    def _log_joint(self, x: Tensor, y: Tensor) -> Tensor:
        """The log joint at the mean, batch by batch."""
        params = self.model.constrain(self.model.layout.unravel(self.loc))
        batches = zip(x.split(BATCH), y.split(BATCH), strict=True)
        likelihood = sum(self.model.log_likelihood(params, *batch).sum() for batch in batches)
        return self.model.log_prior_flat(self.loc) + likelihood

    @property
    def _is_proper(self) -> bool:
        return all(site.is_proper for site in self.model.sites.values())

    def log_evidence(self) -> float:
        r""":math:`\log p(y \mid x)` in nats: :math:`\log p(m, y \mid x) - \log q(m)`.

        Raises:
            ValueError: the guide is not fitted, or the prior is improper.
        """
        self._require_fit()
        if not self._is_proper:
            raise ValueError(
                "the evidence needs a proper prior; a flat one has an arbitrary constant. "
                "Use NormalPrior to compare models."
            )
        return float(self.log_evidence_value)

    def _require_fit(self) -> None:
        if not len(self.scale_tril):
            raise ValueError(
                f"the {self.name} guide has no covariance before it is fitted. Call "
                f"fit(model, guide, data) first."
            )

    # ------------------------------------------------------------------------ the distribution

    def site_distributions(self) -> Sites:
        """Each site given the ones before it, reshaped and pushed through its bijection."""
        self._require_fit()
        epsilon = self.loc.new_zeros(0)
        for name, place in self.model.layout.slices.items():
            block = self.scale_tril[place]
            loc = self.loc[place] + block[:, : place.start] @ epsilon
            tril = block[:, place]
            value = yield name, self._site(name, loc, tril)
            residual = (self._unconstrain_site(name, value).reshape(-1) - loc).unsqueeze(-1)
            new = torch.linalg.solve_triangular(tril, residual, upper=False).squeeze(-1)
            epsilon = torch.cat([epsilon, new])

    def _site(self, name: str, loc: Tensor, tril: Tensor) -> TorchDistribution:
        shape = self.model.layout.shapes[name]
        parts: list[Transform] = [transforms.ReshapeTransform(torch.Size([prod(shape)]), shape)]
        if name in self.model.transforms:
            parts.append(self.model.transforms[name])
        base = dist.MultivariateNormal(loc, scale_tril=tril)
        return cast("TorchDistribution", dist.TransformedDistribution(base, parts))

    def _unconstrain_site(self, name: str, value: Tensor) -> Tensor:
        transform = self.model.transforms.get(name)
        return value if transform is None else transform.inv(value)

    @torch.no_grad()
    def sample(
        self, num_samples: int, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        r""":math:`\theta(m + C\varepsilon)`."""
        self._require_fit()
        shape = (check_num_samples(num_samples), len(self.loc))
        epsilon = torch.randn(
            shape, generator=generator, dtype=self.loc.dtype, device=self.loc.device
        )
        flat = self.loc + epsilon @ self.scale_tril.mT
        return self.model.constrain(self.model.layout.unravel(flat))

    def log_prob(self, draws: Draws) -> Tensor:
        """Normal log density in unconstrained space, minus the log determinant of the map."""
        self._require_fit()
        u = self.model.unconstrain(draws)
        normal = torch.distributions.MultivariateNormal(
            self.loc, scale_tril=self.scale_tril, validate_args=False
        )
        log_prob: Tensor = normal.log_prob(self.model.layout.ravel(u))
        return log_prob - self.model.log_abs_det_jacobian(u)

    def kl(self) -> Tensor:
        r"""To normal priors :math:`\mathcal N(\mu, S)`, ``S`` diagonal, in nats.

        .. math:: \tfrac12\left[\mathrm{tr}(S^{-1}CC^\top) + (m-\mu)^\top S^{-1}(m-\mu) - P\right]
                  + \tfrac12\log|S| - \log|C|
        """
        self._require_fit()
        if not all(site.is_normal for site in self.model.sites.values()):
            return super().kl()
        ravel = self.model.layout.ravel
        prior = {n: s.elementwise() for n, s in self.model.sites.items()}
        mean, scale = (ravel({n: getattr(d, a) for n, d in prior.items()})
                       for a in ("mean", "stddev"))  # fmt: skip
        trace = (self.scale_tril / scale.unsqueeze(-1)).square().sum()
        quadratic = ((self.loc - mean) / scale).square().sum()
        log_dets = scale.log().sum() - torch.diagonal(self.scale_tril).log().sum()
        return 0.5 * (trace + quadratic - len(self.loc)) + log_dets

    def linearized_moments(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        r"""Mean and variance of the outputs of the net linearised at ``m``, both ``(N, k)``.

        :math:`f_m(x)` and the diagonal of :math:`J(x)\,CC^\top J(x)^\top`; only where the outputs
        are the means of a Gaussian with known noise, else ``None``.
        """
        self._require_fit()
        likelihood = self.model.likelihood
        if not isinstance(likelihood, Gaussian) or likelihood.noise_prior is not None:
            return None
        loc = self.loc.detach()
        tril = self.scale_tril.double()
        variance = [(j @ tril).square().sum(-1) for _, j, _ in jacobians(self.model, loc, x)]
        with torch.no_grad():
            mean = self.model.outputs(self.model.layout.unravel(loc), x)
        return mean, torch.cat(variance)

    def options(self) -> dict[str, Any]:
        """The limit on the number of parameters."""
        return {"max_params": self.max_params}


_LOG_2PI = 1.8378770664093453


def jacobians(
    model: BayesianModel, flat: Tensor, x: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    r"""Per-example :math:`J_n = \partial g_n / \partial u` and Fisher information, in chunks.

    ``g`` are the likelihood's natural inputs (the net's outputs, and a noise scale if it is a
    site). Chunks keep the Jacobians below 2**24 elements, so memory is flat in ``N``.

    Yields:
        The chunk's slice, ``J`` ``(chunk, m, P)`` and ``F`` ``(chunk, m, m)``, both float64.
    """

    def natural_inputs(u: Tensor, x_n: Tensor) -> Tensor:
        params = model.constrain(model.layout.unravel(u))
        outputs = model.outputs(params, x_n.unsqueeze(0))
        return model.likelihood.natural_inputs(outputs, params).squeeze(0)

    with torch.no_grad():
        m = len(natural_inputs(flat, x[0]))
        params = model.constrain(model.layout.unravel(flat))
    jacobian = vmap(jacrev(natural_inputs), in_dims=(None, 0))
    chunk = max(1, MAX_JACOBIAN_ELEMENTS // (m * len(flat)))
    for start in range(0, len(x), chunk):
        part = slice(start, start + chunk)
        with torch.no_grad():
            fisher = model.likelihood.fisher(model.outputs(params, x[part]), params)
            yield part, jacobian(flat, x[part]).double(), fisher.double()


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
    total = flat.new_zeros(len(flat), len(flat), dtype=torch.float64)
    for _, jacobian, fisher in jacobians(model, flat.detach(), x):
        total += torch.einsum("nip,niq->pq", jacobian, fisher @ jacobian)
    return total


def prior_precision(model: BayesianModel, flat: Tensor) -> Tensor:
    r"""The diagonal of :math:`-\nabla_u^2 \log p(u)`; off-diagonal terms are zero, sites being
    element-wise, so that one Hessian-vector product with ones gives it.

    Returns:
        A tensor ``(P,)``, float64; negative where a heavy-tailed prior is not log-concave.
    """

    def summed_gradient(u: Tensor) -> Tensor:
        gradient: Tensor = grad(model.log_prior_flat)(u)
        return gradient.sum()

    diagonal: Tensor = grad(summed_gradient)(flat.detach())
    return -diagonal.double()


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
        ValueError: ``A`` is not positive definite.
    """
    factor = stable_cholesky(precision.flip(-2, -1))
    if factor is None:
        smallest = float(torch.linalg.eigvalsh(precision)[0])
        raise ValueError(
            f"the {name} guide needs a positive definite posterior precision; its smallest "
            f"eigenvalue is {smallest:.3g}. The data leave a direction undetermined, or the "
            f"point is not a mode: use a proper or log-concave prior, train longer, or take "
            f"curvature='ggn'."
        )
    upper = factor.flip(-2, -1)
    identity = torch.eye(len(precision), dtype=precision.dtype, device=precision.device)
    inverse: Tensor = torch.linalg.solve_triangular(upper, identity, upper=True)
    return inverse.mT
