"""What fits, predictions and records cost as data and nets grow: seconds, memory, exponents.

``python benchmarks/scaling.py`` prints a Markdown report; ``--write`` puts it in docs/scaling.md,
``--quick`` stops early. Each cell is measured in a process of its own, on one thread.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import click
import torch
from report import machine, write_section
from timing import added_mib
from torch import Tensor, nn

from probml_tp import (
    BayesianModel,
    Delta,
    Gaussian,
    Laplace,
    LowRankNormal,
    MCDropout,
    MeanFieldNormal,
    NormalPrior,
    Posterior,
    fit,
)
from probml_tp.inference import GuideFactory
from probml_tp.models import mlp_regressor

PAGE = Path(__file__).resolve().parents[1] / "docs" / "scaling.md"

BATCH = 1_000
DRAWS = 10
FEATURES = 10
FEW = 1_000
"""Points at which the size of the net grows."""

UNITS = 10
"""Hidden units of the net at which the data grow: 121 parameters."""

LIMIT = 240.0
"""Seconds beyond which the next larger size is left out."""

Data = tuple[Tensor, Tensor]
Work = Callable[[BayesianModel, Data], object]

MODE_IS_GIVEN = {"epochs": 0}
AN_EPOCH = {"epochs": 1, "batch_size": BATCH}


def fitted(
    guide: GuideFactory, options: Mapping[str, int], model: BayesianModel, data: Data
) -> Posterior:
    return fit(model, guide, data, progress=False, **options)  # type: ignore[arg-type]


def predicted(model: BayesianModel, data: Data) -> object:
    return Posterior(MeanFieldNormal(model)).predict(data[0], num_samples=DRAWS)


def recorded(model: BayesianModel, data: Data) -> object:
    return Posterior(MeanFieldNormal(model)).to_inference_data(*data, num_samples=DRAWS)


WORK: dict[str, Work] = {
    "MAP, an epoch": partial(fitted, Delta, AN_EPOCH),
    "mean-field, an epoch": partial(fitted, MeanFieldNormal, AN_EPOCH),
    "low-rank normal, an epoch": partial(fitted, LowRankNormal, AN_EPOCH),
    "MC dropout, an epoch": partial(fitted, partial(MCDropout, rates=0.2), AN_EPOCH),
    "Laplace, diagonal": partial(fitted, partial(Laplace, structure="diagonal"), MODE_IS_GIVEN),
    "Laplace, Kronecker": partial(fitted, partial(Laplace, structure="kronecker"), MODE_IS_GIVEN),
    "Laplace, last layer": partial(fitted, partial(Laplace, sites="last-layer"), MODE_IS_GIVEN),
    "Laplace, full": partial(fitted, Laplace, MODE_IS_GIVEN),
    f"predict, {DRAWS} draws": predicted,
    f"record for ArviZ, {DRAWS} draws": recorded,
}

RECORDED = 10_000_000
"""Numbers that a record may hold here: draws times the parameters and the points."""


def model_of(units: int) -> BayesianModel:
    """The net of one hidden layer, with ``12 units + 1`` parameters; of two, with ``units**2``."""
    prior = NormalPrior(1.0)
    if units <= 1_000:
        return mlp_regressor(FEATURES, hidden=(units,), prior=prior, likelihood=0.1)
    side = round(math.sqrt(12 * units))
    net = nn.Sequential(
        nn.Linear(FEATURES, side), nn.Tanh(), nn.Linear(side, side), nn.Tanh(), nn.Linear(side, 1)
    )
    return BayesianModel(net, prior, Gaussian(scale=0.1))


def data_of(points: int) -> Data:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(points, FEATURES, generator=generator)
    return x, x[:, 0].sin()


def measure(name: str, points: int, units: int) -> dict[str, float]:
    """Seconds and MiB of one cell, after a small one has loaded what it needs."""
    torch.set_num_threads(1)
    work = WORK[name]
    work(model_of(2), data_of(20))
    model, data = model_of(units), data_of(points)
    start = time.process_time()
    mib = added_mib(lambda: work(model, data))
    return {"P": model.num_params, "seconds": time.process_time() - start, "mib": mib}


def ladder(name: str, sizes: list[tuple[int, int]], grows: int) -> list[dict[str, float]]:
    """The cells of one row, until one takes too long or does not fit."""
    cells: list[dict[str, float]] = []
    for points, units in sizes:
        if name.startswith("record") and DRAWS * (points + 12 * units) > 10 * RECORDED:
            break
        command = [sys.executable, __file__, "--cell", name, str(points), str(units)]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if child.returncode:
            reason = child.stderr.strip().splitlines()[-1] if child.stderr.strip() else "killed"
            click.echo(f"{name}, N = {points:,}, {units:,} units: {reason}", err=True)
            break
        cells.append({"N": points, **json.loads(child.stdout.splitlines()[-1])})
        click.echo(f"{name}: {cells[-1]}", err=True)
        if cells[-1]["seconds"] * grows > LIMIT:
            break
    return cells


def exponent(cells: list[dict[str, float]], size: str, cost: str) -> str:
    """The slope of the logarithms over the largest two decades; nothing where costs are small."""
    least = {"seconds": 0.02, "mib": 2.0}[cost]
    own = [c for c in cells if c[cost] >= least and c[size] * 110 >= cells[-1][size]]
    if len(own) < 2:
        return "–"
    logs = [(math.log(c[size]), math.log(c[cost])) for c in own]
    x, y = (sum(column) / len(logs) for column in zip(*logs, strict=True))
    slope = sum((a - x) * (b - y) for a, b in logs) / sum((a - x) ** 2 for a, _ in logs)
    return f"{slope:.2f}"


def table(rows: Mapping[str, list[dict[str, float]]], size: str) -> str:
    """A line a row: seconds and MiB at each size, and how they grow."""
    sizes = sorted({cell[size] for cells in rows.values() for cell in cells})
    heads = [f"{size} = {value:,.0f}" for value in sizes]
    lines = [f"| | {' | '.join(heads)} | time ∝ {size}^ | memory ∝ {size}^ |",
             "|---" + "|--:" * (len(sizes) + 2) + "|"]  # fmt: skip
    for name, cells in rows.items():
        by_size = {cell[size]: cell for cell in cells}
        texts = [
            f"{by_size[s]['seconds']:.3g} s, {by_size[s]['mib']:.3g} MiB" if s in by_size else "–"
            for s in sizes
        ]
        powers = [exponent(cells, size, cost) for cost in ("seconds", "mib")]
        lines.append(f"| {name} | {' | '.join([*texts, *powers])} |")
    return "\n".join(lines)


def report(quick: bool) -> str:
    points = [10**k for k in range(3, 6 if quick else 8)]
    units = [10**k for k in range(1, 4 if quick else 8)]
    over_n = {name: ladder(name, [(n, UNITS) for n in points], 10) for name in WORK}
    over_p = {
        name: ladder(name, [(FEW, u) for u in units], 1_000 if name.endswith("full") else 30)
        for name in WORK
    }
    return "\n\n".join([
        f"{machine()}; one thread, CPU seconds, each cell in a fresh process.",
        f"Over the number of points, {12 * UNITS + 1} parameters:",
        table(over_n, "N"),
        f"Over the number of parameters, {FEW:,} points:",
        table(over_p, "P"),
    ])  # fmt: skip


@click.command()
@click.option("--quick", is_flag=True, help="Small sizes only.")
@click.option("--write", is_flag=True, help="Put the report in docs/scaling.md.")
@click.option("--cell", nargs=3, type=(str, int, int), hidden=True)
def main(quick: bool, write: bool, cell: tuple[str, int, int] | None) -> None:
    """Measure what grows."""
    if cell is not None:
        click.echo(json.dumps(measure(*cell)))
        return
    text = report(quick)
    click.echo(text)
    if write:
        write_section("growth", text, PAGE)


if __name__ == "__main__":
    main()
