"""Prior distributions over the parameters of a net.

A *prior* is any callable ``(name, parameter) -> distribution`` whose result has the
parameter's shape, or broadcasts to it. The classes here are the usual choices; a plain
function or lambda works as well. There is no default prior: a Bayesian model without an
explicit prior is not one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import biject_to

from probml_tp.layout import Layout
from probml_tp.validation import positive

__all__ = [
    "FanInNormalPrior",
    "FlatPrior",
    "LaplacePrior",
    "NormalPrior",
    "NormalSites",
    "Prior",
    "PriorSpec",
    "SiteDistribution",
    "StudentTPrior",
    "resolve_priors",
]

_HALF_LOG_2PI = 0.9189385332046727

Prior = Callable[[str, Tensor], TorchDistribution]
"""A prior: maps a parameter's name and its tensor (for shape, dtype) to a distribution."""

PriorSpec = Prior | Mapping[str, Prior]
"""One prior for every parameter, or a mapping from name patterns to priors."""


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
        positive("NormalPrior.scale", self.scale)

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
        positive("FanInNormalPrior.scale", self.scale)
        positive("FanInNormalPrior.bias_scale", self.bias_scale)

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
        positive("LaplacePrior.scale", self.scale)

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
        positive("StudentTPrior.df", self.df)
        positive("StudentTPrior.scale", self.scale)

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


class SiteDistribution(nn.Module):
    """A distribution whose tensor arguments are buffers, so that it moves with its module.

    Args:
        name: the site's name, for error messages.
        distribution: an element-wise distribution (empty event shape) that broadcasts to ``like``.
        like: a tensor of the site's shape; its type and device are taken over.

    Raises:
        ValueError: the distribution is discrete, has an event shape, does not broadcast, or is not
            determined by its tensor arguments.
    """

    def __init__(self, name: str, distribution: Any, like: Tensor) -> None:
        super().__init__()
        _check_elementwise(name, distribution, like.shape)
        self.shape = like.shape
        self._family: Any = type(distribution)
        improper = isinstance(distribution, dist.ImproperUniform)
        self._arguments = () if improper else tuple(distribution.arg_constraints)
        for argument in self._arguments:
            value = torch.as_tensor(getattr(distribution, argument)).to(like).detach().clone()
            self.register_buffer(argument, value, persistent=False)
        self.support: Any = distribution.support
        self._check_rebuilds(name)

    def _check_rebuilds(self, name: str) -> None:
        try:
            self.elementwise()
            biject_to(self.support)
        except (TypeError, NotImplementedError) as error:
            raise ValueError(
                f"a prior must be a family determined by its tensor arguments, on an interval of "
                f"the real line; the one for {name!r} is a {self._family.__name__}, which is not. "
                f"Use a plain family such as Normal, Laplace, StudentT or LogNormal."
            ) from error

    @property
    def is_normal(self) -> bool:
        """Whether the site is normal, hence its KL divergence to a normal guide analytic."""
        return self._family is dist.Normal

    @property
    def is_proper(self) -> bool:
        """Whether the density integrates to one (the flat prior's does not)."""
        return self._family is not dist.ImproperUniform

    def _arguments_now(self) -> dict[str, Tensor]:
        return {argument: getattr(self, argument) for argument in self._arguments}

    def base(self) -> TorchDistribution:
        """The distribution with its arguments as they are, which broadcast to ``shape``."""
        if not self.is_proper:
            return dist.ImproperUniform(self.support, self.shape, torch.Size())
        return cast("TorchDistribution", self._family(**self._arguments_now(), validate_args=False))

    def elementwise(self) -> TorchDistribution:
        """The distribution with batch shape ``shape`` and scalar events."""
        return cast("TorchDistribution", self.base().expand(self.shape))

    def forward(self) -> TorchDistribution:
        """The distribution over the whole site: event shape ``shape``, empty batch shape."""
        return cast("TorchDistribution", self.elementwise().to_event(len(self.shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of ``value`` with shape ``(*batch, *shape)``, summed to ``(*batch,)``."""
        if not self.is_proper:
            return value.new_zeros(value.shape[: value.ndim - len(self.shape)])
        log_prob: Tensor = self.base().log_prob(value)
        return log_prob.sum(dim=tuple(range(-len(self.shape), 0))) if self.shape else log_prob

    def describe(self) -> str:
        """A text such as ``Normal(loc=0, scale=1)``, for specs and error messages."""
        parts = [f"{a}={_describe(getattr(self, a))}" for a in self._arguments]
        return f"{self._family.__name__}({', '.join(parts)})"


class NormalSites(nn.Module):
    r"""All sites with normal priors at once: one vector operation instead of one a site.

    Args:
        layout: the order of the sites in the flat vector.
        sites: every site's prior; those that are not normal are left out.
        like: a tensor of the net's type, on its device.

    Attributes:
        loc: their prior means.
        scale: their prior standard deviations.
        log_normalizer: :math:`\sum_i \log\sigma_i + \tfrac12\log 2\pi`.
        others: the names of the other sites.
    """

    loc: Tensor
    scale: Tensor
    _positions: Tensor | None

    def __init__(
        self, layout: Layout, sites: Mapping[str, SiteDistribution], *, like: Tensor
    ) -> None:
        super().__init__()
        self.others = [name for name, site in sites.items() if not site.is_normal]
        normal = [name for name in sites if name not in self.others]
        places = [torch.arange(layout.size)[layout.slices[name]] for name in normal]
        positions = torch.cat([torch.zeros(0, dtype=torch.long), *places])
        contiguous = bool((positions == torch.arange(len(positions))).all())
        self.register_buffer("_positions", None if contiguous else positions, persistent=False)
        for argument in ("loc", "scale"):
            values = [getattr(sites[n], argument).expand(sites[n].shape).flatten() for n in normal]
            joined = torch.cat([like.new_zeros(0), *values])
            self.register_buffer(argument, joined, persistent=False)
        self.log_normalizer = float(
            self.scale.double().log().sum() + len(positions) * _HALF_LOG_2PI
        )

    @property
    def index(self) -> slice | Tensor:
        """Where their elements stand in the flat vector.

        A slice where they come first, as they do if only the likelihood's own sites are not
        normal; else their positions.
        """
        return slice(0, len(self.loc)) if self._positions is None else self._positions

    def log_prob(self, flat: Tensor) -> Tensor:
        """Log prior of the normal sites at flat vectors ``(*draws, P)``: ``(*draws,)``."""
        z = (flat[..., self.index] - self.loc) / self.scale
        return -0.5 * z.square().sum(-1) - self.log_normalizer


def resolve_priors(
    prior: PriorSpec, parameters: Mapping[str, Tensor]
) -> dict[str, SiteDistribution]:
    """Give every parameter its distribution.

    Args:
        prior: one prior for all, or a mapping from a name or shell-style pattern
            (``"fc1.*"``, ``"*.bias"``) to a prior; an exact name wins over patterns, and among
            patterns the first that matches wins.
        parameters: the net's parameters by name.

    Returns:
        A site distribution for each parameter name.

    Raises:
        ValueError: a pattern matches no parameter, or a parameter has no prior.

    Example:
        >>> spec = {"bias": NormalPrior(10.0), "*": NormalPrior(1.0)}
        >>> sites = resolve_priors(spec, dict(nn.Linear(2, 1).named_parameters()))
        >>> sites["bias"].describe()
        'Normal(loc=0, scale=10)'
    """
    lookup = _lookup(prior, list(parameters)) if isinstance(prior, Mapping) else None
    sites = {}
    for name, parameter in parameters.items():
        chosen = lookup[name] if lookup is not None else prior
        if not callable(chosen):
            raise ValueError(
                f"a prior is a callable (name, parameter) -> distribution; got {chosen!r} for "
                f"{name!r}. Pass for example NormalPrior(scale=1.0)."
            )
        sites[name] = SiteDistribution(name, chosen(name, parameter), parameter)
    return sites


def _lookup(priors: Mapping[str, Prior], names: list[str]) -> dict[str, Prior]:
    for pattern in priors:
        if pattern not in names and not any(fnmatchcase(n, pattern) for n in names):
            raise ValueError(
                f"a prior must name a parameter of the net; {pattern!r} matches none. "
                f"The net's parameters are {', '.join(names)}."
            )
    chosen: dict[str, Prior] = {}
    for name in names:
        patterns = [name] if name in priors else [p for p in priors if fnmatchcase(name, p)]
        if not patterns:
            raise ValueError(
                f"every parameter needs an explicit prior; {name!r} has none. "
                f"Add an entry for it, or a '*' entry for the rest."
            )
        chosen[name] = priors[patterns[0]]
    return chosen


def _check_elementwise(name: str, distribution: Any, shape: torch.Size) -> None:
    if not isinstance(distribution, TorchDistributionMixin):
        raise ValueError(
            f"a prior must give a distribution of pyro.distributions; the one for {name!r} gave "
            f"{type(distribution).__name__}. Use for example pyro.distributions.Normal(0, 1)."
        )
    support: Any = distribution.support
    if distribution.event_shape or support.is_discrete:
        raise ValueError(
            f"a prior must be continuous and independent over elements (empty event shape); "
            f"the one for {name!r} is {type(distribution).__name__} with event shape "
            f"{tuple(distribution.event_shape)}. Use an element-wise distribution."
        )
    try:
        broadcast = torch.broadcast_shapes(distribution.batch_shape, shape)
    except RuntimeError:
        broadcast = None
    if broadcast != shape:
        raise ValueError(
            f"a prior must broadcast to its parameter; the one for {name!r} has batch shape "
            f"{tuple(distribution.batch_shape)}, the parameter {tuple(shape)}. "
            f"Give the distribution's arguments a shape that broadcasts."
        )


def _like(parameter: Tensor, value: float) -> Tensor:
    return torch.as_tensor(value, dtype=parameter.dtype, device=parameter.device)


def _describe(value: Tensor) -> str:
    if value.numel() == 1:
        return f"{value.item():g}"
    return f"tensor{tuple(value.shape)} in [{value.min().item():g}, {value.max().item():g}]"
