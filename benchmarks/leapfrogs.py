"""The inner loop of NUTS: our traced flat potential against Pyro's effect handlers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from pyro.infer import NUTS
from pyro.ops.integrator import velocity_verlet
from setups import check_close
from timing import Comparison, Contender, compare
from torch import Tensor

from probml_tp import BayesianModel
from probml_tp.inference.nuts.metric import DiagonalMetric
from probml_tp.inference.nuts.potential import Potential
from probml_tp.inference.nuts.sample import drive
from probml_tp.inference.nuts.transition import Gradients, leapfrog, with_momentum
from probml_tp.inference.parallel import single_thread
from probml_tp.streams import seeded

__all__ = ["leapfrog_step"]

STEP_SIZE = 1e-4
CHAINS = 4


def leapfrog_step(
    task: str, model: BayesianModel, x: Tensor, y: Tensor, *, rounds: int, leapfrogs: int
) -> Comparison:
    """Time per leapfrog step of a chain in both samplers, from the same point with unit mass."""
    start = model.initial_params()
    stock = NUTS(model)
    set_up(stock, start, x, y)
    checked = model.check_data(x, y)
    flat = model.layout.ravel(model.unconstrain(start)).double().numpy()
    with single_thread():
        one, several = (Potential(model, *checked, batch=k) for k in (1, CHAINS))
        check_close(
            "potentials",
            torch.from_numpy(one(flat[None])[0])[0].to(model.dtype),
            stock._potential_energy_last,
        )
        contenders = [
            Contender("ours", ours(one, flat, 1, leapfrogs), units=leapfrogs),
            Contender(
                f"ours, {CHAINS} chains in a batch",
                ours(several, flat, CHAINS, leapfrogs),
                units=CHAINS * leapfrogs,
            ),
            Contender("Pyro NUTS(model)", pyros(stock, leapfrogs), units=leapfrogs),
        ]
        return compare(
            f"Leapfrog step, {task}, {len(x)} points", contenders, rounds=rounds, steps=1
        )


def ours(
    potential: Potential, start: np.ndarray, chains: int, leapfrogs: int
) -> Callable[[], object]:
    """A run of leapfrog steps of each chain."""
    metric = DiagonalMetric(np.ones(len(start)))

    def trajectory(seed: int) -> Gradients[None]:
        value, gradient = yield start
        z = with_momentum(start, value, gradient, metric, np.random.default_rng(seed))
        for _ in range(leapfrogs):
            z = yield from leapfrog(z, STEP_SIZE, metric)

    return lambda: drive([trajectory(seed) for seed in range(chains)], potential)


def set_up(kernel: NUTS, start: dict[str, Tensor], *data: Tensor) -> None:
    """Make the kernel ready at the given point."""
    kernel.initial_params = {name: value.clone() for name, value in start.items()}
    with seeded(0):
        kernel.setup(0, *data)


def pyros(kernel: NUTS, leapfrogs: int) -> Callable[[], object]:
    """A run of leapfrog steps with the kernel's own potential, mass matrix and start."""
    z, _, z_grads = kernel._fetch_from_cache()
    with seeded(1):
        r, _ = kernel._sample_r(name="r")
    kinetic_grad = kernel.mass_matrix_adapter.kinetic_grad

    def run() -> object:
        return velocity_verlet(
            z, r, kernel.potential_fn, kinetic_grad, STEP_SIZE, leapfrogs, z_grads=z_grads
        )

    return run
