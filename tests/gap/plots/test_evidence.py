"""Figures of what posteriors say of themselves: what is drawn is what the report says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from probml_tp.gap import GapReport
from probml_tp.gap.plots.evidence import (
    evidence_figure,
    k_hat_figure,
    plot_evidence,
    plot_k_hat,
    plot_loo,
)
from probml_tp.plots.style import guide_style

NAN = np.nan
EVIDENCE = pd.DataFrame(
    {
        "pareto_k": [NAN, -np.inf, 0.9, 21.4],
        "pareto_k_error": [NAN, 0.0, 0.2, 2.0],
        "k_threshold": [NAN, 2 / 3, 2 / 3, 2 / 3],
        "elbo": [NAN, -10.0, -14.0, -1145.0],
        "elbo_error": [NAN, 0.0, 0.2, 40.0],
        "iwelbo": [NAN, -10.0, -12.0, -25.0],
        "iwelbo_error": [NAN, 0.0, 0.3, 2.0],
        "log_evidence": [-10.1, -10.0, NAN, 1.2],
        "log_evidence_error": [0.1, 0.0, NAN, 0.0],
        "elpd_loo": [5.0, 5.1, 4.9, NAN],
        "elpd_loo_error": [3.0, 3.0, 2.9, NAN],
        "loo_worst_k": [0.3, 0.2, 0.9, NAN],
    },
    index=["nuts", "exact", "mean-field", "laplace"],
)
LAYERS = pd.DataFrame(
    {"fc1": [-np.inf, 0.6, 2.9], "fc2": [-np.inf, 0.95, -np.inf]},
    index=["exact", "mean-field", "laplace"],
)


def report(layers: pd.DataFrame = LAYERS, evidence: pd.DataFrame = EVIDENCE) -> GapReport:
    nothing = pd.DataFrame()
    errors = layers.map(lambda k: 0.1 if np.isfinite(k) else 0.0)
    return GapReport("nuts", 0.95, nothing, nothing, nothing, nothing, evidence, layers, errors)


def points(ax: object) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_xydata() for line in ax.lines if len(line.get_xdata()) == 3}


def test_k_hat_by_guide_and_layer():
    ax = Figure().subplots()
    assert plot_k_hat(report(), ax=ax) is ax
    drawn = points(ax)
    assert list(drawn) == ["Exact", "Mean-field", "Laplace"]
    np.testing.assert_allclose(drawn["Mean-field"], [[0.9, 0], [0.6, 1], [0.95, 2]])
    left, right = ax.get_xlim()
    np.testing.assert_allclose(drawn["Exact"][:, 0], left)
    np.testing.assert_allclose(drawn["Laplace"][:, 0], [right, right, left])
    bars = [line for lines in ax.collections for line in lines.get_segments()]
    np.testing.assert_allclose(bars[3], [[0.5, 0], [1.3, 0]])  # mean-field: two standard errors
    assert [text.get_text() for text in ax.texts] == ["21.4 ▸", "2.9 ▸"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["All sites", "fc1", "fc2"]
    limits = sorted(line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 2)
    assert limits == pytest.approx([2 / 3, 0.7])
    colors = {line.get_label(): to_hex(line.get_color()) for line in ax.lines}
    assert colors["Laplace"] == guide_style("laplace").color.lower()


def test_one_layer_is_no_row_of_its_own():
    ax = Figure().subplots()
    plot_k_hat(report(LAYERS[["fc1"]]), ax=ax)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["All sites"]


def test_evidence_has_bounds_beside_estimates():
    ax = Figure().subplots()
    assert plot_evidence(report(), ax=ax) is ax
    rows = [tick.get_text() for tick in ax.get_yticklabels()]
    assert rows == ["NUTS", "Exact", "Mean-field", "Laplace"]
    assert ax.lines[0].get_xdata()[0] == -10.1  # the reference's
    drawn = [c.lines[0].get_xydata()[0].tolist() for c in ax.containers]
    assert [-14.0, 1.8] in drawn
    assert [-12.0, 2.0] in drawn
    bars = {tuple(c.lines[0].get_xydata()[0]): c.lines[2][0].get_segments() for c in ax.containers}
    np.testing.assert_allclose(np.array(bars[-14.0, 1.8])[0][:, 0], [-14.4, -13.6])
    assert [text.get_text() for text in ax.texts] == ["◂ −1,145"]
    assert -35 < ax.get_xlim()[0] < -29


def test_points_left_out_are_hollow_where_they_cannot_be_relied_on():
    ax = Figure().subplots()
    assert plot_loo(report(), ax=ax) is ax
    fills = [c.lines[0].get_fillstyle() for c in ax.containers]
    assert fills[:3] == ["full", "full", "none"]


def test_figures_state_what_was_found():
    made = k_hat_figure(report())
    assert made.get_suptitle().splitlines() == [
        "Draws can be reweighted to the posterior (k-hat at most 0.67): Exact",
        "Laplace is farthest from it, k-hat 21.40",
    ]
    made.draw_without_rendering()
    made = evidence_figure(report())
    assert made.get_suptitle() == (
        "Log evidence by NUTS: −10.10 nats. ELBO minus it: +0.10 (Exact) to −1,134.90 (Laplace)"
    )
    (legend,) = made.legends
    assert legend.get_texts()[0].get_text() == "ELBO"
    made.draw_without_rendering()
    unknown = EVIDENCE.assign(log_evidence=NAN)
    title = evidence_figure(report(evidence=unknown)).get_suptitle()
    assert title.startswith("Bounds and estimates")


def test_a_report_without_evidence_or_density_is_refused():
    ax = Figure().subplots()
    empty = report(evidence=pd.DataFrame())
    for draw in (plot_k_hat, plot_evidence, plot_loo):
        with pytest.raises(ValueError, match=r"compare\(\.\.\., data=\(x, y\)\)"):
            draw(empty, ax=ax)
    with pytest.raises(ValueError, match="needs a posterior with a density"):
        plot_k_hat(report(evidence=EVIDENCE.assign(pareto_k=NAN)), ax=ax)
