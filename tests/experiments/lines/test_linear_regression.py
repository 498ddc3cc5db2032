"""linear-regression: what it says and shows, against the closed form."""

import warnings

import arviz as az
import numpy as np
import pytest
import torch
from own_figures import own_figures
from stage_recorder import StageRecorder

from probml_tp import NormalPrior
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.lines.kit import weight_moments
from probml_tp.experiments.lines.linear_regression import (
    EXPERIMENT,
    GUIDES,
    Config,
    linear_predictive,
)
from probml_tp.experiments.lines.linear_regression_figures import NOT_HERE
from probml_tp.guides.recipes import guides_for
from probml_tp.harness.experiment import Results, run_experiment
from probml_tp.harness.results import read_results, write_results
from probml_tp.models import LinearBasis, linear_regression
from probml_tp.posterior import Posterior

TINY = {
    "test_size": 200,
    "num_samples": 100,
    "epochs": 1000,
    "warmup": 80,
    "draws": 150,
    "jobs": 1,
}


@pytest.fixture(scope="module")
def recorder():
    return StageRecorder()


@pytest.fixture(scope="module")
def results(recorder):
    return run_experiment(EXPERIMENT, Config(**TINY), progress=recorder)


@pytest.fixture(scope="module")
def figures(results):
    bare = Results(**{**vars(results), "posteriors": {}, "inference_data": {}})
    return list(EXPERIMENT.figures(bare))


def run_exact(**options):
    return run_experiment(EXPERIMENT, Config(**TINY, guides=("exact",), data=("line",), **options))


def design(x):
    return np.stack([np.ones_like(x), x], axis=1)


def closed_form(x, y, *, alpha=2.0, beta=25.0):
    """Bishop 2006, eqs. 3.53 and 3.54."""
    phi = design(x)
    covariance = np.linalg.inv(alpha * np.eye(2) + beta * phi.T @ phi)
    return beta * covariance @ phi.T @ y, covariance


def data(results, name):
    return results.arrays[f"{name}.x"], results.arrays[f"{name}.y"]


def moments(results, name, guide):
    key = f"{name}-{guide}"
    return results.arrays[f"{key}.weight_mean"], results.arrays[f"{key}.weight_covariance"]


@pytest.mark.parametrize("name", ["line", "hole"])
@pytest.mark.parametrize("guide", ["exact", "laplace"])
def test_exact_and_laplace_are_the_closed_form(results, name, guide):
    mean, covariance = closed_form(*data(results, name))
    own = moments(results, name, guide)
    np.testing.assert_allclose(own[0], mean, atol=1e-8)
    np.testing.assert_allclose(own[1], covariance, atol=1e-10)


@pytest.mark.parametrize("name", ["line", "hole"])
def test_the_evidence_is_that_of_the_marginal_normal(results, name):
    x, y = data(results, name)
    marginal = 0.04 * np.eye(len(x)) + design(x) @ design(x).T / 2.0
    log_det = np.linalg.slogdet(2 * np.pi * marginal)[1]
    expected = -0.5 * (log_det + y @ np.linalg.solve(marginal, y))
    row = results.main.row(f"{name} · exact")
    assert row["log_evidence"] == pytest.approx(expected, abs=1e-9)
    assert row["elbo"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["line", "hole"])
def test_nuts_agrees_within_its_monte_carlo_error(results, name):
    mean, covariance = closed_form(*data(results, name))
    record = results.inference_data[f"{name}-nuts"]
    ess = az.ess(record, var_names=["weight"])["weight"].to_numpy()
    assert (ess > 50).all()
    own_mean, own_covariance = moments(results, name, "nuts")
    error = az.mcse(record, var_names=["weight"])["weight"].to_numpy()
    assert (np.abs(own_mean - mean) < 5 * error).all()
    error_sd = az.mcse(record, var_names=["weight"], method="sd")["weight"].to_numpy()
    off = np.sqrt(np.diag(own_covariance)) - np.sqrt(np.diag(covariance))
    assert (np.abs(off) < 5 * error_sd).all()


@pytest.mark.parametrize("name", ["line", "hole"])
def test_mean_field_finds_the_diagonal_of_the_precision(results, name):
    _, covariance = closed_form(*data(results, name))
    expected = np.diag(np.linalg.inv(covariance)) ** -0.5
    own = np.sqrt(np.diag(moments(results, name, "mean-field")[1]))
    np.testing.assert_allclose(own, expected, rtol=0.15)


@pytest.mark.parametrize("name", ["line", "hole"])
def test_laplaces_diagonal_is_that_of_the_precision(results, name):
    mean, covariance = closed_form(*data(results, name))
    own = moments(results, name, "laplace-diagonal")
    np.testing.assert_allclose(own[0], mean, atol=1e-8)
    np.testing.assert_allclose(own[1], np.diag(1 / np.diag(np.linalg.inv(covariance))), rtol=1e-9)


def test_one_column_beside_the_diagonal_holds_the_correlation_of_two_weights(results):
    exact = results.main["line · exact", "log_evidence"]
    for guide in guides_for(families=("normal",)):
        lost = exact - results.main[f"line · {guide}", "elbo"]
        assert lost > 0.3 if guide == "mean-field" else lost < 0.3


def test_swag_is_narrower_than_the_posterior_and_centred_on_it(results):
    for name in ("line", "hole"):
        row = results.main.row(f"{name} · swag")
        assert row["mean_distance"] < 0.5 and 0 < row["sd_distance"] < 99


def test_mean_field_is_far_off_where_the_weights_correlate(results):
    line, hole = (results.main.row(f"{name} · mean-field") for name in ("line", "hole"))
    assert line["sd_distance"] > 40 and hole["sd_distance"] < 15
    assert line["elbo"] < results.main["line · exact", "log_evidence"] - 0.5
    assert line["epistemic_far"] < 0.7 * results.main["line · exact", "epistemic_far"]


def test_map_has_no_epistemic_uncertainty(results):
    row = results.main.row("line · map")
    assert row["epistemic_inside"] == row["epistemic_far"] == 0
    assert row["sd_distance"] == 100
    assert "elbo" not in row and "log_evidence" not in row


@pytest.mark.parametrize("name", ["line", "hole"])
def test_the_epistemic_variance_is_a_parabola_about_the_mean_of_x(results, name):
    x, y = data(results, name)
    covariance = closed_form(x, y)[1]
    grid, variance = (
        results.arrays[f"{name}-exact.{part}"] for part in ("x", "epistemic_variance")
    )
    np.testing.assert_allclose(
        variance, np.einsum("np,pq,nq->n", design(grid), covariance, design(grid)), rtol=1e-9
    )
    step = grid[1] - grid[0]
    np.testing.assert_allclose(np.diff(variance, 2), 2 * covariance[1, 1] * step**2, rtol=1e-6)
    assert abs(grid[variance.argmin()] - x.mean()) < 0.1
    np.testing.assert_allclose(results.arrays[f"{name}-exact.aleatoric_variance"], 0.04)


def test_a_flat_prior_puts_the_vertex_on_the_mean_of_x():
    results = run_exact(prior_precision=1e-9)
    x, _ = data(results, "line")
    covariance = moments(results, "line", "exact")[1]
    assert -covariance[0, 1] / covariance[1, 1] == pytest.approx(x.mean(), abs=1e-8)
    n, spread = len(x), ((x - x.mean()) ** 2).sum()
    vertex = np.array([1.0, x.mean()])
    assert vertex @ covariance @ vertex == pytest.approx(0.04 / n, rel=1e-8)
    assert covariance[1, 1] == pytest.approx(0.04 / spread, rel=1e-8)


def test_the_line_is_surest_inside_the_hole(results):
    x, _ = data(results, "hole")
    grid, variance = (results.arrays[f"hole-exact.{p}"] for p in ("x", "epistemic_variance"))
    at = grid[variance.argmin()]
    assert x[x < 0].max() < at < x[x > 0].min()


def test_the_labs_noise_precision_doubles_the_noise_variance():
    results = run_exact(noise_precision="labs")
    mean, covariance = closed_form(*data(results, "line"), beta=12.5)
    own = moments(results, "line", "exact")
    np.testing.assert_allclose(own[0], mean, atol=1e-9)
    np.testing.assert_allclose(own[1], covariance, atol=1e-10)
    np.testing.assert_allclose(results.arrays["line-exact.aleatoric_variance"], 0.08)


def test_the_posterior_point_by_point(results):
    counts, grid, log_density, sd = (
        results.arrays[f"point by point.{p}"] for p in ("counts", "grid", "log_density", "sd")
    )
    assert counts.tolist() == [0, 1, 2, 10, 25]
    assert log_density.shape == (5, len(grid), len(grid))
    x, y = data(results, "line")
    for i in (2, 4):
        mean, covariance = closed_form(x[: counts[i]], y[: counts[i]])
        np.testing.assert_allclose(sd[i], np.sqrt(np.diag(covariance)), rtol=1e-9)
        z = np.stack(np.meshgrid(grid, grid), axis=-1) - mean
        expected = -0.5 * (z @ np.linalg.inv(covariance) * z).sum(-1)
        np.testing.assert_allclose(log_density[i], expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(sd[0], 2**-0.5)
    assert (np.diff(sd, axis=0) <= 0).all()


@pytest.mark.parametrize("guide", guides_for(without=("reference",)))
def test_predictions_from_moments_are_those_from_draws(results, guide):
    posterior = results.posteriors[f"line-{guide}"]
    x = torch.tensor([[-8.0], [1.0], [9.0]], dtype=torch.float64)
    closed, drawn = linear_predictive(posterior, x), posterior.predict(x, num_samples=4000)
    sd = closed.epistemic_variance.sqrt()
    assert ((closed.mean - drawn.mean).abs() <= 5 * sd / 4000**0.5 + 1e-12).all()
    off = (drawn.epistemic_variance.sqrt() - sd).abs()
    assert (off <= 5 * sd / 8000**0.5 + 1e-12).all()


def test_every_row_is_complete(results):
    rows = [f"{d} · {g}" for d in ("line", "hole") for g in GUIDES]
    assert results.main.rows == rows
    for row in map(results.main.row, rows):
        assert {"rmse", "nll", "coverage", "epistemic_inside", "epistemic_far", "seconds"} <= set(
            row
        )
        assert set(row) <= set(results.main.columns)
        assert all(np.isfinite(value) for value in row.values())
        assert 80 < row["coverage"] <= 100


def test_every_fit_is_a_stage_and_each_is_entered_once(results, recorder):
    fits = {f"{data}: {guide}" for data in ("line", "hole") for guide in GUIDES}
    assert fits <= set(recorder.stages)
    assert len(set(recorder.stages)) == len(recorder.stages)
    assert ("line: mean-field", 1000, 1000) in recorder.updates
    assert set(results.timings) == set(recorder.stages)


def test_findings_are_computed_from_the_numbers(results):
    text = " ".join(results.findings)
    assert f"{results.main['line · mean-field', 'sd_distance']:.0f} %" in text
    assert f"{results.main['hole · nuts', 'mean_distance']:.2f}" in text
    assert results.findings[-1] == NOT_HERE
    assert all(sentence.endswith(".") for sentence in results.findings)


def test_findings_leave_out_what_was_not_run():
    text = " ".join(run_exact().findings[:-1])
    for absent in ("Laplace", "NUTS", "Mean-field", "hole"):
        assert absent not in text


def test_the_same_seed_gives_the_same_numbers():
    options = TINY | {"epochs": 20, "guides": ("exact", "mean-field"), "data": ("hole",)}
    first, again = (run_experiment(EXPERIMENT, Config(**options, seed=3)) for _ in range(2))
    for metric in first.main.columns:
        assert metric == "seconds" or again.main.column(metric) == first.main.column(metric)


def test_figures_need_the_arrays_only(figures):
    assert [figure.name for figure in figures] == [
        "predictive-bands", "variance-along-x", "hole-or-none", "flat-prior-limit",
        "posterior-sequence", "posterior-of-weights",
        "predictive-checks", "training-losses",
    ]  # fmt: skip
    for figure in figures:
        assert any(character.isdigit() for character in figure.title)
    for figure in own_figures(figures):
        assert figure.figure.legends


def test_every_panel_can_be_read(figures):
    for figure in figures:
        bottom = [ax for ax in figure.figure.axes if ax.get_subplotspec().is_last_row()]
        left = [ax for ax in figure.figure.axes if ax.get_subplotspec().is_first_col()]
        assert all(ax.get_xlabel() for ax in bottom) and all(ax.get_ylabel() for ax in left)


@pytest.mark.parametrize("options", [{"guides": ("exact",)}, {"guides": ("map", "exact")}])
def test_figures_of_fewer_guides_and_data(options):
    config = Config(**TINY, data=("hole",), n_per_side=2, **options)
    results = run_experiment(EXPERIMENT, config)
    assert len(own_figures(EXPERIMENT.figures(results))) == 6


def test_results_are_saved_and_posteriors_come_back(results, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = write_results(results, EXPERIMENT, tmp_path)
    saved = read_results(folder)
    assert len(own_figures(saved.figures)) == 6 and saved.main == results.main
    model = linear_regression(LinearBasis(), prior=NormalPrior.from_precision(2.0), likelihood=0.2)
    loaded = Posterior.load(folder / "posteriors" / "line-laplace.safetensors", model)
    expected = moments(results, "line", "laplace")
    np.testing.assert_allclose(weight_moments(loaded)[1], expected[1])
    record = az.from_netcdf(folder / "posteriors" / "hole-nuts.nc")
    assert dict(record.posterior.sizes) == {"chain": 2, "draw": 150, "weight_out": 2}


def test_the_exact_posterior_is_not_left_out():
    with pytest.raises(ValueError, match="must include exact"):
        Config(guides=("laplace",))


def test_test_data_are_fresh():
    assert Config(seed=0).test_seed != 0
    assert len({Config(seed=seed).test_seed for seed in range(50)} | set(range(50))) == 100


def test_the_registry_knows_it():
    assert EXPERIMENTS["linear-regression"] is EXPERIMENT
    assert EXPERIMENTS.summary("linear-regression") == EXPERIMENT.summary
