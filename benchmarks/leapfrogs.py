"""The inner loop of NUTS: our flat functional potential against Pyro's effect handlers."""

from __future__ import annotations

from collections.abc import Callable

from pyro.infer import NUTS
from pyro.ops.integrator import velocity_verlet
from setups import check_close
from timing import Comparison, Contender, compare
from torch import Tensor

from probml_tp import BayesianModel
from probml_tp.evaluate import seeded
from probml_tp.inference.mcmc import _potential
from probml_tp.inference.parallel import single_thread

__all__ = ["leapfrog"]

STEP_SIZE = 1e-4


def leapfrog(
    task: str, model: BayesianModel, x: Tensor, y: Tensor, *, rounds: int, leapfrogs: int
) -> Comparison:
    """Time per leapfrog step of both kernels, from the same point with unit mass."""
    start = model.initial_params()
    flat = model.layout.ravel(model.unconstrain(start))
    ours, stock = NUTS(potential_fn=_potential(model, x, y)), NUTS(model)
    set_up(ours, {"u": flat})
    set_up(stock, start, x, y)
    check_close("potentials", ours._potential_energy_last, stock._potential_energy_last)
    contenders = [
        Contender("ours", trajectory(ours, leapfrogs), units=leapfrogs),
        Contender("Pyro NUTS(model)", trajectory(stock, leapfrogs), units=leapfrogs),
    ]
    with single_thread():
        return compare(
            f"Leapfrog step, {task}, {len(x)} points", contenders, rounds=rounds, steps=1
        )


def set_up(kernel: NUTS, start: dict[str, Tensor], *data: Tensor) -> None:
    """Make the kernel ready at the given point."""
    kernel.initial_params = {name: value.clone() for name, value in start.items()}
    with seeded(0):
        kernel.setup(0, *data)


def trajectory(kernel: NUTS, leapfrogs: int) -> Callable[[], object]:
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
