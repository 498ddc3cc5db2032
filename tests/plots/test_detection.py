"""Figures of detection: what is drawn is what was given."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from probml_tp.plots.detection import (
    BINS,
    accepted_panels,
    distribution_panels,
    grid_panels,
    mistake_panels,
    plot_distribution,
    plot_grid,
)

TEMPERATURES, EPSILONS = (1.0, 1000.0), (0.0, 0.01, 0.02)


def axes():
    return Figure().subplots()


def test_differences_are_written_with_a_sign_and_bold_beyond_chance():
    estimate = np.array([[1.25, -0.5, 0.0], [2.0, -3.0, 0.1]])
    differences = np.stack([estimate, estimate - 1, estimate + 1], -1)
    ax = axes()
    plot_grid(differences, temperatures=TEMPERATURES, epsilons=EPSILONS, most=3.0, ax=ax)
    written = [(text.get_text(), text.get_fontweight()) for text in ax.texts]
    assert written == [
        ("+1.2", "bold"),
        ("−0.5", "normal"),
        ("+0.0", "normal"),
        ("+2.0", "bold"),
        ("−3.0", "bold"),
        ("+0.1", "normal"),
    ]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1", "1000"]


def test_the_maps_of_a_set_share_one_colour_scale():
    rng = np.random.default_rng(0)
    maps = {
        rival: {name: rng.normal(scale=scale, size=(2, 3, 3)) for name, scale in sets.items()}
        for rival, sets in {"MCP": {"a": 1.0, "b": 9.0}, "Entropy": {"a": 2.0, "b": 1.0}}.items()
    }
    made = grid_panels(maps, temperatures=TEMPERATURES, epsilons=EPSILONS)
    images = [ax.get_images()[0] for ax in made.axes]
    limits = [image.get_clim() for image in images]
    assert limits[0] == limits[1]
    assert limits[2] == limits[3] != limits[0]
    assert [ax.get_title() for ax in made.axes][:2] == ["a: ODIN − MCP", "a: ODIN − Entropy"]


@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_a_distribution_depends_on_ranks_alone(scale):
    rng = np.random.default_rng(1)
    inside, outside = rng.normal(size=50), rng.normal(size=30) - 1
    heights = []
    for transform in (lambda x: x, lambda x: scale * np.exp(x)):
        ax = axes()
        plot_distribution(transform(inside), transform(outside), ax=ax)
        heights.append([patch.get_height() for patch in ax.patches])
    assert heights[0] == heights[1]
    assert len(heights[0]) == 2 * (BINS - 1)


def test_ties_stand_in_the_middle_of_their_group():
    ax = axes()
    plot_distribution(np.zeros(10), np.zeros(10), ax=ax)
    tallest = max(ax.patches, key=lambda patch: patch.get_height())
    assert tallest.get_x() <= 0.5 <= tallest.get_x() + tallest.get_width()


def test_panels_have_one_legend_and_every_image_its_words():
    scores = {name: (np.arange(9.0), np.arange(5.0)) for name in ("MCP", "Energy")}
    made = distribution_panels(scores)
    assert [t.get_text() for t in made.legends[0].get_texts()] == ["in-distribution", "foreign"]
    images = np.zeros((3, 28, 28), dtype=np.uint8)
    made = mistake_panels(images, titles=["4, is 9", "1, is 7", "2, is 3"], columns=2)
    assert [ax.get_title() for ax in made.axes] == ["4, is 9", "1, is 7", "2, is 3", ""]
    made = accepted_panels({"KMNIST": images, "Noise": images[:2]})
    assert [ax.get_title(loc="left") for ax in made.axes] == ["KMNIST", "", "", "Noise", "", ""]
    assert [len(ax.get_images()) for ax in made.axes] == [1, 1, 1, 1, 1, 0]
