"""Prior distributions over the parameters of a net.

A *prior* is a distribution, such as ``dist.Normal(0.0, 1.0)``, or any callable ``(name, parameter)
-> distribution``; it has the parameter's shape, or broadcasts to it. The classes here are the usual
choices; a plain function or lambda works as well. There is no default prior: a Bayesian model
without an explicit prior is not one.

A hierarchical model has priors that depend on other sites: :class:`ConditionalPrior`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from fnmatch import fnmatchcase
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Distribution, biject_to

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import plain, positive
from probml_tp.layout import Layout

__all__ = [
    "ConditionalPrior",
    "ConditionalSite",
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


class SiteDistribution(nn.Module):
    """A distribution whose tensor arguments are buffers, so that it moves with its module.

    Args:
        name: the site's name, for error messages.
        distribution: an element-wise distribution (empty event shape) that broadcasts to ``like``.
        like: a tensor of the site's shape; its type and device are taken over.

    Raises:
        ValueError: the distribution is discrete, has an event shape, does not broadcast, or is not
            determined by its tensor arguments.

    Attributes:
        shape: the site's shape.
        support: where the distribution lives.
        given: the sites that it depends on, none here; where there are some, their values are
            arguments of the methods that follow.
    """

    shape: torch.Size
    support: Any
    given: tuple[str, ...] = ()

    def __init__(self, name: str, distribution: Any, like: Tensor) -> None:
        super().__init__()
        distribution = _of_pyro(distribution)
        _check_elementwise(name, distribution, like.shape)
        self.shape = like.shape
        self._family: Any = type(distribution)
        improper = isinstance(distribution, dist.ImproperUniform)
        self._arguments = () if improper else tuple(distribution.arg_constraints)
        for argument in self._arguments:
            value = torch.as_tensor(getattr(distribution, argument)).to(like).detach().clone()
            self.register_buffer(argument, value, persistent=False)
        self.support = distribution.support
        self._check_rebuilds(name)
        if self._family.__module__.split(".")[0] not in ("torch", "pyro"):
            self._check_density(name, distribution, like)

    def _check_density(self, name: str, distribution: Any, like: Tensor) -> None:
        """A family of the user's: its density is one for each element, and survives rebuilding."""
        places = _probe(like, self.shape, self.support)
        wanted, found = distribution.log_prob(places), self.base().log_prob(places)
        shape = getattr(wanted, "shape", None)
        if shape != places.shape:
            raise ValueError(
                f"log_prob of a prior must give one density for each element, of shape (draws, "
                f"*parameter), here {tuple(places.shape)}; that of {self._family.__name__} for "
                f"{name!r} gave {type(wanted).__name__ if shape is None else tuple(shape)}. Do "
                f"not sum over elements."
            )
        if not torch.allclose(found.to(wanted), wanted, rtol=0.02, atol=0.02):
            raise ValueError(
                f"a prior must be determined by its arg_constraints, {list(self._arguments)}; that "
                f"for {name!r}, a {self._family.__name__}, has another density when it is made "
                f"anew from them. List every argument of its constructor there."
            )

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
        """Whether the site is normal, hence its KL divergence to a normal guide analytic.

        A conditional prior is not: its parameters are random.
        """
        return self._family is dist.Normal and not self.given

    @property
    def is_proper(self) -> bool:
        """Whether the density integrates to one (the flat prior's does not)."""
        return self._family is not dist.ImproperUniform

    def _arguments_now(self) -> dict[str, Tensor]:
        return {argument: getattr(self, argument) for argument in self._arguments}

    def base(self, *given: Tensor) -> TorchDistribution:
        """The distribution with its arguments as they are, which broadcast to ``shape``."""
        if not self.is_proper:
            return dist.ImproperUniform(self.support, self.shape, torch.Size())
        return cast("TorchDistribution", self._family(**self._arguments_now(), validate_args=False))

    def elementwise(self, *given: Tensor) -> TorchDistribution:
        """The distribution with batch shape ``shape`` and scalar events."""
        return cast("TorchDistribution", self.base(*given).expand(self.shape))

    def forward(self, *given: Tensor) -> TorchDistribution:
        """The distribution over the whole site: event shape ``shape``, empty batch shape."""
        return cast("TorchDistribution", self.elementwise(*given).to_event(len(self.shape)))

    def log_prob(self, value: Tensor, *given: Tensor) -> Tensor:
        """Log density of ``value`` with shape ``(*batch, *shape)``, summed to ``(*batch,)``."""
        if not self.is_proper:
            return value.new_zeros(value.shape[: value.ndim - len(self.shape)])
        log_prob: Tensor = self.base(*given).log_prob(value)
        return log_prob.sum(dim=tuple(range(-len(self.shape), 0))) if self.shape else log_prob

    def describe(self) -> str:
        """A text such as ``Normal(loc=0, scale=1)``, for specs and error messages."""
        parts = [f"{a}={_describe(getattr(self, a))}" for a in self._arguments]
        return f"{self._family.__name__}({', '.join(parts)})"


class ConditionalSite(SiteDistribution):
    """The distribution of a site given others, from a :class:`ConditionalPrior`.

    Two are taken for the same if family and sites are, and the log density at two fixed places.

    Args:
        name: the site's name, for error messages.
        prior: the prior.
        like: a tensor of the site's shape; its type and device are taken over.
        sites: the sites known so far; those given are among them.

    Raises:
        ValueError: the family has no scalar events or a support that depends on its arguments, or
            the function of the arguments does not work, or not with draws in front.
    """

    def __init__(
        self,
        name: str,
        prior: ConditionalPrior,
        like: Tensor,
        sites: Mapping[str, SiteDistribution],
    ) -> None:
        nn.Module.__init__(self)
        self.name, self.prior = name, prior
        self.shape, self.given = like.shape, tuple(prior.given)
        self._family, self._arguments = prior.family, ()
        self._given_shapes = [sites[g].shape for g in self.given]
        self.support = _fixed_support(name, prior.family)
        values = _probe(like, self.shape, self.support)
        given = [_probe(like, sites[g].shape, sites[g].support) for g in self.given]
        places = self._check(values, given)
        self._text = (
            f"{prior.family.__name__} given {', '.join(self.given)}, of log density "
            f"{' and '.join(f'{place:.6g}' for place in places.tolist())} at two fixed places"
        )

    def base(self, *given: Tensor) -> TorchDistribution:
        """The distribution at values of the sites given, ``(*draws, *their shapes)``."""
        if len(given) != len(self.given):
            raise ValueError(
                f"the prior of {self.name!r} depends on {', '.join(self.given)}; got "
                f"{len(given)} values. Pass theirs, or use the model's log_prior()."
            )
        pairs = zip(given, self._given_shapes, strict=True)
        aligned = [_aligned(value, shape, len(self.shape)) for value, shape in pairs]
        made = self._family(*self.prior.arguments(*aligned), validate_args=False)
        return cast("TorchDistribution", made)

    def describe(self) -> str:
        """A text that identifies the distribution, for specs and error messages."""
        return self._text

    def _check(self, values: Tensor, given: list[Tensor]) -> Tensor:
        """The log density at two places; both at once has to be the same as one by one."""
        try:
            one_by_one = torch.stack(
                [self(*(g[k] for g in given)).log_prob(values[k]) for k in range(2)]
            )
            together = self.log_prob(values, *given)
            same = bool(torch.allclose(together, one_by_one, rtol=1e-4, atol=1e-6))
        except (RuntimeError, TypeError, IndexError, ValueError) as error:
            raise ValueError(
                f"a conditional prior's arguments must be a function of the sites given that "
                f"broadcasts to the parameter, and index from the end (mu[..., group]); that of "
                f"{self.name!r}, of shape {tuple(self.shape)} given {', '.join(self.given)}, "
                f"failed: {error}. Change the function."
            ) from error
        if not same:
            raise ValueError(
                f"a conditional prior's arguments must be the same whether draws are given one by "
                f"one or together; those of {self.name!r} are not. Index and sum from the end, as "
                f"in mu[..., group] and mu.mean(-1)."
            )
        return one_by_one


def _fixed_support(name: str, family: Any) -> Any:
    """The support of a family, if it is one for all arguments and of scalar events."""
    constraints = torch.distributions.constraints
    support = getattr(family, "support", None)
    if not isinstance(family, type) or not issubclass(family, TorchDistributionMixin):
        reason = "is not a class of pyro.distributions"
    elif support is None or constraints.is_dependent(support):
        reason = "has a support that depends on its arguments"
    elif support.is_discrete or support.event_dim:
        reason = "is discrete, or not of scalar events"
    else:
        return support
    raise ValueError(
        f"the family of a conditional prior must be a class of pyro.distributions on a fixed "
        f"interval of the real line; that of {name!r}, "
        f"{getattr(family, '__name__', repr(family))}, {reason}. Use for example dist.Normal, "
        f"dist.Gamma or dist.Beta, and rescale in the net."
    )


def _probe(like: Tensor, shape: torch.Size, support: Any) -> Tensor:
    """Two fixed places in a support, ``(2, *shape)``."""
    count = 2 * math.prod(shape)
    u = torch.sin(1 + torch.arange(count, dtype=torch.float64)).reshape(2, *shape)
    place: Tensor = biject_to(support)(u).to(like)
    return place


def _aligned(value: Tensor, shape: torch.Size, ndim: int) -> Tensor:
    """A value ``(*draws, *shape)`` with ones put between, so that ``ndim`` follow the draws."""
    missing = ndim - len(shape)
    if missing <= 0:
        return value
    draws = value.shape[: value.ndim - len(shape)]
    return value.reshape(*draws, *(1,) * missing, *shape)


class NormalSites(nn.Module):
    r"""All sites with normal priors at once: one vector operation instead of one a site.

    Args:
        layout: the order of the sites in the flat vector.
        sites: every site's prior; those that are not normal are left out.
        like: a tensor of the net's type, on its device.

    Attributes:
        log_normalizer: :math:`\sum_i \log\sigma_i + \tfrac12\log 2\pi`.
        others: the names of the other sites.
    """

    _loc: Tensor
    _scale: Tensor
    _positions: Tensor | None

    def __init__(
        self, layout: Layout, sites: Mapping[str, SiteDistribution], *, like: Tensor
    ) -> None:
        super().__init__()
        self.others = [name for name, site in sites.items() if not site.is_normal]
        normal = [name for name in sites if name not in self.others]
        self._size = sum(math.prod(sites[name].shape) for name in normal)
        first = normal == list(sites)[: len(normal)]
        positions = None if first else layout.positions(normal)
        self.register_buffer("_positions", positions, persistent=False)
        for argument in ("loc", "scale"):
            given = {name: cast("Tensor", getattr(sites[name], argument)) for name in normal}
            numbers = torch.cat([like.new_zeros(0), *(value.flatten() for value in given.values())])
            if not bool((numbers == numbers[:1]).all()):  # else one number stands for all
                values = [value.expand(sites[n].shape).flatten() for n, value in given.items()]
                numbers = torch.cat(values)
            else:
                numbers = numbers[:1].clone()
            self.register_buffer(f"_{argument}", numbers, persistent=False)
        log_scales = (
            sites[n].scale.double().log().expand(sites[n].shape).sum()  # type: ignore[operator]
            for n in normal
        )
        self.log_normalizer = float(sum(log_scales)) + self._size * _HALF_LOG_2PI

    @property
    def loc(self) -> Tensor:
        """Their prior means."""
        return self._loc.expand(self._size)

    @property
    def scale(self) -> Tensor:
        """Their prior standard deviations."""
        return self._scale.expand(self._size)

    @property
    def index(self) -> slice | Tensor:
        """Where their elements stand in the flat vector.

        A slice where they come first, as they do if only the likelihood's own sites are not
        normal; else their positions.
        """
        return slice(0, self._size) if self._positions is None else self._positions

    def log_prob(self, flat: Tensor) -> Tensor:
        """Log prior of the normal sites at flat vectors ``(*draws, P)``: ``(*draws,)``."""
        z = (flat[..., self.index] - self.loc) / self.scale
        return -0.5 * z.square().sum(-1) - self.log_normalizer


@checked(prior=None)
def resolve_priors(
    prior: PriorSpec,
    parameters: Mapping[str, Tensor],
    own: Mapping[str, SiteDistribution] | None = None,
    *,
    constants: Sequence[str] = (),
) -> dict[str, SiteDistribution]:
    """Give every parameter its distribution.

    Args:
        prior: one prior for all, or a mapping from a name or shell-style pattern
            (``"fc1.*"``, ``"*.bias"``) to a prior; an exact name wins over patterns, and among
            patterns the first that matches wins.
        parameters: the net's parameters by name.
        own: the likelihood's own sites.
        constants: names of the net's frozen parameters, which have no prior.

    Returns:
        A distribution for each site: the parameters, then the likelihood's own, but each after the
        sites that it depends on.

    Raises:
        ValueError: a pattern matches no parameter, or a parameter has no prior; conditional priors
            depend on unknown sites, or on each other in a circle.

    Example:
        >>> spec = {"bias": NormalPrior(10.0), "*": NormalPrior(1.0)}
        >>> sites = resolve_priors(spec, dict(nn.Linear(2, 1).named_parameters()))
        >>> sites["bias"].describe()
        'Normal(loc=0, scale=10)'
    """
    own = own or {}
    lookup = _lookup(prior, list(parameters), constants) if isinstance(prior, Mapping) else None
    made: dict[str, Any] = {}
    for name, parameter in parameters.items():
        chosen = lookup[name] if lookup is not None else prior
        if isinstance(chosen, Distribution):
            made[name] = chosen
            continue
        if isinstance(chosen, type) or not callable(chosen):
            raise ValueError(
                f"a prior is a callable (name, parameter) -> distribution, or a distribution; got "
                f"{'the class ' if isinstance(chosen, type) else ''}"
                f"{getattr(chosen, '__name__', repr(chosen))} for {name!r}. Pass for example "
                f"NormalPrior(scale=1.0)."
            )
        made[name] = chosen(name, parameter)
    given = {n: tuple(p.given) for n, p in made.items() if isinstance(p, ConditionalPrior)}
    sites: dict[str, SiteDistribution] = {}
    for name in _in_order([*parameters, *own], given):
        if name in own:
            sites[name] = own[name]
        elif name in given:
            sites[name] = ConditionalSite(name, made[name], parameters[name], sites)
        else:
            sites[name] = SiteDistribution(name, made[name], parameters[name])
    return sites


def _in_order(names: Sequence[str], given: Mapping[str, Sequence[str]]) -> list[str]:
    """The names in their order, but each after those it depends on."""
    order: list[str] = []

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            circle = " -> ".join((*above[above.index(name) :], name))
            raise ValueError(
                f"priors must not depend on each other in a circle; got {circle}. Give one of them "
                f"a prior of its own."
            )
        for other in given.get(name, ()):
            if other not in names:
                raise ValueError(
                    f"a conditional prior depends on sites of the model; that of {name!r} names "
                    f"{other!r}. They are {', '.join(names)}."
                )
            visit(other, (*above, name))
        if name not in order:
            order.append(name)

    for name in names:
        visit(name, ())
    return order


def _lookup(
    priors: Mapping[str, Prior], names: list[str], constants: Sequence[str]
) -> dict[str, Prior]:
    for pattern in priors:
        if pattern not in names and not any(fnmatchcase(n, pattern) for n in names):
            if frozen := [n for n in constants if n == pattern or fnmatchcase(n, pattern)]:
                raise ValueError(
                    f"a prior must name a random parameter of the net; {pattern!r} matches only "
                    f"{frozen[0]!r}, which is frozen (requires_grad is False). Leave the entry "
                    f"out, or call requires_grad_(True) on its layer."
                )
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


def _of_pyro(distribution: Any) -> Any:
    """The same of Pyro's family where it is of torch's."""
    if isinstance(distribution, TorchDistributionMixin):
        return distribution
    family = getattr(dist, type(distribution).__name__, None)
    if not isinstance(family, type) or not isinstance(distribution, Distribution):
        return distribution
    try:
        arguments = {name: getattr(distribution, name) for name in distribution.arg_constraints}
        return family(**arguments, validate_args=False)
    except (TypeError, ValueError, NotImplementedError):  # no family of scalars
        return distribution


def _check_elementwise(name: str, distribution: Any, shape: torch.Size) -> None:
    if not isinstance(distribution, TorchDistributionMixin):
        raise ValueError(
            f"a prior must be or give a distribution of pyro.distributions; that of {name!r} gave "
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


def _take_positive(prior: object, *fields: str) -> None:
    """Check fields of a frozen prior, and keep them as plain numbers."""
    for field in fields:
        value = positive(f"{type(prior).__name__}.{field}", getattr(prior, field))
        object.__setattr__(prior, field, value)


def _like(parameter: Tensor, value: float) -> Tensor:
    return torch.as_tensor(value, dtype=parameter.dtype, device=parameter.device)


def _describe(value: Tensor) -> str:
    if value.numel() == 1:
        return f"{value.item():g}"
    return f"tensor{tuple(value.shape)} in [{value.min().item():g}, {value.max().item():g}]"
