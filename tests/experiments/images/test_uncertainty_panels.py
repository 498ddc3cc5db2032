"""Images in the order of measures, and single images draw by draw."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from probml_tp.experiments.images.uncertainty_panels import (
    DrawnImage,
    RankedImages,
    drawn_panels,
    plot_violins,
    ranked_panels,
)
from probml_tp.plots.digits import OTHER, RIGHT, WRONG

PROBS = np.array([[0.5, 0.2, 0.295, 0.005], [0.7, 0.1, 0.2, 0.0], [0.6, 0.3, 0.1, 0.0]])


@pytest.fixture
def ax():
    return Figure().subplots()


def test_bars_are_means_and_a_wrong_top_is_orange():
    row = DrawnImage("", "", image=np.zeros((28, 28)), label=1, probs=PROBS)
    ax = drawn_panels([row], classes=["a", "b", "c", "d"]).axes[1]
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([60, 20, 59.5 / 3, 0.5 / 3])
    colors = [to_hex(bar.get_facecolor()) for bar in ax.patches]
    assert colors == [WRONG.lower(), RIGHT.lower(), OTHER, OTHER]


def test_violins_span_the_draws_of_the_classes_that_matter(ax):
    assert plot_violins(PROBS, label=0, ax=ax) is ax
    *bodies, medians = ax.collections
    assert [to_hex(body.get_facecolor()[0]) for body in bodies] == [RIGHT.lower(), OTHER, OTHER]
    for body, column in zip(bodies, 100 * PROBS.T[:3], strict=True):
        heights = body.get_paths()[0].vertices[:, 1]
        assert (heights.min(), heights.max()) == pytest.approx((column.min(), column.max()))
    heights = [segment[0, 1] for segment in medians.get_segments()]
    assert heights == pytest.approx([60, 20, 20])


def test_draws_that_all_say_the_same_are_drawn(ax):
    plot_violins(np.tile([1.0, 0.0], (5, 1)), label=0, ax=ax)
    ax.figure.draw_without_rendering()
    assert len(ax.collections) == 2  # one violin, the medians


def ranked(size: int) -> RankedImages:
    return RankedImages(
        images=np.zeros((size, 28, 28), dtype=np.uint8),
        labels=np.zeros(size, dtype=int),
        predicted=np.arange(size) % 2,
        values=np.array([0.0, 2e-7, 0.25, 1.5, 1.5])[:size],
    )


def test_measures_stand_side_by_side_with_their_values():
    groups = {
        heading: {measure: ranked(size) for measure in ("A (nats)", "B (share)")}
        for heading, size in (("Most certain", 3), ("Least certain", 5))
    }
    made = ranked_panels(groups, classes=["4", "9"], columns=4)
    headings = [part.get_suptitle() for part in made.subfigs]
    assert headings == [
        f"{heading}\n{measure}"
        for heading in ("Most certain", "Least certain")
        for measure in ("A (nats)", "B (share)")
    ]
    shown = [ax for ax in made.subfigs[2].axes if ax.get_visible()]
    assert [ax.get_title() for ax in shown] == ["4", "4 → 9", "4", "4 → 9", "4"]
    assert [ax.title.get_color() for ax in shown[:2]] == [RIGHT, WRONG]
    assert [ax.texts[0].get_text() for ax in shown] == ["0", "10⁻⁷", "0.25", "1.50", "1.50"]
    (legend,) = made.legends
    assert len(legend.get_texts()) == 2
    made.draw_without_rendering()


def test_long_class_names_stand_below_each_other():
    made = ranked_panels({"": {"A": ranked(2)}}, classes=["Ankle boot", "Sneaker"])
    titles = [ax.get_title() for ax in made.subfigs[0].axes]
    assert titles[:2] == ["Ankle boot", "Ankle boot →\nSneaker"]


def test_each_image_has_a_row_of_four_panels():
    rows = [
        DrawnImage(heading, "VR 0.1", image=np.zeros((28, 28)), label=0, probs=PROBS)
        for heading in ("Least certain", "Most certain hit")
    ]
    made = drawn_panels(rows, classes=["a", "b", "c", "d"])
    axes = np.reshape(made.axes, (2, 4))
    assert [ax.get_title() for ax in axes[:, 0]] == ["Least certain", "Most certain hit"]
    assert [ax.get_ylabel() for ax in axes[1, 1:]] == [
        "Probability (%)",
        "Draws (%)",
        "Probability (%)",
    ]
    votes = [bar.get_height() for bar in axes[0, 2].patches]
    assert votes == [100, 0, 0, 0]
    assert [tick.get_text() for tick in axes[1, 3].get_xticklabels()] == ["a", "b", "c", "d"]
    assert axes[1, 3].get_xlabel() == "Class" and axes[0, 3].get_xlabel() == ""
    (legend,) = made.legends
    assert legend.get_texts()[0].get_text() == "true class"
    made.draw_without_rendering()
