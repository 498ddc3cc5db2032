"""What the experiment nonlinear-regression says and shows, from its results alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from probml_tp.experiments.lines.far_field_figures import (
    BASES,
    far_figure,
    law_figure,
    law_finding,
    net_finding,
    return_finding,
)
from probml_tp.experiments.lines.kit import as_title, band_of, plot_fit
from probml_tp.experiments.lines.model_choice_figures import (
    CHOICE_FINDINGS,
    choice_figure,
    plane_figure,
)
from probml_tp.harness.experiment import Figure, Results
from probml_tp.kit.sentences import Chains, Range
from probml_tp.plots.regression import (
    Band,
    band_legend,
    mark_limit,
    mark_training_range,
    plot_variance_parts,
)
from probml_tp.plots.style import (
    figure,
    guide_style,
    house_style,
    label_outside,
    number,
    order_of_magnitude,
    panels,
)

NEAR = (-1.0, 2.0)
"""The labs' prediction range; the arrays reach farther."""


# ------------------------------------------------------------------------------------ findings


def doubtful_range(band: Band, noise: float, *, share: float = 0.01) -> tuple[float, float] | None:
    """Between which inputs the epistemic variance counts beside that of the noise."""
    counts = np.flatnonzero(band.epistemic_variance > share * noise**2)
    return (float(band.x[counts[0]]), float(band.x[counts[-1]])) if len(counts) else None


def _bases_far(results: Results[Any]) -> str:
    noise = results.config.noise
    doubtful = doubtful_range(band_of(results, "gaussian-exact"), noise)
    where = "everywhere"
    if doubtful is not None:
        where = f"outside of [{', '.join(number(end, '.2f') for end in doubtful)}]"
    polynomial = band_of(results, "polynomial-exact")
    times = order_of_magnitude(polynomial.variance[-1] / noise**2)
    return (
        f"Where it knows nothing the Gaussian basis is as sure as its noise: {where} the "
        f"predictive variance is within 1 % of σ² = {noise**2:g}; the polynomial's is {times} "
        f"times σ² at x = {polynomial.x[-1]:g}."
    )


def _laplace(results: Results[Any]) -> str | None:
    guides = ("laplace", "laplace-linearized")
    if not set(guides) <= set(results.config.guides):
        return None
    drawn, linear = (results.main[f"mlp · {guide}", "rmse"] for guide in guides)
    return (
        f"One Laplace posterior, two predictions: drawing weights for the net itself gives an RMSE "
        f"of {drawn:.2f}, for the net linearised at the mode {linear:.2f}; within the width of the "
        f"posterior the net is not linear."
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
    law_finding,
    net_finding,
    return_finding,
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


# ------------------------------------------------------------------------------------- figures


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the figures, from the results alone."""
    yield _bases_figure(results)
    yield _net_figure(results)
    yield far_figure(results, as_title(net_finding(results) or _bases_far(results)))
    yield law_figure(results)
    yield choice_figure(results)
    yield plane_figure(results)


@house_style()
def _bases_figure(results: Results[Any]) -> Figure:
    made, axes = figure(2, 2, height=5.4, sharex=True, sharey="row")
    for (above, below), (name, style) in zip(axes.T, BASES.items(), strict=True):
        band = _panel(results, f"{name}-exact", "exact", above)
        above.set_title(style.label)
        plot_variance_parts(band, ax=below)
        mark_limit(results.config.noise**2, "limit σ²", ax=below)
        mark_training_range(results.arrays["x"], ax=below)
        below.set(xlim=NEAR, ylim=(0, 8 * results.config.noise**2), xlabel="x")
    axes[0, 0].set_ylabel("y")
    axes[1, 0].set_ylabel("predictive variance (units of y²)")
    axes[1, 1].legend(loc="upper right")
    band_legend(made)
    return Figure(
        "bases",
        as_title(_bases_far(results)),
        "The exact posterior of two bases. Above, the predictive mean with 95 % intervals; below, "
        "the predictive variance in its two parts. Outside the training range the Gaussian bumps "
        "vanish and take the epistemic variance with them; the polynomial leaves the panel.",
        made,
    )


def _panel(results: Results[Any], row: str, guide: str, ax: Axes) -> Band:
    """One panel of bands on the labs' prediction range."""
    band, color = band_of(results, row), guide_style(guide).color
    plot_fit(band, results.arrays["x"], results.arrays["y"], ax=ax, color=color)
    ax.set(xlim=NEAR, ylim=(-5, 6))
    return band


@house_style()
def _net_figure(results: Results[Any]) -> Figure:
    guides = results.config.guides
    made, axes, used = panels(len(guides), most=5, height=2.0, sharex=True, sharey=True)
    for ax, guide in zip(used, guides, strict=True):
        _panel(results, f"mlp-{guide}", guide, ax)
        nll = results.main[f"mlp · {guide}", "nll"]
        ax.set_title(f"{guide_style(guide).label}\nNLL {number(nll, '.2f')}", fontsize=9)
    label_outside(axes, len(guides), x="x", y="y")
    band_legend(made)
    return Figure(
        "net-by-guide",
        as_title(SPREAD(results)),
        "The same net, prior and data under every guide: predictive mean with 95 % intervals, dark "
        "for the function alone, light for a new observation; NLL in nats per fresh point of the "
        "training range.",
        made,
    )
