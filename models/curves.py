r"""Regressions with classical data: dugongs, a Gaussian process, cell images."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from probml_tp.likelihoods import Gaussian
from probml_tp.model import BayesianModel
from probml_tp.models.classic import F64, Classic, Draws, filled, half_normal, parameter
from probml_tp.models.logistic import logistic_regression
from probml_tp.priors import NormalPrior, Prior

__all__ = ["breast_cancer", "dugongs", "dugongs_line", "gaussian_process", "process_values"]


DUGONG_AGES = (
    1.0, 1.5, 1.5, 1.5, 2.5, 4.0, 5.0, 5.0, 7.0, 8.0, 8.5, 9.0, 9.5, 9.5, 10.0, 12.0, 12.0, 13.0,
    13.0, 14.5, 15.5, 15.5, 16.5, 17.0, 22.5, 29.0, 31.5,
)  # fmt: skip
DUGONG_LENGTHS = (
    1.80, 1.85, 1.87, 1.77, 2.02, 2.27, 2.15, 2.26, 2.47, 2.19, 2.26, 2.40, 2.39, 2.41, 2.50, 2.32,
    2.32, 2.43, 2.47, 2.56, 2.65, 2.47, 2.64, 2.56, 2.70, 2.72, 2.57,
)  # fmt: skip
DUGONG_SOURCE = "27 dugongs, Ratkowsky (1983), Carlin & Gelfand (1991)"


class _LogLine(nn.Module):
    """A straight line in the logarithm of the age."""

    def __init__(self) -> None:
        super().__init__()
        self.intercept, self.slope = parameter(0.0), parameter(0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.intercept + self.slope * x.log()


class _Growth(nn.Module):
    """A curve with an asymptote."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha, self.beta = parameter(2.5), parameter(1.0)
        self.decay = parameter(0.8)

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha - self.beta * self.decay**x


def _dugong_data() -> tuple[Tensor, Tensor]:
    ages, lengths = (torch.tensor(v, dtype=F64) for v in (DUGONG_AGES, DUGONG_LENGTHS))
    return ages.unsqueeze(-1), lengths


def dugongs_line() -> Classic:
    r"""Conjugate regression: the length of dugongs in metres on the logarithm of their age.

    .. math:: y_i \sim \mathcal N(a + b\log x_i, 0.09), \qquad a, b \sim \mathcal N(0, 2)

    Returns:
        Model and data; the exact posterior is normal, ``a`` and ``b`` correlated at about -0.9.

    Example:
        >>> dugongs_line().model.num_params
        2
    """
    model = BayesianModel(_LogLine(), NormalPrior(2.0), Gaussian(scale=0.09), name="dugongs-line")
    return Classic("dugongs-line", model, *_dugong_data(), DUGONG_SOURCE)


def dugongs() -> Classic:
    r"""A growth curve: the length of dugongs in metres by age in years (Carlin & Gelfand 1991).

    .. math:: y_i \sim \mathcal N(\alpha - \beta\lambda^{x_i}, \sigma), \quad
              \alpha \sim \mathcal N(2.5, 1),\ \beta \sim \mathcal N(1, 1),\
              \lambda \sim \mathrm{Uniform}(0.5, 1),\ \sigma \sim \mathrm{HalfNormal}(0.5)

    with ``decay`` for :math:`\lambda` and ``noise_scale`` for :math:`\sigma`.

    Returns:
        Model and data: the model of ``dugongs_data-dugongs_model`` of posteriordb, but for these
        proper priors.

    Example:
        >>> list(dugongs().model.sites)
        ['alpha', 'beta', 'decay', 'noise_scale']
    """
    prior: dict[str, Prior] = {
        "alpha": NormalPrior(1.0, loc=2.5),
        "beta": NormalPrior(1.0, loc=1.0),
        "decay": lambda _, p: dist.Uniform(p.new_tensor(0.5), p.new_tensor(1.0)),
    }
    likelihood = Gaussian(dist.HalfNormal(torch.tensor(0.5, dtype=F64)))
    model = BayesianModel(_Growth(), prior, likelihood, name="dugongs")
    return Classic("dugongs", model, *_dugong_data(), f"{DUGONG_SOURCE}; posteriordb")


GP_X = (-10.0, -8.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 8.0, 10.0)
GP_Y = (
    4.75906, 1.59423, 2.99548, 5.27501, 1.66472, 2.24347, 2.8914, 4.08681, 4.60588, 0.802364,
    3.92136,
)  # fmt: skip
GP_JITTER = 1e-8


class _Process(nn.Module):
    r"""Function values :math:`f = \alpha L(\rho) z` at the inputs of the data."""

    at: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.rho, self.alpha, self.z = parameter(6.0), parameter(1.0), filled(len(GP_X), 0.0)
        self.register_buffer("at", torch.tensor(GP_X, dtype=F64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        values = process_values(self.rho, self.alpha, self.z, self.at)
        return values[x[:, 0].long()].unsqueeze(-1)


def process_values(rho: Tensor, alpha: Tensor, z: Tensor, at: Tensor) -> Tensor:
    r""":math:`f = \alpha L z`, ``(*draws, N)``, where :math:`LL^\top` is the kernel.

    Args:
        rho: length scales ``(*draws,)``.
        alpha: standard deviations ``(*draws,)``.
        z: standard normal numbers ``(*draws, N)``.
        at: where the process is looked at, ``(N,)``.

    Returns:
        The function values.
    """
    squares = (at.unsqueeze(-1) - at).square()
    kernel = torch.exp(-0.5 * squares / rho[..., None, None].square())
    kernel = kernel + GP_JITTER * torch.eye(len(at), dtype=at.dtype, device=at.device)
    standard: Tensor = (torch.linalg.cholesky(kernel) @ z.unsqueeze(-1)).squeeze(-1)
    return alpha.unsqueeze(-1) * standard


def _process_quantities(draws: Draws) -> dict[str, Tensor]:
    at = torch.tensor(GP_X, dtype=F64).to(draws["z"])
    f = process_values(draws["rho"], draws["alpha"], draws["z"], at)
    return {name: draws[name] for name in ("rho", "alpha", "noise_scale")} | {"f": f}


def gaussian_process() -> Classic:
    r"""Gaussian process regression at eleven points, scales unknown.

    .. math:: y_i \sim \mathcal N(f_i, \sigma), \quad f \sim \mathcal N(0, K), \quad
              K_{ij} = \alpha^2 e^{-(x_i - x_j)^2/(2\rho^2)} + 10^{-8}\alpha^2\delta_{ij}

    with :math:`\rho \sim \mathrm{Gamma}(25, 4)`, :math:`\alpha \sim \mathrm{HalfNormal}(2)` and
    :math:`\sigma \sim \mathrm{HalfNormal}(1)` (``noise_scale``). The sites are the scales and ``z``
    with :math:`f = \alpha L(\rho) z`, :math:`z_i \sim \mathcal N(0, 1)`; the input of a point is
    its number. It is judged by the scales and ``f``.

    Returns:
        Model and data: ``gp_pois_regr-gp_regr`` of posteriordb, but that :math:`\sigma` is the
        standard deviation of the noise here, its variance there.

    Example:
        >>> gaussian_process().model.num_params
        14
    """
    prior: dict[str, Prior] = {
        "rho": lambda _, p: dist.Gamma(p.new_tensor(25.0), p.new_tensor(4.0)),
        "alpha": half_normal(2.0),
        "z": NormalPrior(1.0),
    }
    likelihood = Gaussian(dist.HalfNormal(torch.tensor(1.0, dtype=F64)))
    model = BayesianModel(_Process(), prior, likelihood, name="gaussian-process")
    x = torch.arange(len(GP_X), dtype=F64).unsqueeze(-1)
    y = torch.tensor(GP_Y, dtype=F64)
    return Classic("gaussian-process", model, x, y, "posteriordb", _process_quantities)


CANCER_FEATURES = ("mean radius", "mean texture", "mean smoothness", "mean concavity")


def breast_cancer() -> Classic:
    r"""Logistic regression: whether a tumour is benign (Street, Wolberg & Mangasarian 1993).

    Four standardised features of 569 cell images, weights and bias :math:`\mathcal N(0, 2.5)`.

    Returns:
        Model and data.

    Example:
        >>> breast_cancer().x.shape
        torch.Size([569, 4])
    """
    from sklearn.datasets import load_breast_cancer  # a second that other models need not wait

    data = load_breast_cancer()
    names = list(data.feature_names)
    x = torch.as_tensor(data.data, dtype=F64)[:, [names.index(name) for name in CANCER_FEATURES]]
    x = (x - x.mean(0)) / x.std(0, correction=0)
    model = logistic_regression(len(CANCER_FEATURES), prior=NormalPrior(2.5), num_classes=2)
    source = "Street, Wolberg & Mangasarian (1993), from scikit-learn"
    y = torch.as_tensor(data.target)
    return Classic("breast-cancer", model, x, y, source)
