r"""What is predicted far from the data: the laws of two bases, and a Gaussian process beside them.

Far out the epistemic variance :math:`\phi(x)^\top\Sigma\phi(x)` of a basis is that of its largest
feature. Of powers of ``x`` it is the last, so that the variance tends to
:math:`\Sigma_{dd}\,x^{2d}`; Gaussian bumps all vanish, and the variance of a prediction tends to
:math:`1/\beta`. A Gaussian process with kernel :math:`s^2\exp(-(x - x')^2 / (2\ell^2))` has a bump
wherever one asks: its variance returns to that of its prior, :math:`s^2 + 1/\beta` (Rasmussen &
Williams 2006, section 2.2).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import pyro
import torch
from pyro.contrib.gp.kernels import RBF
from pyro.contrib.gp.models import GPRegression
from pyro.infer import Trace_ELBO
from torch import Tensor

from probml_tp.experiments.lines.kit import Data, to_numpy, weight_moments
from probml_tp.kit.common import Array
from probml_tp.posterior import Posterior
from probml_tp.predictions.predictive import RegressionPredictive


@dataclass(frozen=True)
class GaussianProcess:
    """A Gaussian process with its hyperparameters, and the data it is conditioned on."""

    regression: GPRegression
    variance: float
    lengthscale: float
    noise: float
    log_evidence: float
    seconds: float

    @torch.no_grad()
    def predict(self, x: Tensor) -> RegressionPredictive:
        """The predictive distribution, in closed form."""
        with pyro.get_param_store().scope():
            mean, variance = self.regression(x)
        noise = torch.full_like(mean, self.noise**2)
        return RegressionPredictive(0, None, mean, variance.clamp(min=0), noise)


def fit_gaussian_process(data: Data, *, noise: float, steps: int = 100) -> GaussianProcess:
    """Fit the variance and the length scale of an RBF kernel by the evidence, the noise known."""
    start = time.perf_counter()
    x, y = data
    kernel = RBF(1, variance=y.var(), lengthscale=x.std())
    with pyro.get_param_store().scope():
        gp = GPRegression(x, y, kernel, noise=y.new_tensor(noise**2), jitter=1e-10)
        gp.noise_unconstrained.requires_grad_(False)
        loss: Callable[[object, object], Tensor] = Trace_ELBO().differentiable_loss
        free = [parameter for parameter in gp.parameters() if parameter.requires_grad]
        optimizer = torch.optim.LBFGS(free, max_iter=steps, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = loss(gp.model, gp.guide)
            value.backward()
            return value

        optimizer.step(closure)
        evidence = -float(closure().detach())
        with torch.no_grad():
            variance, lengthscale = (
                float(torch.as_tensor(value)) for value in (kernel.variance, kernel.lengthscale)
            )
    seconds = time.perf_counter() - start
    return GaussianProcess(gp, variance, lengthscale, noise, evidence, seconds)


def polynomial_law(posterior: Posterior, *, prefix: str, decades: float = 3.0) -> dict[str, Array]:
    r"""The epistemic variance of a polynomial far out, beside its limit."""
    x = torch.logspace(0, decades, 81, dtype=torch.float64)
    variance = posterior.predict(x[:, None]).epistemic_variance
    covariance = weight_moments(posterior)[1]
    limit = covariance[-1, -1] * to_numpy(x) ** (2 * len(covariance) - 2)
    values = {"x": to_numpy(x), "variance": to_numpy(variance), "limit": limit}
    return {f"{prefix}.{name}": value for name, value in values.items()}
