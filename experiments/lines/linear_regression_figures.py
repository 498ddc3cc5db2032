"""What the experiment linear-regression says and shows, from its results alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from probml_tp.experiments.lines import kit
from probml_tp.experiments.lines.line_variance import LINE_FINDINGS, line_figures, variance_at
from probml_tp.harness.experiment import Figure, Results
from probml_tp.kit.common import Array
from probml_tp.kit.sentences import Range
from probml_tp.plots import regression as draw
from probml_tp.plots import style
from probml_tp.plots.style import guide_style, house_style, number

SEQUENCE = "point by point"
"""The stage of the posterior after more and more points, and the prefix of its arrays."""


@dataclass(frozen=True)
class _View:
    """What findings and figures read of one data set: results alone."""

    name: str
    results: Results[Any]

    @property
    def title(self) -> str:
        return {"line": "Line", "hole": "Line with a hole"}[self.name]

    def array(self, name: str) -> Array:
        return self.results.arrays[f"{self.name}{name}"]

    def metric(self, guide: str, metric: str) -> float:
        return self.results.main[f"{self.name} · {guide}", metric]

    def band(self, guide: str) -> draw.Band:
        return kit.band_of(self.results, f"{self.name}-{guide}")

    def moments(self, guide: str) -> tuple[Array, Array]:
        return self.array(f"-{guide}.weight_mean"), self.array(f"-{guide}.weight_covariance")

    @property
    def correlation(self) -> str:
        """The exact posterior's correlation of the two weights."""
        covariance = self.moments("exact")[1]
        return number(covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1]), "+.2f")

    def epistemic_sd(self, *x: float) -> Array:
        """The exact posterior's epistemic standard deviation at each ``x``."""
        return np.sqrt(variance_at(np.array(x), self.moments("exact")[1]))

    def around(self, times: float) -> tuple[float, float]:
        """An interval about the middle of the training range, so many times as wide."""
        x, grid = self.array(".x"), self.band("exact").x
        middle, half = (x.min() + x.max()) / 2, times * np.ptp(x) / 2
        return float(max(middle - half, grid[0])), float(min(middle + half, grid[-1]))


def _views(results: Results[Any]) -> list[_View]:
    return [_View(name, results) for name in results.config.data]


def _each(results: Results[Any], say: Callable[[_View], str]) -> str:
    """Say the same of each data set, for example "1 on the line and 2 on the line with a hole"."""
    return " and ".join(f"{say(view)} on the {view.title.lower()}" for view in _views(results))


def _chains(results: Results[Any]) -> str | None:
    if "nuts" not in results.config.guides:
        return None
    off = _each(results, lambda view: f"{view.metric('nuts', 'mean_distance'):.2f}")
    errors = (f"{v.array('-nuts.monte_carlo_error').max():.2f}" for v in _views(results))
    return (
        f"The NUTS means are off by {off}, in exact SDs; their Monte Carlo error is "
        f"{' and '.join(errors)}."
    )


def _factorised(results: Results[Any]) -> str | None:
    if "mean-field" not in results.config.guides:
        return None
    off = _each(results, lambda view: f"{view.metric('mean-field', 'sd_distance'):.0f} %")
    return (
        f"Mean-field misses the exact SDs by {off}; the two weights correlate by "
        f"{' and '.join(view.correlation for view in _views(results))} there, and a factorised "
        f"posterior has no way to say so."
    )


def _parabola(results: Results[Any]) -> str:
    return (
        "The epistemic variance is a parabola with its vertex where the data are centred: smallest "
        f"at {_each(results, _vertex)}."
    )


def _vertex(view: _View) -> str:
    covariance, edge = view.moments("exact")[1], float(view.band("exact").x[-1])
    least = -covariance[0, 1] / covariance[1, 1]
    vertex, mean = (number(x, ".2f") for x in (least, view.array(".x").mean()))
    growth = np.divide(*view.epistemic_sd(edge, least)) ** 2
    return f"x = {vertex} (mean of x {mean}) and {growth:,.0f} times that at x = {edge:g}"


def _hole(results: Results[Any]) -> str | None:
    if "hole" not in results.config.data:
        return None
    view = _View("hole", results)
    x = view.array(".x")
    centre, *beside = view.epistemic_sd(0.0, x[x < 0].mean(), x[x > 0].mean())
    return (
        f"The line with a hole has an epistemic SD of {centre:.3f} in the middle of the hole, "
        f"{beside[0]:.3f} and {beside[1]:.3f} amid the points on either side: a straight line "
        f"held at both ends cannot be unsure between them."
    )


def _far(results: Results[Any]) -> str | None:
    others = [guide for guide in results.config.guides if guide != "exact"]
    if not others:
        return None

    def shares(view: _View) -> str:
        far = {g: 100 * view.metric(g, "epistemic_far") for g in others}
        exact = view.metric("exact", "epistemic_far")
        return ", ".join(f"{guide_style(g).label} {sd / exact:.0f} %" for g, sd in far.items())

    return f"Far from the data the guides keep of the exact epistemic SD: {_each(results, shares)}."


NOT_HERE = (
    "Not among the guides are those that would tell nothing here: there are no hidden units to "
    "drop, every member of an ensemble would be the MAP estimate of the one mode, and the other "
    "kinds of Laplace would be the full one, the exact posterior."
)
FINDINGS = (
    Range(
        "mean_distance",
        "Laplace finds the exact posterior, which is the normal that it assumes: its means are "
        "off by {high} exact SDs.",
        rows=lambda row: row.endswith("· laplace"),
        write=style.order_of_magnitude,
    ),
    _chains,
    _factorised,
    _parabola,
    _hole,
    _far,
    Range(
        "coverage",
        "Inside the training range the guides differ little: the share of {config.test_size:,} "
        "fresh points that 95 % intervals hold runs {range}, with a standard error of "
        "{config.coverage_error:.1f} %.",
        write="{:.1f} %".format,
        name=str,
    ),
    *LINE_FINDINGS,
    lambda _: NOT_HERE,
)


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the figures, from the results alone."""
    yield _bands_figure(results)
    yield _variance_figure(results)
    yield from line_figures(results)
    yield _sequence_figure(results)
    yield _weights_figure(results)


@house_style()
def _bands_figure(results: Results[Any]) -> Figure:
    views, guides = _views(results), results.config.guides
    made, axes = style.figure(len(views), len(guides), sharey="row")
    for row, view in zip(axes, views, strict=True):
        shown, exact = view.around(6), view.band("exact")
        seen = (exact.x >= shown[0]) & (exact.x <= shown[1])
        height = 1.15 * exact.lower[seen].min(), 1.15 * exact.upper[seen].max()
        for ax, guide in zip(row, guides, strict=True):
            _fit_panel(view, guide, ax)
            ax.set(xlim=shown, ylim=height)
        row[0].set_ylabel(f"{view.title}\ny")
    for ax, below, guide in zip(axes[0], axes[-1], guides, strict=True):
        ax.set_title(guide_style(guide).label.replace(", ", ",\n"), fontsize=8.5)
        below.set_xlabel("x")
    draw.band_legend(made)
    return Figure(
        "predictive-bands",
        kit.as_title(_far(results) or _parabola(results)),
        "Predictive mean with 95 % intervals: dark for the function alone, light for a new "
        "observation. Inside the training range all guides look alike; they part outside.",
        made,
    )


def _fit_panel(view: _View, guide: str, ax: Axes) -> None:
    kit.plot_fit(view.band(guide), view.array(".x"), view.array(".y"), ax=ax, guide=guide)


@house_style()
def _variance_figure(results: Results[Any]) -> Figure:
    views = _views(results)
    made, axes = style.figure(len(views), 3, height=2.7 * len(views) + 0.7)
    for view, (fit, wide, near) in zip(views, axes, strict=True):
        _fit_panel(view, "exact", fit)
        fit.set(xlabel="x", ylabel=f"{view.title}\ny")
        draw.plot_variance_parts(view.band("exact"), ax=wide)
        for guide in results.config.guides:
            band, look = view.band(guide), guide_style(guide)
            if guide in ("mean-field", "map"):
                kit.plot_line(band.x, band.variance, look, ax=wide)
            kit.plot_line(band.x, band.epistemic_variance, look, ax=near)
        wide.set(xlabel="x", ylabel="predictive variance (units of y²)")
        x, shown = view.array(".x"), view.around(2)
        near.plot(x.mean(), 0, "^", color="#333333", clip_on=False, zorder=5, label="mean of x")
        near.set(xlabel="x", ylabel="epistemic variance (units of y²)", xlim=shown)
        near.set_ylim(0, 1.05 * view.epistemic_sd(shown[1])[0] ** 2)
        for ax in (wide, near):
            draw.mark_training_range(x, ax=ax)
    for ax, title in zip(axes[0], ("Exact posterior", "Variance", "Epistemic, near"), strict=True):
        ax.set_title(title)
    style.shared_legend(made, axes[0], columns=5)
    return Figure(
        "variance-along-x",
        kit.as_title(_parabola(results)),
        "Left, the exact posterior with 95 % intervals; middle, its predictive variance in two "
        "parts, with the total of other guides as lines. Right, the epistemic part alone about the "
        "training range (grey bar): its vertex lies at the mean of x, wherever the points are.",
        made,
    )


@house_style()
def _sequence_figure(results: Results[Any]) -> Figure:
    counts, grid, densities, sd = (
        results.arrays[f"{SEQUENCE}.{name}"] for name in ("counts", "grid", "log_density", "sd")
    )
    made, axes = style.figure(1, len(counts), height=2.5, sharex=True, sharey=True)
    for ax, count, density in zip(axes[0], counts, densities, strict=True):
        draw.plot_weight_density(grid, grid, density, ax=ax)
        ax.plot(-0.3, 0.5, "+", color="#D55E00", markersize=9, label="true weights")
        ax.set(title=f"{count} points" if count != 1 else "1 point", xlabel="w₀")
    axes[0, 0].set_ylabel("w₁")
    style.shared_legend(made, axes.flat)
    return Figure(
        "posterior-sequence",
        f"{counts[-1]} points shrink the SDs of intercept and slope from {sd[0, 0]:.2f} to "
        f"{sd[-1, 0]:.2f} and {sd[-1, 1]:.2f}",
        "The exact posterior of the intercept w₀ and the slope w₁ after more and more points. One "
        "point fixes a line of weights, two begin to fix both.",
        made,
    )


@house_style()
def _weights_figure(results: Results[Any]) -> Figure:
    views = _views(results)
    made, axes = style.figure(len(views), 3)
    for row, view in zip(axes, views, strict=True):
        for weight in range(2):
            _marginals(view, weight, row[weight])
        for guide in results.config.guides:
            draw.plot_ellipse(*view.moments(guide), ax=row[2], style=guide_style(guide))
        title = f"correlation {view.correlation}"
        row[2].set(xlabel="intercept w₀", ylabel="slope w₁", title=title)
        row[0].set_ylabel(f"{view.title}\nposterior density")
    style.shared_legend(made, axes[0, :1])
    return Figure(
        "posterior-of-weights",
        kit.as_title(_factorised(results) or _parabola(results)),
        "Marginal densities of both weights (NUTS as a histogram, MAP as a line; the narrowest "
        "leave the panel), and the 95 % ellipse of the normal with the guide's moments. Where the "
        "exact posterior is tilted, a factorised one shrinks to fit inside.",
        made,
    )


def _marginals(view: _View, weight: int, ax: Axes) -> None:
    mean, covariance = view.moments("exact")
    centre, sd = mean[weight], math.sqrt(covariance[weight, weight])
    x = np.linspace(centre - 4.5 * sd, centre + 4.5 * sd, 400)
    for guide in view.results.config.guides:
        look, (m, c) = guide_style(guide), view.moments(guide)
        if guide == "nuts":
            draw.plot_sample_density(view.array("-nuts.weights")[:, weight], ax=ax, style=look)
        else:
            draw.plot_normal_density(m[weight], math.sqrt(c[weight, weight]), x, ax=ax, style=look)
    peak = 1 / (sd * math.sqrt(2 * math.pi))
    name = ("intercept w₀", "slope w₁")[weight]
    ax.set(xlabel=name, xlim=(x[0], x[-1]), ylim=(0, 3 * peak))
