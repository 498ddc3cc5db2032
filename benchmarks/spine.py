"""Time the package's own steps against hand-written torch and against Pyro, in one run.

``python benchmarks/spine.py`` prints a Markdown report; ``--write`` puts it in docs/benchmarks.md.
Before anything is timed, contenders are shown to do the same work: equal losses at equal draws.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
from leapfrogs import leapfrog_step
from predictions import MEMORY_OF, dropout_prediction, loop_or_vmap, memory_of, peak_memory
from report import setting, verdict, write_section
from setups import (
    Digits,
    curve,
    lenet_model,
    load_digits,
    logistic_model,
    mlp_model,
    pyro_at_its_best,
    two_classes,
)
from steps import dropout_step, mean_field_step
from timing import Comparison, markdown

from probml_tp.streams import seeded


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        rounds: interleaved rounds of the steps and leapfrogs.
        steps: MLP steps a round; LeNet's are a tenth.
        batch: points a step.
        predict_rounds: rounds of the predictions.
        digits: points of the MC-dropout prediction.
        draws: draws of the predictions.
        leapfrogs: leapfrog steps a round.
    """

    rounds: int = 15
    steps: int = 200
    batch: int = 256
    predict_rounds: int = 3
    digits: int = 10_000
    draws: int = 100
    leapfrogs: int = 200

    @property
    def lenet_steps(self) -> int:
        """LeNet steps a round."""
        return max(1, self.steps // 10)


QUICK = Size(rounds=5, steps=50, predict_rounds=1, digits=1_000, leapfrogs=50)


def steps(size: Size, digits: Digits) -> Iterator[Comparison]:
    """One training step of mean-field and of MC dropout."""
    x, y = digits.x[: size.batch], digits.y[: size.batch]
    slow = {"rounds": size.rounds, "steps": size.lenet_steps}
    fast = {"rounds": size.rounds, "steps": size.steps}
    yield mean_field_step("LeNet", lenet_model(), x, y, **slow)
    yield mean_field_step("MLP 1-50-50-1", mlp_model(), *curve(size.batch), **fast)
    yield dropout_step(x, y, **slow)


def predictions(size: Size, digits: Digits) -> Iterator[Comparison]:
    """Averages over many draws."""
    options = {"draws": size.draws, "rounds": size.predict_rounds}
    yield dropout_prediction(digits, **options)
    yield loop_or_vmap("MLP 1-50-50-1", mlp_model(), curve(1000)[0], **options)
    yield loop_or_vmap("LeNet", lenet_model(), digits.x[: size.batch], **options)


def leapfrogs(size: Size, _: Digits) -> Iterator[Comparison]:
    """The inner loop of NUTS, on one thread as in ``sample_nuts``."""
    options = {"rounds": size.rounds, "leapfrogs": size.leapfrogs}
    yield leapfrog_step("logistic regression", logistic_model(), *two_classes(200), **options)
    yield leapfrog_step("MLP 1-50-50-1", mlp_model(), *curve(100), **options)


PARTS = {"steps": steps, "predictions": predictions, "leapfrogs": leapfrogs}


# ------------------------------------------------------------------------------------ the report


def verdicts(comparison: Comparison) -> Iterator[str]:
    """The aims, each with the figure that meets or misses it."""
    task, names = comparison.task, list(comparison.seconds)
    if by_hand := [n for n in names if n.startswith(("by hand", "plain,"))]:
        ratio = comparison.ratio(comparison.fastest(by_hand))
        yield verdict(f"{task}: {ratio:.2f} times the hand-written step", "at most 1.1", ratio, 1.1)
    if autonormal := [n for n in names if n.startswith("Pyro AutoNormal")]:
        ratio = comparison.ratio(comparison.fastest(autonormal))
        yield verdict(f"{task}: {ratio:.2f} times Pyro's step", "below 1", ratio, 1)
    if "plain loop" in names:
        ratio = comparison.ratio("plain loop")
        text = f"{task}: {1 / ratio:.1f} times as fast as the plain loop"
        yield verdict(text, "at least 8", ratio, 1 / 8)


def memory_report(size: Size, root: Path | None) -> str:
    """What MC-dropout prediction needs."""
    peaks = peak_memory(Path(__file__), digits=size.digits, draws=size.draws, root=root)
    added = ", ".join(f"{name} {peak:.0f} MiB" for name, peak in peaks.items())
    return (
        f"Peak memory that MC-dropout prediction ({size.draws} draws, {size.digits:,} digits) adds "
        f"to a process that has loaded the digits and built the net: {added}."
    )


def run(size: Size, root: Path | None, parts: tuple[str, ...] = tuple(PARTS)) -> str:
    """Measure, and report in Markdown."""
    digits = load_digits(size.digits, root)
    comparisons: list[Comparison] = []
    start = time.perf_counter()
    with seeded(0), pyro_at_its_best():
        for part in parts:
            for comparison in PARTS[part](size, digits):
                click.echo(f"{time.perf_counter() - start:4.0f} s  {comparison.task}", err=True)
                comparisons.append(comparison)
    aims = [line for comparison in comparisons for line in verdicts(comparison)]
    rounds = f"{size.rounds} rounds ({size.predict_rounds} of the predictions)"
    report = [setting(digits, rounds), *(["\n".join(aims)] if aims else []), markdown(comparisons)]
    if "predictions" in parts:
        report.append(memory_report(size, root))
    return "\n\n".join(report)


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="A minute-long pass: few rounds, 1,000 digits.")
@click.option("--only", type=click.Choice(list(PARTS)), multiple=True, help="Only these parts.")
@click.option("--write", is_flag=True, help="Put the figures into docs/benchmarks.md.")
@click.option("--data-root", type=click.Path(path_type=Path), help="Where the MNIST files are.")
@click.option("--digits", type=int, hidden=True, default=Size.digits)
@click.option("--draws", type=int, hidden=True, default=Size.draws)
@click.option("--memory-of", "memory", type=click.Choice(MEMORY_OF), hidden=True)
def main(
    quick: bool,
    only: tuple[str, ...],
    write: bool,
    data_root: Path | None,
    digits: int,
    draws: int,
    memory: str | None,
) -> None:
    if memory:
        click.echo(memory_of(memory, load_digits(digits, data_root), draws))
        return
    text = run(QUICK if quick else Size(), data_root, only or tuple(PARTS))
    click.echo(text)
    if write:
        write_section("spine", text)


if __name__ == "__main__":
    main()
