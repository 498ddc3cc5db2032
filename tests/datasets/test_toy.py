"""Toy data: shapes, curves, moments, and the random states that they must leave alone."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import make_moons

from probml_tp.datasets import blobs, linear_data, linear_data_with_hole, sine_data, two_moons

REGRESSION = [linear_data, linear_data_with_hole, sine_data]
CLASSIFICATION = [blobs, two_moons]
GENERATORS = REGRESSION + CLASSIFICATION
N = 20_000


def within(value, expected, *, standard_error, k=5):
    """Whether an estimate lies within ``k`` standard errors."""
    return abs(float(value) - expected) <= k * standard_error


@pytest.mark.parametrize(
    ("generator", "shape"),
    [
        (linear_data, (25, 1)),
        (linear_data_with_hole, (20, 1)),
        (sine_data, (50, 1)),
        (blobs, (400, 2)),
        (two_moons, (1000, 2)),
    ],
)
def test_default_shapes_and_types(generator, shape):
    x, y = generator()
    assert x.shape == shape and x.dtype == torch.float32
    assert y.shape == shape[:1]
    assert y.dtype == (torch.float32 if generator in REGRESSION else torch.int64)


@pytest.mark.parametrize("generator", GENERATORS)
def test_same_seed_same_data_other_seed_other_data(generator):
    first, again, other = generator(seed=3), generator(seed=3), generator(seed=4)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("generator", GENERATORS)
def test_many_seeds_give_distinct_data(generator):
    firsts = {tuple(generator(seed=seed)[0].flatten()[:4].tolist()) for seed in range(20)}
    assert len(firsts) == 20


@pytest.mark.parametrize("generator", GENERATORS)
def test_global_random_states_are_untouched(generator):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    generator(seed=7)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


@pytest.mark.parametrize("generator", GENERATORS)
def test_precisions_agree_up_to_rounding(generator):
    single, double = generator(seed=1), generator(seed=1, dtype=torch.float64)
    assert double[0].dtype == torch.float64
    assert torch.equal(single[0], double[0].float())
    assert torch.equal(single[1], double[1].to(single[1].dtype))


def test_linear_data_without_noise_lies_on_the_line():
    x, y = linear_data(n=100, noise=0.0, dtype=torch.float64)
    assert torch.allclose(y, -0.3 + 0.5 * x[:, 0], rtol=0, atol=1e-15)
    assert 0 <= x.min() and x.max() < 2


def test_hole_is_empty_and_sides_have_their_points():
    x, y = linear_data_with_hole(n_per_side=500, noise=0.0, dtype=torch.float64)
    left, right = x[:500, 0], x[500:, 0]
    assert -3 <= left.min() and left.max() < -1
    assert 1 <= right.min() and right.max() < 3
    assert torch.allclose(y, -0.3 + 0.5 * x[:, 0], rtol=0, atol=1e-15)


def test_sine_data_without_noise_lies_on_the_curve():
    x, y = sine_data(n=100, noise=0.0, dtype=torch.float64)
    expected = [math.sin(2 * math.pi * v) + v for v in x[:, 0].tolist()]
    assert y.tolist() == pytest.approx(expected, abs=1e-12)
    assert 0 <= x.min() and x.max() < 1


@pytest.mark.parametrize(
    ("generator", "curve"),
    [
        (linear_data, lambda x: -0.3 + 0.5 * x),
        (sine_data, lambda x: torch.sin(2 * math.pi * x) + x),
    ],
)
def test_noise_has_the_standard_deviation_asked_for(generator, curve):
    x, y = generator(n=N, seed=0, noise=0.5, dtype=torch.float64)
    residual = y - curve(x[:, 0])
    assert within(residual.mean(), 0.0, standard_error=0.5 / math.sqrt(N))
    assert within(residual.std(), 0.5, standard_error=0.5 / math.sqrt(2 * N))
    assert not within(residual.std(), 0.45, standard_error=0.5 / math.sqrt(2 * N))
    correlation = torch.corrcoef(torch.stack([x[:, 0], residual]))[0, 1]
    assert within(correlation, 0.0, standard_error=1 / math.sqrt(N))


def test_linear_inputs_are_uniform():
    x, _ = linear_data(n=N, dtype=torch.float64)
    assert within(x.mean(), 1.0, standard_error=2 / math.sqrt(12 * N))
    assert within((x**2).mean(), 4 / 3, standard_error=math.sqrt(16 / 5 - 16 / 9) / math.sqrt(N))


@pytest.mark.parametrize(("label", "centre"), [(0, 2.0), (1, -2.0)])
def test_blobs_have_their_centres_and_spread(label, centre):
    x, y = blobs(n=2 * N, std=0.8, dtype=torch.float64)
    blob = x[y == label]
    assert len(blob) == N
    for axis in (0, 1):
        assert within(blob[:, axis].mean(), centre, standard_error=0.8 / math.sqrt(N))
        assert within(blob[:, axis].std(), 0.8, standard_error=0.8 / math.sqrt(2 * N))
    assert within(torch.corrcoef(blob.T)[0, 1], 0.0, standard_error=1 / math.sqrt(N))


def test_blobs_alternate_and_an_odd_number_is_allowed():
    assert blobs(n=5)[1].tolist() == [0, 1, 0, 1, 0]


def test_two_moons_is_scikit_learns():
    x, y = two_moons(n=50, seed=9, noise=0.05, dtype=torch.float64)
    expected_x, expected_y = make_moons(n_samples=50, noise=0.05, random_state=9)
    assert np.array_equal(x.numpy(), expected_x) and np.array_equal(y.numpy(), expected_y)


def test_two_moons_without_noise_lies_on_half_circles():
    x, y = two_moons(n=200, noise=0.0, dtype=torch.float64)
    centres = torch.tensor([[0.0, 0.0], [1.0, 0.5]], dtype=torch.float64)[y]
    assert torch.allclose((x - centres).norm(dim=1), torch.ones(200, dtype=torch.float64))


@pytest.mark.parametrize("generator", [linear_data, sine_data, blobs, two_moons])
@pytest.mark.parametrize("n", [0, -1, 2.5, True, "3"])
def test_bad_number_is_refused(generator, n):
    with pytest.raises(ValueError, match=r"n must be an integer of at least 1; got"):
        generator(n=n)


def test_bad_number_per_side_is_refused():
    with pytest.raises(ValueError, match="n_per_side must be an integer of at least 1; got 0"):
        linear_data_with_hole(n_per_side=0)


def test_one_point_is_no_two_moons():
    with pytest.raises(ValueError, match="at least 2, a point for each moon; got 1"):
        two_moons(n=1)


@pytest.mark.parametrize("generator", [*REGRESSION, two_moons])
@pytest.mark.parametrize("noise", [-0.1, math.nan, math.inf, "0.2"])
def test_bad_noise_is_refused(generator, noise):
    with pytest.raises(ValueError, match="noise must be a finite standard deviation"):
        generator(noise=noise)


def test_bad_spread_is_refused():
    with pytest.raises(ValueError, match="std must be a positive finite number; got 0"):
        blobs(std=0)


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, None])
def test_bad_seed_is_refused(generator, seed):
    with pytest.raises(ValueError, match=r"seed must be an integer in \[0, 2\*\*32\); got"):
        generator(seed=seed)


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("dtype", [torch.int64, "float32"])
def test_bad_dtype_is_refused(generator, dtype):
    with pytest.raises(ValueError, match="dtype must be a floating-point torch type; got"):
        generator(dtype=dtype)


@pytest.mark.parametrize("generator", GENERATORS)
def test_options_are_keyword_only(generator):
    with pytest.raises(TypeError):
        generator(10)
