"""The paired bootstrap: each draw equals scikit-learn on weights, or the metric on the resample."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import logit
from scipy.stats import binomtest, norm
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from probml_tp.metrics.bootstrap import RankingMetric, bootstrap, paired_difference
from probml_tp.metrics.detection import auroc, average_precision, fpr_at_tpr
from probml_tp.metrics.selective import augrc, aurc, excess_aurc

METRICS = ("auroc", "aupr", "aupr_negative", "fpr95", "aurc", "e_aurc", "augrc")

SINGLE = {
    "auroc": auroc,
    "aupr": average_precision,
    "aupr_negative": lambda c, y: average_precision(-c, ~y),
    "fpr95": fpr_at_tpr,
    "aurc": aurc,
    "augrc": augrc,
    "e_aurc": excess_aurc,
}


def weighted(metric: str, confidence, positive, w) -> float:
    """By scikit-learn, with the weights as ``sample_weight``."""
    if metric == "auroc":
        return roc_auc_score(positive, confidence, sample_weight=w)
    if metric == "aupr":
        return average_precision_score(positive, confidence, sample_weight=w)
    if metric == "aupr_negative":
        return average_precision_score(~positive, -confidence, sample_weight=w)
    fprs, tprs, _ = roc_curve(positive, confidence, sample_weight=w, drop_intermediate=False)
    return fprs[np.argmax(tprs >= 0.95)]


def resamples(positive, count: int, seed: int) -> list[np.ndarray]:
    """The points of each resample, drawn as documented."""
    rng = np.random.default_rng(seed)
    drawn = []
    while len(drawn) < count:
        chosen = rng.integers(len(positive), size=len(positive))
        if 0 < positive[chosen].sum() < len(positive) or positive.all() or not positive.any():
            drawn.append(chosen)
    return drawn


def random_case(seed: int, *, size: int = 150, levels: int | None = None, shift: float = 1.0):
    rng = np.random.default_rng(seed)
    positive = rng.uniform(size=size) < 0.7
    confidence = shift * positive + rng.normal(size=size)
    return (confidence if levels is None else np.round(confidence * levels) / levels), positive


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("levels", [None, 1])
def test_a_draw_is_the_metric_of_its_resample(metric: RankingMetric, levels):
    confidence, positive = random_case(0, levels=levels)
    result = bootstrap(metric, {"a": torch.tensor(confidence)}, positive, resamples=20, seed=3)
    estimate = result.methods["a"]
    assert estimate.value == pytest.approx(SINGLE[metric](confidence, positive), abs=1e-13)
    for draw, chosen in zip(estimate.draws, resamples(positive, 20, 3), strict=True):
        again = SINGLE[metric](confidence[chosen], positive[chosen])
        assert draw == pytest.approx(again, abs=1e-13)


@pytest.mark.parametrize("metric", ["auroc", "aupr", "aupr_negative", "fpr95"])
@pytest.mark.parametrize("levels", [None, 1])
def test_a_draw_is_scikit_learns_metric_with_sample_weights(metric: RankingMetric, levels):
    confidence, positive = random_case(1, levels=levels)
    draws = bootstrap(metric, {"a": confidence}, positive, resamples=20).methods["a"].draws
    for draw, chosen in zip(draws, resamples(positive, 20, 0), strict=True):
        w = np.bincount(chosen, minlength=len(positive))
        assert draw == pytest.approx(weighted(metric, confidence, positive, w), abs=1e-12)


def test_methods_share_their_resamples():
    confidence, positive = random_case(2)
    other = random_case(3)[0]
    both = bootstrap("auroc", {"a": confidence, "b": other, "c": confidence}, positive)
    alone = bootstrap("auroc", {"b": other}, positive)
    np.testing.assert_array_equal(both.methods["a"].draws, both.methods["c"].draws)
    np.testing.assert_array_equal(both.methods["b"].draws, alone.methods["b"].draws)
    again = bootstrap("auroc", {"b": other}, positive, seed=1)
    assert (again.methods["b"].draws != alone.methods["b"].draws).any()


def test_intervals_are_symmetric_in_the_logit():
    confidence, positive = random_case(4)
    result = bootstrap("aupr", {"a": confidence}, positive, resamples=199, level=0.9)
    estimate = result.methods["a"]
    low, value, high = logit([estimate.low, estimate.value, estimate.high])
    assert value - low == pytest.approx(high - value)
    spread = logit(estimate.draws).std()
    assert high - value == pytest.approx(1.6448536 * spread, rel=1e-6)
    assert (result.metric, result.level, len(estimate.draws)) == ("aupr", 0.9, 199)


def test_an_interval_covers_the_true_value_as_often_as_it_says():
    """AUROC of two unit normals one apart: Phi(1 / sqrt 2)."""
    truth = 0.5 * (1 + math.erf(0.5))
    hits = 0
    for seed in range(200):
        confidence, positive = random_case(seed, size=200)
        estimate = bootstrap(
            "auroc", {"a": confidence}, positive, resamples=100, level=0.8, seed=seed + 1000
        ).methods["a"]
        hits += estimate.low < truth < estimate.high
    assert abs(hits / 200 - 0.8) < 5 * math.sqrt(0.8 * 0.2 / 200)


def test_intervals_of_fpr95_are_percentiles_of_the_draws():
    confidence, positive = random_case(4)
    result = bootstrap("fpr95", {"a": confidence}, positive, resamples=199, level=0.9)
    estimate = result.methods["a"]
    assert (estimate.low, estimate.high) == tuple(np.quantile(estimate.draws, [0.05, 0.95]))
    assert estimate.low < estimate.value < estimate.high


RATE = 0.1
"""The share of errors."""


def true_value(metric: str, apart: float) -> float:
    """Of unit normals, the one of right predictions ``apart`` above the other: by quadrature."""
    if metric == "auroc":
        return float(norm.cdf(apart / math.sqrt(2)))

    def precision(t: float) -> float:
        found, missed = RATE * norm.cdf(t), (1 - RATE) * norm.cdf(t - apart)
        return float(norm.pdf(t) * found / (found + missed))

    return float(quad(precision, -9, 9, limit=200)[0])


@pytest.mark.parametrize(("metric", "apart"), [("auroc", 2.5), ("aupr_negative", 1.5)])
def test_intervals_cover_with_few_errors(metric: RankingMetric, apart: float):
    """400 points, 40 of them errors on average; percentiles of AUROC fall short."""
    truth, hits, by_percentiles, runs = true_value(metric, apart), 0, 0, 400
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        right = rng.uniform(size=400) >= RATE
        confidence = apart * right + rng.normal(size=400)
        result = bootstrap(metric, {"a": confidence}, right, resamples=100, seed=seed)
        estimate = result.methods["a"]
        hits += estimate.low <= truth <= estimate.high
        low, high = np.quantile(estimate.draws, [0.025, 0.975])
        by_percentiles += low <= truth <= high
    share = hits / runs
    ends = binomtest(hits, runs).proportion_ci(0.95, method="exact")
    assert ends.low <= 0.95 <= ends.high
    assert 0.93 <= share <= 0.97
    if metric == "auroc":
        assert by_percentiles / runs < 0.93


def test_a_paired_difference_is_sharper_than_two_intervals():
    confidence, positive = random_case(5, size=1000)
    worse = confidence + 0.5 * np.random.default_rng(6).normal(size=1000)
    result = bootstrap("auroc", {"good": confidence, "worse": worse}, positive)
    good, bad = result.methods["good"], result.methods["worse"]
    difference = paired_difference(result, "good", "worse")
    assert difference.value == good.value - bad.value
    assert (difference.low, difference.high) == tuple(
        np.quantile(good.draws - bad.draws, [0.025, 0.975])
    )
    assert difference.excludes_zero
    assert good.low < bad.high  # the two intervals overlap
    mirrored = paired_difference(result, "worse", "good")
    assert mirrored.low == pytest.approx(-difference.high)
    assert mirrored.excludes_zero
    assert not paired_difference(result, "good", "good").excludes_zero


def test_resamples_of_one_kind_are_drawn_again():
    positive = np.arange(12) > 0
    confidence = np.arange(12.0)
    rng = np.random.default_rng(0)
    lacking = sum(positive[rng.integers(12, size=12)].all() for _ in range(200))
    assert lacking > 50
    draws = bootstrap("auroc", {"a": confidence}, positive, resamples=200).methods["a"].draws
    np.testing.assert_array_equal(draws, 1.0)


@pytest.mark.parametrize(
    ("metric", "right", "expected"),
    [("aurc", True, 0), ("augrc", True, 0), ("aupr", True, 1), ("aurc", False, 1)],
)
def test_what_is_defined_for_one_kind_of_points(metric: RankingMetric, right, expected):
    estimate = bootstrap(metric, {"a": [0.1, 0.2, 0.2]}, [right] * 3, resamples=10).methods["a"]
    assert (estimate.value, estimate.low, estimate.high) == (expected, expected, expected)


@pytest.mark.parametrize(
    ("metric", "right"),
    [("auroc", True), ("auroc", False), ("fpr95", True), ("aupr", False), ("aupr_negative", True)],
)
def test_what_is_undefined_for_one_kind_of_points_is_refused(metric: RankingMetric, right):
    with pytest.raises(ValueError, match=f"{metric} is undefined where all points are of one kind"):
        bootstrap(metric, {"a": [0.1, 0.2]}, [right] * 2)


@pytest.mark.parametrize(
    ("metric", "confidences", "positive", "options", "message"),
    [
        ("accuracy", {"a": [0.1]}, [1], {}, "metric must be one of auroc, aupr"),
        ("aurc", {}, [1], {}, "at least one method"),
        ("aurc", {"a": [0.1, 0.2]}, [1], {}, "the same 1 points; a has 2"),
        ("aurc", {"a": [math.nan]}, [1], {}, "confidence of a must be finite"),
        ("aurc", {"a": [0.1]}, [2], {}, "positive must hold true or false"),
        ("aurc", {"a": [0.1]}, [1], {"resamples": 0}, "resamples must be an integer"),
        ("aurc", {"a": [0.1]}, [1], {"level": 1.0}, "level must lie strictly"),
        ("aurc", {"a": [0.1]}, [1], {"seed": -1}, "seed must be an integer"),
    ],
)
def test_what_does_not_fit_is_refused(metric, confidences, positive, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(metric, confidences, positive, **options)


def test_a_difference_of_unknown_methods_is_refused():
    result = bootstrap("aurc", {"a": [0.1, 0.2]}, [1, 0], resamples=5)
    with pytest.raises(ValueError, match="needs methods of the result, a; got 'b'"):
        paired_difference(result, "a", "b")
