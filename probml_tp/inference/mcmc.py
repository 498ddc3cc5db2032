"""NUTS over a model's pure log joint, chains in parallel processes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from pyro.infer import MCMC, NUTS
from torch import Tensor

from probml_tp.digest import digest
from probml_tp.evaluate import seeded, substream
from probml_tp.inference.empirical import Empirical
from probml_tp.inference.fitting import ProgressCallback, progress_reporter
from probml_tp.inference.memory import peak_memory_mib
from probml_tp.inference.parallel import number_of_jobs, single_thread
from probml_tp.model import BayesianModel
from probml_tp.posterior import FitInfo, Posterior
from probml_tp.validation import (
    data_pair,
    positive,
    positive_integer,
    strictly_between_0_and_1,
    valid_seed,
)

__all__ = ["sample_nuts"]

CHAINS = 4


def sample_nuts(
    model: BayesianModel,
    data: tuple[object, object],
    *,
    num_samples: int = 1000,
    warmup: int = 1000,
    chains: int = 4,
    target_accept: float = 0.8,
    max_tree_depth: int = 10,
    dense_mass: bool = False,
    init_scale: float = 0.1,
    jobs: int | None = None,
    seed: int = 0,
    progress: bool | ProgressCallback = True,
) -> Posterior:
    r"""Sample the posterior with the No-U-Turn sampler (Hoffman & Gelman 2014).

    Pyro's kernel runs on the potential
    :math:`U(u) = -\log p(\theta(u), y \mid x) - \log|\partial\theta/\partial u|` over one flat
    unconstrained vector, so no effect handler is in the leapfrog loop. Chains start around the
    net's own parameters and run in separate processes.

    Args:
        model: the model.
        data: inputs and targets; every step uses all of them.
        num_samples: draws kept from each chain.
        warmup: steps that adapt the step size and the mass matrix, not kept.
        chains: the number of chains; R-hat needs at least 2.
        target_accept: the acceptance probability that the step size aims at.
        max_tree_depth: at most ``2**max_tree_depth`` leapfrog steps a draw.
        dense_mass: adapt a full mass matrix instead of a diagonal one.
        init_scale: standard deviation of the chains' starting points around the initial values.
        jobs: processes; default: one a chain, at most one a core. 1 runs chains one by one here.
        seed: determines every chain, however many processes run.
        progress: show a bar (on terminals), or a callback ``(done, total, message)``.

    Returns:
        The posterior: an :class:`Empirical` guide named ``"nuts"``, with ``lp`` and ``diverging``
        by chain and draw, and step size and acceptance rate by chain, in ``info.sampler``.

    Raises:
        ValueError: the data do not fit the model, or an option is invalid. (A flat prior is fine
            as long as the data make the posterior proper.)

    Example:
        >>> from probml_tp import BayesianModel, Gaussian, NormalPrior
        >>> model = BayesianModel(torch.nn.Linear(1, 1), NormalPrior(1.0), Gaussian(scale=0.1))
        >>> x = torch.linspace(-1, 1, 20).unsqueeze(-1)
        >>> posterior = sample_nuts(model, (x, x), num_samples=20, warmup=20, chains=1)
        >>> posterior.guide.chains["weight"].shape
        torch.Size([1, 20, 1, 1])
    """
    x, y = model.check_data(*data_pair("data", data))
    counts = {"num_samples": num_samples, "warmup": warmup, "chains": chains}
    counts |= {"max_tree_depth": max_tree_depth}
    num_samples, warmup, chains, max_tree_depth = (
        positive_integer(name, value) for name, value in counts.items()
    )
    seed = valid_seed(seed)
    positive("init_scale", init_scale)
    strictly_between_0_and_1("target_accept", target_accept)
    start = time.perf_counter()
    settings = _Settings(num_samples, warmup, target_accept, max_tree_depth, dense_mass, init_scale)
    tasks = [delayed(_run_chain)(model, x, y, settings, seed, c) for c in range(chains)]
    pool = Parallel(n_jobs=number_of_jobs(jobs, chains), return_as="generator_unordered")
    results: list[_Chain] = []
    with progress_reporter(progress, "nuts", unit="chain") as report:
        for chain in pool(tasks):
            results.append(chain)
            report(len(results), chains, f"{int(chain.diverging.sum())} divergences")
    results.sort(key=lambda chain: chain.index)
    guide = Empirical(model, method="nuts", draws=_draws(model, results))
    info = FitInfo(
        options={"chains": chains, "seed": seed, **vars(settings)},
        seconds=time.perf_counter() - start,
        peak_memory_mib=peak_memory_mib(),
        sampler=_sampler_stats(results),
        data=digest([x, y]),
    )
    return Posterior(guide, seed=seed, info=info)


@dataclass(frozen=True)
class _Settings:
    num_samples: int
    warmup: int
    target_accept: float
    max_tree_depth: int
    dense_mass: bool
    init_scale: float


@dataclass(frozen=True)
class _Chain:
    index: int
    draws: Tensor
    lp: np.ndarray
    diverging: np.ndarray
    step_size: float
    acceptance_rate: float


def _run_chain(
    model: BayesianModel, x: Tensor, y: Tensor, settings: _Settings, seed: int, index: int
) -> _Chain:
    """One chain, on one thread: the net is small, and the cores have other chains."""
    stream = substream(seed, CHAINS, index)
    with single_thread(), torch.enable_grad(), seeded(stream, model.device):
        return _sample_chain(model, x, y, settings, index)


def _sample_chain(
    model: BayesianModel, x: Tensor, y: Tensor, settings: _Settings, index: int
) -> _Chain:
    start = model.layout.ravel(model.unconstrain(model.initial_params()))
    start = start + settings.init_scale * torch.randn_like(start)
    kernel = NUTS(
        potential_fn=_potential(model, x, y),
        target_accept_prob=settings.target_accept,
        max_tree_depth=settings.max_tree_depth,
        full_mass=settings.dense_mass,
    )
    energies: list[float] = []
    diagnostics: dict[str, Any] = {}

    def record(kernel: Any, _params: Any, stage: str, _step: int) -> None:
        if not stage.lower().startswith("warmup"):
            energies.append(float(kernel._potential_energy_last))
            diagnostics.update(kernel.diagnostics())  # the kernel forgets them when it is done

    mcmc = MCMC(
        kernel,
        num_samples=settings.num_samples,
        warmup_steps=settings.warmup,
        initial_params={"u": start},
        hook_fn=record,
        disable_progbar=True,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="pyro")
        mcmc.run()
    diverging = np.zeros(settings.num_samples, dtype=bool)
    diverging[diagnostics["divergences"]] = True
    return _Chain(
        index=index,
        draws=mcmc.get_samples()["u"],
        lp=-np.asarray(energies[-settings.num_samples :]),
        diverging=diverging,
        step_size=float(kernel.step_size),
        acceptance_rate=float(diagnostics["acceptance rate"]),
    )


def _potential(model: BayesianModel, x: Tensor, y: Tensor) -> Callable[[dict[str, Tensor]], Tensor]:
    def potential(params: dict[str, Tensor]) -> Tensor:
        return -model.log_joint_flat(params["u"], x, y)

    return potential


def _draws(model: BayesianModel, chains: list[_Chain]) -> dict[str, Tensor]:
    flat = torch.stack([chain.draws for chain in chains])
    return model.constrain(model.layout.unravel(flat))


def _sampler_stats(chains: list[_Chain]) -> dict[str, Any]:
    return {
        "lp": [chain.lp.tolist() for chain in chains],
        "diverging": [chain.diverging.tolist() for chain in chains],
        "step_size": [chain.step_size for chain in chains],
        "acceptance_rate": [chain.acceptance_rate for chain in chains],
    }
