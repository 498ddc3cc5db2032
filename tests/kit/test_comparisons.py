"""Tables of methods compared: over points or seeds, paired, and what is said of differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from probml_tp.harness.report.tables import metric_table
from probml_tp.kit.comparisons import compare, minus, scale, with_ends

COLUMNS = {"auroc": "AUROC", "aupr_error": "AUPR-Error", "aurc": "AURC"}
OPTIONS = {"columns": COLUMNS, "references": ("a",), "resamples": 60, "seed": 0}


def one_seed(seed, size=300):
    generator = torch.Generator().manual_seed(seed)
    right = torch.rand(size, generator=generator) < 0.8
    noise = {name: torch.randn(size, generator=generator) for name in "ab"}
    scales = {"a": 0.5, "b": 2.0}
    return {name: right + scales[name] * z for name, z in noise.items()}, right


def test_one_seed_gives_bootstrap_intervals_over_points():
    confidences, right = one_seed(0)
    found, differences = compare("T", [confidences], [right], **OPTIONS)
    for name, c in confidences.items():
        assert found[name, "auroc"] == pytest.approx(100 * roc_auc_score(right, c))
        low, high = found.ends("auroc")[name]
        assert low < found[name, "auroc"] < high
        expected = average_precision_score(~right, -c)
        assert found[name, "aupr_error"] == pytest.approx(100 * expected)
    gap = found["b", "auroc"] - found["a", "auroc"]
    assert differences["b", "auroc"] == pytest.approx(gap)
    assert differences.ends("auroc")["b"][1] < 0
    assert with_ends(differences, "auroc")["a"] == (0, 0, 0)


def test_seeds_give_t_intervals_of_means_and_of_paired_differences():
    runs = [one_seed(seed) for seed in range(4)]
    found, differences = compare("T", [c for c, _ in runs], [r for _, r in runs], **OPTIONS)
    values = {n: [100 * roc_auc_score(r, c[n]) for c, r in runs] for n in "ab"}
    for name in "ab":
        interval = stats.t.interval(0.95, 3, np.mean(values[name]), stats.sem(values[name]))
        expected = (np.mean(values[name]), *interval)
        np.testing.assert_allclose(with_ends(found, "auroc")[name], expected)
    gaps = np.subtract(values["b"], values["a"])
    interval = stats.t.interval(0.95, 3, gaps.mean(), stats.sem(gaps))
    np.testing.assert_allclose(with_ends(differences, "auroc")["b"], (gaps.mean(), *interval))


def test_methods_may_judge_predictions_of_their_own():
    confidences, right = one_seed(0)
    own = {"a": right, "b": ~right}
    (found,) = compare("T", [confidences], [own], **{**OPTIONS, "references": ()})
    for name, c in confidences.items():
        assert found[name, "auroc"] == pytest.approx(100 * roc_auc_score(own[name], c))


def test_what_is_undefined_without_mistakes_is_left_out():
    confidences, right = one_seed(0)
    found, differences = compare("T", [confidences], [torch.ones_like(right)], **OPTIONS)
    assert found.row("a") == {"aurc": 0.0}
    assert found.ends("aurc")["a"] == (0.0, 0.0)
    assert set(differences.row("b")) == {"aurc"}


def test_differences_need_both_methods_in_every_seed():
    runs = [one_seed(seed) for seed in range(2)]
    right = {"a": torch.ones_like(runs[0][1]), "b": runs[0][1]}  # the first seed of a: no mistake
    _, differences = compare("T", [c for c, _ in runs], [right, runs[1][1]], **OPTIONS)
    assert ("b", "auroc") not in differences
    assert ("b", "aurc") in differences


def test_differences_are_kept_and_not_shown():
    confidences, right = one_seed(0)
    found, differences = compare("T", [confidences], [right], **OPTIONS)
    assert differences.title == minus("T", "a") == "T, minus a"
    assert found.is_shown and not differences.is_shown
    assert metric_table(differences).header == ()
    assert len(differences.frame) == len(found.frame) == 2 * len(COLUMNS)


def test_shares_are_per_cent_and_areas_under_risk_per_mille():
    confidences, right = one_seed(0)
    found, _ = compare("T", [confidences], [right], **OPTIONS)
    assert {metric: scale(metric) for metric in COLUMNS} == {
        "auroc": 100,
        "aupr_error": 100,
        "aurc": 1000,
    }
    assert all(set(found.ends(metric)) == {"a", "b"} for metric in COLUMNS)
