"""Forests of gaps: what is drawn is what the report says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from probml_tp.gap import GapReport
from probml_tp.gap.plots.forest import finding, gap_forest, plot_gap, weight_forest
from probml_tp.plots.style import guide_style

VALUES = {
    ("noise floor", "all", "w2"): (0.03, 0.0, 0.05),
    ("laplace", "all", "w2"): (0.1, 0.08, 0.12),
    ("map", "all", "w2"): (0.4, 0.35, 0.45),
    ("noise floor", "all", "function_coverage"): (0.94, 0.93, 0.96),
    ("laplace", "all", "function_coverage"): (0.9, 0.88, 0.92),
    ("map", "all", "function_coverage"): (0.0, 0.0, 0.0),
    ("noise floor", "far", "w2"): (0.06, 0.0, 0.08),
    ("laplace", "far", "w2"): (1.4, 1.2, 1.6),
    ("map", "far", "w2"): (1.2, 1.1, 1.3),
    ("noise floor", "far", "function_coverage"): (0.94, 0.93, 0.96),
    ("laplace", "far", "function_coverage"): (0.5, 0.45, 0.55),
    ("map", "far", "function_coverage"): (0.0, 0.0, 0.0),
}


def report(r_hat: float = np.nan) -> GapReport:
    rows = [
        dict(zip(("posterior", "region", "metric"), key, strict=True))
        | dict(zip(("value", "low", "high"), ends, strict=True))
        for key, ends in VALUES.items()
    ]
    nothing = pd.DataFrame()
    costs = pd.DataFrame({"r_hat": [r_hat], "ess": [612.0]}, index=["nuts"])
    return GapReport("nuts", 0.95, nothing, pd.DataFrame(rows), nothing, costs)


def test_intervals_stand_beside_the_noise_floor():
    ax = Figure().subplots()
    assert plot_gap(report(), "w2", ax=ax, region="far") is ax
    (floor,) = ax.patches
    assert (floor.get_x(), floor.get_width()) == pytest.approx((0, 0.08))
    same, interval, point, *_ = ax.lines
    assert list(same.get_xdata()) == [0, 0]
    np.testing.assert_allclose(interval.get_xdata(), [1.2, 1.6])
    np.testing.assert_allclose(point.get_xydata(), [[1.4, 0]])
    assert to_hex(point.get_color()) == guide_style("laplace").color.lower()
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["Laplace", "MAP"]
    assert ax.get_xlabel() == "W₂ of function values (units of y)"


def test_coverages_are_marked_at_their_level():
    ax = Figure().subplots()
    plot_gap(report(), "function_coverage", ax=ax)
    assert list(ax.lines[0].get_xdata()) == [0.95, 0.95]


def test_an_unknown_metric_or_region_is_refused():
    ax = Figure().subplots()
    with pytest.raises(ValueError, match="one of w2, function_coverage; got 'kl'"):
        plot_gap(report(), "kl", ax=ax)
    with pytest.raises(ValueError, match="a table is of one region"):
        plot_gap(report(), "w2", ax=ax, region="near")


def test_a_forest_has_regions_above_each_other_on_one_scale():
    made = gap_forest(report(), ["w2", "function_coverage"], regions=["all", "far"])
    titles = [ax.get_title(loc="left") for ax in made.axes]
    assert titles == ["Points: all", "", "Points: far", ""]
    assert made.axes[0].get_xlim() == made.axes[2].get_xlim()
    assert made.axes[0].get_xlim() != made.axes[1].get_xlim()
    (legend,) = made.legends
    assert [text.get_text() for text in legend.get_texts()] == ["NUTS, one half against the other"]
    made.draw_without_rendering()


def test_the_legend_tells_how_well_a_chain_is_known():
    (legend,) = gap_forest(report(1.004), ["w2"]).legends
    (text,) = legend.get_texts()
    assert text.get_text().endswith("against the other (R-hat 1.004, effective draws 612)")


def test_the_finding_follows_the_numbers():
    assert finding(report(), "w2", ["all", "far"]).splitlines() == [
        "W₂ of function values (units of y): distance from NUTS",
        "all: MAP is farthest (0.4), none at the noise floor",
        "far: Laplace is farthest (1.4), none at the noise floor",
    ]
    near = report()
    near.functions.loc[near.functions["posterior"] == "laplace", "low"] = 0.0
    assert finding(near, "w2", ["all"]).endswith(
        "MAP is farthest (0.4), Laplace at the noise floor"
    )
    assert finding(near, "function_coverage", ["far"]).endswith(
        "far: MAP is farthest (0), none at the noise floor"
    )


def test_weights_have_a_row_of_panels_for_each_site():
    values = {"noise floor": (1.0, 0.9, 1.1), "laplace": (0.97, 0.9, 1.05), "map": (0.0, 0.0, 0.0)}
    rows = [
        {"posterior": name, "site": site, "metric": metric, "value": v, "low": low, "high": high}
        for site in ("weight", "bias")
        for metric in ("mean_difference", "variance_ratio", "w2")
        for name, (v, low, high) in values.items()
    ]
    made = weight_forest(replace(report(), weights=pd.DataFrame(rows)))
    titles = [ax.get_title(loc="left") for ax in made.axes]
    assert [title for title in titles if title] == ["Site: weight", "Site: bias"]
    assert "bias: from 0.00 (MAP) to 0.97 (Laplace)" in made.get_suptitle()
    assert [ax.get_xlabel() for ax in made.axes[3:]] == [
        "Means apart (st. dev. of the reference)", "Variance, ratio", "W₂ (units of the weight)",
    ]  # fmt: skip
    assert list(made.axes[1].lines[0].get_xdata()) == [1, 1]
