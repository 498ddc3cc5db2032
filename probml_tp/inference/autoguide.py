"""Any Pyro ``AutoGuide``, behind the contract of this package's guides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pyro
import pyro.infer.autoguide as autoguide
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.params.param_store import StateDict
from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.empirical import Empirical
from probml_tp.guide import Draws, Guide, Sites, check_num_samples
from probml_tp.model import BayesianModel
from probml_tp.streams import seeded

__all__ = ["AutoGuideAdapter"]

SAVED_DRAWS = 1000


class AutoGuideAdapter(Guide):
    """A Pyro automatic guide, trained by Pyro's own ``Trace_ELBO``.

    Its parameters are kept apart from Pyro's global store, so that two fits do not mix. It is saved
    as 1,000 draws, since the guide itself refers to a program.

    Args:
        model: the model.
        guide: an instance of a Pyro ``AutoGuide`` over ``model``, or a callable that makes one.

    Example:
        >>> from pyro.infer.autoguide import AutoNormal
        >>> from probml_tp import BayesianModel, Gaussian, NormalPrior, fit
        >>> model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.1))
        >>> x = torch.linspace(-1, 1, 20).unsqueeze(-1)
        >>> fit(model, AutoNormal, (x, x), epochs=3, progress=False).name
        'AutoNormal'
    """

    name: ClassVar[str] = "pyro-autoguide"
    no_density: ClassVar[str | None] = (
        "a Pyro AutoGuide gives its density at its own draws only; use this package's guides"
    )

    @checked()
    def __init__(
        self,
        model: BayesianModel,
        guide: autoguide.AutoGuide | Callable[[BayesianModel], autoguide.AutoGuide],
    ) -> None:
        super().__init__(model)
        self.guide = guide if isinstance(guide, autoguide.AutoGuide) else guide(model)
        if _program(self.guide) is not model:
            raise ValueError(
                f"a guide must belong to the model it is fitted for; this "
                f"{type(self.guide).__name__} was made for another. Pass the guide's class."
            )
        self.name = type(self.guide).__name__  # type: ignore[misc]
        self._store: StateDict = {"params": {}, "constraints": {}}

    @contextmanager
    def _own_parameters(self) -> Iterator[None]:
        """Swap Pyro's global parameter store for this guide's own."""
        with pyro.get_param_store().scope(self._store) as store:
            yield
        self._store = store

    def prepare(self, x: Tensor, y: Tensor) -> None:
        """Let the guide trace the model once, which creates its parameters."""
        with self._own_parameters():
            self.guide(x, y)

    def site_distributions(self) -> Sites:
        """Point masses at one draw of the guide."""
        for name, values in self.sample(1).items():
            yield name, pyro.distributions.Delta(values[0], event_dim=values.ndim - 1)

    @torch.no_grad()
    def sample(
        self, num_samples: int, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Draws one by one, as Pyro's guides give them."""
        device = self.model.device
        seed = int(torch.randint(2**31, (), generator=generator, device=device))
        with seeded(seed, device), poutine.block(), self._own_parameters():
            draws = [self.guide() for _ in range(check_num_samples(num_samples))]
        return {n: torch.stack([d[n] for d in draws]) for n in self.model.sites}

    def log_prob(self, draws: Draws) -> Tensor:
        """Refused: see :attr:`no_density`."""
        raise ValueError(f"log_prob needs a density; {self.no_density}.")

    def loss(self, x: Tensor, y: Tensor, *, size: int) -> Tensor:
        """Pyro's single-draw ELBO estimate, negated and per data point."""
        with self._own_parameters():
            loss: Tensor = Trace_ELBO().differentiable_loss(self.model, self.guide, x, y, size=size)
        return loss / size

    def finalize(self, x: Tensor, y: Tensor) -> None:
        """Pyro's Laplace guide is a point mass until its curvature is asked for: ask for it."""
        if isinstance(self.guide, autoguide.AutoLaplaceApproximation):
            with self._own_parameters():
                self.guide = self.guide.laplace_approximation(x, y)

    def savable(self) -> Guide:
        """The empirical distribution of 1,000 draws."""
        generator = torch.Generator(device=self.model.device).manual_seed(0)
        draws = {
            n: d.unsqueeze(0) for n, d in self.sample(SAVED_DRAWS, generator=generator).items()
        }
        return Empirical(self.model, method=self.name, draws=draws)

    def options(self) -> dict[str, Any]:
        """None: it is saved as draws."""
        return {}


def _program(guide: autoguide.AutoGuide) -> object:
    """The program that an AutoGuide approximates, without the handlers that Pyro wraps it in."""
    program: Any = guide.model
    while not isinstance(program, torch.nn.Module) and hasattr(program, "func"):
        program = program.func.args[-1]
    return program
