"""The logistic-regression experiment at a tiny size: its claims, its figures."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from own_figures import assert_drawn_from_arrays, own_figures
from torch.nn.functional import binary_cross_entropy_with_logits

from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.plane.kit import Plane, look_at_plane
from probml_tp.experiments.plane.logistic_regression import EXPERIMENT, Config
from probml_tp.harness.experiment import Results, run_experiment
from probml_tp.harness.results import read_results, write_results
from probml_tp.kit.common import percent

TINY = Config.preset(
    "quick",
    n=80,
    test_size=200,
    epochs=200,
    num_samples=50,
    draws=40,
    warmup=40,
    resolution=21,
)


@pytest.fixture(scope="module")
def results() -> Results[Config]:
    return run_experiment(EXPERIMENT, TINY)


def test_it_is_the_registered_experiment():
    assert EXPERIMENTS["logistic-regression"] is EXPERIMENT
    assert EXPERIMENT.summary == EXPERIMENTS.summary("logistic-regression")


def test_far_away_map_is_more_confident_than_what_averages(results):
    confidence = results.main.column("far_confidence")
    assert confidence["map"] > 0.98
    for guide in ("laplace", "mean-field", "nuts"):
        assert confidence[guide] < confidence["map"] - 0.005


def test_map_gets_surer_with_distance_while_nuts_levels_off(results):
    arrays = results.arrays
    halfway = len(arrays["radii"]) // 2
    rise = {
        guide: arrays[f"{guide}.confidence_by_radius"][-1]
        - arrays[f"{guide}.confidence_by_radius"][halfway]
        for guide in ("map", "nuts")
    }
    assert rise["map"] > 3 * abs(rise["nuts"])


def test_the_map_estimate_is_ridge_penalised_logistic_regression(results):
    x, y = (torch.from_numpy(results.arrays[name]).double() for name in "xy")
    draws = results.posteriors["map"].draws(1)
    weight = draws["weight"][0].clone().requires_grad_()
    bias = draws["bias"][0].clone().requires_grad_()
    loss = binary_cross_entropy_with_logits((x @ weight.T + bias)[:, 0], y, reduction="sum")
    penalty = TINY.prior_precision / 2 * (weight.square().sum() + bias.square().sum())
    (loss + penalty).backward()
    assert float(weight.grad.abs().max()) < 1e-6
    assert float(bias.grad.abs().max()) < 1e-6


def test_distances_to_nuts(results):
    table = results.main
    assert ("nuts", "tv") not in table
    assert 0 < table["laplace", "tv"] < table["map", "tv"] < 1
    assert ("map", "mi_correlation") not in table
    assert 0 < table["laplace", "mi_correlation"] <= 1


def test_the_distance_of_a_view_to_itself_is_zero(results):
    plane = Plane((0.0, 0.0), 3.0, 7, 5.0, num_radii=3, num_angles=8)
    own = look_at_plane(results.posteriors["laplace"], plane, num_samples=20)
    other = look_at_plane(results.posteriors["map"], plane, num_samples=20)
    assert own.distance(own) == 0
    assert own.distance(other) == pytest.approx(other.distance(own))
    assert own.distance(other) == pytest.approx(np.abs(own.probability - other.probability).mean())


def test_the_grid_of_a_plane_runs_row_by_row_from_the_bottom():
    plane = Plane((1.0, 11.0), 1.0, 2, 4.0, num_radii=2, num_angles=4)
    np.testing.assert_array_equal(plane.grid(), [[0, 10], [2, 10], [0, 12], [2, 12]])
    assert plane.on_grid(np.arange(4)).tolist() == [[0, 1], [2, 3]]
    rings = plane.rings().reshape(2, 4, 2)
    np.testing.assert_array_equal(rings[0], [[1, 11]] * 4)
    np.testing.assert_allclose(rings[1], [[5, 11], [1, 15], [-3, 11], [1, 7]], atol=1e-12)


def test_the_evidence_bounds(results):
    laplace, mean_field = results.main.row("laplace"), results.main.row("mean-field")
    assert laplace["log_evidence"] > laplace["elbo"] - 5 * laplace["elbo_error"]
    assert math.isfinite(mean_field["elbo"])
    assert "log_evidence" not in mean_field
    assert ("nuts", "elbo") not in results.main


def test_the_findings_quote_the_numbers(results):
    text = " ".join(results.findings)
    assert f"{percent(results.main['map', 'far_confidence'])} (MAP)" in text
    assert f"{results.main['laplace', 'log_evidence']:.2f} nats" in text
    assert "largest R-hat" in text
    assert "weight decay of 0.05 on the summed loss and of 0.000625 on the mean" in text


def test_probit_is_near_the_integral_and_sampling_within_its_monte_carlo_error(results):
    (table,) = results.tables
    assert table.ends("tv_mean").keys() == {"Sampling"}
    assert table.ends("tv_max") == table.ends("far_confidence") == {}
    assert table["MacKay's probit", "tv_max"] < 0.02
    assert table["MacKay's probit", "tv_mean"] < table["Sampling", "tv_mean"]
    gap = np.abs(results.arrays["gap.sampled"])
    assert gap.max() < 5 * 0.5 / math.sqrt(TINY.num_samples)
    assert table["Quadrature", "tv_max"] == 0


def test_the_maps_of_laplace_are_those_of_its_normal_logits(results):
    """Draws of the weights, whose logits are not linearised, and the integral: 5 errors."""
    exact = results.arrays["quadrature.probability"]
    error = np.sqrt(exact * (1 - exact) / TINY.num_samples)
    assert (np.abs(results.arrays["laplace.probability"] - exact) < 5 * error + 1e-6).all()


def test_the_laplace_bridge_of_two_classes_is_the_prediction_of_the_mode(results):
    bridge = results.arrays["gap.laplace-bridge"] + results.arrays["quadrature.probability"]
    np.testing.assert_allclose(bridge, results.arrays["map.probability"], atol=1e-6)
    mean, far = (results.tables[0].column(metric) for metric in ("tv_mean", "far_confidence"))
    assert mean["Laplace bridge"] > 5 * mean["MacKay's probit"]
    assert far["Laplace bridge"] > far["Quadrature"] + 0.05


def test_without_laplace_there_are_no_closed_forms():
    config = replace(TINY, guides=("map",))
    found = run_experiment(EXPERIMENT, config)
    assert found.tables == []
    assert list(found.timings) == ["fit map", "predict", "records for ArviZ"]
    assert len(own_figures(EXPERIMENT.figures(found))) == 2


def test_the_test_data_are_fresh(results):
    again = run_experiment(EXPERIMENT, replace(TINY, guides=("map", "laplace")))
    for guide in ("map", "laplace"):
        timeless = {n: v for n, v in again.main.row(guide).items() if n != "seconds"}
        assert timeless == {n: results.main[guide, n] for n in timeless}
    assert again.main.column("tv") == {}
    other = run_experiment(EXPERIMENT, replace(TINY, guides=("map",), seed=1))
    assert not np.array_equal(other.arrays["x"], results.arrays["x"])


def test_figures_need_the_arrays_only_and_results_can_be_saved(results, tmp_path):
    saved = read_results(write_results(results, EXPERIMENT, tmp_path), arrays=True)
    assert [figure.name for figure in own_figures(saved.figures)] == [
        "probability-maps",
        "confidence-far-away",
        "predictive-links",
    ]
    assert_drawn_from_arrays(EXPERIMENT, results, saved)
    assert {path.suffix for path in (saved.folder / "posteriors").iterdir()} == {
        ".nc",
        ".safetensors",
    }
