"""Runs on the workers of a Ray cluster: two of them here."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from probml_tp import Delta, NormalPrior, fit_ensemble, sample_nuts
from probml_tp.inference import on_ray
from probml_tp.inference.parallel import number_of_jobs, run_tasks
from probml_tp.models import mlp_regressor

pytest.importorskip("ray", reason="Ray is an extra")
pytestmark = pytest.mark.filterwarnings("default")  # Ray's own, of its many parts


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    with on_ray(num_cpus=2):
        yield


def _die_once(path: Path, result: int) -> int:
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return result


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _fail(text: str) -> None:
    raise ValueError(text)


def test_one_job_a_core_of_the_cluster() -> None:
    assert number_of_jobs(None, 100) == 2
    assert number_of_jobs(None, 1) == 1


def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    found: list[int] = []
    tasks = [partial(_die_once, tmp_path / str(n), n) if n == 1 else partial(pow, n, 1)
             for n in range(5)]  # fmt: skip
    run_tasks(tasks, jobs=2, done=found.append, order="given")
    assert found == [0, 1, 2, 3, 4]
    assert (tmp_path / "1").exists(), "the worker was killed"


def test_what_kills_every_worker_is_an_error() -> None:
    with pytest.raises(ChildProcessError, match="lost 4"):
        run_tasks([_die], jobs=2, done=print)


def test_errors_come_as_they_were_raised() -> None:
    with pytest.raises(ValueError, match=r"^rule broken$"):
        run_tasks([partial(_fail, "rule broken")], jobs=2, done=print)


def test_ensembles_and_chains_are_the_same_as_here() -> None:
    model = mlp_regressor(1, hidden=(8,), prior=NormalPrior(1.0), likelihood=0.1)
    x = torch.linspace(-1, 1, 20).unsqueeze(-1)
    y = x.squeeze(-1)
    there = fit_ensemble(model, Delta, (x, y), members=3, epochs=20, progress=False)
    here = fit_ensemble(model, Delta, (x, y), members=3, epochs=20, jobs=1, progress=False)
    for a, b in zip(there.guide.state_dict().values(), here.guide.state_dict().values(),
                    strict=True):  # fmt: skip
        assert torch.equal(a, b)
    few = partial(sample_nuts, model, (x, y), draws=10, warmup=10, chains_per_batch=1,
                  progress=False)  # fmt: skip
    assert torch.equal(few(jobs=2).guide.flat, few(jobs=1).guide.flat)
