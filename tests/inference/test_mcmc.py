"""NUTS against closed forms, and the empirical distribution that it comes back as."""

from __future__ import annotations

import math
from typing import Any

import arviz as az
import numpy as np
import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats
import torch
from model_cases import CASES, F64, Case, inputs, targets
from torch import Tensor, nn

from probml_tp import (
    BayesianModel,
    Exact,
    FlatPrior,
    Gaussian,
    NormalPrior,
    Posterior,
    elbo,
    fit,
    sample_nuts,
)
from probml_tp.empirical import Empirical

SHORT: dict[str, Any] = {
    "draws": 12,
    "warmup": 10,
    "max_tree_depth": 3,
    "jobs": 1,
    "progress": False,
}


def checked(name: str) -> Case:
    case = CASES[name]()
    return Case(case.model, *case.model.check_data(case.x, case.y), case.rates)


def agree(draws: np.ndarray, mean: float, std: float) -> None:
    """Mean and standard deviation within 5 Monte Carlo errors, given enough of a sample."""
    ess = float(az.ess(draws))
    assert ess > 250, f"an effective sample of {ess:.0f} proves nothing"
    assert float(az.rhat(draws)) < 1.03
    assert abs(draws.mean() - mean) < 5 * std / ess**0.5
    assert abs(draws.std() - std) < 5 * float(az.mcse(draws, method="sd"))


# ------------------------------------------------------------------------- known posteriors


@pytest.fixture(scope="module")
def conjugate() -> tuple[Case, Posterior]:
    case = checked("linear")
    posterior = sample_nuts(
        case.model, (case.x, case.y), draws=400, warmup=150, chains=2, jobs=1, progress=False
    )
    return case, posterior


def test_the_conjugate_posterior_is_found(conjugate: tuple[Case, Posterior]) -> None:
    case, posterior = conjugate
    exact = fit(case.model, Exact, (case.x, case.y)).guide
    covariance = (exact.scale_tril @ exact.scale_tril.T).numpy()
    draws = posterior.guide.chains["weight"].numpy()
    for i in range(2):
        agree(draws[..., i], exact.loc[i].item(), covariance[i, i] ** 0.5)
    # a direction across both, so that the correlation counts too
    whitened = np.linalg.solve(
        exact.scale_tril.numpy(), (draws - exact.loc.detach().numpy()).reshape(-1, 2).T
    ).T.reshape(draws.shape)
    agree(whitened.sum(-1), 0.0, 2**0.5)
    agree(whitened[..., 0] - whitened[..., 1], 0.0, 2**0.5)


def test_a_wrong_posterior_is_not_confirmed(conjugate: tuple[Case, Posterior]) -> None:
    """Negative control: half the noise precision (a known bug of the labs) is told apart."""
    case, posterior = conjugate
    wrong = BayesianModel(case.model.net, NormalPrior.from_precision(2.0), Gaussian(0.3 * 2**0.5))
    exact = fit(wrong, Exact, (case.x, case.y)).guide
    covariance = exact.scale_tril @ exact.scale_tril.T
    draws = posterior.guide.chains["weight"].numpy()
    with pytest.raises(AssertionError):
        agree(draws[..., 0], exact.loc[0].item(), covariance[0, 0].item() ** 0.5)


def test_predictions_agree_with_the_closed_form(conjugate: tuple[Case, Posterior]) -> None:
    case, posterior = conjugate
    exact = fit(case.model, Exact, (case.x, case.y)).predict(case.x)
    ours = posterior.predict(case.x, num_samples=800)
    error = (exact.epistemic_variance / 250).sqrt()
    assert bool(((ours.mean - exact.mean).abs() < 5 * error).all())
    ratio = ours.epistemic_variance / exact.epistemic_variance
    assert bool(((ratio - 1).abs() < 5 * (2 / 250) ** 0.5).all())


class Idle(nn.Module):
    """A net whose parameter has no say: its posterior is its prior, and f(x) = 0."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.ones(1, dtype=F64))

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x + 0 * self.theta


def test_skewed_posteriors_are_found() -> None:
    """A Gamma prior left as it is, and the noise scale of centred data, by quadrature."""
    y = targets(inputs(8, 1), noise=1.0)
    prior = dist.HalfNormal(2.0)
    model = BayesianModel(Idle(), lambda _n, _p: dist.Gamma(2.0, 3.0), Gaussian(prior))
    posterior = sample_nuts(
        model, (torch.zeros(8, 1), y), draws=450, warmup=150, chains=2, jobs=1, progress=False
    )
    draws = {n: v.numpy().squeeze() for n, v in posterior.guide.chains.items()}
    gamma = scipy.stats.gamma(2.0, scale=1 / 3)
    agree(draws["theta"], gamma.mean(), gamma.std())
    agree(np.log(draws["theta"]), *_moments(lambda t: gamma.pdf(t), np.log, 1e-9, 10.0))

    def density(s: float) -> float:
        likelihood = np.exp(-0.5 * float(y.square().sum()) / s**2 - 8 * math.log(s))
        return float(likelihood * scipy.stats.halfnorm(scale=2.0).pdf(s))

    agree(draws["noise_scale"], *_moments(density, lambda s: s, 0.05, 20.0))
    agree(np.log(draws["noise_scale"]), *_moments(density, np.log, 0.05, 20.0))


def _moments(density: Any, of: Any, low: float, high: float) -> tuple[float, float]:
    def integral(g: Any) -> float:
        return scipy.integrate.quad(lambda t: g(t) * density(t), low, high, limit=400)[0]

    mass = integral(lambda t: 1.0)
    mean = integral(of) / mass
    return mean, (integral(lambda t: (of(t) - mean) ** 2) / mass) ** 0.5


def test_a_flat_prior_gives_least_squares() -> None:
    x = inputs(12, 1)
    torch.manual_seed(0)  # chains start at the net's own values
    model = BayesianModel(nn.Linear(1, 1).double(), FlatPrior(), Gaussian(0.3))
    data = (x, targets(x))
    exact = fit(model, Exact, data).guide
    posterior = sample_nuts(model, data, draws=350, warmup=150, chains=2, jobs=1, progress=False)
    covariance = exact.scale_tril @ exact.scale_tril.T
    draws = posterior.guide.chains["weight"].numpy()[..., 0, 0]
    agree(draws, exact.loc[0].item(), covariance[0, 0].item() ** 0.5)


# ----------------------------------------------------------------------- seeds, chains, record


def test_a_seed_determines_every_chain_however_many_processes_run() -> None:
    case = checked("mlp-half-normal")
    data = (case.x, case.y)
    torch.manual_seed(5)
    here = sample_nuts(case.model, data, chains=2, seed=1, **SHORT, chains_per_batch=1)
    torch.manual_seed(6)
    apart = sample_nuts(
        case.model, data, chains=2, seed=1, **(SHORT | {"jobs": 2, "chains_per_batch": 1})
    )
    assert torch.equal(here.guide.flat, apart.guide.flat)
    assert here.info.sampler == apart.info.sampler
    other = sample_nuts(case.model, data, chains=2, seed=2, **SHORT)
    assert not torch.equal(here.guide.flat, other.guide.flat)


def test_chains_keep_their_order_and_differ() -> None:
    case = checked("linear")
    data = (case.x, case.y)
    three = sample_nuts(case.model, data, chains=3, **SHORT)
    two = sample_nuts(case.model, data, chains=2, **SHORT)
    assert three.guide.flat.shape == (3, 12, 2)
    assert torch.equal(three.guide.flat[:2], two.guide.flat)
    assert not torch.equal(three.guide.flat[0], three.guide.flat[1])


@pytest.mark.parametrize("name", ["mlp-half-normal", "positive-weights"])
def test_lp_is_the_log_joint_at_every_draw(name: str) -> None:
    case = checked(name)
    posterior = sample_nuts(case.model, (case.x, case.y), chains=2, **SHORT)
    model, lp = case.model, posterior.info.sampler["lp"]
    for chain in range(2):
        for draw in range(12):
            params = {n: v[chain, draw] for n, v in posterior.guide.chains.items()}
            flat = model.layout.ravel(model.unconstrain(params))
            expected = model.log_joint_flat(flat, case.x, case.y).item()
            assert lp[chain][draw] == pytest.approx(expected, rel=1e-8)


def test_chains_end_when_they_are_enough() -> None:
    """Cut to the same length, and as the seed alone says; else they make all their draws."""
    case = checked("linear")
    data, options = (case.x, case.y), SHORT | {"draws": 300, "seed": 4, "chains": 3}
    whole = sample_nuts(case.model, data, **options, chains_per_batch=3)
    asked: list[int] = []

    def enough(posterior: Posterior) -> bool:
        asked.append(posterior.guide.flat.shape[1])
        return len(asked) == 2

    part = sample_nuts(case.model, data, **options, enough=enough)
    assert asked == [125, 187] and part.guide.flat.shape[:2] == (3, 187)
    assert torch.equal(part.guide.flat, whole.guide.flat[:, :187])
    assert np.shape(part.info.sampler["lp"]) == (3, 187)
    assert part.info.forward_passes < whole.info.forward_passes
    never = sample_nuts(case.model, data, **options, enough=lambda _: False)
    assert torch.equal(never.guide.flat, whole.guide.flat)


def test_one_draw_is_enough() -> None:
    case = checked("linear")
    posterior = sample_nuts(case.model, (case.x, case.y), **(SHORT | {"draws": 1}))
    assert posterior.guide.flat.shape == (4, 1, 2)


def test_draws_lie_in_the_sites_supports() -> None:
    case = checked("positive-weights")
    posterior = sample_nuts(case.model, (case.x, case.y), chains=1, **SHORT)
    for name, site in case.model.sites.items():
        values = posterior.guide.chains[name]
        assert values.shape == (1, 12, *site.shape)
        assert values.dtype == F64
        assert bool(site.support.check(values).all())


def test_the_record_of_the_sampler() -> None:
    case = checked("linear")
    heard: list[tuple[int, int, str]] = []
    options = SHORT | {"progress": lambda *a: heard.append(a)}
    posterior = sample_nuts(case.model, (case.x, case.y), chains=2, seed=3, **options)
    assert posterior.name == "nuts" and posterior.seed == 3
    assert [done for done, _, _ in heard] == sorted(done for done, _, _ in heard)
    assert len(heard) > 5 and heard[-1][:2] == (44, 44)
    sampler = posterior.info.sampler
    assert all(0 < s < 10 for s in sampler["step_size"])
    per_draw = {"lp", "energy", "acceptance_rate", "tree_depth", "n_steps", "diverging"}
    assert set(sampler) == per_draw | {"reached_max_treedepth", "step_size"}
    assert all(np.shape(sampler[name]) == (2, 12) for name in per_draw)
    assert np.all(np.array(sampler["acceptance_rate"]) <= 1)
    steps = np.array(sampler["n_steps"])
    assert posterior.info.forward_passes > steps.sum()  # warm-up counts too
    assert np.all(steps <= 2 ** np.array(sampler["tree_depth"]) - 1)
    assert np.all(np.array(sampler["tree_depth"]) <= 3)
    assert posterior.info.options["chains"] == 2 and posterior.info.options["seed"] == 3
    assert posterior.info.seconds > 0


def test_divergences_are_put_where_they_happened() -> None:
    """A step size far too large for the funnel's neck: some draws diverge, and are marked."""

    class Funnel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log_scale = nn.Parameter(torch.zeros(1, dtype=F64))
            self.value = nn.Parameter(torch.zeros(1, dtype=F64))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.value * torch.exp(6 * self.log_scale)

    model = BayesianModel(Funnel(), NormalPrior(3.0), Gaussian(0.01))
    x = torch.ones(3, 1, dtype=F64)
    posterior = sample_nuts(
        model, (x, 0.5 * x[:, 0]), draws=60, warmup=20, chains=2, target_accept=0.3,
        jobs=1, progress=False,
    )  # fmt: skip
    diverging = np.array(posterior.info.sampler["diverging"])
    assert diverging.shape == (2, 60)
    assert 0 < diverging.sum() < 120
    record = posterior.to_inference_data(x, 0.5 * x[:, 0])
    assert np.array_equal(record.sample_stats["diverging"].values, diverging)


def test_global_randomness_is_left_alone() -> None:
    case = checked("linear")
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), torch.get_num_threads()
    sample_nuts(case.model, (case.x, case.y), chains=1, **SHORT)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), torch.get_num_threads()) == before[1:]


def test_gradients_may_be_off_outside() -> None:
    case = checked("linear")
    with torch.no_grad():
        posterior = sample_nuts(case.model, (case.x, case.y), chains=1, **SHORT)
        assert not torch.is_grad_enabled()
    assert not posterior.guide.flat.requires_grad


def test_nothing_is_printed_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    case = checked("linear")
    sample_nuts(case.model, (case.x, case.y), chains=1, **(SHORT | {"progress": True}))
    assert capfd.readouterr() == ("", "")


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("draws", 0), ("warmup", 0), ("chains", 0), ("chains", 1.5), ("max_tree_depth", 0),
        ("target_accept", 0.0), ("target_accept", 1.0), ("target_accept", math.nan),
        ("init_scale", -1.0), ("jobs", 0), ("seed", -1),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(option: str, value: object) -> None:
    case = checked("linear")
    with pytest.raises(ValueError, match=rf"{option}.*{value}"):
        sample_nuts(case.model, (case.x, case.y), **(SHORT | {"chains": 1} | {option: value}))


def test_data_are_checked() -> None:
    case = checked("linear")
    with pytest.raises(ValueError, match="y must be finite"):
        sample_nuts(case.model, (case.x, case.y * math.nan), chains=1, **SHORT)
    with pytest.raises(ValueError, match="data"):
        sample_nuts(case.model, 3, chains=1, **SHORT)


# --------------------------------------------------------------------- the empirical distribution


@pytest.fixture
def empirical() -> Empirical:
    model = CASES["linear"]().model
    values = torch.arange(2 * 10 * 2, dtype=F64).reshape(2, 10, 2)
    return Empirical(model, method="nuts", draws={"weight": values})


def test_stored_draws_are_picked_without_replacement(empirical: Empirical) -> None:
    pool = empirical.flat.flatten(0, 1)
    picked = empirical.sample(20, generator=torch.Generator().manual_seed(0))["weight"]
    assert not torch.equal(picked, pool)
    assert sorted(picked.tolist()) == sorted(pool.tolist())
    few = empirical.sample(7, generator=torch.Generator().manual_seed(0))["weight"]
    assert len({tuple(row) for row in few.tolist()}) == 7


def test_more_draws_than_stored_come_with_replacement(empirical: Empirical) -> None:
    picked = empirical.sample(5000, generator=torch.Generator().manual_seed(0))["weight"]
    counts = torch.unique(picked[:, 0], return_counts=True)[1]
    assert len(counts) == 20
    error = (5000 * (1 / 20) * (19 / 20)) ** 0.5
    assert bool(((counts - 250).abs() < 5 * error).all())


def test_a_generator_determines_what_is_picked(empirical: Empirical) -> None:
    a, b = (empirical.sample(5, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a["weight"], b["weight"])


def test_draws_of_an_empirical_distribution_are_copies(empirical: Empirical) -> None:
    before = empirical.flat.clone()
    empirical.sample(5)["weight"].zero_()
    assert torch.equal(empirical.flat, before)


def test_an_empirical_distribution_has_no_density_and_nothing_to_train(
    empirical: Empirical,
) -> None:
    case = checked("linear")
    with pytest.raises(ValueError, match="known by its draws only"):
        empirical.log_prob(empirical.sample(2))
    with pytest.raises(ValueError, match="known by its draws only"):
        elbo(Posterior(empirical), case.x, case.y)
    with pytest.raises(ValueError, match="nothing to train"):
        empirical.loss(case.x, case.y, size=12)
