"""Maps on the plane and confidence curves: what is drawn is what was given."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from probml_tp.guides.recipes import RECIPES
from probml_tp.plots.classification import (
    CLASS_COLORS,
    confidence_panels,
    map_panels,
    plot_boundary,
    plot_confidence,
    plot_labelled_points,
    plot_mutual_information,
    plot_probability,
    plot_variation_ratio,
)
from probml_tp.plots.style import guide_style

EXTENT = np.array([-2.0, 2.0, -1.0, 1.0])


@pytest.fixture
def ax():
    return Figure().subplots()


@pytest.fixture
def slope() -> np.ndarray:
    """Probabilities that rise from left to right, on 5 rows and 9 columns."""
    return np.tile(np.linspace(0.0, 1.0, 9), (5, 1))


@pytest.mark.parametrize(
    ("plot", "high"),
    [
        (plot_probability, 1.0),
        (plot_mutual_information, np.log(2)),
        (plot_variation_ratio, 0.5),
    ],
)
def test_a_map_shows_its_values_on_the_whole_scale(plot, high, slope, ax):
    assert plot(slope, extent=EXTENT, ax=ax) is ax
    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array(), slope)
    assert image.get_extent() == [-2.25, 2.25, -1.25, 1.25]  # the grid's points are cell centres
    assert (*ax.get_xlim(), *ax.get_ylim()) == tuple(EXTENT)
    assert image.get_clim() == pytest.approx((0.0, high))
    assert image.origin == "lower"


def test_the_boundary_is_where_the_classes_are_even(slope, ax):
    plot_boundary(slope, extent=EXTENT, ax=ax)
    points = np.concatenate([path.vertices for path in ax.collections[0].get_paths()])
    np.testing.assert_allclose(points[:, 0], 0.0, atol=1e-12)
    assert points[:, 1].min() == -1
    assert points[:, 1].max() == 1


def test_no_boundary_where_one_class_wins_everywhere(ax):
    plot_boundary(np.full((3, 3), 0.9), extent=EXTENT, ax=ax)
    assert len(ax.collections) == 0


def test_points_have_the_colours_of_their_class(ax):
    x, y = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]]), np.array([0, 1, 1])
    plot_labelled_points(x, y, ax=ax)
    for label, (points, color) in enumerate(zip(ax.collections, CLASS_COLORS, strict=True)):
        np.testing.assert_array_equal(points.get_offsets(), x[y == label])
        assert to_hex(points.get_facecolor()[0]) == color


def test_a_confidence_curve_is_in_per_cent_and_in_the_guides_style(ax):
    plot_confidence({"laplace": np.array([0.5, 0.75])}, at=np.array([0.0, 3.0]), ax=ax)
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xydata(), [[0, 50], [3, 75]])
    assert (line.get_color(), line.get_label()) == (guide_style("laplace").color, "Laplace")


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (4, (1, 4)), (6, (2, 3)), (7, (2, 4))])
def test_map_panels_have_one_panel_a_guide_and_one_colour_bar(count, shape, slope):
    guides = list(RECIPES)[:count]
    seen = []
    made = map_panels(
        dict.fromkeys(guides, slope),
        extent=EXTENT,
        plot=plot_probability,
        label="Probability of class 1",
        decorate=lambda guide, ax: seen.append((guide, ax)),
    )
    *panels, bar = made.axes
    assert [guide for guide, _ in seen] == guides
    assert len(panels) == shape[0] * shape[1]
    assert [ax.get_title() for ax in panels if ax.get_visible()] == [
        guide_style(guide).label for guide in guides
    ]
    assert bar.get_ylabel() == "Probability of class 1"
    made.draw_without_rendering()
    lowest = {ax.get_subplotspec().colspan.start: ax for ax in panels if ax.get_visible()}
    assert all(ax.get_xlabel() == "$x_1$" for ax in lowest.values())


def test_confidence_panels_name_axes_units_and_guides():
    curve = {"map": np.ones(3), "nuts": np.full(3, 0.9)}
    made = confidence_panels(
        curve, curve, radii=np.arange(3.0), angles=np.arange(3.0), data_radius=1.0
    )
    left, right = made.axes
    assert left.get_xlabel() == "Distance from the centre of the data (units of $x$)"
    assert left.get_ylabel() == "Confidence (%)"
    assert right.get_xlabel() == "Direction (degrees)"
    (legend,) = made.legends
    assert [text.get_text() for text in legend.get_texts()] == ["data", "MAP", "NUTS"]


def test_drawing_leaves_global_settings_alone(slope):
    before = dict(mpl.rcParams)
    map_panels(
        {"map": slope},
        extent=EXTENT,
        plot=plot_probability,
        label="p",
        decorate=lambda guide, ax: None,
    )
    assert dict(mpl.rcParams) == before
