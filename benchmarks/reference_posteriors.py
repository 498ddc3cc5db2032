"""Make the moments of the classical posteriors that the package ships.

Each posterior is sampled by two independent implementations of NUTS: NumPyro's, on a model written
by hand, and this package's. Where the answer is known in closed form or by quadrature it is what is
stored, and both samplers are held against it; else the two are pooled. Nothing is written where any
mean or standard deviation of the easy posteriors differs by more than five standard errors. The
hard ones, on which samplers are known to fail, have exact answers; how far off the samplers are is
stored beside them.

    python benchmarks/reference_posteriors.py            # all; minutes
    python benchmarks/reference_posteriors.py rats       # one of them
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import numpyro_classics
from quadrature import EXACT

from probml_tp import sample_nuts
from probml_tp.diagnostics import references
from probml_tp.diagnostics.references import COLUMNS, FILE, _by_scalar
from probml_tp.models import CLASSICS

TARGET = Path(__file__).resolve().parents[1] / "probml_tp" / "diagnostics" / FILE
HARD = ("eight-schools-centered", "funnel")
LIMIT = 5.0
SLOW = {"rats": (100, 150), "gaussian-process": (150, 200), "dugongs": (400, 300)}
"""Draws and warm-up steps of this package's chains where a step is slow."""

Moments = dict[str, list[float]]


def moments(values: dict[str, np.ndarray]) -> Moments:
    """Mean, standard deviation and their Monte Carlo standard errors of each scalar."""
    return {
        name: [
            float(v.mean()), float(v.std(ddof=1)),
            float(az.mcse(v, method="mean")), float(az.mcse(v, method="sd")),
        ]
        for name, v in values.items()
    }  # fmt: skip


def deviation(a: Moments, b: Moments) -> float:
    """The largest difference of means or standard deviations, in standard errors of both."""
    return max(
        abs(a[name][k] - b[name][k]) / np.hypot(a[name][k + 2], b[name][k + 2])
        for name in a
        for k in (0, 1)
    )


def of_numpyro(name: str, known: list[str], seed: int) -> tuple[Moments, int]:
    """Long chains of NumPyro."""
    draws, diverging = numpyro_classics.sample(
        name, num_samples=10_000, warmup=2000, chains=4, target_accept=0.95, seed=seed
    )
    values = scalars(draws)
    return moments({n: values[n] for n in known}), diverging


def scalars(draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each element of each quantity."""
    return _by_scalar({name: references.torch.as_tensor(v) for name, v in draws.items()})


def of_ours(name: str, seed: int) -> tuple[Moments, int]:
    """Chains of this package."""
    classic = CLASSICS[name]()
    num_samples, warmup = SLOW.get(name, (1000, 500))
    posterior = sample_nuts(
        classic.model, classic.data, num_samples=num_samples, warmup=warmup, chains=2,
        target_accept=0.9, seed=seed, progress=False,
    )  # fmt: skip
    values = _by_scalar(classic.quantities(posterior.guide.chains))
    diverging = int(np.sum(posterior.info.sampler["diverging"]))
    return moments(values), diverging


def entry(name: str, seed: int) -> dict[str, Any]:
    """What is stored for one posterior."""
    ours, our_divergences = of_ours(name, seed)
    theirs, their_divergences = of_numpyro(name, list(ours), seed)
    if name in EXACT:
        method, exact = EXACT[name]
        best = {n: [*pair, 0.0, 0.0] for n, pair in exact().items()}
    else:
        method, best = "two samplers", theirs
    if set(best) != set(ours):
        raise SystemExit(f"{name}: quantities differ, {sorted(set(best) ^ set(ours))}")
    distances = {"numpyro": deviation(best, theirs) if name in EXACT else 0.0}
    distances |= {"probml_tp": deviation(best, ours), "each other": deviation(ours, theirs)}
    print(name, {k: round(v, 2) for k, v in distances.items()}, our_divergences, their_divergences)
    worst = max(distances.values())
    if name not in HARD and worst > LIMIT:
        raise SystemExit(f"{name}: off by {worst:.1f} standard errors; nothing is written for it")
    divergences = {"numpyro": their_divergences, "probml_tp": our_divergences, "each other": 0}
    agreement = {
        k: {"deviation": round(v, 2), "divergences": divergences[k]} for k, v in distances.items()
    }
    rows = {n: [float(f"{v:.6g}") for v in row] for n, row in best.items()}
    return {"method": method, "columns": list(COLUMNS), "agreement": agreement, "moments": rows}


def main() -> None:
    """Run those asked for, and keep the others as they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(CLASSICS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name in arguments.names:
        found = entry(name, arguments.seed)
        stored = json.loads(TARGET.read_text()) if TARGET.exists() else {}
        stored[name] = found
        ordered = {n: stored[n] for n in CLASSICS if n in stored}
        TARGET.write_text(json.dumps(ordered, indent=1) + "\n")


if __name__ == "__main__":
    main()
