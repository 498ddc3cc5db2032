"""What is said and shown of predictions far from the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from probml_tp.experiments.lines.kit import band_of
from probml_tp.guides.recipes import one_of_each_family
from probml_tp.harness.experiment import Figure, Results
from probml_tp.plots.regression import Band, mark_limit, mark_training_range
from probml_tp.plots.style import (
    DATA_COLOR,
    GuideStyle,
    figure,
    guide_style,
    house_style,
    number,
    order_of_magnitude,
    shared_legend,
)

BASES = {
    "polynomial": GuideStyle("Polynomial basis", guide_style("exact").color, "-", "o"),
    "gaussian": GuideStyle("Gaussian basis", guide_style("exact").color, (0, (4, 2)), "o"),
}
"""The exact posterior of each basis; in the exact guide's colour."""

GP, LAW = "gp-rbf", "polynomial far out"
"""Prefixes of the arrays of the Gaussian process and of the polynomial's limit."""

GP_STYLE = GuideStyle("Gaussian process", "#7A6A00", "-", "s")


def _hyperparameters(results: Results[Any]) -> tuple[float, float]:
    variance, lengthscale = results.arrays[f"{GP}.hyperparameters"]
    return float(variance), float(lengthscale)


def _slope(results: Results[Any]) -> float:
    """The slope of the polynomial's variance on logarithmic axes, over the last decade."""
    x, variance = (results.arrays[f"{LAW}.{name}"] for name in ("x", "variance"))
    last = x >= x[-1] / 10.0001
    return float(np.polyfit(np.log(x[last]), np.log(variance[last]), 1)[0])


def law_finding(results: Results[Any]) -> str:
    """How the two bases approach their limits."""
    noise, band = results.config.noise, band_of(results, "gaussian-exact")
    ends = band.epistemic_variance[[0, -1]].max() / noise**2
    x, variance, limit = (results.arrays[f"{LAW}.{n}"] for n in ("x", "variance", "limit"))
    reached = x[np.abs(variance / limit - 1) < 0.05]
    within = "beyond what is drawn"
    if len(reached):
        within = f"from x = {float(reached[0]):,.0f} on within 5 % of its leading term"
    return (
        f"At the ends of the range, two widths of the data away, the Gaussian basis is off its "
        f"limit σ² = 1/β by a share of {order_of_magnitude(ends)}; the polynomial of degree "
        f"{results.config.degree} diverges with the slope {_slope(results):.2f} on logarithmic "
        f"axes, its limit being 2d = {2 * results.config.degree}, and is {within}."
    )


def net_finding(results: Results[Any]) -> str | None:
    """How much less the guides of the net know far out than amid the data."""
    grown = {
        guide: results.main[f"mlp · {guide}", "epistemic_far"] / inside
        for guide in results.config.guides
        if (inside := results.main[f"mlp · {guide}", "epistemic_inside"])
    }
    if not grown:
        return None
    parts = _descending(grown, ".1f")
    return f"Far from the data the net's epistemic SD is so many times that amid them: {parts}."


def _descending(values: Mapping[str, float], spec: str) -> str:
    order = sorted(values, key=values.__getitem__, reverse=True)
    return "; ".join(f"{guide_style(guide).label} {values[guide]:{spec}}" for guide in order)


def return_finding(results: Results[Any]) -> str:
    """What cures the overconfidence of the Gaussian basis far away."""
    variance, lengthscale = _hyperparameters(results)
    band = band_of(results, GP)
    x, off = results.arrays["x"], np.abs(band.epistemic_variance / variance - 1)
    distance = np.maximum(x.min() - band.x, band.x - x.max())
    away = float(distance[(distance > 0) & (off > 0.01)].max()) / lengthscale
    sd = results.main.column("epistemic_far")
    far = sd["gp · rbf"]
    shares = {guide: sd[f"mlp · {guide}"] / far for guide in results.config.guides}
    return (
        f"What cures the overconfidence of the Gaussian basis is a prior over functions that does "
        f"not die out: the Gaussian process, fitted by its evidence to a length scale of "
        f"{lengthscale:.2f} and a prior SD of {variance**0.5:.2f}, is back within "
        f"1 % of its prior variance {away:.1f} length scales beyond the data. Of its epistemic SD "
        f"far out the net has, by guide: {_descending(shares, '.2f')}; the Gaussian basis has "
        f"{number(sd['gaussian · exact'] / far, '.0e')}."
    )


# ------------------------------------------------------------------------------------- figures


@house_style()
def far_figure(results: Results[Any], title: str) -> Figure:
    """Total predictive variance of all models on the wide range."""
    made, axes = figure(1, 2, height=3.9, sharey=True)
    left, right = axes[0]
    for name, style in BASES.items():
        _plot_variance(band_of(results, f"{name}-exact"), style, left)
    for guide in one_of_each_family(results.config.guides):
        _plot_variance(band_of(results, f"mlp-{guide}"), guide_style(guide), right)
    limit = results.config.noise**2
    prior = _hyperparameters(results)[0] + limit
    for ax in axes[0]:
        _plot_variance(band_of(results, GP), GP_STYLE, ax)
        mark_limit(limit, "limit σ²", ax=ax)
        look: dict[str, Any] = {"color": GP_STYLE.color, "linestyle": ":", "linewidth": 1.2}
        ax.axhline(prior, label="prior of the process + σ²", **look)
        ax.set(yscale="log", ylim=(limit / 2, 1e5 * limit), xlabel="x")
        mark_training_range(results.arrays["x"], ax=ax)
    left.set(title="Two bases", ylabel="predictive variance (units of y²)")
    right.set_title(f"Net with {results.config.hidden} tanh units")
    shared_legend(made, axes.flat, columns=5)
    return Figure(
        "far-field",
        title,
        "Total predictive variance on a range five times that of the training data (grey bar), on "
        "a logarithmic axis. The dark dotted line is the variance of the noise: a model that "
        "reaches it far out claims to know the function there. The Gaussian process returns to "
        "the variance of its prior, the other dotted line. Of many guides one of each family is "
        "drawn; the table has all.",
        made,
    )


def _plot_variance(band: Band, style: GuideStyle, ax: Axes) -> None:
    look: dict[str, Any] = {"color": style.color, "linestyle": style.linestyle}
    ax.plot(band.x, band.variance, label=style.label, **look)
    ax.set_xlim(band.x[0], band.x[-1])


@house_style()
def law_figure(results: Results[Any]) -> Figure:
    """How the bases approach their limits, and the Gaussian process its prior."""
    made, ((left, right),) = figure(1, 2, height=3.6)
    noise, prior = results.config.noise, _hyperparameters(results)[0]
    distances = {
        "gaussian": band_of(results, "gaussian-exact").epistemic_variance / noise**2,
        "gp": np.abs(band_of(results, GP).epistemic_variance / prior - 1),
    }
    styles = {"gaussian": (BASES["gaussian"], "to σ²"), "gp": (GP_STYLE, "to its prior")}
    grid = band_of(results, GP).x
    for name, (style, to) in styles.items():
        look: dict[str, Any] = {"color": style.color, "linestyle": style.linestyle}
        left.semilogy(grid, distances[name] + 1e-17, label=f"{style.label} {to}", **look)
    mark_training_range(results.arrays["x"], ax=left)
    left.set(xlabel="x", ylabel="relative distance to the limit", ylim=(1e-16, 30))
    left.set(xlim=(grid[0], grid[-1]), title="Models with a finite limit")
    x, variance, limit = (results.arrays[f"{LAW}.{n}"] for n in ("x", "variance", "limit"))
    right.loglog(x, variance, color=BASES["polynomial"].color, label=BASES["polynomial"].label)
    right.loglog(x, limit, ":", color=DATA_COLOR, label=r"limit $\Sigma_{dd}\,x^{2d}$")
    right.set(xlabel="x", ylabel="Var f (units of y²)", title="Polynomial: no limit but a law")
    shared_legend(made, [left, right], columns=4)
    return Figure(
        "far-field-laws",
        f"The Gaussian basis tends to σ²; the polynomial's variance grows as x to the power of "
        f"{_slope(results):.2f}, 2d = {2 * results.config.degree}",
        "Left, how far the predictive variance of the Gaussian basis is from that of the noise, "
        "and the epistemic variance of the Gaussian process from that of its prior, as a share of "
        "the limit; below 10⁻¹⁶ rounding hides it. Right, the epistemic variance of the "
        "polynomial basis far out, on logarithmic axes, beside its leading term.",
        made,
    )
