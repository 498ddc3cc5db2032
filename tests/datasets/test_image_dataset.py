"""The image record: its checks, normalisation and stratified subsets."""

from collections import Counter

import pytest
import torch

from probml_tp.datasets import NORMALIZATION, ImageDataset
from probml_tp.datasets.image_dataset import stratified_order


def dataset(labels, *, name="mnist", classes=tuple("0123456789")):
    """One image a label; all pixels of image ``i`` are ``i`` modulo 256."""
    labels = torch.tensor(labels)
    images = torch.arange(len(labels)).remainder(256).to(torch.uint8)
    images = images[:, None, None].expand(-1, 28, 28).clone()
    return ImageDataset(images, labels, classes, name, "test", "made by the test")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist"])
def test_normalized_by_hand(name):
    data = dataset([0, 1, 2], name=name)
    mean, std = NORMALIZATION[name]
    z = data.normalized()
    assert z.shape == (3, 1, 28, 28) and z.dtype == torch.float32
    for i in range(3):
        assert z[i].flatten().tolist() == pytest.approx([(i / 255 - mean) / std] * 784, rel=1e-5)
    assert data.images.dtype == torch.uint8 and int(data.images[2, 0, 0]) == 2


def test_normalized_with_the_constants_of_another_set():
    z = dataset([0, 1], name="letters").normalized(mean=0.5, std=0.25)
    assert z[1, 0, 0, 0].item() == pytest.approx((1 / 255 - 0.5) / 0.25)


def test_normalized_mnist_black_is_minus_0_4242():
    assert dataset([0]).normalized().unique().item() == pytest.approx(-0.1307 / 0.3081)


@pytest.mark.parametrize("constants", [{"mean": 0.1}, {"std": 0.1}])
def test_one_constant_alone_is_refused(constants):
    with pytest.raises(ValueError, match="mean and std go together"):
        dataset([0]).normalized(**constants)


def test_a_set_without_constants_needs_them():
    with pytest.raises(ValueError, match="'letters' has no normalisation constants.*Pass mean="):
        dataset([0], name="letters").normalized()


def test_std_must_be_positive():
    with pytest.raises(ValueError, match="std must be a positive finite number; got 0"):
        dataset([0]).normalized(mean=0.1, std=0.0)


def test_normalization_cannot_be_changed():
    with pytest.raises(TypeError):
        NORMALIZATION["mnist"] = (0.0, 1.0)


def test_record_is_frozen():
    with pytest.raises(AttributeError):
        dataset([0]).name = "other"


@pytest.mark.parametrize(
    ("images", "received"),
    [
        (torch.zeros(2, 28, 28), r"torch.float32 of shape \(2, 28, 28\)"),
        (torch.zeros(2, 1, 28, 28, dtype=torch.uint8), r"\(2, 1, 28, 28\)"),
        (torch.zeros(2, 32, 32, dtype=torch.uint8), r"\(2, 32, 32\)"),
        (torch.zeros(0, 28, 28, dtype=torch.uint8), r"\(0, 28, 28\)"),
    ],
)
def test_bad_images_are_refused(images, received):
    with pytest.raises(ValueError, match=f"images must be uint8.*{received}"):
        ImageDataset(images, torch.zeros(2).long(), ("a",), "x", "test", "x")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(2), "int64 of shape .2,., one for each image; got torch.float32"),
        (torch.zeros(3).long(), r"got torch.int64 of shape \(3,\)"),
        (torch.tensor([0, 2]), r"0 \.\.\. 1, the indices of the classes; got values from 0 to 2"),
        (torch.tensor([-1, 1]), "got values from -1 to 1"),
    ],
)
def test_bad_labels_are_refused(labels, message):
    images = torch.zeros(2, 28, 28, dtype=torch.uint8)
    with pytest.raises(ValueError, match=message):
        ImageDataset(images, labels, ("a", "b"), "x", "test", "x")


def test_subset_keeps_images_with_their_labels_and_says_so():
    data = dataset([i % 10 for i in range(200)])
    part = data.subset(50, seed=3)
    assert len(part) == 50
    assert part.labels.bincount().tolist() == [5] * 10
    assert torch.equal(part.images[:, 0, 0] % 10, part.labels.to(torch.uint8))
    assert len(set(part.images[:, 0, 0].tolist())) == 50
    assert part.source == "made by the test; of these a stratified subset of 50 (seed 3)"


def test_subset_is_deterministic_nested_and_depends_on_the_seed():
    data = dataset([i % 10 for i in range(200)])
    assert torch.equal(data.subset(50, seed=1).images, data.subset(50, seed=1).images)
    assert torch.equal(data.subset(20, seed=1).images, data.subset(50, seed=1).images[:20])
    assert not torch.equal(data.subset(50, seed=1).images, data.subset(50, seed=2).images)


@pytest.mark.parametrize("size", [6, 7])
def test_subset_of_everything_is_the_set_itself(size):
    data = dataset([0, 1, 2, 3, 4, 5])
    assert data.subset(size) is data


@pytest.mark.parametrize("size", [0, -1, 1.5, None])
def test_bad_subset_size_is_refused(size):
    with pytest.raises(ValueError, match="max_size must be an integer of at least 1; got"):
        dataset([0, 1]).subset(size)


@pytest.mark.parametrize("seed", range(5))
def test_stratified_order_of_an_unbalanced_set(seed):
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    order = stratified_order(labels, seed=seed)
    assert sorted(order.tolist()) == list(range(100))
    for m in (10, 20, 50, 90):
        counts = Counter(labels[order[:m]].tolist())
        for label, share in ((0, 0.6), (1, 0.3), (2, 0.1)):
            assert abs(counts[label] - m * share) <= 1


def test_stratified_order_shuffles_within_classes():
    order = stratified_order(torch.zeros(100).long(), seed=0)
    assert order.tolist() != list(range(100))


def test_stratified_order_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    stratified_order(torch.zeros(10).long(), seed=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_stratified_order_refuses_a_bad_seed():
    with pytest.raises(ValueError, match="seed must be an integer"):
        stratified_order(torch.zeros(10).long(), seed=-1)
