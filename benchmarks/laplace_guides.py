"""Time the Laplace guides, and their memory, against laplace-torch in one run.

``python benchmarks/laplace_guides.py`` prints a Markdown report; ``--write`` puts it in
docs/benchmarks.md. Before anything is timed, both sides are shown to have the same posterior and
function variances and the same predictive probabilities. The name is not ``laplace.py`` because
laplace-torch is imported as ``laplace``, and a script's own folder comes first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
from laplace_torch import LaplaceTorch, Settings
from report import setting, verdict, write_section
from setups import Digits, check_close, lenet_model, load_digits, wide_model
from timing import Comparison, Contender, added_mib, compare, fresh_process_mib, markdown
from torch import Tensor

from probml_tp import BayesianModel, LinearizedLaplace, Posterior
from probml_tp.streams import seeded

OURS = "ours"
RTOL = 1e-3
PACKAGES = ("laplace-torch", "curvlinops-for-pytorch", "backpack-for-pytorch")
MODELS: dict[str, Callable[[], BayesianModel]] = {"LeNet": lenet_model, "MLP": wide_model}

Work = Callable[[Tensor, Tensor], object]


@dataclass(frozen=True)
class Task:
    """What is timed.

    Args:
        structure: of the curvature.
        sites: which parameters are random.
        predicts: whether predictions are timed, else fits.
        points: how many digits.
        peers: settings of laplace-torch; the aims of speed-ups count the first.
        factor: how many times faster, and smaller in added memory, the aim is; 1 stands for no
            slower than the fastest of the peers.
    """

    structure: str
    sites: str
    predicts: bool
    points: int
    peers: tuple[Settings, ...]
    factor: int


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        rounds: interleaved rounds.
        jacobian_fit: points of the fit for which laplace-torch forms Jacobians.
        jacobian_predict: points of the predictions for which it does.
        fit: points of the other fits.
        predict: points of the other predictions.
        fitted: points that predictions are made from.
    """

    rounds: int = 3
    jacobian_fit: int = 500
    jacobian_predict: int = 200
    fit: int = 2_000
    predict: int = 10_000
    fitted: int = 200

    @property
    def digits(self) -> int:
        """How many digits are loaded."""
        return max(self.jacobian_fit, self.jacobian_predict, self.fit, self.predict, self.fitted)


QUICK = Size(rounds=1, jacobian_fit=50, jacobian_predict=50, fit=200, predict=1_000, fitted=50)

COMMON, FRUGAL = Settings(50), Settings(5)
"""A usual batch, and one at which laplace-torch's Jacobians, quadratic in it, are cheap."""


def tasks(size: Size) -> dict[str, Task]:
    """All that is timed, by name."""
    with_jacobians = (COMMON, FRUGAL)
    backpack = Settings(100, "BackPackGGN")
    fits = (Settings(100), Settings(500))
    return {
        "diagonal fit": Task(
            "diagonal", "all", False, size.jacobian_fit, (*with_jacobians, backpack), 10
        ),
        "Kronecker GLM prediction": Task(
            "kronecker", "all", True, size.jacobian_predict, with_jacobians, 10
        ),
        "Kronecker fit": Task("kronecker", "all", False, size.fit, fits, 1),
        "last-layer fit": Task("full", "last-layer", False, size.fit, (*fits, backpack), 1),
        "last-layer GLM prediction": Task("full", "last-layer", True, size.predict, fits, 1),
    }


# ------------------------------------------------------------------------------------- contenders


class Ours:
    """A linearised Laplace guide around the net's own weights.

    Args:
        model: the model.
        structure: of the curvature.
        sites: which parameters are random.
    """

    def __init__(self, model: BayesianModel, *, structure: str, sites: str) -> None:
        self.model = model
        self.guide = partial(LinearizedLaplace, structure=structure, sites=sites)

    def fit(self, x: Tensor, y: Tensor) -> Posterior:
        """The posterior, from the curvature where the weights are, be it a mode or not."""
        guide, data = self.guide(self.model), self.model.check_data(x, y)
        guide.prepare(*data)
        guide.take_curvature(*data)
        return Posterior(guide)

    def predict(self, fitted: Posterior, x: Tensor) -> Tensor:
        """Class probabilities by the probit approximation ``(N, k)``."""
        return fitted.predict(x, link="probit").probs

    def variance(self, fitted: Posterior) -> Tensor:
        """The posterior variance of each random parameter, ``(P,)``."""
        flat = self.model.layout.ravel(fitted.guide.marginal_variance())
        return flat[flat > 0]

    def moments(self, fitted: Posterior, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``(N, k)`` and covariance ``(N, k, k)`` of the linearised net's outputs."""
        return fitted.guide.linearized_moments(x)


def contenders(model: BayesianModel, task: Task) -> dict[str, Any]:
    """Ours first, then each setting of laplace-torch."""
    what = {"structure": task.structure, "sites": task.sites}
    peers = {s.name: LaplaceTorch(model, settings=s, **what) for s in task.peers}
    return {OURS: Ours(model, **what), **peers}


def work_of(contender: Any, task: Task, x: Tensor, y: Tensor) -> Work:
    """What is timed, as a function of the data: a fit, or predictions from a fit to ``x, y``."""
    if not task.predicts:
        return contender.fit
    fitted = contender.fit(x, y)
    return lambda points, _: contender.predict(fitted, points)


def points(name: str, digits: Digits) -> tuple[Tensor, Tensor]:
    """The digits as the net takes them."""
    return digits.x if name == "LeNet" else digits.x.flatten(1), digits.y


def check(sides: Mapping[str, Any], x: Tensor, y: Tensor) -> None:
    """Equal parameter variances, function moments and probabilities, to ``RTOL``."""
    ours, *peers = sides.values()
    mine, test = ours.fit(x, y), x[:10]
    mean, covariance = ours.moments(mine, test)
    probs = ours.predict(mine, test)
    for peer in peers:
        theirs = peer.fit(x, y)
        check_close("variances", ours.variance(mine), peer.variance(theirs), rtol=RTOL, atol=0)
        their_mean, their_covariance = peer.moments(theirs, test)
        scale = float(their_covariance.abs().max())
        check_close("means", mean, their_mean, rtol=RTOL)
        check_close("covariances", covariance, their_covariance, rtol=RTOL, atol=RTOL * scale)
        theirs_probs = peer.predict(theirs, test).to(probs)
        check_close("probabilities", probs, theirs_probs, rtol=RTOL, atol=RTOL / 10)


def time_task(name: str, net: str, task: Task, digits: Digits, size: Size) -> Comparison:
    """Contenders in turn, once they agree."""
    x, y = points(net, digits)
    sides = contenders(MODELS[net](), task)
    check(sides, x[: min(20, size.fitted)], y[: min(20, size.fitted)])
    fitted, data = slice(size.fitted), (x[: task.points], y[: task.points])
    works = {who: work_of(side, task, x[fitted], y[fitted]) for who, side in sides.items()}
    runs = [Contender(who, partial(work, *data)) for who, work in works.items()]
    title = f"{name}, {net}, {task.points:,} digits"
    return compare(title, runs, rounds=size.rounds, steps=1, warmup=0)


def memory_of(net: str, task: Task, who: str, digits: Digits, size: Size) -> float:
    """Peak memory in MiB that a contender's work adds to this process, after a small one."""
    x, y = points(net, digits)
    contender = contenders(MODELS[net](), task)[who]
    work = work_of(contender, task, x[: size.fitted], y[: size.fitted])
    work(x[:2], y[:2])
    return added_mib(lambda: work(x[: task.points], y[: task.points]))


# -------------------------------------------------------------------------------------- the report


@dataclass(frozen=True)
class Result:
    """A task's figures.

    Args:
        task: what it was.
        comparison: the times.
        added: peak memory added to a fresh process in MiB, by contender.
    """

    task: Task
    comparison: Comparison
    added: dict[str, float]


def verdicts(result: Result) -> Iterator[str]:
    """The aims, each with the figure that meets or misses it."""
    task, comparison, added = result.task, result.comparison, result.added
    peers = list(comparison.seconds)[1:]
    fastest = comparison.fastest(peers)
    if task.factor == 1:
        ratio = comparison.ratio(fastest)
        text = f"{comparison.task}: {ratio:.2f} times the time of {fastest}, the fastest setting"
        yield verdict(text, "at most 1.1", ratio, 1.1)
        return
    usual, aim = peers[0], f"at least {task.factor}"
    ratio = comparison.ratio(usual)
    text = f"{comparison.task}: {1 / ratio:.1f} times as fast as {usual}"
    yield verdict(text, aim, ratio, 1 / task.factor)
    if fastest != usual:
        ratio = comparison.ratio(fastest)
        yield f"- {comparison.task}: {1 / ratio:.2g} times as fast as {fastest}, the fastest."
    if added:
        ratio = added[OURS] / added[usual]
        text = f"{comparison.task}: {ratio:.3f} times the added memory of {usual}"
        yield verdict(text, f"at most 1/{task.factor}", ratio, 1 / task.factor)


def memory_table(results: list[Result]) -> str:
    """What each contender adds to the peak memory of a fresh process."""
    lines = ["| Task | Contender | Added peak (MiB) |", "|---|---|--:|"]
    for result in results:
        title = result.comparison.task
        for who, mib in result.added.items():
            lines.append(f"| {title} | {who} | {mib:.0f} |")
            title = ""
    return "\n".join(lines)


def measure(
    name: str, net: str, size: Size, digits: Digits, options: list[str], memory: bool
) -> Result:
    """Times in this process, memory in fresh ones."""
    task = tasks(size)[name]
    comparison = time_task(name, net, task, digits, size)
    asked = comparison.seconds if memory else ()
    here = Path(__file__)
    added = {
        who: fresh_process_mib(here, [*options, "--memory-of", f"{net}|{name}|{who}"])
        for who in asked
    }
    return Result(task, comparison, added)


def run(
    size: Size,
    root: Path | None,
    *,
    nets: tuple[str, ...],
    only: tuple[str, ...],
    memory: bool = True,
    quick: bool = False,
) -> str:
    """Measure, and report in Markdown."""
    digits, results = load_digits(size.digits, root), []
    options = (["--quick"] if quick else []) + (["--data-root", str(root)] if root else [])
    start = time.perf_counter()
    with seeded(0):
        for net in nets:
            for name in only:
                results.append(measure(name, net, size, digits, options, memory))
                done = results[-1].comparison.task
                click.echo(f"{time.perf_counter() - start:4.0f} s  {done}", err=True)
    aims = "\n".join(line for result in results for line in verdicts(result))
    report = [setting(digits, f"{size.rounds} rounds", PACKAGES), aims]
    report.append(markdown(result.comparison for result in results))
    return "\n\n".join([*report, memory_table(results)] if memory else report)


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="A pass of few minutes: one round, few digits.")
@click.option("--only", type=click.Choice(list(tasks(Size()))), multiple=True, help="Only these.")
@click.option("--net", type=click.Choice(list(MODELS)), multiple=True, help="Only these nets.")
@click.option("--no-memory", is_flag=True, help="Times only.")
@click.option("--write", is_flag=True, help="Put the figures into docs/benchmarks.md.")
@click.option("--data-root", type=click.Path(path_type=Path), help="Where the MNIST files are.")
@click.option("--memory-of", "asked", hidden=True)
def main(
    quick: bool,
    only: tuple[str, ...],
    net: tuple[str, ...],
    no_memory: bool,
    write: bool,
    data_root: Path | None,
    asked: str | None,
) -> None:
    size = QUICK if quick else Size()
    if asked:
        which, name, who = asked.split("|")
        digits = load_digits(size.digits, data_root)
        click.echo(memory_of(which, tasks(size)[name], who, digits, size))
        return
    text = run(
        size,
        data_root,
        nets=net or tuple(MODELS),
        only=only or tuple(tasks(size)),
        memory=not no_memory,
        quick=quick,
    )
    click.echo(text)
    if write:
        write_section("laplace", text)


if __name__ == "__main__":
    main()
