"""``fit``: seeds, batches, schedules, stopping, errors, and going on after a kill."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import killed_fit
import numpy as np
import pyro
import pyro.infer.autoguide as autoguide
import pytest
import torch
from model_cases import CASES, F64, Case, inputs, targets
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from torch import Tensor
from torch.optim import SGD

from probml_tp import (
    BayesianModel,
    Delta,
    EarlyStopping,
    Exact,
    Gaussian,
    Guide,
    Laplace,
    MCDropout,
    MeanFieldNormal,
    NormalPrior,
    Posterior,
    fit,
    sample_nuts,
)
from probml_tp.inference.optimizers import callable_name
from probml_tp.models import mlp

SILENT: dict[str, Any] = {"progress": False}

GUIDES: dict[str, Callable[[BayesianModel], Guide]] = {
    "map": Delta,
    "laplace": Laplace,
    "mean-field": MeanFieldNormal,
    "mc-dropout": partial(MCDropout, rates={"fc2": 0.2}),
}


def checked(name: str = "mlp") -> Case:
    case = CASES[name]()
    return Case(case.model, *case.model.check_data(case.x, case.y), case.rates)


def same(a: Guide, b: Guide) -> bool:
    """Whether two guides have equal tensors, bit for bit."""
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


class Recorder(Delta):
    """A MAP guide that notes the batches and calls back."""

    def __init__(self, model: BayesianModel, note: Callable[[Tensor], None] | None = None) -> None:
        super().__init__(model)
        self.batches: list[Tensor] = []
        self.note = note

    def loss(self, x: Tensor, y: Tensor, *, size: int) -> Tensor:
        if torch.is_grad_enabled():
            self.batches.append(x.detach().clone())
            if self.note:
                self.note(x)
        return super().loss(x, y, size=size)


# -------------------------------------------------------------------------------------- seeds


@pytest.mark.parametrize("name", GUIDES)
@pytest.mark.parametrize("batch_size", [None, 4])
def test_a_seed_determines_the_fit(name: str, batch_size: int | None) -> None:
    def run(seed: int) -> Posterior:
        torch.manual_seed(random.randrange(1000))
        case = checked()
        data = (case.x, case.y)
        return fit(
            case.model, GUIDES[name], data, epochs=4, batch_size=batch_size, seed=seed, **SILENT
        )

    first, again, other = run(1), run(1), run(2)
    assert same(first.guide, again.guide)
    assert first.info.losses == again.info.losses
    random_loss = batch_size is not None or name in ("mean-field", "mc-dropout")
    assert same(first.guide, other.guide) != random_loss
    ours, theirs = first.draws(5), again.draws(5)
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)


def _global_state() -> list[Any]:
    return [
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
        random.getstate(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        dict(pyro.settings.get()),
    ]


@pytest.mark.parametrize("name", [*GUIDES, "AutoNormal"])
def test_global_randomness_and_settings_are_left_alone(name: str) -> None:
    case = checked()
    guide = GUIDES.get(name, AutoNormal)
    before = _global_state()
    posterior = fit(case.model, guide, (case.x, case.y), epochs=2, batch_size=3, **SILENT)
    posterior.predict(case.x, num_samples=3)
    posterior.draws(3)
    posterior.to_inference_data(case.x, case.y, num_samples=4)
    assert _global_state() == before


def test_pyros_parameter_store_is_left_alone() -> None:
    case = checked()
    store = pyro.get_param_store()
    with store.scope():
        pyro.param("mine", torch.tensor(3.0))
        for guide in (MeanFieldNormal, AutoNormal, AutoDelta):
            posterior = fit(case.model, guide, (case.x, case.y), epochs=2, **SILENT)
            posterior.predict(case.x, num_samples=2)
        assert list(store.keys()) == ["mine"]
        assert store["mine"].item() == 3.0


def test_a_callback_that_draws_random_numbers_changes_nothing() -> None:
    case = checked()
    data = (case.x, case.y)
    plain = fit(case.model, MeanFieldNormal, data, epochs=4, batch_size=3, **SILENT)
    noisy = fit(
        case.model, MeanFieldNormal, data, epochs=4, batch_size=3,
        progress=lambda *_: torch.rand(7),
    )  # fmt: skip
    assert same(plain.guide, noisy.guide)


# ------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("batch_size", [1, 3, 9, 10, 999])
def test_an_epoch_visits_every_point_once(batch_size: int) -> None:
    case = checked()
    guide = Recorder(case.model)
    fit(case.model, guide, (case.x, case.y), epochs=3, batch_size=batch_size, **SILENT)
    n, size = case.size, min(batch_size, case.size)
    steps = -(-n // size)
    assert len(guide.batches) == 3 * steps
    orders = []
    for epoch in range(3):
        batches = guide.batches[epoch * steps : (epoch + 1) * steps]
        assert {len(b) for b in batches[:-1]} <= {size}
        visited = torch.cat(batches)
        assert sorted(visited.tolist()) == sorted(case.x.tolist())
        orders.append(visited)
    assert not torch.equal(orders[0], orders[1])


def test_full_batches_keep_the_order() -> None:
    case = checked()
    guide = Recorder(case.model)
    fit(case.model, guide, (case.x, case.y), epochs=2, **SILENT)
    assert all(torch.equal(b, case.x) for b in guide.batches)


def test_the_recorded_loss_is_the_mean_over_points() -> None:
    """Also where the last batch is smaller; with a step size of zero the loss is constant."""
    case = checked()
    whole = Delta(case.model).loss(case.x, case.y, size=case.size).item()
    still = partial(SGD, lr=0.0)
    for batch_size in (None, 3, 4):
        posterior = fit(
            case.model, Delta, (case.x, case.y), epochs=2, batch_size=batch_size, optimizer=still,
            **SILENT,
        )  # fmt: skip
        assert posterior.info.losses == pytest.approx([whole, whole], rel=1e-12)


def test_one_step_of_gradient_descent_by_hand() -> None:
    case = checked()
    guide = Delta(case.model)
    start = guide.loc.detach().clone()
    (slope,) = torch.autograd.grad(guide.loss(case.x, case.y, size=case.size), guide.loc)
    sgd = partial(SGD, lr=0.1)
    fit(case.model, guide, (case.x, case.y), epochs=1, optimizer=sgd, **SILENT)
    torch.testing.assert_close(guide.loc.detach(), start - 0.1 * slope)


def test_a_guide_is_trained_further_in_place() -> None:
    case = checked()
    guide = MeanFieldNormal(case.model)
    first = fit(case.model, guide, (case.x, case.y), epochs=20, **SILENT)
    second = fit(case.model, guide, (case.x, case.y), epochs=20, **SILENT)
    assert second.guide is first.guide is guide
    assert second.info.losses[0] < first.info.losses[0]


# ----------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        ("constant", lambda t: 1.0),
        ("linear", lambda t: 1 - t),
        ("cosine", lambda t: (1 + math.cos(math.pi * t)) / 2),
    ],
)
def test_learning_rates_follow_the_schedule_step_by_step(
    schedule: str, factor: Callable[[float], float]
) -> None:
    case = checked()
    made, rates = [], []

    def optimizer(parameters: Any) -> SGD:
        made.append(SGD(parameters, lr=0.02))
        return made[0]

    guide = Recorder(case.model, lambda _: rates.append(made[0].param_groups[0]["lr"]))
    fit(
        case.model, guide, (case.x, case.y), epochs=3, batch_size=4, optimizer=optimizer,
        schedule=schedule, **SILENT,
    )  # fmt: skip
    assert rates == pytest.approx([0.02 * factor(step / 9) for step in range(9)], abs=1e-15)


# ------------------------------------------------------------------- stopping early, validation


def test_the_best_epoch_is_kept() -> None:
    """A step size that makes the loss bounce: what comes back is the best state there was."""
    case = checked()
    states: list[Tensor] = []
    guide = Delta(case.model)
    posterior = fit(
        case.model, guide, (case.x, case.y), epochs=25, lr=0.3,
        early_stopping=EarlyStopping(patience=25),
        progress=lambda *_: states.append(guide.loc.detach().clone()),
    )  # fmt: skip
    with torch.no_grad():
        losses = []
        for state in states:
            guide_at = Delta(case.model)
            guide_at.loc.data = state
            losses.append(guide_at.loss(case.x, case.y, size=case.size).item())
    best = int(np.argmin(losses))
    assert 0 < best < 24
    assert torch.equal(posterior.guide.loc, states[best])
    assert not posterior.info.stopped_early


def test_validation_data_decide_when_there_are_any() -> None:
    case = checked()
    held_out = (case.x[:3], -5 * case.y[:3])
    posterior = fit(
        case.model, Delta, (case.x, case.y), epochs=200, lr=0.05, validation=held_out,
        early_stopping=EarlyStopping(patience=4), **SILENT,
    )  # fmt: skip
    curve = posterior.info.validation_losses
    assert posterior.info.stopped_early
    assert len(curve) == len(posterior.info.losses) == int(np.argmin(curve)) + 1 + 4
    x, y = case.model.check_data(*held_out)
    kept = posterior.guide.loss(x, y, size=case.size).item()
    assert kept == pytest.approx(min(curve), rel=1e-12)


def test_validation_uses_the_same_random_numbers_each_time() -> None:
    case = checked()
    posterior = fit(
        case.model, MeanFieldNormal, (case.x, case.y), epochs=5, validation=(case.x, case.y),
        optimizer=partial(SGD, lr=0.0), **SILENT,
    )  # fmt: skip
    assert len(set(posterior.info.validation_losses)) == 1
    assert len(set(posterior.info.losses)) == 5


def test_validation_does_not_change_the_fit() -> None:
    case = checked()
    data = (case.x, case.y)
    with_, without = (
        fit(case.model, MeanFieldNormal, data, epochs=5, batch_size=3, validation=v, **SILENT)
        for v in (data, None)
    )
    assert same(with_.guide, without.guide)


def test_small_improvements_do_not_count() -> None:
    case = checked()
    posterior = fit(
        case.model, Delta, (case.x, case.y), epochs=500, lr=1e-4,
        early_stopping=EarlyStopping(patience=7, min_delta=1e3), **SILENT,
    )  # fmt: skip
    assert len(posterior.info.losses) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"patience": 0}, "patience"), ({"patience": 2.5}, "patience"), ({"min_delta": -1}, "-1")],
)
def test_rules_for_stopping_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**arguments)


# ------------------------------------------------------------------------- what is reported


def test_callbacks_hear_of_every_epoch() -> None:
    case = checked()
    heard: list[tuple[int, int, str]] = []
    posterior = fit(
        case.model, Delta, (case.x, case.y), epochs=3, progress=lambda *a: heard.append(a)
    )
    assert [(done, total) for done, total, _ in heard] == [(1, 3), (2, 3), (3, 3)]
    assert heard[-1][2] == f"loss {posterior.info.losses[-1]:.4g}"


@pytest.mark.parametrize("progress", [True, False])
def test_nothing_is_printed_where_there_is_no_terminal(
    progress: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    case = checked()
    fit(case.model, Delta, (case.x, case.y), epochs=3, progress=progress)
    assert capfd.readouterr() == ("", "")


def test_the_record_of_a_fit() -> None:
    case = checked()
    posterior = fit(
        case.model, MeanFieldNormal, (case.x, case.y), epochs=7, batch_size=4, lr=0.02, seed=5,
        schedule="cosine", **SILENT,
    )  # fmt: skip
    info = posterior.info
    assert len(info.losses) == 7 and all(math.isfinite(v) for v in info.losses)
    assert info.validation_losses == [] and info.stopped_early is False
    assert 0 < info.seconds < 60 and info.peak_memory_mib > 50
    assert info.options == {
        "epochs": 7, "batch_size": 4, "lr": 0.02, "optimizer": "adam", "schedule": "cosine",
        "early_stopping": None, "seed": 5,
    }  # fmt: skip
    assert posterior.seed == 5 and posterior.name == "mean-field"


# -------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "epochs must be an integer of at least 0; got -1"),
        ({"epochs": 2.5}, "epochs"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1; got 0"),
        ({"batch_size": -3}, "batch_size"),
        ({"lr": 0.0}, "lr must be a positive finite number; got 0.0"),
        ({"lr": math.nan}, "lr"),
        ({"optimizer": "sgd"}, r"optimizer must be one of .*'adam', 'lbfgs'.*got 'sgd'"),
        ({"schedule": "step"}, r"schedule must be one of .*got 'step'"),
        ({"optimizer": "lbfgs", "batch_size": 3}, r"lbfgs needs a deterministic.*batch_size=3"),
        ({"seed": -1}, r"seed.*-1"),
        ({"seed": 1.5}, r"seed.*1\.5"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    case = checked()
    with pytest.raises(ValueError, match=message):
        fit(case.model, Delta, (case.x, case.y), **(SILENT | {"epochs": 2} | options))


@pytest.mark.parametrize("name", ["mean-field", "mc-dropout"])
def test_lbfgs_is_refused_for_random_losses(name: str) -> None:
    case = checked()
    with pytest.raises(ValueError, match=rf"the {name} guide.*Use optimizer='adam'"):
        fit(case.model, GUIDES[name], (case.x, case.y), optimizer="lbfgs", epochs=2, **SILENT)


def test_a_loss_that_is_not_finite_ends_the_fit_with_a_remedy() -> None:
    case = checked()
    with pytest.raises(ValueError, match=r"loss must stay finite.*(nan|inf).*epoch.*map.*Lower lr"):
        fit(case.model, Delta, (case.x, case.y), epochs=50, lr=1e200, **SILENT)


def test_a_guide_of_another_model_is_refused() -> None:
    case, other = checked(), checked("linear")
    for guide in (MeanFieldNormal(other.model), lambda _: MeanFieldNormal(other.model)):
        with pytest.raises(ValueError, match=r"made for 'linear-regression.*not for this 'mlp"):
            fit(case.model, guide, (case.x, case.y), epochs=1, **SILENT)


def test_a_twin_is_another_model_too() -> None:
    case, twin = checked(), checked()
    with pytest.raises(ValueError, match="must belong to the model"):
        fit(case.model, Delta(twin.model), (case.x, case.y), epochs=1, **SILENT)


@pytest.mark.parametrize(
    "guide",
    [3, "map", None, lambda _: 3, torch.nn.Linear(1, 1)],
    ids=["number", "name", "None", "function", "module"],
)
def test_what_is_no_guide_is_refused(guide: object) -> None:
    case = checked()
    with pytest.raises(ValueError, match=r"guide must be.*MeanFieldNormal"):
        fit(case.model, guide, (case.x, case.y), epochs=1, **SILENT)


@pytest.mark.parametrize("data", [3, None, (1,), "data"], ids=repr)
def test_data_must_be_a_pair(data: object) -> None:
    case = checked()
    with pytest.raises(ValueError, match="data"):
        fit(case.model, Delta, data, epochs=1, **SILENT)


# ------------------------------------------------------------------------------- Pyro's guides


CONJUGATE_AUTOGUIDES = {
    "AutoNormal": (AutoNormal, False),
    "AutoDiagonalNormal": (AutoDiagonalNormal, False),
    "AutoMultivariateNormal": (AutoMultivariateNormal, True),
    "AutoLowRankMultivariateNormal": (partial(AutoLowRankMultivariateNormal, rank=1), True),
    "AutoLaplaceApproximation": (AutoLaplaceApproximation, True),
}


@pytest.mark.parametrize("name", CONJUGATE_AUTOGUIDES)
def test_autoguides_find_the_conjugate_posterior(name: str) -> None:
    guide, has_covariance = CONJUGATE_AUTOGUIDES[name]
    case = checked("linear")
    data = (case.x, case.y)
    exact = fit(case.model, Exact, data).guide
    posterior = fit(case.model, guide, data, epochs=350, lr=0.05, schedule="cosine", **SILENT)
    assert posterior.name == name
    draws = posterior.draws(500)["weight"]
    covariance = exact.scale_tril @ exact.scale_tril.T
    scale = covariance.diagonal().sqrt()
    assert bool(((draws.mean(0) - exact.loc).abs() < 0.3 * scale).all())
    expected = scale if has_covariance else torch.linalg.inv(covariance).diagonal().rsqrt()
    assert bool(((draws.std(0) / expected).log().abs() < 0.3).all())


@pytest.mark.parametrize(
    "guide", [AutoNormal, AutoDelta, AutoLowRankMultivariateNormal], ids=lambda g: g.__name__
)
def test_autoguides_meet_the_contract_of_posteriors(guide: type[autoguide.AutoGuide]) -> None:
    case = checked("mlp-half-normal")
    options = {"epochs": 4, "batch_size": 4, "seed": 2, **SILENT}
    first, again = (fit(case.model, guide, (case.x, case.y), **options) for _ in range(2))
    assert first.info.losses == again.info.losses
    ours, theirs = first.draws(6), again.draws(6)
    assert list(ours) == list(case.model.sites)
    for name, site in case.model.sites.items():
        assert ours[name].shape == (6, *site.shape)
        assert ours[name].dtype == F64
        assert torch.equal(ours[name], theirs[name])
        assert bool(site.support.check(ours[name]).all())
    assert first.predict(case.x, num_samples=5).mean.shape == (case.size,)
    record = first.to_inference_data(case.x, case.y, num_samples=7)
    assert record.log_likelihood["y"].shape == (1, 7, case.size)


def test_an_instance_of_an_autoguide_is_taken() -> None:
    case = checked()
    posterior = fit(case.model, AutoNormal(case.model), (case.x, case.y), epochs=2, **SILENT)
    assert posterior.name == "AutoNormal"


def test_an_autoguide_of_another_model_is_refused() -> None:
    case, other = checked(), checked()
    with pytest.raises(ValueError, match="AutoNormal was made for another"):
        fit(case.model, AutoNormal(other.model), (case.x, case.y), epochs=2, **SILENT)


def test_two_fits_of_one_kind_do_not_mix() -> None:
    """Pyro names parameters by the guide's class: a second guide would start from the first."""
    case, other = checked(), checked()
    first = fit(case.model, AutoNormal, (case.x, case.y), epochs=30, lr=0.1, **SILENT)
    before = first.draws(4)
    second = fit(other.model, AutoNormal, (other.x, other.y), epochs=30, lr=0.1, **SILENT)
    assert first.info.losses == second.info.losses
    after = first.draws(4)
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_autoguides_loss_in_batches_is_scaled_to_all_points() -> None:
    """AutoDelta on real sites is MAP: the same losses as Delta from the same start."""
    case = checked()
    posterior = fit(
        case.model,
        lambda m: AutoDelta(m, init_loc_fn=autoguide.init_to_value(values=m.initial_params())),
        (case.x, case.y), epochs=3, batch_size=4, optimizer=partial(SGD, lr=1e-3), **SILENT,
    )  # fmt: skip
    sgd = partial(SGD, lr=1e-3)
    ours = fit(case.model, Delta, (case.x, case.y), epochs=3, batch_size=4, optimizer=sgd, **SILENT)
    draw = posterior.draws(1)
    theirs = case.model.layout.ravel(draw)[0]
    assert sum(posterior.info.losses) == pytest.approx(sum(ours.info.losses), rel=0.05)
    torch.testing.assert_close(theirs, ours.guide.loc.detach(), rtol=0.05, atol=0.01)


# --------------------------------------------------------------------- going on after a kill


@pytest.mark.parametrize(("name", "kill_after"), [("mean-field", 4 * 5 + 2), ("autoguide", 4 * 3)])
def test_a_killed_fit_goes_on_to_the_same_result(
    name: str, kill_after: int, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "fit.pt"
    command = [sys.executable, killed_fit.__file__, name, str(checkpoint), str(kill_after)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    dead = subprocess.run(command, capture_output=True, env=environment, timeout=120)
    assert dead.returncode == -signal.SIGKILL, dead.stderr.decode()
    assert checkpoint.exists()
    written = checkpoint.read_bytes()

    epochs: list[int] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        options = killed_fit.options(name) | {"progress": lambda done, *_: epochs.append(done)}
        model = killed_fit.model()
        guide = killed_fit.make_guide(name, model)
        resumed = fit(model, guide, killed_fit.data(), checkpoint=checkpoint, **options)
        whole = killed_fit.run(name, None)
    finally:
        torch.set_num_threads(threads)

    assert epochs and epochs[0] > 1, "the fit began anew"
    assert checkpoint.read_bytes() != written
    assert resumed.info.losses == whole.info.losses
    assert resumed.info.validation_losses == whole.info.validation_losses
    assert same(resumed.guide, whole.guide)
    ours, theirs = resumed.draws(3), whole.draws(3)
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)


class Interrupted(Exception):
    """Raised to end a fit."""


def _interrupt(at: int) -> Callable[[int, int, str], None]:
    def report(done: int, _total: int, _message: str) -> None:
        if done == at:
            raise Interrupted

    return report


@pytest.mark.parametrize("name", killed_fit.STEPS_PER_EPOCH)
@pytest.mark.parametrize("at", [1, 11])
def test_an_interrupted_fit_goes_on_to_the_same_result(name: str, at: int, tmp_path: Path) -> None:
    checkpoint = tmp_path / "fit.pt"
    options = killed_fit.options(name)
    model = killed_fit.model()
    with pytest.raises(Interrupted):
        fit(
            model, killed_fit.make_guide(name, model), killed_fit.data(), checkpoint=checkpoint,
            **(options | {"progress": _interrupt(at)}),
        )  # fmt: skip
    resumed, whole = killed_fit.run(name, checkpoint), killed_fit.run(name, None)
    assert resumed.info.losses == whole.info.losses
    assert same(resumed.guide, whole.guide)


def test_early_stopping_goes_on_where_it_was(tmp_path: Path) -> None:
    case = checked()
    options: dict[str, Any] = {
        "epochs": 80, "lr": 1.0, "early_stopping": EarlyStopping(patience=12), "batch_size": 4,
    }  # fmt: skip
    whole = fit(case.model, MeanFieldNormal, (case.x, case.y), **options, **SILENT)
    assert whole.info.stopped_early
    stop = len(whole.info.losses)
    for at in (stop - 6, stop - 1, stop):
        checkpoint = tmp_path / f"{at}.pt"
        arguments = (case.model, MeanFieldNormal, (case.x, case.y))
        with pytest.raises(Interrupted):
            fit(*arguments, **options, checkpoint=checkpoint, progress=_interrupt(at))
        resumed = fit(*arguments, **options, checkpoint=checkpoint, **SILENT)
        assert resumed.info.losses == whole.info.losses
        assert same(resumed.guide, whole.guide)


def test_a_finished_fit_is_not_run_again(tmp_path: Path) -> None:
    case = checked()
    arguments = (case.model, Laplace, (case.x, case.y))
    options = {"epochs": 3, "checkpoint": tmp_path / "fit.pt"}
    first = fit(*arguments, **options, **SILENT)
    heard: list[int] = []
    again = fit(*arguments, **options, progress=lambda done, *_: heard.append(done))
    assert heard == []
    assert same(first.guide, again.guide)


def test_an_interruption_while_writing_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "fit.pt"
    with pytest.raises(Interrupted):
        _partial_fit(checkpoint, 2)
    kept = checkpoint.read_bytes()

    def torn(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(bytes(content)[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", torn)
    with pytest.raises(KeyboardInterrupt):
        _partial_fit(checkpoint, 4)
    monkeypatch.undo()
    assert checkpoint.read_bytes() == kept
    assert [p.name for p in tmp_path.iterdir()] == ["fit.pt"]
    resumed, whole = killed_fit.run("mean-field", checkpoint), killed_fit.run("mean-field", None)
    assert same(resumed.guide, whole.guide)


def _partial_fit(checkpoint: Path, at: int) -> Posterior:
    model = killed_fit.model()
    return fit(
        model, MeanFieldNormal(model), killed_fit.data(), checkpoint=checkpoint,
        **(killed_fit.options("mean-field") | {"progress": _interrupt(at)}),
    )  # fmt: skip


@pytest.mark.parametrize("damage", ["noise", "truncated", "empty", "text", "tensor", "future"])
def test_a_damaged_checkpoint_is_refused_and_left(damage: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "fit.pt"
    with pytest.raises(Interrupted):
        _partial_fit(checkpoint, 2)
    whole = checkpoint.read_bytes()
    if damage == "tensor":
        torch.save(torch.zeros(3), checkpoint)
    elif damage == "future":
        content = torch.load(checkpoint, weights_only=True)
        torch.save(content | {"format": "probml_tp checkpoint 99"}, checkpoint)
    else:
        checkpoint.write_bytes(
            {
                "noise": random.Random(0).randbytes(len(whole)),
                "truncated": whole[: len(whole) // 2],
                "empty": b"",
                "text": b"hello\n",
            }[damage]
        )
    kept = checkpoint.read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint must be.*fit\.pt.*(Delete|another path)"):
        _partial_fit(checkpoint, 4)
    assert checkpoint.read_bytes() == kept


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    checkpoint, witness = tmp_path / "fit.pt", tmp_path / "witness"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (witness,))

    torch.save({"format": "probml_tp checkpoint 2", "identity": "{}", "state": Bomb()}, checkpoint)
    with pytest.raises(ValueError, match="checkpoint must be"):
        _partial_fit(checkpoint, 4)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"lr": 0.01}, "lr"),
        ({"seed": 4}, "seed"),
        ({"epochs": 13}, "epochs"),
        ({"batch_size": 5}, "batch_size"),
        ({"schedule": "linear"}, "schedule"),
        ({"early_stopping": None}, "early_stopping"),
        ({"optimizer": partial(SGD, lr=0.1)}, "optimizer"),
        ({"validation": None}, "data"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_the_checkpoint_of_other_options_is_refused(
    change: dict[str, Any], word: str, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "fit.pt"
    with pytest.raises(Interrupted):
        _partial_fit(checkpoint, 2)
    model = killed_fit.model()
    options = killed_fit.options("mean-field") | change
    with pytest.raises(ValueError, match=rf"same fit.*differs in .*{word}"):
        fit(model, MeanFieldNormal(model), killed_fit.data(), checkpoint=checkpoint, **options)


def test_the_checkpoint_of_another_model_guide_or_data_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "fit.pt"
    with pytest.raises(Interrupted):
        _partial_fit(checkpoint, 2)
    x, y = killed_fit.data()
    plain = killed_fit.model()
    wide = BayesianModel(plain.net, NormalPrior(2.0), Gaussian(0.3))
    elsewhere = BayesianModel(mlp((2, 4, 1), dtype=F64, seed=1), NormalPrior(1.0), Gaussian(0.3))
    for model, guide, data, word in (
        (wide, MeanFieldNormal, (x, y), "model"),
        (elsewhere, MeanFieldNormal, (x, y), "initial"),
        (plain, Delta, (x, y), "guide"),
        (plain, partial(MeanFieldNormal, init_scale=0.2), (x, y), "guide"),
        (plain, MeanFieldNormal, (x, y + 1e-9), "data"),
        (plain, MeanFieldNormal, (x.flip(0), y.flip(0)), "data"),
    ):
        with pytest.raises(ValueError, match=rf"same fit.*differs in .*{word}"):
            fit(model, guide, data, checkpoint=checkpoint, **killed_fit.options("mean-field"))


def test_a_checkpoint_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    case = checked()
    arguments = (case.model, Delta, (case.x, case.y))
    with pytest.raises(ValueError, match=r"file"):
        fit(*arguments, epochs=2, checkpoint=blocker / "fit.pt", **SILENT)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(ValueError, match="folder"):
        fit(*arguments, epochs=2, checkpoint=folder, **SILENT)


def test_random_state_of_a_resumed_fit_is_restored_afterwards(tmp_path: Path) -> None:
    checkpoint = tmp_path / "fit.pt"
    with pytest.raises(Interrupted):
        _partial_fit(checkpoint, 2)
    before = torch.get_rng_state()
    killed_fit.run("mean-field", checkpoint)
    assert torch.equal(torch.get_rng_state(), before)


def test_guides_of_half_precision_data_can_be_checkpointed(tmp_path: Path) -> None:
    x = inputs(6, 2).bfloat16()
    model = BayesianModel(mlp((2, 3, 1), dtype=torch.bfloat16), NormalPrior(1.0), Gaussian(0.3))
    data = (x, targets(x.double()).bfloat16())
    posterior = fit(
        model, Delta, data, epochs=2, checkpoint=tmp_path / "fit.pt",
        optimizer=partial(SGD, lr=1e-3), **SILENT,
    )  # fmt: skip
    assert posterior.guide.loc.dtype == torch.bfloat16


def test_the_names_of_optimisers_tell_their_arguments() -> None:
    name = callable_name
    assert name(partial(SGD, lr=0.1)) != name(partial(SGD, lr=0.2))
    assert name(SGD) == "torch.optim.sgd.SGD"


# ------------------------------------------------------------------------------ where it starts


def test_no_epochs_leave_the_mode_where_it_is_and_find_the_curvature() -> None:
    """Laplace around a MAP estimate is Laplace trained to the same mode."""
    case = checked("mlp")
    data, options = (case.x, case.y), {"optimizer": "lbfgs", **SILENT}
    mode = fit(case.model, Delta, data, epochs=20, **options)
    after = fit(case.model, Laplace, data, init=mode, epochs=0, **SILENT)
    whole = fit(case.model, Laplace, data, epochs=20, **options)
    assert torch.equal(after.guide.loc, mode.guide.loc)
    assert torch.equal(after.guide.scale_tril, whole.guide.scale_tril)
    assert after.info.losses == []


@pytest.mark.parametrize("name", ["map", "mean-field", "laplace", "mc-dropout"])
def test_a_fit_starts_at_the_centre_of_another(name: str) -> None:
    case = checked("mlp-half-normal")
    data = (case.x, case.y)
    mode = fit(case.model, Delta, data, **SILENT)
    guide = GUIDES[name](case.model)
    fit(case.model, guide, data, init=mode, epochs=0, **SILENT)
    assert torch.equal(guide.loc, mode.guide.loc)


def test_a_start_must_have_a_centre_and_the_same_model() -> None:
    case, other = checked("mlp"), checked("mlp-lasso")
    data = (case.x, case.y)
    chain = sample_nuts(case.model, data, draws=4, warmup=4, chains=1, progress=False)
    with pytest.raises(ValueError, match=r"init must be a posterior with a centre.*nuts"):
        fit(case.model, Delta, data, init=chain, **SILENT)
    with pytest.raises(ValueError, match="init must be a posterior of the same model"):
        fit(case.model, Delta, data, init=Posterior(Delta(other.model)), **SILENT)
    with pytest.raises(ValueError, match="init needs a guide with a centre"):
        fit(case.model, AutoNormal, data, init=Posterior(Delta(case.model)), **SILENT)
