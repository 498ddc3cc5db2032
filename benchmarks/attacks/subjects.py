"""Fits so small that an attack takes milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probml_tp import BayesianModel, Delta, Gaussian, MCDropout, MeanFieldNormal, NormalPrior, fit
from probml_tp.digest import digest
from probml_tp.models import mlp
from probml_tp.posterior import Posterior

__all__ = ["CHECKPOINTED", "fit_part", "interrupted", "regressor", "resumed", "state_of"]

CHECKPOINTED: dict[str, dict[str, Any]] = {
    "MAP by Adam": {"guide": Delta},
    "mean-field, mini-batches": {"guide": MeanFieldNormal, "batch_size": 7, "schedule": "cosine"},
    "MC dropout": {"guide": lambda model: MCDropout(model, rates=0.2), "batch_size": 8},
}
"""Fits with a checkpoint, whose states differ."""
EPOCHS = 30


def regressor() -> BayesianModel:
    """A net 2-4-1 in float64."""
    return BayesianModel(mlp((2, 4, 1), dtype=torch.float64), NormalPrior(1.0), Gaussian(0.3))


def data() -> tuple[Tensor, Tensor]:
    """Twenty points."""
    x = torch.linspace(-1, 1, 40, dtype=torch.float64).reshape(20, 2)
    return x, torch.sin(3 * x[:, 0])


def fit_part(model: BayesianModel) -> Posterior:
    """A short fit."""
    return fit(model, MeanFieldNormal, data(), epochs=5, progress=False)


def state_of(posterior: Posterior) -> str:
    """A digest of everything that a posterior has learnt."""
    return digest(posterior.guide.state_dict().values()) + str(posterior.info.losses)


def resumed(name: str, checkpoint: Path | None, *, progress: Any = False) -> str:
    """The end of a fit that goes on from its checkpoint where there is one."""
    options = dict(CHECKPOINTED[name])
    guide = options.pop("guide")
    return state_of(
        fit(
            regressor(),
            guide,
            data(),
            epochs=EPOCHS,
            lr=0.05,
            seed=3,
            checkpoint=checkpoint,
            progress=progress,
            **options,
        )
    )


def interrupted(name: str, checkpoint: Path) -> Path:
    """The checkpoint of a fit that was interrupted in the middle."""

    def stop(done: int, total: int, message: str = "") -> None:
        if done >= total // 2:
            raise KeyboardInterrupt

    try:
        resumed(name, checkpoint, progress=stop)
    except KeyboardInterrupt:
        return checkpoint
    raise RuntimeError(f"the fit {name} was not interrupted")
