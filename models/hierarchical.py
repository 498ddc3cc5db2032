r"""Hierarchical models: eight schools, rats, and the funnel that they have in common."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import positive_integer
from probml_tp.likelihoods import Gaussian, LocScaleGaussian
from probml_tp.model import BayesianModel
from probml_tp.models.classic import (
    F64,
    Classic,
    Draws,
    filled,
    half_cauchy,
    half_normal,
    parameter,
)
from probml_tp.priors import ConditionalPrior, NormalPrior, Prior

__all__ = ["eight_schools", "funnel", "rats"]


SCHOOLS_Y = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)
SCHOOLS_SIGMA = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)


class _Schools(nn.Module):
    """The effect of each school, and the standard error of its estimate, from the inputs."""

    def __init__(self, *, centered: bool) -> None:
        super().__init__()
        self.mu, self.tau = parameter(0.0), parameter(1.0)
        self.effects = "theta" if centered else "eta"
        self.register_parameter(self.effects, filled(8, 0.0))

    def forward(self, x: Tensor) -> Tensor:
        theta: Tensor = getattr(self, self.effects)
        if self.effects == "eta":
            theta = self.mu + self.tau * theta
        return torch.stack([theta[x[:, 0].long()], x[:, 1]], dim=-1)


def _effects(draws: Draws) -> dict[str, Tensor]:
    mu, tau = draws["mu"], draws["tau"]
    if "theta" in draws:
        theta = draws["theta"]
    else:
        theta = mu.unsqueeze(-1) + tau.unsqueeze(-1) * draws["eta"]
    return {"mu": mu, "tau": tau, "log_tau": tau.log(), "theta": theta}


@checked()
def eight_schools(*, centered: bool) -> Classic:
    r"""The effect of coaching in eight schools (Rubin 1981; Gelman et al. 2013, section 5.5).

    .. math:: y_j \sim \mathcal N(\theta_j, \sigma_j), \quad \theta_j \sim \mathcal N(\mu, \tau),
              \quad \mu \sim \mathcal N(0, 5), \quad \tau \sim \mathrm{HalfCauchy}(5)

    with known standard errors :math:`\sigma_j`, the second column of the inputs. Without centring
    :math:`\theta_j = \mu + \tau\eta_j`, :math:`\eta_j \sim \mathcal N(0, 1)`: the same posterior of
    ``mu``, ``tau`` and ``theta`` without the funnel.

    Args:
        centered: whether ``theta`` itself is a site.

    Returns:
        Model and data: ``eight_schools-eight_schools_centered`` or ``-noncentered`` of posteriordb.

    Example:
        >>> list(eight_schools(centered=False).model.sites)
        ['mu', 'tau', 'eta']
    """
    prior: dict[str, Prior] = {"mu": NormalPrior(5.0), "tau": half_cauchy(5.0)}
    if centered:
        prior["theta"] = ConditionalPrior(dist.Normal, given=("mu", "tau"))
    else:
        prior["eta"] = NormalPrior(1.0)
    name = f"eight-schools-{'centered' if centered else 'noncentered'}"
    model = BayesianModel(_Schools(centered=centered), prior, LocScaleGaussian(), name=name)
    sigma = torch.tensor(SCHOOLS_SIGMA, dtype=F64)
    x = torch.stack([torch.arange(8, dtype=F64), sigma], dim=-1)
    source = "Rubin (1981); Gelman et al. (2013), section 5.5; posteriordb"
    return Classic(name, model, x, torch.tensor(SCHOOLS_Y, dtype=F64), source, _effects)


class _Funnel(nn.Module):
    """Parameters that no observation depends on."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.v, self.z = parameter(0.0), filled(width, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def _funnel_scale(v: Tensor) -> tuple[float, Tensor]:
    return 0.0, (v / 2).exp()


def _funnel_quantities(draws: Draws) -> dict[str, Tensor]:
    return {"v": draws["v"], "log_abs_z": draws["z"].abs().log()}


@checked(width=positive_integer)
def funnel(*, width: int = 9) -> Classic:
    r"""Neal's funnel (Neal 2003, section 8): a scale on the log axis and what it scales.

    .. math:: v \sim \mathcal N(0, 3), \qquad z_k \mid v \sim \mathcal N(0, e^{v/2})

    One observation, on which nothing depends, stands for the data: the posterior is the prior. It
    is judged by ``v`` and :math:`\log|z_k|`, whose moments are exact and finite; the kurtosis of
    ``z`` is :math:`3 e^9`, so that no sample tells its variance.

    Args:
        width: the number of elements of ``z``.

    Returns:
        Model and data.

    Example:
        >>> funnel().model.sites["z"].given
        ('v',)
    """
    prior: dict[str, Prior] = {
        "v": NormalPrior(3.0),
        "z": ConditionalPrior(dist.Normal, given=("v",), arguments=_funnel_scale),
    }
    model = BayesianModel(_Funnel(width), prior, Gaussian(scale=1.0), name="funnel")
    nothing = torch.zeros(1, dtype=F64)
    source = "Neal (2003), section 8"
    return Classic("funnel", model, nothing.unsqueeze(-1), nothing, source, _funnel_quantities)


RAT_DAYS = (8.0, 15.0, 22.0, 29.0, 36.0)
RAT_WEIGHTS = (
    (151, 199, 246, 283, 320), (145, 199, 249, 293, 354), (147, 214, 263, 312, 328),
    (155, 200, 237, 272, 297), (135, 188, 230, 280, 323), (159, 210, 252, 298, 331),
    (141, 189, 231, 275, 305), (159, 201, 248, 297, 338), (177, 236, 285, 350, 376),
    (134, 182, 220, 260, 296), (160, 208, 261, 313, 352), (143, 188, 220, 273, 314),
    (154, 200, 244, 289, 325), (171, 221, 270, 326, 358), (163, 216, 242, 281, 312),
    (160, 207, 248, 288, 324), (142, 187, 234, 280, 316), (156, 203, 243, 283, 317),
    (157, 212, 259, 307, 336), (152, 203, 246, 286, 321), (154, 205, 253, 298, 334),
    (139, 190, 225, 267, 302), (146, 191, 229, 272, 302), (157, 211, 250, 285, 323),
    (132, 185, 237, 286, 331), (160, 207, 257, 303, 345), (169, 216, 261, 295, 333),
    (157, 205, 248, 289, 316), (137, 180, 219, 258, 291), (153, 200, 244, 286, 324),
)  # fmt: skip


class _Rats(nn.Module):
    """A straight line for each rat."""

    def __init__(self) -> None:
        super().__init__()
        count = len(RAT_WEIGHTS)
        self.mu_alpha, self.tau_alpha = parameter(240.0), parameter(15.0)
        self.mu_beta, self.tau_beta = parameter(6.0), parameter(0.5)
        self.alpha, self.beta = filled(count, 240.0), filled(count, 6.0)

    def forward(self, x: Tensor) -> Tensor:
        rat, day = x[:, 0].long(), x[:, 1] - 22
        return (self.alpha[rat] + self.beta[rat] * day).unsqueeze(-1)


def _rat_quantities(draws: Draws) -> dict[str, Tensor]:
    newborn = draws["mu_alpha"] - 22 * draws["mu_beta"]
    shown = {"alpha": draws["alpha"][..., :3], "beta": draws["beta"][..., :3]}
    names = ("mu_alpha", "tau_alpha", "mu_beta", "tau_beta", "noise_scale")
    return {name: draws[name] for name in names} | shown | {"newborn": newborn}


def rats() -> Classic:
    r"""Hierarchical regression: 30 young rats weighed five times (Gelfand et al. 1990).

    Rat ``i`` weighs, in grams, at day :math:`x_{ij}`

    .. math:: y_{ij} \sim \mathcal N(\alpha_i + \beta_i(x_{ij} - 22), \sigma), \quad
              \alpha_i \sim \mathcal N(\mu_\alpha, \tau_\alpha),\
              \beta_i \sim \mathcal N(\mu_\beta, \tau_\beta)

    with :math:`\mu_\alpha \sim \mathcal N(240, 50)`, :math:`\mu_\beta \sim \mathcal N(6, 5)`,
    :math:`\tau_\alpha \sim \mathrm{HalfNormal}(30)`, :math:`\tau_\beta \sim \mathrm{HalfNormal}(2)`
    and :math:`\sigma \sim \mathrm{HalfNormal}(20)` (``noise_scale``). It is judged by these, the
    lines of the first three rats, and the mean weight at birth, ``newborn``.

    Returns:
        Model and data: the model of ``rats_data-rats_model`` of posteriordb, but for these proper
        priors.

    Example:
        >>> rats().model.num_params
        65
    """
    prior: dict[str, Prior] = {
        "mu_alpha": NormalPrior(50.0, loc=240.0),
        "mu_beta": NormalPrior(5.0, loc=6.0),
        "tau_alpha": half_normal(30.0),
        "tau_beta": half_normal(2.0),
        "alpha": ConditionalPrior(dist.Normal, given=("mu_alpha", "tau_alpha")),
        "beta": ConditionalPrior(dist.Normal, given=("mu_beta", "tau_beta")),
    }
    likelihood = Gaussian(dist.HalfNormal(torch.tensor(20.0, dtype=F64)))
    model = BayesianModel(_Rats(), prior, likelihood, name="rats")
    y = torch.tensor(RAT_WEIGHTS, dtype=F64)
    rat = torch.arange(len(y), dtype=F64).repeat_interleave(len(RAT_DAYS))
    day = torch.tensor(RAT_DAYS, dtype=F64).repeat(len(y))
    source = "Gelfand et al. (1990); posteriordb"
    x = torch.stack([rat, day], dim=-1)
    return Classic("rats", model, x, y.flatten(), source, _rat_quantities)
