r"""Normals whose covariance is low rank plus diagonal: correlations without a P x P matrix."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from numbers import Integral
from typing import Any, ClassVar, cast

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import positive
from probml_tp.convergence import Convergence
from probml_tp.guide import Draws, Guide, Sites, check_num_samples
from probml_tp.guides.mean_field import INIT_SCALE, independent_kl, sampled_kl
from probml_tp.guides.pathfinder import start_on_path
from probml_tp.guides.sites import flat_value, site_distribution
from probml_tp.inference.settling import normal_convergence
from probml_tp.model import BayesianModel
from probml_tp.priors.normal_sites import LOG_2PI

__all__ = ["LowRankNormal", "LowRankPlusDiagonal"]


ROWS = 2**16
"""Parameters at a time in sums of float64."""


class LowRankPlusDiagonal(Guide):
    r"""A normal in unconstrained space, :math:`q(u) = \mathcal N(m, \mathrm{diag}(d^2) + VV^\top)`.

    The distribution alone: how ``m`` (the attribute ``loc``), ``d`` and ``V`` are found, and
    whether they are parameters, is up to the subclass. With ``r`` columns in ``V`` everything
    costs :math:`O(Pr^2)` a draw or less, and no ``P`` x ``P`` matrix is formed: with
    :math:`W = \mathrm{diag}(d)^{-1}V` and the ``r`` x ``r`` *capacitance* :math:`C = I + W^\top W`,

    .. math:: u = m + d \odot \varepsilon + V z, \qquad
              \log|\mathrm{diag}(d^2) + VV^\top| = 2\textstyle\sum_i\log d_i + \log|C|.

    The sites' conditionals follow from that of the latent ``z``: given the sites before ``b``,
    :math:`z \sim \mathcal N(C_{<b}^{-1} W_{<b}^\top\delta_{<b},\, C_{<b}^{-1})` with
    :math:`\delta = (u - m)/d`, so that :math:`u_b` is again low rank plus diagonal. ``C`` is
    summed and factorised in float64, as its condition number is that of the covariance.

    Args:
        model: the model.
    """

    loc: Tensor

    @abstractmethod
    def scale_and_factor(self) -> tuple[Tensor, Tensor]:
        """The diagonal's standard deviation ``d``, positive, ``(P,)``, and ``V``, ``(P, r)``.

        ``r`` may be 0: the sites are then independent.
        """

    # ------------------------------------------------------------------------ the distribution

    def site_distributions(self) -> Sites:
        """Each site given the ones before it, reshaped and pushed through its bijection."""
        d, factor = self.scale_and_factor()
        C = torch.eye(factor.shape[-1], dtype=torch.float64, device=d.device)
        shift = C.new_zeros(len(C))
        for name, place in self.model.layout.slices.items():
            tril = torch.linalg.cholesky(C)
            z = torch.cholesky_solve(shift.unsqueeze(-1), tril).squeeze(-1)
            V = factor[place]
            spread = torch.linalg.solve_triangular(tril, V.double().mT, upper=False).mT
            loc = self.loc[place] + V @ z.to(V)
            flat = _conditional(loc, d[place], spread.to(V))
            value = yield name, site_distribution(self.model, name, flat)
            delta = (flat_value(self.model, name, value) - self.loc[place]) / d[place]
            W = (V / d[place].unsqueeze(-1)).double()
            C = C + W.mT @ W
            shift = shift + W.mT @ delta.double()

    @torch.no_grad()
    def sample(
        self, num_samples: int, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        r""":math:`\theta(m + d \odot \varepsilon + V z)`."""
        num_samples, (d, factor) = check_num_samples(num_samples), self.scale_and_factor()
        epsilon, z = (
            torch.randn(
                num_samples, n, generator=generator, dtype=self.loc.dtype, device=self.loc.device
            )
            for n in factor.shape
        )
        flat = epsilon.mul_(d).add_(self.loc).addmm_(z, factor.mT)
        return self.model.constrain(self.model.layout.unravel(flat))

    @torch.no_grad()
    def conditional_draws(
        self, sites: Collection[str], num_samples: int, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        r""":math:`u_l - m_l = d_l \odot \varepsilon + V_l z` with ``z`` given the other sites.

        There :math:`\delta = 0`, so that :math:`z \sim \mathcal N(0, C_{-l}^{-1})`.
        """
        (d, factor), slices = self.scale_and_factor(), self.model.layout.slices
        own = torch.zeros(len(d), dtype=torch.bool, device=d.device)
        for name in sites:
            own[slices[name]] = True
        tril = _capacitance_tril(d[~own], factor[~own])
        epsilon, z = (
            torch.randn(
                check_num_samples(num_samples),
                n,
                generator=generator,
                dtype=d.dtype,
                device=d.device,
            )
            for n in factor[own].shape
        )
        z = torch.linalg.solve_triangular(tril.mT, z.double().mT, upper=True).mT.to(d)
        return self.around_centre(sites, epsilon * d[own] + z @ factor[own].mT)

    def log_prob(self, draws: Draws) -> Tensor:
        r"""Normal log density in unconstrained space, minus the log determinant of the map.

        With :math:`\hat z = C^{-1}W^\top\delta` the quadratic form (Woodbury) is
        :math:`\|\delta - W\hat z\|^2 + \|\hat z\|^2`, a sum of squares: nothing cancels.
        """
        d, factor = self.scale_and_factor()
        u = self.model.unconstrain(draws)
        tril = _capacitance_tril(d, factor)
        delta = (self.model.layout.ravel(u) - self.loc) / d
        z = torch.cholesky_solve(((delta / d) @ factor).double().mT, tril).mT.to(delta)
        quadratic = (delta - (z @ factor.mT) / d).square().sum(-1) + z.square().sum(-1)
        normal = -0.5 * (quadratic + LOG_2PI * len(d)) - d.log().sum() - _half_log_det(tril).to(d)
        return normal - self.model.log_abs_det_jacobian(u)

    def kl(self) -> Tensor:
        r"""To normal priors :math:`\mathcal N(\mu, \mathrm{diag}(\sigma^2))`, in nats.

        .. math:: \sum_i\left[\log\frac{\sigma_i}{d_i} + \frac{d_i^2 + \|V_i\|^2
                  + (m_i - \mu_i)^2}{2\sigma_i^2} - \frac12\right] - \frac12\log|C|

        with :math:`V_i` the rows of ``V``: the mean-field's, and what the factor adds.
        """
        if self.model.normal_sites.others:
            return super().kl()
        d, factor = self.scale_and_factor()
        return independent_kl(self.model, self.loc, d, d.log()) + self._factor_kl(d, factor)

    def _factor_kl(self, d: Tensor, factor: Tensor) -> Tensor:
        r""":math:`\sum_i \|V_i\|^2 / (2\sigma_i^2) - \tfrac12\log|C|`, over normal priors."""
        prior = self.model.normal_sites
        own = factor[prior.index]
        spread = (torch.einsum("pr,pr->p", own, own) / prior.scale.square()).sum()
        return 0.5 * spread - _half_log_det(_capacitance_tril(d, factor)).to(d)


class LowRankNormal(LowRankPlusDiagonal):
    r"""Variational inference with a low-rank-plus-diagonal normal (Ong, Nott & Smith 2018).

    "Gaussian variational approximation with a factor covariance structure". Trained by the
    evidence lower bound with one draw :math:`u = m + d \odot \varepsilon + V z` shared by the
    batch and the KL term in closed form; for sites whose prior is not normal the entropy is exact
    and the cross term uses the step's draw. ``loss`` is
    :math:`-\frac1B\sum_{n \in B}\log p(y_n|\theta) + \frac1N\mathrm{KL}`: each data point carries
    1/N of the KL, whatever the batch size. Where ``V`` is 0 this is :class:`MeanFieldNormal`.

    The parameter is :math:`V` in units of the standard deviations that it starts with, called
    ``factor``: a step of Adam then changes ``V`` by ``lr`` of these, as it changes ``d`` by
    ``lr * d``. With ``V`` itself as
    the parameter, steps that suit means throw it about: on two moons the same 1,500 steps of rate
    0.1 end at an ELBO of -905 nats instead of -179. It starts at random, with entries of variance
    ``1 / rank``, so that it has gradients and adds as much variance as the diagonal.

    Args:
        model: the model; means start at the net's own parameters.
        rank: ``r``, the number of columns of ``V``, from 0 to ``P``.
        init_scale: the initial standard deviation of the diagonal part, in unconstrained units;
            default as for :class:`MeanFieldNormal`.

    Raises:
        ValueError: ``rank`` is out of range, or ``init_scale`` is not positive.

    Example:
        >>> from probml_tp import BayesianModel, Gaussian, NormalPrior
        >>> model = BayesianModel(nn.Linear(3, 1), NormalPrior(1.0), Gaussian(scale=0.1))
        >>> guide = LowRankNormal(model, rank=2)
        >>> guide.log_prob(guide.sample(7)).shape
        torch.Size([7])
    """

    name: ClassVar[str] = "low-rank-normal"
    replayable_loss: ClassVar[bool] = True

    unit: Tensor

    @checked(rank=None, init_scale=None)
    def __init__(
        self, model: BayesianModel, *, rank: int = 10, init_scale: float | None = None
    ) -> None:
        super().__init__(model)
        self.init_scale = init_scale if init_scale is None else positive("init_scale", init_scale)
        self.rank = _checked_rank(rank, model)
        loc = model.layout.ravel(model.unconstrain(model.initial_params()))
        self.loc = nn.Parameter(loc)
        self.register_buffer("unit", torch.full_like(loc, init_scale or INIT_SCALE))
        self.log_scale = nn.Parameter(self.unit.log())
        factor = torch.randn(len(loc), self.rank, dtype=loc.dtype, device=loc.device)
        self.factor = nn.Parameter(factor / max(1, self.rank) ** 0.5)

    @property
    def is_variational_normal(self) -> bool:
        """It is."""
        return True

    def scale_and_factor(self) -> tuple[Tensor, Tensor]:
        """``d`` and ``V`` from the parameters."""
        return self.log_scale.exp(), self.unit.unsqueeze(-1) * self.factor

    @property
    def scaled_parameters(self) -> tuple[nn.Parameter, nn.Parameter]:
        """Means and logarithms of ``d``."""
        return cast("nn.Parameter", self.loc), self.log_scale

    def take_normal(self, loc: Tensor, scale: Tensor) -> None:
        """Take them as ``m`` and ``d``, and ``V`` in units of ``d``."""
        self.loc.data, self.log_scale.data = loc.to(self.loc), scale.log().to(self.loc)
        self.unit = scale.to(self.loc)

    def start_near(self, x: Tensor, y: Tensor) -> None:
        """Start on the way to the mode, unless a scale was given."""
        if self.init_scale is None:
            start_on_path(self, x, y)

    @torch.no_grad()
    def covariance_times(self, vectors: Tensor) -> Tensor:
        r""":math:`(\mathrm{diag}(d^2) + VV^\top)v`."""
        d, factor = (part.to(vectors) for part in self.scale_and_factor())
        return vectors * d.square() + (vectors @ factor) @ factor.mT

    def convergence(self, x: Tensor, y: Tensor) -> Convergence | None:
        """The step left, where it is cheap."""
        return normal_convergence(self, x, y)

    def loss(self, x: Tensor, y: Tensor, *, size: int) -> Tensor:
        """The negative ELBO per data point at one fresh draw."""
        epsilon, z = torch.randn_like(self.loc), torch.randn_like(self.factor[0])
        return self.loss_at(epsilon, z, x, y, size=size)

    def loss_at(self, epsilon: Tensor, z: Tensor, x: Tensor, y: Tensor, *, size: int) -> Tensor:
        """The loss at the draw ``m + d * epsilon + V z``, of ``(P,)`` and ``(r,)`` numbers."""
        d, factor = self.scale_and_factor()
        u = self.model.layout.unravel(torch.addcmul(self.loc, d, epsilon) + factor @ z)
        params = self.model.constrain(u)
        kl = independent_kl(self.model, self.loc, d, self.log_scale)
        if self.model.normal_sites.others:
            kl = kl + sampled_kl(self.model, self.log_scale, u, params)
        kl = kl + self._factor_kl(d, factor)
        return kl / size - self.model.log_likelihood(params, x, y).mean()

    def options(self) -> dict[str, Any]:
        """The rank and the initial scale."""
        return {"rank": self.rank, "init_scale": self.init_scale}


def _conditional(loc: Tensor, d: Tensor, factor: Tensor) -> TorchDistribution:
    """The flat normal with covariance :math:`d^2 + VV^T`, ``V`` of no or more columns."""
    if factor.shape[-1]:
        return dist.LowRankMultivariateNormal(loc, factor, d.square())
    return cast("TorchDistribution", dist.Normal(loc, d).to_event(1))


def _capacitance_tril(d: Tensor, factor: Tensor) -> Tensor:
    r"""The Cholesky factor of :math:`C = I + V^\top\mathrm{diag}(d)^{-2}V`, float64."""
    C = torch.eye(factor.shape[-1], dtype=torch.float64, device=d.device)
    tril: Tensor = torch.linalg.cholesky(C + cast("Tensor", _Gram.apply(d, factor)))
    return tril


class _Gram(torch.autograd.Function):
    r""":math:`V^\top\mathrm{diag}(d)^{-2}V`, ``(r, r)``, in float64 by a few rows at a time.

    By autograd the rows in float64 would be kept, twice the factor and more.
    """

    @staticmethod
    def forward(d: Tensor, factor: Tensor) -> Tensor:
        """Add up the rows."""
        total = torch.zeros(factor.shape[-1:] * 2, dtype=torch.float64, device=d.device)
        for scale, V in zip(d.split(ROWS), factor.split(ROWS), strict=True):
            W = (V / scale.unsqueeze(-1)).double()
            total = total + W.mT @ W
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Keep the arguments, which are in memory anyway."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`\partial V = \mathrm{diag}(d)^{-2}V(G + G^\top)`, and of ``d`` likewise."""
        d, factor = ctx.saved_tensors
        both = gradient + gradient.mT
        of_d, of_factor = [], torch.empty_like(factor)
        for start in range(0, len(d), ROWS):
            rows = slice(start, start + ROWS)
            scale, V = d[rows].double().unsqueeze(-1), factor[rows].double()
            moved = V @ both / scale.square()
            of_factor[rows] = moved.to(factor)
            of_d.append(-(moved * V).sum(-1) / scale.squeeze(-1))
        return torch.cat(of_d).to(d), of_factor


def _half_log_det(tril: Tensor) -> Tensor:
    r""":math:`\tfrac12\log|LL^\top|`."""
    return tril.diagonal().log().sum()


def _checked_rank(rank: int, model: BayesianModel) -> int:
    whole = isinstance(rank, Integral) and not isinstance(rank, bool)
    if not (whole and 0 <= rank <= model.num_params):
        raise ValueError(
            f"rank must be an integer from 0 to the number of parameters, {model.num_params}; got "
            f"{rank!r}. A rank of {min(10, model.num_params)} is a usual choice."
        )
    return int(rank)
