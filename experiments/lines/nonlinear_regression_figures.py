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
    return_finding,
)
from probml_tp.experiments.lines.model_choice_figures import (
    choice_figure,
    choice_findings,
    plane_figure,
)
from probml_tp.harness.experiment import Figure, Results
from probml_tp.plots.regression import (
    Band,
    band_legend,
    mark_limit,
    mark_training_range,
    plot_band,
    plot_data,
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

Array = np.ndarray[Any, np.dtype[np.float64]]

NEAR = (-1.0, 2.0)
"""The labs' prediction range; the arrays reach farther."""


def _band(results: Results[Any], row: str) -> Band:
    return Band.from_arrays(results.arrays, row)


def _metric(results: Results[Any], guide: str, metric: str) -> float:
    return results.metrics[f"mlp · {guide}"][metric]


# ------------------------------------------------------------------------------------ findings


def findings(results: Results[Any]) -> list[str]:
    """Say in sentences what the numbers say, the most important first."""
    guides = set(results.config.guides)
    chosen = {
        _bases_far: True,
        law_finding: True,
        _net_far: bool(guides - {"map"}),
        return_finding: True,
        _spread: True,
        _laplace: guides >= {"laplace", "laplace-linearized"},
        _chains: "nuts" in guides,
    }
    said = [f"{sentence(results)}." for sentence, applies in chosen.items() if applies]
    return said + choice_findings(results)


def doubtful_range(band: Band, noise: float, *, share: float = 0.01) -> tuple[float, float] | None:
    """Between which inputs the epistemic variance counts beside that of the noise."""
    counts = np.flatnonzero(band.epistemic_variance > share * noise**2)
    return (float(band.x[counts[0]]), float(band.x[counts[-1]])) if len(counts) else None


def _bases_far(results: Results[Any]) -> str:
    noise = results.config.noise
    doubtful = doubtful_range(_band(results, "gaussian-exact"), noise)
    where = "everywhere"
    if doubtful is not None:
        where = f"outside of [{', '.join(number(end, '.2f') for end in doubtful)}]"
    polynomial = _band(results, "polynomial-exact")
    times = order_of_magnitude(polynomial.variance[-1] / noise**2)
    return (
        f"Where it knows nothing the Gaussian basis is as sure as its noise: {where} the "
        f"predictive variance is within 1 % of σ² = {noise**2:g}; the polynomial's is {times} "
        f"times σ² at x = {polynomial.x[-1]:g}"
    )


def _net_far(results: Results[Any]) -> str:
    grown = {
        guide: _metric(results, guide, "epistemic_far")
        / _metric(results, guide, "epistemic_inside")
        for guide in results.config.guides
        if guide != "map"
    }
    order = sorted(grown, key=grown.__getitem__, reverse=True)
    parts = "; ".join(f"{guide_style(guide).label} {grown[guide]:.1f}" for guide in order)
    return f"Far from the data the net's epistemic SD is so many times that amid them: {parts}"


def _spread(results: Results[Any]) -> str:
    nll = {row: cells["nll"] for row, cells in results.metrics.items()}
    low, high = min(nll, key=nll.__getitem__), max(nll, key=nll.__getitem__)
    scores = [
        f"{number(nll[row], '.3f')} ({row}, {results.metrics[row]['coverage']:.1f} % inside 95 % "
        f"intervals)"
        for row in (low, high)
    ]
    return (
        f"On {results.config.test_points:,} fresh points from the training range the NLL runs from "
        f"{' to '.join(scores)}, in nats/point"
    )


def _laplace(results: Results[Any]) -> str:
    drawn, linear = (_metric(results, guide, "rmse") for guide in ("laplace", "laplace-linearized"))
    return (
        f"One Laplace posterior, two predictions: drawing weights for the net itself gives an RMSE "
        f"of {drawn:.2f}, for the net linearised at the mode {linear:.2f}; within the width of the "
        f"posterior the net is not linear"
    )


def _chains(results: Results[Any]) -> str:
    r_hat = float(results.arrays["mlp-nuts.r_hat"].max())
    verdict = "they are too short to be a reference"
    if r_hat <= 1.1:
        verdict = "they agree" if r_hat <= 1.01 else "they nearly agree (1.01 is the aim)"
    return (
        f"The {results.config.chains} NUTS chains of {results.config.chain_draws} draws have an "
        f"R-hat of at most {r_hat:.2f} over the log likelihoods of the points: {verdict}"
    )


# ------------------------------------------------------------------------------------- figures


def figures(results: Results[Any]) -> Iterator[Figure]:
    """Draw the figures, from the results alone."""
    yield _bases_figure(results)
    yield _net_figure(results)
    known = set(results.config.guides) - {"map"}
    yield far_figure(results, _net_far(results) if known else _bases_far(results))
    yield law_figure(results)
    yield choice_figure(results)
    yield plane_figure(results)


@house_style()
def _bases_figure(results: Results[Any]) -> Figure:
    made, axes = figure(2, 2, height=5.4, sharex=True, sharey="row")
    for (above, below), (name, style) in zip(axes.T, BASES.items(), strict=True):
        band = _band(results, f"{name}-exact")
        _panel(results, f"{name}-exact", "exact", above)
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
        _bases_far(results),
        "The exact posterior of two bases. Above, the predictive mean with 95 % intervals; below, "
        "the predictive variance in its two parts. Outside the training range the Gaussian bumps "
        "vanish and take the epistemic variance with them; the polynomial leaves the panel.",
        made,
    )


def _panel(results: Results[Any], row: str, guide: str, ax: Axes) -> None:
    """One panel of bands on the labs' prediction range."""
    plot_band(_band(results, row), ax=ax, color=guide_style(guide).color)
    plot_data(results.arrays["x"], results.arrays["y"], ax=ax)
    mark_training_range(results.arrays["x"], ax=ax)
    ax.set(xlim=NEAR, ylim=(-5, 6))


@house_style()
def _net_figure(results: Results[Any]) -> Figure:
    guides = results.config.guides
    made, axes, used = panels(len(guides), most=5, height=2.0, sharex=True, sharey=True)
    for ax, guide in zip(used, guides, strict=True):
        _panel(results, f"mlp-{guide}", guide, ax)
        nll = _metric(results, guide, "nll")
        ax.set_title(f"{guide_style(guide).label}\nNLL {number(nll, '.2f')}", fontsize=9)
    label_outside(axes, len(guides), x="x", y="y")
    band_legend(made)
    return Figure(
        "net-by-guide",
        _spread(results),
        "The same net, prior and data under every guide: predictive mean with 95 % intervals, dark "
        "for the function alone, light for a new observation; NLL in nats per fresh point of the "
        "training range.",
        made,
    )
