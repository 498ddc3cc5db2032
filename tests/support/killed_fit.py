"""A fit that is killed: run as ``python killed_fit.py NAME CHECKPOINT STEPS``.

It ends by SIGKILL in the midst of a step, so that nothing of it can be tidied up. The tests go on
from its checkpoint in their own process, and compare with a fit that was never interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from pyro.infer.autoguide import AutoLowRankMultivariateNormal
from torch import Tensor

from probml_tp import (
    BayesianModel,
    Delta,
    EarlyStopping,
    Gaussian,
    Guide,
    MCDropout,
    MeanFieldNormal,
    NormalPrior,
    Posterior,
    fit,
)
from probml_tp.inference import AutoGuideAdapter
from probml_tp.models import mlp

EPOCHS = 12
STEPS_PER_EPOCH = {"mean-field": 4, "mc-dropout": 3, "map": 1, "autoguide": 4}


def model() -> BayesianModel:
    """A net 2-4-1 in float64."""
    return BayesianModel(mlp((2, 4, 1), dtype=torch.float64), NormalPrior(1.0), Gaussian(0.3))


def data() -> tuple[Tensor, Tensor]:
    """Twenty points."""
    x = torch.linspace(-1, 1, 40, dtype=torch.float64).reshape(20, 2)
    return x, torch.sin(3 * x[:, 0])


def make_guide(name: str, built: BayesianModel) -> Guide:
    """The guide of a setup."""
    if name == "mc-dropout":
        return MCDropout(built, rates={"fc2": 0.3})
    if name == "autoguide":
        return AutoGuideAdapter(built, lambda m: AutoLowRankMultivariateNormal(m, rank=2))
    return MeanFieldNormal(built) if name == "mean-field" else Delta(built)


def options(name: str) -> dict[str, Any]:
    """The options of a setup: between them, everything whose state a checkpoint must hold."""
    x, y = data()
    return {
        "mean-field": {
            "batch_size": 6,
            "schedule": "cosine",
            "validation": (x[::3], y[::3]),
            "early_stopping": EarlyStopping(patience=50),
            "lr": 0.05,
        },
        "mc-dropout": {"batch_size": 7, "schedule": "linear", "lr": 0.05},
        "map": {"optimizer": "lbfgs"},
        "autoguide": {"batch_size": 5, "lr": 0.05},
    }[name] | {"epochs": EPOCHS, "seed": 3, "progress": False}


def run(name: str, checkpoint: Path | None, *, kill_after: int | None = None) -> Posterior:
    """Fit; after so many steps, be killed in the midst of the next."""
    built = model()
    guide = make_guide(name, built)
    if kill_after is not None:
        _arm(guide, kill_after)
    return fit(built, guide, data(), checkpoint=checkpoint, **options(name))


def _arm(guide: Guide, kill_after: int) -> None:
    steps, loss = 0, guide.loss

    def deadly_loss(x: Tensor, y: Tensor, *, size: int) -> Tensor:
        nonlocal steps
        steps += torch.is_grad_enabled()
        if steps > kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss(x, y, size=size)

    guide.loss = deadly_loss  # type: ignore[method-assign]


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(sys.argv[1], Path(sys.argv[2]), kill_after=int(sys.argv[3]))
