"""CPU time of a step of small fits on all the data: by autograd, and replayed from a trace."""

from __future__ import annotations

import statistics
import time
from itertools import pairwise

import torch
from torch import nn

from probml_tp import BayesianModel, Delta, Gaussian, MeanFieldNormal, NormalPrior, fit

EPOCHS, EAGER, REPLAYED = 700, slice(20, 95), slice(200, None)


def main() -> None:
    """Print the median milliseconds of a step, by guide."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 50), nn.Tanh(), nn.Linear(50, 1))
    x = torch.linspace(-2, 2, 200).unsqueeze(-1)
    y = torch.sin(3 * x[:, 0]) + 0.1 * torch.randn(200)
    model = BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.1))
    for guide in (Delta, MeanFieldNormal):
        ends: list[float] = []
        fit(
            model, guide, (x, y), epochs=EPOCHS, optimizer="adam",
            progress=lambda *_, ends=ends: ends.append(1e3 * time.process_time()),
        )  # fmt: skip
        steps = [after - before for before, after in pairwise(ends)]
        eager, replayed = (statistics.median(steps[part]) for part in (EAGER, REPLAYED))
        print(f"{guide.name}: {eager:.2f} ms by autograd, {replayed:.2f} ms replayed")


if __name__ == "__main__":
    main()
