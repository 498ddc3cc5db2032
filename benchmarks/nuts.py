"""Effective samples a second: our NUTS, Pyro's and NumPyro's, side by side in one run.

``python benchmarks/nuts.py`` prints a Markdown report; ``--write`` puts it in docs/benchmarks.md.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import arviz as az
import click
import numpy as np
import pyro.ops.integrator
import torch
from nuts_numpyro import numpyro_chains
from pyro.infer import MCMC, NUTS
from report import machine, verdict, write_section
from setups import curve, logistic_model, pyro_at_its_best, two_classes
from torch import Tensor

from probml_tp import BayesianModel, Delta, FanInNormalPrior, Laplace, Posterior, fit, sample_nuts
from probml_tp.inference.parallel import single_thread
from probml_tp.models import mlp_regressor
from probml_tp.streams import seeded

CHAINS = 4
GRID = 20
NOISE = 0.3
POINTS = 40
AIM = 5.0
R_HAT = 1.01
PEER = "NumPyro"

Data = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        logistic: warm-up steps and draws of each chain of the logistic regression.
        mlp: of each chain of the MLP.
    """

    logistic: tuple[int, int] = (1000, 1000)
    mlp: tuple[int, int] = (300, 300)


QUICK = Size(logistic=(300, 700), mlp=(100, 100))


@dataclass(frozen=True)
class Task:
    """A posterior to sample, and what is looked at.

    Args:
        name: what the table calls it.
        model: the model.
        data: inputs and targets.
        warmup: steps of each chain that are not kept.
        draws: draws of each chain.
        quantities: flat draws ``(chains, draws, P)`` to what should mix, ``(chains, draws, Q)``.
    """

    name: str
    model: BayesianModel
    data: Data
    warmup: int
    draws: int
    quantities: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Run:
    """What a sampler gave.

    Args:
        quantities: ``(chains, draws, Q)``.
        warmup_seconds: before the first draw that is kept, compilation and fits included.
        seconds: of the draws that are kept.
        gradients: over all chains, warm-up included.
        gradients_kept: of the draws that are kept.
    """

    quantities: np.ndarray
    warmup_seconds: float
    seconds: float
    gradients: float
    gradients_kept: float

    @property
    def ess(self) -> float:
        """The smallest effective sample size."""
        return min(float(az.ess(q)) for q in np.moveaxis(self.quantities, -1, 0))

    @property
    def r_hat(self) -> float:
        """The largest rank-normalised R-hat."""
        return max(float(az.rhat(q)) for q in np.moveaxis(self.quantities, -1, 0))

    @property
    def rate(self) -> float:
        """Effective samples a second, warm-up included."""
        return self.ess / (self.warmup_seconds + self.seconds)

    @property
    def rate_kept(self) -> float:
        """Effective samples a second once warm-up is over."""
        return self.ess / self.seconds


# --------------------------------------------------------------------------------- the tasks


def logistic_task(size: Size) -> Task:
    """Ten weights and a bias."""
    return Task(
        "Logistic regression, 200 points, 11 parameters",
        logistic_model(),
        two_classes(200),
        *size.logistic,
        quantities=lambda flat: flat,
    )


def mlp_task(size: Size) -> Task:
    """Function values: weights of a net are not identified."""
    with seeded(0):
        model = mlp_regressor(1, hidden=(50, 50), prior=FanInNormalPrior(1.0), likelihood=NOISE)
    grid = torch.linspace(-2, 2, GRID).unsqueeze(-1)

    def values(flat: Tensor) -> Tensor:
        outputs = torch.func.vmap(lambda u: model.outputs(model.layout.unravel(u), grid))
        draws: Tensor = outputs(flat.flatten(0, 1)).squeeze(-1)
        return draws.unflatten(0, flat.shape[:2])

    name = f"MLP 1-50-50-1, {POINTS} points, {model.num_params:,} parameters"
    return Task(name, model, curve(POINTS), *size.mlp, quantities=values)


TASKS = {"logistic": logistic_task, "mlp": mlp_task}


# ------------------------------------------------------------------------------- the samplers


def ours(task: Task, **options: Any) -> Run:
    """All chains in one batch. Warm-up is charged by its share of the gradients."""
    start = time.perf_counter()
    if "init" in options:
        options["init"] = options["init"](task)
    posterior = sample_nuts(
        task.model, task.data, warmup=task.warmup, draws=task.draws, chains=CHAINS,
        chains_per_batch=CHAINS, jobs=1, progress=False, **options,
    )  # fmt: skip
    total = time.perf_counter() - start
    kept = float(np.sum(posterior.info.sampler["n_steps"]))
    gradients = posterior.info.forward_passes
    seconds = posterior.info.seconds * kept / gradients
    values = task.quantities(posterior.guide.flat).numpy()
    return Run(values, total - seconds, seconds, gradients, kept)


def laplace(task: Task) -> Posterior:
    """The mode, and the diagonal curvature there."""
    mode = fit(task.model, Delta, task.data, epochs=300, lr=1e-2, progress=False)
    guide = partial(Laplace, structure="diagonal")
    return fit(task.model, guide, task.data, init=mode, epochs=0, progress=False)


def pyros(task: Task) -> Run:
    """Pyro's stock sampler, chain by chain in this process."""
    draws, seconds, count = [], [0.0, 0.0], [0, 0]
    gradient = pyro.ops.integrator.potential_grad
    stage = 0

    def counted(*arguments: Any) -> Any:
        count[stage] += 1
        return gradient(*arguments)

    def hook(_kernel: Any, _params: Any, name: str, _index: int) -> None:
        nonlocal stage, clock
        now = time.perf_counter()
        seconds[stage] += now - clock
        clock, stage = now, int(not name.lower().startswith("warmup"))

    x, y = task.model.check_data(*task.data)
    pyro.ops.integrator.potential_grad = counted
    try:
        with warnings.catch_warnings(), pyro_at_its_best():
            warnings.simplefilter("ignore")
            for chain in range(CHAINS):
                clock, stage = time.perf_counter(), 0
                pyro.set_rng_seed(chain)
                sampler = MCMC(
                    NUTS(task.model), num_samples=task.draws, warmup_steps=task.warmup,
                    hook_fn=hook, disable_progbar=True,
                )  # fmt: skip
                sampler.run(x, y)
                draws.append(task.model.layout.ravel(sampler.get_samples()))
    finally:
        pyro.ops.integrator.potential_grad = gradient
    values = task.quantities(torch.stack(draws)).numpy()
    return Run(values, *seconds, gradients=sum(count), gradients_kept=count[1])


def numpyros(task: Task) -> Run:
    """NumPyro's sampler on the same model, compiled by XLA, chain by chain."""
    found = numpyro_chains(
        task.model, task.data, warmup=task.warmup, draws=task.draws, chains=CHAINS
    )
    values = task.quantities(found.pop("flat")).numpy()
    return Run(values, **found)


def samplers(*, numpyro: bool) -> dict[str, Callable[[Task], Run]]:
    """All of them; the first two are ours."""
    all_ours: dict[str, Callable[[Task], Run]] = {
        "ours": ours,
        "ours, from Laplace, half the warm-up": halved,
    }
    peers = {PEER: numpyros} if numpyro else {}
    return all_ours | {"Pyro": pyros} | peers


def halved(task: Task) -> Run:
    """From the mode, with the metric of its curvature, and half the warm-up."""
    short = replace(task, warmup=task.warmup // 2)
    kind = "laplace" if task.model.num_params < 100 else "diagonal"
    return ours(short, init=laplace, mass_matrix=kind)


# -------------------------------------------------------------------------------- the report


def table(runs: dict[str, dict[str, Run]]) -> str:
    """One row a sampler."""
    columns = [
        "R-hat", "Least ESS", "Seconds", "Of them warm-up", "ESS/s", "ESS/s after warm-up",
        "Gradients per ESS", "µs per gradient",
    ]  # fmt: skip
    lines = [f"| Task | Sampler | {' | '.join(columns)} |", "|---|---" + "|--:" * 8 + "|"]
    for task, of_task in runs.items():
        name = task
        for sampler, run in of_task.items():
            seconds = run.warmup_seconds + run.seconds
            lines.append(
                f"| {name} | {sampler} | {run.r_hat:.3f} | {run.ess:.0f} | {seconds:.1f} "
                f"| {run.warmup_seconds:.1f} | {_rate(run.rate)} | {_rate(run.rate_kept)} "
                f"| {run.gradients_kept / run.ess:.1f} "
                f"| {1e6 * run.seconds / run.gradients_kept:.0f} |"
            )
            name = ""
    return "\n".join(lines)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def verdicts(runs: dict[str, dict[str, Run]]) -> Iterator[str]:
    """The aims, each with the figure that meets or misses it."""
    for task, of_task in runs.items():
        mine, stock = of_task["ours"], of_task["Pyro"]
        ratio = mine.rate / stock.rate
        after = mine.rate_kept / stock.rate_kept
        text = f"{task}: {ratio:.1f} times Pyro's ESS a second ({after:.1f} after warm-up)"
        yield verdict(text, f"at least {AIM:g}", 1 / ratio, 1 / AIM)
        yield verdict(f"{task}: R-hat {mine.r_hat:.4f}", f"at most {R_HAT}", mine.r_hat, R_HAT)


def run(size: Size, tasks: tuple[str, ...] = tuple(TASKS), *, numpyro: bool = True) -> str:
    """Measure, and report in Markdown."""
    runs: dict[str, dict[str, Run]] = {}
    start = time.perf_counter()
    with single_thread():
        for name in tasks:
            task = TASKS[name](size)
            own = runs.setdefault(f"{task.name}; {task.warmup} + {task.draws} steps a chain", {})
            for sampler, sample in samplers(numpyro=numpyro).items():
                own[sampler] = sample(task)
                elapsed = time.perf_counter() - start
                rate = f"{own[sampler].rate:.3g} effective samples a second"
                click.echo(f"{elapsed:4.0f} s  {name}, {sampler}: {rate}", err=True)
        where = machine(("numpyro", "jax") if numpyro else ())
    where = f"{where}; {CHAINS} chains one after the other or in one batch, in one process."
    return "\n\n".join([where, "\n".join(verdicts(runs)), table(runs)])


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="A few minutes: shorter chains.")
@click.option("--only", type=click.Choice(list(TASKS)), multiple=True, help="Only these tasks.")
@click.option("--numpyro/--no-numpyro", default=True, help="Whether NumPyro is measured, too.")
@click.option("--write", is_flag=True, help="Put the figures into docs/benchmarks.md.")
def main(quick: bool, only: tuple[str, ...], numpyro: bool, write: bool) -> None:
    text = run(QUICK if quick else Size(), only or tuple(TASKS), numpyro=numpyro)
    click.echo(text)
    if write:
        write_section("nuts", text)


if __name__ == "__main__":
    main()
