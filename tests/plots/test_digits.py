"""Panels of images with their votes, entropies of hits and mistakes, losses."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from probml_tp.plots.digits import (
    OTHER,
    RIGHT,
    WRONG,
    VotedImages,
    entropy_panels,
    plot_entropy,
    plot_image,
    plot_votes,
    vote_panels,
)
from probml_tp.plots.style import guide_style
from probml_tp.plots.training import loss_panels


@pytest.fixture
def ax():
    return Figure().subplots()


def bars(ax) -> list[tuple[float, str]]:
    return [(bar.get_height(), to_hex(bar.get_facecolor())) for bar in ax.patches]


def test_votes_are_shares_and_the_true_class_is_blue(ax):
    assert plot_votes(np.array([1, 0, 3]), label=2, ax=ax) is ax
    assert bars(ax) == [(25, OTHER), (0, OTHER), (75, RIGHT.lower())]


def test_a_wrong_majority_is_orange(ax):
    plot_votes(np.array([6, 0, 4]), label=2, ax=ax)
    assert bars(ax) == [(60, WRONG.lower()), (0, OTHER), (40, RIGHT.lower())]


def test_an_image_is_drawn_as_it_is(ax):
    image = np.arange(784, dtype=np.uint8).reshape(28, 28)
    plot_image(image, ax=ax)
    np.testing.assert_array_equal(ax.images[0].get_array(), image)
    assert ax.images[0].get_clim() == (0, 255)


def group(heading: str, size: int) -> VotedImages:
    return VotedImages(
        heading,
        images=np.zeros((size, 28, 28), dtype=np.uint8),
        labels=np.arange(size) % 2,
        votes=np.tile([3, 7], (size, 1)),
    )


def test_panels_show_every_image_once_under_its_true_class():
    made = vote_panels([group("Most", 3), group("Least", 5)], classes=["cat", "dog"], columns=4)
    first, second = made.subfigs
    assert (first.get_suptitle(), second.get_suptitle()) == ("Most", "Least")
    for part, size in ((first, 3), (second, 5)):
        shown = [ax for ax in part.axes if ax.images]
        assert [ax.get_title() for ax in shown] == [
            f"true: {['cat', 'dog'][i % 2]}" for i in range(size)
        ]
        assert sum(bool(ax.patches) for ax in part.axes) == size
    (legend,) = made.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["true class", "wrong majority", "other votes"]
    made.draw_without_rendering()


def test_entropies_are_shares_of_each_group(ax):
    entropy = np.array([0.0, 0.01, 0.01, 1.0, 2.0])
    plot_entropy(entropy, np.array([True, True, True, True, False]), ax=ax)
    right, wrong = (patch for patch in ax.patches if patch.get_label() in ("right", "wrong"))
    assert right.get_data().values.sum() == pytest.approx(100)
    assert right.get_data().values[0] == 25  # an entropy of 0 stands at the left edge
    assert wrong.get_data().values.max() == 100
    assert ax.get_xscale() == "log"


def test_entropies_without_a_mistake_are_drawn():
    entropy, correct = np.array([0.1, 0.2]), np.array([True, True])
    made = entropy_panels({"map": entropy}, {"map": correct})
    assert made.axes[0].get_title() == "MAP\n0 wrong"
    assert made.axes[0].get_xlabel() == "Predictive entropy (nats)"
    made.draw_without_rendering()


def test_losses_have_a_panel_a_guide_on_whole_epochs():
    made = loss_panels({"map": np.array([2.0, 1.0, 0.5]), "mean-field": np.array([5.0, 4.0, 3.0])})
    assert [ax.get_title() for ax in made.axes] == ["MAP", "Mean-field"]
    (line,) = made.axes[1].lines
    np.testing.assert_array_equal(line.get_xydata(), [[1, 5], [2, 4], [3, 3]])
    assert line.get_color() == guide_style("mean-field").color
    assert made.axes[0].get_ylabel() == "Loss (nats/point)"
    assert all(tick == round(tick) for tick in made.axes[0].get_xticks())
