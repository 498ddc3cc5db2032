"""Failure and out-of-distribution detection: hand-worked cases, ties, quadratic loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from probml_tp.metrics.detection import (
    auroc,
    average_precision,
    failure_metrics,
    fpr_at_tpr,
    ood_metrics,
)
from probml_tp.metrics.selective import augrc, aurc, excess_aurc


def random_case(seed: int, levels: int | None):
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(size=200)
    correct = rng.uniform(size=200) < 0.3 + 0.7 * confidence
    return (confidence if levels is None else np.round(confidence * levels) / levels), correct


def pairwise_auroc(score, positive) -> float:
    pairs = [(p, n) for p in score[positive] for n in score[~positive]]
    return sum((p > n) + (p == n) / 2 for p, n in pairs) / len(pairs)


def stepwise_average_precision(score, positive) -> float:
    total = recall = 0.0
    for threshold in sorted(set(score.tolist()), reverse=True):
        flagged = score >= threshold
        new = (flagged & positive).sum() / positive.sum()
        total += (new - recall) * positive[flagged].mean()
        recall = new
    return total


def scanned_fpr(score, positive, tpr) -> float:
    for threshold in sorted(set(score.tolist()), reverse=True):
        if (score[positive] >= threshold).mean() >= tpr:
            return (score[~positive] >= threshold).mean()
    raise AssertionError


@pytest.mark.parametrize("levels", [None, 10, 2])
def test_single_metrics_equal_plain_loops_and_torchmetrics(levels):
    for seed in range(5):
        score, positive = random_case(seed, levels)
        assert auroc(score, positive) == pytest.approx(pairwise_auroc(score, positive))
        ap = average_precision(score, positive)
        assert ap == pytest.approx(stepwise_average_precision(score, positive))
        for tpr in (0.5, 0.8, 0.95):
            assert fpr_at_tpr(score, positive, tpr=tpr) == scanned_fpr(score, positive, tpr)
        tensors = torch.tensor(score), torch.tensor(positive).long()
        assert auroc(score, positive) == pytest.approx(float(binary_auroc(*tensors)), abs=1e-6)
        assert ap == pytest.approx(float(binary_average_precision(*tensors)), abs=1e-6)


def test_average_precision_is_not_the_trapezoid():
    score, positive = [0.4, 0.3, 0.2, 0.1], [1, 0, 0, 1]
    assert average_precision(score, positive) == pytest.approx((1 + 2 / 4) / 2)
    trapezoid = 0.5 * 1 + 0.5 * (1 / 3 + 1 / 2) / 2
    assert trapezoid == pytest.approx(0.7083, abs=1e-4)


def test_failure_metrics_of_a_hand_worked_case():
    # Errors at confidences 0.8 (tied with a right prediction) and 0.2.
    confidence, correct = [0.9, 0.8, 0.8, 0.5, 0.2], [1, 1, 0, 1, 0]
    metrics = failure_metrics(confidence, correct)
    assert list(metrics) == [
        "auroc",
        "aupr_success",
        "aupr_error",
        "fpr95",
        "aurc",
        "e_aurc",
        "augrc",
    ]
    assert metrics["auroc"] == pytest.approx((1 + 1 + 0.5 + 1 + 0 + 1) / 6)
    assert metrics["aupr_success"] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert metrics["aupr_error"] == pytest.approx((1 / 1 + 2 / 4) / 2)
    assert metrics["fpr95"] == 0.5
    assert metrics["aurc"] == pytest.approx((0 + 0.25 + 1 / 3 + 1 / 4 + 2 / 5) / 5)
    assert metrics["e_aurc"] == pytest.approx(metrics["aurc"] - (0.4 + 0.6 * math.log(0.6)))
    assert metrics["augrc"] == augrc(confidence, correct)


def test_right_predictions_are_the_positives_and_the_sign_is_that_of_confidence():
    confidence, correct = random_case(0, None)
    metrics = failure_metrics(torch.tensor(confidence).float(), torch.tensor(correct))
    wrong = failure_metrics(-confidence, correct)
    assert metrics["auroc"] > 0.6 > 0.4 > wrong["auroc"]
    assert metrics["aupr_error"] > (~correct).mean() + 0.1
    assert wrong["aupr_error"] < (~correct).mean()
    assert metrics["fpr95"] == pytest.approx(scanned_fpr(confidence, correct, 0.95))
    assert metrics["fpr95"] != scanned_fpr(-confidence, ~correct, 0.95)


def test_a_confidence_that_says_nothing():
    metrics = failure_metrics(np.zeros(10), np.arange(10) < 8)
    assert metrics["auroc"] == 0.5
    assert metrics["aupr_success"] == pytest.approx(0.8)
    assert metrics["aupr_error"] == pytest.approx(0.2)
    assert metrics["fpr95"] == 1.0
    assert metrics["aurc"] == pytest.approx(0.2)


def test_a_perfect_confidence():
    metrics = failure_metrics([0.9, 0.8, 0.2], [1, 1, 0])
    assert [metrics[name] for name in ("auroc", "aupr_success", "aupr_error")] == [1, 1, 1]
    assert metrics["fpr95"] == 0


@pytest.mark.parametrize(
    ("right", "expected"),
    [
        (True, {"aupr_success": 1, "aurc": 0, "e_aurc": 0, "augrc": 0}),
        (False, {"aupr_error": 1, "aurc": 1, "e_aurc": 0, "augrc": 0.5}),
    ],
)
def test_what_one_kind_of_prediction_leaves_undefined_is_left_out(right, expected):
    metrics = failure_metrics([0.9, 0.8, 0.8], [right] * 3)
    assert metrics == pytest.approx(expected)
    assert list(metrics) == list(expected)
    assert all(math.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("metric", [auroc, fpr_at_tpr])
@pytest.mark.parametrize("kind", [0, 1])
def test_a_single_metric_of_one_kind_of_points_is_refused(metric, kind):
    with pytest.raises(ValueError, match=f"got {2 * kind} positive of 2. Judge more points"):
        metric([0.1, 0.2], [kind, kind])


def test_average_precision_needs_a_positive_point():
    with pytest.raises(ValueError, match="got none among 2"):
        average_precision([0.1, 0.2], [0, 0])
    assert average_precision([0.1, 0.2], [1, 1]) == 1


def test_aurc_excess_and_augrc_are_those_of_selective_prediction():
    confidence, correct = random_case(1, 5)
    metrics = failure_metrics(confidence, correct)
    assert metrics["aurc"] == aurc(confidence, correct)
    assert metrics["e_aurc"] == excess_aurc(confidence, correct)
    assert metrics["augrc"] == augrc(confidence, correct)


# ------------------------------------------------------------------------- out of distribution


def test_ood_metrics_of_a_hand_worked_case():
    known, foreign = [0.9, 0.7, 0.5, 0.4], [0.6, 0.5, 0.1]
    metrics = ood_metrics(known, foreign)
    assert list(metrics) == ["auroc", "aupr_in", "aupr_out", "fpr95"]
    assert metrics["auroc"] == pytest.approx((3 + 3 + 1.5 + 1) / 12)
    assert metrics["aupr_in"] == pytest.approx((1 + 1 + 3 / 5 + 4 / 6) / 4)
    assert metrics["aupr_out"] == pytest.approx((1 / 1 + 2 / 4 + 3 / 5) / 3)
    assert metrics["fpr95"] == pytest.approx(2 / 3)  # 0.4 keeps all known; 0.6 and 0.5 come too
    assert ood_metrics(known, foreign, positive="out")["fpr95"] == pytest.approx(2 / 4)


@pytest.mark.parametrize("levels", [None, 4])
def test_the_two_kinds_swap_with_the_sign(levels):
    score, is_known = random_case(2, levels)
    known, foreign = score[is_known], score[~is_known]
    metrics = ood_metrics(known, foreign)
    mirrored = ood_metrics(-foreign, -known, positive="out")
    assert metrics["auroc"] == pytest.approx(mirrored["auroc"])
    assert metrics["aupr_in"] == pytest.approx(mirrored["aupr_out"])
    assert metrics["aupr_out"] == pytest.approx(mirrored["aupr_in"])
    assert metrics["fpr95"] == mirrored["fpr95"]
    as_failure = failure_metrics(score, is_known)
    assert metrics["fpr95"] == as_failure["fpr95"]
    assert metrics["aupr_out"] == as_failure["aupr_error"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ood_metrics([], [0.1]), "confidence_in must hold at least one"),
        (lambda: ood_metrics([0.1], []), "confidence_out must hold at least one"),
        (lambda: ood_metrics([0.1], [math.nan]), "confidence_out must be finite"),
        (lambda: ood_metrics([0.1], [0.2], positive="ood"), "positive must be 'in' or 'out'"),
        (lambda: failure_metrics([0.1, math.inf], [1, 0]), "confidence must be finite"),
        (lambda: failure_metrics([0.1, 0.2], [1]), "correct must hold"),
        (lambda: auroc([0.1, 0.2], [1, 0.5]), "positive must hold true or false"),
        (lambda: fpr_at_tpr([0.1, 0.2], [1, 0], tpr=1.5), "tpr must lie strictly"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
