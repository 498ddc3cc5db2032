r"""Multivariate normal posteriors in unconstrained space, their covariance made of factors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from probml_tp.guide import Draws, Guide, Sites, check_num_samples, matches
from probml_tp.guides.curvature import Curvature
from probml_tp.guides.factors import DenseFactor, Factor, KroneckerFactor
from probml_tp.guides.flat_normal import standard_normal
from probml_tp.guides.in_double import in_double
from probml_tp.guides.jacobians import gradient_rows
from probml_tp.guides.sites import flat_value, point_mass, site_distribution
from probml_tp.model import BayesianModel
from probml_tp.priors.normal_sites import LOG_2PI

__all__ = ["StructuredNormal", "check_size"]

BATCH = 5_000


class StructuredNormal(Guide):
    r"""A normal in unconstrained space, :math:`q(u) = \mathcal N(m, CC^\top)`.

    The base of Laplace and of the exact conjugate posterior. ``C`` is made of factors, each for a
    group of sites and independent of the others; sites in no factor are point masses at ``m``.

    Args:
        model: the model.
        factors: the covariance, empty until it is fitted.
    """

    log_evidence_value: Tensor

    def __init__(self, model: BayesianModel, factors: Iterable[Factor]) -> None:
        super().__init__(model)
        self.loc = nn.Parameter(model.layout.ravel(model.unconstrain(model.initial_params())))
        nothing = torch.tensor(torch.nan, dtype=torch.float64, device=self.loc.device)
        self.register_buffer("log_evidence_value", nothing)
        self.set_factors(factors)

    def set_factors(self, factors: Iterable[Factor]) -> None:
        """Take a covariance of other factors, empty until it is fitted."""
        self.factors = nn.ModuleList(factors)
        covered = {name for factor in self.factor_list for name in factor.sites}
        self._fixed = frozenset(self.model.sites) - covered
        self.no_density = type(self).no_density  # type: ignore[misc]
        if self._fixed:
            self.no_density = (  # type: ignore[misc]
                f"this {self.name} guide is a point mass in {len(self._fixed)} of "
                f"{len(self.model.sites)} sites"
            )

    @property
    def factor_list(self) -> list[Factor]:
        """The factors of the covariance."""
        return [cast("Factor", factor) for factor in self.factors]

    @property
    def random_sites(self) -> list[str]:
        """The sites that are not point masses, in the model's order."""
        return [name for name in self.model.sites if name not in self._fixed]

    @property
    def constant_sites(self) -> frozenset[str]:
        """The sites in no factor."""
        return self._fixed

    @property
    def scale_tril(self) -> Tensor:
        """The lower triangular ``C`` of a full covariance, ``(P, P)``.

        Raises:
            ValueError: the covariance has another structure.
        """
        factor = self.factor_list[0]
        if len(self.factor_list) > 1 or not isinstance(factor, DenseFactor):
            raise ValueError(
                f"scale_tril needs a full covariance; this {self.name} guide's is made of "
                f"{len(self.factor_list)} factors. Use covariance() or marginal_variance()."
            )
        return factor.scale_tril.to(self.loc.detach())

    def marginal_variance(self) -> dict[str, Tensor]:
        """The variance of each element in unconstrained space; 0 for point masses.

        Raises:
            ValueError: the guide is not fitted.
        """
        self._require_fit()
        flat = torch.zeros_like(self.loc.detach())
        for factor in self.factor_list:
            flat[factor.index] = factor.variance.to(flat)
        return self.model.layout.unravel(flat)

    def covariance(self) -> Tensor:
        """The covariance in unconstrained space as one matrix ``(P, P)``, for small models.

        Raises:
            ValueError: the guide is not fitted.
        """
        self._require_fit()
        root = self.loc.new_zeros(len(self.loc), len(self.loc), dtype=torch.float64)
        for factor in self.factor_list:
            identity = torch.eye(factor.size, dtype=root.dtype, device=root.device)
            root[factor.index.unsqueeze(-1), factor.index] = factor.spread(identity).mT
        return (root @ root.mT).to(self.loc.detach())

    def _require_fit(self) -> None:
        if not all(factor.is_fitted for factor in self.factor_list):
            raise ValueError(
                f"the {self.name} guide has no covariance before it is fitted. Call "
                f"fit(model, guide, data) first."
            )

    # --------------------------------------------------------------------------- fitting it

    def take(self, curvatures: Sequence[Curvature], prior: Tensor, x: Tensor, y: Tensor) -> None:
        """Take the covariance of a curvature and a prior, and find the log evidence.

        Args:
            curvatures: of the negative log likelihood, one a factor.
            prior: the precision of the prior, ``(P,)``, float64.
            x: all inputs.
            y: all targets.

        Raises:
            ValueError: the posterior precision is not positive definite.
        """
        for factor, curvature in zip(self.factor_list, curvatures, strict=True):
            factor.fit(curvature, prior[factor.index], self.name)
        size = sum(factor.size for factor in self.factor_list)
        with torch.no_grad():
            joint = self.log_likelihood(x, y) + self.log_prior()
            volume = torch.stack([factor.log_det for factor in self.factor_list]).sum()
        value = joint + 0.5 * size * LOG_2PI + volume
        self.log_evidence_value = value if self._is_proper else torch.full_like(value, torch.nan)

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        """The log likelihood at the centre, batch by batch, in float64."""
        model = in_double(self.model, x)
        params = model.constrain(model.layout.unravel(self.loc.to(model.dtype)))
        batches = zip(x.split(BATCH), y.split(BATCH), strict=True)
        sums = [model.log_likelihood(params, *batch).double().sum() for batch in batches]
        return torch.stack(sums).sum()

    def log_prior(self) -> Tensor:
        """The log prior of the random sites at the centre, in unconstrained space, in float64."""
        model = in_double(self.model)
        u = model.layout.unravel(self.loc.to(model.dtype))
        random = {name: u[name] for name in self.random_sites}
        log_prior = model.log_prior(model.constrain(u), sites=random)
        return (log_prior + model.log_abs_det_jacobian(random)).double()

    @property
    def _is_proper(self) -> bool:
        return all(self.model.sites[name].is_proper for name in self.random_sites)

    def log_evidence(self) -> float:
        r""":math:`\log p(y \mid x)` in nats: :math:`\log p(m, y \mid x) - \log q(m)`.

        Where some sites are point masses it is the evidence given their values.

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

    # ------------------------------------------------------------------------ the distribution

    def site_distributions(self) -> Sites:
        """Each site given the ones before it, reshaped and pushed through its bijection."""
        self._require_fit()
        u = self.model.layout.unravel(self.loc)
        factors = self.factor_list
        running = {factor: factor.conditionals(self.loc[factor.index]) for factor in factors}
        owner = {name: factor for factor in factors for name in factor.sites}
        sent: dict[Factor, Tensor | None] = dict.fromkeys(factors)
        for name in self.model.sites:
            if name in self._fixed:
                yield name, point_mass(self.model, name, u[name])
                continue
            factor = owner[name]
            last = sent[factor]
            flat = next(running[factor]) if last is None else running[factor].send(last)
            value = yield name, site_distribution(self.model, name, flat)
            sent[factor] = flat_value(self.model, name, value)

    @torch.no_grad()
    def sample(
        self, num_samples: int, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        r""":math:`\theta(m + C\varepsilon)`; constant sites are repeated without copying."""
        self._require_fit()
        count = check_num_samples(num_samples)
        if not self._fixed and len(self.factor_list) == 1:
            flat = self.loc + self.factor_list[0].spread(
                self._noise(count, len(self.loc), generator)
            )
            return self.model.constrain(self.model.layout.unravel(flat.to(self.loc)))
        u: dict[str, Tensor] = {}
        for factor in self.factor_list:
            epsilon = self._noise(count, factor.size, generator)
            flat = (self.loc[factor.index] + factor.spread(epsilon)).to(self.loc)
            for name, part in zip(factor.sites, flat.split(factor.sizes, dim=-1), strict=True):
                u[name] = part.reshape(count, *self.model.layout.shapes[name])
        for name in self._fixed:
            value = self.model.layout.unravel(self.loc)[name].clone()
            u[name] = value.expand(count, *value.shape)
        return self.model.constrain({name: u[name] for name in self.model.sites})

    @torch.no_grad()
    def conditional_draws(
        self, sites: Collection[str], num_samples: int, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Normal, factor by factor: see :meth:`Factor.spread_given_rest`."""
        self._require_fit()
        parts: dict[str, Tensor] = {}
        for factor in self.factor_list:
            own = [name for name in factor.sites if name in sites]
            sizes = [self.model.layout.shapes[name].numel() for name in own]
            if own:
                epsilon = self._noise(check_num_samples(num_samples), sum(sizes), generator)
                moved = factor.spread_given_rest(own, epsilon).split(sizes, dim=-1)
                parts |= dict(zip(own, moved, strict=True))
        order = [name for name in self.model.sites if name in parts]
        deviation = torch.cat([parts[name] for name in order], -1)
        return self.around_centre(order, deviation.to(self.loc))

    def _noise(self, count: int, size: int, generator: torch.Generator | None) -> Tensor:
        return torch.randn(
            (count, size), generator=generator, dtype=self.loc.dtype, device=self.loc.device
        )

    def log_prob(self, draws: Draws) -> Tensor:
        """Normal log density in unconstrained space, minus the log determinant of the map.

        Where some sites are point masses it is the density over the others, minus infinity at
        draws whose point masses lie elsewhere.
        """
        self._require_fit()
        u = self.model.unconstrain(draws)
        flat = self.model.layout.ravel(u)
        total = -self.model.log_abs_det_jacobian(u)
        for factor in self.factor_list:
            white = factor.whiten(flat[..., factor.index] - self.loc[factor.index])
            total = total + (standard_normal(white) - factor.log_det).to(total)
        values = self.model.constrain(self.model.layout.unravel(self.loc))
        for name in self._fixed:
            total = torch.where(matches(draws[name], values[name]), total, -torch.inf)
        return total

    def kl(self) -> Tensor:
        r"""To normal priors :math:`\mathcal N(\mu, S)`, ``S`` diagonal, in nats.

        .. math:: \tfrac12\left[\mathrm{tr}(S^{-1}CC^\top) + (m-\mu)^\top S^{-1}(m-\mu) - P\right]
                  + \tfrac12\log|S| - \log|C|
        """
        self._require_fit()
        prior = self.model.normal_sites
        if prior.others or self._fixed:
            return super().kl()
        variance = self.model.layout.ravel(self.marginal_variance())
        squares = variance + (self.loc - prior.loc).square()
        half = torch.stack([factor.log_det for factor in self.factor_list]).sum()
        log_dets = prior.scale.log().sum() - half.to(prior.scale)
        return 0.5 * ((squares / prior.scale.square()).sum() - len(self.loc)) + log_dets

    def linearized_moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Mean ``(N, k)`` and covariance ``(N, k, k)`` of the net's outputs, linearised at ``m``.

        :math:`f_m(x)` and :math:`J(x)\,CC^\top J(x)^\top`, the Jacobian with respect to all random
        sites of the net.
        """
        self._require_fit()
        means, covariances = [], []
        for _, outputs, rows in gradient_rows(
            self.model, self.loc, x, x, lambda outputs, *_: outputs, sites=self.random_sites
        ):
            with torch.no_grad():
                parts = [factor.function_covariance(rows) for factor in self.factor_list]
            means.append(outputs)
            covariances.append(torch.stack(parts).sum(0).to(outputs))
        return torch.cat(means), torch.cat(covariances)


def check_size(factor: Factor, *, name: str, model: BayesianModel, max_params: int) -> None:
    """Refuse matrices that are too large to factorise.

    Raises:
        ValueError: a side of the largest matrix exceeds ``max_params``.
    """
    side = factor.size if isinstance(factor, DenseFactor) else 1
    if isinstance(factor, KroneckerFactor):
        side = max(factor.shape)
    if side > max_params:
        gib = side**2 * 8 / 2**30
        raise ValueError(
            f"the {name} guide keeps a full P x P covariance and takes at most {max_params} "
            f"parameters; {model.name} has {side} ({gib:.1f} GiB). Use structure='kronecker' or "
            f"'diagonal', fewer sites, a smaller net, or raise max_params."
        )
