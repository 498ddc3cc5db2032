"""One fit by the processes that torchrun starts; the first writes what came of it."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import torch
from torch import distributed

from probml_tp import Delta, Laplace, MCDropout, MeanFieldNormal, NormalPrior, Posterior, fit
from probml_tp.models import mlp_regressor

GUIDES = {
    "map": Delta,
    "laplace": Laplace,
    "mean-field": partial(MeanFieldNormal, estimator="shared"),
    "local": partial(MeanFieldNormal, estimator="local-reparameterization"),
    "mc-dropout": partial(MCDropout, rates=0.1),
}
POINTS, BATCH = 21, 5
"""Batches of five between two processes, and a last one of one point."""


def fitted(name: str, **options: object) -> Posterior:
    model = mlp_regressor(1, hidden=(8,), prior=NormalPrior(1.0), likelihood=0.1).double()
    x = torch.linspace(-1, 1, POINTS, dtype=torch.float64).unsqueeze(-1)
    options = {"epochs": 40, "batch_size": BATCH, "lr": 0.01, "progress": False} | options
    return fit(model, GUIDES[name], (x, x.squeeze(-1)), **options)  # type: ignore[arg-type]


def main(folder: Path) -> None:
    distributed.init_process_group("gloo")
    world = distributed.group.WORLD
    together = partial(fitted, process_group=world)
    for name in GUIDES:
        posterior = together(name)
        own = {"tensors": posterior.guide.state_dict(), "losses": posterior.info.losses}
        torch.save(own, folder / f"{name}-{os.environ['RANK']}.pt")
    checkpoint = folder / "checkpoint"
    together("mean-field", epochs=20, checkpoint=checkpoint)
    distributed.barrier()
    resumed = together("mean-field", epochs=40, checkpoint=checkpoint)
    torch.save(resumed.guide.state_dict(), folder / f"resumed-{os.environ['RANK']}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
