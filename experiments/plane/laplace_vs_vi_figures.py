"""What the experiment laplace-vs-vi shows, from its results alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from matplotlib.lines import Line2D

from probml_tp.experiments.plane.cost_scaling import TITLE
from probml_tp.experiments.plane.posterior_gap import REGIONS, TABLES, by_bound, by_divergence
from probml_tp.gap.checks import NOISE_FLOOR
from probml_tp.harness.experiment import Figure, Results, Table
from probml_tp.kit.common import Array
from probml_tp.kit.sentences import BestWorst, table_of
from probml_tp.plots.robustness import PUBLISHED, plot_intervals
from probml_tp.plots.style import (
    DATA_COLOR,
    TRAINING_RANGE_COLOR,
    figure,
    guide_style,
    house_style,
    number,
    shared_legend,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

LEAST_KL = 1e-6

WIDE = 100.0
"""Nats from which on bounds are drawn on a logarithmic axis."""


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw divergences from NUTS, bounds on the evidence, and costs."""
    tables = {t: table for t, name in TABLES.items() if (table := table_of(results, name))}
    least = [
        by_divergence(t, "far", f"{t}: {{best}} {{value}}, {{worst}} {{last}}") for t in TABLES
    ]
    yield Figure(
        "predictive-kl",
        f"Least and largest KL from NUTS far away, in nats. "
        f"{'; '.join(filter(None, (form(results) for form in least)))}",
        "KL divergence of each guide's predictive from that of NUTS, averaged over the points of a "
        "region, with bootstrap intervals at 95 %; the grey line is one half of NUTS's draws "
        "against the other, the band its interval. Intervals that reach 0 run off the left edge.",
        _divergence_panels(tables),
    )
    highest = [f"{title}: {by_bound(title)(results)}" for title in tables]
    yield Figure(
        "evidence",
        f"Highest evidence lower bound. {'; '.join(highest)}",
        "Filled: the evidence lower bound of each guide's normal with its interval at 95 %. "
        "Hollow: the Laplace approximation's own estimate of the evidence, no bound. Where they "
        "are far apart the axis is logarithmic below -10 nats.",
        _evidence_panels(tables),
    )
    if costs := table_of(results, TITLE):
        yield _costs(results, costs)


def _with_ends(table: Table, metric: str) -> dict[str, tuple[float, float, float]]:
    ends = table.ends(metric)
    return {row: (value, *ends[row]) for row, value in table.column(metric).items()}


@house_style()
def _divergence_panels(tables: Mapping[str, Table]) -> MatplotlibFigure:
    """Divergences with their intervals on logarithmic axes, one row of panels a problem."""
    lines = [len(table.column("kl_far")) - 1 for table in tables.values()]
    height = 0.22 * sum(lines) + 0.9 * len(tables)
    made, axes = figure(len(tables), len(REGIONS), height=height, sharey="row")
    axes[0, 0].get_gridspec().set_height_ratios(lines)
    for (title, table), row in zip(tables.items(), axes, strict=True):
        for (region, words), ax in zip(REGIONS.items(), row, strict=True):
            found = _with_ends(table, f"kl_{region}")
            ends = {name: _clipped(own) for name, own in found.items()}
            at, low, high = ends.pop(NOISE_FLOOR)
            ax.axvspan(low, high, color=TRAINING_RANGE_COLOR, alpha=0.3, lw=0, zorder=0)
            ax.axvline(at, color=TRAINING_RANGE_COLOR, lw=1.2, zorder=0, label=NOISE_FLOOR)
            plot_intervals(ends, ax=ax)
            ax.set_xscale("log")
            smallest = min(min(e[0] for e in ends.values()), max(at, high / 100))
            ax.set_xlim(smallest / 3, 2 * max(e[2] for e in ends.values()))
            ax.set_title(f"{title}\n{words}", fontsize=9)
    for ax in axes[-1]:
        ax.set_xlabel("KL from NUTS (nats)")
    return made


def _clipped(ends: tuple[float, float, float]) -> tuple[float, float, float]:
    value, low, high = (max(end, LEAST_KL) for end in ends)
    return value, low, high


@house_style()
def _evidence_panels(tables: Mapping[str, Table]) -> MatplotlibFigure:
    """Lower bounds on the evidence and estimates of it, one panel a problem."""
    most = max(len(table.column("elbo")) for table in tables.values())
    made, axes = figure(1, len(tables), height=0.25 * most + 1.2)
    for (title, table), ax in zip(tables.items(), axes[0], strict=True):
        bounds = _with_ends(table, "elbo")
        estimates = {g: v for g, v in table.column("log_evidence").items() if g in bounds}
        plot_intervals(bounds, ax=ax, published=estimates)
        seen = [*table.column("elbo").values(), *estimates.values()]
        if max(seen) - min(seen) > WIDE:
            ax.set_xscale("symlog", linthresh=10.0)
        ax.set_title(title)
        ax.set_xlabel("Log evidence (nats)")
    kinds = {
        "lower bound": Line2D([], [], color=DATA_COLOR, marker="o", linestyle="-"),
        "Laplace's estimate": Line2D([], [], **PUBLISHED),
    }
    made.legend(list(kinds.values()), list(kinds), loc="outside lower center", ncols=2)
    return made


def _costs(results: Results[Any], table: Table) -> Figure:
    costs = {guide: results.arrays[f"costs.{guide}"] for guide in table.rows}
    caption = (
        "Nets with two hidden layers of equal width on the 1,000 moons, on one thread. Trained "
        f"guides: {results.config.steps} steps on all data; Laplace: the curvature at a given "
        "mode; so compare slopes, not levels. Memory: the rise of resident memory during the fit. "
        "In the legend the exponents of time and memory over the last tenfold; the dotted line is "
        "the bound at which the full Laplace approximation is left out."
    )
    steepest = BestWorst(
        "seconds_exponent",
        "Time grows fastest under {best} (power {value})",
        table=TITLE,
        higher=True,
        write="{:.1f}".format,
    )
    most = table.column("most")
    title = (
        f"{steepest(results)}; full-covariance Laplace reaches {most.get('laplace', 0):,.0f} of "
        f"{max(most.values()):,.0f} parameters"
    )
    made = _cost_panels(costs, table, limit_mib=1024 * results.config.memory_limit)
    return Figure("cost-scaling", title, caption, made)


@house_style()
def _cost_panels(costs: Mapping[str, Array], table: Table, *, limit_mib: float) -> MatplotlibFigure:
    """Time and memory against the number of parameters, on logarithmic axes."""
    made, axes = figure(1, 2, height=4.2)
    exponents = [table.column(f"{name}_exponent") for name in ("seconds", "memory")]
    for guide, values in costs.items():
        grown = ", ".join(number(a[guide], ".1f") if guide in a else "–" for a in exponents)
        style = replace(guide_style(guide), label=f"{guide_style(guide).label} ({grown})")
        for column, ax in enumerate(axes[0], start=1):
            ax.plot(values[:, 0], values[:, column], **vars(style), markersize=5)
    axes[0, 1].axhline(limit_mib, color=TRAINING_RANGE_COLOR, linestyle=":", lw=1.2, label="bound")
    for ax, label in zip(axes[0], ("Time of the fit (s)", "Memory of the fit (MiB)"), strict=True):
        ax.set(xscale="log", yscale="log", xlabel="Number of parameters", ylabel=label)
    shared_legend(made, axes[0], columns=3)
    return made
