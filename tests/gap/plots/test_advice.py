"""The figure of a recommendation: every verdict drawn in its colour, the choice in its title."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from probml_tp.gap import Advice
from probml_tp.gap.plots.advice import VERDICT_COLORS, advice_panels, plot_verdicts
from probml_tp.plots.style import figure

LINES = [
    ("laplace", "total_variation", "data", 0.0123, "meets"),
    ("laplace", "mutual_information_ratio", "data", 1.1, "open"),
    ("map", "total_variation", "data", 0.05, "fails"),
    ("map", "mutual_information_ratio", "data", math.inf, "fails"),
]


def advice(choice: str = "laplace", qualified: tuple[str, ...] = ("laplace",)) -> Advice:
    columns = ["posterior", "requirement", "region", "error", "verdict"]
    table = pd.DataFrame(LINES, columns=columns)
    table["limit"] = table["requirement"].map(
        {"total_variation": 0.02, "mutual_information_ratio": 1.25}
    )
    table["needed"] = table["error"]
    costs = {"nuts": 100.0, "laplace": 2.0, "map": 1.0}
    return Advice(choice, qualified, (), table, costs, "forward passes", False, (), ())


def test_every_verdict_has_its_colour_and_its_number():
    _, axes = figure()
    ax = plot_verdicts(advice(), ax=axes[0, 0])
    squares = [p for p in ax.patches if isinstance(p, Rectangle)]
    drawn = [to_hex(square.get_facecolor()) for square in squares]
    assert drawn == [VERDICT_COLORS[verdict].lower() for *_, verdict in LINES]
    texts = [text.get_text() for text in ax.texts]
    assert {"0.012", "1.10", "0.050", "∞"} <= set(texts)
    assert any("limit 1.25" in text for text in texts)


def test_the_chosen_row_is_bold():
    _, axes = figure()
    ax = plot_verdicts(advice(), ax=axes[0, 0])
    weights = {label.get_text(): label.get_fontweight() for label in ax.get_yticklabels()}
    assert weights == {"Laplace": "bold", "MAP": "normal"}


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (advice(), "Moons:\nuse Laplace, the cheapest within all limits"),
        (advice("nuts", ()), "Moons:\nkeep NUTS: no approximation is shown to be within"),
    ],
)
def test_titles_state_the_recommendation(made, words):
    drawn = advice_panels({"Moons": made})
    assert any(ax.get_title(loc="left").startswith(words) for ax in drawn.axes)
