"""The Pyro program and the pure functions are the same density, for every model."""

from __future__ import annotations

import copy
import pickle

import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from contract import model_trace
from model_cases import (
    CASES,
    F64,
    LENET,
    Case,
    ResidualNet,
    TiedNet,
    batch_norm_net,
    inputs,
    random_flat,
    random_params,
)
from torch import nn
from torch.func import jacrev

from probml_tp import (
    BayesianModel,
    Bernoulli,
    Categorical,
    Delta,
    Gaussian,
    MeanFieldNormal,
    NormalPrior,
    fit,
)
from probml_tp.models import LinearBasis, PolynomialBasis, linear_regression, mlp

ALL = CASES | {"lenet": LENET}
EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(params=ALL)
def case(request: pytest.FixtureRequest) -> Case:
    built = ALL[request.param]()
    x, y = built.model.check_data(built.x, built.y)
    return Case(built.model, x, y)


# ------------------------------------------------------------ Pyro's trace == the pure functions


def test_the_program_has_one_site_a_parameter_and_the_observations(case: Case) -> None:
    trace = model_trace(case.model, random_params(case.model), case.x, case.y)
    sampled = [n for n, node in trace.nodes.items() if node["type"] == "sample"]
    assert [n for n in sampled if n != "data"] == [*case.model.sites, "y"]
    plate = trace.nodes["y"]["cond_indep_stack"][0]
    assert (plate.name, plate.size) == ("data", len(case.x))


def test_log_prior_equals_the_trace_site_by_site(case: Case) -> None:
    params = random_params(case.model)
    trace = model_trace(case.model, params, case.x, case.y)
    for name in case.model.sites:
        node = trace.nodes[name]
        theirs = node["log_prob"].double()  # Pyro's flat prior is float32 zeros
        torch.testing.assert_close(case.model.log_prior(params, sites=[name]), theirs, **EXACT)
    total = sum(trace.nodes[n]["log_prob_sum"].double() for n in case.model.sites)
    torch.testing.assert_close(case.model.log_prior(params), total, **EXACT)
    assert case.model.log_prior(params).dtype == F64


def test_log_likelihood_equals_the_trace_point_by_point(case: Case) -> None:
    params = random_params(case.model)
    trace = model_trace(case.model, params, case.x, case.y)
    ours = case.model.log_likelihood(params, case.x, case.y)
    assert ours.shape == (len(case.x),)
    assert ours.dtype == F64
    torch.testing.assert_close(ours, trace.nodes["y"]["unscaled_log_prob"], **EXACT)


@pytest.mark.parametrize("size", [None, 1000])
def test_log_joint_of_a_batch_scales_the_likelihood_as_the_plate_does(
    case: Case, size: int | None
) -> None:
    params = random_params(case.model)
    batch = slice(0, 3)
    trace = model_trace(case.model, params, case.x[batch], case.y[batch], size=size)
    ours = case.model.log_joint(params, case.x[batch], case.y[batch], size=size)
    torch.testing.assert_close(ours, trace.log_prob_sum(), **EXACT)


def test_batches_of_an_epoch_average_to_the_full_log_joint(case: Case) -> None:
    params, n = random_params(case.model), len(case.x)
    full = case.model.log_joint(params, case.x, case.y)
    batches = torch.arange(n).split(2)
    parts = [
        len(b) / n * case.model.log_joint(params, case.x[b], case.y[b], size=n) for b in batches
    ]
    torch.testing.assert_close(torch.stack(parts).sum(), full, **EXACT)


def test_draws_with_a_leading_dimension_give_one_log_prior_each(case: Case) -> None:
    params = [random_params(case.model, seed) for seed in range(3)]
    stacked = {n: torch.stack([p[n] for p in params]) for n in case.model.sites}
    each = torch.stack([case.model.log_prior(p) for p in params])
    torch.testing.assert_close(case.model.log_prior(stacked), each, **EXACT)


def test_the_program_samples_targets_that_the_model_accepts(case: Case) -> None:
    params = random_params(case.model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = poutine.condition(case.model, data=params)(case.x)
    assert drawn.shape == case.y.shape
    case.model.check_data(case.x, drawn)


# ----------------------------------------------------------------------- unconstrained space


def test_constrain_and_unconstrain_are_inverse(case: Case) -> None:
    flat = random_flat(case.model)
    u = case.model.layout.unravel(flat)
    params = case.model.constrain(u)
    assert list(params) == list(case.model.sites)
    for name, site in case.model.sites.items():
        assert bool(site.support.check(params[name]).all())
    back = case.model.layout.ravel(case.model.unconstrain(params))
    torch.testing.assert_close(back, flat, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", [n for n in CASES if CASES[n]().model.transforms])
def test_log_det_jacobian_equals_autograd(name: str) -> None:
    model = CASES[name]().model
    flat = random_flat(model)

    def forward(u: torch.Tensor) -> torch.Tensor:
        return model.layout.ravel(model.constrain(model.layout.unravel(u)))

    expected = torch.linalg.slogdet(jacrev(forward)(flat)).logabsdet
    u = model.layout.unravel(flat)
    torch.testing.assert_close(model.log_abs_det_jacobian(u), expected, **EXACT)
    stacked = {n: torch.stack([v, v]) for n, v in u.items()}
    torch.testing.assert_close(
        model.log_abs_det_jacobian(stacked), torch.stack([expected] * 2), **EXACT
    )
    assert expected != 0


def test_flat_functions_equal_those_of_the_sites(case: Case) -> None:
    flat = random_flat(case.model)
    u = case.model.layout.unravel(flat)
    params = case.model.constrain(u)
    log_det = case.model.log_abs_det_jacobian(u)
    torch.testing.assert_close(
        case.model.log_prior_flat(flat), case.model.log_prior(params) + log_det, **EXACT
    )
    torch.testing.assert_close(
        case.model.log_joint_flat(flat, case.x, case.y, size=70),
        case.model.log_joint(params, case.x, case.y, size=70) + log_det,
        **EXACT,
    )
    several = torch.stack([flat, 2 * flat])
    torch.testing.assert_close(
        case.model.log_prior_flat(several),
        torch.stack([case.model.log_prior_flat(flat), case.model.log_prior_flat(2 * flat)]),
        **EXACT,
    )


def test_layout_ravels_and_unravels_any_leading_dimensions(case: Case) -> None:
    layout = case.model.layout
    flat = torch.arange(2 * 3 * layout.size, dtype=F64).reshape(2, 3, layout.size)
    sites = layout.unravel(flat)
    assert {n: v.shape[2:] for n, v in sites.items()} == dict(layout.shapes)
    assert torch.equal(layout.ravel(sites), flat)
    for name, place in layout.slices.items():
        assert torch.equal(flat[..., place], sites[name].reshape(2, 3, -1))


# --------------------------------------------------------------------------- the net is untouched


@pytest.mark.parametrize("build", [TiedNet, ResidualNet])
def test_the_users_net_is_left_as_it_was(build: type[nn.Module]) -> None:
    net = build().double()
    before = copy.deepcopy(net.state_dict())
    x = inputs(8, 2)
    model = BayesianModel(net, NormalPrior(1.0), Gaussian(0.3))
    fit(model, MeanFieldNormal, (x, x[:, 0]), epochs=3, progress=False)
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.requires_grad and p.grad is None for p in model.net.parameters())
    for name, value in model.net.state_dict().items():
        assert torch.equal(value, before[name])


def test_outputs_are_the_nets_own(case: Case) -> None:
    initial = case.model.initial_params()
    torch.testing.assert_close(
        case.model.outputs(initial, case.x), case.model.net(case.x), rtol=0, atol=0
    )


def test_in_place_layers_do_not_write_to_the_data() -> None:
    net = nn.Sequential(nn.SiLU(inplace=True), nn.Linear(2, 1)).double()
    model = BayesianModel(net, NormalPrior(1.0), Gaussian(0.3))
    x = inputs(8, 2)
    before = x.clone()
    posterior = fit(model, MeanFieldNormal, (x, x[:, 0].clone()), epochs=3, progress=False)
    posterior.predict(x, num_samples=3)
    assert torch.equal(x, before)
    assert net[0].inplace


def test_tied_weights_are_one_site() -> None:
    model = CASES["tied"]().model
    assert list(model.sites) == [
        "first.weight", "first.bias", "second.bias", "head.weight", "head.bias",
    ]  # fmt: skip
    params = random_params(model)
    x = inputs(4, 2)
    hidden = torch.tanh(x @ params["first.weight"].T + params["first.bias"])
    hidden = torch.tanh(hidden @ params["first.weight"].T + params["second.bias"])
    expected = hidden @ params["head.weight"].T + params["head.bias"]
    torch.testing.assert_close(model.outputs(params, x), expected, **EXACT)


def test_batch_norm_uses_its_running_statistics() -> None:
    x = inputs(10, 2)
    net = batch_norm_net(x)
    model = BayesianModel(net, NormalPrior(1.0), Gaussian(0.3))
    statistics = copy.deepcopy(dict(model.net.named_buffers()))
    params = random_params(model)
    whole = model.outputs(params, x)
    torch.testing.assert_close(torch.cat([model.outputs(params, r[None]) for r in x]), whole)
    for name, value in model.net.named_buffers():
        assert torch.equal(value, statistics[name])


def test_train_mode_of_the_model_does_not_reach_the_net() -> None:
    x = inputs(10, 2)
    net = nn.Sequential(batch_norm_net(x), nn.Dropout(0.5)).eval()
    model = BayesianModel(net, NormalPrior(1.0), Gaussian(0.3))
    expected = model.outputs(model.initial_params(), x)
    model.train()
    assert torch.equal(model.outputs(model.initial_params(), x), expected)


def test_dropout_in_the_net_is_off() -> None:
    net = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1)).double()
    assert net.training
    model = BayesianModel(net, NormalPrior(1.0), Gaussian(0.3))
    x, params = inputs(5, 2), model.initial_params()
    assert torch.equal(model.outputs(params, x), model.outputs(params, x))


# ------------------------------------------------------------------------- types, moving, copies


@pytest.mark.parametrize("name", ["mlp-half-normal", "mlp-gamma", "mlp-heavy-tails", "tied"])
def test_double_moves_priors_and_likelihood(name: str) -> None:
    model = CASES[name]().model.float()
    assert model.dtype == torch.float32
    params = {n: v.float() for n, v in random_params(model).items()}
    assert model.log_prior(params).dtype == torch.float32
    moved = copy.deepcopy(model).double()
    wide = {n: v.double() for n, v in params.items()}
    assert moved.log_prior(wide).dtype == F64
    for site in moved.sites.values():
        assert all(b.dtype == F64 for b in site.buffers() if b.is_floating_point())
    torch.testing.assert_close(moved.log_prior(wide).float(), model.log_prior(params))


def test_the_known_noise_keeps_its_value_in_float64() -> None:
    model = linear_regression(LinearBasis(), prior=NormalPrior(1.0), likelihood=0.1)
    assert model.likelihood.scale.item() == 0.1
    assert copy.deepcopy(model).float().double().likelihood.scale.item() == 0.1


@pytest.mark.parametrize("name", CASES)
def test_copies_and_pickles_are_the_same_density(name: str) -> None:
    built = CASES[name]()
    x, y = built.model.check_data(built.x, built.y)
    params = random_params(built.model)
    expected = built.model.log_joint(params, x, y)
    for twin in (copy.deepcopy(built.model), pickle.loads(pickle.dumps(built.model))):
        assert torch.equal(twin.log_joint(params, x, y), expected)
        assert twin.fingerprint() == built.model.fingerprint()
        twin.float()
    assert torch.equal(built.model.log_joint(params, x, y), expected)


def test_priors_of_another_type_are_brought_to_the_nets() -> None:
    net = nn.Linear(1, 1).double()
    model = BayesianModel(net, lambda _n, _p: dist.Normal(0.0, 1.0), Gaussian(0.1))
    with torch.random.fork_rng():
        assert model(torch.zeros(3, 1, dtype=F64)).dtype == F64
    assert model.sites["weight"].elementwise().sample().dtype == F64


# --------------------------------------------------------------------------------- identity


def test_fingerprints_tell_models_apart() -> None:
    def build(scale: float = 1.0, noise: float = 0.1, hidden: int = 3) -> BayesianModel:
        return BayesianModel(mlp((1, hidden, 1)), NormalPrior(scale), Gaussian(noise))

    prints = {m.fingerprint() for m in (build(), build(2.0), build(noise=0.2), build(hidden=4))}
    assert len(prints) == 4
    assert build().fingerprint() == build().fingerprint()
    assert build(1.0).fingerprint() != build(1.0 + 2e-6).fingerprint()


def test_fingerprints_see_what_the_nets_text_does_not_show() -> None:
    x = inputs(10, 2)
    one = BayesianModel(batch_norm_net(x), NormalPrior(1.0), Gaussian(0.3))
    other = BayesianModel(batch_norm_net(5 * x + 1), NormalPrior(1.0), Gaussian(0.3))
    assert one.fingerprint() != other.fingerprint()

    def with_prior(scales: list[float]) -> BayesianModel:
        return BayesianModel(
            nn.Linear(3, 1), {"bias": NormalPrior(1.0), "*": lambda _n, _p: dist.Normal(
                torch.zeros(3), torch.tensor(scales))}, Gaussian(0.3),
        )  # fmt: skip

    assert with_prior([1, 2, 3]).fingerprint() != with_prior([1, 2.5, 3]).fingerprint()


def test_fingerprints_do_not_depend_on_the_initial_weights() -> None:
    a, b = (BayesianModel(mlp((1, 3, 1), seed=s), NormalPrior(1.0), Gaussian(0.1)) for s in (0, 1))
    assert a.fingerprint() == b.fingerprint()


def test_initial_params_are_the_nets_and_the_noise_priors_median() -> None:
    model = CASES["mlp-log-normal"]().model
    params = model.initial_params()
    for name, value in model.net.named_parameters():
        assert torch.equal(params[name], value)
    torch.testing.assert_close(params["noise_scale"], torch.tensor(-1.0, dtype=F64).exp())
    params["fc1.weight"].zero_()
    assert model.initial_params()["fc1.weight"].abs().sum() > 0


def test_initial_params_have_the_models_type() -> None:
    for name in ("mlp-gamma", "mlp-half-normal", "mlp-log-normal"):
        assert all(p.dtype == F64 for p in CASES[name]().model.initial_params().values())


# ------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("name", ["y", "data", "chain", "draw", "a/b"])
def test_parameters_with_names_that_have_a_use_are_refused(
    name: str,
) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_parameter(name, nn.Parameter(torch.zeros(1)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * getattr(self, name)

    with pytest.raises(ValueError, match=f"{name}"):
        BayesianModel(Named(), NormalPrior(1.0), Gaussian(0.1))


def test_a_parameter_named_as_the_likelihoods_is_refused() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.noise_scale = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.noise_scale

    with pytest.raises(ValueError, match="noise_scale"):
        BayesianModel(Named(), NormalPrior(1.0), Gaussian(dist.HalfNormal(1.0)))


def test_initial_values_outside_a_priors_support_are_refused() -> None:
    net = nn.Linear(1, 1)
    net.weight.data.fill_(-1.0)
    prior = {"weight": lambda _n, _p: dist.HalfNormal(1.0), "*": NormalPrior(1.0)}
    with pytest.raises(ValueError, match=r"weight.*support|support.*weight"):
        Delta(BayesianModel(net, prior, Gaussian(0.1)))


def test_nets_without_parameters_or_of_mixed_types_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one parameter; ReLU"):
        BayesianModel(nn.ReLU(), NormalPrior(1.0), Gaussian(0.1))
    mixed = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1).double())
    with pytest.raises(ValueError, match=r"share one floating type.*float32.*float64"):
        BayesianModel(mixed, NormalPrior(1.0), Gaussian(0.1))


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False).eval()],
    ids=["train", "no statistics"],
)
def test_batch_norm_that_mixes_the_batch_is_refused(layer: nn.Module) -> None:
    net = nn.Sequential(nn.Linear(2, 2), layer, nn.Linear(2, 1))
    net[0].train(layer.training)
    with pytest.raises(ValueError, match=r"layer '1' \(BatchNorm1d\).*eval\(\)"):
        BayesianModel(net, NormalPrior(1.0), Gaussian(0.1))


@pytest.mark.parametrize(
    ("likelihood", "outputs", "message"),
    [
        (Bernoulli(), 2, "Bernoulli needs one output"),
        (Categorical(3), 2, r"Categorical\(3\) needs outputs of shape \(batch, 3\)"),
    ],
)
def test_nets_whose_outputs_do_not_fit_the_likelihood_are_refused(
    likelihood: nn.Module, outputs: int, message: str
) -> None:
    model = BayesianModel(nn.Linear(1, outputs), NormalPrior(1.0), likelihood)
    with pytest.raises(ValueError, match=message):
        model.check_inputs(torch.zeros(3, 1))


def test_polynomials_and_gaussians_are_the_textbooks() -> None:
    x = torch.tensor([[-0.5], [2.0]], dtype=F64)
    expected = torch.stack([x.squeeze() ** j for j in range(5)], dim=1)
    torch.testing.assert_close(PolynomialBasis(degree=4)(x), expected, **EXACT)
