"""What the experiment laplace-vs-vi shows, from its results alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from probml_tp.experiments.plane.cost_panels import cost_panels, divergence_panels, evidence_panels
from probml_tp.experiments.plane.posterior_gap import REGIONS
from probml_tp.gap.checks import NOISE_FLOOR
from probml_tp.harness.experiment import Figure, Results
from probml_tp.kit.common import Array, labels_of
from probml_tp.plots.style import number

PROBLEMS = {"blobs": "Blobs, logistic regression", "moons": "Moons, a net"}


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw divergences from NUTS, bounds on the evidence, and costs."""
    yield _divergence(results.arrays)
    yield _evidence(results.arrays)
    yield _costs(results)


def _divergence(arrays: dict[str, Array]) -> Figure:
    panels, least = [], []
    for problem, title in PROBLEMS.items():
        names = [str(name) for name in arrays[f"{problem}.rows"]]
        row = {}
        for region, words in REGIONS.items():
            values = dict(zip(names, arrays[f"{problem}.kl.{region}"], strict=True))
            row[f"{title}\n{words}"] = values
        panels.append(row)
        far = {name: ends[0] for name, ends in values.items() if name != NOISE_FLOOR}
        best, worst = min(far, key=far.__getitem__), max(far, key=far.__getitem__)
        least.append(
            f"{title}: {labels_of([best])} {far[best]:.2g}, {labels_of([worst])} {far[worst]:.2g}"
        )
    made = divergence_panels(panels, floor=NOISE_FLOOR)
    caption = (
        "KL divergence of each guide's predictive from that of NUTS, averaged over the points of a "
        "region, with bootstrap intervals at 95 %; the grey line is one half of NUTS's draws "
        "against the other, the band its interval. Intervals that reach 0 run off the left edge."
    )
    title = f"Least and largest KL from NUTS far away, in nats. {'; '.join(least)}"
    return Figure("predictive-kl", title, caption, made)


def _evidence(arrays: dict[str, Array]) -> Figure:
    panels, parts = {}, []
    for problem, title in PROBLEMS.items():
        guides = [str(guide) for guide in arrays[f"{problem}.elbo.guides"]]
        bounds = dict(zip(guides, arrays[f"{problem}.elbo"], strict=True))
        estimates = dict(zip(guides, arrays[f"{problem}.evidence"].tolist(), strict=True))
        panels[title] = (bounds, {g: v for g, v in estimates.items() if np.isfinite(v)})
        best = max(bounds, key=lambda guide: float(bounds[guide][0]))
        parts.append(f"{title}: {labels_of([best])} ({number(float(bounds[best][0]), '.1f')} nats)")
    made = evidence_panels(panels)
    caption = (
        "Filled: the evidence lower bound of each guide's normal with its interval at 95 %. "
        "Hollow: the Laplace approximation's own estimate of the evidence, no bound. Where they "
        "are far apart the axis is logarithmic below -10 nats."
    )
    return Figure("evidence", f"Highest evidence lower bound. {'; '.join(parts)}", caption, made)


def _costs(results: Results[Any]) -> Figure:
    arrays, config = results.arrays, results.config
    guides = [str(guide) for guide in arrays["costs.guides"]]
    rows = next(t.metrics for t in results.tables if "seconds_exponent" in t.columns)
    made = cost_panels(
        {guide: arrays[f"costs.{guide}"] for guide in guides},
        exponents={
            guide: (row.get("seconds_exponent", np.nan), row.get("memory_exponent", np.nan))
            for guide, row in rows.items()
        },
        limit_mib=1024 * config.memory_limit,
    )
    caption = (
        "Nets with two hidden layers of equal width on the 1,000 moons, on one thread. Trained "
        f"guides: {config.steps} steps on all data; Laplace: the curvature at a given mode; so "
        "compare slopes, not levels. Memory: the rise of resident memory during the fit. In the "
        "legend the exponents of time and memory over the last tenfold; the dotted line is the "
        "bound at which the full Laplace approximation is left out."
    )
    most = max(int(arrays[f"costs.{guide}"][-1, 0]) for guide in guides)
    last = int(arrays["costs.laplace"][-1, 0])
    times = {
        guide: row["seconds_exponent"] for guide, row in rows.items() if "seconds_exponent" in row
    }
    steep = max(times, key=times.__getitem__)
    title = (
        f"Time grows fastest under {labels_of([steep])} (power {times[steep]:.1f}); "
        f"full-covariance Laplace reaches {last:,} of {most:,} parameters"
    )
    return Figure("cost-scaling", title, caption, made)
