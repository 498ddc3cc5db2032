"""Selective prediction: hand-worked curves, all orders of ties, the guarantee by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from sklearn.metrics import roc_auc_score

from probml_tp.metrics.selective import (
    augrc,
    aurc,
    excess_aurc,
    risk_coverage,
    selective_threshold,
)

TIED = ([0.9, 0.8, 0.8, 0.8, 0.3], [1, 1, 0, 0, 1])


def aurc_of_an_order(errors) -> float:
    """The mean of the error rates of the first one, two, ... points."""
    return float(np.mean([np.mean(errors[: i + 1]) for i in range(len(errors))]))


def orders(confidence, correct):
    """The errors in every order of falling confidence, each order of ties once."""
    points = range(len(confidence))
    for order in itertools.permutations(points):
        if all(confidence[a] >= confidence[b] for a, b in itertools.pairwise(order)):
            yield [1 - correct[i] for i in order]


def random_case(seed: int, *, size: int = 300, levels: int | None = None):
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(size=size)
    correct = rng.uniform(size=size) < 0.4 + 0.6 * confidence
    return (confidence if levels is None else np.round(confidence * levels) / levels), correct


def test_a_curve_with_ties():
    curve = risk_coverage(*TIED)
    np.testing.assert_allclose(curve.coverage, [0.2, 0.8, 1.0])
    np.testing.assert_allclose(curve.risk, [0.0, 0.5, 0.4])
    np.testing.assert_allclose(curve.threshold, [0.9, 0.8, 0.3])


@pytest.mark.parametrize("levels", [None, 7])
def test_a_curve_is_what_each_threshold_gives(levels):
    confidence, correct = random_case(0, levels=levels)
    curve = risk_coverage(torch.tensor(confidence), torch.tensor(correct))
    assert len(curve.threshold) == len(np.unique(confidence))
    for coverage, risk, threshold in zip(curve.coverage, curve.risk, curve.threshold, strict=True):
        answered = confidence >= threshold
        assert coverage == pytest.approx(answered.mean())
        assert risk == pytest.approx(1 - correct[answered].mean())


def test_aurc_with_ties_is_the_mean_over_their_orders():
    by_order = [aurc_of_an_order(errors) for errors in orders(*TIED)]
    assert len(by_order) == math.factorial(3)
    assert aurc(*TIED) == pytest.approx(np.mean(by_order), abs=1e-14)
    assert max(by_order) - min(by_order) > 0.1


def test_aurc_without_ties_is_the_mean_selective_risk():
    confidence, correct = random_case(1)
    assert aurc(confidence, correct) == pytest.approx(
        risk_coverage(confidence, correct).risk.mean()
    )
    worked = aurc([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1])
    assert worked == pytest.approx((0 + 0 + 1 / 3 + 1 / 4) / 4)


def test_a_constant_confidence_has_the_error_rate_as_its_risk_everywhere():
    assert aurc(np.ones(50), np.arange(50) < 40) == pytest.approx(0.2)
    assert augrc(np.ones(50), np.arange(50) < 40) == pytest.approx(0.2 / 2)


@pytest.mark.parametrize("metric", [aurc, augrc, excess_aurc])
@pytest.mark.parametrize("levels", [None, 5])
def test_areas_see_the_order_of_confidences_and_not_of_the_data(metric, levels):
    confidence, correct = random_case(2, levels=levels)
    shuffled = np.random.default_rng(3).permutation(len(correct))
    value = metric(confidence, correct)
    assert metric(confidence[shuffled], correct[shuffled]) == pytest.approx(value, abs=1e-14)
    assert metric(np.exp(5 * confidence) - 9, correct) == pytest.approx(value, abs=1e-14)
    assert metric(-confidence, correct) > value + 0.02


@pytest.mark.parametrize("levels", [None, 2, 9])
def test_augrc_is_traubs_form_in_auroc_and_accuracy(levels):
    confidence, correct = random_case(4, levels=levels)
    a, auroc = correct.mean(), roc_auc_score(correct, confidence)
    expected = (1 - auroc) * a * (1 - a) + 0.5 * (1 - a) ** 2
    assert augrc(confidence, correct) == pytest.approx(expected, abs=1e-14)


def test_excess_aurc_of_a_perfect_order_vanishes_with_the_number_of_points():
    for n in (100, 10_000):
        perfect = np.arange(n) < 0.8 * n
        excess = excess_aurc(-np.arange(n), perfect)
        assert 0 < excess == pytest.approx(0.2 / (2 * n), rel=0.1)
    optimum = 0.2 + 0.8 * math.log(0.8)
    assert optimum == pytest.approx(0.0214852, abs=1e-7)
    assert aurc(-np.arange(10_000), perfect) == pytest.approx(optimum, abs=1e-4)


@pytest.mark.parametrize("right", [True, False])
def test_only_right_or_only_wrong_predictions(right):
    confidence, correct = [0.9, 0.5, 0.5], [right] * 3
    assert aurc(confidence, correct) == pytest.approx(0 if right else 1)
    assert augrc(confidence, correct) == (0 if right else 0.5)
    assert excess_aurc(confidence, correct) == pytest.approx(0, abs=1e-15)
    np.testing.assert_array_equal(risk_coverage(confidence, correct).risk, 0 if right else 1)
    assert aurc([0.3], [right]) == (0 if right else 1)


# ----------------------------------------------------------------------------------- threshold


def test_the_bound_is_the_exact_binomial_one():
    confidence, correct = random_case(5, size=2000)
    found = selective_threshold(confidence, correct, risk=0.3, delta=0.1, num_thresholds=20)
    answered = confidence > found.threshold
    wrong = int((answered & ~correct).sum())
    assert found.met
    assert found.coverage == answered.mean()
    assert found.risk == wrong / answered.sum()
    assert binom.cdf(wrong, answered.sum(), found.bound) == pytest.approx(0.1 / 20)
    assert found.risk < found.bound <= 0.3
    more = np.sort(confidence)[::-1][int(found.coverage * 2000) + 100]
    errors, count = (~correct[confidence > more]).sum(), (confidence > more).sum()
    assert binom.cdf(errors, count, 0.3) > 0.1 / 20  # the next rank would not have met the target


def test_everything_is_answered_where_that_is_good_enough():
    found = selective_threshold(np.arange(500), np.ones(500), risk=0.05)
    assert (found.threshold, found.coverage, found.risk) == (-math.inf, 1.0, 0.0)
    assert found.bound == pytest.approx(1 - (0.05 / 100) ** (1 / 500))


@pytest.mark.parametrize(
    ("confidence", "correct"),
    [(np.arange(20), np.ones(20)), (np.arange(500), np.zeros(500)), (np.ones(500), np.zeros(500))],
)
def test_nothing_is_answered_where_no_threshold_meets_the_target(confidence, correct):
    found = selective_threshold(confidence, correct, risk=0.05)
    assert not found.met
    assert (found.threshold, found.coverage, found.bound) == (math.inf, 0.0, 0.0)


def test_ties_are_answered_together():
    confidence = np.repeat([3.0, 2.0, 1.0], 1000)
    correct = np.r_[np.ones(1000), np.ones(1000), np.arange(1000) < 500]
    found = selective_threshold(confidence, correct, risk=0.1)
    assert (found.threshold, found.coverage, found.risk) == (1.0, 2 / 3, 0.0)


@pytest.mark.parametrize("levels", [None, 20])
def test_the_guarantee_holds_over_calibration_sets(levels):
    """P(wrong | c) = (1 - c) / 2, c uniform: with all above t answered, the risk is (1 - t) / 4."""
    rng = np.random.default_rng(6)
    target, delta, repeats = 0.1, 0.2, 2000
    failures = naive = 0
    for _ in range(repeats):
        confidence = rng.uniform(size=200)
        correct = rng.uniform(size=200) > (1 - confidence) / 2
        if levels:  # cells [j, j + 1) / levels, known by their lower end
            confidence = np.floor(confidence * levels) / levels
        width = 1 / levels if levels else 0.0
        found = selective_threshold(
            confidence, correct, risk=target, delta=delta, num_thresholds=10
        )
        lower = 0.0 if found.threshold == -math.inf else found.threshold + width
        failures += found.met and (1 - lower) / 4 > target
        curve = risk_coverage(confidence, correct)
        good = curve.threshold[curve.risk <= target]
        naive += len(good) > 0 and (1 - good.min()) / 4 > target
    assert failures / repeats <= delta
    assert naive / repeats > delta + 5 * math.sqrt(delta * (1 - delta) / repeats)


@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        ([0.5, math.nan], [1, 0], "confidence must be finite"),
        ([0.5, -math.inf], [1, 0], "confidence must be finite"),
        ([0.5, 0.6], [1], "for each of the 2 points; got 1"),
        ([0.5, 0.6], [1, 2], "from 1 to 2. Pass a boolean"),
        ([[0.5, 0.6]], [1], r"one number for each point; got shape \(1, 2\)"),
        ([], [], "at least one data point"),
        (["a", "b"], [1, 0], "real numbers"),
    ],
)
@pytest.mark.parametrize(
    "metric",
    [aurc, augrc, excess_aurc, risk_coverage, lambda *a: selective_threshold(*a, risk=0.1)],
)
def test_what_does_not_fit_is_refused(metric, confidence, correct, message):
    with pytest.raises(ValueError, match=message):
        metric(confidence, correct)


@pytest.mark.parametrize("wrong", [{"risk": 0.0}, {"risk": 0.1, "delta": 1.0}])
def test_risk_and_delta_are_probabilities(wrong):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        selective_threshold([0.1, 0.2], [1, 0], **wrong)
