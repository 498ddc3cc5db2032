"""nonlinear-regression: far-field limits, where the net's guides start, figures from arrays."""

from dataclasses import replace

import arviz as az
import numpy as np
import pytest
import torch
from own_figures import own_figures
from stage_recorder import StageRecorder

from probml_tp import Exact, NormalPrior, fit
from probml_tp.datasets import sine_data
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.lines.model_choice import FAMILIES
from probml_tp.experiments.lines.nonlinear_regression import (
    EXPERIMENT,
    GUIDES,
    Config,
    bases,
    mlp_model,
)
from probml_tp.experiments.lines.nonlinear_regression_figures import doubtful_range
from probml_tp.guides.recipes import guides_for, start_of
from probml_tp.harness.experiment import Results, run_experiment
from probml_tp.harness.results import read_results, write_results
from probml_tp.models import linear_regression
from probml_tp.plots.regression import Band
from probml_tp.posterior import Posterior

TINY = Config(
    test_size=100,
    num_samples=60,
    hidden=5,
    epochs=300,
    members=2,
    swag_epochs=20,
    warmup=15,
    draws=20,
    max_tree_depth=3,
    jobs=1,
    max_degree=5,
    max_bumps=4,
    training_sets=2,
)
CURVATURE = guides_for("layers", families=("curvature",), without=("laplace-diagonal",))


@pytest.fixture(scope="module")
def recorder():
    return StageRecorder()


@pytest.fixture(scope="module")
def results(recorder):
    return run_experiment(EXPERIMENT, TINY, progress=recorder)


@pytest.fixture(scope="module")
def figures(results):
    bare = Results(**{**vars(results), "posteriors": {}, "inference_data": {}})
    return list(EXPERIMENT.figures(bare))


def band(results, row):
    return Band.from_arrays(results.arrays, row)


def features(name, x):
    """The labs' bases, written out."""
    if name == "polynomial":
        return x[:, None] ** np.arange(11)
    return np.exp(-0.5 * ((x[:, None] - np.arange(9) / 9) * 9) ** 2)


@pytest.mark.parametrize("name", ["polynomial", "gaussian"])
def test_the_bases_have_their_closed_form(results, name):
    x, y, own = results.arrays["x"], results.arrays["y"], band(results, f"{name}-exact")
    phi, at = features(name, x), features(name, own.x)
    factor = np.linalg.cholesky(0.05 * np.eye(phi.shape[1]) + 25 * phi.T @ phi)
    mean = at @ np.linalg.solve(factor.T, np.linalg.solve(factor, 25 * phi.T @ y))
    variance = (np.linalg.solve(factor, at.T) ** 2).sum(0)
    scale = np.abs(at).sum(1)
    assert (np.abs(own.mean - mean) <= 1e-6 * (np.abs(mean) + scale)).all()
    np.testing.assert_allclose(own.epistemic_variance, variance, rtol=1e-5, atol=1e-12)


def test_far_out_the_gaussian_basis_is_as_sure_as_its_noise(results):
    own = band(results, "gaussian-exact")
    far = (own.x < -0.6) | (own.x > 1.5)
    assert np.abs(own.variance[far] - 0.04).max() < 1e-4 * 0.04
    assert np.abs(own.mean[far]).max() < 0.02
    low, high = doubtful_range(own, 0.2)
    assert -0.6 < low < results.arrays["x"].min() and results.arrays["x"].max() < high < 1.5


def test_where_nothing_is_doubtful_the_finding_says_so(results):
    own = band(results, "gaussian-exact")
    assert doubtful_range(replace(own, epistemic_variance=0 * own.x), 0.2) is None


def test_far_out_the_polynomial_diverges_with_its_degree():
    config = replace(TINY, degree=4)
    model = linear_regression(
        bases(config)["polynomial"], prior=NormalPrior.from_precision(0.05), likelihood=0.2
    )
    posterior = fit(model, Exact, sine_data(dtype=torch.float64), progress=False)
    x = torch.tensor([[1e4], [2e4]], dtype=torch.float64)
    near, far = posterior.predict(x).epistemic_variance
    assert float((far / near).log2()) == pytest.approx(2 * 4, abs=1e-2)


def test_the_process_is_back_at_its_prior_where_the_gaussian_basis_knows_all(results):
    variance, lengthscale = results.arrays["gp-rbf.hyperparameters"]
    own, x = band(results, "gp-rbf"), results.arrays["x"]
    far = (own.x < x.min() - 5 * lengthscale) | (own.x > x.max() + 5 * lengthscale)
    np.testing.assert_allclose(own.epistemic_variance[far], variance, rtol=1e-4)
    assert far[0] and far[-1]
    basis = band(results, "gaussian-exact")
    assert basis.epistemic_variance[far].max() < 1e-3 * variance
    assert results.main["gp · rbf", "epistemic_far"] == pytest.approx(variance**0.5, rel=1e-3)


def test_the_polynomial_leaves_the_range_of_the_data(results):
    own = band(results, "polynomial-exact")
    assert own.variance[-1] > 1e6 * 0.04 and own.variance[0] > 1e4 * 0.04
    assert ("polynomial · exact", "epistemic_far") not in results.main
    assert results.main["gaussian · exact", "epistemic_far"] < 1e-6


def test_every_row_is_complete(results):
    nets = [f"mlp · {guide}" for guide in GUIDES]
    rows = ["polynomial · exact", "gaussian · exact", *nets, "gp · rbf"]
    assert sorted(results.main.rows) == sorted(rows)
    for row in map(results.main.row, rows):
        assert {"rmse", "nll", "coverage", "epistemic_inside", "seconds"} <= set(row)
        assert set(row) <= set(results.main.columns)
        assert all(np.isfinite(value) for value in row.values())


def test_the_guides_start_at_the_map_estimate():
    assert {guide for guide in GUIDES if start_of(guide, TINY.settings) is None} == {
        "deep-ensemble",
        "map",
    }
    assert {start_of(guide, TINY.settings) for guide in set(GUIDES) - {"multi-swag"}} == {
        "map",
        None,
    }


def test_laplace_sits_at_the_mode_and_counts_its_time(results):
    mode, laplace = (results.posteriors[f"mlp-{g}"].guide.loc for g in ("map", "laplace"))
    model, x, y = mlp_model(TINY), results.arrays["x"][:, None], results.arrays["y"]
    data = model.check_data(x, y)
    with torch.no_grad():
        at_mode, at_laplace = (model.log_joint_flat(u, *data) for u in (mode, laplace))
    assert at_laplace >= at_mode - 1e-6
    seconds = {guide: results.main[f"mlp · {guide}", "seconds"] for guide in GUIDES}
    own = {"map", "deep-ensemble", "multi-swag"}
    assert all(seconds[guide] > seconds["map"] for guide in GUIDES if guide not in own)
    assert seconds["multi-swag"] > seconds["deep-ensemble"]


def test_every_laplace_is_around_the_map_estimate(results):
    mode = results.posteriors["mlp-map"].guide.loc
    for guide in CURVATURE:
        assert torch.equal(results.posteriors[f"mlp-{guide}"].guide.loc, mode)


def test_multi_swag_wanders_about_the_members_of_the_ensemble(results):
    ensemble, swag = (
        results.posteriors[f"mlp-{guide}"].guide.members
        for guide in ("deep-ensemble", "multi-swag")
    )
    assert len(ensemble) == len(swag) == TINY.members
    distances = torch.stack([torch.stack([(s.loc - m.loc).norm() for m in ensemble]) for s in swag])
    assert distances.argmin(1).tolist() == list(range(TINY.members))


def test_only_map_has_no_epistemic_uncertainty(results):
    for guide in GUIDES:
        inside = results.main[f"mlp · {guide}", "epistemic_inside"]
        assert inside == 0 if guide == "map" else inside > 1e-3


def test_the_linearised_net_predicts_like_the_mode(results):
    mode, linear = band(results, "mlp-map"), band(results, "mlp-laplace-linearized")
    np.testing.assert_allclose(linear.mean, mode.mean, atol=1e-2)


def test_only_guides_with_a_density_have_an_elbo(results):
    has = {guide for guide in GUIDES if (f"mlp · {guide}", "elbo") in results.main}
    normal = guides_for(families=("normal",))
    assert has == {*CURVATURE, *normal, "swag", "multi-swag"} - {"laplace-last-layer"}
    evidence = {g for g in GUIDES if (f"mlp · {g}", "log_evidence") in results.main}
    assert evidence == set(CURVATURE)


def test_every_fit_is_a_stage_and_each_is_entered_once(results, recorder):
    assert {f"mlp: {guide}" for guide in GUIDES} <= set(recorder.stages)
    assert len(set(recorder.stages)) == len(recorder.stages)
    assert set(results.timings) == set(recorder.stages)


def test_the_net_is_started_at_map_even_if_its_row_is_not_asked_for():
    config = replace(TINY, guides=("laplace-linearized",))
    recorder = StageRecorder()
    results = run_experiment(EXPERIMENT, config, progress=recorder)
    fits = [stage for stage in recorder.stages if stage.startswith("mlp")]
    assert fits == ["mlp: map", "mlp: laplace-linearized"]
    assert "mlp · map" not in results.main.rows
    assert len(own_figures(EXPERIMENT.figures(results))) == 6
    assert not any("NUTS" in finding for finding in results.findings)


def test_findings_are_computed_from_the_numbers(results):
    text = " ".join(results.findings)
    r_hat = az.rhat(results.inference_data["mlp-nuts"]["log_likelihood"])["y"]
    assert f"the largest R-hat is {float(r_hat.max()):.3f}" in text
    assert f"{results.main['mlp · laplace', 'rmse']:.2f}" in text
    assert "10¹²" in text or "10¹¹" in text
    alpha, beta = results.arrays["model choice.plane.type-two"]
    assert f"finds α = {alpha:.2f} and a noise SD of {beta**-0.5:.3f}" in text
    criteria = [results.arrays[f"model choice.{name}.criteria"] for name in FAMILIES]
    chosen = np.concatenate([one.argmin(-1) for one in criteria])
    same = (chosen[:, 0] == chosen[:, 1]).sum()
    assert f"the same candidate in {same} of {len(chosen)} cases" in text
    assert all(sentence.endswith(".") for sentence in results.findings)


def test_figures_need_the_arrays_only(figures):
    assert [figure.name for figure in figures] == [
        "bases", "net-by-guide", "far-field", "far-field-laws", "model-choice", "evidence-plane",
        "predictive-checks", "training-losses",
    ]  # fmt: skip
    for figure in figures:
        assert any(character.isdigit() for character in figure.title)
    for figure in own_figures(figures):
        assert figure.figure.legends


def test_every_panel_can_be_read(figures):
    for figure in figures:
        axes = [ax for ax in figure.figure.axes if ax.get_visible() and ax.get_subplotspec()]
        assert all(ax.get_xlabel() for ax in axes if ax.get_subplotspec().is_last_row())
        assert all(ax.get_ylabel() for ax in axes if ax.get_subplotspec().is_first_col())


def test_the_limit_is_drawn_where_it_is(figures, results):
    far = next(figure for figure in figures if figure.name == "far-field")
    for ax in far.figure.axes:
        limits = [line for line in ax.lines if line.get_label() == "limit σ²"]
        prior = [line for line in ax.lines if line.get_label() == "prior of the process + σ²"]
        variance = results.arrays["gp-rbf.hyperparameters"][0]
        assert set(prior[0].get_ydata()) == {variance + 0.2**2}
        assert len(limits) == 1 and set(limits[0].get_ydata()) == {0.04000000000000001}
        low, high = ax.get_xlim()
        assert (low, high) == (-2.0, 3.0)


def test_results_are_saved_and_posteriors_come_back(results, tmp_path):
    folder = write_results(results, EXPERIMENT, tmp_path)
    assert len(own_figures(read_results(folder).figures)) == 6
    loaded = Posterior.load(folder / "posteriors" / "mlp-mc-dropout.safetensors", mlp_model(TINY))
    own = results.posteriors["mlp-mc-dropout"]
    x = torch.tensor([[0.3]], dtype=torch.float64)
    assert torch.equal(loaded.predict(x).mean, own.predict(x).mean)


def test_the_registry_knows_it():
    assert EXPERIMENTS["nonlinear-regression"] is EXPERIMENT
    assert EXPERIMENTS.summary("nonlinear-regression") == EXPERIMENT.summary
