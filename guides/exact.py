r"""The exact posterior of conjugate linear regression: the yardstick for every other guide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.guides.cholesky import stable_cholesky
from probml_tp.guides.curvature import DenseCurvature
from probml_tp.guides.factors import DenseFactor
from probml_tp.guides.gaussian import StructuredNormal, check_size
from probml_tp.guides.in_double import in_double
from probml_tp.guides.jacobians import gradient_rows
from probml_tp.likelihoods import Gaussian
from probml_tp.likelihoods.base import is_exactly
from probml_tp.model import BayesianModel, check_model
from probml_tp.priors import SiteDistribution

__all__ = ["Exact", "why_not_exact"]

MAX_PARAMS = 10_000


class Exact(StructuredNormal):
    r"""Conjugate Bayesian linear regression in closed form (Bishop 2006, eqs. 3.50-3.51, 3.86).

    For a net linear in its parameters, :math:`f_\theta(x) = f_0(x) + \Phi(x)\theta`, known noise
    precision :math:`\beta` and a prior :math:`\mathcal N(\mu, \mathrm{diag}(\alpha)^{-1})`:

    .. math:: \Sigma^{-1} = \mathrm{diag}(\alpha) + \beta\Phi^\top\Phi, \qquad
              m = \Sigma\,(\alpha\mu + \beta\Phi^\top (y - f_0))

    A :class:`~probml_tp.priors.FlatPrior` is the limit :math:`\alpha \to 0`: least squares with
    its sampling covariance. All in float64, whatever the model's type.

    Args:
        model: a model with Gaussian likelihood of known noise, normal or flat priors, and a net
            linear in its parameters.
        max_params: the largest ``P`` accepted.

    Raises:
        ValueError: the model is not conjugate.

    Example:
        >>> from probml_tp import BayesianModel, Gaussian, NormalPrior, fit
        >>> model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.1))
        >>> x = torch.linspace(-1, 1, 20).unsqueeze(-1)
        >>> posterior = fit(model, Exact, (x, 2 * x))
        >>> round(posterior.guide.log_evidence(), 1)
        18.6
    """

    name: ClassVar[str] = "exact"

    @checked()
    def __init__(self, model: BayesianModel, *, max_params: int = MAX_PARAMS) -> None:
        if reason := _why_not_conjugate(check_model(model)):
            raise ValueError(reason)
        factor = DenseFactor(model, list(model.sites))
        check_size(factor, name=self.name, model=model, max_params=max_params)
        super().__init__(model, [factor])
        self.max_params = max_params
        self.loc.requires_grad_(False)

    def finalize(self, x: Tensor, y: Tensor) -> None:
        """Find the mean, the covariance and the log evidence."""
        loc, precision = self.solve(x, y)
        self.loc.data = loc.to(self.loc)
        self.take([DenseCurvature(precision)], torch.zeros_like(loc), x, y)

    def loss(self, x: Tensor, y: Tensor, *, size: int) -> Tensor:
        """The negative log evidence per data point: nothing is left to optimise."""
        return self.loc.new_tensor(-self.log_evidence() / size)

    def solve(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The mean ``(P,)`` and the posterior precision ``(P, P)`` in closed form, in float64."""
        if reason := _why_not_linear(self.model, x):
            raise ValueError(reason)
        model = in_double(self.model, x)
        origin = torch.zeros_like(self.loc, dtype=model.dtype)
        precision = torch.diag(self._prior_precision())
        shift = self._prior_precision() * self._prior_mean()
        with torch.no_grad():
            residual = y - model.outputs(model.layout.unravel(origin), x).reshape(y.shape)
        residual = residual.reshape(len(x), -1).double()
        beta = float(cast("Gaussian", model.likelihood).noise_scale(residual, {})) ** -2
        for part, _, rows in gradient_rows(
            model, origin, x, x, lambda f, *_: f, sites=list(model.sites), dense=True
        ):
            design = torch.cat([row.dense() for row in rows.values()], -1).flatten(0, 1).double()
            precision.addmm_(design.mT, design, alpha=beta)
            shift.addmv_(design.mT, residual[part].flatten(), alpha=beta)
        return self._mean(precision, shift), precision

    @property
    def finalize_passes(self) -> int:
        """Ten to see that the net is linear, then the residuals, the design, the likelihood."""
        return 13

    def function_moments(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        r""":math:`\phi(x)^\top m`, ``(N, d)``, and :math:`\phi(x)^\top\Sigma\phi(x)`, exact."""
        return self.linearized_moments(x)

    def options(self) -> dict[str, Any]:
        """The limit on the number of parameters."""
        return {"max_params": self.max_params}

    def _mean(self, precision: Tensor, shift: Tensor) -> Tensor:
        factor = stable_cholesky(precision)
        if factor is None:
            raise ValueError(
                "the posterior is improper: the data do not determine every parameter and the "
                "prior is flat. Use a NormalPrior, more data, or fewer basis functions."
            )
        return torch.cholesky_solve(shift.unsqueeze(-1), factor).squeeze(-1)

    def _prior_precision(self) -> Tensor:
        return self._prior(lambda site: site.elementwise().stddev ** -2)

    def _prior_mean(self) -> Tensor:
        return self._prior(lambda site: site.elementwise().mean)

    def _prior(self, normal: Callable[[SiteDistribution], Tensor]) -> Tensor:
        """A quantity of the normal priors as a flat vector; a flat prior counts as zero."""
        values = {
            name: normal(site) if site.is_normal else self.loc.new_zeros(site.shape)
            for name, site in self.model.sites.items()
        }
        return self.model.layout.ravel(values).double()


def why_not_exact(model: BayesianModel, x: Tensor) -> str | None:
    """What keeps a model from having its posterior in closed form at these inputs.

    Args:
        model: the model.
        x: checked inputs ``(N, ...)``; whether the net is linear is seen at them.

    Returns:
        The reason, which :class:`Exact` raises; ``None`` where there is none.

    Example:
        >>> from probml_tp import BayesianModel, Gaussian, NormalPrior
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Tanh())
        >>> model = BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.1))
        >>> why_not_exact(model, torch.ones(3, 1)).partition(";")[0]
        'the exact posterior needs a net linear in its parameters'
    """
    if reason := _why_not_conjugate(model):
        return reason
    if model.num_params > MAX_PARAMS:
        return (
            f"the exact posterior takes a matrix of all parameters, at most {MAX_PARAMS:,} of "
            f"them; {model.name} has {model.num_params:,}. Use a diagonal Laplace or NUTS."
        )
    return _why_not_linear(model, x)


@torch.no_grad()
def _why_not_linear(model: BayesianModel, x: Tensor) -> str | None:
    """Differences of the outputs must add up, in every quadrant of two random directions."""
    origin = torch.zeros_like(model.layout.ravel(model.initial_params()))
    generator = torch.Generator(device=origin.device).manual_seed(0)
    u, v = torch.randn(
        2, len(origin), generator=generator, dtype=origin.dtype, device=origin.device
    )

    def f(flat: Tensor) -> Tensor:
        return model.outputs(model.layout.unravel(flat), x)

    start = f(origin)
    for a, b in ((u, v), (u, -v), (-u, -v)):
        whole, parts = f(a + b) - start, f(a) + f(b) - 2 * start
        tolerance = 1e3 * torch.finfo(origin.dtype).eps * (1 + parts.abs().max())
        if not float((whole - parts).abs().max()) <= float(tolerance):  # NaN too
            return (
                f"the exact posterior needs a net linear in its parameters; {model.name} is "
                f"not: f(u + v) differs from f(u) + f(v) - f(0). Use laplace, mean-field or NUTS."
            )
    return None


def _why_not_conjugate(model: BayesianModel) -> str | None:
    likelihood = model.likelihood
    if not is_exactly(likelihood, Gaussian) or likelihood.noise_prior is not None:
        return (
            f"the exact posterior needs a Gaussian likelihood with known noise; got "
            f"{likelihood.describe()}. Use Gaussian(scale=<number>), or another guide."
        )
    for name, site in model.sites.items():
        if not site.is_normal and site.is_proper:
            return (
                f"the exact posterior needs normal or flat priors; {name!r} has "
                f"{site.describe()}. Use NormalPrior or FlatPrior, or another guide."
            )
    return None
