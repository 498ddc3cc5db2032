"""One fit by two processes, as torchrun starts them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import fit_together
import pytest
import torch

from probml_tp import Delta, NormalPrior, fit
from probml_tp.models import mlp_regressor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have found."""
    path = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
               fit_together.__file__, str(path)]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    return path


def found(folder: Path, name: str, rank: int = 0) -> Any:
    return torch.load(folder / f"{name}-{rank}.pt", weights_only=True)


@pytest.mark.parametrize(
    ("name", "atol"),
    [("map", 1e-12), ("laplace", 1e-3), ("mean-field", 1e-9)],  # Laplace's mode: to its tolerance
)
def test_two_processes_find_what_one_finds(folder: Path, name: str, atol: float) -> None:
    alone, together = fit_together.fitted(name), found(folder, name)
    assert together["losses"] == pytest.approx(alone.info.losses, rel=1e-9)
    for key, tensor in alone.guide.state_dict().items():
        torch.testing.assert_close(together["tensors"][key], tensor, rtol=0, atol=atol)


@pytest.mark.parametrize("name", fit_together.GUIDES)
def test_all_processes_end_with_the_same_posterior(folder: Path, name: str) -> None:
    first, second = (found(folder, name, rank) for rank in (0, 1))
    assert first["losses"] == second["losses"]
    assert all(map(torch.equal, first["tensors"].values(), second["tensors"].values()))


@pytest.mark.parametrize("name", ["local", "mc-dropout"])
def test_noise_by_example_is_no_copy_of_the_first_process_s(folder: Path, name: str) -> None:
    alone, together = fit_together.fitted(name), found(folder, name)
    assert together["losses"] != pytest.approx(alone.info.losses, rel=1e-6)
    late = slice(20, None)
    mean = torch.tensor(alone.info.losses[late]).mean()
    there = torch.tensor(together["losses"][late])
    error = 5 * there.std() / len(there) ** 0.5 + 0.1 * mean.abs()
    assert abs(float(there.mean() - mean)) < float(error)


def test_a_resumed_fit_is_the_one_that_was_not_interrupted(folder: Path) -> None:
    whole = found(folder, "mean-field")["tensors"]
    for rank in (0, 1):
        resumed = found(folder, "resumed", rank)
        assert all(map(torch.equal, resumed.values(), whole.values()))


def test_a_process_group_is_one_of_torch_distributed() -> None:
    model = mlp_regressor(1, hidden=(2,), prior=NormalPrior(1.0), likelihood=0.1)
    x = torch.zeros(3, 1)
    with pytest.raises(ValueError, match=r"process_group must be one of torch\.distributed; got 2"):
        fit(model, Delta, (x, x[:, 0]), process_group=2, epochs=1, progress=False)  # type: ignore[arg-type]
