"""Corrupted, rotated and random images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probml_tp.datasets import (
    CORRUPTIONS,
    SEVERITIES,
    ImageDataset,
    corrupt,
    embedded_digits,
    noise_images,
    rotated,
)
from probml_tp.datasets import distortions as to

RANDOM = (
    "shot-noise",
    "impulse-noise",
    "motion-blur",
    "occlusion",
    "rotate",
    "shear",
    "translate",
    "elastic-transform",
)
MNIST_C = {
    "shot-noise",
    "impulse-noise",
    "motion-blur",
    "brightness",
    "stripe",
    "canny-edges",
    "rotate",
    "shear",
    "scale",
    "translate",
}


@pytest.fixture(scope="module")
def digits() -> ImageDataset:
    return embedded_digits(split="test").subset(200)


@pytest.fixture(scope="module")
def unit(digits) -> torch.Tensor:
    return digits.images.float() / 255


def change(one: ImageDataset, other: ImageDataset) -> float:
    """Mean absolute difference of the pixels."""
    return float((one.images.float() - other.images.float()).abs().mean())


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# All corruptions


def test_those_of_mnist_c_and_a_few_more():
    assert set(CORRUPTIONS) >= MNIST_C
    assert len(CORRUPTIONS) == 16


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_damage_grows_with_severity(digits, name):
    damage = [change(corrupt(digits, name, severity), digits) for severity in SEVERITIES]
    assert damage[0] > 0.5
    assert damage == sorted(damage)
    assert damage[-1] > 1.3 * damage[0]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_labels_and_provenance_are_kept(digits, name):
    before = digits.images.clone()
    damaged = corrupt(digits, name, 3, seed=7)
    assert damaged.images.dtype == torch.uint8
    assert torch.equal(damaged.labels, digits.labels) and damaged.classes == digits.classes
    assert damaged.name == "mnist" and damaged.split == "test"
    assert damaged.source == f"{digits.source}; corrupted: {name}, severity 3 of 5 (seed 7)"
    assert torch.equal(digits.images, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_fares_the_same_in_a_smaller_set(digits, name):
    few = corrupt(digits.subset(20), name, 4, seed=3)
    many = corrupt(digits.subset(60), name, 4, seed=3)
    assert torch.equal(few.images, many.images[:20])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_seeds_matter_where_there_is_chance(digits, name):
    few = digits.subset(30)
    first = corrupt(few, name, 3, seed=0)
    assert torch.equal(corrupt(few, name, 3, seed=0).images, first.images)
    assert torch.equal(corrupt(few, name, 3, seed=1).images, first.images) == (name not in RANDOM)


def test_global_random_states_are_left_alone(digits):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    for name in CORRUPTIONS:
        corrupt(digits.subset(5), name, 2)
    noise_images("uniform", n=2)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("snow", 1), {}, "corruption must be one of 'shot-noise', .*; got 'snow'"),
        (("rotate", 0), {}, "severity must be one of 1, 2, 3, 4, 5; got 0. The clean images"),
        (("rotate", 6), {}, "got 6"),
        (("rotate", True), {}, "got True"),
        (("rotate", 1), {"seed": -1}, "seed must be an integer"),
    ],
)
def test_bad_arguments_are_refused(digits, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        corrupt(digits, *arguments, **options)


# Noise and tone, where the result is known


def test_shot_noise_counts_photons(unit):
    noisy = to.add_shot_noise(unit, 5, rng())
    counts = 5 * noisy
    assert torch.equal(counts, counts.round())
    assert bool((noisy[unit == 0] == 0).all())
    error = (noisy - unit) / (unit / 5).sqrt().clamp_min(1e-9)
    lit = unit > 0
    assert abs(float(error[lit].mean())) < 5 / int(lit.sum()) ** 0.5


def test_impulse_noise_hits_its_share_of_pixels_half_of_them_white():
    grey = torch.full((200, 28, 28), 0.5)
    noisy = to.add_impulse_noise(grey, 0.17, rng())
    assert set(noisy.unique().tolist()) == {0.0, 0.5, 1.0}
    n = noisy.numel()
    for value, share in ((0.5, 0.83), (1.0, 0.085), (0.0, 0.085)):
        expected = 5 * (share * (1 - share) / n) ** 0.5
        assert float((noisy == value).float().mean()) == pytest.approx(share, abs=expected)


def test_brightness_contrast_and_stripes_are_arithmetic(unit):
    assert torch.equal(to.add_brightness(unit, 0.3, rng()), unit + 0.3)
    flat = to.scale_contrast(unit, 0.2, rng())
    torch.testing.assert_close(flat.mean((1, 2)), unit.mean((1, 2)))
    torch.testing.assert_close(flat.std((1, 2)), 0.2 * unit.std((1, 2)))
    striped = to.invert_stripes(unit, 7, rng())
    assert torch.equal(striped[:, :, 7:21], unit[:, :, 7:21])
    assert torch.equal(striped[:, :, :7], 1 - unit[:, :, :7])
    assert torch.equal(striped[:, :, 21:], 1 - unit[:, :, 21:])


def test_brightness_saturates_at_white(digits):
    assert int(corrupt(digits, "brightness", 5).images.min()) == 128
    assert int(corrupt(digits, "brightness", 5).images.max()) == 255


def test_occlusion_blanks_one_square_inside_the_image():
    blank = to.occlude(torch.ones(500, 28, 28), 10, rng()) == 0
    assert bool((blank.sum((1, 2)) == 100).all())
    assert bool((blank.any(1).sum(1) == 10).all()) and bool((blank.any(2).sum(1) == 10).all())
    first = blank.any(2).float().argmax(1)
    assert (int(first.min()), int(first.max())) == (0, 18)


def test_edges_alone_are_black_and_white(unit):
    edges = to.blend_edges(unit, 1.0, rng())
    assert set(edges.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(to.blend_edges(unit, 0.5, rng()), (unit + edges) / 2)


# Blur


def point() -> torch.Tensor:
    x = torch.zeros(40, 28, 28)
    x[:, 14, 14] = 1
    return x


def test_blurs_keep_the_ink_and_spread_it_as_far_as_they_say():
    place = torch.arange(28.0)
    for sigma in (1.0, 2.0):
        blurred = to.blur(point(), sigma, rng())[0]
        torch.testing.assert_close(blurred.sum(), torch.tensor(1.0))
        spread = (blurred.sum(0) * (place - 14).square()).sum().sqrt()
        assert float(spread) == pytest.approx(sigma, rel=0.01)


def test_motion_blur_is_a_path_of_its_length_and_of_shallow_angle():
    blurred = to.blur_motion(point(), 8, rng())
    torch.testing.assert_close(blurred.sum((1, 2)), torch.ones(40))
    place = torch.arange(28.0) - 14
    across = (blurred.sum(1) * place.square()).sum(1)
    down = (blurred.sum(2) * place.square()).sum(1)
    assert bool((across > down).all())
    steps = torch.linspace(-4, 4, 9)
    path = steps.square().mean()
    # Linear interpolation between pixels adds at most 1/4 to the variance along each axis.
    assert bool((across + down >= path - 1e-4).all())
    assert bool((across + down <= path + 0.5).all())


def test_pixelate_repeats_the_means_of_blocks(unit):
    coarse = to.pixelate(unit, 7, rng())
    blocks = unit.reshape(-1, 7, 4, 7, 4).mean((2, 4))
    expected = blocks.repeat_interleave(4, 1).repeat_interleave(4, 2)
    torch.testing.assert_close(coarse, expected)


# Geometry


@pytest.mark.parametrize("degrees", [0, 90, 180, 270, 360, -90])
def test_right_angles_move_pixels_and_change_none(digits, degrees):
    turned = rotated(digits, degrees)
    expected = torch.rot90(digits.images, degrees // 90, dims=(1, 2))
    assert torch.equal(turned.images, expected)
    assert torch.equal(turned.labels, digits.labels)


def test_rotation_is_that_of_pillow_away_from_the_edge(digits):
    from PIL import Image

    turned = rotated(digits, 30).images.numpy().astype(int)
    for image, mine in zip(digits.images[:20].numpy(), turned[:20], strict=True):
        theirs = Image.fromarray(image).rotate(30, resample=Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(theirs).astype(int) - mine).max() <= 2


def test_rotation_says_so(digits):
    assert rotated(digits, 15).source.endswith("; rotated counterclockwise by 15 degrees")
    with pytest.raises(ValueError, match="degrees must be finite; got nan"):
        rotated(digits, float("nan"))


def test_the_random_rotation_is_by_the_angle_either_way(digits):
    turned = corrupt(digits, "rotate", 2).images
    left, right = (rotated(digits, degrees).images for degrees in (24, -24))
    goes_left, goes_right = ((turned == way).all(2).all(1) for way in (left, right))
    assert bool((goes_left ^ goes_right).all())
    assert 65 <= int(goes_left.sum()) <= 135  # 5 standard deviations of 200 coin tosses


def test_the_direction_is_the_same_at_every_severity(digits):
    left = [
        (corrupt(digits, "rotate", s).images == rotated(digits, angle).images).all(2).all(1)
        for s, angle in zip(SEVERITIES, CORRUPTIONS["rotate"].levels, strict=True)
    ]
    assert all(torch.equal(left[0], other) for other in left)


def test_translation_moves_whole_pixels(digits):
    moved = corrupt(digits, "translate", 3).images
    ways = [(dy, dx) for dy in (-3, 3) for dx in (-3, 3)]
    padded = torch.nn.functional.pad(digits.images, (3, 3, 3, 3))
    shifted = [padded[:, 3 - dy : 31 - dy, 3 - dx : 31 - dx] for dy, dx in ways]
    found = torch.stack([(moved == way).all(2).all(1) for way in shifted])
    assert bool(found.any(0).all()) and bool(found.any(1).all())


def test_shear_moves_rows_and_leaves_their_ink(unit):
    unit = unit * ((torch.arange(28) > 3) & (torch.arange(28) < 24))  # none leaves the image
    sheared = to.shear_either_way(unit, 0.2, rng())
    torch.testing.assert_close(sheared.sum(2), unit.sum(2), atol=0.05, rtol=0)
    place = torch.arange(28.0)
    centre = (unit * place).sum(2) / unit.sum(2)
    moved = (sheared * place).sum(2) / sheared.sum(2) - centre
    row = place.expand_as(moved) - 13.5
    inked = unit.sum(2) > 0.5
    torch.testing.assert_close(moved.abs()[inked], 0.2 * row.abs()[inked], atol=0.05, rtol=0)


def test_scale_shrinks_about_the_centre():
    square = torch.zeros(1, 28, 28)
    square[:, 4:24, 4:24] = 1
    shrunk = to.scale(square, 0.5, rng())
    assert float(shrunk.sum()) == pytest.approx(100, rel=0.02)
    assert torch.equal(shrunk[0, 10:18, 10:18], torch.ones(8, 8))
    assert float(shrunk[0, :8].sum()) == 0


def test_elastic_displacements_have_the_stated_length():
    """On a ramp the new value is the old one plus the displacement along it."""
    ramp = torch.arange(28.0).expand(200, 28, 28)
    along = to.warp_elastically(ramp, 1.0, rng())[:, 8:20, 8:20] - ramp[:, 8:20, 8:20]
    mean_square = float(along.square().mean())
    assert mean_square == pytest.approx(0.5, abs=0.15)  # half of it along each axis


# Noise and nothing else


@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
def test_noise_is_labelled_sourced_and_nested(kind):
    noise = noise_images(kind, n=50, seed=2)
    assert noise.images.shape == (50, 28, 28) and noise.images.dtype == torch.uint8
    assert noise.classes == ("noise",) and not noise.labels.any()
    assert (noise.name, noise.split) == (f"{kind}-noise", "test")
    assert noise.source == f"50 images of independent {kind} pixels (seed 2)"
    assert torch.equal(noise_images(kind, n=10, seed=2).images, noise.images[:10])
    assert not torch.equal(noise_images(kind, n=10, seed=3).images, noise.images[:10])
    with pytest.raises(ValueError, match="has no normalisation constants of its own"):
        noise.normalized()


def test_noise_has_the_moments_of_its_kind():
    uniform = noise_images("uniform", n=500).images.double() / 255
    n = uniform.numel()
    assert float(uniform.mean()) == pytest.approx(0.5, abs=5 * (1 / 12 / n) ** 0.5)
    gaussian = noise_images("gaussian", n=500).images
    tail = 0.3089  # of N(0.5, 1) below half a grey level
    for value in (0, 255):
        share = float((gaussian == value).double().mean())
        assert share == pytest.approx(tail, abs=5 * (tail * (1 - tail) / n) ** 0.5)


def test_bad_options_of_noise_are_refused():
    with pytest.raises(ValueError, match="kind must be 'uniform' or 'gaussian'; got 'pink'"):
        noise_images("pink")
    with pytest.raises(ValueError, match="n must be an integer of at least 1; got 0"):
        noise_images("uniform", n=0)
