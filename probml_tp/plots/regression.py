"""Figures of regression on one input: predictive bands, variances, and posteriors of two weights.

Every function draws arrays on axes and returns the axes, so that panels can be put together at
will. Experiments make the arrays; figures never look at a posterior.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from probml_tp.plots.style import DATA_COLOR, TRAINING_RANGE_COLOR, GuideStyle, house_style

if TYPE_CHECKING:
    from probml_tp.predictions.predictive import RegressionPredictive

__all__ = [
    "Band",
    "band_legend",
    "mark_limit",
    "mark_training_range",
    "plot_band",
    "plot_data",
    "plot_ellipse",
    "plot_normal_density",
    "plot_sample_density",
    "plot_variance_parts",
    "plot_weight_density",
]

Array = np.ndarray[Any, np.dtype[np.float64]]

TOTAL_ALPHA, EPISTEMIC_ALPHA = 0.18, 0.38
NEUTRAL = "#4d4d4d"
ALEATORIC_COLOR, EPISTEMIC_COLOR = "#c9ccd1", "#7fb2d6"


@dataclass(frozen=True)
class Band:
    r"""A predictive distribution along one input, as it is drawn; all of shape ``(G,)``.

    Args:
        x: the inputs.
        mean: :math:`E[y]`, in the units of ``y``.
        lower: lower end of the central interval of new observations.
        upper: its upper end.
        epistemic_lower: lower end of the central interval of the function, without noise.
        epistemic_upper: its upper end.
        epistemic_variance: in squared units of ``y``.
        aleatoric_variance: in squared units of ``y``.
    """

    x: Array
    mean: Array
    lower: Array
    upper: Array
    epistemic_lower: Array
    epistemic_upper: Array
    epistemic_variance: Array
    aleatoric_variance: Array

    @classmethod
    def from_predictive(
        cls, x: torch.Tensor, predictive: RegressionPredictive, *, level: float = 0.95
    ) -> Band:
        """Take from a predictive distribution what is drawn.

        Args:
            x: the inputs ``(G, 1)``.
            predictive: what was predicted there, its moments exact or its outputs kept.
            level: the probability of the central intervals.

        Returns:
            The band.
        """
        lower, upper = predictive.interval(level)
        inner_lower, inner_upper = _function_interval(predictive, level)
        tensors = (
            x[:, 0], predictive.mean, lower, upper, inner_lower, inner_upper,
            predictive.epistemic_variance, predictive.aleatoric_variance,
        )  # fmt: skip
        return cls(*(tensor.detach().double().cpu().numpy() for tensor in tensors))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], prefix: str) -> Band:
        """Read back what :meth:`to_arrays` gave.

        Args:
            arrays: an experiment's arrays.
            prefix: the band's.

        Returns:
            The band.
        """
        return cls(**{field.name: arrays[f"{prefix}.{field.name}"] for field in fields(cls)})

    def to_arrays(self, prefix: str) -> dict[str, Array]:
        """Give the arrays to save, their names beginning with ``prefix`` and a dot."""
        return {f"{prefix}.{name}": value for name, value in vars(self).items()}

    @property
    def variance(self) -> Array:
        """Epistemic plus aleatoric variance."""
        return self.epistemic_variance + self.aleatoric_variance


def _function_interval(
    predictive: RegressionPredictive, level: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The central interval of the function's values: of the draws, else of the normal."""
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=predictive.mean.dtype)
    if predictive.component_means is None:
        z = torch.special.ndtri(tails)
        sd = predictive.epistemic_variance.sqrt()
        return predictive.mean + z[0] * sd, predictive.mean + z[1] * sd
    low, high = torch.quantile(predictive.component_means, tails, dim=0)
    return low, high


def plot_band(band: Band, *, ax: Axes, color: str = NEUTRAL) -> Axes:
    """Draw the mean, the interval of new observations and, inside it, that of the function.

    Args:
        band: the predictive distribution.
        ax: where to draw.
        color: of the line and, lighter, of both intervals.

    Returns:
        ``ax``.
    """
    ax.fill_between(band.x, band.lower, band.upper, color=color, alpha=TOTAL_ALPHA, linewidth=0)
    ax.fill_between(
        band.x,
        band.epistemic_lower,
        band.epistemic_upper,
        color=color,
        alpha=EPISTEMIC_ALPHA,
        linewidth=0,
    )
    ax.plot(band.x, band.mean, color=color)
    ax.set_xlim(band.x[0], band.x[-1])
    return ax


def plot_data(x: Array, y: Array, *, ax: Axes) -> Axes:
    """Draw the observations.

    Args:
        x: inputs ``(N,)``.
        y: targets ``(N,)``.
        ax: where to draw.

    Returns:
        ``ax``.
    """
    ax.plot(x, y, ".", color=DATA_COLOR, markersize=3.5, markeredgewidth=0, zorder=3)
    return ax


def mark_training_range(x: Array, *, ax: Axes) -> Axes:
    """Mark the range of the training inputs by a bar along the bottom of the axes.

    Args:
        x: training inputs ``(N,)``, possibly on several intervals.
        ax: where to draw.

    Returns:
        ``ax``.
    """
    for low, high in intervals(x):
        ax.axvspan(low, high, ymax=0.025, color=TRAINING_RANGE_COLOR, linewidth=0, zorder=4)
    return ax


def mark_limit(value: float, label: str, *, ax: Axes) -> Axes:
    """Mark a limit that curves tend to, by a dotted horizontal line.

    Args:
        value: the limit.
        label: what it is, for the legend.
        ax: where to draw.

    Returns:
        ``ax``.
    """
    ax.axhline(value, color=DATA_COLOR, linestyle=":", linewidth=1.2, label=label)
    return ax


def intervals(x: Array, *, gap: float = 0.25) -> list[tuple[float, float]]:
    """The intervals that inputs lie on: they are split where neighbours lie far apart.

    Args:
        x: inputs ``(N,)``.
        gap: the distance, as a share of the whole range, from which two neighbours are apart.

    Returns:
        Lower and upper end of each interval, in order.

    Example:
        >>> intervals(np.array([3.0, 1.0, -1.0, -2.0, -3.0, 2.0]), gap=0.3)
        [(-3.0, -1.0), (1.0, 3.0)]
    """
    ordered = np.sort(x)
    breaks = np.flatnonzero(np.diff(ordered) > gap * (ordered[-1] - ordered[0])) + 1
    return [(float(part[0]), float(part[-1])) for part in np.split(ordered, breaks)]


def band_legend(figure: Figure, *, level: float = 0.95) -> Legend:
    """One legend for panels of bands of any colour, below them.

    Args:
        figure: the figure.
        level: the probability of the intervals.

    Returns:
        The legend.
    """
    percent = f"{level:.0%}".replace("%", " %")
    handles = [
        Line2D([], [], color=DATA_COLOR, marker=".", markersize=6, linestyle="", label="data"),
        Line2D([], [], color=NEUTRAL, label="predictive mean"),
        Patch(color=NEUTRAL, alpha=EPISTEMIC_ALPHA + TOTAL_ALPHA, linewidth=0,
              label=f"{percent} of functions (epistemic)"),
        Patch(color=NEUTRAL, alpha=TOTAL_ALPHA, linewidth=0,
              label=f"{percent} of new observations"),
        Patch(color=TRAINING_RANGE_COLOR, linewidth=0, label="training range"),
    ]  # fmt: skip
    with house_style():
        return figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def plot_variance_parts(band: Band, *, ax: Axes) -> Axes:
    """Stack the epistemic variance on the aleatoric one.

    Args:
        band: the predictive distribution.
        ax: where to draw.

    Returns:
        ``ax``, its artists labelled.
    """
    noise = band.aleatoric_variance
    ax.fill_between(band.x, 0, noise, color=ALEATORIC_COLOR, linewidth=0, label="aleatoric: noise")
    ax.fill_between(
        band.x,
        noise,
        band.variance,
        color=EPISTEMIC_COLOR,
        linewidth=0,
        label="epistemic: weights",
    )
    ax.set_xlim(band.x[0], band.x[-1])
    ax.set_ylim(bottom=0)
    return ax


def plot_weight_density(w0: Array, w1: Array, log_density: Array, *, ax: Axes) -> Axes:
    """Draw the density of two weights as shades of its share of the maximum.

    Args:
        w0: values of the first weight, evenly spaced ``(G,)``.
        w1: values of the second weight, evenly spaced ``(H,)``.
        log_density: up to a constant, in nats, ``(H, G)``.
        ax: where to draw.

    Returns:
        ``ax``.
    """
    ax.imshow(
        np.exp(log_density - log_density.max()),
        extent=(w0[0], w0[-1], w1[0], w1[-1]),
        origin="lower",
        cmap="Blues",
        vmax=1.15,
        interpolation="bilinear",
    )
    ax.grid(visible=False)
    return ax


def plot_ellipse(
    mean: Array, covariance: Array, *, ax: Axes, style: GuideStyle, level: float = 0.95
) -> Axes:
    r"""Draw the ellipse of a normal that holds ``level`` of its probability.

    :math:`\{m + L u : \|u\|^2 = -2\log(1 - \mathrm{level})\}`, :math:`LL^\top` the covariance.

    Args:
        mean: ``(2,)``.
        covariance: ``(2, 2)``, zero for a point mass, which is drawn as its marker.
        ax: where to draw.
        style: the guide's.
        level: the probability inside.

    Returns:
        ``ax``.
    """
    if not covariance.any():
        ax.plot(*mean, style.marker, color=style.color, label=style.label)
        return ax
    angle = np.linspace(0, 2 * np.pi, 200)
    circle = np.sqrt(-2 * np.log(1 - level)) * np.stack([np.cos(angle), np.sin(angle)])
    curve = mean[:, None] + np.linalg.cholesky(covariance) @ circle
    ax.plot(*curve, color=style.color, linestyle=style.linestyle, label=style.label)
    return ax


def plot_normal_density(mean: float, sd: float, x: Array, *, ax: Axes, style: GuideStyle) -> Axes:
    """Draw a normal density; a point mass as a vertical line.

    Args:
        mean: its mean.
        sd: its standard deviation, 0 for a point mass.
        x: where to draw it, ``(G,)``.
        ax: where to draw.
        style: the guide's.

    Returns:
        ``ax``.
    """
    look: dict[str, Any] = {"color": style.color, "linestyle": style.linestyle}
    if sd == 0:
        ax.axvline(mean, label=style.label, **look)
        return ax
    density = np.exp(-0.5 * ((x - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))
    ax.plot(x, density, label=style.label, **look)
    return ax


def plot_sample_density(
    draws: Array, *, ax: Axes, style: GuideStyle, bins: int | None = None
) -> Axes:
    """Draw a density known by draws, as a histogram.

    Args:
        draws: ``(S,)``.
        ax: where to draw.
        style: the guide's.
        bins: how many; default: as many as Scott's rule says.

    Returns:
        ``ax``.
    """
    rule = "scott" if bins is None else bins
    ax.hist(
        draws,
        bins=rule,
        density=True,
        histtype="stepfilled",
        color=style.color,
        alpha=0.3,
        linewidth=0,
        label=style.label,
    )
    return ax
