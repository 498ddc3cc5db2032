"""Conformal sets: quantiles by hand, coverage over many calibration sets, metrics of sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from probml_tp.metrics.conformal import conformal_sets, set_metrics
from probml_tp.predictions.predictive import ClassificationPredictive

METHODS = ("lac", "aps", "raps")


def classes(probs) -> ClassificationPredictive:
    probs = torch.as_tensor(probs, dtype=torch.float64)
    return ClassificationPredictive(
        num_samples=1,
        outputs=None,
        probs=probs,
        expected_entropy=torch.zeros(len(probs)),
        votes=torch.zeros(probs.shape, dtype=torch.long),
    )


def draw(seed: int, size: int, *, temperature: float = 1.0, num_classes: int = 6):
    """Labels that follow probabilities, and those probabilities made over- or underconfident."""
    rng = np.random.default_rng(seed)
    truth = rng.dirichlet(0.4 * np.ones(num_classes), size=size)
    labels = (truth.cumsum(1) < rng.uniform(size=(size, 1))).sum(1).clip(max=num_classes - 1)
    tilted = truth ** (1 / temperature)
    return tilted / tilted.sum(1, keepdims=True), labels


def split(seed: int, calibration: int, test: int, **options):
    probs, y = draw(seed, calibration + test, **options)
    first, rest = slice(None, calibration), slice(calibration, None)
    return classes(probs[first]), y[first], classes(probs[rest]), y[rest]


@pytest.mark.parametrize(("n", "coverage"), [(50, 0.8), (200, 0.9), (37, 0.5)])
def test_lac_compares_with_a_quantile_taken_by_hand(n, coverage):
    known, y, new, _ = split(0, n, 300)
    scores = np.sort(1 - known.probs.numpy()[range(n), y])
    threshold = scores[math.ceil((n + 1) * coverage) - 1]
    sets = conformal_sets(known, y, new, coverage=coverage)
    expected = 1 - new.probs.numpy() <= threshold + 1e-8
    assert sets.dtype == torch.bool
    np.testing.assert_array_equal(sets.numpy(), expected)


def test_aps_adds_probabilities_until_the_quantile_taken_by_hand():
    n, coverage, seed = 80, 0.9, 3
    known, y, new, _ = split(1, n, 300)
    stream = np.random.RandomState(seed)

    def scores(probs, u):
        order = np.argsort(-probs, axis=1)
        falling = np.take_along_axis(probs, order, axis=1)
        score = falling.cumsum(1) - u[:, None] * falling
        return np.take_along_axis(score, np.argsort(order, axis=1), axis=1)

    calibration = scores(known.probs.numpy(), stream.uniform(size=n))[range(n), y]
    threshold = np.sort(calibration)[math.ceil((n + 1) * coverage) - 1]
    expected = scores(new.probs.numpy(), stream.uniform(size=300)) <= threshold
    sets = conformal_sets(known, y, new, coverage=coverage, method="aps", seed=seed).numpy()
    assert (sets == expected).mean() > 0.999  # rounding at the threshold
    other = conformal_sets(known, y, new, coverage=coverage, method="aps", seed=4).numpy()
    assert (sets == other).mean() < 0.99


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("temperature", [0.4, 2.5])
def test_coverage_is_kept_however_wrong_the_confidence(method, temperature):
    repeats, n, coverage = 40, 100, 0.8
    hits = []
    for seed in range(repeats):
        known, y, new, y_new = split(seed, n, 400, temperature=temperature)
        sets = conformal_sets(known, y, new, coverage=coverage, method=method, seed=seed)
        hits.append(set_metrics(sets, y_new)["coverage"])
    error = np.std(hits) / math.sqrt(repeats)
    assert np.mean(hits) > coverage - 5 * error
    if method != "raps":  # exact up to 1 / (n + 1)
        assert np.mean(hits) < coverage + 1 / (n + 1) + 5 * error


@pytest.mark.parametrize("temperature", [0.4, 2.5])
def test_taking_the_probabilities_at_their_word_does_not_cover(temperature):
    probs, y = draw(0, 20_000, temperature=temperature)
    order = np.argsort(-probs, axis=1)
    falling = np.take_along_axis(probs, order, axis=1)
    kept = falling.cumsum(1) - falling < 0.8  # the fewest labels that add up to 0.8
    naive = np.take_along_axis(kept, np.argsort(order, axis=1), axis=1)
    coverage = set_metrics(torch.from_numpy(naive), y)["coverage"]
    assert abs(coverage - 0.8) > 0.05


@pytest.mark.parametrize("method", METHODS)
def test_saturated_wrong_predictions_are_covered_too(method):
    """An eighth of the labels has a probability of 1e-12; a tenth may be missed."""
    y = np.arange(400) % 3
    predicted = np.where(np.arange(400) % 8 == 0, (y + 1) % 3, y)
    predictive = classes(np.where(np.arange(3) == predicted[:, None], 1 - 1e-12, 1e-12))
    sets = conformal_sets(predictive, y, predictive, coverage=0.9, method=method)
    assert set_metrics(sets, y)["coverage"] >= 0.9


def test_a_class_missing_from_the_calibration_points_is_allowed():
    known, y, new, _ = split(2, 200, 50)
    present = y != 5
    known = classes(known.probs[present])
    for method in METHODS:
        sets = conformal_sets(known, y[present], new, method=method)
        assert sets.shape == (50, 6)


def test_higher_coverage_gives_larger_sets():
    known, y, new, _ = split(3, 300, 200)
    for method in METHODS:
        small, large = (
            conformal_sets(known, y, new, coverage=level, method=method) for level in (0.6, 0.95)
        )
        assert (small <= large).all()
        assert large.sum() > small.sum() + 100


# ---------------------------------------------------------------------------- metrics of sets


def test_metrics_of_a_hand_worked_case():
    sets = np.zeros((6, 12), dtype=bool)
    sets[0, 0] = sets[1, 1] = True
    sets[2, :2] = sets[3, :3] = True
    sets[4, :] = True
    metrics = set_metrics(sets, [0, 0, 1, 5, 11, 3])
    assert metrics["coverage"] == 3 / 6
    assert metrics["size"] == pytest.approx((1 + 1 + 2 + 3 + 12 + 0) / 6)
    assert metrics["empty"] == 1 / 6
    assert metrics["singleton"] == 2 / 6
    # Sizes 0-1: one of three; 2-3: one of two; above 10: all.
    assert metrics["size_stratified_coverage"] == pytest.approx(1 / 3)


# -------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coverage": 1.0}, "coverage must lie strictly between 0 and 1"),
        ({"coverage": 0.99}, "needs at least 100 calibration points; got 60"),
        ({"method": "top_k"}, "method must be one of lac, aps, raps; got 'top_k'"),
        ({"method": "raps", "coverage": 0.95}, "by raps needs at least 100 calibration points"),
        ({"seed": -1}, "seed must be an integer"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    known, _, new, _ = split(0, 60, 5)
    with pytest.raises(ValueError, match=message):
        conformal_sets(known, np.arange(60) % 6, new, **options)


def test_predictions_that_do_not_fit_are_refused():
    known, y, new, _ = split(0, 60, 5)
    with pytest.raises(ValueError, match="one label from 0 to 5 for each of the 60 points"):
        conformal_sets(known, y[:59], new)
    with pytest.raises(ValueError, match="must have the same classes; got 6 and 2"):
        conformal_sets(known, y, classes([[0.5, 0.5]]))
    with pytest.raises(ValueError, match="aps needs three classes or more among the calibration"):
        conformal_sets(known, y % 2, new, method="aps")
    lone = np.where(np.arange(60) == 0, 5, np.arange(60) % 5)
    with pytest.raises(ValueError, match="class 5 has one"):
        conformal_sets(known, lone, new, method="raps")


@pytest.mark.parametrize(
    ("sets", "y", "message"),
    [
        ([[1, 0]], [0], "sets must be a boolean array"),
        ([True, False], [0, 1], "sets must be a boolean array"),
        ([[True, False]], [0, 1], r"for each of the 1 sets; got shape \(2,\)"),
        ([[True, False]], [2], "values from 2 to 2"),
    ],
)
def test_sets_and_labels_that_do_not_fit_are_refused(sets, y, message):
    with pytest.raises(ValueError, match=message):
        set_metrics(sets, y)
