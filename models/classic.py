"""What a classical posterior consists of, and the pieces that they are written with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from probml_tp.model import BayesianModel
from probml_tp.priors import Prior

__all__ = ["F64", "Classic", "Draws", "filled", "half_cauchy", "half_normal", "parameter"]

Draws = Mapping[str, Tensor]
F64 = torch.float64


def _themselves(draws: Draws) -> dict[str, Tensor]:
    return dict(draws)


@dataclass(frozen=True)
class Classic:
    """A posterior with a known answer.

    Args:
        name: what tables and the file of reference moments call it.
        model: the model.
        x: its inputs.
        y: its targets.
        quantities: a function of draws ``{site: (*draws, *shape)}`` that gives what the posterior
            is judged by, ``{name: (*draws, *shape)}``: the sites and what is derived from them.
        source: where model and data are from.

    Example:
        >>> from probml_tp.models import CLASSICS
        >>> schools = CLASSICS["eight-schools-centered"]()
        >>> schools.model.num_params, len(schools.y)
        (10, 8)
    """

    name: str
    model: BayesianModel
    x: Tensor
    y: Tensor
    source: str
    quantities: Callable[[Draws], Mapping[str, Tensor]] = _themselves

    @property
    def data(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets, as ``fit`` and ``sample_nuts`` take them."""
        return self.x, self.y


def parameter(value: float) -> nn.Parameter:
    """A scalar parameter of a net, in float64."""
    return nn.Parameter(torch.tensor(value, dtype=F64))


def filled(count: int, value: float) -> nn.Parameter:
    """A vector of ``count`` equal numbers, likewise."""
    return nn.Parameter(torch.full((count,), value, dtype=F64))


def half_cauchy(scale: float) -> Prior:
    """The prior of a scale with a heavy tail."""

    def prior(name: str, parameter: Tensor) -> TorchDistribution:
        made: TorchDistribution = dist.HalfCauchy(parameter.new_tensor(scale))
        return made

    return prior


def half_normal(scale: float) -> Prior:
    """The prior of a scale with a light tail."""

    def prior(name: str, parameter: Tensor) -> TorchDistribution:
        made: TorchDistribution = dist.HalfNormal(parameter.new_tensor(scale))
        return made

    return prior
