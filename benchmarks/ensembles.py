"""Time ensembles: members in processes, one by one, and together by vmap or in a loop.

``python benchmarks/ensembles.py`` prints a Markdown report; ``--write`` puts it in
docs/benchmarks.md. Before anything is timed, contenders are shown to give equal results.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from report import setting, write_section
from setups import Digits, check_close, curve, lenet_model, load_digits, mlp_model
from timing import Comparison, Contender, compare, markdown
from torch import Tensor

from probml_tp import BayesianModel, Delta, Mixture, Posterior, fit, fit_ensemble
from probml_tp.inference.parallel import single_thread
from probml_tp.predictions.draws import is_dense
from probml_tp.streams import seeded

JOBS = 2


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        rounds: interleaved rounds.
        members: of every ensemble.
        batch: points a step.
        steps: steps a round of the MLP; LeNet's are a fiftieth.
        points: points of the MLP's fit.
        mlp_epochs: its epochs.
        digits: digits of LeNet's fit.
        lenet_epochs: its epochs.
    """

    rounds: int = 3
    members: int = 4
    batch: int = 100
    steps: int = 100
    points: int = 1_000
    mlp_epochs: int = 100
    digits: int = 5_000
    lenet_epochs: int = 2


QUICK = Size(rounds=1, steps=50, mlp_epochs=20, digits=1_000, lenet_epochs=1)

Data = tuple[Tensor, Tensor]


def steps(size: Size, digits: Digits) -> Iterator[Comparison]:
    """The members' losses and gradients on one batch."""
    x, y = digits.x[: size.batch], digits.y[: size.batch]
    yield losses_step("MLP 1-50-50-1", mlp_model(), curve(size.batch), size.steps, size)
    yield losses_step("LeNet", lenet_model(), (x, y), max(1, size.steps // 50), size)


def fits(size: Size, digits: Digits) -> Iterator[Comparison]:
    """Whole fits of deep ensembles."""
    yield ensemble_fit("MLP 1-50-50-1", mlp_model(), curve(size.points), size.mlp_epochs, size)
    x, y = digits.x[: size.digits], digits.y[: size.digits]
    yield ensemble_fit("LeNet", lenet_model(), (x, y), size.lenet_epochs, size)


PARTS = {"steps": steps, "fits": fits}


def losses_step(
    name: str, model: BayesianModel, data: Data, repeats: int, size: Size
) -> Comparison:
    """By vmap and in a loop; the first is what a fit picks for the net."""
    x, y = model.check_data(*data)
    ensemble = Mixture(model, member=Delta, members=size.members)
    with seeded(0):
        ensemble.prepare(x, y)
    losses = {
        how: partial(ensemble.losses, x, y, size=len(x), vectorize=how == "vmap")
        for how in ("vmap", "loop")
    }
    check_close("losses", losses["vmap"](), losses["loop"]())

    def step(loss: Callable[[], Tensor]) -> None:
        ensemble.zero_grad(set_to_none=True)
        loss().sum().backward()

    picked = "vmap" if is_dense(model.net) else "loop"
    order = sorted(losses, key=lambda how: how != picked)
    contenders = [Contender(how, partial(step, losses[how])) for how in order]
    task = f"Gradients of {size.members} MAP members, {name}, batch {len(x)}"
    return compare(task, contenders, rounds=size.rounds, steps=repeats)


def ensemble_fit(
    name: str, model: BayesianModel, data: Data, epochs: int, size: Size
) -> Comparison:
    """In processes, one by one, and as one joint fit."""
    options: dict[str, Any] = {"batch_size": size.batch, "lr": 1e-3, "progress": False}

    def apart(jobs: int, epochs: int) -> Posterior:
        return fit_ensemble(
            model, Delta, data, members=size.members, epochs=epochs, jobs=jobs, **options
        )

    def together() -> Posterior:
        make = partial(Mixture, member=Delta, members=size.members)
        return fit(model, make, data, epochs=epochs, **options)

    check_equal(apart(JOBS, 1), apart(1, 1))  # starts the processes, too
    contenders = [
        Contender(f"{JOBS} processes", partial(apart, JOBS, epochs)),
        Contender("one by one", partial(apart, 1, epochs)),
        Contender("together, same batches", together),
    ]
    task = f"Deep ensemble of {size.members}, {name}, {len(data[0]):,} points, {epochs} epochs"
    return compare(task, contenders, rounds=size.rounds, steps=1, warmup=0)


def check_equal(ours: Posterior, theirs: Posterior) -> None:
    """Refuse to time fits that do not find the same members, to the last bit."""
    ours_tensors, theirs_tensors = (p.guide.state_dict() for p in (ours, theirs))
    if not all(torch.equal(ours_tensors[n], theirs_tensors[n]) for n in theirs_tensors):
        raise RuntimeError("members depend on the number of processes.")


def run(size: Size, root: Path | None, parts: tuple[str, ...] = tuple(PARTS)) -> str:
    """Measure, and report in Markdown."""
    digits, comparisons = load_digits(size.digits, root), []
    start = time.perf_counter()
    with single_thread():
        for part in parts:
            for comparison in PARTS[part](size, digits):
                click.echo(f"{time.perf_counter() - start:4.0f} s  {comparison.task}", err=True)
                comparisons.append(comparison)
        report = setting(digits, f"{size.rounds} rounds")
    return "\n\n".join([report, markdown(comparisons)])


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="A minute-long pass: one round, 1,000 digits.")
@click.option("--only", type=click.Choice(list(PARTS)), multiple=True, help="Only these parts.")
@click.option("--write", is_flag=True, help="Put the figures into docs/benchmarks.md.")
@click.option("--data-root", type=click.Path(path_type=Path), help="Where the MNIST files are.")
def main(quick: bool, only: tuple[str, ...], write: bool, data_root: Path | None) -> None:
    text = run(QUICK if quick else Size(), data_root, only or tuple(PARTS))
    click.echo(text)
    if write:
        write_section("ensembles", text)


if __name__ == "__main__":
    main()
