"""Work on a Ray cluster of two workers, in a process of its own; what came of it is one JSON line.

Ray leaves processes behind that this one's end cleans up, and warns of them in whoever started it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from probml_tp import Delta, NormalPrior, Posterior, fit_ensemble, sample_nuts
from probml_tp.inference import on_ray
from probml_tp.inference.parallel import number_of_jobs, run_tasks
from probml_tp.models import mlp_regressor


def die_once(path: Path, result: int) -> int:
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return result


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(text: str) -> None:
    raise ValueError(text)


def nested() -> int:
    return number_of_jobs(8, 8)


def message(error: type[Exception], task: Any) -> str:
    """What an error says that a task ends with."""
    try:
        run_tasks([task], jobs=2, done=print)
    except error as raised:
        return str(raised)
    return ""


def tensors(posterior: Posterior) -> list[torch.Tensor]:
    return list(posterior.guide.state_dict().values())


def same(a: Posterior, b: Posterior) -> bool:
    return all(map(torch.equal, tensors(a), tensors(b)))


def main(folder: Path) -> dict[str, Any]:
    model = mlp_regressor(1, hidden=(8,), prior=NormalPrior(1.0), likelihood=0.1)
    x = torch.linspace(-1, 1, 20).unsqueeze(-1)
    data = x, x.squeeze(-1)
    members = partial(fit_ensemble, model, Delta, data, members=3, epochs=20, progress=False)
    chains = partial(sample_nuts, model, data, draws=5, warmup=5, chains_per_batch=1,
                     progress=False)  # fmt: skip
    killed: list[int] = []
    inner: list[int] = []
    with on_ray(num_cpus=2):
        tasks = [partial(die_once, folder / str(n), n) if n == 1 else partial(pow, n, 1)
                 for n in range(5)]  # fmt: skip
        run_tasks(tasks, jobs=2, done=killed.append, order="given")
        run_tasks([nested], jobs=2, done=inner.append)
        found = {
            "jobs": [number_of_jobs(None, 100), number_of_jobs(None, 1), *inner],
            "killed": killed,
            "error": message(ValueError, partial(fail, "rule broken")),
            "always killed": message(ChildProcessError, die),
        }
        there = members(), chains(jobs=2)
    return found | {
        "ensemble": same(there[0], members(jobs=1)),
        "chains": same(there[1], chains(jobs=1)),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]))) + "\n")
