"""Likelihoods as a user would write them: one distribution, and a link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from probml_tp.likelihoods import RegressionLikelihood


class FromDistribution(RegressionLikelihood):
    """Targets of any distribution that the net's outputs give.

    Args:
        make: from outputs ``(*draws, batch, k)`` to a distribution ``(*draws, batch)``.
        targets: how many a point has, ``d``.
    """

    def __init__(self, make: Callable[[Tensor], Any], *, targets: int = 1) -> None:
        super().__init__()
        self.make, self.targets = make, targets

    def distribution(self, outputs: Tensor, params: Any) -> Any:
        return self.make(outputs)

    def log_prob(self, outputs: Tensor, y: Tensor, params: Any) -> Tensor:
        return self.make(outputs).log_prob(y)

    def moments(self, outputs: Tensor, params: Any) -> tuple[Tensor, Tensor]:
        made = self.make(outputs)
        column = (lambda v: v) if made.event_shape else (lambda v: v.unsqueeze(-1))
        return column(made.mean), column(made.variance)

    def check_outputs(self, shape: torch.Size) -> None:
        """Any."""

    def check_targets(self, y: Tensor, outputs: torch.Size) -> Tensor:
        return y.to(torch.get_default_dtype())

    def natural_inputs(self, outputs: Tensor, params: Any) -> Tensor:
        return outputs

    def fisher(self, outputs: Tensor, params: Any) -> Tensor:
        raise NotImplementedError


class NoFormula(TorchDistribution):
    """A distribution that can only be drawn from and that has a density, as many user-made ones.

    Args:
        base: the one that it is.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, base: TorchDistribution) -> None:
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.base.support

    @property
    def mean(self) -> Tensor:
        return self.base.mean

    @property
    def variance(self) -> Tensor:
        return self.base.variance

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.base.sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base.log_prob(value)


def rate(outputs: Tensor) -> Tensor:
    """Of a count, by the log link."""
    return outputs[..., 0].exp()


MAKERS: dict[str, Callable[[Tensor], Any]] = {
    "poisson": lambda f: dist.Poisson(rate(f)),
    "poisson without a formula": lambda f: NoFormula(dist.Poisson(rate(f))),
    "negative binomial": lambda f: dist.NegativeBinomial(
        3.0 * torch.ones_like(rate(f)), logits=f[..., 0]
    ),
    "gamma-poisson": lambda f: dist.GammaPoisson(2.0 * torch.ones_like(rate(f)), rate(f)),
    "zero-inflated": lambda f: dist.ZeroInflatedPoisson(
        rate(f), gate=0.3 * torch.ones_like(rate(f))
    ),
    "binomial": lambda f: dist.Binomial(12, logits=f[..., 0]),
    "geometric": lambda f: dist.Geometric(logits=f[..., 0]),
    "beta-binomial": lambda f: dist.BetaBinomial(rate(f), 2.0 * torch.ones_like(rate(f)), 9),
    "student": lambda f: dist.StudentT(3.0, f[..., 0], 0.5),
    "gamma": lambda f: dist.Gamma(2.0, rate(f)),
    "gamma without a formula": lambda f: NoFormula(dist.Gamma(2.0, rate(f))),
    "beta": lambda f: dist.Beta(2.0 * rate(f), 3.0 * torch.ones_like(rate(f))),
    "lognormal": lambda f: dist.LogNormal(f[..., 0], 0.4),
    "laplace": lambda f: dist.Laplace(f[..., 0], 0.4),
    "exponential": lambda f: dist.Exponential(rate(f)),
    "inverse gamma": lambda f: dist.InverseGamma(4.0 * torch.ones_like(rate(f)), rate(f)),
    "weibull": lambda f: dist.Weibull(rate(f), 1.5 * torch.ones_like(rate(f))),
}
"""From the outputs to the distribution of the targets."""
