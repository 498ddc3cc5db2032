"""Tables as colours with the numbers in them."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from probml_tp.experiments.images.uncertainty_panels import (
    agreement_rows,
    agreement_triangles,
    heat_map_panels,
    plot_cells,
)


@pytest.fixture
def ax():
    return Figure().subplots()


def cells(ax) -> dict[tuple[int, int], str]:
    """The text of each cell, by row and column."""
    return {
        (round(text.get_position()[1]), round(text.get_position()[0])): text.get_text()
        for text in ax.texts
    }


def test_cells_show_their_numbers_and_what_is_none_stays_empty(ax):
    values = np.array([[1.0, -0.254], [np.nan, 0.5]])
    assert plot_cells(values, rows=["a", "b"], columns=["c", "d"], ax=ax, limits=(0, 1)) is ax
    assert [text.get_color() for text in ax.texts] == ["white", "black", "black"]
    assert cells(ax) == {(0, 0): "1.00", (0, 1): "−0.25", (1, 1): "0.50"}
    assert ax.images[0].get_clim() == (0, 1)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b"]


def test_tables_of_measures_share_the_guides_below():
    tables = {"first": np.eye(2), "second": np.zeros((2, 2))}
    made = agreement_rows(tables, rows=["a", "b"], guides=["map", "mc-dropout"])
    assert [ax.get_title(loc="left") for ax in made.axes] == ["first", "second"]
    below = [[tick.get_text() for tick in ax.get_xticklabels()] for ax in made.axes]
    assert below == [["", ""], ["MAP", "MC dropout"]]
    made.draw_without_rendering()


def test_each_pair_of_guides_stands_once():
    table = np.array([[1.0, 0.2, 0.3], [0.2, 1.0, 0.4], [0.3, 0.4, 1.0]])
    made = agreement_triangles({"Entropy": table}, guides=["map", "swag", "mc-dropout"])
    (ax,) = made.axes
    assert cells(ax) == {(0, 0): "0.20", (1, 0): "0.30", (1, 1): "0.40"}
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["MAP", "SWAG"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["SWAG", "MC dropout"]
    made.draw_without_rendering()


def test_a_heat_map_writes_its_numbers_and_a_dash_for_none(ax):
    values = np.array([[0.5, np.nan], [-0.001, -0.25]])
    plot_cells(values, rows=["a", "b"], columns=["c", "d"], ax=ax, none="\N{EN DASH}")
    texts = [text.get_text() for text in ax.texts]
    assert [text.get_color() for text in ax.texts] == ["black", "black", "white", "white"]
    assert texts == ["0.50", "\N{EN DASH}", "0.00", "\N{MINUS SIGN}0.25"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b"]
    assert ax.images[0].get_clim() == (-0.25, 0.5)


def test_large_numbers_have_no_decimals(ax):
    plot_cells(np.array([[61.7]]), rows=["a"], columns=["b"], ax=ax)
    assert ax.texts[0].get_text() == "62"


def test_heat_maps_stand_side_by_side():
    maps = {"one": np.eye(2), "two": np.zeros((2, 2))}
    made = heat_map_panels(maps, rows=["a", "b"], columns=["c", "d"])
    assert [ax.get_title() for ax in made.axes] == ["one", "two"]
    made.draw_without_rendering()
