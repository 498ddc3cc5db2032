"""The same two models in NumPyro."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from report import peer
from torch import Tensor

from probml_tp import BayesianModel
from probml_tp.likelihoods import Gaussian

__all__ = ["numpyro_chains"]


def numpyro_chains(
    model: BayesianModel, data: tuple[Tensor, Tensor], *, warmup: int, draws: int, chains: int
) -> dict[str, Any]:
    """Draws as flat vectors in the order of our sites, seconds and gradients.

    Args:
        model: fully connected, tanh between its layers, every prior a normal around zero.
        data: inputs and targets.
        warmup: steps of each chain that are not kept.
        draws: draws of each chain.
        chains: one after the other.
    """
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    numpyro, jax = peer("numpyro"), peer("jax")
    jax.config.update("jax_enable_x64", model.dtype == torch.float64)
    x, y = (np.asarray(t) for t in model.check_data(*data))
    kernel = numpyro.infer.NUTS(program(model, numpyro, jax))
    mcmc = numpyro.infer.MCMC(
        kernel, num_warmup=warmup, num_samples=draws, num_chains=chains,
        chain_method="sequential", progress_bar=False,
    )  # fmt: skip
    fields = ("num_steps",)
    start = time.perf_counter()
    mcmc.warmup(jax.random.PRNGKey(0), x, y, extra_fields=fields, collect_warmup=True)
    warm = float(np.sum(mcmc.get_extra_fields()["num_steps"]))
    middle = time.perf_counter()
    mcmc.run(mcmc.post_warmup_state.rng_key, x, y, extra_fields=fields)
    samples = {n: np.asarray(v) for n, v in mcmc.get_samples(group_by_chain=True).items()}
    end = time.perf_counter()
    kept = float(np.sum(mcmc.get_extra_fields()["num_steps"]))
    flat = model.layout.ravel({n: torch.from_numpy(v.copy()) for n, v in samples.items()})
    return {
        "flat": flat,
        "warmup_seconds": middle - start,
        "seconds": end - middle,
        "gradients": warm + kept,
        "gradients_kept": kept,
    }


def program(model: BayesianModel, numpyro: Any, jax: Any) -> Callable[[Any, Any], None]:
    """The model as a NumPyro program over the same sites."""
    scales = {
        name: np.broadcast_to(np.asarray(site.base().scale), site.shape)
        for name, site in model.sites.items()
    }
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in scales))
    noise = float(model.likelihood.scale) if isinstance(model.likelihood, Gaussian) else None

    def of(x: Any, y: Any) -> None:
        values = {
            name: numpyro.sample(
                name, numpyro.distributions.Normal(0.0, scale).to_event(scale.ndim)
            )
            for name, scale in scales.items()
        }
        for i, layer in enumerate(layers):
            prefix = f"{layer}." if layer else ""
            x = x @ values[prefix + "weight"].T + values[prefix + "bias"]
            x = jax.numpy.tanh(x) if i < len(layers) - 1 else x
        if noise is None:
            likelihood = numpyro.distributions.Bernoulli(logits=x[:, 0])
        else:
            likelihood = numpyro.distributions.Normal(x[:, 0], noise)
        numpyro.sample("y", likelihood, obs=y)

    return of
