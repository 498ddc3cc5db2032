"""CPU seconds of `compare` and of `to_inference_data` for small nets.

python benchmarks/comparisons.py            # 120 points; 10,000 rows by 1,000 draws
python benchmarks/comparisons.py --small    # 20 points; 1,000 rows
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import nn

from probml_tp import (
    BayesianModel,
    Delta,
    Gaussian,
    MeanFieldNormal,
    NormalPrior,
    Posterior,
)
from probml_tp.empirical import Empirical
from probml_tp.gap import compare


def regression(units: int) -> BayesianModel:
    """A 1-units-1 net."""
    net = nn.Sequential(nn.Linear(1, units), nn.Tanh(), nn.Linear(units, 1))
    return BayesianModel(net, NormalPrior(1.0), Gaussian(scale=0.1))


def posteriors(model: BayesianModel) -> dict[str, Posterior]:
    """Four chains of 1,000 draws, five normals beside them and a point."""
    draws = Posterior(MeanFieldNormal(model)).draws(4000, seed=5)
    chains = {name: values.unflatten(0, (4, 1000)) for name, values in draws.items()}
    found = {"nuts": Posterior(Empirical(model, method="nuts", draws=chains))}
    for k in range(5):
        guide = MeanFieldNormal(model)
        guide.loc.data += 0.02 * k
        found[f"normal {k}"] = Posterior(guide)
    return found | {"map": Posterior(Delta(model))}


def cpu_seconds(run: Callable[[], object]) -> float:
    """Of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    """Time both and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    points, rows = (20, 1000) if parser.parse_args().small else (120, 10_000)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    fits = posteriors(regression(20))
    x = torch.linspace(-2, 2, points).unsqueeze(-1)
    compare(fits, "nuts", x[:2], resamples=2, sites=())  # what is imported at the first call
    print(f"compare, 1-20-1: {cpu_seconds(lambda: compare(fits, 'nuts', x)):.2f} CPU s")
    normal = Posterior(MeanFieldNormal(regression(40)))
    x = torch.linspace(-1, 1, rows).unsqueeze(-1)
    seconds = cpu_seconds(lambda: normal.to_inference_data(x, x.squeeze(-1)))
    print(f"to_inference_data, 1-40-1, {rows:,} rows by 1,000 draws: {seconds:.2f} CPU s")


if __name__ == "__main__":
    main()
