"""The usual priors, as one states them: what each parameter's distribution is to be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import plain, positive

__all__ = [
    "ConditionalPrior",
    "FanInNormalPrior",
    "FlatPrior",
    "LaplacePrior",
    "NormalPrior",
    "Prior",
    "PriorSpec",
    "StudentTPrior",
]

Prior = Callable[[str, Tensor], "TorchDistribution | ConditionalPrior"] | Distribution
"""A prior: a distribution of each element, or a function of a parameter's name and its tensor."""

PriorSpec = Prior | Mapping[str, Prior]
"""One prior for every parameter, or a mapping from name patterns to priors."""


@checked(scale=None)
@dataclass(frozen=True)
class NormalPrior:
    r"""Independent normal prior, :math:`\theta_i \sim \mathcal N(\mu, s^2)`.

    The precision of the textbook (Bishop 2006, eq. 3.52) is :math:`\alpha = s^{-2}`.

    Args:
        scale: standard deviation ``s``, in the parameter's units.
        loc: mean ``mu``.

    Raises:
        ValueError: ``scale`` is not positive and finite.

    Example:
        >>> NormalPrior(scale=2.0)("weight", torch.zeros(3)).scale
        tensor(2.)
    """

    scale: float = 1.0
    loc: float = 0.0

    def __post_init__(self) -> None:
        _take_positive(self, "scale")
        object.__setattr__(self, "loc", plain(self.loc))

    @classmethod
    def from_precision(cls, precision: float) -> NormalPrior:
        r"""The prior with precision :math:`\alpha`: standard deviation :math:`\alpha^{-1/2}`."""
        return cls(scale=positive("precision", precision) ** -0.5)

    def __call__(self, name: str, parameter: Tensor) -> TorchDistribution:
        """The distribution of one element, broadcast over the parameter by the model."""
        return dist.Normal(_like(parameter, self.loc), _like(parameter, self.scale))


@dataclass(frozen=True)
class FanInNormalPrior:
    r"""Normal prior whose weight variance is divided by the fan-in (Neal 1996, section 2.1).

    Weights of a layer with ``k`` inputs get :math:`\mathcal N(0, s^2 / k)`, so that the prior
    over functions has a limit as layers widen; one-dimensional parameters (biases) get
    :math:`\mathcal N(0, b^2)`.

    Args:
        scale: ``s``, the standard deviation of a unit's input for unit-variance activations.
        bias_scale: ``b``, the standard deviation of the biases.

    Raises:
        ValueError: a scale is not positive and finite.

    Example:
        >>> FanInNormalPrior(scale=1.0)("weight", torch.zeros(5, 4)).scale
        tensor(0.5000)
    """

    scale: float = 1.0
    bias_scale: float = 1.0

    def __post_init__(self) -> None:
        _take_positive(self, "scale", "bias_scale")

    def __call__(self, name: str, parameter: Tensor) -> TorchDistribution:
        """The distribution of one element, broadcast over the parameter by the model."""
        scale = self.bias_scale
        if parameter.ndim > 1:
            scale = self.scale / math.sqrt(parameter[0].numel())
        return dist.Normal(_like(parameter, 0.0), _like(parameter, scale))


@dataclass(frozen=True)
class LaplacePrior:
    r"""Independent Laplace prior, density :math:`\propto \exp(-|\theta_i| / b)`: MAP is the lasso.

    Args:
        scale: ``b``.

    Raises:
        ValueError: ``scale`` is not positive and finite.

    Example:
        >>> LaplacePrior(scale=0.5)("weight", torch.zeros(3)).variance
        tensor(0.5000)
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        _take_positive(self, "scale")

    def __call__(self, name: str, parameter: Tensor) -> TorchDistribution:
        """The distribution of one element, broadcast over the parameter by the model."""
        loc, scale = _like(parameter, 0.0), _like(parameter, self.scale)
        return cast("TorchDistribution", dist.Laplace(loc, scale))


@dataclass(frozen=True)
class StudentTPrior:
    r"""Independent Student-t prior with ``df`` degrees of freedom: heavy tails, not log-concave.

    Heavy tails suit the trained weights of many nets (Fortuin et al. 2022,
    "Bayesian neural network priors revisited").

    Args:
        df: degrees of freedom; 1 is the Cauchy distribution.
        scale: scale of the distribution (its standard deviation only as ``df`` grows).

    Raises:
        ValueError: ``df`` or ``scale`` is not positive and finite.

    Example:
        >>> StudentTPrior(df=3.0)("weight", torch.zeros(3)).variance
        tensor(3.)
    """

    df: float = 3.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        _take_positive(self, "df", "scale")

    def __call__(self, name: str, parameter: Tensor) -> TorchDistribution:
        """The distribution of one element, broadcast over the parameter by the model."""
        df, loc, scale = (_like(parameter, v) for v in (self.df, 0.0, self.scale))
        return cast("TorchDistribution", dist.StudentT(df, loc, scale))


@dataclass(frozen=True)
class FlatPrior:
    r"""The improper flat prior :math:`p(\theta) \propto 1`: the limit :math:`\alpha \to 0`.

    The posterior is proper only if the data determine every parameter; it has no evidence,
    and prior draws are refused.

    Example:
        >>> FlatPrior()("weight", torch.zeros(3)).log_prob(torch.ones(3))
        tensor([0., 0., 0.])
    """

    def __call__(self, name: str, parameter: Tensor) -> TorchDistribution:
        """The improper density, constant 1 on the real line."""
        return dist.ImproperUniform(
            torch.distributions.constraints.real, parameter.shape, torch.Size()
        )


def _as_they_are(*given: Tensor) -> Sequence[Tensor]:
    return given


@checked(given=None)
@dataclass(frozen=True)
class ConditionalPrior:
    r"""A prior that depends on other sites, :math:`\theta \sim p(\theta \mid \mu, \tau)`.

    The elements are independent given those sites. The sites named are sampled before it, whatever
    the order of the net's parameters; they may have conditional priors themselves.

    Args:
        family: a class of ``pyro.distributions`` with scalar events, such as ``dist.Normal``.
        given: the names of the sites that it depends on: parameters of the net, or the likelihood's
            own.
        arguments: a function of their values, in the order of ``given``, that returns the family's
            arguments in order; by default the values are the arguments. It sees values with any
            number of draws in front, aligned with the parameter from the last dimension, so it has
            to index from the end, as in ``mu[..., group]``. Tensors that it holds stay where they
            are when the model moves.

    Raises:
        ValueError: ``given`` is empty. (The model checks the rest, once it knows the sites.)

    Example:
        >>> import pyro.distributions as dist
        >>> centred = ConditionalPrior(dist.Normal, given=("mu", "tau"))
        >>> funnel = ConditionalPrior(
        ...     dist.Normal, given=("v",), arguments=lambda v: (0.0, (v / 2).exp())
        ... )
        >>> funnel.given
        ('v',)
    """

    family: Callable[..., Any]
    _: KW_ONLY
    given: Sequence[str]
    arguments: Callable[..., Sequence[Any]] = _as_they_are

    def __post_init__(self) -> None:
        if isinstance(self.given, str) or not isinstance(self.given, Sequence) or not self.given:
            raise ValueError(
                f"a conditional prior names the sites that it depends on in a sequence; got "
                f"{self.given!r}. Pass for example given=('mu', 'tau')."
            )

    def __call__(self, name: str, parameter: Tensor) -> ConditionalPrior:
        """Itself: the model makes the distribution once it knows the other sites."""
        return self


def _take_positive(prior: object, *fields: str) -> None:
    """Check fields of a frozen prior, and keep them as plain numbers."""
    for field in fields:
        value = positive(f"{type(prior).__name__}.{field}", getattr(prior, field))
        object.__setattr__(prior, field, value)


def _like(parameter: Tensor, value: float) -> Tensor:
    return torch.as_tensor(value, dtype=parameter.dtype, device=parameter.device)
