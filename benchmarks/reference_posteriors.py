"""Make the moments of the classical posteriors that the package ships.

What is stored is in closed form, by quadrature or by importance sampling (``quadrature.py``), of
formulas written apart from the package's models. It is held against two independent
implementations of NUTS: NumPyro's, on programs written by hand (``numpyro_classics.py``), and this
package's, on its models. Nothing is written where any mean or standard deviation of the easy
posteriors is off by more than five standard errors; on the hard ones samplers are known to fail,
and how far off they are is stored beside the answer.

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
import torch
from quadrature import EXACT

from probml_tp import sample_nuts
from probml_tp.diagnostics.references import COLUMNS, FILE, _by_scalar
from probml_tp.models import CLASSICS

TARGET = Path(__file__).resolve().parents[1] / "probml_tp" / "diagnostics" / FILE
HARD = ("eight-schools-centered", "funnel")
LIMIT = 5.0
LENGTHS = {"numpyro": (2500, 1000), "probml_tp": (400, 300)}
"""Draws kept of each chain and its warm-up steps; of four chains, and of two."""

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


def of_numpyro(name: str, seed: int, scale: int) -> tuple[Moments, int]:
    """Long chains of NumPyro."""
    draws, diverging = numpyro_classics.sample(
        name, num_samples=scale * LENGTHS["numpyro"][0], warmup=LENGTHS["numpyro"][1], chains=4,
        target_accept=0.95, seed=seed,
    )  # fmt: skip
    return moments(_by_scalar({n: torch.tensor(v) for n, v in draws.items()})), diverging


def of_ours(name: str, seed: int, scale: int) -> tuple[Moments, int]:
    """Chains of this package."""
    classic = CLASSICS[name]()
    num_samples, warmup = LENGTHS["probml_tp"]
    posterior = sample_nuts(
        classic.model, classic.data, num_samples=scale * num_samples, warmup=warmup, chains=2,
        target_accept=0.9, seed=seed, progress=False,
    )  # fmt: skip
    values = _by_scalar(classic.quantities(posterior.guide.chains))
    diverging = int(np.sum(posterior.info.sampler["diverging"]))
    return moments(values), diverging


def entry(name: str, *, seed: int, scale: int, ours: bool) -> dict[str, Any]:
    """What is stored for one posterior."""
    samplers = {"numpyro": of_numpyro(name, seed, scale)}
    if ours:
        samplers["probml_tp"] = of_ours(name, seed, scale)
    method, without_chains = EXACT[name]
    best = {n: [*row, *(0.0,) * (4 - len(row))] for n, row in without_chains().items()}
    agreement = {}
    for sampler, (found, divergences) in samplers.items():
        if missing := set(best) - set(found):
            raise SystemExit(f"{name}: {sampler} has no {sorted(missing)}")
        off = deviation(best, found)
        agreement[sampler] = {"deviation": round(float(off), 2), "divergences": divergences}
        if name not in HARD and off > LIMIT:
            raise SystemExit(f"{name}: {sampler} is off by {off:.1f} standard errors; not written")
    print(name, agreement, flush=True)
    rows = {n: [float(f"{v:.6g}") for v in row] for n, row in best.items()}
    return {"method": method, "columns": list(COLUMNS), "agreement": agreement, "moments": rows}


def text(stored: dict[str, Any]) -> str:
    """JSON with a line for each quantity."""
    parts = []
    for name, found in stored.items():
        head = json.dumps({k: v for k, v in found.items() if k != "moments"})[:-1]
        rows = [f"    {json.dumps(n)}: {json.dumps(row)}" for n, row in found["moments"].items()]
        body = ",\n".join(rows)
        parts.append(f'  {json.dumps(name)}: {head}, "moments": {{\n{body}\n  }}}}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> None:
    """Run those asked for, and keep the others as they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(CLASSICS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=int, default=1, help="draws, in multiples of the default")
    parser.add_argument(
        "--numpyro-only", action="store_true", help="leave out this package's, for speed"
    )
    arguments = parser.parse_args()
    for name in arguments.names:
        found = entry(
            name, seed=arguments.seed, scale=arguments.scale, ours=not arguments.numpyro_only
        )
        stored = json.loads(TARGET.read_text()) if TARGET.exists() else {}
        stored[name] = found
        ordered = {n: stored[n] for n in CLASSICS if n in stored}
        TARGET.write_text(text(ordered))


if __name__ == "__main__":
    main()
