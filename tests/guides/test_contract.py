"""The contract of guides, checked for every guide on every model that it applies to."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyro.poutine as poutine
import pytest
import torch
from contract import (
    check_kl,
    check_sampler_agrees_with_program,
    check_seeds,
    check_sites,
    check_trace_density,
    model_trace,
)
from guide_cases import ALL_NORMAL, GUIDES, PAIRS, build
from model_cases import CASES, CONJUGATE
from pyro.infer import MCMC, NUTS, Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import kl_divergence

from probml_tp import (
    BayesianModel,
    Delta,
    Exact,
    GaussianDropout,
    Guide,
    Laplace,
    MCDropout,
    MeanFieldNormal,
    Posterior,
    elbo,
)
from probml_tp.guide import Draws
from probml_tp.guides.multiplicative import MultiplicativeNoise

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def _has_kl(guide: str, case: str) -> bool:
    if guide.endswith("dropout"):
        return True
    without = ("map", "laplace-last-layer", "deep-ensemble", "mixture-of-mean-field")
    return case in ALL_NORMAL and guide not in without


@pytest.fixture(scope="module", params=PAIRS, ids=["-".join(p) for p in PAIRS])
def guide(request: pytest.FixtureRequest) -> Iterator[Guide]:
    """One guide for all tests that only read it, which is seen to."""
    guide = build(*request.param)[0]
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    yield guide
    after = dict(guide.state_dict())
    torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)


# ------------------------------------------------------------------------------- every guide


def test_sites_have_the_models_names_shapes_and_types(guide: Guide) -> None:
    check_sites(guide)


def test_a_generator_determines_the_draws(guide: Guide) -> None:
    check_seeds(guide)


def test_log_prob_is_the_pyro_programs(guide: Guide) -> None:
    check_trace_density(guide)


@pytest.mark.parametrize(("name", "case"), [p for p in PAIRS if _has_kl(*p)])
def test_analytic_kl_is_its_monte_carlo_value(name: str, case: str) -> None:
    check_kl(build(name, case)[0])


@pytest.mark.parametrize(("name", "case"), [p for p in PAIRS if not _has_kl(*p)])
def test_kl_is_refused_where_there_is_no_closed_form(name: str, case: str) -> None:
    with pytest.raises(ValueError, match=r"analytic.*elbo"):
        build(name, case)[0].kl()


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("mean-field", "mlp-half-normal"),
        ("low-rank-normal", "mlp-half-normal"),
        ("laplace", "mlp-half-normal"),
        ("exact", "polynomial"),
        ("mc-dropout", "mlp"),
        ("deep-ensemble", "positive-weights"),
        ("mixture-of-mean-field", "mlp-half-normal"),
        ("swag", "mlp-half-normal"),
        ("concrete-dropout", "mlp-heavy-tails"),
        ("gaussian-dropout", "lenet-small"),
    ],
)
def test_the_program_samples_what_sample_does(name: str, case: str) -> None:
    check_sampler_agrees_with_program(build(name, case)[0])


@pytest.mark.parametrize("count", [0, -1, 2.0, True])
def test_the_number_of_draws_is_a_positive_integer(guide: Guide, count: object) -> None:
    with pytest.raises(ValueError, match="num_samples must be an integer of at least 1"):
        guide.sample(count)


@pytest.mark.parametrize(("name", "case"), PAIRS)
def test_draws_do_not_share_memory_with_the_guide(name: str, case: str) -> None:
    """Writing to a draw, or training on, must not change the other."""
    guide = build(name, case)[0]
    draws = guide.sample(1, generator=torch.Generator().manual_seed(0))
    kept = {n: v.clone() for n, v in draws.items()}
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter += 1.0
    for name, value in draws.items():
        assert torch.equal(value, kept[name])


def test_guides_are_found_by_name(guide: Guide) -> None:
    kind = Guide.registry[type(guide).name]
    assert kind is type(guide)
    twin = kind(guide.model, **guide.options())
    twin.load_tensors(guide.state_dict())
    generators = (torch.Generator().manual_seed(0) for _ in range(2))
    ours, theirs = (
        g.sample(3, generator=r) for g, r in zip((guide, twin), generators, strict=True)
    )
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)


# ------------------------------------------------------------- Pyro's ELBO == the fast path's


def _replayed(guide: Guide, values: dict[str, Tensor]) -> Callable[..., object]:
    """The guide's program, with its sites at given values."""
    with torch.random.fork_rng():
        trace = poutine.trace(guide).get_trace()
    for name, value in values.items():
        trace.nodes[name]["value"] = value
    return poutine.replay(guide, trace=trace)


def _site_corrections(guide: MeanFieldNormal, eps: Tensor, values: dict[str, Tensor]) -> Tensor:
    """What the fast path's analytic terms add to log q - log p at the draw, site by site."""
    model = guide.model
    locs = model.layout.unravel(guide.loc)
    scales = model.layout.unravel(guide.log_scale.exp())
    draws = model.layout.unravel(eps)
    total = torch.zeros((), dtype=model.dtype)
    for name, site in model.sites.items():
        q = torch.distributions.Normal(locs[name], scales[name])
        log_q = q.log_prob(locs[name] + scales[name] * draws[name])
        if site.is_normal:
            prior = site.elementwise()
            total += (kl_divergence(q, prior) - log_q + prior.log_prob(values[name])).sum()
        else:
            total += (-q.entropy() - log_q).sum()
    return total


@pytest.mark.parametrize("case", CASES)
def test_mean_fields_loss_is_pyros_elbo_at_the_same_draw(case: str) -> None:
    guide, data = build("mean-field", case)
    x, y = data.model.check_data(data.x, data.y)
    eps = torch.randn(len(guide.loc), generator=torch.Generator().manual_seed(0)).double()
    u = guide.loc + guide.log_scale.exp() * eps
    values = data.model.constrain(data.model.layout.unravel(u))
    for rows, size in ((slice(None), len(x)), (slice(0, 3), 40)):
        fast = guide.loss_at(eps, x[rows], y[rows], size=size) * size
        args = (data.model, _replayed(guide, values), x[rows], y[rows])
        pyro_loss = Trace_ELBO().differentiable_loss(*args, size=size)
        correction = _site_corrections(guide, eps, values)
        torch.testing.assert_close(fast, pyro_loss + correction, **EXACT)
        if _has_kl("mean-field", case):
            analytic = TraceMeanField_ELBO().differentiable_loss(*args, size=size)
            torch.testing.assert_close(fast, analytic, **EXACT)


def test_mean_fields_gradient_is_pyros() -> None:
    guide, data = build("mean-field", "mlp")
    x, y = data.model.check_data(data.x, data.y)
    eps = torch.randn(len(guide.loc), generator=torch.Generator().manual_seed(0)).double()
    parameters = [guide.loc, guide.log_scale]
    fast = torch.autograd.grad(guide.loss_at(eps, x, y, size=len(x)) * len(x), parameters)
    u = guide.loc + guide.log_scale.exp() * eps
    program = _replayed(guide, data.model.constrain(data.model.layout.unravel(u)))
    pyro_loss = TraceMeanField_ELBO().differentiable_loss(data.model, program, x, y, size=len(x))
    for ours, theirs in zip(fast, torch.autograd.grad(pyro_loss, parameters), strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


def test_mean_fields_loss_draws_one_standard_normal_vector() -> None:
    guide, data = build("mean-field", "mlp-gamma")
    x, y = data.model.check_data(data.x, data.y)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        eps = torch.randn_like(guide.loc)
        torch.manual_seed(3)
        drawn = guide.loss(x, y, size=len(x))
    assert torch.equal(drawn, guide.loss_at(eps, x, y, size=len(x)))


@pytest.mark.parametrize("case", CASES)
def test_deltas_loss_is_pyros_elbo(case: str) -> None:
    guide, data = build("map", case)
    x, y = data.model.check_data(data.x, data.y)
    for rows, size in ((slice(None), len(x)), (slice(0, 3), 40)):
        ours = guide.loss(x[rows], y[rows], size=size) * size
        theirs = Trace_ELBO().differentiable_loss(data.model, guide, x[rows], y[rows], size=size)
        torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("case", [c for g, c in PAIRS if g == "mc-dropout"])
@pytest.mark.parametrize("kind", [MCDropout, GaussianDropout])
def test_dropouts_loss_under_shared_noise_is_pyros_elbo_at_the_same_noise(
    kind: type[MultiplicativeNoise], case: str
) -> None:
    _, data = build("mc-dropout", case)
    guide = _share_noise(kind(data.model, rates=data.rates))
    x, y = data.model.check_data(data.x, data.y)
    n = len(x)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        ours = guide.loss(x, y, size=n) * n
        torch.manual_seed(1)
        trace = poutine.trace(guide).get_trace()
    values = {name: trace.nodes[name]["value"] for name in data.model.sites}
    drawn = {name: v.unsqueeze(0) for name, v in values.items()}
    theirs = Trace_ELBO().differentiable_loss(data.model, _replayed(guide, values), x, y, size=n)
    sampled_kl = guide.log_prob(drawn)[0] - data.model.log_prior(values)
    torch.testing.assert_close(ours - guide.kl(), theirs - sampled_kl, **EXACT)


def _share_noise(guide: Guide) -> Guide:
    """The guide, trained with one draw of masks or noise a step if it has any."""
    if isinstance(guide, MCDropout):
        guide.masks = "shared"
    elif isinstance(guide, GaussianDropout):
        guide.noise = "shared"
    return guide


@pytest.mark.parametrize("name", ["laplace", "laplace-linearized"])
def test_laplace_trains_on_the_map_objective(name: str) -> None:
    guide, data = build(name, "mlp-half-normal")
    x, y = data.model.check_data(data.x, data.y)
    delta = Delta(data.model)
    delta.loc.data = guide.loc.data
    for rows, size in ((slice(None), len(x)), (slice(0, 3), 40)):
        batch = (x[rows], y[rows])
        assert torch.equal(guide.loss(*batch, size=size), delta.loss(*batch, size=size))


# ----------------------------------------------------------- the programs work with Pyro's tools


@pytest.mark.parametrize(
    "name",
    ["map", "mean-field", "low-rank-normal", "mc-dropout", "concrete-dropout", "gaussian-dropout"],
)
def test_pyros_own_elbo_module_trains_a_guide(name: str) -> None:
    guide, data = build(name, "mlp-half-normal")
    x, y = data.model.check_data(data.x, data.y)
    objective = Trace_ELBO()(data.model, guide)
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.02)
    losses = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(150):
            optimizer.zero_grad()
            loss = objective(x, y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert sum(losses[-20:]) < sum(losses[:20])


@pytest.mark.parametrize(
    "name",
    [
        "map",
        "mean-field",
        "low-rank-normal",
        "laplace",
        "mc-dropout",
        "concrete-dropout",
        "gaussian-dropout",
    ],
)
@pytest.mark.parametrize("case", ["mlp-half-normal", "classifier-3"])
def test_pyros_predictive_takes_model_and_guide(name: str, case: str) -> None:
    guide, data = build(name, case)
    x, y = data.model.check_data(data.x, data.y)
    with torch.random.fork_rng():
        drawn = Predictive(data.model, guide=guide, num_samples=6)(x)
    assert drawn["y"].shape == (6, *y.shape)


def test_pyros_nuts_takes_the_program() -> None:
    data = CASES["mlp-half-normal"]()
    x, y = data.model.check_data(data.x, data.y)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        chain = MCMC(
            NUTS(data.model, max_tree_depth=2), num_samples=4, warmup_steps=4, disable_progbar=True
        )
        chain.run(x, y)
    assert set(chain.get_samples()) == set(data.model.sites)


# --------------------------------------------------------------- the weight of the KL term: 1/N


@pytest.mark.parametrize(
    ("name", "case"),
    [
        (name, case)
        for name, case in PAIRS
        if (name in ("map", "mean-field", "low-rank-normal") or name.endswith("dropout"))
        and case in ("mlp", "mlp-half-normal", "classifier-3", "linear")
    ],
)
@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_batches_of_an_epoch_average_to_the_full_gradient(
    name: str, case: str, batch_size: int
) -> None:
    """Whatever the batch size (dividing N or not), each point carries 1/N of the KL."""
    _, data = build(name, case)
    guide = _share_noise(GUIDES[name](data))
    x, y = data.model.check_data(data.x, data.y)
    n = len(x)

    def gradient(rows: Tensor) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            loss = guide.loss(x[rows], y[rows], size=n)
        parts = torch.autograd.grad(loss, list(guide.parameters()))
        return torch.cat([loss.reshape(1), *(p.flatten() for p in parts)])

    everything = torch.arange(n)
    epoch = sum(len(b) / n * gradient(b) for b in everything.split(batch_size))
    torch.testing.assert_close(epoch, gradient(everything), **EXACT)


@pytest.mark.parametrize(
    "name", ["mean-field", "low-rank-normal", "mc-dropout", "concrete-dropout", "gaussian-dropout"]
)
def test_the_objective_is_nll_per_point_plus_kl_over_n(name: str) -> None:
    guide, data = build(name, "mlp")
    _share_noise(guide)
    x, y = data.model.check_data(data.x, data.y)
    for size in (len(x), 1000):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            loss = guide.loss(x[:4], y[:4], size=size)
            torch.manual_seed(0)
            larger = guide.loss(x[:4], y[:4], size=2 * size)
        torch.testing.assert_close(loss - larger, guide.kl() / (2 * size), **EXACT)


# ------------------------------------------------------------------------- the elbo() function


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("mean-field", "mlp-gamma"),
        ("laplace", "classifier-3"),
        ("laplace-linearized", "mlp-half-normal"),
        ("exact", "linear"),
        ("mixture-of-mean-field", "mlp-half-normal"),
        ("swag", "classifier-3"),
    ],
)
def test_elbo_is_the_mean_of_pyros_at_its_draws(name: str, case: str) -> None:
    guide, data = build(name, case)
    x, y = data.model.check_data(data.x, data.y)
    posterior = Posterior(guide, seed=4)
    estimate = elbo(posterior, data.x, data.y, num_samples=12)
    draws = posterior.draws(12)
    each = []
    for s in range(12):
        values = {n: v[s] for n, v in draws.items()}
        program = _replayed(guide, values)
        each.append(-Trace_ELBO().loss(data.model, program, x, y))
    terms = torch.tensor(each, dtype=torch.float64)
    assert estimate.value == pytest.approx(terms.mean().item(), rel=1e-10)
    assert estimate.standard_error == pytest.approx(terms.std().item() / 12**0.5, abs=1e-9)


@pytest.mark.parametrize("case", CONJUGATE)
@pytest.mark.parametrize("name", ["mean-field", "low-rank-normal", "laplace", "exact"])
def test_elbo_is_at_most_the_log_evidence(name: str, case: str) -> None:
    evidence = build("exact", case)[0].log_evidence()
    guide, data = build(name, case)
    estimate = elbo(Posterior(guide), data.x, data.y, num_samples=500)
    assert estimate.value <= evidence + 5 * estimate.standard_error + 1e-9


@pytest.mark.parametrize(
    "name", ["map", "mc-dropout", "concrete-dropout", "gaussian-dropout", "deep-ensemble"]
)
def test_elbo_is_refused_without_a_density(name: str) -> None:
    guide, data = build(name, "mlp")
    with pytest.raises(ValueError, match=r"ELBO needs a density; .*Use another guide"):
        elbo(Posterior(guide), data.x, data.y)


def test_elbo_is_refused_for_an_improper_prior() -> None:
    guide, data = build("exact", "flat-prior")
    with pytest.raises(ValueError, match="proper prior"):
        elbo(Posterior(guide), data.x, data.y)


# ------------------------------------------------- negative controls: broken guides are caught


class WrongLogProb(MeanFieldNormal):
    """Its density has twice the scale of its draws."""

    def log_prob(self, draws: Draws) -> Tensor:
        z = (self.model.layout.ravel(draws) - self.loc) / (2 * self.log_scale.exp())
        return torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1) - self.log_scale.sum()


class NoJacobian(MeanFieldNormal):
    """Its density forgets the change of variables of a constrained site."""

    def log_prob(self, draws: Draws) -> Tensor:
        u = self.model.unconstrain(draws)
        return super().log_prob(draws) + self.model.log_abs_det_jacobian(u)


class WrongKL(MeanFieldNormal):
    """Its KL divergence has the scales, not their squares, in the quadratic term."""

    def kl(self) -> Tensor:
        right = super().kl()
        scale = self.log_scale.exp()
        return (
            right + 0.5 * ((scale - scale.square()) / self.model.normal_sites.scale.square()).sum()
        )


class WrongSample(MeanFieldNormal):
    """Its draws are 1.4 times too wide."""

    def sample(
        self, num_samples: int, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        draws = super().sample(num_samples, generator=generator)
        loc = self.model.layout.unravel(self.loc.detach())
        return {n: loc[n] + 1.4 * (v - loc[n]) for n, v in draws.items()}


class GlobalRandomness(MeanFieldNormal):
    """It ignores the generator."""

    def sample(
        self, num_samples: int, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        return super().sample(num_samples)


class WrongOrder(MeanFieldNormal):
    """Its draws come in another order of sites."""

    def sample(
        self, num_samples: int, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        draws = super().sample(num_samples, generator=generator)
        return dict(reversed(draws.items()))


class WrongType(MeanFieldNormal):
    """Its draws are float32 for a float64 model."""

    def sample(
        self, num_samples: int, *, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        draws = super().sample(num_samples, generator=generator)
        return {n: v.float() for n, v in draws.items()}


class VolumeDensity(GaussianDropout):
    """Its density forgets that length on a unit's line goes with the norm of its weights."""

    def log_prob(self, draws: Draws) -> Tensor:
        columns = self.model.layout.unravel(self.loc)
        norms = [columns[f"{layer}.weight"].norm(dim=0).log().sum() for layer in self.rates]
        return super().log_prob(draws) + torch.stack(norms).sum()


class GlobalWeightDecay(MCDropout):
    """Its KL has one weight decay for all layers: the factor 1/(1 - p) is missing."""

    def kl(self) -> Tensor:
        right = super().kl()
        for layer, rate in self.rates.items():
            weight = self.model.layout.unravel(self.loc)[f"{layer}.weight"]
            scale = self.model.sites[f"{layer}.weight"].elementwise().stddev
            right = right - (rate / (1 - rate) * (weight / scale).square()).sum() / 2
        return right


def _broken(kind: type[Guide], case: str) -> Guide:
    data = CASES[case]()
    if issubclass(kind, MultiplicativeNoise):
        guide = kind(data.model, rates=data.rates)
        guide.loc.data = 2 * GUIDES["mc-dropout"](data).loc.data
        return guide
    guide = kind(data.model, init_scale=0.1)
    guide.loc.data, guide.log_scale.data = (p.data for p in GUIDES["mean-field"](data).parameters())
    return guide


@pytest.mark.parametrize(
    ("kind", "case", "check"),
    [
        (WrongLogProb, "mlp", check_trace_density),
        (WrongLogProb, "mlp", check_kl),
        (NoJacobian, "mlp-half-normal", check_trace_density),
        (WrongKL, "mlp", check_kl),
        (WrongSample, "mlp", check_sampler_agrees_with_program),
        (GlobalRandomness, "mlp", check_seeds),
        (WrongOrder, "mlp", check_sites),
        (WrongType, "mlp", check_sites),
        (GlobalWeightDecay, "mlp", check_kl),
        (VolumeDensity, "mlp", check_kl),
        (VolumeDensity, "mlp", check_trace_density),
    ],
)
def test_a_broken_guide_fails_the_contract(
    kind: type[Guide], case: str, check: Callable[[Guide], None]
) -> None:
    with pytest.raises(AssertionError):
        check(_broken(kind, case))


def test_a_half_precision_fails_the_equality_with_the_evidence() -> None:
    """The labs' beta = 1/(2 sigma^2) gives another posterior, and the ELBO shows it."""
    data = CASES["linear"]()

    class HalfPrecision(Exact):
        def solve(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            loc, precision = super().solve(x, y)
            prior = torch.diag(self._prior_precision())
            return loc, prior + (precision - prior) / 2

    x, y = data.model.check_data(data.x, data.y)
    wrong, right = HalfPrecision(data.model), Exact(data.model)
    for guide in (wrong, right):
        guide.finalize(x, y)
    assert elbo(Posterior(right), x, y).standard_error < 1e-9
    estimate = elbo(Posterior(wrong), x, y)
    assert estimate.value < right.log_evidence() - 5 * estimate.standard_error


def test_broken_guides_are_not_in_the_registry() -> None:
    assert Guide.registry["mean-field"] is MeanFieldNormal
    assert Guide.registry["mc-dropout"] is MCDropout
    assert Guide.registry["exact"] is Exact
    assert Guide.registry["laplace"] is Laplace


def test_a_programs_log_joint_minus_a_guides_density_is_an_elbo_term() -> None:
    """The two halves of the contract meet: one draw, by hand."""
    guide, data = build("mean-field", "mlp-half-normal")
    x, y = data.model.check_data(data.x, data.y)
    draws = guide.sample(1, generator=torch.Generator().manual_seed(0))
    values = {n: v[0] for n, v in draws.items()}
    model: BayesianModel = data.model
    joint = model_trace(model, values, x, y).log_prob_sum()
    by_hand = joint - guide.log_prob(draws)[0]
    theirs = -Trace_ELBO().loss(model, _replayed(guide, values), x, y)
    assert theirs == pytest.approx(by_hand.item(), rel=1e-10)
