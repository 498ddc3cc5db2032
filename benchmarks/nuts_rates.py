"""Effective samples a CPU second of our NUTS and NumPyro's, on four small posteriors.

``python benchmarks/nuts_rates.py`` prints a table; ``--write`` puts it in docs/benchmarks.md. Both
run the same number of chains of the same length with diagonal metrics. NumPyro runs twice: the
first run compiles, the second (*compiled*) does not. The effective sample size is the least over
all sites.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import arviz as az
import click
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as jdist
import pyro.distributions as dist
import torch
from numpyro_classics import rats as rats_program
from nuts_numpyro import program
from report import machine, write_section
from setups import curve
from torch import Tensor, nn

from probml_tp import BayesianModel, FlatPrior, Gaussian, NormalPrior, sample_nuts
from probml_tp.inference.parallel import single_thread
from probml_tp.models import mlp_regressor
from probml_tp.models import rats as rats_classic
from probml_tp.streams import seeded

CHAINS = 4
DEGREES = 4.0
RHO = 0.95

Data = tuple[Tensor, Tensor]
Program = Callable[..., None]


@dataclass(frozen=True)
class Task:
    """One posterior, as our model and as a NumPyro program that takes the data."""

    model: BayesianModel
    data: Data
    program: Program


class StudentT(Gaussian):
    """Regression with heavy tails."""

    def distribution(self, outputs: Tensor, params: Any) -> Any:
        """Student's t with four degrees of freedom."""
        scale = self.noise_scale(outputs, params)[..., 0]
        return dist.StudentT(DEGREES, outputs[..., 0], scale)

    def log_prob(self, outputs: Tensor, y: Tensor, params: Any) -> Tensor:
        """Its log density."""
        density: Tensor = self.distribution(outputs, params).log_prob(y.reshape(len(y)))
        return density

    def moments(self, outputs: Tensor, params: Any) -> tuple[Tensor, Tensor]:
        """Its mean and variance."""
        variance = self.noise_scale(outputs, params).square() * DEGREES / (DEGREES - 2)
        return outputs, variance.expand(outputs.shape)


class Linear(nn.Module):
    """Products with a matrix of inputs."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.unsqueeze(-1)


def student() -> Task:
    """Five weights and a bias; heavy tails of known degrees of freedom and unknown scale."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, 5))
    y = x @ np.array([1.0, -2.0, 0.5, 0.0, 3.0]) + 0.5 * rng.standard_t(DEGREES, 100)
    with seeded(0):
        model = BayesianModel(nn.Linear(5, 1), NormalPrior(5.0), StudentT(dist.HalfNormal(1.0)))

    def of(x: Any, y: Any) -> None:
        weight = numpyro.sample("weight", jdist.Normal(0, 5).expand([5]))
        bias = numpyro.sample("bias", jdist.Normal(0, 5))
        scale = numpyro.sample("scale", jdist.HalfNormal(1))
        numpyro.sample("y", jdist.StudentT(DEGREES, x @ weight + bias, scale), obs=y)

    return Task(model, (torch.tensor(x).float(), torch.tensor(y).float()), of)


def normal() -> Task:
    """An autoregressive covariance."""
    i = np.arange(50)
    root = np.linalg.cholesky(np.linalg.inv(RHO ** abs(i[:, None] - i))).T

    def of(x: Any, y: Any) -> None:
        improper = jdist.ImproperUniform(jdist.constraints.real, (), (50,))
        weight = numpyro.sample("weight", improper)
        numpyro.sample("y", jdist.Normal(x @ weight, 1.0), obs=y)

    model = BayesianModel(Linear(50), FlatPrior(), Gaussian(1.0))
    return Task(model, (torch.tensor(root.copy()).float(), torch.zeros(50)), of)


def rats() -> Task:
    """A line for each of thirty rats."""
    classic = rats_classic()
    return Task(classic.model, classic.data, lambda *_: rats_program())


def net() -> Task:
    """A small Bayesian net."""
    with seeded(0):
        model = mlp_regressor(1, hidden=(20,), prior=NormalPrior(1.0), likelihood=0.3)
    return Task(model, curve(40), program(model, numpyro, jax))


TASKS = {
    "Student-t regression": student,
    "Correlated normal, d = 50": normal,
    "Hierarchical (rats)": rats,
    "Net 1-20-1": net,
}


def least_ess(values: list[np.ndarray]) -> float:
    """Over the elements of ``(chains, draws, *shape)``."""
    flat = np.concatenate([v.reshape(*v.shape[:2], -1) for v in values], -1)
    return min(float(az.ess(q)) for q in np.moveaxis(flat, -1, 0))


def ours(task: Task, steps: int) -> tuple[float, float]:
    """Effective sample size and CPU seconds, tracing included."""
    start = time.process_time()
    posterior = sample_nuts(
        task.model, task.data, warmup=steps, draws=steps, chains=CHAINS, jobs=1, progress=False
    )
    seconds = time.process_time() - start
    return least_ess([posterior.guide.flat.numpy()]), seconds


def numpyros(task: Task, steps: int) -> tuple[float, float, float]:
    """Effective sample size, and CPU seconds with compilation and without."""
    jax.config.update("jax_enable_x64", task.model.dtype == torch.float64)
    x, y = (jnp.asarray(t.numpy()) for t in task.model.check_data(*task.data))
    mcmc = numpyro.infer.MCMC(
        numpyro.infer.NUTS(task.program), num_warmup=steps, num_samples=steps, num_chains=CHAINS,
        chain_method="sequential", progress_bar=False,
    )  # fmt: skip
    seconds = []
    for _ in range(2):
        start = time.process_time()
        mcmc.run(jax.random.PRNGKey(0), x, y.reshape(len(y)))
        jax.block_until_ready(mcmc.get_samples())
        seconds.append(time.process_time() - start)
    samples = mcmc.get_samples(group_by_chain=True)
    sites = [np.asarray(v) for k, v in samples.items() if k not in ("alpha", "beta", "newborn")]
    return least_ess(sites), seconds[0], seconds[1]


def row(name: str, steps: int) -> str:
    """One task."""
    task = TASKS[name]()
    ess, seconds = ours(task, steps)
    theirs, compiled, bare = numpyros(task, steps)
    rates = [ess / seconds, theirs / compiled, theirs / bare]
    cells = [f"{ess:.0f}", f"{theirs:.0f}", f"{seconds:.1f}", f"{compiled:.1f}", f"{bare:.1f}"]
    return f"| {name} | " + " | ".join([*cells, *(f"{rate:.3g}" for rate in rates)]) + " |"


@click.command(help=__doc__)
@click.option("--steps", default=1000, help="Warm-up steps and draws of each of four chains.")
@click.option("--only", type=click.Choice(list(TASKS)), multiple=True, help="Only these tasks.")
@click.option("--write", is_flag=True, help="Put the figures into docs/benchmarks.md.")
def main(steps: int, only: tuple[str, ...], write: bool) -> None:
    rates = ("ESS", "NumPyro's", "CPU s", "NumPyro's", "compiled", "ESS/s", "NumPyro's", "compiled")
    head = ["| Posterior | " + " | ".join(rates) + " |", "|---|" + "--:|" * len(rates)]
    rows = []
    with single_thread():
        for name in only or TASKS:
            rows.append(row(name, steps))
            click.echo(rows[-1], err=True)
        where = f"{machine(('numpyro', 'jax'))}; {CHAINS} chains of {steps} + {steps} steps."
    text = "\n\n".join([where, "\n".join([*head, *rows])])
    click.echo(text)
    if write:
        write_section("nuts-rates", text)


if __name__ == "__main__":
    main()
