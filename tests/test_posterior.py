"""Posteriors: the same draws however they are run, densities of data, and files."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
import xarray as xr
from contract import model_trace
from guide_cases import GUIDES, PAIRS, build
from model_cases import CASES, F64, Case, inputs
from pyro.infer.autoguide import AutoNormal
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from probml_tp import (
    BayesianModel,
    Categorical,
    Delta,
    Gaussian,
    Guide,
    LowRankNormal,
    MCDropout,
    MeanFieldNormal,
    NormalPrior,
    Posterior,
    fit,
    sample_nuts,
)
from probml_tp.guides.gaussian import StructuredNormal
from probml_tp.predictions import draws as evaluate_module
from probml_tp.predictions.draws import draw_batches
from probml_tp.storage.tensor_files import write_tensors

CLOSE = {"rtol": 1e-9, "atol": 1e-10}
S = 5


def checked(name: str) -> Case:
    case = CASES[name]()
    return Case(case.model, *case.model.check_data(case.x, case.y), case.rates)


def naive_outputs(guide: Guide, draws: dict[str, Tensor], x: Tensor) -> Tensor:
    """The net at every draw, one call after the other."""
    count = len(next(iter(draws.values())))
    return torch.stack(
        [guide.outputs({n: v[s] for n, v in draws.items()}, x) for s in range(count)]
    )


# ---------------------------------------------------------------------- one way to run as another


@pytest.mark.parametrize(("name", "case"), PAIRS, ids=["-".join(p) for p in PAIRS])
def test_predictions_are_the_net_at_the_draws_however_they_are_run(name: str, case: str) -> None:
    guide, data = build(name, case)
    posterior = Posterior(guide, seed=7)
    x = data.model.check_inputs(data.x)
    count = guide.num_atoms or S
    draws = posterior.draws(count)
    expected = naive_outputs(guide, draws, x)
    for batch_size, vectorize in ((1000, "auto"), (3, "loop"), (4, "vmap"), (1, "auto")):
        ours = posterior.predict(
            x, num_samples=S, keep_outputs=True, batch_size=batch_size, vectorize=vectorize
        )
        assert ours.num_samples == count
        torch.testing.assert_close(ours.require_outputs(), expected, **CLOSE)


def test_draws_follow_from_the_seed_alone() -> None:
    for name in ("mean-field", "laplace", "mc-dropout"):
        posterior = Posterior(build(name, "mlp")[0], seed=3)
        torch.manual_seed(0)
        first = posterior.draws(6)
        torch.manual_seed(1)
        assert all(torch.equal(v, first[n]) for n, v in posterior.draws(6).items())
        assert all(torch.equal(v, first[n]) for n, v in posterior.draws(6, seed=3).items())
        other = posterior.draws(6, seed=4)
        assert any(not torch.equal(other[n], v) for n, v in first.items())


def test_predict_uses_the_posteriors_own_draws() -> None:
    guide, case = build("mean-field", "mlp")
    posterior = Posterior(guide, seed=3)
    outputs = posterior.predict(case.x, num_samples=6, keep_outputs=True).require_outputs()
    torch.testing.assert_close(outputs, naive_outputs(guide, posterior.draws(6), case.x), **CLOSE)
    other = posterior.predict(case.x, num_samples=6, keep_outputs=True, seed=4).require_outputs()
    assert not torch.equal(outputs, other)


@pytest.mark.parametrize("elements", [1, 60, 100])
def test_chunks_of_draws_give_what_one_chunk_gives(
    elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few draws fit in memory at a time; every consumer is checked against its formula."""
    monkeypatch.setattr(evaluate_module, "MAX_DRAW_ELEMENTS", elements)
    for name, case in (("mean-field", "mlp-half-normal"), ("mc-dropout", "classifier-3")):
        guide, data = build(name, case)
        posterior = Posterior(guide, seed=2)
        x, y = data.model.check_data(data.x, data.y)
        draws = posterior.draws(9)
        outputs = naive_outputs(guide, draws, x)
        predictive = posterior.predict(x, num_samples=9, keep_outputs=True, batch_size=4)
        torch.testing.assert_close(predictive.require_outputs(), outputs, **CLOSE)
        expected = data.model.likelihood.log_prob(outputs, y, draws)
        ours = posterior.log_likelihood(x, y, num_samples=9)
        torch.testing.assert_close(ours, expected, **CLOSE)
        density = posterior.log_predictive_density(x, y, num_samples=9)
        torch.testing.assert_close(density, expected.logsumexp(0) - math.log(9), **CLOSE)
        record = posterior.to_inference_data(x, y, num_samples=9)
        np.testing.assert_allclose(record.log_likelihood["y"].values[0], expected, rtol=1e-9)
        if case == "mlp-half-normal":
            mean = outputs.squeeze(-1).mean(0)
            torch.testing.assert_close(predictive.mean, mean, **CLOSE)
            variance = outputs.squeeze(-1).var(0)
            torch.testing.assert_close(predictive.epistemic_variance, variance, **CLOSE)


def test_vectorize_and_batch_size_are_checked() -> None:
    guide, case = build("mean-field", "mlp")
    posterior = Posterior(guide)
    for options, message in (
        ({"vectorize": "pmap"}, r"vectorize must be one of .*got 'pmap'"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1; got 0"),
        ({"num_samples": 0}, "num_samples must be an integer of at least 1; got 0"),
        ({"num_samples": -2}, "num_samples"),
    ):
        with pytest.raises(ValueError, match=message):
            posterior.predict(case.x, **options)


# ----------------------------------------------------------- layers that do not vary are run once


def _conv_bn() -> nn.Sequential:
    """Nested, with an activation used twice and a batch norm, for images of 6 x 6."""
    act = nn.ReLU()
    body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), act, nn.MaxPool2d(2), nn.Flatten())
    head = nn.Sequential(nn.Linear(8, 5), act, nn.Linear(5, 4))
    net = nn.Sequential(body, act, head, act, nn.Linear(4, 3)).double()
    net(torch.randn(20, 1, 6, 6, dtype=F64))
    return net.eval()


def _one_activation() -> nn.Sequential:
    act = nn.Tanh()
    return nn.Sequential(nn.Linear(36, 4), act, nn.Linear(4, 4), act, nn.Linear(4, 3)).double()


def _one_layer_twice() -> nn.Sequential:
    act, layer = nn.Tanh(), nn.Linear(4, 4)
    return nn.Sequential(
        nn.Linear(36, 4), act, layer, act, layer, act, nn.Linear(4, 4), act, nn.Linear(4, 3)
    ).double()


def _tied_bias() -> nn.Sequential:
    net = nn.Sequential(
        nn.Linear(36, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 3)
    ).double()
    net[2].bias = net[0].bias
    net[4].bias = net[0].bias
    return net


def _in_place() -> nn.Sequential:
    """A block that begins by writing to its input, as those of residual nets do."""
    block = nn.Sequential(nn.SiLU(inplace=True), nn.Linear(4, 4))
    return nn.Sequential(nn.Linear(36, 4), block, nn.ELU(inplace=True), nn.Linear(4, 3)).double()


class Doubled(nn.Sequential):
    """Not what its children say."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("make", "rates", "shape"),
    [
        (_conv_bn, {"2.0": 0.5}, (1, 6, 6)),
        (_conv_bn, {"2.2": 0.3, "4": 0.2}, (1, 6, 6)),
        (_one_activation, {"2": 0.5}, (36,)),
        (_one_activation, {"4": 0.5}, (36,)),
        (_one_layer_twice, {"6": 0.5}, (36,)),
        (_one_layer_twice, {"8": 0.5}, (36,)),
        (_in_place, {"1.1": 0.5}, (36,)),
        (_in_place, {"3": 0.5}, (36,)),
        (_tied_bias, {"2": 0.5}, (36,)),
        (_tied_bias, {"5": 0.5}, (36,)),
        (lambda: Doubled(nn.Linear(36, 4), nn.Linear(4, 3)).double(), {"1": 0.5}, (36,)),
    ],
)
def test_a_shared_prefix_changes_nothing(
    make: Callable[[], nn.Module], rates: dict[str, float], shape: tuple[int, ...]
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = make()
        x = torch.randn(7, *shape, dtype=F64)
    model = BayesianModel(net, NormalPrior(1.0), Categorical(3))
    for guide in (MCDropout(model, rates=rates), Delta(model)):
        posterior = Posterior(guide)
        expected = naive_outputs(guide, posterior.draws(4), x)
        for vectorize in ("loop", "vmap"):
            ours = posterior.predict(
                x, num_samples=4, keep_outputs=True, batch_size=3, vectorize=vectorize
            ).require_outputs()
            torch.testing.assert_close(ours, expected[: len(ours)], **CLOSE)
    with torch.no_grad():
        torch.testing.assert_close(
            Posterior(Delta(model)).predict(x, keep_outputs=True).require_outputs()[0], net(x)
        )


class Branching(nn.Module):
    """Its path depends on values, which vmap does not take."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, dtype=F64))

    def forward(self, x: Tensor) -> Tensor:
        slope = self.weight[0] if float(self.weight[1].detach()) > 0 else -self.weight[2]
        return slope * x


def test_a_small_net_that_vmap_does_not_take_is_run_in_a_loop() -> None:
    model = BayesianModel(Branching(), NormalPrior(1.0), Gaussian(scale=1.0))
    posterior = Posterior(MeanFieldNormal(model))
    x = torch.linspace(-1, 1, 5, dtype=F64).unsqueeze(-1)
    found = posterior.predict(x, num_samples=20, keep_outputs=True).require_outputs()
    expected = naive_outputs(posterior.guide, posterior.draws(20), x)
    torch.testing.assert_close(found, expected, **CLOSE)
    with pytest.raises(RuntimeError, match="vmap"):
        posterior.predict(x, num_samples=20, vectorize="vmap")


def test_small_nets_are_run_by_vmap_many_draws_at_a_time(monkeypatch) -> None:
    chunks = []
    run = evaluate_module.vmap

    def recorded(*arguments: Any, chunk_size: int, **options: Any) -> Any:
        chunks.append(chunk_size)
        return run(*arguments, chunk_size=chunk_size, **options)

    monkeypatch.setattr(evaluate_module, "vmap", recorded)
    for size, chunk in ((5, 100), (500, 25), (100_000, 10)):
        model = BayesianModel(nn.Linear(3, 1), NormalPrior(1.0), Gaussian(scale=1.0))
        Posterior(MeanFieldNormal(model)).predict(torch.zeros(size, 3), batch_size=size)
        assert chunks.pop() == chunk


def test_the_prefix_is_run_once_a_batch() -> None:
    calls = {"0": 0, "2": 0}

    class Counted(nn.Linear):
        def __init__(self, name: str) -> None:
            super().__init__(3, 3)
            self.count = name

        def forward(self, x: Tensor) -> Tensor:
            calls[self.count] += 1
            return super().forward(x)

    model = BayesianModel(
        nn.Sequential(Counted("0"), nn.ReLU(), Counted("2")), NormalPrior(1.0), Categorical(3)
    )
    posterior = Posterior(MCDropout(model, rates={"2": 0.5}))
    calls.update({"0": 0, "2": 0})
    posterior.predict(torch.zeros(10, 3), num_samples=20, batch_size=5, vectorize="loop")
    assert calls["2"] - calls["0"] == 2 * 20 - 2


def test_gradients_stay_on_for_who_asks_for_outputs() -> None:
    guide, case = build("mean-field", "mlp")
    batches = draw_batches(guide, case.x, num_samples=2, seed=0, batch_size=2)
    first = next(batches)
    enabled = torch.is_grad_enabled()
    batches.close()
    assert enabled
    assert not first.outputs.requires_grad


def test_memory_does_not_grow_with_the_number_of_draws() -> None:
    """In a process of its own: 100 times the draws, whose outputs would take 160 MB."""
    program = """
import torch
from probml_tp import BayesianModel, Gaussian, MeanFieldNormal, NormalPrior, Posterior
from probml_tp.inference.memory import peak_memory_mib
from probml_tp.models import mlp
torch.set_num_threads(1)
model = BayesianModel(mlp((1, 2, 1), dtype=torch.float64), NormalPrior(1.0), Gaussian(0.1))
posterior, x = Posterior(MeanFieldNormal(model)), torch.zeros(1000, 1, dtype=torch.float64)
posterior.predict(x, num_samples=200)
posterior.log_predictive_density(x, x, num_samples=200)
before = peak_memory_mib()
posterior.predict(x, num_samples=20_000)
posterior.log_predictive_density(x, x, num_samples=20_000)
print(peak_memory_mib() - before)
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert float(result.stdout) < 50


# ----------------------------------------------------------------------- densities of the data


@pytest.mark.parametrize(
    "case", ["mlp-half-normal", "mlp-2-targets-noise", "mlp-heteroscedastic", "classifier-3"]
)
def test_log_likelihoods_are_pyros_point_by_point_where_draws_and_points_are_as_many(
    case: str,
) -> None:
    guide, data = build("mean-field", case)
    x, y = data.model.check_data(data.x, data.y)
    count = len(x)
    posterior = Posterior(guide, seed=1)
    ours = posterior.log_likelihood(x, y, num_samples=count)
    assert ours.shape == (count, count)
    draws = posterior.draws(count)
    for s in range(count):
        trace = model_trace(data.model, {n: v[s] for n, v in draws.items()}, x, y)
        torch.testing.assert_close(ours[s], trace.nodes["y"]["unscaled_log_prob"], **CLOSE)
    density = posterior.log_predictive_density(x, y, num_samples=count)
    expected = scipy.special.logsumexp(ours.numpy(), axis=0) - math.log(count)
    np.testing.assert_allclose(density, expected, rtol=1e-10)


def test_the_predictive_density_is_the_log_of_the_mean_probability() -> None:
    guide, data = build("mc-dropout", "classifier-3")
    posterior = Posterior(guide)
    probs = posterior.predict(data.x, num_samples=50).probs
    expected = probs[torch.arange(len(probs)), data.y].log()
    ours = posterior.log_predictive_density(data.x, data.y, num_samples=50)
    torch.testing.assert_close(ours, expected, **CLOSE)


def test_densities_far_in_the_tails_do_not_underflow() -> None:
    guide, data = build("mean-field", "mlp")
    density = Posterior(guide).log_predictive_density(data.x, data.y + 1e6, num_samples=9)
    assert bool(torch.isfinite(density).all())
    assert bool((density < -1e12).all())


def test_a_point_mass_needs_one_draw_only() -> None:
    guide, data = build("map", "classifier-3")
    posterior = Posterior(guide)
    assert posterior.predict(data.x, num_samples=100).num_samples == 1
    once = posterior.log_predictive_density(data.x, data.y, num_samples=1)
    many = posterior.log_predictive_density(data.x, data.y, num_samples=100)
    assert torch.equal(once, many)
    params = {n: v[0] for n, v in posterior.draws(1).items()}
    x, y = data.model.check_data(data.x, data.y)
    torch.testing.assert_close(once, data.model.log_likelihood(params, x, y), **CLOSE)


def test_predictions_have_the_shapes_of_targets() -> None:
    for case, shape in (("mlp", (10,)), ("mlp-2-targets", (10, 2)), ("linear", (12,))):
        guide, data = build("mean-field", case)
        predictive = Posterior(guide).predict(data.x, num_samples=3)
        assert predictive.mean.shape == predictive.variance.shape == shape
        assert predictive.outputs is None
        low, high = Posterior(guide).predict(data.x, num_samples=3, keep_outputs=True).interval(0.9)
        assert low.shape == high.shape == shape


def test_coverage_of_the_replicates_is_nominal() -> None:
    """Targets drawn from the predictive distribution fall in its 80 % interval 80 % of the time."""
    guide, data = build("mean-field", "mlp-half-normal")
    posterior = Posterior(guide, seed=1)
    count = 1500
    low, high = posterior.predict(data.x, num_samples=count, keep_outputs=True).interval(0.8)
    record = posterior.to_inference_data(data.x, data.y, num_samples=count, seed=2)
    y = torch.tensor(record.posterior_predictive["y"].values[0])
    inside = ((y >= low) & (y <= high)).double().mean(0)
    assert bool(((inside - 0.8).abs() < 5 * (2 * 0.16 / count) ** 0.5).all())


# ---------------------------------------------------------------------------------------- files


def _nuts(case: Case) -> Posterior:
    return sample_nuts(
        case.model, (case.x, case.y), draws=6, warmup=6, chains=2, max_tree_depth=3,
        jobs=1, progress=False,
    )  # fmt: skip


CASE_OF = {"exact": "linear", "mc-dropout": "classifier-3"}

SAVED: dict[str, Callable[[Case], Posterior]] = {
    name: partial(lambda make, case: Posterior(make(case), seed=5), make)
    for name, make in GUIDES.items()
} | {"nuts": _nuts}


@pytest.mark.parametrize("name", SAVED)
def test_a_posterior_is_read_back_as_it_was(name: str, tmp_path: Path) -> None:
    case_name = CASE_OF.get(name, "mlp-half-normal")
    case = checked(case_name)
    saved = SAVED[name](case)
    path = saved.save(tmp_path / "posterior")
    assert path == tmp_path / "posterior.safetensors"
    assert [p.name for p in tmp_path.iterdir()] == ["posterior.safetensors"]
    fresh = checked(case_name)
    loaded = Posterior.load(path, fresh.model)
    assert type(loaded.guide) is type(saved.guide)
    assert (loaded.name, loaded.seed, loaded.info) == (saved.name, saved.seed, saved.info)
    assert loaded.guide.options() == saved.guide.options()
    ours, theirs = loaded.draws(4), saved.draws(4)
    assert all(torch.equal(ours[n], theirs[n]) for n in theirs)
    a, b = (p.predict(case.x, num_samples=4, keep_outputs=True) for p in (loaded, saved))
    assert torch.equal(a.require_outputs(), b.require_outputs())
    if isinstance(saved.guide, StructuredNormal):
        assert loaded.guide.log_evidence() == saved.guide.log_evidence()
        assert torch.equal(loaded.predict(case.x).std, saved.predict(case.x).std)
    record = loaded.to_inference_data(case.x, case.y, num_samples=4)
    expected = saved.to_inference_data(case.x, case.y, num_samples=4)
    for group in ("posterior", "sample_stats", "log_likelihood", "posterior_predictive"):
        xr.testing.assert_allclose(record[group], expected[group], rtol=1e-12)


def test_a_fitted_posterior_keeps_its_record(tmp_path: Path) -> None:
    case = checked("mlp")
    saved = fit(
        case.model, MeanFieldNormal, (case.x, case.y), epochs=3, batch_size=4, seed=9,
        validation=(case.x, case.y), progress=False,
    )  # fmt: skip
    loaded = Posterior.load(saved.save(tmp_path / "a.safetensors"), case.model)
    assert loaded.info == saved.info
    assert loaded.seed == 9


@pytest.mark.parametrize("name", [*GUIDES, "nuts"])
@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_a_float32_posterior_is_read_back(name: str, default: torch.dtype, tmp_path: Path) -> None:
    """Whatever torch's default type: everything of a float32 model is float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        case = CASES[CASE_OF.get(name, "mlp-half-normal")]()
        case.model.float()
        saved = _nuts(case) if name == "nuts" else _fitted(name, case)
        path = saved.save(tmp_path / "p")
        loaded = Posterior.load(path, case.model)
        ours, theirs = loaded.draws(3), saved.draws(3)
        for site, values in theirs.items():
            assert values.dtype == torch.float32
            assert torch.equal(ours[site], values)
        if not saved.guide.no_density:
            assert saved.guide.log_prob(theirs).dtype == torch.float32
        saved.predict(case.x, num_samples=3)
        saved.to_inference_data(case.x, case.y, num_samples=3)
    finally:
        torch.set_default_dtype(before)


def _fitted(name: str, case: Case) -> Posterior:
    """A guide of the same class and options as the one that the tests have, fitted to the model."""
    like = GUIDES[name](checked(CASE_OF.get(name, "mlp-half-normal")))
    kind, options = Guide.registry[type(like).name], like.options()
    return fit(
        case.model, lambda model: kind(model, **options), (case.x, case.y), epochs=3,
        batch_size=4, progress=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", SAVED)
def test_posteriors_can_be_copied_and_pickled(name: str) -> None:
    case = checked(CASE_OF.get(name, "mlp-half-normal"))
    posterior = SAVED[name](case)
    expected = posterior.predict(case.x, num_samples=4, keep_outputs=True).require_outputs()
    for twin in (copy.deepcopy(posterior), pickle.loads(pickle.dumps(posterior))):
        assert twin.guide.model is not posterior.guide.model
        ours = twin.predict(case.x, num_samples=4, keep_outputs=True).require_outputs()
        assert torch.equal(ours, expected)


def test_numpys_integers_are_integers(tmp_path: Path) -> None:
    case = checked("mlp")
    posterior = fit(
        case.model, MeanFieldNormal, (case.x, case.y), epochs=np.int64(2), batch_size=np.int32(3),
        seed=np.uint8(4), checkpoint=tmp_path / "fit.pt", progress=False,
    )  # fmt: skip
    loaded = Posterior.load(posterior.save(tmp_path / "p"), case.model)
    assert loaded.seed == 4
    assert loaded.info == posterior.info
    record = loaded.to_inference_data(case.x, case.y, num_samples=np.int64(3), seed=np.int64(1))
    record.to_netcdf(str(tmp_path / "record.nc"))


def test_an_autoguide_is_saved_as_draws(tmp_path: Path) -> None:
    case = checked("mlp-half-normal")
    saved = fit(case.model, AutoNormal, (case.x, case.y), epochs=3, progress=False)
    loaded = Posterior.load(saved.save(tmp_path / "auto"), checked("mlp-half-normal").model)
    assert loaded.name == "AutoNormal"
    assert loaded.guide.chains["noise_scale"].shape == (1, 1000)
    again = Posterior.load(saved.save(tmp_path / "again"), case.model)
    assert torch.equal(loaded.guide.flat, again.guide.flat)
    mean, std = loaded.guide.flat[0].mean(0), loaded.guide.flat[0].std(0)
    draws = case.model.layout.ravel(saved.draws(1000, seed=77))
    assert bool(((draws.mean(0) - mean).abs() < 5 * std * (2 / 1000) ** 0.5).all())


def test_files_hold_plain_tensors_and_say_what_they_are(tmp_path: Path) -> None:
    guide, case = build("mean-field", "mlp")
    path = Posterior(guide, seed=4).save(tmp_path / "p")
    assert set(load_file(path)) == {"loc", "log_scale"}
    with safe_open(path, "pt") as file:
        header = file.metadata()
    assert header["guide"] == "mean-field"
    assert json.loads(header["model"]) == case.model.spec()
    assert header["seed"] == "4"
    assert {"probml_tp", "torch", "pyro-ppl"} <= set(json.loads(header["versions"]))


def test_names_with_dots_keep_them(tmp_path: Path) -> None:
    guide, _ = build("map", "mlp")
    assert Posterior(guide).save(tmp_path / "run.v1").name == "run.v1.safetensors"
    assert (tmp_path / "run.v1.safetensors").exists()
    nested = Posterior(guide).save(tmp_path / "new" / "folder" / "p")
    assert nested.exists()


def test_files_are_as_readable_as_any_other(tmp_path: Path) -> None:
    guide, _ = build("map", "mlp")
    (tmp_path / "plain").touch()
    path = Posterior(guide).save(tmp_path / "p")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_interrupted_save_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide, case = build("map", "mlp")
    path = Posterior(guide).save(tmp_path / "p")
    kept = path.read_bytes()

    def torn(target: Path, _content: bytes) -> None:
        target.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", torn)
    with pytest.raises(KeyboardInterrupt):
        Posterior(guide).save(path)
    monkeypatch.undo()
    assert path.read_bytes() == kept
    assert [p.name for p in tmp_path.iterdir()] == ["p.safetensors"]
    Posterior.load(path, case.model)


@pytest.mark.parametrize("other", ["mlp-half-normal", "mlp-heavy-tails", "mlp-2-targets", "linear"])
def test_a_posterior_of_another_model_is_refused(other: str, tmp_path: Path) -> None:
    path = Posterior(build("mean-field", "mlp")[0]).save(tmp_path / "p")
    with pytest.raises(
        ValueError, match=r"the model it was fitted to; .*p\.safetensors differs in"
    ):
        Posterior.load(path, CASES[other]().model)


def test_a_posterior_for_other_statistics_of_batch_norm_is_refused(tmp_path: Path) -> None:
    case = CASES["batch-norm"]()
    path = Posterior(Delta(case.model)).save(tmp_path / "p")
    net = case.model.net
    net[1].running_mean += 1.0
    with pytest.raises(ValueError, match="differs in"):
        Posterior.load(path, BayesianModel(net, NormalPrior(1.0), Gaussian(0.3)))


@pytest.mark.parametrize("damage", ["truncated", "noise", "empty", "text", "missing", "folder"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    guide, case = build("mean-field", "mlp")
    path = Posterior(guide).save(tmp_path / "p")
    whole = path.read_bytes()
    if damage in ("missing", "folder"):
        path.unlink()
        if damage == "folder":
            path.mkdir()
    else:
        content = {
            "truncated": whole[: len(whole) - 40], "noise": bytes(range(256)) * 9, "empty": b"",
            "text": b"not a posterior",
        }  # fmt: skip
        path.write_bytes(content[damage])
    with pytest.raises(ValueError, match=r"readable safetensors file; .*p\.safetensors is not"):
        Posterior.load(path, case.model)


def _rewrite(path: Path, tensors: dict[str, Tensor] | None = None, **changes: str | None) -> None:
    """Another header or other tensors, with the digests that belong to them."""
    with safe_open(path, "pt") as file:
        header = file.metadata()
    header = {k: v for k, v in (header | changes).items() if v is not None}
    del header["digest"]
    write_tensors(path, load_file(path) if tensors is None else tensors, header)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"format": "probml_tp posterior 99"},
            r"format 'probml_tp posterior 2'; .* 'probml_tp post",
        ),
        ({"format": None}, r"has None"),
        ({"guide": "unheard-of"}, r"'unheard-of', known are .*'mean-field'"),
        ({"guide": None}, r"p\.safetensors"),
        ({"model": "{not json"}, r"p\.safetensors"),
        ({"options": '{"unknown_option": 1}'}, r"p\.safetensors"),
        ({"seed": "many"}, r"p\.safetensors"),
        ({"info": "[]"}, r"p\.safetensors"),
    ],
)
def test_a_file_with_another_header_is_refused(
    changes: dict[str, str | None], message: str, tmp_path: Path
) -> None:
    guide, case = build("mean-field", "mlp")
    path = Posterior(guide).save(tmp_path / "p")
    _rewrite(path, **changes)
    with pytest.raises(ValueError, match=message):
        Posterior.load(path, case.model)


@pytest.mark.parametrize("change", ["missing", "extra", "short", "whole numbers"])
def test_a_file_with_other_tensors_is_refused(change: str, tmp_path: Path) -> None:
    guide, case = build("mean-field", "mlp")
    path = Posterior(guide).save(tmp_path / "p")
    tensors = load_file(path)
    if change == "missing":
        del tensors["log_scale"]
    elif change == "extra":
        tensors["more"] = torch.zeros(2)
    elif change == "short":
        tensors["loc"] = tensors["loc"][:3]
    else:
        tensors["loc"] = tensors["loc"].long()
    _rewrite(path, tensors)
    with pytest.raises(ValueError, match=r"mean-field|loc"):
        Posterior.load(path, case.model)


def test_a_plain_safetensors_file_is_no_posterior(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"loc": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"must have the format .*weights\.safetensors has None"):
        Posterior.load(path, CASES["mlp"]().model)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    guide, _ = build("map", "mlp")
    with pytest.raises(ValueError, match=r"must be writable; .*file"):
        Posterior(guide).save(tmp_path / "file" / "p")


def test_a_guide_of_ones_own_is_found_when_it_has_a_name(tmp_path: Path) -> None:
    class Own(Delta):
        name = "tests-own"

    try:
        case = CASES["mlp"]()
        path = Posterior(Own(case.model)).save(tmp_path / "p")
        assert type(Posterior.load(path, case.model).guide) is Own
    finally:
        del Guide.registry["tests-own"]


def test_inputs_far_from_the_data_are_predicted_too() -> None:
    guide, _ = build("laplace", "mlp")
    predictive = Posterior(guide).predict(100 * inputs(5, 2), num_samples=20)
    assert bool(torch.isfinite(predictive.variance).all())


def test_reading_a_posterior_leaves_the_global_random_numbers_alone(tmp_path: Path) -> None:
    case = checked("mlp")
    path = Posterior(LowRankNormal(case.model, rank=2)).save(tmp_path / "p")
    before = torch.get_rng_state()
    Posterior.load(path, case.model)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_has_no_room_in_memory_is_refused_before_it_is_computed() -> None:
    model = BayesianModel(nn.Linear(2, 1), NormalPrior(1.0), Gaussian(scale=0.1))
    x = torch.eye(3, 2)
    posterior = fit(model, MeanFieldNormal, (torch.eye(3, 2), torch.ones(3)), epochs=1)
    for call in (
        lambda: posterior.draws(10**12),
        lambda: posterior.log_likelihood(x, x[:, 0], num_samples=10**12),
        lambda: posterior.predict(x, num_samples=10**12, keep_outputs=True),
    ):
        with pytest.raises(ValueError, match=r"must fit into memory; they take [\d,.]+ GiB"):
            call()
