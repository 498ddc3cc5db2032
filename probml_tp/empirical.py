"""A posterior known by its draws, such as a Markov chain's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.guide import Draws, Guide, Sites, check_num_samples
from probml_tp.model import BayesianModel

__all__ = ["Empirical"]


class Empirical(Guide):
    """The empirical distribution of stored draws.

    ``sample`` takes draws without replacement, spread evenly over the chains by the generator's
    permutation, as long as there are enough of them, and with replacement beyond.

    Args:
        model: the model.
        method: where the draws come from, such as ``"nuts"``; the posterior's name.
        draws: ``{site: (chains, draws, *shape)}``; empty only when a saved posterior is read.

    Example:
        >>> from probml_tp import BayesianModel, Gaussian, NormalPrior
        >>> model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.1))
        >>> draws = {"weight": torch.zeros(2, 50, 1, 1), "bias": torch.zeros(2, 50, 1)}
        >>> Empirical(model, draws=draws).sample(10)["bias"].shape
        torch.Size([10, 1])
    """

    name: ClassVar[str] = "empirical"
    no_density: ClassVar[str | None] = "an empirical distribution is known by its draws only"
    draws_are_stored: ClassVar[bool] = True

    @checked()
    def __init__(
        self,
        model: BayesianModel,
        *,
        method: str = "empirical",
        draws: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(model)
        self.name = method  # type: ignore[misc]
        empty = {n: torch.zeros(0, 0, *s) for n, s in model.layout.shapes.items()}
        given = empty if draws is None else draws
        self.register_buffer("flat", model.layout.ravel(given).to(model.dtype))

    flat: Tensor

    @property
    def chains(self) -> dict[str, Tensor]:
        """All draws by chain, ``{site: (chains, draws, *shape)}``."""
        return self.model.layout.unravel(self.flat)

    def _pick(self, count: int, generator: torch.Generator | None) -> Tensor:
        pool = self.flat.flatten(0, 1)
        device = self.flat.device
        if count > len(pool):
            index = torch.randint(len(pool), (count,), generator=generator, device=device)
        else:
            index = torch.randperm(len(pool), generator=generator, device=device)[:count]
        return pool[index]

    def site_distributions(self) -> Sites:
        """Point masses at one draw, picked at random."""
        picked = self.model.layout.unravel(self._pick(1, None)[0])
        for name, value in picked.items():
            yield name, dist.Delta(value, event_dim=value.ndim)

    @torch.no_grad()
    def sample(
        self, num_samples: int, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Stored draws in random order."""
        return self.model.layout.unravel(self._pick(check_num_samples(num_samples), generator))

    def log_prob(self, draws: Draws) -> Tensor:
        """Refused: see :attr:`no_density`."""
        raise ValueError(f"log_prob needs a density; {self.no_density}.")

    def loss(self, x: Tensor, y: Tensor, *, size: int) -> Tensor:
        """Refused: there is nothing to train."""
        raise ValueError("an empirical distribution has nothing to train; use sample_nuts.")

    def options(self) -> dict[str, Any]:
        """Where the draws come from."""
        return {"method": self.name}
