"""Checkpoints: damage is seen, another optimiser is refused, more epochs go on."""

from __future__ import annotations

import errno
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adam

from probml_tp import BayesianModel, Delta, Gaussian, MeanFieldNormal, NormalPrior, fit
from probml_tp.models import mlp

X = torch.linspace(-1, 1, 20).unsqueeze(1)
DATA = (X, torch.sin(3 * X[:, 0]))


def model() -> BayesianModel:
    return BayesianModel(mlp((1, 3, 1)), NormalPrior(1.0), Gaussian(0.3))


def fitted(path: Path | None, **options: Any) -> Any:
    settings = {"epochs": 4, "batch_size": 7, "seed": 2, "progress": False} | options
    return fit(model(), MeanFieldNormal, DATA, checkpoint=path, **settings)


def same(a: Any, b: Any) -> bool:
    ours, theirs = a.guide.state_dict(), b.guide.state_dict()
    return a.info.losses == b.info.losses and all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.mark.parametrize("name", ["fit.safetensors", "fit.tar", "fit"])
def test_a_checkpoint_may_have_any_name(name: str, tmp_path: Path) -> None:
    fitted(tmp_path / name, epochs=2)
    assert same(fitted(tmp_path / name, epochs=4), fitted(None))


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    path, rng = tmp_path / "fit.pt", random.Random(0)
    fitted(path)
    whole, expected, refused = path.read_bytes(), fitted(None), 0
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            assert same(fitted(path), expected)
        except ValueError as error:
            assert "fit.pt is not" in str(error) and "Delete it" in str(error)  # noqa: PT017
            refused += 1
    assert refused > 50


def test_a_changed_number_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fit.pt"
    fitted(path)
    record = torch.load(path, weights_only=True)
    for value in (float("nan"), 0.25):
        record["state"]["guide"]["loc"][0] = value
        torch.save(record, path)
        with pytest.raises(ValueError, match=r"fit\.pt is not \(its content does not agree"):
            fitted(path)


@pytest.mark.parametrize(
    "other",
    [
        lambda p: SGD(p, lr=0.02),
        lambda p: SGD(p, lr=0.01, momentum=0.9),
        lambda p: SGD([{"params": [q], "lr": 0.01 * (i + 1)} for i, q in enumerate(p)], lr=0.01),
        lambda p: Adam(p, lr=0.01),
    ],
)
def test_another_optimiser_behind_the_same_name_is_refused(other: Any, tmp_path: Path) -> None:
    def factory(p: Any) -> Any:
        return chosen(p)

    path, chosen = tmp_path / "fit.pt", lambda p: SGD(p, lr=0.01)
    fitted(path, epochs=2, optimizer=factory)
    assert same(fitted(path, optimizer=factory), fitted(None, optimizer=factory))
    chosen = other
    with pytest.raises(ValueError, match=r"same fit.*differs in optimizer settings"):
        fitted(path, epochs=6, optimizer=factory)


def test_epochs_may_grow_and_shrink_to_those_done(tmp_path: Path) -> None:
    path = tmp_path / "fit.pt"
    fitted(path, epochs=3)
    more = fitted(path, epochs=6)
    assert same(more, fitted(None, epochs=6))
    assert more.info.options["epochs"] == 6
    assert same(fitted(path, epochs=6), more)
    with pytest.raises(ValueError, match=r"at least those .* has done, 6; got 5\. Give 6"):
        fitted(path, epochs=5)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_epochs_of_a_schedule_that_falls_over_them_are_kept(schedule: str, tmp_path: Path) -> None:
    path = tmp_path / "fit.pt"
    fitted(path, epochs=3, schedule=schedule)
    with pytest.raises(ValueError, match="differs in epochs: 3 there, 6 here"):
        fitted(path, epochs=6, schedule=schedule)


def test_a_full_disk_is_named_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fit.pt"
    fitted(path, epochs=2)
    kept = path.read_bytes()

    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ValueError, match=r"fit\.pt could not be \(No space left.*Make room"):
        fitted(path)
    assert path.read_bytes() == kept
    assert [p.name for p in tmp_path.iterdir()] == ["fit.pt"]
    monkeypatch.undo()
    assert same(fitted(path), fitted(None))


def test_a_finished_fit_of_map_goes_on_with_lbfgs(tmp_path: Path) -> None:
    def run(path: Path | None, epochs: int) -> Any:
        options = {"epochs": epochs, "optimizer": "lbfgs", "progress": False}
        return fit(model(), Delta, DATA, checkpoint=path, **options)

    run(tmp_path / "fit.pt", 2)
    assert same(run(tmp_path / "fit.pt", 4), run(None, 4))
