r"""The contract that every guide (approximate posterior) meets.

A guide :math:`q(\theta)` is a module bound to one :class:`~probml_tp.model.BayesianModel`. It is
a real Pyro guide (call it), and has the same distribution as plain functions: draws, densities,
the objective to train it by. Contract tests run over every guide and every model.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Collection, Generator, Mapping
from typing import Any, ClassVar, cast

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from probml_tp.checks.values import positive_integer
from probml_tp.convergence import Convergence
from probml_tp.model import BayesianModel, check_model

__all__ = [
    "Draws",
    "Guide",
    "Sites",
    "check_draws",
    "check_loss",
    "check_num_atoms",
    "check_num_samples",
    "matches",
]

Draws = Mapping[str, Tensor]
"""Draws from a posterior: for each site a tensor ``(num_samples, *site shape)``."""

Sites = Generator[tuple[str, TorchDistribution], Tensor, None]
"""A guide's sites, one by one; what is sent in is the value sampled for the last one."""


class Guide(nn.Module, ABC):
    r"""An approximate posterior over the sites of a model.

    Subclasses are found by :attr:`name` when a saved posterior is loaded; the keyword arguments of
    their constructor are what :meth:`options` returns.

    Args:
        model: the model whose posterior is approximated; it is referred to, not owned.
    """

    name: ClassVar[str]
    """What tables, figures and files call the guide, such as ``"mean-field"``."""

    registry: ClassVar[dict[str, type[Guide]]] = {}

    no_density: ClassVar[str | None] = None
    """Why the guide has no Lebesgue density, or ``None`` if it has one."""

    draws_are_stored: ClassVar[bool] = False
    """Whether the guide holds its draws in memory already: then they are taken all at once."""

    model: BayesianModel

    def __init__(self, model: BayesianModel) -> None:
        super().__init__()
        object.__setattr__(self, "model", check_model(model))  # a reference, not a submodule

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Enter a concrete guide in the registry; what its own loss is a function of is unknown."""
        super().__init_subclass__(**kwargs)
        if "loss" in cls.__dict__ and "replayable_loss" not in cls.__dict__:
            cls.replayable_loss = False
        if not inspect.isabstract(cls) and "name" in cls.__dict__:
            Guide.registry[cls.name] = cls

    # ------------------------------------------------------------------------ the distribution

    @abstractmethod
    def site_distributions(self) -> Sites:
        """Generate the sites in order, each with its distribution given the ones before.

        The value sampled for a site is sent back into the generator, so that a correlated guide
        can condition the next site on it.
        """

    def forward(self, *args: object, **kwargs: object) -> dict[str, Tensor]:
        """The Pyro guide: one ``pyro.sample`` a site. Arguments are the model's, and not used."""
        values: dict[str, Tensor] = {}
        sites = self.site_distributions()
        try:
            name, distribution = next(sites)
            while True:
                values[name] = pyro.sample(name, distribution)
                name, distribution = sites.send(values[name])
        except StopIteration:
            return values

    @abstractmethod
    def sample(
        self, num_samples: int, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Independent draws, ``{site: (num_samples, *shape)}``, without gradients."""

    @abstractmethod
    def log_prob(self, draws: Draws) -> Tensor:
        r""":math:`\log q(\theta)` of each draw in nats, shape ``(num_samples,)``."""

    def kl(self) -> Tensor:
        r"""Analytic :math:`\mathrm{KL}(q \| p(\theta))` to the prior in nats, a scalar.

        Raises:
            ValueError: this guide has no closed form for this prior.
        """
        raise ValueError(
            f"the {self.name} guide has no analytic KL divergence to this prior; estimate it with "
            f"probml_tp.elbo."
        )

    @property
    def constant_sites(self) -> frozenset[str]:
        """Sites with the same value in every draw: what depends on them alone is computed once."""
        return frozenset()

    @property
    def is_variational_normal(self) -> bool:
        """Whether it is a normal in unconstrained space, trained by the evidence lower bound.

        Shifted, or stretched along a coordinate, it is to be of its family still.
        """
        return False

    @property
    def num_atoms(self) -> int | None:
        """The number of equally likely points that the guide consists of, ``None`` if not finite.

        Predictions then use each of them once: so many draws must be all of them.
        """
        return 1 if self.constant_sites == frozenset(self.model.sites) else None

    def outputs(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """What predictions use as the net's outputs at one draw: the net itself by default."""
        return self.model.outputs(params, x)

    def outputs_of_draws(self, params: Draws, x: Tensor) -> Tensor | None:
        """:meth:`outputs` at several draws at once, ``(S, N, k)``; ``None``: they go one by one."""
        return None

    def function_moments(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Mean ``(N, k)`` and covariance ``(N, k, k)`` of the outputs, where they are normal."""
        return None

    def conditional_draws(
        self, sites: Collection[str], num_samples: int, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor] | None:
        r"""Draws of some sites given all others, which are held at the guide's centre.

        Args:
            sites: those that vary.
            num_samples: ``S``.
            generator: determines the draws.

        Returns:
            ``{site: (S, *shape)}`` for every site, without gradients; ``None`` where the guide has
            no such conditional in closed form.
        """
        return None

    def around_centre(self, sites: Collection[str], deviation: Tensor) -> dict[str, Tensor]:
        """Move some sites away from :attr:`loc`, in unconstrained space.

        Args:
            sites: those that are moved.
            deviation: their deviations side by side, in the model's order, ``(S, p)``.

        Returns:
            Every site's own values ``(S, *shape)``; of the others one value, repeated without
            using memory.
        """
        loc, start, u = cast("Tensor", self.loc), 0, {}
        for name, centre in self.model.layout.unravel(loc.detach().clone()).items():
            u[name] = centre.expand(len(deviation), *centre.shape)
            if name in sites:
                stop = start + centre.numel()
                u[name] = u[name] + deviation[:, start:stop].reshape(u[name].shape)
                start = stop
        return self.model.constrain(u)

    # ----------------------------------------------------------------------------- fitting it

    deterministic_loss: ClassVar[bool] = False
    """Whether the loss draws no random numbers, as quasi-Newton optimisers need."""

    replayable_loss: ClassVar[bool] = False
    """Whether the loss is the same function of parameters, data and torch's random numbers at every
    step, as long as no attribute is set: then small fits replay it from a trace. To be said anew by
    a class that has a loss of its own.
    """

    @property
    def noise_by_example(self) -> bool:
        """Whether the loss draws random numbers for each example, not for the batch alone."""
        return False

    seeks_mode: ClassVar[bool] = False
    """Whether its centre is to be the mode of the log joint in unconstrained space."""

    @property
    def scaled_parameters(self) -> tuple[nn.Parameter, nn.Parameter] | None:
        """Means and log standard deviations ``(P,)`` if it learns such, of all coordinates."""
        return None

    def start_near(self, x: Tensor, y: Tensor) -> None:
        """Before automatic training: choose where to start by all the data."""

    def take_normal(self, loc: Tensor, scale: Tensor) -> None:
        """Become the normal of these means and standard deviations ``(P,)``, or nearly so.

        Raises:
            ValueError: it is no such normal.
        """
        raise ValueError(
            f"means and standard deviations are those of a variational normal; got the "
            f"{self.name} guide. Use MeanFieldNormal or LowRankNormal."
        )

    def covariance_times(self, vectors: Tensor) -> Tensor:
        r""":math:`\Sigma v` for vectors ``(S, P)``, of a variational normal.

        Raises:
            ValueError: it is none.
        """
        raise ValueError(
            f"a covariance to multiply by is that of a variational normal; got the {self.name} "
            f"guide. Use MeanFieldNormal or LowRankNormal."
        )

    def start_at(self, params: Mapping[str, Tensor]) -> None:
        """Move the centre of the guide to a value of every site, before it is trained.

        Raises:
            ValueError: the guide has no centre to move.
        """
        loc = getattr(self, "loc", None)
        if not isinstance(loc, nn.Parameter):
            raise ValueError(
                f"init needs a guide with a centre to start from; the {self.name} guide has none. "
                f"Leave init out."
            )
        loc.data = self.model.layout.ravel(self.model.unconstrain(params)).to(loc)

    def centre(self) -> dict[str, Tensor]:
        """The value of every site at the guide's centre, ``{site: shape}``, without gradients.

        That is the mode of MAP and Laplace, the mean of a normal, and of a dropout guide the
        weights with dropout off: a mask has mean 1.

        Raises:
            ValueError: the guide has no centre.
        """
        loc = getattr(self, "loc", None)
        if not isinstance(loc, Tensor):
            raise ValueError(
                f"this needs a guide with a centre; the {self.name} guide has none. Choose a "
                f"guide such as MAP, Laplace, a normal or dropout, or one member of a mixture."
            )
        return self.model.constrain(self.model.layout.unravel(loc.detach().clone()))

    def prepare(self, x: Tensor, y: Tensor) -> None:
        """Called once before optimisation, with all the data."""

    @abstractmethod
    def loss(self, x: Tensor, y: Tensor, *, size: int) -> Tensor:
        r"""The objective on a batch, per data point: :math:`-\mathrm{ELBO} / N` in nats.

        Args:
            x: inputs ``(B, ...)``.
            y: targets in canonical shape.
            size: ``N``.
        """

    @property
    def loss_passes(self) -> int:
        """How often one evaluation of the loss runs the net over its batch."""
        return 1

    @property
    def finalize_passes(self) -> int:
        """How often :meth:`finalize` runs the net over all the data."""
        return 0

    def end_epoch(self) -> None:
        """Called after each pass over the data, without gradients."""

    def finalize(self, x: Tensor, y: Tensor) -> None:
        """Called once after optimisation, with all the data: curvature, closed forms."""

    def convergence(self, x: Tensor, y: Tensor) -> Convergence | None:
        """Whether it has settled, on all the data; ``None``: nothing to tell, or not cheaply."""
        return None

    @property
    def is_trainable(self) -> bool:
        """Whether the guide has parameters to optimise."""
        return any(p.requires_grad for p in self.parameters())

    # ----------------------------------------------------------------------------- saving it

    def savable(self) -> Guide:
        """The guide that is saved in this one's place: itself, unless it cannot be rebuilt."""
        return self

    def options(self) -> dict[str, Any]:
        """The constructor's keyword arguments, in plain JSON types."""
        return {}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the parameters and buffers of a saved guide.

        Raises:
            ValueError: their names, shapes or types are not this guide's.
        """
        own = self.state_dict(keep_vars=True)
        if set(tensors) != set(own):
            raise ValueError(
                f"a saved {self.name} guide must hold the tensors {sorted(own)}; "
                f"got {sorted(tensors)}. The file was written by another version or guide."
            )
        for name, tensor in tensors.items():
            known = own[name]
            fits = len(known.shape) == len(tensor.shape) and known.dtype == tensor.dtype
            if not fits or any(
                k not in (0, s) for k, s in zip(known.shape, tensor.shape, strict=True)
            ):
                raise ValueError(
                    f"the tensor {name!r} of a saved {self.name} guide must have the shape "
                    f"{tuple(known.shape)} (0: any) and type {known.dtype}; got "
                    f"{tuple(tensor.shape)} and {tensor.dtype}. Save the posterior again."
                )
            known.data = tensor.to(self.model.device)


def check_draws(guide: Guide, draws: object, num_samples: int) -> Draws:
    """Return a guide's draws if they are of every site, in its shape; else raise ``ValueError``."""
    shapes = {n: (num_samples, *s.shape) for n, s in guide.model.sites.items()}
    if not isinstance(draws, Mapping) or set(draws) != set(shapes):
        names = sorted(draws) if isinstance(draws, Mapping) else type(draws).__name__
        raise ValueError(
            f"sample of the {guide.name} guide must return draws of the model's sites, "
            f"{sorted(shapes)}; got {names}. Return one tensor for each site, by its name."
        )
    for name, shape in shapes.items():
        got = tuple(draws[name].shape) if isinstance(draws[name], Tensor) else None
        if got != shape:
            raise ValueError(
                f"sample of the {guide.name} guide must return draws of shape (num_samples, "
                f"*site shape), for {name!r} {shape}; got "
                f"{type(draws[name]).__name__ if got is None else got}. Put the draws first."
            )
    return draws


def check_num_atoms(guide: Guide) -> int | None:
    """Return the number of points of a guide; raise ``ValueError`` if it is no such number."""
    count, name = guide.num_atoms, f"num_atoms of the {guide.name} guide"
    return None if count is None else positive_integer(name, count)


def check_loss(guide: Guide, loss: object) -> Tensor:
    """Return a guide's loss if it is a scalar to be differentiated; else raise ``ValueError``."""
    if not isinstance(loss, Tensor) or loss.ndim:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            f"loss of the {guide.name} guide must return a scalar, in nats per data point; got "
            f"{got}. Take the mean over draws and points."
        )
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise ValueError(
            f"loss of the {guide.name} guide must depend on its parameters; it has no gradient. "
            f"Compute it from the guide's nn.Parameters, without detach or no_grad."
        )
    return loss


def check_num_samples(num_samples: int) -> int:
    """Return ``num_samples`` if it is an integer of at least 1; else raise ``ValueError``."""
    return positive_integer("num_samples", num_samples)


def matches(draws: Tensor, value: Tensor) -> Tensor:
    """Which draws ``(num_samples, *shape)`` equal the value ``(*shape)`` in every element."""
    return (draws == value).reshape(len(draws), -1).all(1)
