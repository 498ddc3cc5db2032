"""A labelled set of 28 x 28 grey-scale images, with its provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import positive, positive_integer
from probml_tp.datasets.checks import checked_seed

__all__ = ["NORMALIZATION", "ImageDataset", "stratified_order"]

NORMALIZATION: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "mnist": (0.1307, 0.3081),
        "fashion-mnist": (0.2860, 0.3530),
        "kmnist": (0.1918, 0.3483),
    }
)
"""Mean and standard deviation of the pixels over the *training* split, on the scale of 0 to 1.

MNIST and Fashion-MNIST: measured on the 60,000 training images, rounded to four digits. KMNIST:
the values in common use for its training images (its test split has 0.1846 and 0.3416).
"""


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Images, labels and where they came from.

    Args:
        images: pixels, ``uint8`` of shape ``(N, 28, 28)``, 0 for background and 255 for ink.
        labels: classes, ``int64`` of shape ``(N,)``, indices into ``classes``.
        classes: the names of the classes.
        name: the data set, for example ``"mnist"``.
        split: ``"train"`` or ``"test"``.
        source: one sentence that says exactly where the data came from; it belongs in a report.
        is_fallback: whether these are not the data that were asked for, but the nearest at hand.

    Raises:
        ValueError: the tensors have another type or shape, disagree in length, hold no image, or
            some label is not an index into ``classes``.

    Example:
        >>> images = torch.zeros(2, 28, 28, dtype=torch.uint8)
        >>> data = ImageDataset(
        ...     images, torch.tensor([0, 1]), ("a", "b"), "mine", "test", "two black images"
        ... )
        >>> len(data), data.normalized(mean=0.5, std=0.5).unique()
        (2, tensor([-1.]))
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str
    split: str
    source: str
    is_fallback: bool = False

    def __post_init__(self) -> None:
        """Check the tensors against each other."""
        _check_images(self.images)
        _check_labels(self.labels, len(self.images), len(self.classes))

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    @checked()
    def normalized(self, *, mean: float | None = None, std: float | None = None) -> Tensor:
        r"""The images as a net sees them: :math:`(x / 255 - \mu) / s`.

        An out-of-distribution set must be normalised with the constants of the *in-distribution*
        set, which the net was trained with, or brightness alone gives it away:
        ``kmnist.normalized(mean=mean, std=std)`` with ``mean, std = NORMALIZATION["mnist"]``.

        Args:
            mean: :math:`\mu`, on the scale of 0 to 1; by default that of the set's own name in
                :data:`NORMALIZATION`.
            std: :math:`s`, likewise.

        Returns:
            ``float32`` of shape ``(N, 1, 28, 28)``.

        Raises:
            ValueError: only one of the two is given, ``std`` is not positive, or none is given and
                the set has no constants of its own.
        """
        mean, std = self._constants(mean, std)
        return self.images.unsqueeze(1).float().div_(255).sub_(mean).div_(std)

    def subset(self, max_size: int, *, seed: int = 0) -> ImageDataset:
        """A stratified random subset, which keeps the classes' shares up to rounding.

        Subsets of one seed are nested: the smaller is a prefix of the larger.

        Args:
            max_size: the number of images to keep; with at least ``len(self)`` all are kept, in
                their order.
            seed: seed of the choice.

        Returns:
            The subset; its ``source`` says that it is one.

        Raises:
            ValueError: ``max_size`` is not a positive integer, or ``seed`` is out of range.
        """
        if positive_integer("max_size", max_size) >= len(self):
            return self
        keep = stratified_order(self.labels, seed=seed)[:max_size]
        return replace(
            self,
            images=self.images[keep],
            labels=self.labels[keep],
            source=f"{self.source}; of these a stratified subset of {max_size:,} (seed {seed})",
        )

    def _constants(self, mean: float | None, std: float | None) -> tuple[float, float]:
        """The constants given, else the set's own."""
        if mean is not None and std is not None:
            return mean, positive("std", std)
        if mean is not None or std is not None:
            raise ValueError(
                f"mean and std go together; got mean={mean!r} and std={std!r}. Pass both or none."
            )
        if self.name not in NORMALIZATION:
            raise ValueError(
                f"{self.name!r} has no normalisation constants of its own (only "
                f"{', '.join(NORMALIZATION)} have). Pass mean= and std= of the in-distribution "
                "set, for example those of NORMALIZATION['mnist']."
            )
        return NORMALIZATION[self.name]


def stratified_order(labels: Tensor, *, seed: int) -> Tensor:
    """Shuffle so that every prefix holds the classes in their overall shares, up to rounding.

    Example ``r`` of the ``n_c`` shuffled examples of class ``c`` gets the position
    ``(r + 1/2) / n_c``; all are then sorted by position, ties in random order.

    Args:
        labels: classes, of shape ``(N,)``.
        seed: seed of the shuffle.

    Returns:
        A permutation of ``0 ... N - 1``, ``int64`` of shape ``(N,)``.

    Raises:
        ValueError: ``seed`` is out of range.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
        >>> labels[stratified_order(labels, seed=0)[:3]].sort().values
        tensor([0, 0, 1])
    """
    generator = torch.Generator().manual_seed(checked_seed(seed))
    shuffled = torch.randperm(len(labels), generator=generator, device="cpu")
    position = torch.empty(len(labels), dtype=torch.float64, device="cpu")
    for label in sorted(set(labels.tolist())):
        members = labels[shuffled] == label
        n_c = int(members.sum())
        position[members] = (torch.arange(n_c, dtype=torch.float64, device="cpu") + 0.5) / n_c
    return shuffled[position.argsort(stable=True)]


def _check_images(images: Tensor) -> None:
    """Refuse images of another type or shape, and none at all."""
    if images.dtype != torch.uint8 or images.shape[1:] != (28, 28) or len(images) == 0:
        raise ValueError(
            "images must be uint8 of shape (N, 28, 28) with N >= 1; got "
            f"{images.dtype} of shape {tuple(images.shape)}. Convert or crop them first."
        )


def _check_labels(labels: Tensor, size: int, num_classes: int) -> None:
    """Refuse labels that do not fit the images or the classes."""
    if labels.dtype != torch.int64 or labels.shape != (size,):
        raise ValueError(
            f"labels must be int64 of shape ({size},), one for each image; got "
            f"{labels.dtype} of shape {tuple(labels.shape)}."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"labels must lie in 0 ... {num_classes - 1}, the indices of the classes; got values "
            f"from {low} to {high}. Drop those images or name the missing classes."
        )
