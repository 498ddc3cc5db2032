"""Make the moments of the classical posteriors that the package ships.

What is stored is in closed form, by quadrature or by importance sampling (``quadrature.py``), of
formulas written apart from the package's models. It is held against two independent
implementations of NUTS: NumPyro's, on programs written by hand (``numpyro_classics.py``), and this
package's, on its models. Nothing is written where any mean or standard deviation of the easy
posteriors is off by more than five standard errors; on the hard ones samplers are known to fail,
and how far off they are is stored beside the answer.

    python benchmarks/reference_posteriors.py            # all; minutes
    python benchmarks/reference_posteriors.py rats       # one of them
    python benchmarks/reference_posteriors.py rats --samplers probml_tp    # keep NumPyro's figures
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
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
R_HAT, ESS = 1.01, 400
"""Chains of the easy posteriors are worth comparing with below the one and above the other."""
LENGTHS = {"numpyro": (2500, 1000), "probml_tp": (1000, 1000)}
"""Draws kept of each of four chains, and warm-up steps."""

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
        float(abs(a[name][k] - b[name][k]) / np.hypot(a[name][k + 2], b[name][k + 2]))
        for name in a
        for k in (0, 1)
    )


def of_numpyro(name: str, seed: int, scale: int) -> tuple[dict[str, np.ndarray], int]:
    """Long chains of NumPyro."""
    draws, diverging = numpyro_classics.sample(
        name, num_samples=scale * LENGTHS["numpyro"][0], warmup=LENGTHS["numpyro"][1], chains=4,
        target_accept=0.95, seed=seed,
    )  # fmt: skip
    return _by_scalar({n: torch.tensor(v) for n, v in draws.items()}), diverging


def of_ours(name: str, seed: int, scale: int) -> tuple[dict[str, np.ndarray], int]:
    """Chains of this package, batched in one process."""
    classic = CLASSICS[name]()
    num_samples, warmup = LENGTHS["probml_tp"]
    posterior = sample_nuts(
        classic.model, classic.data, draws=scale * num_samples, warmup=warmup, chains=4,
        target_accept=0.95, mass_matrix="dense", chains_per_batch=4, seed=seed, progress=False,
    )  # fmt: skip
    diverging = int(np.sum(posterior.info.sampler["diverging"]))
    return _by_scalar(classic.quantities(posterior.guide.chains)), diverging


Sampler = Callable[[str, int, int], tuple[dict[str, np.ndarray], int]]
SAMPLERS: dict[str, Sampler] = {"numpyro": of_numpyro, "probml_tp": of_ours}


def agreement(
    name: str, values: dict[str, np.ndarray], best: Moments, divergences: int
) -> dict[str, float]:
    """How far a sampler is from the answer, and the worst of its chains' diagnostics."""
    if missing := set(best) - set(values):
        raise SystemExit(f"{name}: the sampler has no {sorted(missing)}")
    off = deviation(best, moments(values))
    r_hat = max(float(az.rhat(v)) for v in values.values())
    ess = min(float(az.ess(v, method=m)) for v in values.values() for m in ("bulk", "tail"))
    if name not in HARD and (off > LIMIT or r_hat > R_HAT or ess < ESS):
        raise SystemExit(
            f"{name}: off by {off:.1f} standard errors at an R-hat of {r_hat:.3f} and an effective "
            f"sample size of {ess:.0f}; not written"
        )
    return {
        "deviation": round(off, 2), "divergences": divergences,
        "r_hat": round(r_hat, 4), "ess": round(ess),
    }  # fmt: skip


def entry(
    name: str, stored: dict[str, Any], *, samplers: list[str], seed: int, scale: int
) -> dict[str, Any]:
    """What is stored for one posterior; of samplers not run, what was."""
    method, without_chains = EXACT[name]
    best = {n: [*row, *(0.0,) * (4 - len(row))] for n, row in without_chains().items()}
    kept = dict(stored.get("agreement", {}))
    for sampler in samplers:
        values, divergences = SAMPLERS[sampler](name, seed, scale)
        kept[sampler] = agreement(name, values, best, divergences)
        print(name, sampler, kept[sampler], flush=True)
    rows = {n: [float(f"{v:.6g}") for v in row] for n, row in best.items()}
    return {"method": method, "columns": list(COLUMNS), "agreement": kept, "moments": rows}


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
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    arguments = parser.parse_args()
    for name in arguments.names:
        stored = json.loads(TARGET.read_text()) if TARGET.exists() else {}
        stored[name] = entry(
            name, stored.get(name, {}),
            samplers=arguments.samplers, seed=arguments.seed, scale=arguments.scale,
        )  # fmt: skip
        ordered = {n: stored[n] for n in CLASSICS if n in stored}
        TARGET.write_text(text(ordered))


if __name__ == "__main__":
    main()
