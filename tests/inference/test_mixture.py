"""Mixtures of guides: densities, balanced draws, joint training equal to training apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch
from contract import check_seeds, check_sites, check_trace_density
from guide_cases import GUIDES, build
from model_cases import CASES, random_flat
from pyro.infer import Predictive
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

from probml_tp import (
    BayesianModel,
    Delta,
    Exact,
    FlatPrior,
    Gaussian,
    Guide,
    Laplace,
    LinearizedLaplace,
    MCDropout,
    MeanFieldNormal,
    Mixture,
    NormalPrior,
    Posterior,
    fit,
)
from probml_tp.inference import random_start
from probml_tp.inference.mixture import MixtureOf
from probml_tp.predictions.draws import is_dense
from probml_tp.streams import seeded

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def _mixture(name: str, case: str, *, members: int = 3) -> Mixture:
    """Members around different places."""
    data = CASES[case]()
    guides = [GUIDES[name](data) for _ in range(members)]
    for seed, guide in enumerate(guides[1:]):
        guide.loc.data = random_flat(data.model, seed=20 + seed)
    return Mixture.of(guides)


def _ensemble(case: str, *, members: int = 3) -> Mixture:
    return _mixture("map", case, members=members)


# ------------------------------------------------------------------------------ the distribution


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("laplace", "mlp-half-normal"),
        ("laplace", "positive-weights"),
        ("mc-dropout", "mlp-gamma"),
        ("mc-dropout", "lenet-small"),
        ("swag", "mlp-half-normal"),
        ("swag", "positive-weights"),
    ],
)
def test_mixtures_of_other_guides_meet_the_contract(name: str, case: str) -> None:
    guide = _mixture(name, case)
    check_sites(guide)
    check_seeds(guide)
    check_trace_density(guide)


def test_the_density_is_that_of_torchs_mixture() -> None:
    mixture = build("mixture-of-mean-field", "mlp")[0]
    locs, scales = (
        torch.stack([getattr(m, a).detach() for m in mixture.members]) for a in ("loc", "log_scale")
    )
    theirs = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(3, dtype=torch.float64)),
        torch.distributions.Independent(torch.distributions.Normal(locs, scales.exp()), 1),
    )
    draws = mixture.sample(7, generator=torch.Generator().manual_seed(0))
    flat = mixture.model.layout.ravel(draws)
    torch.testing.assert_close(mixture.log_prob(draws), theirs.log_prob(flat), **EXACT)


def test_one_member_is_that_guide() -> None:
    data = CASES["mlp-half-normal"]()
    guide = GUIDES["mean-field"](data)
    mixture = Mixture.of([guide])
    draws = guide.sample(4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mixture.log_prob(draws), guide.log_prob(draws), **EXACT)
    alone = Mixture.of([GUIDES["map"](data)])
    assert alone.constant_sites == frozenset(data.model.sites)
    assert alone.num_atoms == 1


@pytest.mark.parametrize("count", [1, 2, 3, 7, 30])
def test_draws_are_balanced_over_members(count: int) -> None:
    mixture = _ensemble("mlp", members=3)
    locs = torch.stack([m.loc.detach() for m in mixture.members])
    orders, extras = set(), set()
    for seed in range(12):
        draws = mixture.sample(count, generator=torch.Generator().manual_seed(seed))
        flat = mixture.model.layout.ravel(draws)
        picked = (flat.unsqueeze(1) == locs).all(-1).double().argmax(1)
        uses = torch.bincount(picked, minlength=3)
        assert uses.min() == count // 3 and uses.max() == -(-count // 3)
        orders.add(tuple(picked.tolist()))
        extras.add(tuple((uses - count // 3).tolist()))
    assert len(orders) > 2
    assert len(extras) == (1 if count % 3 == 0 else 3)


def test_predictions_of_a_deep_ensemble_use_each_member_once() -> None:
    mixture, data = build("deep-ensemble", "classifier-3")
    together = Posterior(mixture).predict(data.x, num_samples=1000, keep_outputs=True)
    apart = [Posterior(member).predict(data.x).probs for member in mixture.members]
    assert together.num_samples == 3 == mixture.num_atoms
    torch.testing.assert_close(together.probs, torch.stack(apart).mean(0), **EXACT)
    density = Posterior(mixture).log_predictive_density(data.x, data.y)
    labels = data.y.unsqueeze(-1)
    torch.testing.assert_close(density, together.probs.gather(1, labels).squeeze(1).log(), **EXACT)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_points_of_an_ensemble_are_all_of_its_posterior(count: int) -> None:
    """Their variance is divided by M, as that of the mixture of normals is; of draws by S - 1."""
    mixture, data = build("deep-ensemble", "mlp")
    mixture = Mixture.of(mixture.members[:count])
    predictive = Posterior(mixture).predict(data.x, keep_outputs=True)
    means, scales = predictive.normal_components()
    variance = (scales.square() + means.square()).mean(0) - means.mean(0).square()
    torch.testing.assert_close(predictive.variance, variance, rtol=1e-9, atol=1e-12)
    functions = predictive.outputs.double()
    spread = functions.var(0, correction=0).squeeze(-1)
    torch.testing.assert_close(predictive.epistemic_variance, spread, rtol=1e-5, atol=1e-12)
    if count > 1:
        drawn = Posterior(build("mean-field", "mlp")[0])
        predictive = drawn.predict(data.x, num_samples=count, keep_outputs=True)
        spread = predictive.outputs.double().var(0, correction=1).squeeze(-1)
        torch.testing.assert_close(predictive.epistemic_variance, spread, rtol=1e-5, atol=1e-12)


def test_predictions_of_other_mixtures_take_as_many_draws_as_asked() -> None:
    mixture, data = build("mixture-of-mean-field", "mlp")
    assert mixture.num_atoms is None and not mixture.draws_are_stored
    assert Posterior(mixture).predict(data.x, num_samples=8).num_samples == 8


def test_pyros_predictive_takes_a_mixture() -> None:
    mixture, data = build("deep-ensemble", "mlp-half-normal")
    with torch.random.fork_rng():
        drawn = Predictive(data.model, guide=mixture, num_samples=6)(data.x)
    assert drawn["y"].shape == (6, len(data.x))


def test_names_and_reasons() -> None:
    assert _ensemble("mlp").name == "deep-ensemble"
    assert "point mass" in (_ensemble("mlp").no_density or "")
    assert _mixture("laplace", "mlp").name == "mixture-of-laplace"
    assert _mixture("laplace", "mlp").no_density is None
    assert Guide.registry["mixture"] is Mixture and Mixture.name == "mixture"
    assert Mixture.no_density is None


# ------------------------------------------------------------------------- the site distribution


def _components() -> tuple[list[dist.TorchDistribution], Tensor]:
    parts = [
        dist.Normal(torch.tensor([0.0, 1.0]), 0.5).to_event(1),
        dist.Delta(torch.tensor([2.0, 2.0]), event_dim=1),
        dist.StudentT(3.0, torch.tensor([4.0, 4.0]), 1.0).to_event(1),
    ]
    return parts, torch.tensor([0.5, 0.3, 0.2]).log()


def test_a_mixtures_density_is_the_weighted_sum() -> None:
    parts, log_weights = _components()
    mixture = MixtureOf(parts, log_weights)
    values = torch.tensor([[0.1, 0.9], [2.0, 2.0], [5.0, 3.0]])
    expected = sum(
        w * p.log_prob(values).exp() for w, p in zip(log_weights.exp(), parts, strict=True)
    )
    torch.testing.assert_close(mixture.log_prob(values).exp(), expected)
    shares = mixture.log_responsibilities(values).exp()
    torch.testing.assert_close(shares.sum(-1), torch.ones(3))
    assert shares[0, 1] == 0 and shares[1, 1] > 0


def test_a_value_without_mass_leaves_the_weights() -> None:
    """Later sites must not turn minus infinity into NaN."""
    points = [dist.Delta(torch.tensor(v)) for v in (0.0, 1.0)]
    mixture = MixtureOf(points, torch.tensor([0.25, 0.75]).log())
    assert mixture.log_prob(torch.tensor(2.0)) == -torch.inf
    kept = mixture.log_responsibilities(torch.tensor(2.0)).exp()
    torch.testing.assert_close(kept, torch.tensor([0.25, 0.75]))


def test_a_mixture_draws_its_components_by_weight() -> None:
    points = [dist.Delta(torch.tensor(float(v))) for v in range(3)]
    weights = torch.tensor([0.5, 0.3, 0.2])
    with seeded(0):
        draws = MixtureOf(points, weights.log()).sample((100, 50))
    assert draws.shape == (100, 50)
    share = torch.bincount(draws.flatten().long()) / draws.numel()
    assert ((share - weights).abs() < 5 * (weights * (1 - weights) / draws.numel()).sqrt()).all()


# --------------------------------------------------------------------- joint training == apart


def _train_both(
    case: str, kind: type[Mixture], optimizer: object, epochs: int = 20
) -> tuple[list[Tensor], list[Tensor], list[float], list[list[float]]]:
    """Three members trained together on full batches, and each alone from the same start."""
    data = CASES[case]()
    starts = [random_flat(data.model, seed=s) for s in range(3)]
    options = {"epochs": epochs, "optimizer": optimizer, "lr": 0.01, "progress": False}
    alone, traces = [], []
    for start in starts:
        guide = Delta(data.model)
        guide.loc.data = start.clone()
        traces.append(fit(data.model, guide, (data.x, data.y), **options).info.losses)
        alone.append(guide.loc.detach())
    mixture = kind(data.model, member=Delta, members=3)
    for member, start in zip(mixture.members, starts, strict=True):
        member.loc.data = start.clone()
    trace = fit(data.model, mixture, (data.x, data.y), **options).info.losses
    return [m.loc.detach() for m in mixture.members], alone, trace, traces


SGD = partial(torch.optim.SGD, lr=0.02, momentum=0.9)


@pytest.mark.parametrize("optimizer", [SGD, "adam"])
@pytest.mark.parametrize("case", ["residual", "lenet-small"])
def test_joint_training_is_each_members_own_to_the_last_bit(case: str, optimizer: object) -> None:
    together, alone, trace, traces = _train_both(case, Mixture, optimizer)
    for ours, theirs in zip(together, alone, strict=True):
        assert torch.equal(ours, theirs)
    means = [sum(each) / 3 for each in zip(*traces, strict=True)]
    assert trace == pytest.approx(means, rel=1e-12)


@pytest.mark.parametrize("optimizer", [SGD, "adam"])
@pytest.mark.parametrize("case", ["mlp-half-normal", "classifier-3"])
def test_joint_training_by_vmap_is_each_members_own(case: str, optimizer: object) -> None:
    assert is_dense(CASES[case]().model.net)
    together, alone, trace, traces = _train_both(case, Mixture, optimizer)
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)
    means = [sum(each) / 3 for each in zip(*traces, strict=True)]
    assert trace == pytest.approx(means, rel=1e-10)


class MeanGradient(Mixture):
    """The gradient of the mean: each member would learn at a third of its rate."""

    def loss(self, x: Tensor, y: Tensor, *, size: int) -> Tensor:
        return self.losses(x, y, size=size).mean()


def test_the_gradient_of_the_mean_would_not_be() -> None:
    together, alone, *_ = _train_both("residual", MeanGradient, SGD)
    assert not torch.allclose(together[0], alone[0], rtol=1e-2)


@pytest.mark.parametrize("case", [c for c in CASES if is_dense(CASES[c]().model.net)])
def test_losses_by_vmap_are_the_loops(case: str) -> None:
    mixture = _ensemble(case)
    data = CASES[case]()
    x, y = mixture.model.check_data(data.x, data.y)
    for rows, size in ((slice(None), len(x)), (slice(0, 3), 40)):
        both = [mixture.losses(x[rows], y[rows], size=size, vectorize=v) for v in (True, False)]
        torch.testing.assert_close(*both, **EXACT)


def test_members_with_random_losses_are_trained_too() -> None:
    data = CASES["mlp"]()
    guide = partial(Mixture, member=MCDropout, members=2, options={"rates": {"fc2": 0.3}})
    posterior = fit(data.model, guide, (data.x, data.y), epochs=30, progress=False)
    assert posterior.name == "mixture-of-mc-dropout"
    assert posterior.info.losses[-1] < posterior.info.losses[0]


def test_a_mixture_of_laplace_finds_each_members_curvature() -> None:
    data = CASES["mlp"]()
    guide = partial(Mixture, member=Laplace, members=2)
    posterior = fit(data.model, guide, (data.x, data.y), epochs=30, progress=False)
    first, second = (m.scale_tril for m in posterior.guide.members)
    assert first.shape == (data.model.num_params,) * 2 and not torch.equal(first, second)


def test_a_checkpoint_resumes_to_the_same_mixture(tmp_path: Path) -> None:
    data = CASES["mlp"]()
    options = {"batch_size": 4, "progress": False, "seed": 3}
    guide = partial(Mixture, member=Delta, members=2)

    def stop(done: int, _total: int, _message: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    whole = fit(data.model, guide, (data.x, data.y), epochs=6, **options)
    path = tmp_path / "fit.ckpt"
    with pytest.raises(KeyboardInterrupt):
        fit(data.model, guide, (data.x, data.y), epochs=6, checkpoint=path,
            **options | {"progress": stop})  # fmt: skip
    resumed = fit(data.model, guide, (data.x, data.y), epochs=6, checkpoint=path, **options)
    assert resumed.info.losses == whole.info.losses
    for ours, theirs in zip(resumed.guide.members, whole.guide.members, strict=True):
        assert torch.equal(ours.loc, theirs.loc)


# -------------------------------------------------------------------------------- starting points


def test_members_that_are_alike_are_set_apart_by_the_fits_seed() -> None:
    data = CASES["mlp"]()
    guide = partial(Mixture, member=Delta, members=3)
    own = data.model.layout.ravel(data.model.initial_params())
    starts = [
        torch.stack([m.loc for m in fit(data.model, guide, (data.x, data.y), epochs=0, seed=s)
                     .guide.members]).detach()
        for s in (0, 0, 1)
    ]  # fmt: skip
    assert torch.equal(starts[0], starts[1])
    assert all(torch.equal(start[0], own) for start in starts)
    assert len({tuple(row.tolist()) for start in starts for row in start}) == 5


def test_a_net_initialised_under_the_fits_seed_is_not_drawn_again() -> None:
    with seeded(0):
        net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    model = BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.1))
    with seeded(0):
        assert not torch.equal(random_start(model)["0.weight"], net[0].weight)


def test_members_that_differ_stay_where_they_are() -> None:
    mixture, data = build("deep-ensemble", "mlp")
    before = [m.loc.detach().clone() for m in mixture.members]
    fit(data.model, mixture, (data.x, data.y), epochs=0)
    for old, member in zip(before, mixture.members, strict=True):
        assert torch.equal(old, member.loc)


def test_a_random_start_is_the_modules_own() -> None:
    model = CASES["residual"]().model
    with seeded(4):
        start = random_start(model)
    assert not torch.equal(start["inner.0.weight"], model.net.inner[0].weight)
    assert start["inner.0.weight"].abs().max() <= 2**-0.5
    assert torch.equal(start["inner.1.weight"], torch.ones(3).double())  # LayerNorm
    assert start["gain"] != model.net.gain  # no module draws it: from its prior
    assert all(not value.requires_grad for value in start.values())


def test_a_random_start_leaves_the_model_and_respects_supports() -> None:
    model = CASES["positive-weights"]().model
    before = {n: p.clone() for n, p in model.net.named_parameters()}
    for seed in range(5):
        with seeded(seed):
            start = random_start(model)
        for name, site in model.sites.items():
            assert bool(site.support.check(start[name]).all())
    assert all(torch.equal(before[n], p) for n, p in model.net.named_parameters())


def test_the_likelihoods_own_sites_start_at_their_typical_value() -> None:
    model = CASES["mlp-half-normal"]().model
    (noise,) = model.likelihood.site_distributions()
    with seeded(0):
        assert torch.equal(random_start(model)[noise], model.initial_params()[noise])


def test_a_parameter_that_nothing_can_draw_is_refused() -> None:
    class Free(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slope = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.slope

    model = BayesianModel(Free(), FlatPrior(), Gaussian(scale=0.1))
    with pytest.raises(ValueError, match=r"'slope' is improper.*reset_parameters"):
        random_start(model)


# --------------------------------------------------------------------------------- saving it


@pytest.mark.parametrize("name", ["deep-ensemble", "mixture-of-mean-field"])
def test_a_mixture_is_saved_and_loaded(name: str, tmp_path: Path) -> None:
    mixture, data = build(name, "mlp-half-normal")
    path = Posterior(mixture, seed=5).save(tmp_path / "posterior")
    before = torch.get_rng_state()
    loaded = Posterior.load(path, data.model)
    assert torch.equal(before, torch.get_rng_state())
    assert loaded.name == name and loaded.guide.no_density == mixture.no_density
    ours, theirs = (p.predict(data.x).mean for p in (Posterior(mixture, seed=5), loaded))
    assert torch.equal(ours, theirs)


def test_options_of_the_members_come_back() -> None:
    data = CASES["mlp"]()
    mixture = Mixture(data.model, member="mean-field", options={"init_scale": 0.3}, members=2)
    own = MeanFieldNormal(data.model, init_scale=0.3).options()
    assert own["init_scale"] == 0.3
    assert mixture.options() == {"member": "mean-field", "options": own, "members": 2}
    again = Mixture(data.model, **mixture.options())
    assert isinstance(again.members[0], MeanFieldNormal)
    assert torch.equal(again.members[1].log_scale, mixture.members[1].log_scale)


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("member", "error"),
    [
        (Exact, "trained from different starting points; the exact guide"),
        (LinearizedLaplace, "predicts by the net itself; the laplace-linearized guide"),
        (AutoNormal, "must be a guide of this package.*AutoNormal"),
        (lambda _: 3, "must be a guide of this package.*got int"),
        ("no-such-guide", "known guide; got 'no-such-guide', known are .*'map'"),
    ],
)
def test_what_cannot_be_a_member_is_refused(
    member: Callable[..., object] | str, error: str
) -> None:
    with pytest.raises(ValueError, match=error):
        Mixture(CASES["linear"]().model, member=member)


def test_members_must_agree() -> None:
    model = CASES["mlp"]().model
    with pytest.raises(ValueError, match="one class with the same options"):
        Mixture.of([Delta(model), MeanFieldNormal(model)])
    with pytest.raises(ValueError, match="one class with the same options"):
        Mixture.of([MeanFieldNormal(model), MeanFieldNormal(model, init_scale=0.5)])
    with pytest.raises(ValueError, match="over the mixture's model"):
        Mixture.of([Delta(model), Delta(CASES["mlp"]().model)])
    with pytest.raises(ValueError, match="at least one member"):
        Mixture.of([])
    with pytest.raises(ValueError, match="members must be an integer of at least 1; got 0"):
        Mixture(model, member=Delta, members=0)


def test_one_centre_for_all_members_is_refused() -> None:
    data = CASES["mlp"]()
    centre = Posterior(Delta(data.model))
    guide = partial(Mixture, member=Delta, members=2)
    with pytest.raises(ValueError, match="2 members.*different values.*Leave init out"):
        fit(data.model, guide, (data.x, data.y), init=centre)
    single = partial(Mixture, member=Delta, members=1)
    posterior = fit(data.model, single, (data.x, data.y), init=centre, epochs=0)
    assert torch.equal(posterior.guide.members[0].loc, centre.guide.loc)


def test_a_line_search_is_refused() -> None:
    data = CASES["mlp"]()
    guide = partial(Mixture, member=Delta, members=2)
    with pytest.raises(ValueError, match="lbfgs"):
        fit(data.model, guide, (data.x, data.y), optimizer="lbfgs")


def test_a_mixture_has_no_centre_to_start_another_fit_from() -> None:
    data = CASES["mlp"]()
    mixture = Mixture(data.model, member=Delta)
    with pytest.raises(ValueError, match="init must be a posterior with a centre"):
        fit(data.model, Delta, (data.x, data.y), init=Posterior(mixture))


def test_float32_members_stay_float32() -> None:
    net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
    model = BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.1))
    x = torch.linspace(-1, 1, 10).unsqueeze(-1)
    posterior = fit(model, partial(Mixture, member=Delta, members=2), (x, x), epochs=3)
    assert posterior.draws(2)["0.weight"].dtype == torch.float32
