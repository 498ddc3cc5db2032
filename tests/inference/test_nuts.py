"""The transition, its adaptation and the batched gradient, against closed forms and Pyro."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import arviz as az
import numpy as np
import pytest
import scipy.stats
import torch
from model_cases import CASES, F64
from pyro.infer import MCMC, NUTS
from torch import Tensor, nn

from probml_tp import BayesianModel, Delta, Exact, Gaussian, NormalPrior, fit, sample_nuts
from probml_tp.inference.nuts import transition as nuts_module
from probml_tp.inference.nuts.adaptation import (
    CovarianceEstimator,
    DualAveraging,
    MetricEstimator,
    VarianceEstimator,
    find_step_size,
    windows,
)
from probml_tp.inference.nuts.chain import Chain, ChainSettings, sample_chain
from probml_tp.inference.nuts.metric import DenseMetric, DiagonalMetric
from probml_tp.inference.nuts.potential import Potential
from probml_tp.inference.nuts.sample import drive
from probml_tp.inference.nuts.starts import find_starts
from probml_tp.inference.nuts.transition import (
    Gradients,
    Point,
    Transition,
    leapfrog,
    with_momentum,
)

Target = Callable[[np.ndarray], tuple[float, np.ndarray]]

COVARIANCE = np.array([[1.0, 0.95, 0.0], [0.95, 1.0, 0.0], [0.0, 0.0, 25.0]])
PRECISION = np.linalg.inv(COVARIANCE)


def normal(q: np.ndarray) -> tuple[float, np.ndarray]:
    return 0.5 * float(q @ PRECISION @ q), PRECISION @ q


def gumbel(q: np.ndarray) -> tuple[float, np.ndarray]:
    """Independent standard Gumbel distributions: skewed."""
    return float((q + np.exp(-q)).sum()), 1 - np.exp(-q)


def answered(run: Gradients[Any], target: Target) -> Any:
    """Run one coroutine to its end."""
    try:
        q = next(run)
        while True:
            q = run.send(target(q))
    except StopIteration as end:
        return end.value


def sampled(
    target: Target, estimator: MetricEstimator, size: int, *, draws: int = 1000, seeds: Any = (0, 1)
) -> np.ndarray:
    settings = ChainSettings(draws, 300, 0.8, 10)
    chains: list[Chain] = [
        answered(
            sample_chain(
                np.zeros(size), np.ones(size), estimator, settings, np.random.default_rng(seed),
                lambda _: None,
            ),
            target,
        )
        for seed in seeds
    ]  # fmt: skip
    return np.stack([chain.draws for chain in chains])


def agree(draws: np.ndarray, distribution: Any) -> None:
    """Mean, standard deviation and quantiles of ``(chains, draws)`` within 5 MCSE."""
    assert float(az.ess(draws)) > 400
    for statistic, found, truth in (
        ("mean", draws.mean(), distribution.mean()),
        ("sd", draws.std(), distribution.std()),
    ):
        assert abs(found - truth) < 5 * float(az.mcse(draws, method=statistic)), statistic
    for prob in (0.1, 0.5, 0.9):
        error = float(az.mcse(draws, method="quantile", prob=prob))
        assert abs(np.quantile(draws, prob) - distribution.ppf(prob)) < 5 * error, prob


# ------------------------------------------------------------------------------ known targets


@pytest.mark.parametrize("kind", [VarianceEstimator, CovarianceEstimator])
def test_a_correlated_normal_is_found(kind: Callable[[np.ndarray], MetricEstimator]) -> None:
    draws = sampled(normal, kind(np.ones(3)), 3)
    for i in range(3):
        agree(draws[..., i], scipy.stats.norm(0, COVARIANCE[i, i] ** 0.5))
    agree(draws[..., 0] - draws[..., 1], scipy.stats.norm(0, 0.1**0.5))
    agree(draws[..., 0] + draws[..., 1], scipy.stats.norm(0, 3.9**0.5))


def test_a_skewed_target_is_found() -> None:
    draws = sampled(gumbel, VarianceEstimator(np.ones(2)), 2)
    for i in range(2):
        agree(draws[..., i], scipy.stats.gumbel_r())


def test_a_broken_acceptance_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: every subtree's last point is taken, whatever its weight."""
    monkeypatch.setattr(nuts_module.Transition, "_accepts", lambda *_: True)
    draws = sampled(gumbel, VarianceEstimator(np.ones(2)), 2)
    with pytest.raises(AssertionError):
        agree(draws[..., 0], scipy.stats.gumbel_r())


@pytest.mark.parametrize("mass_matrix", ["diagonal", "dense", "laplace"])
def test_every_mass_matrix_finds_the_conjugate_posterior(mass_matrix: Any) -> None:
    case = CASES["linear"]()
    data = case.model.check_data(case.x, case.y)
    posterior = sample_nuts(
        case.model, data, draws=500, warmup=120, chains=2, jobs=1, seed=2, progress=False,
        mass_matrix=mass_matrix, init=fit(case.model, Delta, data, epochs=0, progress=False),
    )  # fmt: skip
    exact = fit(case.model, Exact, data).guide
    covariance = exact.covariance()
    draws = posterior.guide.chains["weight"].numpy()
    for i in range(2):
        scale = float(covariance[i, i].detach()) ** 0.5
        agree(draws[..., i], scipy.stats.norm(exact.loc[i].item(), scale))


def test_moments_are_those_of_pyros_kernel() -> None:
    """An independent implementation, on a posterior without closed form."""
    case = CASES["logistic"]()
    x, y = case.model.check_data(case.x, case.y)
    ours = sample_nuts(case.model, (x, y), draws=500, warmup=150, chains=2, jobs=1, progress=False)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        kernel = NUTS(potential_fn=lambda p: -case.model.log_joint_flat(p["u"], x, y))
        start = {"u": case.model.layout.ravel(case.model.initial_params())}
        chain = MCMC(
            kernel, num_samples=300, warmup_steps=80, initial_params=start, disable_progbar=True
        )
        chain.run()
    mine, theirs = ours.guide.flat.numpy(), chain.get_samples()["u"].numpy()
    for i in range(case.model.num_params):
        a, b = mine[..., i], theirs[None, :, i]
        for statistic, f in (("mean", np.mean), ("sd", np.std)):
            errors = (float(az.mcse(v, method=statistic)) for v in (a, b))
            assert abs(f(a) - f(b)) < 5 * math.hypot(*errors), statistic


# --------------------------------------------------------------------------- the trajectory


def start(target: Target, metric: Any, seed: int = 0) -> Point:
    rng = np.random.default_rng(seed)
    q = rng.standard_normal(3)
    return with_momentum(q, *target(q), metric, rng)


def steps(z: Point, step_size: float, count: int, metric: Any, target: Target) -> Point:
    for _ in range(count):
        z = answered(leapfrog(z, step_size, metric), target)
    return z


@pytest.mark.parametrize(
    "metric", [DiagonalMetric(np.array([0.5, 1.0, 2.0])), DenseMetric(np.tril(np.ones((3, 3))))]
)
def test_leapfrog_steps_can_be_taken_back(metric: Any) -> None:
    z = start(gumbel, metric)
    there = steps(z, 0.1, 20, metric, gumbel)
    back = steps(there, -0.1, 20, metric, gumbel)
    np.testing.assert_allclose(back.q, z.q, atol=1e-12)
    np.testing.assert_allclose(back.p, z.p, atol=1e-12)


def test_the_energy_error_is_of_second_order() -> None:
    metric = DiagonalMetric(np.array([0.5, 1.0, 2.0]))
    z = start(gumbel, metric)
    coarse, fine = (
        abs(steps(z, 0.1 / k, 10 * k, metric, gumbel).energy - z.energy) for k in (1, 2)
    )
    assert 3 < coarse / fine < 5


def test_a_dense_metric_is_the_same_dynamics_in_other_coordinates() -> None:
    """With q = L z, leapfrog with metric L is leapfrog over z with a unit metric."""
    root = np.linalg.cholesky(COVARIANCE)

    def whitened(z: np.ndarray) -> tuple[float, np.ndarray]:
        potential, gradient = normal(root @ z)
        return potential, root.T @ gradient

    p = np.array([0.3, -1.0, 0.8])
    z = np.array([1.0, 0.5, -0.2])
    metric, unit = DenseMetric(root), DiagonalMetric(np.ones(3))
    potential, gradient = normal(root @ z)
    ours = steps(
        Point(root @ z, p, potential, gradient, metric.pull(gradient)), 0.2, 5, metric, normal
    )
    potential, gradient = whitened(z)
    theirs = steps(Point(z, p, potential, gradient, gradient), 0.2, 5, unit, whitened)
    np.testing.assert_allclose(ours.q, root @ theirs.q, rtol=1e-10)
    np.testing.assert_allclose(ours.p, theirs.p, rtol=1e-10)


def transition(step_size: float, *, depth: int = 10, seed: int = 0) -> nuts_module.Draw:
    metric = DiagonalMetric(np.ones(3))
    z = start(lambda q: (0.5 * float(q @ q), q), metric, seed)
    trajectory = Transition(step_size, metric, depth, np.random.default_rng(seed))
    draw: nuts_module.Draw = answered(trajectory.run(z), lambda q: (0.5 * float(q @ q), q))
    return draw


def test_trajectories_stop_at_a_u_turn() -> None:
    """On a unit normal the flow is a rotation: half of it takes pi over the step size."""
    for seed in range(20):
        draw = transition(0.1, seed=seed)
        assert math.pi / 0.1 / 2 < draw.n_steps + 1 <= 64
        assert not draw.reached_max_treedepth and not draw.diverging
        assert draw.n_steps <= 2**draw.tree_depth - 1


def test_trajectories_stop_at_the_depth_limit() -> None:
    for depth in (1, 2, 3):
        draw = transition(0.001, depth=depth)
        assert draw.n_steps == 2**depth - 1
        assert draw.tree_depth == depth and draw.reached_max_treedepth


def test_divergences_end_a_trajectory() -> None:
    draw = transition(1e3)
    assert draw.diverging and draw.n_steps == 1 and draw.acceptance_rate == 0
    assert not draw.reached_max_treedepth


def test_a_potential_that_is_not_a_number_diverges() -> None:
    metric = DiagonalMetric(np.ones(3))
    z = start(gumbel, metric)
    run = Transition(0.1, metric, 10, np.random.default_rng(0)).run(z)
    draw = answered(run, lambda q: (math.nan, np.full_like(q, math.nan)))
    assert draw.diverging and draw.point is z


# ------------------------------------------------------------------------------- adaptation


def test_dual_averaging_finds_the_step_size_of_the_target() -> None:
    """Acceptance that falls with the step size in a known way, and with noise."""
    adaptation, rng = DualAveraging(1.0, target=0.8), np.random.default_rng(0)
    for _ in range(2000):
        noise = 0.1 * rng.standard_normal()
        adaptation.update(float(np.clip(math.exp(-adaptation.step_size) + noise, 0, 1)))
    assert adaptation.average == pytest.approx(-math.log(0.8), rel=0.1)


def test_the_first_step_size_crosses_the_acceptance_of_one_step() -> None:
    metric = DiagonalMetric(np.ones(3))
    for guess in (1e-4, 1e3):
        size = answered(
            find_step_size(start(normal, metric), guess, metric, np.random.default_rng(0)), normal
        )
        assert 0.02 < size < 3


def test_variances_and_covariances_are_numpys() -> None:
    draws = np.random.default_rng(0).standard_normal((40, 3)) @ np.linalg.cholesky(COVARIANCE).T
    variance, covariance = (
        VarianceEstimator(np.ones(3), prior=2.0),
        CovarianceEstimator(np.ones(3), prior=2.0),
    )
    for q in draws:
        variance.add(q)
        covariance.add(q)
    expected = (40 * draws.var(0, ddof=1) + 5 * 2.0) / 45
    np.testing.assert_allclose(variance.metric().scales ** 2, expected)
    root = covariance.metric().root
    np.testing.assert_allclose(
        root @ root.T, (40 * np.cov(draws.T) + 5 * 2.0 * np.eye(3)) / 45, atol=1e-12
    )
    variance.reset()
    np.testing.assert_array_equal(variance.metric().scales, np.ones(3))


@pytest.mark.parametrize("warmup", [1, 19, 20, 40, 149, 150, 151, 300, 1000, 2345])
def test_windows_fill_the_warm_up(warmup: int) -> None:
    begin, ends = windows(warmup)
    assert ends == sorted(set(ends)) and all(begin < end < warmup for end in ends)
    assert bool(ends) == (warmup >= 20)
    if warmup >= 150:
        assert begin == 75 and ends[-1] == warmup - 50


# ------------------------------------------------------------------------------ the gradient


@pytest.mark.parametrize("name", CASES)
def test_the_batched_gradient_is_autograds(name: str) -> None:
    case = CASES[name]()
    x, y = case.model.check_data(case.x, case.y)
    potential = Potential(case.model, x, y, batch=2)
    positions = 0.3 * np.random.default_rng(0).standard_normal((2, case.model.num_params))
    values, gradients = potential(positions)
    for k in range(2):
        u = torch.tensor(positions[k], requires_grad=True)
        expected = -case.model.log_joint_flat(u, x, y)
        expected.backward()
        np.testing.assert_allclose(values[k], expected.item(), rtol=1e-10)
        np.testing.assert_allclose(gradients[k], u.grad, rtol=1e-8, atol=1e-8)


def test_a_net_with_control_flow_is_not_traced() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, dtype=F64))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight if self.weight > 0 else -3 * x * self.weight

    model = BayesianModel(Branching(), NormalPrior(1.0), Gaussian(1.0))
    x, y = torch.ones(1, 1, dtype=F64), torch.zeros(1, dtype=F64)
    values, _ = Potential(model, x, y, batch=2)(np.array([[2.0], [-2.0]]))
    assert values[1] - values[0] == pytest.approx(0.5 * (36 - 4))


def test_chains_that_have_ended_do_not_disturb_the_others() -> None:
    case = CASES["mlp"]()
    potential = Potential(case.model, *case.model.check_data(case.x, case.y), batch=3)

    def walk(seed: int, length: int) -> Gradients[list[float]]:
        rng, values = np.random.default_rng(seed), []
        for _ in range(length):
            value, _ = yield rng.standard_normal(case.model.num_params)
            values.append(value)
        return values

    together = drive([walk(0, 5), walk(1, 2), walk(2, 9)], potential)
    assert [len(values) for values in together] == [5, 2, 9]
    assert drive([walk(0, 5)], potential) == together[:1]


# -------------------------------------------------------------------------------- the start


def test_chains_start_from_a_posterior() -> None:
    """Twice as far from the mean as its draws, and with its variances as the first metric."""
    case = CASES["linear"]()
    data = case.model.check_data(case.x, case.y)
    exact = fit(case.model, Exact, data)
    found = find_starts(
        case.model, *data, chains=400, init=exact, init_scale=1e-9, mass_matrix="diagonal", seed=0
    )
    variance = exact.guide.covariance().diagonal().detach().numpy()
    ratio = found.positions.var(0) / variance
    assert np.all(np.abs(ratio / 4 - 1) < 5 * (2 / 400) ** 0.5 + 5 * (2 / 100) ** 0.5)
    assert found.variances is not None
    assert np.all(np.abs(found.variances / variance - 1) < 5 * (2 / 100) ** 0.5)


def test_a_start_without_a_finite_density_is_refused() -> None:
    class Nowhere(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, dtype=F64))

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.log(-self.weight.square())

    model = BayesianModel(Nowhere(), NormalPrior(1.0), Gaussian(1.0))
    data = (torch.ones(1, 1, dtype=F64), torch.zeros(1, dtype=F64))
    with pytest.raises(ValueError, match=r"must start where.*init"):
        sample_nuts(model, data, chains=1, draws=2, warmup=2, jobs=1, progress=False)


def test_mass_matrices_and_inits_that_do_not_fit_are_refused() -> None:
    case, other = CASES["linear"](), CASES["mlp"]()
    data = (case.x, case.y)
    options: dict[str, Any] = {"draws": 2, "warmup": 2, "jobs": 1, "progress": False}
    with pytest.raises(ValueError, match=r"mass_matrix must be one of.*'full'"):
        sample_nuts(case.model, data, mass_matrix="full", **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got none.*Pass init="):
        sample_nuts(case.model, data, mass_matrix="laplace", **options)
    init = fit(other.model, Delta, (other.x, other.y), epochs=0, progress=False)
    with pytest.raises(ValueError, match=r"init must be a posterior of the same model"):
        sample_nuts(case.model, data, init=init, **options)


@pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping")  # ArviZ's own
def test_energies_make_arvizs_diagnostics_work() -> None:
    case = CASES["linear"]()
    posterior = sample_nuts(case.model, (case.x, case.y), draws=200, warmup=100, chains=2,
                            jobs=1, progress=False)  # fmt: skip
    record = posterior.to_inference_data(case.x, case.y)
    assert np.all(az.bfmi(record) > 0.3)
    az.plot_energy(record)


def test_a_trajectory_that_runs_away_has_infinite_energy_and_warns_of_nothing():
    def runaway():
        potential, gradient = yield np.zeros(2)
        p = np.full(2, 1e200)
        return Point(np.zeros(2), p, potential, gradient, gradient).energy

    class Flat:
        batch = 1

        def __call__(self, q):
            return np.zeros(1), np.zeros((1, 2))

    assert drive([runaway()], Flat()) == [np.inf]
