"""Choosing images by measures of uncertainty, and how far measures agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from probml_tp.experiments.images.digit_uncertainty import (
    LEAST,
    MEASURES,
    MOST,
    between_guides,
    by_certainty,
    choose,
    extremes,
    lead_guide,
    measures_of,
    rank_correlation,
    shared_least,
)
from probml_tp.predictions.predictive import ClassificationPredictive


def measures(ratio, entropy):
    return {"variation_ratio": np.array(ratio), "entropy": np.array(entropy)}


def test_the_lead_guide_has_draws():
    assert lead_guide(["map"]) is None
    assert lead_guide(["map", "mean-field", "mc-dropout"]) == "mc-dropout"


def test_measures_are_those_of_the_predictive():
    probs = torch.tensor([[[0.9, 0.1], [0.6, 0.4]], [[0.7, 0.3], [0.2, 0.8]]])  # (S, N, C)
    entropies = torch.special.entr(probs).sum(-1)
    mean, votes = probs.mean(0), torch.tensor([[2, 0], [1, 1]])
    found = measures_of(ClassificationPredictive(2, None, mean, entropies.mean(0), votes))
    assert set(found) == set(MEASURES)
    entropy = stats.entropy(mean.numpy(), axis=1)
    np.testing.assert_allclose(found["entropy"], entropy, rtol=1e-5)
    information = entropy - stats.entropy(probs.numpy(), axis=2).mean(0)
    np.testing.assert_allclose(found["mutual_information"], information, rtol=1e-4)
    np.testing.assert_allclose(found["variation_ratio"], [0, 0.5])
    alone = ClassificationPredictive(1, None, mean, entropies.mean(0), votes)
    assert set(measures_of(alone)) == {"entropy"}


def test_equal_values_are_ordered_by_entropy():
    rng = np.random.default_rng(0)
    ratio, entropy = rng.integers(0, 4, 200) / 4, rng.random(200)
    order = by_certainty(ratio, entropy)
    keys = list(zip(ratio[order], entropy[order], strict=True))
    assert keys == sorted(keys) and sorted(order) == list(range(200))


def test_extremes_start_with_the_most_extreme():
    entropy = np.random.default_rng(0).permutation(100).astype(float)
    found = extremes({"entropy": entropy, "mutual_information": -entropy})
    assert entropy[found["entropy.certain"]].tolist() == list(range(MOST))
    assert entropy[found["entropy.uncertain"]].tolist() == list(range(99, 99 - LEAST, -1))
    np.testing.assert_array_equal(
        found["mutual_information.certain"], found["entropy.uncertain"][:MOST]
    )


def test_each_rule_chooses_its_image():
    entropy = [0.3, 0.2, 0.9, 0.8, 0.1, 0.5]
    ratio = [0.1, 0.0, 0.2, 0.6, 0.0, 0.3]
    correct = np.array([False, True, True, False, True, False])
    assert choose(measures(ratio, entropy), correct) == {
        3: "least certain",
        0: "most confident mistake",
        2: "least certain hit",
        4: "most certain hit",
    }


def test_an_image_asked_for_stands_in_for_the_least_certain():
    found = choose(measures([0.5, 0, 0], [1, 0.2, 0.1]), np.array([True, False, True]), digit=1)
    assert found == {
        1: "chosen, most confident mistake",
        0: "least certain hit",
        2: "most certain hit",
    }


@pytest.mark.parametrize(
    ("correct", "rules"),
    [
        ([True, True], ["least certain, least certain hit", "most certain hit"]),
        ([False, False], ["least certain", "most confident mistake"]),
    ],
)
def test_without_mistakes_or_hits_there_is_none_to_choose(correct, rules):
    found = choose(measures([0.5, 0.0], [0.6, 0.1]), np.array(correct))
    assert list(found.values()) == rules


def test_ties_have_the_mean_of_their_ranks():
    a, b = np.array([0.0, 0.0, 0.0, 0.5, 0.2]), np.array([0.1, 0.3, 0.2, 0.7, 0.9])
    ranks = np.array([2.0, 2.0, 2.0, 5.0, 4.0]), np.array([1.0, 3.0, 2.0, 4.0, 5.0])
    assert rank_correlation(a, b) == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_a_constant_has_no_rank_correlation():
    assert np.isnan(rank_correlation(np.zeros(5), np.arange(5.0)))
    assert np.isnan(rank_correlation(np.arange(5.0), np.ones(5)))


def test_the_share_in_common_is_that_of_sets():
    up = np.arange(100)
    assert shared_least([up, up], 0.05) == 1
    assert shared_least([up, -up], 0.05) == 0
    shifted = (up + 2) % 100  # the largest are 93 to 97
    assert shared_least([up, shifted], 0.05) == pytest.approx(3 / 5)
    assert shared_least([up, shifted, -up], 0.05) == 0


def test_ties_at_the_cut_are_in_random_order():
    rng = np.random.default_rng(0)
    entropy, ratio = rng.random(60), rng.integers(0, 3, 60) * (rng.random(60) < 0.1)
    k, shuffles = 12, 4000
    top = set(np.argsort(entropy)[-k:].tolist())
    shares = []
    for _ in range(shuffles):
        order = np.lexsort((rng.random(60), ratio))
        shares.append(len(top & set(order[-k:].tolist())) / k)
    error = np.std(shares) / shuffles**0.5
    assert abs(shared_least([entropy, ratio], k / 60) - np.mean(shares)) < 5 * error
    assert shared_least([entropy, np.zeros(60)], k / 60) == pytest.approx(k / 60)


def test_guides_without_the_measure_have_no_correlation():
    rng = np.random.default_rng(0)
    values = {"swag": rng.random(50), "mc-dropout": rng.random(50)}
    table = between_guides(values, ["map", "swag", "mc-dropout"])
    expected = stats.spearmanr(values["swag"], values["mc-dropout"]).statistic
    assert table[1, 2] == table[2, 1] == pytest.approx(expected)
    assert np.isnan(table[0]).all() and np.isnan(table[:, 0]).all()
    assert (table[[1, 2], [1, 2]] == 1).all()
