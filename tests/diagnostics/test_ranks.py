"""Tests of uniform ranks: by enumeration, by simulation, and against ArviZ."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from arviz.stats.ecdf_utils import ecdf_confidence_band
from scipy import stats

from probml_tp.diagnostics import (
    RankUniformity,
    ecdf_band,
    rank_uniformity,
    symmetry_p_value,
    uniform_p_value,
)

SIZES = [(50, 19), (200, 99), (30, 99)]


def below(ranks, num_samples):
    """For each row of ranks, how many are below i = 1, ..., L."""
    return (ranks[..., None] < np.arange(1, num_samples + 1)).sum(-2)


def uniform_ranks(n, num_samples, *, rows, seed):
    return np.random.default_rng(seed).integers(num_samples + 1, size=(rows, n))


def share_inside(ranks, num_samples, band):
    n = ranks.shape[1]
    counts = below(ranks, num_samples)
    low, high = (np.round(n * bound).astype(int) for bound in band)
    return ((counts >= low) & (counts <= high)).all(1)


def gamma(ranks, num_samples):
    """The statistic as the paper defines it."""
    n, z = len(ranks), np.arange(1, num_samples + 1) / (num_samples + 1)
    counts = below(ranks, num_samples)
    tails = np.minimum(stats.binom.cdf(counts, n, z), 1 - stats.binom.cdf(counts - 1, n, z))
    return 2 * tails.min()


def test_the_p_value_is_that_of_all_possible_ranks():
    n, num_samples = 5, 3
    every = [np.array(ranks) for ranks in product(range(num_samples + 1), repeat=n)]
    gammas = np.array([gamma(ranks, num_samples) for ranks in every])
    for ranks, own in list(zip(every, gammas, strict=True))[::17]:
        expected = np.mean(gammas <= own * (1 + 1e-9))
        assert uniform_p_value(ranks, num_samples) == pytest.approx(expected, rel=1e-10)


def test_a_tiny_p_value_keeps_its_digits():
    """All ranks 0: only that and its mirror image have so small a gamma."""
    n, num_samples = 40, 9
    expected = 2 * 10.0**-n
    assert uniform_p_value(np.zeros(n), num_samples) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("n", "num_samples"), SIZES)
def test_the_band_holds_the_whole_ecdf_with_its_nominal_probability(n, num_samples):
    trials, level = 4000, 0.95
    inside = share_inside(
        uniform_ranks(n, num_samples, rows=trials, seed=1), num_samples, ecdf_band(n, num_samples)
    ).mean()
    error = np.sqrt(level * (1 - level) / trials)
    assert level - 5 * error < inside < level + 0.01 + 5 * error  # counts are whole numbers


def test_a_pointwise_band_does_not():
    n, num_samples, trials = 200, 99, 2000
    z = np.arange(1, num_samples + 1) / (num_samples + 1)
    band = [bound / n for bound in stats.binom.interval(0.95, n, z)]
    ranks = uniform_ranks(n, num_samples, rows=trials, seed=2)
    assert share_inside(ranks, num_samples, band).mean() < 0.7


def test_the_band_is_that_of_arviz():
    n, num_samples = 200, 99
    z = np.arange(1, num_samples + 1) / (num_samples + 1)
    expected = ecdf_confidence_band(n, z, z, prob=0.95, method="optimized")
    np.testing.assert_allclose(ecdf_band(n, num_samples), expected, atol=1e-12)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_ranks_leave_the_band_exactly_where_the_test_rejects(level):
    n, num_samples = 60, 19
    ranks = uniform_ranks(n, num_samples, rows=300, seed=3)
    inside = share_inside(ranks, num_samples, ecdf_band(n, num_samples, level=level))
    p = np.array([uniform_p_value(row, num_samples) for row in ranks])
    np.testing.assert_array_equal(inside, p > 1 - level)


def test_the_band_widens_with_the_level():
    narrow, wide = (ecdf_band(100, 19, level=level) for level in (0.5, 0.99))
    assert (wide[0] <= narrow[0]).all() and (wide[1] >= narrow[1]).all()
    assert (wide[1] - wide[0]).mean() > (narrow[1] - narrow[0]).mean()


def test_symmetric_ranks_are_seldom_called_biased():
    """The level is nominal where they are symmetric, uniform or not."""
    rng = np.random.default_rng(4)
    trials, alpha = 400, 0.05
    u_shaped = rng.choice([0, 1, 18, 19], size=(trials, 100))
    p = np.array([symmetry_p_value(r, 19, seed=s) for s, r in enumerate(u_shaped)])
    error = np.sqrt(alpha * (1 - alpha) / trials)
    assert np.mean(p <= alpha) < alpha + 5 * error
    assert all(uniform_p_value(r, 19) < 1e-6 for r in u_shaped[:5])


def test_slanted_ranks_are_biased():
    ranks = np.random.default_rng(5).binomial(19, 0.6, size=200)
    assert symmetry_p_value(ranks, 19) == pytest.approx(1e-3)


def test_symmetry_depends_on_the_seed_alone():
    ranks = uniform_ranks(50, 19, rows=1, seed=6)[0]
    same = [symmetry_p_value(ranks, 19, seed=7) for _ in range(2)]
    assert same[0] == same[1] != symmetry_p_value(ranks, 19, seed=8)


def test_location_and_dispersion_of_all_ranks_once_are_those_of_uniform_ones():
    result = rank_uniformity(np.arange(100), 99)
    assert result.location == pytest.approx(0)
    assert result.dispersion == pytest.approx(1)
    assert result.p_value > 0.99


@pytest.mark.parametrize(
    ("numbers", "verdict"),
    [
        ((0.2, 0.001, 0.1, 1.5), "uniform"),
        ((0.01, 0.001, 0.1, 1.5), "biased low"),
        ((0.01, 0.001, -0.1, 1.5), "biased high"),
        ((0.01, 0.2, 0.1, 1.5), "too narrow"),
        ((0.01, 0.2, 0.1, 0.5), "too wide"),
    ],
)
def test_the_verdict_follows_from_the_tests(numbers, verdict):
    assert RankUniformity(*numbers).verdict() == verdict


@pytest.mark.parametrize("ranks", [[0, 10], [-1, 3], [0.5, 1.0]])
def test_impossible_ranks_are_refused(ranks):
    for judge in (uniform_p_value, symmetry_p_value, rank_uniformity):
        with pytest.raises(ValueError, match="whole numbers from 0 to 9"):
            judge(ranks, 9)


def test_impossible_bands_are_refused():
    with pytest.raises(ValueError, match="level"):
        ecdf_band(100, 9, level=1.0)
    with pytest.raises(ValueError, match="simulations"):
        ecdf_band(0, 9)
