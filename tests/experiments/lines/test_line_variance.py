"""The variance of a line with and without a hole and prior, against closed forms."""

import numpy as np
import pytest

from probml_tp import NormalPrior
from probml_tp.experiments.lines.line_variance import (
    DESIGNS,
    HOLE,
    LIMIT,
    exact_covariance,
    limit_covariance,
)
from probml_tp.experiments.lines.linear_regression import EXPERIMENT, Config
from probml_tp.harness.experiment import run_experiment


@pytest.fixture(scope="module")
def results():
    return run_experiment(EXPERIMENT, Config(guides=("exact",), test_size=50, num_samples=50))


def squares(x):
    return ((x - x.mean()) ** 2).sum()


def design(results, name):
    return [results.arrays[f"{HOLE}.{name}.{part}"] for part in ("x", "covariance")]


def limit(results):
    return [results.arrays[f"{LIMIT}.{p}"] for p in ("x", "alpha", "covariance", "limit")]


def variance(covariance, x):
    phi = np.array([1.0, x])
    return phi @ covariance @ phi


# ------------------------------------------------------------------------------ hole or none


@pytest.mark.parametrize("name", DESIGNS)
def test_the_determinant_has_its_closed_form(results, name):
    x, covariance = design(results, name)
    row = next(t for t in results.tables if t.row_heading == "Inputs").row(DESIGNS[name])
    n = len(x)
    det = n * (x**2).sum() - x.sum() ** 2
    assert row["det"] == pytest.approx(det) == pytest.approx(row["det_closed"])
    assert det == pytest.approx(n * squares(x)) == pytest.approx(n * row["squares"])
    alpha, beta = 2.0, 25.0
    whole = alpha**2 + alpha * beta * (n + (x**2).sum()) + beta**2 * det
    assert row["det_covariance"] == pytest.approx(1 / whole, rel=1e-9)
    assert row["var_slope"] == pytest.approx((alpha + beta * n) / whole, rel=1e-9)
    assert row["var_intercept"] == pytest.approx((alpha + beta * (x**2).sum()) / whole, rel=1e-9)
    assert row["var_at_6"] == pytest.approx(variance(covariance, 6.0), rel=1e-12)


def test_the_third_design_differs_from_the_second_by_the_hole_alone(results):
    (x, _), (spread, _) = design(results, "hole"), design(results, "spread")
    assert len(x) == len(spread) == 20
    assert np.abs(x).min() >= 1 > np.abs(spread).min()
    assert max(np.abs(x).max(), np.abs(spread).max()) <= 3


def test_a_hole_makes_the_line_surer_as_the_determinant_says(results):
    (x, hole), (x_spread, spread) = design(results, "hole"), design(results, "spread")
    assert squares(x) > squares(x_spread)
    assert np.linalg.det(hole) < np.linalg.det(spread)
    assert hole[1, 1] < spread[1, 1] and variance(hole, 12) < variance(spread, 12)
    assert "A hole in the data makes a line surer" in " ".join(results.findings)


def test_inputs_drawn_in_by_the_hole_lose_it():
    """The negative control: what counts is the spread, not that nothing lies in the middle."""
    prior = NormalPrior.from_precision(2.0)
    near, wide = np.repeat([-1.0, 1.0], 10), np.linspace(-3, 3, 20)
    with_hole, without = (exact_covariance(x, prior=prior, noise=0.2) for x in (near, wide))
    assert squares(near) < squares(wide) and with_hole[1, 1] > without[1, 1]


def test_over_random_inputs_the_ratio_is_the_expected_one(results):
    hole, spread = (results.arrays[f"{HOLE}.random.{name}"] for name in ("hole", "spread"))
    assert len(hole) == 1000 and (hole > spread).mean() > 0.95
    n = 20
    for sample, expected in ((hole, 13 * n / 3 - 1 / 3), (spread, 3 * (n - 1))):
        assert abs(sample.mean() - expected) < 5 * sample.std() / 1000**0.5


def test_more_points_never_raise_a_variance(results):
    difference = design(results, "hole")[1] - design(results, "filled")[1]
    assert (np.linalg.eigvalsh(difference) >= 0).all()


# ------------------------------------------------------------------------ the limit of alpha


def test_a_flat_prior_has_the_closed_form_of_the_limit(results):
    x, alpha, found, closed = limit(results)
    phi = np.stack([np.ones_like(x), x], axis=1)
    np.testing.assert_allclose(closed, np.linalg.inv(phi.T @ phi), rtol=1e-12)
    assert alpha[-1] == 0
    np.testing.assert_allclose(found[-1], closed, rtol=1e-12)


def test_the_distance_to_the_limit_falls_as_alpha(results):
    _, alpha, found, closed = limit(results)
    np.testing.assert_allclose(alpha[:-1], 10.0 ** -np.arange(9))
    distance = np.linalg.norm(found - closed, axis=(1, 2))[:-1]
    first_order = alpha[:-1] * np.linalg.norm(closed @ closed)
    np.testing.assert_allclose(distance[2:], first_order[2:], rtol=0.02)
    assert (np.diff(distance) < 0).all() and distance[0] > 0.05 * np.linalg.norm(closed)


def test_without_a_prior_the_variance_is_least_at_the_mean_and_grows_as_the_square(results):
    x, _, found, _ = limit(results)
    flat, n, mean = found[-1], len(x), x.mean()
    assert -flat[0, 1] / flat[1, 1] == pytest.approx(mean, abs=1e-12)
    assert variance(flat, mean) == pytest.approx(1 / n, rel=1e-10)
    for away in (-100.0, -1.0, 0.5, 30.0):
        grown = variance(flat, mean + away) - 1 / n
        assert grown == pytest.approx(away**2 / squares(x), rel=1e-9)


def test_the_limit_scales_with_the_noise():
    x = np.array([0.0, 1.0, 5.0])
    np.testing.assert_allclose(limit_covariance(x, noise=3.0), 9 * limit_covariance(x))


def test_the_report_says_where_and_by_how_much(results):
    x = limit(results)[0]
    text = " ".join(results.findings)
    for said in (f"{x.mean():.3f}", "1/25 = 0.040", f"{1 / squares(x):.4f}"):
        assert said in text
    title = "The limit α → 0 at β = 1 (exact posterior)"
    table = next(table for table in results.tables if table.title == title)
    assert table.rows[-2:] == ["flat", "closed form of the limit"]
    assert table["flat", "off_mean"] < 1e-12 < 1e-3 < table["normal, α = 1e+00", "off_mean"]
    assert table["flat", "least"] == pytest.approx(1 / 25)
