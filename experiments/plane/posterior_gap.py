"""Posteriors of one classifier on the plane: how far from NUTS, and at which bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.lines import Line2D

from probml_tp.diagnostics import to_inference_data
from probml_tp.experiments.plane.kit import REFERENCE, Data, evidence, ring
from probml_tp.gap import compare
from probml_tp.gap.checks import NOISE_FLOOR
from probml_tp.gap.study import GapProblem, fit_problem, in_regions
from probml_tp.guides.recipes import guides_for
from probml_tp.harness.experiment import MAIN_TABLE, Figure, Progress, Results, Table
from probml_tp.inference.parallel import single_thread
from probml_tp.kit.common import FIT_COLUMN, HALF_WIDTH, derived_seed
from probml_tp.kit.comparisons import with_ends
from probml_tp.kit.sentences import BestWorst, table_of, tell
from probml_tp.plots.robustness import PUBLISHED, plot_intervals
from probml_tp.plots.style import DATA_COLOR, TRAINING_RANGE_COLOR, figure, house_style, number

BLOBS_GUIDES = guides_for(without=("swag",))
MOONS_GUIDES = guides_for("layers", without=("ensemble", "concrete-dropout", "gaussian-dropout"))
BLOBS, MOONS = "Blobs, logistic regression", "Moons, a net"
TABLES = {BLOBS: f"{BLOBS}: the same", MOONS: MAIN_TABLE}
"""Title of a problem to that of its table."""

REGIONS: Mapping[str, str] = {
    "data": "at fresh data",
    "around": "around the data",
    "far": "on a far ring",
}
"""Where predictions are compared: name to words."""

LEAST_KL = 1e-6

WIDE = 100.0
"""Nats from which on bounds are drawn on a logarithmic axis."""

COLUMNS = {
    **{f"kl_{region}": f"KL {words} (nats) ↓" for region, words in REGIONS.items()},
    "elbo": "ELBO (nats) ↑",
    "log_evidence": "Laplace evidence (nats)",
    **FIT_COLUMN,
}


def plane_problem(
    make: Callable[..., Data], *, points: int, radius: float, seed: int, **options: Any
) -> GapProblem:
    """A problem seen at fresh data, in the box of the data widened by half, and on a far ring."""
    train, test = make(seed=seed), make(seed=derived_seed(seed, "test data"))
    rng = np.random.default_rng(seed)
    low, high = train[0].min(0).values.numpy(), train[0].max(0).values.numpy()
    margin = (high - low) / 2
    parts = {
        "data": test[0][:points],
        "around": rng.uniform(low - margin, high + margin, size=(points, 2)),
        "far": ring(train[0].mean(0).numpy(), radius=radius, points=points),
    }
    tensors = {name: torch.as_tensor(part).to(train[0]) for name, part in parts.items()}
    x, regions = in_regions(tensors)
    return GapProblem(data=train, x=x, regions=regions, **options)


def study_problem(problem: GapProblem, results: Results[Any], *, progress: Progress) -> str:
    """Fit every guide, enter how far it is from NUTS, and say what the chains are worth."""
    config = results.config
    with progress.stage(f"fit {problem.name}") as update:
        done = fit_problem(problem, update=update)
    posteriors = {guide: done[guide] for guide in problem.guides}
    table = table_of(results, TABLES[problem.title])
    assert table is not None  # noqa: S101 - run makes one a problem
    with progress.stage(f"compare {problem.name}"), single_thread():
        report = compare(
            posteriors,
            REFERENCE,
            problem.x,
            regions=problem.regions,
            sites=(),
            num_samples=config.num_samples,
            resamples=config.resamples,
            accept_reference=True,
            seed=config.seed,
        )
        for guide, posterior in posteriors.items():
            row = evidence(posterior, problem.data, num_samples=config.elbo_samples)
            half = HALF_WIDTH * row.pop("elbo_error", 0.0)
            ends = {"elbo": (row["elbo"] - half, row["elbo"] + half)} if "elbo" in row else {}
            table.put(guide, {**row, "seconds": posterior.info.total_seconds}, ends)
        for region in REGIONS:
            for guide, (value, *pair) in report.table(of=region)["kl"].iterrows():
                table.put(str(guide), {f"kl_{region}": value}, {f"kl_{region}": tuple(pair)})
        results.inference_data[f"{problem.name}-nuts"] = to_inference_data(
            done[REFERENCE], *problem.data
        )
    results.posteriors |= {f"{problem.name}-{guide}": p for guide, p in posteriors.items()}
    cost = report.costs.loc[REFERENCE]
    return (
        f"{problem.title}: the class probabilities of NUTS have an R-hat of {cost['r_hat']:.3f} "
        f"and an effective sample size of {cost['ess']:.0f} at the worst point compared."
    )


def by_divergence(title: str, region: str, words: str) -> BestWorst:
    """A sentence on the least and the largest divergence from NUTS in a region."""
    return BestWorst(
        f"kl_{region}",
        words,
        table=TABLES[title],
        rows=lambda row: row != NOISE_FLOOR,
        write="{:.2g}".format,
    )


def by_bound(title: str) -> BestWorst:
    """Words on the highest bound on the evidence."""
    return BestWorst(
        "elbo",
        "{best} ({value} nats)",
        table=TABLES[title],
        higher=True,
        write=lambda value: number(value, ".1f"),
    )


def nearest(title: str, results: Results[Any]) -> str | None:
    """Whose predictive has the least divergence from NUTS, region by region."""
    table = table_of(results, TABLES[title])
    if table is None:
        return None
    parts = []
    for region, words in REGIONS.items():
        ends = table.ends(f"kl_{region}")
        _, top = ends.pop(NOISE_FLOOR)
        count = sum(low <= top for low, _ in ends.values())
        floor = f"{count} of {len(ends)} at the noise floor" if count else "none at the floor"
        least = "{best} has the least ({value}) and {worst} the largest ({last})"
        parts.append(f"{words} {by_divergence(title, region, least)(results)}, {floor}")
    return f"{title}, KL divergence of the predictive from NUTS in nats: {'; '.join(parts)}."


def highest_bound(title: str, results: Results[Any]) -> str | None:
    """Who has the highest bound on the evidence, and what Laplace's estimate says of it."""
    table = table_of(results, TABLES[title])
    if table is None or ("laplace", "elbo") not in table:
        return None
    bounds, estimate = table.column("elbo"), table["laplace", "log_evidence"]
    fits = estimate >= max(bounds.values())
    against = "contradicts no bound" if fits else "is below a bound, hence too low"
    return (
        f"{title}: the highest evidence lower bound is that of {by_bound(title)(results)}; Laplace "
        f"estimates {number(estimate, '.1f')} nats, which {against}, but its normal as an "
        f"approximation has a bound of {number(bounds['laplace'], ',.1f')} nats."
    )


def _tables(results: Results[Any]) -> dict[str, Table]:
    """Title of a problem to its table."""
    return {t: table for t, name in TABLES.items() if (table := table_of(results, name))}


@house_style()
def divergence_figure(results: Results[Any]) -> Figure:
    """Draw divergences with their intervals on logarithmic axes, one row of panels a problem."""
    tables = _tables(results)
    lines = [len(table.column("kl_far")) - 1 for table in tables.values()]
    height = 0.22 * sum(lines) + 0.9 * len(tables)
    made, axes = figure(len(tables), len(REGIONS), height=height, sharey="row")
    axes[0, 0].get_gridspec().set_height_ratios(lines)
    for (title, table), row in zip(tables.items(), axes, strict=True):
        for (region, words), ax in zip(REGIONS.items(), row, strict=True):
            found = with_ends(table, f"kl_{region}")
            ends = {name: (*np.maximum(own, LEAST_KL).tolist(),) for name, own in found.items()}
            at, low, high = ends.pop(NOISE_FLOOR)
            ax.axvspan(low, high, color=TRAINING_RANGE_COLOR, alpha=0.3, lw=0, zorder=0)
            ax.axvline(at, color=TRAINING_RANGE_COLOR, lw=1.2, zorder=0, label=NOISE_FLOOR)
            plot_intervals(ends, ax=ax)
            smallest = min(min(e[0] for e in ends.values()), max(at, high / 100))
            ax.set(xscale="log", xlim=(smallest / 3, 2 * max(e[2] for e in ends.values())))
            ax.set_title(f"{title}\n{words}", fontsize=9)
    for ax in axes[-1]:
        ax.set_xlabel("KL from NUTS (nats)")
    least = [
        by_divergence(t, "far", f"{t}: {{best}} {{value}}, {{worst}} {{last}}") for t in tables
    ]
    return Figure(
        "predictive-kl",
        f"Least and largest KL from NUTS far away, in nats. {'; '.join(tell(least, results))}",
        "KL divergence of each guide's predictive from that of NUTS, averaged over the points of a "
        "region, with bootstrap intervals at 95 %. Grey: one half of NUTS's draws against the "
        "other, with its interval.",
        made,
    )


@house_style()
def evidence_figure(results: Results[Any]) -> Figure:
    """Draw lower bounds on the evidence and estimates of it, one panel a problem."""
    tables = _tables(results)
    most = max(len(table.column("elbo")) for table in tables.values())
    made, axes = figure(1, len(tables), height=0.25 * most + 1.2)
    for (title, table), ax in zip(tables.items(), axes[0], strict=True):
        bounds = with_ends(table, "elbo")
        estimates = {g: v for g, v in table.column("log_evidence").items() if g in bounds}
        plot_intervals(bounds, ax=ax, published=estimates)
        seen = [*table.column("elbo").values(), *estimates.values()]
        if max(seen) - min(seen) > WIDE:
            ax.set_xscale("symlog", linthresh=10.0)
        ax.set(title=title, xlabel="Log evidence (nats)")
    kinds = {
        "lower bound": Line2D([], [], color=DATA_COLOR, marker="o", linestyle="-"),
        "Laplace's estimate": Line2D([], [], **PUBLISHED),
    }
    made.legend(list(kinds.values()), list(kinds), loc="outside lower center", ncols=2)
    highest = [f"{title}: {by_bound(title)(results)}" for title in tables]
    return Figure(
        "evidence",
        f"Highest evidence lower bound. {'; '.join(highest)}",
        "Filled: the evidence lower bound of each guide's normal with its interval at 95 %. "
        "Hollow: the Laplace approximation's own estimate of the evidence, no bound.",
        made,
    )
