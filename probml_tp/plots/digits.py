"""Figures of images and of what the draws of a posterior say about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from probml_tp.plots.style import (
    WIDTH,
    guide_style,
    house_style,
    label_outside,
    panels,
    shared_legend,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.patches import Patch

__all__ = [
    "VotedImages",
    "class_handles",
    "entropy_panels",
    "plot_entropy",
    "plot_image",
    "plot_votes",
    "vote_panels",
]

Array = np.ndarray[Any, Any]

RIGHT, WRONG, OTHER = "#0072B2", "#D55E00", "#b9bec6"
"""Colours of a right vote, of a wrong majority, and of all other votes."""

ENTROPY_BINS = np.logspace(-4, np.log10(2.5), 31)
"""Edges of the bins of predictive entropies, in nats; log 10 = 2.3 is the most for ten classes."""

CELL_HEIGHT = 1.75
HEADING_HEIGHT = 0.35


@dataclass(frozen=True)
class VotedImages:
    """A few images with the votes of a posterior's draws.

    Args:
        heading: what these images have in common.
        images: pixels ``(K, height, width)``.
        labels: true classes ``(K,)``.
        votes: how many draws have each class on top, ``(K, C)``.
    """

    heading: str
    images: Array
    labels: Array
    votes: Array


def plot_image(image: Array, *, ax: Axes) -> Axes:
    """Draw a grey-scale image, ink in black.

    Args:
        image: pixels ``(height, width)``.
        ax: where to draw.

    Returns:
        ``ax``.
    """
    ax.imshow(image, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
    ax.set_axis_off()
    return ax


def plot_votes(votes: Array, *, label: int, ax: Axes) -> Axes:
    """Draw the share of draws that vote for each class, the true class in blue.

    A majority for another class is orange.

    Args:
        votes: draws for each class, ``(C,)``.
        label: the true class.
        ax: where to draw.

    Returns:
        ``ax``.
    """
    colors = [OTHER] * len(votes)
    colors[int(votes.argmax())] = WRONG
    colors[label] = RIGHT
    ax.bar(range(len(votes)), 100 * votes / votes.sum(), color=colors, width=0.8)
    ax.set_ylim(0, 100)
    ax.set_xlim(-0.6, len(votes) - 0.4)
    ax.set_xticks(range(len(votes)))
    ax.tick_params(labelsize=6.5, length=0, pad=1.5)
    ax.grid(visible=False, axis="x")
    return ax


def class_handles(*, wrong: str, other: str) -> list[Patch]:
    """Legend entries of the colours of classes.

    Args:
        wrong: what a class in orange is.
        other: what classes in grey are.

    Returns:
        The entries, that of the true class first.
    """
    from matplotlib.patches import Patch

    keys = {"true class": RIGHT, wrong: WRONG, other: OTHER}
    return [Patch(color=color, label=label) for label, color in keys.items()]


@house_style()
def vote_panels(
    groups: Sequence[VotedImages], *, classes: Sequence[str], columns: int = 8
) -> Figure:
    """Draw groups of images, each image above the histogram of the votes for it.

    Args:
        groups: the groups, from top to bottom.
        classes: the names of the classes.
        columns: images a row.

    Returns:
        The figure.
    """
    from matplotlib.figure import Figure

    heights = [HEADING_HEIGHT + CELL_HEIGHT * -(-len(group.images) // columns) for group in groups]
    made = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    parts = made.subfigures(len(groups), 1, height_ratios=heights, squeeze=False)
    for group, part in zip(groups, parts[:, 0], strict=True):
        _draw_group(group, part, classes, columns)
    handles = class_handles(wrong="wrong majority", other="other votes")
    made.legend(handles=handles, loc="upper right", ncols=len(handles))
    return made


def _draw_group(group: VotedImages, part: SubFigure, classes: Sequence[str], columns: int) -> None:
    part.suptitle(group.heading, x=0.01, ha="left", fontsize=10)
    rows = -(-len(group.images) // columns)
    axes = part.subplots(2 * rows, columns, height_ratios=[1.6, 1] * rows, squeeze=False)
    cells = [
        (axes[2 * row, c], axes[2 * row + 1, c]) for row in range(rows) for c in range(columns)
    ]
    for k, (top, bottom) in enumerate(cells):
        if k >= len(group.images):
            top.set_visible(False)
            bottom.set_visible(False)
            continue
        label, votes = int(group.labels[k]), group.votes[k]
        plot_image(group.images[k], ax=top)
        top.set_title(f"true: {classes[label]}", fontsize=8, pad=2)
        plot_votes(votes, label=label, ax=bottom)
        if k % columns:
            bottom.set_yticklabels([])
        else:
            bottom.set_ylabel("Votes (%)", fontsize=7.5)


def plot_entropy(entropy: Array, correct: Array, *, ax: Axes) -> Axes:
    """Draw the distributions of predictive entropy over images classified rightly and wrongly.

    Args:
        entropy: in nats, ``(N,)``.
        correct: whether the predicted class is the true one, ``(N,)``.
        ax: where to draw.

    Returns:
        ``ax``, its x axis logarithmic.
    """
    for chosen, color, label in ((correct, RIGHT, "right"), (~correct, WRONG, "wrong")):
        inside = np.clip(entropy[chosen], ENTROPY_BINS[0], ENTROPY_BINS[-1])
        share = 100 * np.histogram(inside, ENTROPY_BINS)[0] / max(len(inside), 1)
        ax.stairs(share, ENTROPY_BINS, fill=True, color=color, alpha=0.3)
        ax.stairs(share, ENTROPY_BINS, color=color, linewidth=1.4, label=label)
    ax.set_xscale("log")
    ax.set_xlim(ENTROPY_BINS[0], ENTROPY_BINS[-1])
    ax.set_xlabel("Predictive entropy (nats)")
    return ax


@house_style()
def entropy_panels(entropy: Mapping[str, Array], correct: Mapping[str, Array]) -> Figure:
    """Draw the entropies of right and wrong predictions, one panel a guide.

    Args:
        entropy: guide to predictive entropy in nats, ``(N,)``.
        correct: guide to whether the predicted class is the true one, ``(N,)``.

    Returns:
        The figure.
    """
    made, axes, used = panels(len(entropy), most=4, height=2.1, sharex=True, sharey=True)
    for guide, ax in zip(entropy, used, strict=True):
        plot_entropy(entropy[guide], correct[guide], ax=ax)
        ax.set_title(
            f"{guide_style(guide).label}\n{int((~correct[guide]).sum())} wrong", fontsize=9
        )
    label_outside(axes, len(entropy), x="Predictive entropy (nats)", y="Share (%)")
    shared_legend(made, used[:1])
    return made
