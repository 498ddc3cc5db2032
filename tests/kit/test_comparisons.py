"""Comparisons of methods: over points or seeds, paired, and what their arrays say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from probml_tp.kit.comparisons import Reader, compare, difference_words, spread_words

METRICS = ("auroc", "aupr_error", "aurc")
OPTIONS = {"metrics": METRICS, "references": ("a",), "resamples": 60, "seed": 0}


def one_seed(seed, size=300):
    generator = torch.Generator().manual_seed(seed)
    right = torch.rand(size, generator=generator) < 0.8
    noise = {name: torch.randn(size, generator=generator) for name in "ab"}
    scales = {"a": 0.5, "b": 2.0}
    return {name: right + scales[name] * z for name, z in noise.items()}, right


def test_one_seed_gives_bootstrap_intervals_over_points():
    confidences, right = one_seed(0)
    found = compare([confidences], [right], **OPTIONS)
    for name, c in confidences.items():
        value, low, high = found.estimates[name]["auroc"]
        assert value == pytest.approx(roc_auc_score(right, c))
        assert low < value < high
        expected = average_precision_score(~right, -c)
        assert found.estimates[name]["aupr_error"][0] == pytest.approx(expected)
    gap, low, high = found.differences["a"]["b"]["auroc"]
    assert gap == pytest.approx(found.estimates["b"]["auroc"][0] - found.estimates["a"]["auroc"][0])
    assert high < 0
    assert found.differences["a"]["a"]["auroc"] == (0, 0, 0)


def test_seeds_give_t_intervals_of_means_and_of_paired_differences():
    runs = [one_seed(seed) for seed in range(4)]
    found = compare([c for c, _ in runs], [r for _, r in runs], **OPTIONS)
    values = {n: [roc_auc_score(r, c[n]) for c, r in runs] for n in "ab"}
    for name in "ab":
        interval = stats.t.interval(0.95, 3, np.mean(values[name]), stats.sem(values[name]))
        expected = (np.mean(values[name]), *interval)
        np.testing.assert_allclose(found.estimates[name]["auroc"], expected)
    gaps = np.subtract(values["b"], values["a"])
    interval = stats.t.interval(0.95, 3, gaps.mean(), stats.sem(gaps))
    np.testing.assert_allclose(found.differences["a"]["b"]["auroc"], (gaps.mean(), *interval))


def test_methods_may_judge_predictions_of_their_own():
    confidences, right = one_seed(0)
    own = {"a": right, "b": ~right}
    found = compare([confidences], [own], **{**OPTIONS, "references": ()})
    for name, c in confidences.items():
        assert found.estimates[name]["auroc"][0] == pytest.approx(roc_auc_score(own[name], c))


def test_what_is_undefined_without_mistakes_is_left_out():
    confidences, right = one_seed(0)
    found = compare([confidences], [torch.ones_like(right)], **OPTIONS)
    assert found.estimates["a"] == {"aurc": (0.0, 0.0, 0.0)}
    assert set(found.differences["a"]["b"]) == {"aurc"}


def test_arrays_are_read_back():
    confidences, right = one_seed(0)
    found = compare([confidences], [right], **OPTIONS)
    reader = Reader(found.arrays("x"), "x", reference="a")
    assert reader.labels == ["a", "b"]
    assert reader.value("b", "auroc") == found.estimates["b"]["auroc"][0]
    assert reader.apart("auroc", sign=-1) == ["b"]
    assert reader.apart("auroc", sign=1) == []
    assert "below a [" in reader.words("b", "auroc")
    assert reader.words("a", "auroc", minus="a").startswith("0.0 points above a")
    assert reader.ends("unknown") == {}


def test_scaled_tables_leave_out_intervals_that_do_not_exist():
    confidences, right = one_seed(0)
    found = compare([confidences], [right], **OPTIONS)
    scales = dict.fromkeys(METRICS, 100.0)
    assert found.scaled(scales)["a"]["auroc"] == 100 * found.estimates["a"]["auroc"][0]
    assert set(found.scaled_intervals(scales)["a"]) == set(METRICS)


def test_words():
    assert difference_words(np.array([-0.02, -0.03, 0.01]), "MCP") == (
        "2.0 points below MCP [−3.0, +1.0]"
    )
    assert difference_words(np.array([0.02, np.nan, np.nan]), "MCP") == "2.0 points above MCP"
    assert spread_words({"x": 2.0}, "{:.0f}".format) == "at 2 (x)"
