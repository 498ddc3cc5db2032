"""What the experiment nonlinear-regression says and shows, from its results alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from probml_tp.experiments.lines import kit
from probml_tp.experiments.lines.model_choice import CHOICE_FINDINGS, choice_figure, plane_figure
from probml_tp.guides.recipes import one_of_each_family
from probml_tp.harness.experiment import Figure, Results
from probml_tp.kit.sentences import Chains, Range
from probml_tp.plots import regression as draw
from probml_tp.plots import style
from probml_tp.plots.style import GuideStyle, guide_style, house_style, number

BASES = {
    "polynomial": GuideStyle("Polynomial basis", guide_style("exact").color, "-", "o"),
    "gaussian": GuideStyle("Gaussian basis", guide_style("exact").color, (0, (4, 2)), "o"),
}
"""The exact posterior of each basis; in the exact guide's colour."""

GP, LAW = "gp-rbf", "polynomial far out"
"""Prefixes of the arrays of the Gaussian process and of the polynomial's limit."""

GP_STYLE = GuideStyle("Gaussian process", "#7A6A00", "-", "s")

NEAR = (-1.0, 2.0)
"""The labs' prediction range; the arrays reach farther."""


def doubtful_range(
    band: draw.Band, noise: float, *, share: float = 0.01
) -> tuple[float, float] | None:
    """Between which inputs the epistemic variance counts beside that of the noise."""
    counts = np.flatnonzero(band.epistemic_variance > share * noise**2)
    return (float(band.x[counts[0]]), float(band.x[counts[-1]])) if len(counts) else None


def _bases_far(results: Results[Any]) -> str:
    noise, polynomial = results.config.noise, kit.band_of(results, "polynomial-exact")
    doubtful = doubtful_range(kit.band_of(results, "gaussian-exact"), noise)
    ends = ", ".join(number(end, ".2f") for end in doubtful or ())
    times = style.order_of_magnitude(polynomial.variance[-1] / noise**2)
    return (
        f"Where it knows nothing the Gaussian basis is as sure as its noise: "
        f"{f'outside of [{ends}]' if ends else 'everywhere'} the predictive variance is within 1 % "
        f"of σ² = {noise**2:g}; the polynomial's is {times} times σ² at x = {polynomial.x[-1]:g}."
    )


def _slope(results: Results[Any]) -> float:
    """The slope of the polynomial's variance on logarithmic axes, over the last decade."""
    x, variance = (results.arrays[f"{LAW}.{name}"] for name in ("x", "variance"))
    last = x >= x[-1] / 10.0001
    return float(np.polyfit(np.log(x[last]), np.log(variance[last]), 1)[0])


def _law(results: Results[Any]) -> str:
    """How the two bases approach their limits."""
    band, degree = kit.band_of(results, "gaussian-exact"), results.config.degree
    ends = band.epistemic_variance[[0, -1]].max() / results.config.noise**2
    return (
        f"At the ends of the range, two widths of the data away, the Gaussian basis is off its "
        f"limit σ² = 1/β by a share of {style.order_of_magnitude(ends)}; the polynomial of degree "
        f"{degree} diverges with the slope {_slope(results):.2f} on logarithmic axes, its limit "
        f"being 2d = {2 * degree}."
    )


def _net_far(results: Results[Any]) -> str | None:
    """How much less the guides of the net know far out than amid the data."""
    far, inside = (results.main.column(f"epistemic_{where}") for where in ("far", "inside"))
    rows = {guide: f"mlp · {guide}" for guide in results.config.guides}
    grown = {guide: far[row] / inside[row] for guide, row in rows.items() if inside[row]}
    if not grown:
        return None
    parts = _descending(grown, ".1f")
    return f"Far from the data the net's epistemic SD is so many times that amid them: {parts}."


def _descending(values: Mapping[str, float], spec: str) -> str:
    order = sorted(values, key=values.__getitem__, reverse=True)
    return "; ".join(f"{guide_style(guide).label} {values[guide]:{spec}}" for guide in order)


def _return(results: Results[Any]) -> str:
    """What cures the overconfidence of the Gaussian basis far away."""
    variance, lengthscale = results.arrays[f"{GP}.hyperparameters"]
    band = kit.band_of(results, GP)
    x, off = results.arrays["x"], np.abs(band.epistemic_variance / variance - 1)
    distance = np.maximum(x.min() - band.x, band.x - x.max())
    away = float(distance[(distance > 0) & (off > 0.01)].max()) / lengthscale
    sd = results.main.column("epistemic_far")
    shares = {guide: sd[f"mlp · {guide}"] / sd["gp · rbf"] for guide in results.config.guides}
    return (
        f"What cures the overconfidence of the Gaussian basis is a prior over functions that does "
        f"not die out: the Gaussian process (length scale {lengthscale:.2f}, prior SD "
        f"{variance**0.5:.2f}, by its evidence) is back within 1 % of its prior variance "
        f"{away:.1f} length scales beyond the data. Of its epistemic SD far out the net has, by "
        f"guide: {_descending(shares, '.2f')}; the Gaussian basis has "
        f"{number(sd['gaussian · exact'] / sd['gp · rbf'], '.0e')}."
    )


def _laplace(results: Results[Any]) -> str | None:
    guides = ("laplace", "laplace-linearized")
    if not set(guides) <= set(results.config.guides):
        return None
    drawn, linear = (results.main[f"mlp · {guide}", "rmse"] for guide in guides)
    return (
        f"One Laplace posterior, two predictions: drawing weights for the net itself gives an RMSE "
        f"of {drawn:.2f}, for the net linearised at the mode {linear:.2f}."
    )


SPREAD = Range(
    "nll",
    "On {config.test_size:,} fresh points from the training range the NLL runs {range}, in "
    "nats/point.",
    write=lambda value: number(value, ".3f"),
    name=str,
)
FINDINGS = (
    _bases_far,
    _law,
    _net_far,
    _return,
    SPREAD,
    Range(
        "coverage",
        "The share of these points that 95 % intervals hold runs {range}.",
        write="{:.1f} %".format,
        name=str,
    ),
    _laplace,
    Chains("the log likelihoods of the points", record="mlp-nuts", group="log_likelihood"),
    *CHOICE_FINDINGS,
)


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the figures, from the results alone."""
    yield _bases_figure(results)
    yield _net_figure(results)
    yield _far_figure(results)
    yield _law_figure(results)
    yield choice_figure(results)
    yield plane_figure(results)


@house_style()
def _bases_figure(results: Results[Any]) -> Figure:
    made, axes = style.figure(2, 2, height=5.4, sharex=True, sharey="row")
    noise = results.config.noise
    for (above, below), (name, basis) in zip(axes.T, BASES.items(), strict=True):
        band = _panel(results, f"{name}-exact", "exact", above)
        above.set_title(basis.label)
        draw.plot_variance_parts(band, ax=below)
        draw.mark_limit(noise**2, "limit σ²", ax=below)
        draw.mark_training_range(results.arrays["x"], ax=below)
        below.set(xlim=NEAR, ylim=(0, 8 * noise**2), xlabel="x")
    axes[0, 0].set_ylabel("y")
    axes[1, 0].set_ylabel("predictive variance (units of y²)")
    axes[1, 1].legend(loc="upper right")
    draw.band_legend(made)
    return Figure(
        "bases",
        kit.as_title(_bases_far(results)),
        "The exact posterior of two bases: above, the predictive mean with 95 % intervals; below, "
        "the predictive variance in its two parts. Outside the training range the Gaussian bumps "
        "vanish and take the epistemic variance with them; the polynomial leaves the panel.",
        made,
    )


def _panel(results: Results[Any], row: str, guide: str, ax: Axes) -> draw.Band:
    """One panel of bands on the labs' prediction range."""
    band = kit.band_of(results, row)
    kit.plot_fit(band, results.arrays["x"], results.arrays["y"], ax=ax, guide=guide)
    ax.set(xlim=NEAR, ylim=(-5, 6))
    return band


@house_style()
def _net_figure(results: Results[Any]) -> Figure:
    guides = results.config.guides
    made, axes, used = style.panels(len(guides), most=5, height=2.0, sharex=True, sharey=True)
    for ax, guide in zip(used, guides, strict=True):
        _panel(results, f"mlp-{guide}", guide, ax)
        nll = number(results.main[f"mlp · {guide}", "nll"], ".2f")
        ax.set_title(f"{guide_style(guide).label}\nNLL {nll}", fontsize=9)
    style.label_outside(axes, len(guides), x="x", y="y")
    draw.band_legend(made)
    return Figure(
        "net-by-guide",
        kit.as_title(SPREAD(results)),
        "The same net, prior and data under every guide: predictive mean with 95 % intervals, dark "
        "for the function alone, light for a new observation; NLL in nats per fresh point.",
        made,
    )


@house_style()
def _far_figure(results: Results[Any]) -> Figure:
    """Total predictive variance of all models on the wide range."""
    made, axes = style.figure(1, 2, height=3.9, sharey=True)
    shown = one_of_each_family(results.config.guides)
    nets = {f"mlp-{guide}": guide_style(guide) for guide in shown}
    bases = {f"{name}-exact": basis for name, basis in BASES.items()}
    limit = results.config.noise**2
    prior = results.arrays[f"{GP}.hyperparameters"][0] + limit
    for ax, models in zip(axes[0], (bases, nets), strict=True):
        for row, look in {**models, GP: GP_STYLE}.items():
            band = kit.band_of(results, row)
            kit.plot_line(band.x, band.variance, look, ax=ax)
        draw.mark_limit(limit, "limit σ²", ax=ax)
        dotted: dict[str, Any] = {"color": GP_STYLE.color, "linestyle": ":", "linewidth": 1.2}
        ax.axhline(prior, label="prior of the process + σ²", **dotted)
        ax.set(xlabel="x", xlim=band.x[[0, -1]], yscale="log", ylim=(limit / 2, 1e5 * limit))
        draw.mark_training_range(results.arrays["x"], ax=ax)
    axes[0, 0].set(title="Two bases", ylabel="predictive variance (units of y²)")
    axes[0, 1].set_title(f"Net with {results.config.hidden} tanh units")
    style.shared_legend(made, axes.flat, columns=5)
    return Figure(
        "far-field",
        kit.as_title(_net_far(results) or _bases_far(results)),
        "Total predictive variance on a range five times that of the training data (grey bar), of "
        "the bases and one guide of each family. Dark dotted: the variance of the noise alone; the "
        "other dotted line: that of the Gaussian process's prior.",
        made,
    )


@house_style()
def _law_figure(results: Results[Any]) -> Figure:
    """How the bases approach their limits, and the Gaussian process its prior."""
    made, ((left, right),) = style.figure(1, 2, height=3.6)
    noise, prior = results.config.noise, results.arrays[f"{GP}.hyperparameters"][0]
    gaussian, process = (kit.band_of(results, row) for row in ("gaussian-exact", GP))
    off = gaussian.epistemic_variance / noise**2, np.abs(process.epistemic_variance / prior - 1)
    looks = {"σ²": BASES["gaussian"], "its prior": GP_STYLE}
    for share, (limit, look) in zip(off, looks.items(), strict=True):
        kit.plot_line(process.x, share + 1e-17, look, ax=left, label=f"{look.label} to {limit}")
    draw.mark_training_range(results.arrays["x"], ax=left)
    left.set(xlabel="x", ylabel="relative distance to the limit", ylim=(1e-16, 30), yscale="log")
    left.set(xlim=process.x[[0, -1]], title="Models with a finite limit")
    x, variance, term = (results.arrays[f"{LAW}.{n}"] for n in ("x", "variance", "limit"))
    right.loglog(x, variance, color=BASES["polynomial"].color, label=BASES["polynomial"].label)
    right.loglog(x, term, ":", color=style.DATA_COLOR, label=r"limit $\Sigma_{dd}\,x^{2d}$")
    right.set(xlabel="x", ylabel="Var f (units of y²)", title="Polynomial: no limit but a law")
    style.shared_legend(made, [left, right], columns=4)
    return Figure(
        "far-field-laws",
        kit.as_title(_law(results)),
        "Left, how far the predictive variance of the Gaussian basis is from that of the noise, "
        "and that of the Gaussian process from its prior, as a share of the limit. Right, the "
        "epistemic variance of the polynomial basis far out, beside its leading term.",
        made,
    )
