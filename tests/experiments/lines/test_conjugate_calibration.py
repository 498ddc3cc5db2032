"""The conjugate-calibration experiment at a tiny size: its claims, closed forms and figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from own_figures import own_figures
from scipy import stats

from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.lines.conjugate_calibration import (
    EXPERIMENT,
    Config,
    binomial_interval,
    held,
    line_coverage,
)
from probml_tp.experiments.lines.conjugate_calibration_figures import FUNCTION, LEVELS, PREDICTIVE
from probml_tp.experiments.lines.conjugate_fits import (
    Weights,
    fit_each,
    fit_one,
    fit_stacked,
    linear_model,
    simulate,
    simulate_line,
)
from probml_tp.experiments.lines.kit import weight_moments
from probml_tp.harness.experiment import Results, no_update, run_experiment
from probml_tp.harness.results import read_results, write_results
from probml_tp.metrics import crps, regression_scores

TINY = Config.preset(
    "quick",
    datasets=25,
    fits=2,
    stacked_epochs=300,
    epochs=100,
    warmup=15,
    draws=30,
    test_size=5,
)


@pytest.fixture(scope="module")
def results() -> Results[Config]:
    return run_experiment(EXPERIMENT, TINY)


def exact_weights(config: Config, x, y) -> Weights:
    """Bishop 2006, eqs. 3.53-3.54, for all data sets at once: no guide of the package."""
    design = np.stack([x, np.ones_like(x)], -1)
    gram = np.einsum("dnp,dnq->dpq", design, design)
    precision = config.prior_precision * np.eye(2) + gram / config.noise**2
    covariance = np.linalg.inv(precision)
    shift = np.einsum("dnp,dn->dp", design, y) / config.noise**2
    return Weights(np.einsum("dpq,dq->dp", covariance, shift), covariance)


def test_it_is_the_registered_experiment():
    assert EXPERIMENTS["conjugate-calibration"] is EXPERIMENT
    assert EXPERIMENT.summary == EXPERIMENTS.summary("conjugate-calibration")


def test_exact_and_laplace_are_the_closed_form_on_every_data_set():
    config = Config(datasets=3, fits=2, jobs=1)
    simulated = simulate(config)
    expected = exact_weights(config, simulated.x, simulated.y)
    for guide in ("exact", "laplace"):
        found, _ = fit_each(guide, config, simulated, no_update)
        np.testing.assert_allclose(found.mean, expected.mean, atol=1e-6)
        np.testing.assert_allclose(found.covariance, expected.covariance, atol=1e-9)


def test_exact_coverage_lies_within_the_binomial_band_and_a_narrow_posterior_does_not():
    """5000 data sets in closed form; the band is one of 5 standard errors."""
    config = Config(datasets=5000)
    simulated = simulate(config)
    exact = exact_weights(config, simulated.x, simulated.y)
    narrow = Weights(exact.mean, 0.7**2 * exact.covariance)
    x = simulated.x_test[:, :1]
    for level in LEVELS:
        error = 5 * (level * (1 - level) / 5000) ** 0.5
        assert abs(held(exact, simulated, x, level).mean() - level) < error
        assert held(narrow, simulated, x, level).mean() < level - error
    below = exact.predictive(x, config.noise).cdf(torch.from_numpy(simulated.y_test[:, 0].copy()))
    assert stats.kstest(below.numpy(), "uniform").pvalue > 1e-4


def test_mean_field_is_too_wide_amid_the_data_and_too_narrow_beyond():
    """What conditioning on the data says: 2 Phi(z s_q / s) - 1, whatever was drawn."""
    config = Config(datasets=2000)
    simulated = simulate(config)
    exact = exact_weights(config, simulated.x, simulated.y)
    precisions = np.linalg.inv(exact.covariance).diagonal(axis1=1, axis2=2)
    factorised = Weights(exact.mean, np.eye(2) / precisions[:, None])
    for place, too_wide in ((1.0, True), (0.0, False), (4.0, False)):
        x = np.full((2000, 1), place)
        ratio = factorised.moments(x)[1] / exact.moments(x)[1]
        expected = float((2 * stats.norm.cdf(stats.norm.ppf(0.975) * ratio) - 1).mean())
        counted = float(held(factorised, simulated, x, 0.95).mean())
        assert abs(counted - expected) < 5 * (expected * (1 - expected) / 2000) ** 0.5
        assert (counted > 0.97) if too_wide else (counted < 0.9)
    inputs = simulated.x
    mean = [(part.moments(inputs)[1] ** 2).mean() for part in (factorised, exact)]
    assert mean[0] == pytest.approx(mean[1], rel=0.03)  # right on average over the inputs


def test_mean_field_fits_of_all_data_sets_at_once_are_those_of_each():
    config = Config(datasets=3, fits=2, stacked_epochs=800)
    simulated = simulate(config)
    exact = exact_weights(config, simulated.x, simulated.y)
    optimum = 1 / np.linalg.inv(exact.covariance).diagonal(axis1=1, axis2=2)
    stacked, _ = fit_stacked("mean-field", config, simulated, no_update)
    variance = stacked.covariance.diagonal(axis1=1, axis2=2)
    np.testing.assert_allclose(variance, optimum, rtol=0.35)
    np.testing.assert_allclose(stacked.mean, exact.mean, atol=0.5 * optimum.max() ** 0.5)
    alone = weight_moments(fit_one("mean-field", config, simulated.data(0), 0))
    np.testing.assert_allclose(np.diag(alone[1]), optimum[0], rtol=0.35)


def test_the_closed_form_of_a_fixed_line_is_what_is_counted():
    config = Config(datasets=4000, prior_precision=40.0, n=4)  # a prior that matters
    simulated = simulate_line(config)
    exact = exact_weights(config, simulated.x, simulated.y)
    x = simulated.x_test[:, :1]
    for level in LEVELS:
        expected = float(line_coverage(config, simulated, x, level).mean())
        counted = float(held(exact, simulated, x, level).mean())
        assert abs(counted - expected) < 5 * (expected * (1 - expected) / 4000) ** 0.5
        assert expected < level - 0.05  # no guarantee without the average over the prior


def test_scores_and_intervals_are_those_of_the_package():
    """The arrays of all data sets give what one posterior's own predictions give."""
    config = Config(datasets=2, fits=2, jobs=1)
    simulated = simulate(config)
    posterior = fit_one("exact", config, simulated.data(1), 0)
    x, y = torch.from_numpy(simulated.x_test[1])[:, None], torch.from_numpy(simulated.y_test[1])
    own = posterior.predict(x)
    found = exact_weights(config, simulated.x, simulated.y)
    whole = found.predictive(simulated.x_test, config.noise)
    targets = torch.from_numpy(simulated.y_test).flatten()
    torch.testing.assert_close(crps(whole, targets)[-len(y) :], crps(own, y))
    nll = -float(whole.log_prob(targets)[-len(y) :].mean())
    assert nll == pytest.approx(regression_scores(own, y)["nll"])


def test_dropout_of_the_input_leaves_two_lines():
    posterior = fit_one("mc-dropout", TINY, simulate(TINY).data(0), 0)
    draws = posterior.draws(400)
    slopes, shares = np.unique(draws["fc1.weight"].flatten().numpy(), return_counts=True)
    assert len(slopes) == 2 and 0.0 in slopes
    assert shares.min() / 400 == pytest.approx(TINY.rate, abs=5 * (0.05 * 0.95 / 400) ** 0.5)
    assert len(draws["fc1.bias"].unique()) == 1


def test_the_binomial_interval_is_that_of_clopper_and_pearson():
    share, low, high = binomial_interval(np.arange(20) < 15)
    assert share == 75
    assert low == pytest.approx(100 * stats.beta.ppf(0.025, 15, 6))
    assert high == pytest.approx(100 * stats.beta.ppf(0.975, 16, 5))


def test_rows_and_tables(results):
    assert results.main.rows == list(TINY.guides)
    for metric in (pattern.format(level) for pattern in (FUNCTION, PREDICTIVE) for level in LEVELS):
        ends = results.main.ends(metric)
        for guide, share in results.main.column(metric).items():
            low, high = ends[guide]
            assert 0 <= low <= share <= high <= 100
    assert results.main.column("datasets") == {guide: TINY.count(guide) for guide in TINY.guides}
    assert results.main["map", FUNCTION.format(0.95)] == 0
    differences, places, line = results.tables
    assert abs(differences["laplace", "nll"]) < 1e-2
    assert differences["map", "nll"] > differences["laplace", "nll"]
    assert places["mean-field", "width 1"] > 1.15
    assert places["mean-field", "width 4"] < 0.85
    assert places["mean-field", "width 0"] < 0.7
    assert line["95 %", "expected"] == pytest.approx(95, abs=0.5)


def test_posteriors_of_the_first_data_set_are_saved(results, tmp_path):
    assert set(results.posteriors) == set(results.inference_data) == set(TINY.guides)
    saved = read_results(write_results(results, EXPERIMENT, tmp_path))
    assert results.checks is not None
    assert saved.all_tables == results.all_tables


def test_findings_and_figures(results):
    text = " ".join(results.findings)
    assert f"{results.main['exact', FUNCTION.format(0.5)]:.1f}" in text
    assert "two lines" in text and "nothing is promised" in text
    names = [figure.name for figure in own_figures(EXPERIMENT.figures(results))]
    assert names == ["function-coverage", "target-coverage", "coverage-along-x", "scores"]


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="must include exact"):
        Config(guides=("map",))
    with pytest.raises(ValueError, match="at most datasets"):
        Config(datasets=5, fits=6)


def test_the_model_is_the_labs_regression():
    model = linear_model(TINY)
    assert [site.describe() for site in model.sites.values()] == [
        "Normal(loc=0, scale=0.707107)"
    ] * 2
