"""SWAG: its moments are those of the recorded iterates, and it finds the exact posterior's mean."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_cases import CASES, Case
from torch import Tensor

from probml_tp import (
    SWAG,
    BayesianModel,
    Delta,
    EarlyStopping,
    Exact,
    Gaussian,
    Mixture,
    NormalPrior,
    Posterior,
    elbo,
    fit,
    fit_ensemble,
)

SGD = partial(torch.optim.SGD, lr=0.02, momentum=0.5)
OPTIONS: dict[str, Any] = {
    "epochs": 12, "batch_size": 4, "optimizer": SGD, "progress": False, "seed": 1,
}  # fmt: skip


def _recorded(case: Case, guide: SWAG, **options: object) -> tuple[Posterior, np.ndarray]:
    """A fit, and the iterates at the end of its epochs."""
    iterates: list[np.ndarray] = []

    def record(*_: object) -> None:
        iterates.append(guide.loc.detach().numpy().copy())

    posterior = _fit(case, guide, **options | {"progress": record})
    return posterior, np.stack(iterates)


def _fit(case: Case, guide: object = SWAG, **options: object) -> Posterior:
    return fit(case.model, guide, (case.x, case.y), **OPTIONS | options)


def _covariance(guide: SWAG) -> np.ndarray:
    d, factor = (t.detach().numpy() for t in guide.scale_and_factor())
    return np.diag(d**2) + factor @ factor.T


def _expected(iterates: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Algorithm 1 of the paper, in numpy, from the iterates themselves."""
    running = np.cumsum(iterates, 0) / np.arange(1, len(iterates) + 1)[:, None]
    D = (iterates - running)[-rank:].T
    diagonal = (iterates**2).mean(0) - iterates.mean(0) ** 2
    return iterates.mean(0), np.diag(diagonal) / 2 + D @ D.T / (2 * (D.shape[1] - 1))


@pytest.mark.parametrize("case", ["mlp-half-normal", "lenet-small", "linear"])
@pytest.mark.parametrize(("rank", "burn_in"), [(20, 0), (5, 0), (4, 5), (12, 10)])
def test_moments_are_those_of_the_iterates(case: str, rank: int, burn_in: int) -> None:
    data = CASES[case]()
    guide = SWAG(data.model, rank=rank, burn_in=burn_in)
    posterior, iterates = _recorded(data, guide)
    mean, covariance = _expected(iterates[burn_in:], rank)
    assert int(guide.snapshots) == 12 - burn_in
    np.testing.assert_allclose(guide.loc.detach(), mean, rtol=1e-12)
    np.testing.assert_allclose(_covariance(guide), covariance, rtol=1e-8, atol=1e-14)
    assert posterior.guide is guide


def test_the_iterates_are_those_of_map_training() -> None:
    data = CASES["mlp"]()
    _, iterates = _recorded(data, SWAG(data.model))
    last = _fit(data, Delta).guide.loc.detach().numpy()
    assert np.array_equal(iterates[-1], last)


def test_the_centre_is_the_mean_and_not_the_last_iterate() -> None:
    data = CASES["mlp"]()
    guide = SWAG(data.model)
    _, iterates = _recorded(data, guide)
    assert not np.allclose(guide.loc.detach().numpy(), iterates[-1], rtol=1e-3)


def test_density_and_draws_are_a_normals_with_that_covariance() -> None:
    data = CASES["mlp"]()
    guide = _fit(data, partial(SWAG, rank=5)).guide
    normal = torch.distributions.MultivariateNormal(
        guide.loc.detach(), torch.tensor(_covariance(guide))
    )
    draws = guide.sample(20_000, generator=torch.Generator().manual_seed(0))
    flat = data.model.layout.ravel(draws)
    few = {n: v[:50] for n, v in draws.items()}
    torch.testing.assert_close(
        guide.log_prob(few), normal.log_prob(flat[:50]), rtol=1e-6, atol=1e-6
    )
    error = flat.std(0) / len(flat) ** 0.5
    assert ((flat.mean(0) - guide.loc).abs() < 5 * error).all()
    assert ((flat.var(0) / normal.variance - 1).abs() < 5 * (2 / len(flat)) ** 0.5).all()


# ---------------------------------------------------------------- constant-rate SGD on a quadratic


def _regression() -> tuple[BayesianModel, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 2, generator=generator, dtype=torch.float64)
    noise = 0.5 * torch.randn(100, generator=generator, dtype=torch.float64)
    net = torch.nn.Linear(2, 1).double()
    model = BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.5))
    return model, x, x @ torch.tensor([1.0, -2.0], dtype=torch.float64) + 0.3 + noise


def _batch_means_error(iterates: np.ndarray, blocks: int = 30) -> np.ndarray:
    """The standard error of the mean of a correlated chain."""
    means = np.stack([block.mean(0) for block in np.array_split(iterates, blocks)])
    return means.std(0, ddof=1) / blocks**0.5


def test_the_mean_converges_to_the_exact_posteriors() -> None:
    """Mandt et al. (2017): the stationary mean on a quadratic is the mode, here the exact mean."""
    model, x, y = _regression()
    exact = fit(model, Exact, (x, y)).guide
    guide = SWAG(model, burn_in=50)
    sgd = partial(torch.optim.SGD, lr=0.01)
    _, iterates = _recorded(Case(model, x, y), guide, epochs=350, batch_size=10, optimizer=sgd)
    mean, error = guide.loc.detach().numpy(), _batch_means_error(iterates[50:])
    target = exact.loc.detach().numpy()
    assert (error < 0.01 * exact.scale_tril.norm(dim=1).numpy()).all()  # posterior deviations
    assert (np.abs(mean - target) < 5 * error).all()
    assert (np.abs(iterates[-1] - target) > 5 * error).any()


# ------------------------------------------------------------------------------- starts and stops


def test_the_path_starts_at_another_posteriors_centre() -> None:
    data = CASES["mlp"]()
    mode = fit(data.model, Delta, (data.x, data.y), epochs=20, optimizer="lbfgs", progress=False)
    still = partial(torch.optim.SGD, lr=1e-9)
    guide = _fit(data, init=mode, optimizer=still, epochs=2).guide
    torch.testing.assert_close(guide.loc, mode.guide.loc, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("stopping", [None, EarlyStopping(patience=50)])
def test_an_interrupted_fit_resumes_to_the_same_swag(
    tmp_path: Path, stopping: EarlyStopping | None
) -> None:
    data = CASES["mlp-half-normal"]()
    make = partial(SWAG, rank=4, burn_in=2)
    options = {"early_stopping": stopping, "validation": (data.x[:3], data.y[:3])}
    whole = _fit(data, make, **options)

    def stop(done: int, *_: object) -> None:
        if done == 7:
            raise KeyboardInterrupt

    path = tmp_path / "fit.ckpt"
    with pytest.raises(KeyboardInterrupt):
        _fit(data, make, checkpoint=path, **options | {"progress": stop})
    resumed = _fit(data, make, checkpoint=path, **options)
    ours, theirs = whole.guide.state_dict(), resumed.guide.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert whole.info.losses == resumed.info.losses


def test_early_stopping_keeps_the_snapshots_up_to_the_best_epoch() -> None:
    data = CASES["mlp"]()
    guide = SWAG(data.model)
    posterior, iterates = _recorded(
        data, guide, epochs=100, validation=(data.x[:2], data.y[:2]),
        early_stopping=EarlyStopping(patience=3), optimizer=partial(torch.optim.SGD, lr=0.1),
    )  # fmt: skip
    best = 1 + int(np.argmin(posterior.info.validation_losses))
    assert posterior.info.stopped_early and 2 <= best < len(iterates)
    assert int(guide.snapshots) == best
    np.testing.assert_allclose(guide.loc.detach(), iterates[:best].mean(0), rtol=1e-12)


def test_another_fit_of_the_same_guide_collects_anew() -> None:
    data = CASES["mlp"]()
    guide = SWAG(data.model, rank=4)
    _fit(data, guide)
    _, iterates = _recorded(data, guide, epochs=5)
    assert int(guide.snapshots) == 5
    np.testing.assert_allclose(guide.loc.detach(), iterates.mean(0), rtol=1e-12)


def test_swag_is_saved_and_loaded(tmp_path: Path) -> None:
    data = CASES["mlp-gamma"]()
    posterior = _fit(data, partial(SWAG, rank=3))
    loaded = Posterior.load(posterior.save(tmp_path / "swag"), data.model)
    assert loaded.guide.options() == {"rank": 3, "burn_in": 0}
    draws = posterior.draws(4)
    torch.testing.assert_close(loaded.guide.log_prob(draws), posterior.guide.log_prob(draws))


# ----------------------------------------------------------------------------------- multi-SWAG


def test_multi_swag_is_a_mixture_with_a_density() -> None:
    data = CASES["mlp"]()
    options = {n: v for n, v in OPTIONS.items() if n != "progress"}
    posterior = fit_ensemble(
        data.model, partial(SWAG, rank=4), (data.x, data.y), members=3, jobs=1, **options
    )
    assert posterior.name == "multi-swag" and posterior.guide.no_density is None
    assert posterior.predict(data.x, num_samples=7).num_samples == 7
    draws = posterior.draws(30)
    normals = [
        torch.distributions.MultivariateNormal(m.loc.detach(), torch.tensor(_covariance(m)))
        for m in posterior.guide.members
    ]
    flat = data.model.layout.ravel(draws)
    by_hand = torch.stack([n.log_prob(flat) for n in normals]).logsumexp(0) - np.log(3)
    torch.testing.assert_close(posterior.guide.log_prob(draws), by_hand, rtol=1e-6, atol=1e-6)
    estimate = elbo(posterior, data.x, data.y, num_samples=50)
    assert np.isfinite(estimate.value) and np.isfinite(estimate.standard_error)


def test_swags_trained_together_have_the_moments_of_their_own_iterates() -> None:
    data = CASES["mlp"]()
    mixture = Mixture(data.model, member=SWAG, members=2)
    iterates: list[np.ndarray] = []

    def record(*_: object) -> None:
        iterates.append(np.stack([m.loc.detach().numpy() for m in mixture.members]))

    assert _fit(data, mixture, progress=record).name == "multi-swag"
    for index, member in enumerate(mixture.members):
        mean, covariance = _expected(np.stack(iterates)[:, index], 20)
        np.testing.assert_allclose(member.loc.detach(), mean, rtol=1e-12)
        np.testing.assert_allclose(_covariance(member), covariance, rtol=1e-8, atol=1e-14)


# ------------------------------------------------------------------------------------- refusals


def test_full_batches_are_refused() -> None:
    data = CASES["mlp"]()
    for batch_size in (None, len(data.x)):
        with pytest.raises(ValueError, match="noise of gradients on batches.*all 10 points"):
            _fit(data, batch_size=batch_size)


@pytest.mark.parametrize(("epochs", "burn_in", "count"), [(0, 0, 0), (1, 0, 1), (5, 4, 1)])
def test_too_few_snapshots_are_refused(epochs: int, burn_in: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"at least 2 snapshots.*got {count} from {epochs} epochs"):
        _fit(CASES["mlp"](), partial(SWAG, burn_in=burn_in), epochs=epochs)


def test_iterates_that_stand_still_are_refused() -> None:
    with pytest.raises(ValueError, match="iterates that move; the 12 snapshots"):
        _fit(CASES["mlp"](), optimizer=partial(torch.optim.SGD, lr=1e-300))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"rank": 1}, "rank must be at least 2"),
        ({"rank": 0}, "rank must be an integer"),
        ({"burn_in": -1}, "burn_in must be an integer"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, int], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        SWAG(CASES["mlp"]().model, **options)


def test_an_unfitted_swag_has_no_covariance() -> None:
    guide = SWAG(CASES["mlp"]().model)
    for ask in (lambda: guide.sample(1), guide.kl, guide):
        with pytest.raises(ValueError, match="no covariance before it is fitted"):
            ask()


def test_a_parameter_that_never_moves_keeps_a_small_variance_and_a_density() -> None:
    """In float32, where a floor of 1e-30 would make the density overflow."""
    net = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    net[0].bias.data.fill_(-100.0)  # every unit is dead
    model = BayesianModel(net, NormalPrior(1e6), Gaussian(scale=0.5))
    x = torch.linspace(-1, 1, 20).unsqueeze(-1)
    posterior = fit(model, SWAG, (x, x.squeeze(-1)), **OPTIONS)
    variance = posterior.guide.scatter / 12
    dead = variance < 1e-6 * variance.mean()
    assert dead.any() and not dead.all()
    torch.testing.assert_close(
        posterior.guide.scale[dead].square(), (0.5e-6 * variance.mean()).expand(int(dead.sum()))
    )
    assert torch.isfinite(posterior.guide.log_prob(posterior.draws(20))).all()
