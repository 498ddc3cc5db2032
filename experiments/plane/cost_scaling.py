r"""What an approximation of the posterior costs as a net grows: seconds and memory.

Nets with two hidden layers of the same width ``h`` on one data set; they have
:math:`P = h^2 + 5h + 1` parameters. The Laplace guides are timed from a given mode, which leaves
the curvature and its factorisation; the variational ones and MAP for a given number of steps, each
on all the data. So the levels of the two kinds are not to be compared, their growth is.

Memory is the rise of the process's resident memory during the fit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
from torch import Tensor

from probml_tp.guides import Laplace
from probml_tp.guides.recipes import RECIPES, FitSettings, Make, guides_for
from probml_tp.harness.experiment import Update
from probml_tp.inference import GuideFactory, fit
from probml_tp.inference.memory import peak_growth_mib
from probml_tp.inference.parallel import single_thread
from probml_tp.kit.common import Array
from probml_tp.model import BayesianModel
from probml_tp.models import mlp_classifier
from probml_tp.posterior import Posterior
from probml_tp.priors import NormalPrior

HOW = FitSettings(rates=0.2)

SCALED: Mapping[str, GuideFactory] = {
    guide: cast("Make", RECIPES[guide].make)(HOW)
    for guide in guides_for(
        "layers",
        without=(
            "reference",
            "ensemble",
            "laplace-linearized",
            "concrete-dropout",
            "gaussian-dropout",
        ),
    )
} | {"laplace": partial(Laplace, max_params=1_000_000)}  # bounded by memory here
"""The guides whose cost is measured, MAP first: the Laplace guides start from it."""

PER_DECADE = 2
MATRICES = 7
"""Square matrices of double precision that the full Laplace approximation holds, as measured."""

LEAST_MIB = 1.0
"""Growth below it is the allocator's, not the guide's: no exponent is found from it."""


@dataclass(frozen=True)
class Cost:
    """What one fit costs."""

    guide: str
    params: int
    seconds: float
    mib: float


def width_for(params: float) -> int:
    """The width of the hidden layers whose net has about so many parameters."""
    return max(1, round((math.sqrt(21 + 4 * params) - 5) / 2))


def ladder(most: int) -> list[int]:
    """Widths whose nets have from 100 to ``most`` parameters, two a decade."""
    steps = round(PER_DECADE * math.log10(most / 100))
    return [width_for(100 * 10 ** (step / PER_DECADE)) for step in range(steps + 1)]


def full_laplace_mib(params: int) -> float:
    """The memory that the full Laplace approximation needs: seven matrices in double precision."""
    return MATRICES * 8 * params**2 / 2**20


def measure_costs(
    data: tuple[Tensor, Tensor],
    *,
    most: int,
    steps: int,
    repeats: int,
    limit_mib: float,
    seed: int,
    update: Update,
) -> list[Cost]:
    """Fit every guide to nets of growing width, on one thread."""
    found: list[Cost] = []
    widths = ladder(most)
    with single_thread():
        for done, width in enumerate([widths[0], *widths]):
            if done == 1:
                found.clear()  # the first fits of a process load what they need
            model = mlp_classifier(
                data[0].shape[1], hidden=(width, width), prior=NormalPrior(1.0), seed=seed
            )
            update(max(done - 1, 0), len(widths), f"{model.num_params:,} parameters")
            start: Posterior | None = None
            for guide, factory in sorted(SCALED.items(), key=lambda one: one[0] != "map"):
                if guide == "laplace" and full_laplace_mib(model.num_params) > limit_mib:
                    continue
                cost, posterior = _cost(guide, factory, model, data, start, steps, repeats, seed)
                found.append(cost)
                start = posterior if guide == "map" else start
    update(len(widths), len(widths))
    return found


def _cost(
    guide: str,
    factory: GuideFactory,
    model: BayesianModel,
    data: tuple[Tensor, Tensor],
    start: Posterior | None,
    steps: int,
    repeats: int,
    seed: int,
) -> tuple[Cost, Posterior]:
    seconds, growths = [], []
    for _ in range(repeats):
        with peak_growth_mib() as growth:
            begin = time.perf_counter()
            if start is not None and RECIPES[guide].cost == "curvature":
                posterior = _curvature(factory, model, data, start)
            else:
                posterior = fit(model, factory, data, epochs=steps, seed=seed, progress=False)
            seconds.append(time.perf_counter() - begin)
            growths.append(growth())
    return Cost(guide, model.num_params, min(seconds), min(growths)), posterior


def _curvature(
    factory: GuideFactory, model: BayesianModel, data: tuple[Tensor, Tensor], start: Posterior
) -> Posterior:
    """A Laplace guide where ``start`` is, a mode or not: the cost is that of the curvature."""
    guide = cast("Laplace", factory(model))
    guide.loc.data = cast("Tensor", start.guide.loc).detach().clone()
    x, y = model.check_data(*data)
    guide.prepare(x, y)
    guide.take_curvature(x, y)
    return Posterior(guide)


def growth_exponent(params: Sequence[float] | Array, values: Sequence[float] | Array) -> float:
    r"""The exponent ``a`` of :math:`\text{value} \propto P^a` over the last tenfold of ``P``."""
    p, v = np.asarray(params, dtype=float), np.asarray(values, dtype=float)
    kept = np.isfinite(v) & (v > 0) & (p >= 0.09 * p.max(initial=0.0))
    if kept.sum() < 2:
        return float("nan")
    return float(np.polyfit(np.log(p[kept]), np.log(v[kept]), 1)[0])


def exponents(costs: Iterable[Cost]) -> dict[str, dict[str, float]]:
    """How seconds and memory of each guide grow, over the last tenfold of its nets."""
    listed = list(costs)
    found = {}
    for guide in dict.fromkeys(cost.guide for cost in listed):
        own = [cost for cost in listed if cost.guide == guide]
        large = [cost for cost in own if cost.mib >= LEAST_MIB]
        slopes = {
            "seconds": growth_exponent([c.params for c in own], [c.seconds for c in own]),
            "memory": growth_exponent([c.params for c in large], [c.mib for c in large]),
            "most": float(own[-1].params),
        }
        found[guide] = {name: value for name, value in slopes.items() if np.isfinite(value)}
    return found
