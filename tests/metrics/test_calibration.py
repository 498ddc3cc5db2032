"""Calibration: hand-worked bins, independent implementations, temperatures against a grid."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from probml_tp import BayesianModel, Categorical, Delta, MeanFieldNormal, NormalPrior
from probml_tp.metrics import expected_calibration_error
from probml_tp.metrics.calibration import (
    TEMPERATURES,
    TemperatureScaling,
    adaptive_calibration_error,
    classwise_calibration_error,
    reliability,
)
from probml_tp.posterior import Posterior
from probml_tp.predictions.predictive import ClassificationPredictive


def classes(probs) -> ClassificationPredictive:
    probs = torch.as_tensor(probs, dtype=torch.float64)
    return ClassificationPredictive(
        num_samples=1,
        outputs=None,
        probs=probs,
        expected_entropy=torch.zeros(len(probs)),
        votes=torch.ones(probs.shape, dtype=torch.long),
    )


def binary(confidence) -> ClassificationPredictive:
    """Class 0 predicted with the given confidences."""
    p = torch.as_tensor(confidence, dtype=torch.float64)
    return classes(torch.stack([p, 1 - p], 1))


@pytest.fixture(scope="module")
def predictions() -> tuple[ClassificationPredictive, np.ndarray]:
    """Overconfident ones: the labels follow the probabilities at twice the temperature."""
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(600, 4))
    truth = torch.tensor(logits / 2).softmax(1).numpy()
    labels = np.array([rng.choice(4, p=p) for p in truth])
    return classes(torch.tensor(logits).softmax(1)), labels


# -------------------------------------------------------------------------------- reliability


def test_bins_of_equal_width_by_hand():
    bins = reliability(binary([0.5, 0.55, 0.8, 0.9, 1.0]), [0, 1, 0, 0, 1], num_bins=5)
    np.testing.assert_allclose(bins.low, [0.4, 0.8])
    np.testing.assert_allclose(bins.high, [0.6, 1.0])
    np.testing.assert_array_equal(bins.count, [2, 3])
    np.testing.assert_allclose(bins.confidence, [0.525, 0.9])
    np.testing.assert_allclose(bins.accuracy, [0.5, 2 / 3])
    assert bins.error == pytest.approx((2 * 0.025 + 3 * (0.9 - 2 / 3)) / 5)


@pytest.mark.parametrize("num_bins", [1, 4, 15])
def test_equal_width_bins_give_the_expected_calibration_error(num_bins, predictions):
    ece = expected_calibration_error(*predictions, num_bins=num_bins)
    bins = reliability(*predictions, num_bins=num_bins)
    assert bins.error == pytest.approx(ece, abs=1e-6)
    assert bins.count.sum() == 600
    assert (bins.low <= bins.confidence).all()
    assert (bins.confidence <= bins.high).all()


def test_adaptive_bins_hold_equally_many_points(predictions):
    predictive, labels = predictions
    bins = reliability(predictive, labels, num_bins=7, adaptive=True)
    assert set(bins.count.tolist()) == {85, 86}
    order = np.argsort(predictive.confidence.numpy())
    right = (predictive.predicted_class.numpy() == labels)[order]
    confidence = predictive.confidence.numpy()[order]
    edges = [600 * j // 7 for j in range(8)]
    gaps = [abs(right[a:b].sum() - confidence[a:b].sum()) for a, b in itertools.pairwise(edges)]
    error = adaptive_calibration_error(predictive, labels, num_bins=7)
    assert error == pytest.approx(sum(gaps) / 600, abs=1e-12)


def test_adaptive_bins_do_not_part_ties():
    confidence, labels = [0.6, 0.7, 0.8, 1.0, 1.0, 1.0], [0, 1, 0, 0, 0, 1]
    bins = reliability(binary(confidence), labels, num_bins=6, adaptive=True)
    np.testing.assert_array_equal(bins.count, [1, 1, 1, 3])
    np.testing.assert_allclose(bins.accuracy, [1, 0, 1, 2 / 3])
    halves = reliability(binary(confidence), labels, num_bins=2, adaptive=True)
    np.testing.assert_array_equal(halves.count, [3, 3])
    np.testing.assert_array_equal(halves.low, [0.6, 1.0])
    np.testing.assert_array_equal(halves.high, [1.0, 1.0])
    shuffled = [4, 2, 5, 0, 3, 1]
    predictive = binary(np.array(confidence)[shuffled])
    again = adaptive_calibration_error(predictive, np.array(labels)[shuffled], num_bins=6)
    assert again == pytest.approx(bins.error, abs=1e-15)


def test_one_confidence_for_all_is_one_bin():
    bins = reliability(binary([0.75] * 4), [0, 0, 0, 1], num_bins=10, adaptive=True)
    np.testing.assert_array_equal(bins.count, [4])
    assert bins.error == 0
    assert adaptive_calibration_error(binary([1.0]), [1]) == 1.0


# ---------------------------------------------------------------------------------- classwise


def test_classwise_error_equals_a_plain_loop(predictions):
    predictive, labels = predictions
    probs = predictive.probs.numpy()
    total = 0.0
    for c in range(4):
        for b in range(15):
            inside = np.floor(probs[:, c] * 15).clip(max=14) == b
            if inside.any():
                total += abs((labels[inside] == c).sum() - probs[inside, c].sum())
    error = classwise_calibration_error(predictive, labels)
    assert error == pytest.approx(total / 600 / 4, abs=1e-6)
    assert error != pytest.approx(expected_calibration_error(predictive, labels), abs=1e-3)


def test_classwise_error_of_saturated_probabilities():
    predictive = classes([[1.0, 0.0, 0.0]] * 4)
    error = classwise_calibration_error(predictive, [0, 0, 0, 1])
    assert error == pytest.approx((0.25 + 0.25 + 0) / 3, abs=1e-6)


# -------------------------------------------------------------------------------- temperature


def nll_at(temperature: float, predictive: ClassificationPredictive, labels) -> float:
    log_probs = (predictive.log_probs / temperature).log_softmax(1)
    return -float(log_probs[range(len(labels)), labels].mean())


def test_the_temperature_is_the_best_on_a_grid(predictions):
    predictive, labels = predictions
    temperature = TemperatureScaling.fit(predictive, labels).temperature
    grid = np.exp(np.linspace(math.log(0.5), math.log(8), 501))
    best = min(grid, key=lambda t: nll_at(t, predictive, labels))
    assert temperature == pytest.approx(best, rel=math.log(16) / 500)
    at_optimum = nll_at(temperature, predictive, labels)
    assert all(at_optimum <= nll_at(t, predictive, labels) + 1e-15 for t in grid)
    assert temperature == pytest.approx(2, abs=0.3)


def test_scaling_repairs_what_was_overconfident(predictions):
    predictive, labels = predictions
    scaled = TemperatureScaling.fit(predictive, labels).apply(predictive)
    before, after = (expected_calibration_error(p, labels) for p in (predictive, scaled))
    assert after < before / 2
    assert torch.equal(scaled.predicted_class, predictive.predicted_class)
    torch.testing.assert_close(scaled.log_probs.exp().sum(1), torch.ones(600).double())
    again = TemperatureScaling.fit(scaled, labels).temperature
    assert again == pytest.approx(1, abs=1e-9)


def test_temperatures_multiply_and_one_changes_nothing(predictions):
    predictive, _ = predictions
    twice = TemperatureScaling(2.0).apply(TemperatureScaling(3.0).apply(predictive))
    torch.testing.assert_close(twice.log_probs, TemperatureScaling(6.0).apply(predictive).log_probs)
    torch.testing.assert_close(TemperatureScaling(1.0).apply(predictive).probs, predictive.probs)


def test_for_a_point_estimate_it_is_the_logits_that_are_scaled():
    torch.manual_seed(0)
    model = BayesianModel(torch.nn.Linear(2, 3), NormalPrior(1.0), Categorical(3))
    x = torch.randn(10, 2)
    scaled = TemperatureScaling(2.5).apply(Posterior(Delta(model)).predict(x))
    torch.testing.assert_close(scaled.probs, (model.net(x) / 2.5).softmax(1).detach())


def test_it_scales_the_mean_probability_of_any_posterior():
    torch.manual_seed(0)
    model = BayesianModel(torch.nn.Linear(2, 3), NormalPrior(1.0), Categorical(3))
    posterior = Posterior(MeanFieldNormal(model, init_scale=2.0))
    predictive = posterior.predict(torch.randn(10, 2), num_samples=30, keep_outputs=True)
    scaled = TemperatureScaling(0.5).apply(predictive)
    squared = predictive.probs.square()
    torch.testing.assert_close(scaled.probs, squared / squared.sum(1, keepdim=True))
    assert scaled.probs.dtype == torch.float32
    assert scaled.outputs is None
    torch.testing.assert_close(scaled.variation_ratio, predictive.variation_ratio)
    with pytest.raises(ValueError, match="mutual information"):
        scaled.mutual_information  # noqa: B018


def test_where_the_likelihood_has_no_maximum_the_temperature_is_an_end_of_the_range():
    assert TemperatureScaling.fit(binary([0.9, 0.8]), [0, 0]).temperature == TEMPERATURES[0]
    assert TemperatureScaling.fit(binary([0.9, 0.8]), [1, 1]).temperature == TEMPERATURES[1]


def test_impossible_classes_stay_impossible():
    predictive = classes([[0.9, 0.1, 0.0]] * 4)
    scaling = TemperatureScaling.fit(predictive, [0, 0, 0, 1])
    assert scaling.temperature == pytest.approx(2, abs=1e-9)  # odds 9 to odds 3
    expected = torch.tensor([[0.75, 0.25, 0.0]] * 4).double()
    torch.testing.assert_close(scaling.apply(predictive).probs, expected)
    with pytest.raises(ValueError, match="1 of 4 labels have probability 0"):
        TemperatureScaling.fit(predictive, [0, 0, 0, 2])


@pytest.mark.parametrize(
    "metric",
    [reliability, adaptive_calibration_error, classwise_calibration_error, TemperatureScaling.fit],
)
def test_labels_that_do_not_fit_are_refused(metric):
    with pytest.raises(ValueError, match="one label from 0 to 1 for each of the 2 points"):
        metric(binary([0.9, 0.8]), [0, 2])


def test_bins_and_temperatures_are_positive():
    with pytest.raises(ValueError, match="num_bins must be an integer"):
        reliability(binary([0.9]), [0], num_bins=0)
    with pytest.raises(ValueError, match="num_bins must be an integer"):
        classwise_calibration_error(binary([0.9]), [0], num_bins=0)
    with pytest.raises(ValueError, match="temperature must be a positive finite number"):
        TemperatureScaling(0.0)
