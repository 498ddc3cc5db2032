"""The style of figures: guides told apart by everyone, and no trace in global state."""

import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

import probml_tp.guides  # noqa: F401 - fills the registry
from probml_tp.guide import Guide
from probml_tp.guides.recipes import RECIPES
from probml_tp.plots.style import (
    WIDTH,
    figure,
    guide_style,
    house_style,
    shared_legend,
)

OKABE_ITO = {
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
}  # fmt: skip

TOL = {
    "#882255", "#661100", "#AA3377", "#332288", "#666633", "#222255", "#6699CC", "#88CCEE",
    "#225522",
}  # fmt: skip
"""Colours of Tol (2021, "Colour schemes"), once those of Okabe and Ito are spent."""

NOT_REGISTERED = {"nuts", "deep-ensemble", "multi-swag"} | {
    f"laplace-{kind}" for kind in ("kronecker", "diagonal", "last-layer")
}
"""What an empirical distribution or a mixture is called after what it is made of, and what
experiments call a Laplace guide of another structure than the full one."""

DEFICIENCIES = {
    "protanopia": [[0.152286, 1.052583, -0.204868],
                   [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968],
                     [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "none": np.eye(3).tolist(),
}  # fmt: skip
"""Machado, Oliveira & Fernandes (2009), severity 1, for linear RGB."""

JUST_NOTICEABLE = 0.02
"""A difference in OKLab that is only just seen."""

LMS = np.array([[0.4122214708, 0.5363325363, 0.0514459929],
                [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
LAB = np.array([[0.2104542553, 0.7936177850, -0.0040720468],
                [1.9779984951, -2.4285922050, 0.4505937099],
                [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip


def seen(color, deficiency):
    """A colour as it is perceived: OKLab coordinates (Ottosson 2020)."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(DEFICIENCIES[deficiency]) @ linear, 0, 1)
    return LAB @ np.cbrt(LMS @ linear)


def test_every_guide_has_a_style():
    package = "probml_tp.guides"
    own = {name for name, guide in Guide.registry.items() if guide.__module__.startswith(package)}
    assert own | NOT_REGISTERED == set(RECIPES)


def test_colours_are_of_the_palettes_and_differ():
    colors = [style.color for style in RECIPES.values()]
    assert set(colors) <= OKABE_ITO | TOL
    assert len(set(colors)) == len(colors)


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_guides_are_told_apart_with_any_colour_vision(deficiency):
    points = [seen(style.color, deficiency) for style in RECIPES.values()]
    distances = [np.linalg.norm(a - b) for i, a in enumerate(points) for b in points[:i]]
    assert min(distances) > 3 * JUST_NOTICEABLE


def test_red_and_green_of_equal_lightness_would_not_be_told_apart():
    red, green = seen("#c23b22", "deuteranopia"), seen("#7a7423", "deuteranopia")
    assert np.linalg.norm(red - green) < 3 * JUST_NOTICEABLE


def test_lines_and_markers_differ_without_colour():
    lines = [style.linestyle for style in RECIPES.values()]
    markers = [style.marker for style in RECIPES.values()]
    assert len(set(lines)) == len(lines) and len(set(markers)) == len(markers)


def test_a_guide_of_the_users_own_is_drawn_under_its_name():
    style = guide_style("AutoNormal")
    assert style.label == "AutoNormal"
    assert style.color not in {known.color for known in RECIPES.values()}


@house_style()
def fail_inside():
    assert not matplotlib.rcParams["axes.spines.top"]
    raise RuntimeError("inside")


def test_settings_are_gone_after_the_context_even_on_errors():
    before = dict(matplotlib.rcParams)
    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert dict(matplotlib.rcParams) == before


def test_figures_leave_rcparams_and_pyplot_alone():
    before, open_figures = dict(matplotlib.rcParams), plt.get_fignums()
    made, axes = figure(2, 2)
    shared_legend(made, axes.flat)
    made.draw_without_rendering()
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == open_figures


def test_importing_the_style_imports_no_pyplot():
    script = "import sys, probml_tp.plots.style; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_a_figure_fills_the_column_and_shares_axes():
    made, axes = figure(2, 3, sharex=True, sharey="row")
    assert made.get_size_inches()[0] == WIDTH
    assert made.get_layout_engine() is not None
    assert axes.shape == (2, 3)
    axes[0, 0].set_ylim(-7, 7)
    assert axes[0, 2].get_ylim() == (-7, 7) and axes[1, 0].get_ylim() != (-7, 7)


def test_a_shared_legend_lists_each_label_once_in_order():
    made, axes = figure(1, 2)
    for ax, labels in zip(axes.flat, (("a", "b"), ("b", "c")), strict=True):
        for label in labels:
            ax.plot([0, 1], label=label)
    legend = shared_legend(made, axes.flat, columns=2)
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "guide"),
    [
        ("line-nuts", "nuts"),
        ("mlp-laplace-linearized", "laplace-linearized"),
        ("eight-schools-centered-mean-field", "mean-field"),
        ("linear-map", "map"),
    ],
)
def test_a_name_that_ends_in_a_guides_has_its_colour_under_its_own_label(name, guide):
    style, own = guide_style(name), guide_style(guide)
    assert (style.color, style.marker, style.label) == (own.color, own.marker, name)


@pytest.mark.parametrize("name", ["my-guide", "heatmap", "nuts-and-bolts"])
def test_other_names_are_grey(name):
    assert guide_style(name).color not in {style.color for style in RECIPES.values()}


def test_numbers_at_ticks_are_plain_and_the_power_beside_them_is_typeset():
    made, axes = figure()
    axes[0, 0].plot([0, 1], [-2e7, 3e7])
    made.draw_without_rendering()
    labels = [label.get_text() for label in axes[0, 0].get_yticklabels()]
    assert "\N{MINUS SIGN}1" in labels and not any("$" in label for label in labels)
    assert (
        axes[0, 0].yaxis.get_offset_text().get_text()
        == r"$\times\mathdefault{10^{7}}\mathdefault{}$"
    )
