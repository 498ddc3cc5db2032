"""The two experiments on tables of scikit-learn at a tiny size: splits, claims, figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from own_figures import own_figures
from sklearn.linear_model import BayesianRidge, LogisticRegression

from probml_tp import BayesianModel, Exact, FlatPrior, Gaussian, NormalPrior, fit
from probml_tp.experiments import EXPERIMENTS
from probml_tp.experiments.tables import tabular_classification, tabular_regression
from probml_tp.experiments.tables.kit import (
    TABLES,
    Split,
    load_table,
    make_split,
    put_means,
    split_sizes,
)
from probml_tp.guides.recipes import FitSettings, SwagPath, fit_all
from probml_tp.harness.experiment import Results, Table, run_experiment
from probml_tp.harness.results import read_results, write_results
from probml_tp.metrics.over_runs import resampled_interval
from probml_tp.models import logistic_regression
from probml_tp.predictions.predictive import ClassificationPredictive, RegressionPredictive

REGRESSION = tabular_regression.Config.preset(
    "quick", splits=2, hidden=4, epochs=20, warmup=8, draws=10, max_tree_depth=3, num_samples=20
)
CLASSIFICATION = tabular_classification.Config.preset(
    "quick", data=("wine", "breast-cancer"), hidden=4, epochs=10, num_samples=20, gp_points=60
)


@pytest.fixture(scope="module")
def regression() -> Results[tabular_regression.Config]:
    return run_experiment(tabular_regression.EXPERIMENT, REGRESSION)


@pytest.fixture(scope="module")
def classification() -> Results[tabular_classification.Config]:
    return run_experiment(tabular_classification.EXPERIMENT, CLASSIFICATION)


# ----------------------------------------------------------------------------------- the splits


@pytest.mark.parametrize("name", list(TABLES))
def test_a_split_is_standardised_by_its_training_points(name):
    split, sizes = make_split(name, 0, REGRESSION), split_sizes(name, REGRESSION)
    (x, y), (x_test, y_test) = split.train, split.test
    assert (len(x), len(x_test)) == (sizes["train_size"], sizes["test_size"])
    assert len(x) + len(x_test) == len(load_table(name)[0])
    sd = x.std(0, correction=0)
    torch.testing.assert_close(x.mean(0), torch.zeros_like(sd), atol=1e-9, rtol=0)
    assert bool(((sd - 1).abs().lt(1e-9) | sd.eq(0)).all())
    assert float(x_test.mean(0).abs().max()) > 1e-3  # the test points did not take part
    if name == "diabetes":
        assert float(y.mean()) == pytest.approx(0, abs=1e-9)
        assert float(split.y_scale) > 50
    else:
        assert not y.is_floating_point() and set(y.tolist()) == set(y_test.tolist())


def test_splits_differ_and_are_reproducible():
    first, again, other = (make_split("wine", index, REGRESSION) for index in (0, 0, 1))
    assert torch.equal(first.train[0], again.train[0])
    assert not torch.equal(first.train[1], other.train[1])
    moved = make_split("wine", 0, tabular_regression.Config(seed=1))
    assert not torch.equal(first.train[1], moved.train[1])


def test_means_and_paired_differences_have_the_corrected_interval():
    runs = [
        Table("", "", {"a": {"nll": 1.0, "seconds": 1.0}, "b": {"nll": 0.9, "seconds": 1.0}}),
        Table("", "", {"a": {"nll": 3.0, "seconds": 2.0}, "b": {"nll": 2.7, "seconds": 1.0}}),
        Table("", "", {"a": {"nll": 2.0, "seconds": 2.0}}),
    ]
    sizes = {"train_size": 8, "test_size": 2}
    means, less = Table("", ""), Table("", "")
    put_means(means, runs, {"nll": "nll", "seconds": "seconds"}, sizes)
    assert means["a", "nll"] == 2.0 and means["b", "nll"] == pytest.approx(1.8)
    assert means.ends("nll")["a"] == resampled_interval([1.0, 3.0, 2.0], **sizes).interval
    assert means.column("seconds") and not means.ends("seconds")
    put_means(less, runs[:2], {"by nll": "nll"}, sizes, less="a")
    assert less.rows == ["b"] and less["b", "by nll"] == pytest.approx(-0.2)
    ends = resampled_interval([-0.1, -0.3], **sizes).interval
    assert less.ends("by nll")["b"] == pytest.approx(ends)


# ------------------------------------------------------------------- beside scikit-learn's own


def test_exact_under_bayesian_ridges_precisions_is_bayesian_ridge():
    split = make_split("diabetes", 0, REGRESSION)
    (x, y), (x_test, _) = split.train, split.test
    ridge = BayesianRidge(fit_intercept=False).fit(x.numpy(), y.numpy())
    net = torch.nn.Linear(x.shape[1], 1, bias=False, dtype=torch.float64)
    prior = NormalPrior.from_precision(float(ridge.lambda_))
    model = BayesianModel(net, prior, Gaussian.from_precision(float(ridge.alpha_)))
    predictive = fit(model, Exact, (x, y), progress=False).predict(x_test)
    mean, sd = ridge.predict(x_test.numpy(), return_std=True)
    np.testing.assert_allclose(predictive.mean, mean, atol=1e-6)
    np.testing.assert_allclose(predictive.std, sd, rtol=1e-6)
    assert not np.allclose(predictive.std, 1.01 * sd, rtol=1e-6)


def test_exact_with_a_flat_intercept_predicts_bayesian_ridges_mean():
    split = make_split("diabetes", 1, REGRESSION)
    ridge = BayesianRidge().fit(split.train[0].numpy(), split.train[1].numpy() + 3)
    net = torch.nn.Linear(split.train[0].shape[1], 1, dtype=torch.float64)
    prior = {"weight": NormalPrior.from_precision(float(ridge.lambda_)), "bias": FlatPrior()}
    model = BayesianModel(net, prior, Gaussian.from_precision(float(ridge.alpha_)))
    data = (split.train[0], split.train[1] + 3)
    predictive = fit(model, Exact, data, progress=False).predict(split.test[0])
    expected = ridge.predict(split.test[0].numpy())
    np.testing.assert_allclose(predictive.mean, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["breast-cancer", "wine"])
def test_map_of_logistic_regression_is_scikit_learns_with_c_1(name):
    split = make_split(name, 0, CLASSIFICATION)
    (x, y), (x_test, _) = split.train, split.test
    prior = {"weight": NormalPrior(1.0), "bias": NormalPrior(1e3)}
    model = logistic_regression(x.shape[1], prior=prior, num_classes=int(y.max()) + 1)
    path = SwagPath(lr=1.0, epochs=1, batch_size=1)
    recipes = FitSettings(epochs=1, lr=1.0, rounds=5, swag=path)
    posterior = fit_all(["map"], model, split.train, recipes)["map"]
    library = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(x.numpy(), y.numpy())
    expected = library.predict_proba(x_test.numpy())
    np.testing.assert_allclose(posterior.predict(x_test).probs, expected, atol=1e-4)


def test_scores_come_back_in_the_targets_own_units():
    """A normal predictive stretched to the target's units, judged there."""
    split = make_split("diabetes", 0, REGRESSION)
    n, s, m = len(split.test[1]), split.y_scale, split.y_mean
    mean, variance = torch.full((n,), 0.3).double(), torch.full((n,), 0.8).double()
    found = tabular_regression.scores(
        RegressionPredictive(0, None, mean, 0 * mean, variance), split
    )
    y = split.test[1] * s + m
    own = torch.distributions.Normal(0.3 * s + m, math.sqrt(0.8) * s)
    assert found["nll"] == pytest.approx(-float(own.log_prob(y).mean()))
    assert found["rmse"] == pytest.approx(float((y - 0.3 * s - m).square().mean().sqrt()))
    inside = (own.cdf(y) - 0.5).abs() <= 0.4
    assert found["coverage 0.8"] == pytest.approx(100 * float(inside.double().mean()))


# ------------------------------------------------------------------------------ the experiments


@pytest.mark.parametrize("name", ["tabular-regression", "tabular-classification"])
def test_they_are_the_registered_experiments(name):
    assert EXPERIMENTS[name].name == name
    assert EXPERIMENTS[name].summary == EXPERIMENTS.summary(name)


def test_the_exact_posterior_by_evidence_is_about_bayesian_ridge(regression):
    less = regression.tables[0]
    assert abs(less["linear · exact", "rmse"]) < 0.5 and abs(less["linear · exact", "nll"]) < 0.01
    low, high = less.ends("nll")["linear · exact"]
    assert high - low < 0.2


def test_everything_beats_a_constant_on_diabetes(regression):
    """The target's standard deviation is 77: that is the RMSE of its mean."""
    nll = regression.main.column("nll")
    for row, rmse in regression.main.column("rmse").items():
        if row != "linear · nuts":  # a chain of ten draws
            assert rmse < 70, row
            assert nll[row] < 0.5 * math.log(2 * math.pi * math.e * 77**2), row


def test_nuts_has_one_split_only_and_no_interval(regression):
    assert "linear · nuts" in regression.main.rows
    assert "linear · nuts" not in regression.main.ends("nll")
    split = make_split("diabetes", 1, REGRESSION)
    guides = [tabular_regression.fits(split, REGRESSION, k)["linear"].guides for k in (0, 1)]
    assert set(guides[0]) - set(guides[1]) == {"nuts"}
    assert "linear, NUTS: the first 1" in regression.findings[-1]


def test_scikit_learn_stands_beside_the_guides(classification):
    for table in classification.tables[:2]:
        library = table["scikit-learn · LogisticRegression", "nll"]
        assert table["logistic · map", "nll"] == pytest.approx(library, abs=0.02)
        assert all(0.5 < accuracy <= 1 for accuracy in table.column("accuracy").values())
        assert all(math.isfinite(nll) for nll in table.column("nll").values())


def test_confidence_is_compared_with_accuracy():
    probs = torch.tensor([[0.9, 0.1], [0.6, 0.4]], dtype=torch.float64)
    predictive = ClassificationPredictive(0, None, probs, None, None)
    test = (torch.zeros(2, 1), torch.tensor([0, 1]))
    found = tabular_classification.scores(predictive, Split(test, test))
    assert found["gap"] == pytest.approx(0.75 - 0.5)


def test_ranks_and_wins_over_tables_and_splits(classification):
    ranks, wins = (classification.main.column(metric) for metric in ("rank", "wins"))
    assert sum(ranks.values()) == pytest.approx(13 * 14 / 2)
    assert "scikit-learn · LogisticRegression" not in wins
    assert all(share % 12.5 == 0 for share in wins.values())  # of 4 splits
    assert any("critical difference" in finding for finding in classification.findings)


def test_one_table_has_no_ranks():
    config = tabular_classification.Config.preset(
        "quick", data=("wine",), net_guides=("map",), logistic_guides=("map",), hidden=2
    )
    results = run_experiment(tabular_classification.EXPERIMENT, config)
    assert ("mlp · map", "rank") not in results.main
    assert "ranks" not in [f.name for f in tabular_classification.EXPERIMENT.figures(results)]


def test_results_are_saved_with_posteriors_of_one_split(regression, classification, tmp_path):
    for results in (regression, classification):
        assert set(results.posteriors) == set(results.inference_data)
        assert not any(name.startswith("scikit") for name in results.posteriors)
    saved = read_results(write_results(regression, tabular_regression.EXPERIMENT, tmp_path))
    assert saved.main == regression.main


def test_figures(regression, classification):
    figures = own_figures(tabular_regression.EXPERIMENT.figures(regression))
    names = [figure.name for figure in figures]
    assert names == ["differences", "coverage"]
    figures = own_figures(tabular_classification.EXPERIMENT.figures(classification))
    names = [figure.name for figure in figures]
    assert names == ["wine", "breast-cancer", "nll-differences", "ranks"]
    assert regression.findings[0].startswith("RMSE runs from")
