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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np

from probml_tp.experiments.plane.kit import Data
from probml_tp.guides import Laplace
from probml_tp.guides.recipes import RECIPES, FitSettings, Make, guides_for
from probml_tp.harness.experiment import Figure, Results, Table, Update
from probml_tp.inference import GuideFactory, fit
from probml_tp.inference.memory import peak_growth_mib
from probml_tp.inference.parallel import single_thread
from probml_tp.kit.common import Array
from probml_tp.kit.sentences import BestWorst, Finding, Range, table_of
from probml_tp.model import BayesianModel
from probml_tp.models import mlp_classifier
from probml_tp.plots.style import (
    TRAINING_RANGE_COLOR,
    figure,
    guide_style,
    house_style,
    number,
    shared_legend,
)
from probml_tp.posterior import Posterior
from probml_tp.priors import NormalPrior

LIKE_OTHERS = ("laplace-linearized", "concrete-dropout", "gaussian-dropout")
"""The guides that cost what another of their family costs."""

SCALED: Mapping[str, GuideFactory] = {
    guide: cast("Make", RECIPES[guide].make)(FitSettings(rates=0.2))
    for guide in guides_for("layers", without=("reference", "ensemble", *LIKE_OTHERS))
} | {"laplace": partial(Laplace, max_params=1_000_000)}  # bounded by memory here

PER_DECADE = 2
MATRICES = 7
"""Square matrices of double precision that the full Laplace approximation holds, as measured."""

LEAST_MIB = 1.0
"""Growth below it is the allocator's, not the guide's: no exponent is found from it."""

TITLE = "Cost of the largest net measured"
COLUMNS = {
    "most": "Parameters",
    "seconds": "Time (s) ↓",
    "mib": "Memory (MiB) ↓",
    "seconds_exponent": "Exponent of time",
    "memory_exponent": "Exponent of memory",
}


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
    data: Data,
    *,
    most: int,
    steps: int,
    repeats: int,
    limit_mib: float,
    seed: int,
    update: Update,
) -> dict[str, Array]:
    """Parameters, seconds and MiB of every guide's fit to nets of growing width, on one thread."""
    found: dict[str, list[tuple[float, float, float]]] = {guide: [] for guide in SCALED}
    widths = ladder(most)
    with single_thread():
        for done, width in enumerate([widths[0], *widths]):
            model = mlp_classifier(
                data[0].shape[1], hidden=(width, width), prior=NormalPrior(1.0), seed=seed
            )
            update(max(done - 1, 0), len(widths), f"{model.num_params:,} parameters")
            train = partial(fit, model, data=data, epochs=steps, seed=seed, progress=False)
            seconds, mib, mode = _cost(partial(train, SCALED["map"]), repeats)
            costs = {"map": (seconds, mib)}
            for guide, factory in SCALED.items():
                full = guide == "laplace" and full_laplace_mib(model.num_params) > limit_mib
                if guide == "map" or full:
                    continue
                run = partial(train, factory)
                if RECIPES[guide].cost == "curvature":
                    run = partial(_curvature, factory, model, data, mode)
                costs[guide] = _cost(run, repeats)[:2]
            for guide in costs if done else ():  # the first fits of a process load what they need
                found[guide].append((model.num_params, *costs[guide]))
    update(len(widths), len(widths))
    return {guide: np.array(own) for guide, own in found.items() if own}


def _cost(run: Callable[[], Posterior], repeats: int) -> tuple[float, float, Posterior]:
    """Seconds and MiB of a fit, the least of the repeats, and its posterior."""
    seconds, growths = [], []
    for _ in range(repeats):
        with peak_growth_mib() as growth:
            begin = time.perf_counter()
            posterior = run()
            seconds.append(time.perf_counter() - begin)
            growths.append(growth())
    return min(seconds), min(growths), posterior


def _curvature(
    factory: GuideFactory, model: BayesianModel, data: Data, start: Posterior
) -> Posterior:
    """A Laplace guide where ``start`` is, a mode or not: the cost is that of the curvature."""
    guide = cast("Laplace", factory(model))
    guide.loc.data = cast("Any", start.guide.loc).detach().clone()
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


def cost_table(costs: Mapping[str, Array], *, steps: int) -> Table:
    """What the largest net of each guide costs, and how seconds and memory grow."""
    table = Table(
        f"{TITLE}, and the exponent of its growth with the number of parameters over the last "
        f"tenfold (trained guides: {steps} steps; Laplace: from a given mode)",
        "Guide",
        columns=COLUMNS,
    )
    for guide, own in costs.items():
        large = own[own[:, 2] >= LEAST_MIB]
        slopes = (growth_exponent(own[:, 0], own[:, 1]), growth_exponent(large[:, 0], large[:, 2]))
        row = dict(zip(COLUMNS, (*own[-1], *slopes), strict=True))
        table.put(guide, {name: value for name, value in row.items() if np.isfinite(value)})
    return table


def full_laplace(results: Results[Any]) -> str | None:
    """Where the full Laplace approximation stops."""
    limit = results.config.memory_limit
    sizes = results.arrays["costs.map"][:, 0].astype(int)
    own = results.arrays.get("costs.laplace", np.zeros((0, 3)))
    if len(own) < len(sizes):
        largest, refused = (sizes[len(own) - 1] if len(own) else 0), int(sizes[len(own)])
        return (
            f"Full-covariance Laplace stops at {largest:,} parameters: at {refused:,} its matrices "
            f"alone would need {full_laplace_mib(refused) / 1024:.1f} GiB, over the bound of "
            f"{limit:g} GiB."
        )
    if not np.isfinite(own[-1, 2]):
        return None
    return (
        f"Full-covariance Laplace reaches the largest net, {sizes[-1]:,} parameters, with "
        f"{own[-1, 2]:,.0f} MiB; its matrices meet the bound of {limit:g} GiB at "
        f"{int((1024 * limit / full_laplace_mib(1)) ** 0.5):,} parameters."
    )


COST_FINDINGS: tuple[Finding, ...] = (
    *(
        Range(
            f"{name}_exponent",
            f"{words} over the last tenfold of each guide's nets grows as the number of parameters "
            f"to the power: {{each}}.",
            table=TITLE,
            write=lambda value: number(value, ".1f"),
        )
        for name, words in (("seconds", "Time"), ("memory", "Memory"))
    ),
    full_laplace,
)


@house_style()
def cost_figure(results: Results[Any]) -> Figure:
    """Draw time and memory against the number of parameters, on logarithmic axes."""
    table = table_of(results, TITLE)
    assert table is not None  # noqa: S101 - run makes it
    made, axes = figure(1, 2, height=4.2)
    exponents = [table.column(f"{name}_exponent") for name in ("seconds", "memory")]
    for guide in table.rows:
        params, *costs = results.arrays[f"costs.{guide}"].T
        grown = ", ".join(number(a[guide], ".1f") if guide in a else "–" for a in exponents)
        style = replace(guide_style(guide), label=f"{guide_style(guide).label} ({grown})")
        for cost, ax in zip(costs, axes[0], strict=True):
            ax.plot(params, cost, **vars(style), markersize=5)
    limit = 1024 * results.config.memory_limit
    axes[0, 1].axhline(limit, color=TRAINING_RANGE_COLOR, linestyle=":", lw=1.2, label="bound")
    for ax, label in zip(axes[0], ("Time of the fit (s)", "Memory of the fit (MiB)"), strict=True):
        ax.set(xscale="log", yscale="log", xlabel="Number of parameters", ylabel=label)
    shared_legend(made, axes[0], columns=3)
    caption = (
        f"Trained guides: {results.config.steps} steps on all 1,000 moons; Laplace: the curvature "
        "at a given mode; so compare slopes, not levels. In the legend the exponents of time and "
        "memory over the last tenfold; the dotted line is the bound at which the full Laplace "
        "approximation is left out."
    )
    steepest = BestWorst(
        "seconds_exponent",
        "Time grows fastest under {best} (power {value})",
        table=TITLE,
        higher=True,
        write="{:.1f}".format,
    )
    most = table.column("most")
    title = (
        f"{steepest(results)}; full-covariance Laplace reaches {most.get('laplace', 0):,.0f} of "
        f"{max(most.values()):,.0f} parameters"
    )
    return Figure("cost-scaling", title, caption, made)
