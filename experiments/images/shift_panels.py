"""Figures of classifiers under distribution shift: metrics against severity, rotation, images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from probml_tp.plots.digits import WRONG, plot_image
from probml_tp.plots.style import WIDTH, guide_style, house_style, panels, shared_legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]

Curve = tuple[Array, "tuple[Array, Array] | None"]
"""Values, and the lower and upper end of a band around them if there is one."""

FIRST_CLASS = "#0072B2"
OTHER_CLASSES = ("#D55E00", "#009E73", "#CC79A7", "#E69F00")
NO_CLASS = "#b9bec6"
"""Colours of the true class, of the most probable others, and of the rest."""


def plot_shift_curve(
    x: Array, curve: Curve, *, guide: str, ax: Axes, offset: float | None = None
) -> Axes:
    """Draw how a metric of one guide changes along a shift."""
    style, (values, band) = guide_style(guide), curve
    x = x + (offset or 0.0)
    if band is not None and offset is None:
        ax.fill_between(x, *band, color=style.color, alpha=0.12, linewidth=0)
    elif band is not None:
        ax.vlines(x, *band, color=style.color, alpha=0.45, linewidth=1.6)
    ax.plot(x, values, **vars(style), markersize=4)
    return ax


@house_style()
def curve_panels(
    x: Array,
    curves: Mapping[str, Mapping[str, Curve]],
    *,
    label: str,
    ticks: Sequence[float],
    dodge: float | None = None,
) -> Figure:
    """Draw several metrics of every guide along a shift, one panel a metric."""
    made, _, used = panels(len(curves), most=3, height=2.5)
    for ax, (heading, by_guide) in zip(used, curves.items(), strict=True):
        for place, (guide, curve) in enumerate(by_guide.items()):
            offset = None if dodge is None else dodge * (place - (len(by_guide) - 1) / 2)
            plot_shift_curve(x, curve, guide=guide, ax=ax, offset=offset)
        ax.set(xlabel=label, title=heading, xticks=list(ticks))
    shared_legend(made, used)
    return made


def class_colors(probs: Sequence[Array], *, label: int) -> dict[int, str]:
    """Choose colours for the classes that some guide holds most probable at some angle."""
    highest = np.max([part.mean(1).max(0) for part in probs], axis=0)
    others = [int(c) for c in np.argsort(-highest, kind="stable") if c != label]
    return {label: FIRST_CLASS, **dict(zip(others, OTHER_CLASSES, strict=False))}


def plot_probability_draws(
    angles: Array, probs: Array, *, colors: Mapping[int, str], names: Sequence[str], ax: Axes
) -> Axes:
    """Draw the class probabilities of each draw as an image turns, with their means."""
    draws, classes = probs.shape[1:]
    step = float(np.diff(angles).min()) if len(angles) > 1 else 1.0
    spread = np.linspace(-0.25, 0.25, draws) * step if draws > 1 else np.zeros(1)
    x, few = (angles[:, None] + spread).ravel(), draws <= 10
    look: dict[str, Any] = {"s": 14 if few else 4, "alpha": 0.8 if few else 0.35, "linewidths": 0}
    for c in sorted(range(classes), key=lambda c: c in colors):
        ax.scatter(x, probs[..., c].ravel(), color=colors.get(c, NO_CLASS), **look)
    for c, color in colors.items():
        ax.plot(angles, probs[..., c].mean(1), color=color, label=names[c])
    ax.set_ylim(-0.03, 1.03)
    return ax


def plot_image_strip(angles: Array, images: Array, *, ax: Axes) -> Axes:
    """Draw an image at every angle, each above its angle on the x axis."""
    half = float(np.diff(angles).min()) / 2 if len(angles) > 1 else 0.5
    ax.imshow(
        np.concatenate(list(images), axis=1),
        cmap="gray_r",
        vmin=0,
        vmax=255,
        extent=(float(angles[0]) - half, float(angles[-1]) + half, 0, 1),
        aspect="auto",
    )
    ax.set_box_aspect(1 / len(angles))
    ax.set_axis_off()
    return ax


@house_style()
def turning_panels(
    angles: Array, images: Array, probs: Mapping[str, Array], *, label: int, names: Sequence[str]
) -> Figure:
    """Draw the class probabilities of each guide's draws as one image turns, below the image."""
    from matplotlib.figure import Figure

    columns = min(2, len(probs))
    rows = -(-len(probs) // columns)
    strip = 1.5 * WIDTH / columns / len(angles)
    made = Figure(figsize=(WIDTH, strip + 2.2 * rows + 0.6), layout="constrained")
    heights = [strip, *[2.2] * rows]
    axes = made.subplots(1 + rows, columns, height_ratios=heights, sharex=True, squeeze=False)
    colors = class_colors(list(probs.values()), label=label)
    for ax in axes[0]:
        plot_image_strip(angles, images, ax=ax)
    used = list(axes[1:].flat[: len(probs)])
    for ax, (guide, values) in zip(used, probs.items(), strict=True):
        plot_probability_draws(angles, values, colors=colors, names=names, ax=ax)
        ax.set(title=guide_style(guide).label, xlabel="Rotation (degrees)")
        ax.set_xticks(angles[:: max(1, len(angles) // 7)])
        ax.xaxis.set_tick_params(labelbottom=True)
    for ax in axes[1:, 0]:
        ax.set_ylabel("Class probability")
    for ax in axes[1:].flat[len(probs) :]:
        ax.set_visible(False)
    shared_legend(made, used[:1]).set_title(f"class (true: {names[label]})")
    return made


@house_style()
def contact_sheet(
    images: Array, misread: Array, *, rows: Sequence[str], columns: Sequence[str]
) -> Figure:
    """Draw one image under every corruption at every severity; misread ones have a frame."""
    from matplotlib.figure import Figure

    blocks = 2 if len(rows) > 4 else 1
    per_block = -(-len(rows) // blocks)
    cell = min(0.8, (WIDTH / blocks - 1.3) / len(columns))
    width = blocks * (1.3 + cell * len(columns))
    made = Figure(figsize=(width, per_block * cell * 1.05 + 0.4), layout="constrained")
    parts = made.subfigures(1, blocks, squeeze=False)[0]
    for block, part in enumerate(parts):
        chosen = range(block * per_block, min((block + 1) * per_block, len(rows)))
        axes = part.subplots(per_block, len(columns), squeeze=False)
        for place, i in enumerate(chosen):
            for j, ax in enumerate(axes[place]):
                _draw_framed(images[i, j], misread=misread[i, j] >= 0.5, ax=ax)
                if place == 0:
                    ax.set_title(columns[j], fontsize=8)
            axes[place, 0].set_ylabel(rows[i], rotation=0, ha="right", va="center", fontsize=8)
        for ax in axes[len(chosen) :].flat:
            ax.set_visible(False)
    return made


def _draw_framed(image: Array, *, misread: bool, ax: Axes) -> None:
    plot_image(image, ax=ax)
    ax.set_axis_on()
    ax.grid(visible=False)
    ax.set(xticks=[], yticks=[])
    color, width = (WRONG, 2) if misread else ("#d5d8dc", 0.6)
    ax.spines[:].set(visible=True, color=color, linewidth=width)
