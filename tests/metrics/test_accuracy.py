"""Metrics: hand-worked cases, independent implementations, extreme predictions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.metrics import brier_score_loss

from probml_tp import (
    BayesianModel,
    Categorical,
    Delta,
    Exact,
    Gaussian,
    MeanFieldNormal,
    NormalPrior,
    fit,
)
from probml_tp.metrics import (
    brier_score,
    classification_metrics,
    classification_scores,
    crps,
    expected_calibration_error,
    regression_metrics,
    regression_scores,
    total_variation,
)
from probml_tp.metrics.calibration import classwise_calibration_error, reliability
from probml_tp.posterior import Posterior
from probml_tp.predictions.predictive import ClassificationPredictive, RegressionPredictive


def classes(probs) -> ClassificationPredictive:
    probs = torch.as_tensor(probs)
    return ClassificationPredictive(
        num_samples=1,
        outputs=None,
        probs=probs,
        expected_entropy=torch.zeros(len(probs)),
        votes=torch.zeros(probs.shape, dtype=torch.long),
    )


def naive_ece(probs: np.ndarray, labels: np.ndarray, num_bins: int) -> float:
    """A loop over bins closed on the left, the last on both sides."""
    confidence, hit = probs.max(1), probs.argmax(1) == labels
    total = 0.0
    for b in range(num_bins):
        low, high = b / num_bins, (b + 1) / num_bins
        inside = (confidence >= low) & ((confidence < high) | (b == num_bins - 1))
        if inside.any():
            total += inside.sum() * abs(hit[inside].mean() - confidence[inside].mean())
    return total / len(labels)


@pytest.fixture(scope="module")
def random_predictions() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(0.3 * np.ones(4), size=500)
    labels = np.array([rng.choice(4, p=p) for p in probs])
    return probs, labels


@pytest.fixture
def classifier() -> BayesianModel:
    torch.manual_seed(0)
    return BayesianModel(torch.nn.Linear(2, 3), NormalPrior(1.0), Categorical(3))


@pytest.fixture
def regressor() -> BayesianModel:
    return BayesianModel(torch.nn.Linear(1, 1).double(), NormalPrior(1.0), Gaussian(scale=0.5))


# ------------------------------------------------------------------------------ classification


def test_classification_scores_of_a_hand_worked_case():
    predictive = classes([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]])
    scores = classification_scores(predictive, [0, 1, 1, 1])
    assert scores["accuracy"] == 0.75
    nll = -(math.log(0.9) + math.log(0.4) + math.log(0.7) + math.log(0.8)) / 4
    assert scores["nll"] == pytest.approx(nll, abs=1e-6)
    assert scores["brier"] == pytest.approx(2 * (0.01 + 0.36 + 0.09 + 0.04) / 4, abs=1e-6)
    # Each confidence (0.9, 0.6, 0.7, 0.8) is alone in its bin of width 1/15.
    assert scores["ece"] == pytest.approx((0.1 + 0.6 + 0.3 + 0.2) / 4, abs=1e-6)


def test_points_of_one_bin_balance_each_other():
    predictive = classes([[0.61, 0.39], [0.65, 0.35], [0.62, 0.38]])
    error = expected_calibration_error(predictive, [0, 0, 1])
    assert error == pytest.approx(abs(2 / 3 - (0.61 + 0.65 + 0.62) / 3), abs=1e-6)


def rational_error(p: torch.Tensor, happened: torch.Tensor, edges: list[Fraction]):
    """The calibration error without rounding, and how many points each bin holds."""
    gaps: dict[int, list[Fraction]] = {}
    for value, hit in zip(p.tolist(), happened.tolist(), strict=True):
        bin_ = sum(edge <= Fraction(value) for edge in edges)
        gaps.setdefault(bin_, []).append(Fraction(value) - hit)
    error = sum(abs(sum(inside)) for inside in gaps.values()) / len(p)
    return float(error), [len(gaps[b]) for b in sorted(gaps)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_bins", [3, 7, 10, 15, 20])
def test_confidences_on_and_beside_edges_are_binned_by_the_definition(dtype, num_bins):
    """Against rational arithmetic, at the numbers nearest to each edge and their neighbours."""
    edges = torch.arange(1, num_bins, dtype=torch.float64).div(num_bins).to(dtype)
    one = torch.ones((), dtype=dtype)
    p = torch.cat([torch.nextafter(edges, 0 * one), edges, torch.nextafter(edges, one), one[None]])
    p = p[p > 0.5]
    right = torch.arange(len(p)) % 3 > 0
    predictive = classes(torch.stack([1 - p, p], -1))
    exact = dtype is torch.float32  # in float64 an edge is the double nearest to b / B
    edges = [Fraction(b, num_bins) if exact else Fraction(b / num_bins) for b in range(1, num_bins)]
    error, counts = rational_error(p, right, edges)
    assert expected_calibration_error(predictive, right, num_bins=num_bins) == pytest.approx(error)
    bins = reliability(predictive, right, num_bins=num_bins)
    assert (bins.error, bins.count.tolist()) == (pytest.approx(error), counts)
    by_class = rational_error(1 - p, ~right, edges)[0] + error
    ours = classwise_calibration_error(predictive, right, num_bins=num_bins)
    assert ours == pytest.approx(by_class / 2)


def test_a_bin_is_closed_on_the_left():
    predictive = classes(torch.tensor([[0.75, 0.25], [0.70, 0.30]], dtype=torch.float64))
    together = abs(0.5 - 0.725)
    apart = (abs(0 - 0.75) + abs(1 - 0.70)) / 2
    assert expected_calibration_error(predictive, [1, 0], num_bins=2) == pytest.approx(together)
    assert expected_calibration_error(predictive, [1, 0], num_bins=4) == pytest.approx(apart)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_confidence_of_one_belongs_to_the_last_bin(dtype):
    probs = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.96, 0.04], [0.96, 0.04]], dtype=dtype)
    error = expected_calibration_error(classes(probs), [0, 1, 0, 0])
    assert error == pytest.approx(abs(0.75 - 0.98), abs=1e-6)
    in_a_bin_of_its_own = (2 * abs(0.5 - 1.0) + 2 * abs(1.0 - 0.96)) / 4
    assert in_a_bin_of_its_own == pytest.approx(0.27)


def test_metrics_equal_independent_implementations(random_predictions):
    probs, labels = random_predictions
    scores = classification_scores(classes(probs), labels)
    brier = brier_score_loss(labels, probs, labels=range(4), scale_by_half=False)
    assert scores["accuracy"] == np.mean(probs.argmax(1) == labels)
    assert scores["brier"] == pytest.approx(brier, abs=1e-12)
    assert scores["nll"] == pytest.approx(-np.log(probs[range(500), labels]).mean(), abs=1e-12)
    assert scores["ece"] == pytest.approx(naive_ece(probs, labels, 15), abs=1e-5)


@pytest.mark.parametrize("label", [0, 1])
def test_labels_of_one_class_only(label):
    scores = classification_scores(classes([[0.8, 0.2], [0.9, 0.1]]), [label, label])
    right, wrong = (0.04 + 0.01), (0.64 + 0.81)
    assert scores["accuracy"] == 1 - label
    assert scores["brier"] == pytest.approx(wrong if label else right, abs=1e-6)
    assert scores["ece"] == pytest.approx(0.85 if label else 0.15, abs=1e-6)
    assert all(math.isfinite(value) for value in scores.values())


def test_a_perfect_and_a_perfectly_wrong_prediction():
    right = classification_scores(classes([[1.0, 0.0]]), [0])
    assert right == {"accuracy": 1.0, "nll": 0.0, "brier": 0.0, "ece": pytest.approx(0, abs=1e-7)}
    assert brier_score(classes([[1.0, 0.0]]), [1]) == 2.0


def test_nll_of_a_saturated_prediction_is_finite(classifier):
    with torch.no_grad():
        classifier.net.weight.copy_(1000 * torch.eye(3)[:, :2])
        classifier.net.bias.zero_()
    posterior = Posterior(Delta(classifier))
    x = torch.tensor([[1.0, 0.0]])
    assert posterior.predict(x).probs[0, 1] == 0
    scores = classification_metrics(posterior, x, [1])
    assert scores == {"accuracy": 0.0, "nll": 1000.0, "brier": 2.0, "ece": pytest.approx(1)}


def test_draws_that_agree_do_not_add_rounding(classifier):
    with torch.no_grad():
        classifier.net.bias.copy_(torch.tensor([40.0, 0.0, 0.0]))
    posterior = Posterior(MeanFieldNormal(classifier, init_scale=1e-12))
    predictive = posterior.predict(torch.zeros(5, 2), num_samples=77)
    assert (predictive.probs[:, 0] == 1).all()
    assert (predictive.log_probs[:, 0] == 0).all()
    torch.testing.assert_close(
        predictive.log_probs[:, 1:], torch.full((5, 2), -40.0).double(), rtol=1e-6, atol=0
    )


def test_nll_is_that_of_the_mean_probability(classifier):
    posterior = Posterior(MeanFieldNormal(classifier, init_scale=3.0))
    x, y = torch.randn(60, 2), torch.arange(60) % 3
    nll = classification_metrics(posterior, x, y, num_samples=40)["nll"]
    density = posterior.log_predictive_density(x, y, num_samples=40)
    assert nll == pytest.approx(-float(density.mean()), abs=1e-6)
    mean_of_logs = -float(posterior.log_likelihood(x, y, num_samples=40).mean())
    assert mean_of_logs > nll + 0.1


def test_metrics_of_a_posterior_are_the_scores_of_its_predictions(classifier):
    posterior = Posterior(MeanFieldNormal(classifier, init_scale=1.0), seed=3)
    x, y = torch.randn(20, 2), torch.arange(20) % 3
    scores = classification_scores(posterior.predict(x, num_samples=7), y)
    assert classification_metrics(posterior, x, y, num_samples=7) == scores
    assert classification_metrics(posterior, x, y, num_samples=7, seed=4) != scores


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 0], "one label from 0 to 1 for each of the 2 points"),
        ([0, 2], "values from 0 to 2"),
        ([0, -1], "values from -1 to 0"),
        ([0.5, 1.0], "one label"),
        ([0.0, math.nan], "must be finite"),
    ],
)
def test_wrong_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        classification_scores(classes([[0.8, 0.2], [0.9, 0.1]]), labels)


def test_wrong_models_and_bins_are_refused(classifier, regressor):
    with pytest.raises(ValueError, match="Use regression_metrics"):
        classification_metrics(Posterior(Delta(regressor)), [[0.0]], [0.0])
    with pytest.raises(ValueError, match="Use classification_metrics"):
        regression_metrics(Posterior(Delta(classifier)), torch.zeros(1, 2), [0])
    with pytest.raises(ValueError, match="num_bins must be an integer"):
        expected_calibration_error(classes([[0.8, 0.2]]), [0], num_bins=0)


def test_total_variation():
    p = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0], [0.1, 0.2, 0.7]])
    q = torch.tensor([[0.2, 0.3, 0.5], [0.0, 0.5, 0.5], [0.1, 0.2, 0.7]])
    torch.testing.assert_close(total_variation(p, q), torch.tensor([0.3, 1.0, 0.0]))
    assert torch.equal(total_variation(p, q), total_variation(q, p))
    with pytest.raises(ValueError, match="Predict both at the same points"):
        total_variation(p, q[:2])


# ---------------------------------------------------------------------------------- regression


def test_regression_scores_of_a_hand_worked_case():
    predictive = RegressionPredictive(
        num_samples=0,
        outputs=None,
        mean=torch.tensor([0.0, 1.0], dtype=torch.float64),
        epistemic_variance=torch.tensor([1.0, 3.0], dtype=torch.float64),
        aleatoric_variance=torch.tensor([0.0, 1.0], dtype=torch.float64),
    )
    scores = regression_scores(predictive, [3.0, 0.0], level=0.8)
    assert scores["rmse"] == pytest.approx(math.sqrt((9 + 1) / 2))
    nll = -(norm.logpdf(3.0, 0, 1) + norm.logpdf(0.0, 1, 2)) / 2
    assert scores["nll"] == pytest.approx(nll)
    assert scores["coverage"] == 0.5  # 3 lies outside 0 +- 1.28, 0 inside 1 +- 2.56


def test_the_density_of_draws_is_that_of_their_mixture(regressor):
    posterior = Posterior(MeanFieldNormal(regressor, init_scale=2.0))
    x, y = torch.linspace(-2, 2, 50).unsqueeze(-1), torch.linspace(-1, 3, 50)
    scores = regression_metrics(posterior, x, y, num_samples=30)
    density = posterior.log_predictive_density(x, y, num_samples=30)
    assert scores["nll"] == pytest.approx(-float(density.mean()), abs=1e-12)
    predictive = posterior.predict(x, num_samples=30, keep_outputs=True)
    assert regression_scores(predictive, y) == scores


def test_a_closed_form_predictive_is_judged_itself_and_covers_as_it_says(regressor):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4000, 1, generator=generator, dtype=torch.float64)
    noise = 0.5 * torch.randn(4000, generator=generator, dtype=torch.float64)
    y = 0.3 * x[:, 0] - 0.2 + noise
    posterior = fit(regressor, Exact, (x[:50], y[:50]), progress=False)
    few, many = (regression_metrics(posterior, x, y, level=0.8, num_samples=n) for n in (2, 50))
    assert few == many
    standard_error = math.sqrt(0.8 * 0.2 / 4000)
    assert abs(many["coverage"] - 0.8) < 5 * standard_error
    assert abs(many["coverage"] - 0.9) > 5 * standard_error


def test_several_targets():
    model = BayesianModel(torch.nn.Linear(1, 2).double(), NormalPrior(1.0), Gaussian(scale=0.5))
    posterior = Posterior(MeanFieldNormal(model, init_scale=0.5))
    x, y = torch.linspace(-1, 1, 9).unsqueeze(-1), torch.randn(9, 2)
    scores = regression_metrics(posterior, x, y, num_samples=20)
    density = posterior.log_predictive_density(x, y, num_samples=20)
    assert scores["nll"] == pytest.approx(-float(density.mean()), abs=1e-12)
    assert 0 <= scores["coverage"] <= 1


def test_targets_that_do_not_fit_and_outputs_not_kept_are_refused(regressor):
    posterior = Posterior(MeanFieldNormal(regressor))
    predictive = posterior.predict(torch.zeros(3, 1), num_samples=5, keep_outputs=True)
    with pytest.raises(ValueError, match=r"must have the shape of the predictions, \(3,\)"):
        regression_scores(predictive, [0.0, 1.0])
    with pytest.raises(ValueError, match="y must be finite"):
        regression_scores(predictive, [0.0, 1.0, math.inf])
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        regression_scores(predictive, [0.0, 1.0, 2.0], level=1.0)
    with pytest.raises(ValueError, match="keep_outputs=True"):
        regression_scores(posterior.predict(torch.zeros(3, 1)), [0.0, 1.0, 2.0])
    column = regression_scores(predictive, [[0.0], [1.0], [2.0]])
    assert column == regression_scores(predictive, [0.0, 1.0, 2.0])


# ------------------------------------------------------------------------------------------- CRPS


def integrated_crps(means, scales, y: float) -> float:
    """The integral that defines the score, by quadrature, for a mixture of normals."""

    def below(z: float) -> float:
        return float(norm.cdf(z, means, scales).mean())

    low, high = float((means - 12 * scales).min()), float((means + 12 * scales).max())
    left, right = min(low, y), max(high, y)
    first = quad(lambda z: below(z) ** 2, left, y, limit=300, epsabs=1e-11)[0]
    return first + quad(lambda z: (1 - below(z)) ** 2, y, right, limit=300, epsabs=1e-11)[0]


def mixture(means, scales) -> RegressionPredictive:
    """A predictive of given components ``(S, N[, d])``."""
    return RegressionPredictive(
        num_samples=len(means),
        outputs=means,
        mean=means.mean(0),
        epistemic_variance=means.var(0, correction=0),
        aleatoric_variance=scales.square().mean(0),
        component_means=means,
        component_scales=scales,
    )


@pytest.mark.parametrize("components", [1, 4])
def test_crps_is_the_integral_that_defines_it(components):
    generator = torch.Generator().manual_seed(components)
    means = torch.randn(components, 3, generator=generator, dtype=torch.float64)
    scales = 0.2 + torch.rand(components, 3, generator=generator, dtype=torch.float64)
    y = torch.tensor([-2.0, 0.1, 5.0], dtype=torch.float64)
    expected = [
        integrated_crps(means[:, n].numpy(), scales[:, n].numpy(), float(y[n])) for n in range(3)
    ]
    assert crps(mixture(means, scales), y).tolist() == pytest.approx(expected, abs=1e-8)


def test_crps_of_equal_components_is_that_of_one_normal_and_chunks_change_nothing(monkeypatch):
    means = torch.zeros(3, 5, 2, dtype=torch.float64)
    y = torch.linspace(-1, 1, 10, dtype=torch.float64).reshape(5, 2)
    normal = RegressionPredictive(0, None, means[0], means[0], torch.ones_like(means[0]))
    many = mixture(means, torch.ones_like(means))
    torch.testing.assert_close(crps(many, y), crps(normal, y))
    whole = crps(many, y)
    monkeypatch.setattr("probml_tp.metrics.accuracy.MAX_PAIRS", 9)
    torch.testing.assert_close(crps(many, y), whole)


def test_crps_is_proper_and_tends_to_the_absolute_error():
    """The truth N(0, 1) scores better than a shifted, a wider and a narrower normal."""
    grid = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    weights = torch.from_numpy(norm.pdf(grid.numpy())) * (grid[1] - grid[0])

    def expected(mean: float, sd: float) -> float:
        m, v = torch.full_like(grid, mean), torch.full_like(grid, sd**2)
        predictive = RegressionPredictive(0, None, m, torch.zeros_like(m), v)
        return float(crps(predictive, grid) @ weights)

    best = expected(0.0, 1.0)
    assert best == pytest.approx(1 / math.sqrt(math.pi))
    assert all(expected(*other) > best + 1e-3 for other in [(0.3, 1.0), (0.0, 1.3), (0.0, 0.7)])
    one = torch.ones(1, dtype=torch.float64)
    point = RegressionPredictive(0, None, one, 0 * one, 1e-16 * one)
    assert float(crps(point, 3 * one)) == pytest.approx(2.0, abs=1e-7)


def test_crps_needs_the_outputs_and_fitting_targets(regressor):
    with pytest.raises(ValueError, match="keep_outputs"):
        crps(Posterior(MeanFieldNormal(regressor)).predict(torch.zeros(2, 1)), [0.0, 0.0])
