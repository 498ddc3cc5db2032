"""Comparing methods: t intervals and win rates by hand, ranks against Demšar's worked example."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from probml_tp.metrics.over_runs import (
    critical_difference,
    mean_interval,
    paired_seeds,
    resampled_interval,
    win_rates,
)

# ------------------------------------------------------------------------------------ intervals


def test_a_t_interval_by_hand():
    result = mean_interval([1.0, 2.0, 3.0, 4.0])
    half = 3.182446305284264 * math.sqrt(5 / 3) / 2
    assert (result.mean, result.count) == (2.5, 4)
    assert result.interval == pytest.approx((2.5 - half, 2.5 + half))
    values = np.random.default_rng(0).normal(size=7)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.8)
    assert mean_interval(values, 0.8).interval == pytest.approx((expected.low, expected.high))


def test_one_run_has_no_interval():
    result = mean_interval([0.9])
    assert (result.mean, result.interval, result.count) == (0.9, None, 1)
    assert not result.excludes_zero


def test_the_corrected_t_interval_by_hand_and_its_limit():
    """Nadeau & Bengio 2003: the variance of the mean is (1/n + test/train) s^2."""
    values = [1.0, 2.0, 3.0, 4.0]
    half = 3.182446305284264 * math.sqrt((1 / 4 + 1 / 9) * 5 / 3)
    result = resampled_interval(values, train_size=90, test_size=10)
    assert (result.mean, result.count) == (2.5, 4)
    assert result.interval == pytest.approx((2.5 - half, 2.5 + half))
    many = np.random.default_rng(0).normal(size=10_000)
    wide = resampled_interval(many, train_size=90, test_size=10).interval
    assert wide[1] - wide[0] > 0.9 * 2 * 1.96 / 3  # more splits of the same data tell no more
    assert resampled_interval([0.5], train_size=9, test_size=1).interval is None
    with pytest.raises(ValueError, match="test_size"):
        resampled_interval(values, train_size=9, test_size=0)


def test_equal_runs_have_an_interval_of_no_width():
    assert mean_interval([0.5, 0.5, 0.5]).interval == (0.5, 0.5)


def test_a_t_interval_covers_as_often_as_it_says():
    draws = np.random.default_rng(1).normal(3, 2, size=(2000, 3))
    ends = [mean_interval(values, 0.9).interval for values in draws]
    hits = np.mean([low < 3 < high for low, high in ends])
    assert abs(hits - 0.9) < 5 * math.sqrt(0.9 * 0.1 / 2000)


def test_paired_seeds_are_the_interval_of_the_differences():
    rng = np.random.default_rng(2)
    seeds = rng.normal(size=6)
    a, b = seeds + 0.5 + 0.1 * rng.normal(size=6), seeds
    result = paired_seeds(a, b)
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert result.interval == pytest.approx((expected.low, expected.high))
    assert result.excludes_zero
    assert paired_seeds(b, a).excludes_zero
    assert not paired_seeds(a, a).excludes_zero
    assert paired_seeds([1.0], [0.0]).interval is None
    with pytest.raises(ValueError, match="the same seeds of both methods; got 6 and 5"):
        paired_seeds(a, b[:5])


@pytest.mark.parametrize(
    ("values", "level", "message"),
    [([], 0.95, "at least one"), ([math.nan], 0.95, "finite"), ([1.0, 2.0], 1.0, "strictly")],
)
def test_values_and_levels_that_do_not_fit_are_refused(values, level, message):
    with pytest.raises(ValueError, match=message):
        mean_interval(values, level)


# ------------------------------------------------------------------------------------ win rates


def test_win_rates_by_hand():
    table = {"a": [3, 2, 1, 5], "b": [1, 2, 0, 6], "c": [0, 0, 0, 0]}
    rates = win_rates(table)
    assert rates == {
        "a": {"b": 2.5 / 4, "c": 1.0},
        "b": {"a": 1.5 / 4, "c": 3.5 / 4},
        "c": {"a": 0.0, "b": 0.5 / 4},
    }
    lower = win_rates(table, higher_is_better=False)
    for row, column in itertools.permutations(table, 2):
        assert rates[row][column] + rates[column][row] == 1
        assert lower[row][column] == rates[column][row]


# ---------------------------------------------------------------------------------------- ranks

# Demsar (2006), table 6: AUC of four variants of C4.5 on 14 data sets, in thousandths. On the last
# but one the paper ranks cf before m+cf, both printed as .975; here it is one thousandth ahead.
DEMSAR = {
    "C4.5": "763 599 954 628 882 936 661 583 775 1000 940 619 972 957",
    "C4.5+m": "768 591 971 661 888 931 668 583 838 1000 962 666 981 978",
    "C4.5+cf": "771 590 968 654 886 916 609 563 866 1000 965 614 976 946",
    "C4.5+m+cf": "798 569 967 657 898 931 685 625 875 1000 962 669 975 970",
}


def test_demsars_worked_example():
    table = {name: [int(v) / 1000 for v in row.split()] for name, row in DEMSAR.items()}
    result = critical_difference(table)
    ranks = {name: round(rank, 3) for name, rank in result.mean_ranks.items()}
    assert ranks == {"C4.5+m+cf": 1.964, "C4.5+m": 2.0, "C4.5+cf": 2.893, "C4.5": 3.143}
    assert list(ranks) == ["C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"]
    assert result.difference == pytest.approx(1.25, abs=0.005)
    uncorrected = 12 * 14 / (4 * 5) * (sum(r**2 for r in result.mean_ranks.values()) - 4 * 25 / 4)
    assert uncorrected == pytest.approx(9.28, abs=0.005)
    assert result.statistic == pytest.approx(stats.friedmanchisquare(*table.values()).statistic)
    assert result.statistic > uncorrected
    assert result.p_value < 0.05
    at_ten = critical_difference(table, 0.1)
    assert at_ten.difference == pytest.approx(1.12, abs=0.005)
    # Demsar finds C4.5 worse than both variants with m at 0.10, none at 0.05.
    assert result.groups == [["C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"]]
    assert at_ten.groups == [["C4.5+m+cf", "C4.5+m", "C4.5+cf"], ["C4.5+cf", "C4.5"]]


@pytest.mark.parametrize(
    ("k", "alpha", "q"),
    [
        (3, 0.05, 2.343),
        (5, 0.05, 2.728),
        (10, 0.05, 3.164),
        (3, 0.1, 2.052),
        (10, 0.1, 2.920),
    ],
)
def test_critical_values_are_those_of_demsars_table_5(k, alpha, q):
    table = {str(i): [i, i + 1.0] for i in range(k)}
    result = critical_difference(table, alpha)
    assert result.difference == pytest.approx(q * math.sqrt(k * (k + 1) / 12), rel=5e-4)


def test_friedmans_statistic_without_ties_by_hand():
    values = np.random.default_rng(3).normal(size=(4, 6))
    result = critical_difference(dict(zip("abcd", values, strict=True)), higher_is_better=False)
    ranks = values.argsort(0).argsort(0) + 1
    means = ranks.mean(1)
    assert dict(result.mean_ranks) == pytest.approx(dict(zip("abcd", means, strict=True)))
    by_hand = 12 * 6 / (4 * 5) * ((means - 2.5) ** 2).sum()
    assert result.statistic == pytest.approx(by_hand)
    assert result.p_value == pytest.approx(stats.chi2.sf(by_hand, 3))


def test_the_direction_turns_the_ranks_around():
    table = {"a": [3, 3, 3], "b": [2, 2, 2], "c": [1, 1, 1]}
    assert critical_difference(table).mean_ranks == {"a": 1, "b": 2, "c": 3}
    assert critical_difference(table, higher_is_better=False).mean_ranks == {"a": 3, "b": 2, "c": 1}


def test_methods_that_always_tie_do_not_differ():
    result = critical_difference({"a": [1, 2], "b": [1, 2], "c": [1, 2]})
    assert result.mean_ranks == {"a": 2, "b": 2, "c": 2}
    assert (result.statistic, result.p_value) == (0, 1)
    assert result.groups == [["a", "b", "c"]]


def test_groups_are_the_largest_ones_and_leave_out_who_stands_alone():
    blocks = 60
    table = {
        "best": np.full(blocks, 9.0),
        "x": np.arange(blocks) % 2 + 3.0,
        "y": 1 - np.arange(blocks) % 2 + 3.0,
        "worst": np.zeros(blocks),
    }
    result = critical_difference(table)
    assert result.groups == [["x", "y"]]


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ({"a": [1, 2], "b": [2, 1]}, {}, "at least 3 methods; got 2. Compare two methods by"),
        ({"a": [1], "b": [2], "c": [3]}, {}, "at least 2 blocks; got 1"),
        ({"a": [1, 2], "b": [2, 1], "c": [3]}, {}, "every method in every cell"),
        ({"a": [1, math.nan], "b": [2, 1], "c": [3, 3]}, {}, "values of a must be finite"),
        ({"a": [1, 2], "b": [2, 1], "c": [3, 3]}, {"alpha": 0.0}, "alpha must lie strictly"),
    ],
)
def test_tables_that_cannot_be_ranked_are_refused(table, options, message):
    with pytest.raises(ValueError, match=message):
        critical_difference(table, **options)


def test_win_rates_need_two_methods():
    with pytest.raises(ValueError, match="win rates needs at least 2 methods; got 1"):
        win_rates({"a": [1.0]})
