"""The ArviZ record: its numbers against a plain loop, and ArviZ's own tools on it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from contract import model_trace
from guide_cases import GUIDES, PAIRS, build
from model_cases import CASES, F64, Case, inputs, targets
from pyro.infer.autoguide import AutoNormal
from torch import nn

from probml_tp import (
    BayesianModel,
    Exact,
    Gaussian,
    LinearizedLaplace,
    MeanFieldNormal,
    NormalPrior,
    Posterior,
    fit,
    sample_nuts,
    to_inference_data,
)
from probml_tp import records as converter
from probml_tp.models import LinearBasis, PolynomialBasis, linear_regression

GROUPS = [
    "posterior", "posterior_predictive", "log_likelihood", "sample_stats", "observed_data",
    "constant_data",
]  # fmt: skip


def checked(name: str) -> Case:
    case = CASES[name]()
    return Case(case.model, *case.model.check_data(case.x, case.y), case.rates)


@pytest.fixture(scope="module")
def nuts() -> tuple[Case, Posterior]:
    case = checked("linear")
    posterior = sample_nuts(
        case.model, (case.x, case.y), draws=150, warmup=80, chains=2, jobs=1, progress=False
    )
    return case, posterior


# ------------------------------------------------------------------------- every guide and model


@pytest.mark.parametrize(("guide", "name"), PAIRS, ids=["-".join(p) for p in PAIRS])
def test_numbers_are_those_of_a_plain_loop_for_as_many_draws_as_points(
    guide: str, name: str
) -> None:
    """S == N: where Pyro's helpers reshape vector-valued sites wrongly without an error."""
    built, data = build(guide, name)
    x, y = data.model.check_data(data.x, data.y)
    count = len(x)
    posterior = Posterior(built, seed=3)
    record = posterior.to_inference_data(data.x, data.y, num_samples=count)
    draws = posterior.draws(count)
    for site, values in draws.items():
        ours = record.posterior[site].values
        assert ours.shape == (1, count, *values.shape[1:])
        np.testing.assert_array_equal(ours[0], values)
    density = None if built.no_density else built.log_prob(draws).detach()
    for s in range(count):
        params = {n: v[s] for n, v in draws.items()}
        outputs = built.outputs(params, x)
        expected = data.model.likelihood.log_prob(outputs, y, params)
        if not isinstance(built, LinearizedLaplace):
            trace = model_trace(data.model, params, x, y)
            torch.testing.assert_close(expected, trace.nodes["y"]["unscaled_log_prob"])
        np.testing.assert_allclose(
            record.log_likelihood["y"].values[0, s], expected, rtol=1e-9, atol=1e-10
        )
        joint = data.model.log_prior(params) + expected.sum()
        assert record.sample_stats["lp"].values[0, s] == pytest.approx(joint.item(), rel=1e-9)
        if density is not None:
            log_q = record.sample_stats["log_q"].values[0, s]
            assert log_q == pytest.approx(density[s].item(), rel=1e-9)
    assert ("log_q" in record.sample_stats) == (density is not None)


@pytest.mark.parametrize(("guide", "name"), PAIRS, ids=["-".join(p) for p in PAIRS])
def test_groups_dimensions_and_coordinates(guide: str, name: str) -> None:
    built, data = build(guide, name)
    x, y = data.model.check_data(data.x, data.y)
    record = Posterior(built).to_inference_data(data.x, data.y, num_samples=6)
    assert sorted(record.groups()) == sorted(GROUPS)
    n, own = len(x), ["observation", "target"][: y.ndim]
    for group in ("posterior_predictive", "log_likelihood"):
        dims = own if group == "posterior_predictive" else ["observation"]
        assert record[group]["y"].dims == ("chain", "draw", *dims)
    assert record.observed_data["y"].dims == tuple(own)
    np.testing.assert_array_equal(record.observed_data["y"], y)
    np.testing.assert_array_equal(record.constant_data["x"], x)
    for group in ("posterior_predictive", "log_likelihood", "observed_data", "constant_data"):
        assert record[group].coords["observation"].values.tolist() == list(range(n))
    for site, values in data.model.sites.items():
        dims = record.posterior[site].dims
        assert dims[:2] == ("chain", "draw")
        assert all(d.startswith(f"{site}_") for d in dims[2:])
        assert record.posterior[site].shape == (1, 6, *values.shape)
        assert all(d in record.posterior.coords for d in dims)


def test_dimensions_have_names_one_can_read() -> None:
    built, data = build("mean-field", "lenet-small")
    record = Posterior(built).to_inference_data(data.x, data.y, num_samples=3)
    dims = {n: record.posterior[n].dims[2:] for n in ("conv1.weight", "fc1.weight", "fc1.bias")}
    assert dims == {
        "conv1.weight": tuple(f"conv1.weight_{d}" for d in ("out", "in", "height", "width")),
        "fc1.weight": ("fc1.weight_out", "fc1.weight_in"),
        "fc1.bias": ("fc1.bias_out",),
    }
    assert record.constant_data["x"].dims == ("observation", "channel", "height", "width")


@pytest.mark.parametrize(
    ("guide", "name"),
    [
        ("exact", "linear"), ("map", "mlp-half-normal"), ("mean-field", "lenet-small"),
        ("mean-field", "residual"), ("laplace", "mlp-2-targets-noise"), ("mc-dropout", "embedding"),
        ("laplace-linearized", "softmax"),
    ],
)  # fmt: skip
def test_every_record_can_be_summarised_and_written(guide: str, name: str, tmp_path: Path) -> None:
    built, data = build(guide, name)
    record = Posterior(built).to_inference_data(data.x, data.y, num_samples=30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ's, on constant sites and one chain
        table = az.summary(record, round_to="none")
    assert len(table) == data.model.num_params
    flat = data.model.layout.ravel(Posterior(built).draws(30)).mean(0)
    np.testing.assert_allclose(table["mean"], flat, rtol=1e-9, atol=1e-12)
    path = tmp_path / "record.nc"
    az.to_netcdf(record, path)
    back = az.from_netcdf(path)
    for group in GROUPS:
        xr.testing.assert_identical(back[group].load(), record[group])
    assert back.attrs["guide"] == built.name
    back.close()


def test_attributes_say_where_the_record_comes_from() -> None:
    case = checked("mlp")
    posterior = fit(case.model, MeanFieldNormal, (case.x, case.y), epochs=2, seed=6, progress=False)
    attrs = posterior.to_inference_data(case.x, case.y, num_samples=3).attrs
    assert attrs["model"] == case.model.name
    assert json.loads(attrs["model_spec"]) == case.model.spec()
    assert attrs["guide"] == "mean-field"
    options = {"init_scale": None, "estimator": "auto", "temperature": 1.0}
    assert json.loads(attrs["guide_options"]) == options
    assert attrs["likelihood"] == "Gaussian(scale=0.3)"
    assert attrs["seed"] == 6
    assert attrs["fit_seconds"] > 0
    versions = json.loads(attrs["versions"])
    assert versions["pyro-ppl"] == pyro.__version__
    assert versions["torch"] == version("torch")


def test_a_seed_determines_the_record() -> None:
    built, data = build("mean-field", "mlp-half-normal")
    posterior = Posterior(built, seed=1)
    before = torch.get_rng_state()
    first, again, other = (
        posterior.to_inference_data(data.x, data.y, num_samples=5, seed=s) for s in (1, None, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    for group in GROUPS:
        xr.testing.assert_identical(first[group], again[group])
    for group in ("posterior", "posterior_predictive"):
        assert not first[group].equals(other[group])


# ------------------------------------------------------------------------ posterior predictive


def test_replicates_have_noise_of_their_own() -> None:
    """Noise must not be the numbers that the draws were made of: as many sites as points here."""
    model = BayesianModel(nn.Linear(1, 1).double(), NormalPrior(1.0), Gaussian(1.0))
    guide = MeanFieldNormal(model, init_scale=1.0)
    x, count = torch.tensor([[1.0], [2.0]], dtype=F64), 4000
    posterior = Posterior(guide)
    record = posterior.to_inference_data(x, torch.zeros(2), num_samples=count)
    y = record.posterior_predictive["y"].values[0]
    weight = record.posterior["weight"].values.reshape(-1, 1)
    bias = record.posterior["bias"].values.reshape(-1, 1)
    noise = y - weight * x.numpy().T - bias
    both = np.corrcoef(np.hstack([noise, weight, bias]).T) - np.eye(4)
    assert np.abs(both).max() < 5 / count**0.5
    variance = 1 + x.numpy().ravel() ** 2 + 1
    np.testing.assert_allclose(y.var(0), variance, rtol=5 * (2 / count) ** 0.5)


@pytest.mark.parametrize("name", ["mlp-2-targets-noise", "mlp-heteroscedastic", "classifier-3"])
def test_replicates_follow_the_predictive_distribution(name: str) -> None:
    built, data = build("mean-field", name)
    posterior, count = Posterior(built, seed=1), 3000
    record = posterior.to_inference_data(data.x, data.y, num_samples=count)
    y = record.posterior_predictive["y"].values[0]
    predictive = posterior.predict(data.x, num_samples=count)
    if name == "classifier-3":
        assert y.dtype == np.int64
        for c in range(3):
            p = predictive.probs[:, c].numpy()
            error = (p * (1 - p) / count) ** 0.5
            assert np.all(np.abs((y == c).mean(0) - p) < 5 * error + 1e-12)
    else:
        error = (predictive.variance.numpy() / count) ** 0.5
        assert np.all(np.abs(y.mean(0) - predictive.mean.numpy()) < 5 * error)
        fourth = ((y - y.mean(0)) ** 4).mean(0) - y.var(0) ** 2
        spread = (fourth / count) ** 0.5
        assert np.all(np.abs(y.var(0) - predictive.variance.numpy()) < 5 * spread)


# --------------------------------------------------------------------------------------- chains


def test_chains_keep_their_draws_in_order(nuts: tuple[Case, Posterior]) -> None:
    case, posterior = nuts
    record = posterior.to_inference_data(case.x, case.y)
    chains = posterior.guide.chains["weight"]
    np.testing.assert_array_equal(record.posterior["weight"], chains)
    np.testing.assert_allclose(
        record.sample_stats["lp"], posterior.info.sampler["lp"], rtol=1e-9
    )  # all sites are real: the same density
    np.testing.assert_array_equal(
        record.sample_stats["diverging"], posterior.info.sampler["diverging"]
    )
    steps = np.repeat(np.array(posterior.info.sampler["step_size"])[:, None], 150, axis=1)
    np.testing.assert_array_equal(record.sample_stats["step_size"], steps)
    for name in ("energy", "acceptance_rate", "tree_depth", "n_steps", "reached_max_treedepth"):
        np.testing.assert_array_equal(record.sample_stats[name], posterior.info.sampler[name])
    for c, s in ((0, 0), (0, 149), (1, 0), (1, 77)):
        params = {"weight": chains[c, s]}
        expected = case.model.log_likelihood(params, case.x, case.y)
        np.testing.assert_allclose(record.log_likelihood["y"].values[c, s], expected, rtol=1e-10)


def test_chunks_do_not_mix_up_chains(
    nuts: tuple[Case, Posterior], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, posterior = nuts
    whole = posterior.to_inference_data(case.x, case.y)
    monkeypatch.setattr("probml_tp.predictions.draws.MAX_DRAW_ELEMENTS", 2 * 7)
    parts = posterior.to_inference_data(case.x, case.y)
    for group in ("posterior", "sample_stats", "log_likelihood"):
        xr.testing.assert_allclose(whole[group], parts[group], rtol=1e-12)


def test_convergence_is_judged_over_chains(nuts: tuple[Case, Posterior]) -> None:
    case, posterior = nuts
    table = az.summary(posterior.to_inference_data(case.x, case.y))
    assert (table["r_hat"] < 1.1).all()
    assert (table["ess_bulk"] > 20).all()


def test_lp_is_the_density_of_the_sites_themselves() -> None:
    """In the sites' own space, like log_q, also where NUTS moved in another."""
    case = checked("mlp-half-normal")
    posterior = sample_nuts(
        case.model, (case.x, case.y), draws=5, warmup=5, chains=2, max_tree_depth=2,
        jobs=1, progress=False,
    )  # fmt: skip
    record = posterior.to_inference_data(case.x, case.y)
    for c in range(2):
        for s in range(5):
            params = {n: v[c, s] for n, v in posterior.guide.chains.items()}
            joint = case.model.log_joint(params, case.x, case.y).item()
            assert record.sample_stats["lp"].values[c, s] == pytest.approx(joint, rel=1e-9)
            u = case.model.unconstrain(params)
            moved = joint + case.model.log_abs_det_jacobian(u).item()
            assert posterior.info.sampler["lp"][c][s] == pytest.approx(moved, rel=1e-9)


def test_an_autoguide_has_a_record() -> None:
    case = checked("mlp-half-normal")
    posterior = fit(case.model, AutoNormal, (case.x, case.y), epochs=2, progress=False)
    record = posterior.to_inference_data(case.x, case.y, num_samples=8)
    assert sorted(record.groups()) == sorted(GROUPS)
    assert "log_q" not in record.sample_stats
    assert record.attrs["guide"] == "AutoNormal"


# -------------------------------------------------------------------------- ArviZ's own tools


@pytest.fixture
def record() -> az.InferenceData:
    case = checked("linear")
    posterior = fit(case.model, Exact, (case.x, case.y))
    return posterior.to_inference_data(case.x, case.y, num_samples=1000)


def test_loo_is_the_closed_form_of_linear_regression() -> None:
    """Leave-one-out densities of the conjugate model are known; PSIS is close, k-hat small."""
    x = inputs(30, 1)
    y = targets(x)
    model = linear_regression(LinearBasis(), prior=NormalPrior(1.0), likelihood=0.3)
    exact = 0.0
    for n in range(30):
        rest = torch.arange(30) != n
        left = fit(model, Exact, (x[rest], y[rest])).predict(x[n : n + 1])
        exact += torch.distributions.Normal(left.mean, left.std).log_prob(y[n]).item()
    posterior = fit(model, Exact, (x, y))
    estimates = []
    for seed in range(8):
        record = posterior.to_inference_data(x, y, num_samples=2000, seed=seed)
        loo = az.loo(record, pointwise=True)
        assert float(loo.pareto_k.max()) < 0.7
        assert loo.loo_i.shape == (30,)
        estimates.append(loo.elpd_loo)
    error = np.std(estimates, ddof=1) / len(estimates) ** 0.5
    assert abs(np.mean(estimates) - exact) < 5 * error


def test_compare_prefers_the_better_model() -> None:
    x = inputs(40, 1)
    y = (2 * x.square() - x).squeeze(-1) + 0.1 * torch.randn(
        40, generator=torch.Generator().manual_seed(0), dtype=F64
    )
    records = {}
    for degree in (1, 2):
        basis = PolynomialBasis(degree=degree)
        model = linear_regression(basis, prior=NormalPrior(3.0), likelihood=0.3)
        records[f"degree {degree}"] = fit(model, Exact, (x, y)).to_inference_data(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # large k-hat of the model that does not fit
        table = az.compare(records)
    assert table.index[0] == "degree 2"


@pytest.mark.parametrize(
    "draw",
    [
        lambda r: az.plot_ppc(r, num_pp_samples=20),
        lambda r: az.plot_forest(r),
        lambda r: az.plot_trace(r),
        lambda r: az.plot_loo_pit(r, y="y"),
        lambda r: az.plot_bpv(r),
    ],
    ids=["ppc", "forest", "trace", "loo_pit", "bpv"],
)
@pytest.mark.filterwarnings("ignore")
def test_plots_are_drawn(
    record: az.InferenceData, draw: Callable[[az.InferenceData], object]
) -> None:
    draw(record)
    assert plt.get_fignums()
    plt.close("all")


@pytest.mark.parametrize("name", GUIDES)
@pytest.mark.filterwarnings("ignore")
def test_loo_and_plots_work_for_every_guide(name: str) -> None:
    built, data = build(
        name, "linear" if name == "exact" else "mlp" if name != "map" else "softmax"
    )
    record = Posterior(built).to_inference_data(data.x, data.y, num_samples=40)
    assert np.isfinite(az.loo(record).elpd_loo)
    az.plot_forest(record)
    az.plot_ppc(record, num_pp_samples=5)
    plt.close("all")


# -------------------------------------------------------------------- choosing sites, and errors


def test_sites_can_be_chosen() -> None:
    built, data = build("mean-field", "mlp-half-normal")
    posterior = Posterior(built)
    some = posterior.to_inference_data(
        data.x, data.y, num_samples=5, sites=["noise_scale", "fc1.bias"]
    )
    whole = posterior.to_inference_data(data.x, data.y, num_samples=5)
    assert list(some.posterior.data_vars) == ["noise_scale", "fc1.bias"]
    for group in ("log_likelihood", "sample_stats", "posterior_predictive"):
        xr.testing.assert_identical(some[group], whole[group])
    none = posterior.to_inference_data(data.x, data.y, num_samples=5, sites=[])
    assert dict(none.log_likelihood.sizes) == {"chain": 1, "draw": 5, "observation": 10}


@pytest.mark.parametrize("sites", ["noise_scale", ["noise"], ["fc1.weight", "y"]])
def test_unknown_sites_are_refused(sites: object) -> None:
    built, data = build("mean-field", "mlp-half-normal")
    with pytest.raises(ValueError, match=r"sequence of the model's site names.*noise_scale"):
        Posterior(built).to_inference_data(data.x, data.y, sites=sites)


def test_a_record_that_would_be_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    built, data = build("mean-field", "mlp")
    monkeypatch.setattr(converter, "MAX_POSTERIOR_ELEMENTS", 1000)
    posterior = Posterior(built)
    with pytest.raises(ValueError, match=r"at most 1,000 numbers; 100 draws of 6 sites make 3,100"):
        posterior.to_inference_data(data.x, data.y, num_samples=100)
    posterior.to_inference_data(data.x, data.y, num_samples=100, sites=["fc3.bias"])


@pytest.mark.parametrize("count", [0, -1, 1.5])
def test_the_number_of_draws_is_checked(count: object) -> None:
    built, data = build("mean-field", "mlp")
    with pytest.raises(ValueError, match="num_samples must be an integer of at least 1"):
        to_inference_data(Posterior(built), data.x, data.y, num_samples=count)


def test_data_of_another_length_are_refused() -> None:
    built, data = build("mean-field", "mlp")
    with pytest.raises(ValueError, match="same number of data points; got 10 and 9"):
        to_inference_data(Posterior(built), data.x, data.y[:9])
