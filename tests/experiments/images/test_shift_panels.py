"""Curves along a shift, a turning image, heat maps and contact sheets."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from probml_tp.experiments.images.shift_panels import (
    FIRST_CLASS,
    class_colors,
    contact_sheet,
    curve_panels,
    plot_image_strip,
    plot_probability_draws,
    plot_shift_curve,
    turning_panels,
)
from probml_tp.plots.digits import WRONG
from probml_tp.plots.style import guide_style

X = np.array([0.0, 1.0, 5.0])
VALUES = np.array([0.9, 0.8, 0.5])
BAND = (VALUES - 0.1, VALUES + 0.1)


@pytest.fixture
def ax():
    return Figure().subplots()


def test_a_curve_has_the_guides_style_and_a_shaded_band(ax):
    assert plot_shift_curve(X, (VALUES, BAND), guide="map", ax=ax) is ax
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xydata(), np.stack([X, VALUES], 1))
    assert (line.get_color(), line.get_label()) == (guide_style("map").color, "MAP")
    (area,) = ax.collections
    corners = area.get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == pytest.approx((0.4, 1.0))


def test_an_offset_turns_the_band_into_bars_and_moves_all(ax):
    plot_shift_curve(X, (VALUES, BAND), guide="map", ax=ax, offset=0.2)
    np.testing.assert_allclose(ax.lines[0].get_xdata(), X + 0.2)
    (bars,) = ax.collections
    np.testing.assert_allclose(bars.get_segments()[2], [[5.2, 0.4], [5.2, 0.6]])


def test_a_curve_without_a_band(ax):
    plot_shift_curve(X, (VALUES, None), guide="map", ax=ax)
    assert not ax.collections


def test_panels_are_one_a_metric_with_guides_side_by_side():
    curves = {
        "Accuracy (%)": {"map": (VALUES, BAND), "mc-dropout": (VALUES, BAND)},
        "Mutual information (nats)": {"mc-dropout": (VALUES, BAND)},
    }
    made = curve_panels(X, curves, label="Severity", ticks=[0, 1, 5], dodge=0.1)
    first, second = made.axes
    assert [ax.get_title() for ax in made.axes] == list(curves)
    assert [line.get_xdata()[0] for line in first.lines] == pytest.approx([-0.05, 0.05])
    assert second.lines[0].get_xdata()[0] == 0
    assert {ax.get_xlabel() for ax in made.axes} == {"Severity"}
    (legend,) = made.legends
    assert [text.get_text() for text in legend.get_texts()] == ["MAP", "MC dropout"]
    made.draw_without_rendering()


@pytest.fixture
def probs() -> np.ndarray:
    """Three angles, two draws, four classes: class 2 gives way to class 0."""
    means = np.array([[0.0, 0.1, 0.9, 0.0], [0.5, 0.0, 0.5, 0.0], [0.8, 0.0, 0.2, 0.0]])
    wobble = np.array([-0.1, 0.0, 0.1, 0.0])
    return np.stack([means + wobble, means - wobble], 1)


def test_the_true_class_comes_first_then_the_most_probable_others(probs):
    colors = class_colors([probs], label=2)
    assert list(colors)[:3] == [2, 0, 1] and colors[2] == FIRST_CLASS
    assert len(set(colors.values())) == len(colors)


def test_draws_are_points_and_their_means_lines(probs, ax):
    colors = {2: "#0072B2", 0: "#D55E00"}
    angles = np.array([0, 90, 180])
    plot_probability_draws(angles, probs, colors=colors, names=list("abcd"), ax=ax)
    assert [line.get_label() for line in ax.lines] == ["c", "a"]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.9, 0.5, 0.2])
    assert len(ax.collections) == 4
    drawn = {to_hex(points.get_facecolor()[0]): points.get_offsets() for points in ax.collections}
    at = drawn["#d55e00"]
    np.testing.assert_allclose(at[:, 1], probs[..., 0].ravel())
    np.testing.assert_array_equal(np.rint(at[:, 0] / 90), np.repeat([0, 1, 2], 2))


def test_the_strip_has_every_image_above_its_angle(ax):
    images = np.arange(3, dtype=np.uint8)[:, None, None] * np.ones((3, 28, 28), dtype=np.uint8)
    plot_image_strip(np.array([0, 90, 180]), images, ax=ax)
    (shown,) = ax.images
    assert shown.get_extent() == [-45, 225, 0, 1]
    assert shown.get_array()[:, 28:56].tolist() == np.ones((28, 28)).tolist()


@pytest.mark.parametrize("guides", [["map"], ["map", "mc-dropout", "swag"]])
def test_turning_panels_have_a_strip_and_a_panel_a_guide(probs, guides):
    images = np.zeros((3, 28, 28), dtype=np.uint8)
    made = turning_panels(
        np.array([0, 90, 180]), images, dict.fromkeys(guides, probs), label=2, names=list("abcd")
    )
    titles = [ax.get_title() for ax in made.axes if ax.get_title()]
    assert titles == [guide_style(guide).label for guide in guides]
    assert made.legends[0].get_title().get_text() == "class (true: c)"
    made.draw_without_rendering()


@pytest.mark.parametrize(("count", "blocks"), [(3, 1), (5, 2)])
def test_the_sheet_shows_every_cell_and_frames_what_most_guides_misread(count, blocks):
    images = np.zeros((count, 2, 28, 28), dtype=np.uint8)
    misread = np.zeros((count, 2))
    misread[1, 1], misread[2, 1] = 0.5, 0.49
    names = [f"row {i}" for i in range(count)]
    made = contact_sheet(images, misread, rows=names, columns=["clean", "5"])
    assert len(made.subfigs) == blocks
    shown = [ax for part in made.subfigs for ax in part.axes if ax.images]
    assert [ax.get_ylabel() for ax in shown[::2]] == names
    framed = [ax for ax in shown if to_hex(ax.spines["left"].get_edgecolor()) == WRONG.lower()]
    assert framed == [shown[3]]
    made.draw_without_rendering()
