"""Ensembles fitted in processes: the same whatever their number, each member a fit of its own."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from model_cases import CASES, Case
from torch import Tensor, nn

from probml_tp import (
    BayesianModel,
    Delta,
    EarlyStopping,
    Exact,
    Gaussian,
    MCDropout,
    MeanFieldNormal,
    Mixture,
    NormalPrior,
    Posterior,
    fit,
    fit_ensemble,
)
from probml_tp.inference import random_start
from probml_tp.inference.ensembles import START, TRAINING
from probml_tp.streams import Stream, seeded, substream

OPTIONS = {"members": 3, "epochs": 8, "batch_size": 4, "seed": 2, "progress": False}


def _fit(case: Case, guide: object = Delta, **options: object) -> Posterior:
    return fit_ensemble(case.model, guide, (case.x, case.y), **OPTIONS | {"jobs": 1} | options)


def _tensors(posterior: Posterior) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in posterior.guide.state_dict().items()}


def _equal(a: Posterior, b: Posterior) -> bool:
    first, second = _tensors(a), _tensors(b)
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize(
    ("case", "guide"),
    [
        ("mlp", Delta),
        ("lenet-small", partial(MCDropout, rates={"fc1": 0.5})),
        ("mlp-half-normal", lambda model: MeanFieldNormal(model, init_scale=0.05)),
    ],
)
def test_processes_do_not_change_the_result(case: str, guide: object) -> None:
    one, two = (_fit(CASES[case](), guide, jobs=jobs) for jobs in (1, 2))
    assert _equal(one, two)
    assert one.info.losses == two.info.losses
    assert one.info.options == two.info.options
    x = CASES[case]().x
    for name, value in one.draws(5).items():
        assert torch.equal(value, two.draws(5)[name])
    assert len(x)


def test_large_data_are_shared_with_processes() -> None:
    """Arrays above 1 MB reach the processes as files mapped into memory, without a warning."""
    x = torch.linspace(-1, 1, 300_000, dtype=torch.float64).unsqueeze(-1)
    model = BayesianModel(nn.Linear(1, 1).double(), NormalPrior(1.0), Gaussian(scale=0.1))
    fits = [
        fit_ensemble(model, Delta, (x, x), members=2, epochs=1, jobs=jobs, progress=False)
        for jobs in (1, 2)
    ]
    assert _equal(*fits)


def test_a_net_of_the_users_script_reaches_the_processes() -> None:
    class Local(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.layer(x))

    model = BayesianModel(Local(), NormalPrior(1.0), Gaussian(scale=0.1))
    x = torch.linspace(-1, 1, 10).unsqueeze(-1)
    posterior = fit_ensemble(
        model, Delta, (x, x), members=2, epochs=2, jobs=2, progress=False,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.01),
    )  # fmt: skip
    assert posterior.model is model


def test_each_member_is_a_fit_of_its_own() -> None:
    case = CASES["mlp-half-normal"]()
    posterior = _fit(case, MeanFieldNormal)
    for index, member in enumerate(posterior.guide.members):
        alone = MeanFieldNormal(case.model)
        if index:
            with seeded(substream(2, Stream.MEMBERS, index, START)):
                alone.start_at(random_start(case.model))
        seed = substream(2, Stream.MEMBERS, index, TRAINING)
        own = fit(
            case.model, alone, (case.x, case.y), epochs=8, batch_size=4, seed=seed, progress=False
        )
        torch.testing.assert_close(own.guide.loc, member.loc, rtol=1e-10, atol=1e-10)
        assert own.info.losses == pytest.approx(posterior.info.members[index]["losses"])


def test_more_members_leave_the_first_ones_alone() -> None:
    case = CASES["mlp"]()
    three, two = _fit(case, members=3), _fit(case, members=2)
    for ours, theirs in zip(two.guide.members, three.guide.members, strict=False):
        assert torch.equal(ours.loc, theirs.loc)


def test_members_start_apart_and_the_first_at_the_nets_values() -> None:
    case = CASES["mlp"]()
    members = [m.loc.detach() for m in _fit(case, epochs=0).guide.members]
    assert torch.equal(members[0], case.model.layout.ravel(case.model.initial_params()))
    assert not torch.equal(members[0], members[1]) and not torch.equal(members[1], members[2])


def test_another_seed_is_another_ensemble() -> None:
    case = CASES["mlp"]()
    first, second = (_fit(case, seed=seed).guide.members for seed in (0, 1))
    for ours, theirs in zip(first, second, strict=True):
        assert not torch.equal(ours.loc, theirs.loc)


def test_a_fit_that_there_is_already_is_the_first_member() -> None:
    case = CASES["mlp"]()
    own = {name: OPTIONS[name] for name in ("epochs", "batch_size", "progress")}
    mode = fit(case.model, Delta, (case.x, case.y), seed=7, **own)
    given, alone = _fit(case, first=mode), _fit(case)
    assert torch.equal(given.guide.members[0].loc, mode.guide.loc)
    for ours, theirs in zip(given.guide.members[1:], alone.guide.members[1:], strict=True):
        assert torch.equal(ours.loc, theirs.loc)
    assert given.info.members[0]["losses"] == mode.info.losses
    assert given.info.start_seconds == mode.info.seconds
    assert given.info.data == alone.info.data


def test_another_guide_s_or_other_data_s_fit_is_no_member() -> None:
    case = CASES["mlp"]()
    wide = fit(case.model, MeanFieldNormal, (case.x, case.y), epochs=1, progress=False)
    with pytest.raises(ValueError, match="first must be a fit of the members' guide, map"):
        _fit(case, first=wide)
    other = fit(case.model, Delta, (case.x + 1, case.y), epochs=1, progress=False)
    with pytest.raises(ValueError, match="first must be a fit to the data of the other members"):
        _fit(case, first=other)


def test_members_of_a_convex_model_meet_at_its_mode() -> None:
    """L-BFGS, which a joint fit refuses; the mode is the exact posterior's mean."""
    case = CASES["linear"]()
    posterior = _fit(case, epochs=5, batch_size=None, optimizer="lbfgs")
    exact = fit(case.model, Exact, (case.x, case.y)).guide.loc
    for member in posterior.guide.members:
        torch.testing.assert_close(member.loc, exact, rtol=1e-8, atol=1e-8)


def test_the_record_of_the_fit() -> None:
    case = CASES["mlp"]()
    info = _fit(case, validation=(case.x, case.y)).info
    assert [len(m["losses"]) for m in info.members] == [8, 8, 8]
    for trace in ("losses", "validation_losses"):
        means = [sum(v) / 3 for v in zip(*(m[trace] for m in info.members), strict=True)]
        assert getattr(info, trace) == pytest.approx(means)
    assert info.options["members"] == 3 and info.options["seed"] == 2
    assert info.seconds >= sum(m["seconds"] for m in info.members)
    assert info.peak_memory_mib > 0 and not info.stopped_early


def test_members_stop_early_each_by_itself() -> None:
    case = CASES["mlp"]()
    rule = EarlyStopping(patience=2, min_delta=0.02)
    info = _fit(case, epochs=200, early_stopping=rule).info
    lengths = [len(m["losses"]) for m in info.members]
    assert info.stopped_early and len(set(lengths)) > 1
    assert len(info.losses) == max(lengths)
    final = [m["losses"][-1] for m in info.members]
    assert info.losses[-1] == pytest.approx(sum(final) / 3)


def test_progress_counts_members() -> None:
    calls = []
    _fit(CASES["mlp"](), progress=lambda *call: calls.append(call))
    assert [call[:2] for call in calls] == [(1, 3), (2, 3), (3, 3)]
    assert all(call[2].startswith("loss ") for call in calls)


def test_global_state_is_left_alone() -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    _fit(CASES["mlp"]())
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_gradients_may_be_off_outside() -> None:
    with torch.no_grad():
        assert len(_fit(CASES["mlp"]()).info.losses) == 8


def test_an_ensemble_is_saved_and_loaded(tmp_path: Path) -> None:
    case = CASES["classifier-3"]()
    posterior = _fit(case)
    loaded = Posterior.load(posterior.save(tmp_path / "ensemble"), case.model)
    assert isinstance(loaded.guide, Mixture) and loaded.name == "deep-ensemble"
    assert loaded.info == posterior.info
    assert torch.equal(loaded.predict(case.x).probs, posterior.predict(case.x).probs)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"members": 0}, "members must be an integer of at least 1"),
        ({"jobs": 0}, "jobs must be an integer of at least 1"),
        ({"seed": -1}, "seed must be an integer"),
        ({"epochs": -1}, "epochs must be"),
        ({"guide": Exact}, "trained from different starting points"),
        ({"guide": "map"}, "needs a guide's class or a callable; got str"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], error: str) -> None:
    case = CASES["linear"]()
    with pytest.raises(ValueError, match=error):
        _fit(case, **options)


def test_a_guide_that_exists_is_refused() -> None:
    case = CASES["mlp"]()
    with pytest.raises(ValueError, match="a guide for each of its members.*got Delta"):
        _fit(case, Delta(case.model))


def test_an_error_in_a_process_is_the_members() -> None:
    case = CASES["mlp"]()
    with pytest.raises(ValueError, match="loss must stay finite"):
        _fit(case, jobs=2, optimizer=partial(torch.optim.SGD, lr=1e12))


def test_data_are_checked_once_and_first() -> None:
    case = CASES["mlp"]()
    with pytest.raises(ValueError, match="data must be a pair"):
        fit_ensemble(case.model, Delta, case.x)
    with pytest.raises(ValueError, match="same number of data points"):
        fit_ensemble(case.model, Delta, (case.x, case.y[:-1]))
