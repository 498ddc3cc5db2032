"""Heat maps of how far measures and guides agree."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from probml_tp.experiments.images.agreement_panels import (
    agreement_rows,
    agreement_triangles,
    plot_agreement,
)


def cells(ax) -> dict[tuple[int, int], str]:
    """The text of each cell, by row and column."""
    return {
        (round(text.get_position()[1]), round(text.get_position()[0])): text.get_text()
        for text in ax.texts
    }


def test_cells_show_their_numbers_and_what_is_none_stays_empty():
    ax = Figure().subplots()
    values = np.array([[1.0, -0.254], [np.nan, 0.5]])
    assert plot_agreement(values, rows=["a", "b"], columns=["c", "d"], ax=ax) is ax
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
