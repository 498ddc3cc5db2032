"""What the experiment laplace-vs-vi finds, in sentences computed from its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from probml_tp.experiments.plane.cost_scaling import Cost, exponents, full_laplace_mib
from probml_tp.experiments.plane.kit import REFERENCE
from probml_tp.experiments.plane.posterior_gap import REGIONS, ProblemStudy
from probml_tp.gap.checks import NOISE_FLOOR
from probml_tp.kit.common import labels_of
from probml_tp.plots.style import number

LAPLACE = "laplace"


def findings(
    studies: Mapping[str, ProblemStudy], costs: Sequence[Cost], limit_gib: float
) -> list[str]:
    """All findings."""
    found = [nearest_sentence(s.title, s.metrics, s.intervals) for s in studies.values()]
    found += [evidence_sentence(study.title, study.metrics) for study in studies.values()]
    found += cost_sentences(costs, limit_gib)
    found += [_reference(study) for study in studies.values()]
    return found


def _reference(study: ProblemStudy) -> str:
    cost = study.report.costs.loc[REFERENCE]
    return (
        f"{study.title}: the class probabilities of NUTS have an R-hat of {cost['r_hat']:.3f} and "
        f"an effective sample size of {cost['ess']:.0f} at the worst point compared."
    )


def nearest_sentence(
    title: str,
    metrics: Mapping[str, Mapping[str, float]],
    intervals: Mapping[str, Mapping[str, tuple[float, float]]],
) -> str:
    """Say whose predictive has the least divergence from NUTS, region by region."""
    parts = []
    for region, words in REGIONS.items():
        key = f"kl_{region}"
        kl = {g: row[key] for g, row in metrics.items() if key in row and g != NOISE_FLOOR}
        best, worst = min(kl, key=kl.__getitem__), max(kl, key=kl.__getitem__)
        top = intervals[NOISE_FLOOR][key][1]
        at_floor = [guide for guide in kl if intervals[guide][key][0] <= top]
        named = (
            f"{len(at_floor)} of {len(kl)} at the noise floor" if at_floor else "none at the floor"
        )
        parts.append(
            f"{words} {labels_of([best])} has the least ({kl[best]:.2g}) and {labels_of([worst])} "
            f"the largest ({kl[worst]:.2g}), {named}"
        )
    return f"{title}, KL divergence of the predictive from NUTS in nats: {'; '.join(parts)}."


def evidence_sentence(title: str, metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Say who has the highest bound on the evidence, and what Laplace's estimate says of it."""
    bounds = {guide: row["elbo"] for guide, row in metrics.items() if "elbo" in row}
    best = max(bounds, key=bounds.__getitem__)
    own = metrics[LAPLACE]
    above = own["log_evidence"] - bounds[best]
    against = "contradicts no bound" if above >= 0 else "is below a bound, hence too low"
    return (
        f"{title}: the highest evidence lower bound is that of {labels_of([best])} "
        f"({number(bounds[best], '.1f')} nats); Laplace estimates "
        f"{number(own['log_evidence'], '.1f')} nats, which {against}, but its normal as an "
        f"approximation has a bound of {number(own['elbo'], ',.1f')} nats."
    )


def cost_sentences(costs: Sequence[Cost], limit_gib: float) -> list[str]:
    """Say how costs grow, and where the full Laplace approximation stops."""
    slopes = exponents(costs)
    most = max(cost.params for cost in costs)
    found = []
    for name, words in (("seconds", "Time"), ("memory", "Memory")):
        known = {guide: row[name] for guide, row in slopes.items() if name in row}
        ranked = sorted(known, key=known.__getitem__, reverse=True)
        values = ", ".join(f"{labels_of([g])} {number(known[g], '.1f')}" for g in ranked)
        if known:
            found.append(
                f"{words} over the last tenfold of each guide's nets grows as the number of "
                f"parameters to the power: {values}."
            )
    full = [cost for cost in costs if cost.guide == LAPLACE]
    largest = full[-1].params if full else 0
    if largest < most:
        refused = min(cost.params for cost in costs if cost.params > largest)
        need = full_laplace_mib(refused) / 1024
        found.append(
            f"Full-covariance Laplace stops at {largest:,} parameters: at {refused:,} its matrices "
            f"alone would need {need:.1f} GiB, over the bound of {limit_gib:g} GiB."
        )
    elif full and np.isfinite(full[-1].mib):
        found.append(
            f"Full-covariance Laplace reaches the largest net, {largest:,} parameters, with "
            f"{full[-1].mib:,.0f} MiB; its matrices meet the bound of {limit_gib:g} GiB at "
            f"{_params_at(limit_gib):,} parameters."
        )
    return found


def _params_at(limit_gib: float) -> int:
    return int((1024 * limit_gib / full_laplace_mib(1)) ** 0.5)
