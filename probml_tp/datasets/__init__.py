"""Data: toy sets on which uncertainty can be seen, and images of the MNIST family.

Toy sets, each returning ``(x, y)``: :func:`linear_data`, :func:`linear_data_with_hole`,
:func:`sine_data`, :func:`blobs` and :func:`two_moons`. Image sets, each an :class:`ImageDataset`
that says where it came from: :func:`load_images`, :func:`letters`, :func:`embedded_digits` and
:func:`noise_images`; shifted by :func:`corrupt` and :func:`rotated`.

Example:
    >>> from probml_tp.datasets import load_images, two_moons
    >>> x, y = two_moons(n=100, seed=1)
    >>> ood = load_images("letters", "test", max_size=20)
    >>> x.shape, ood.images.shape
    (torch.Size([100, 2]), torch.Size([20, 28, 28]))
"""

from __future__ import annotations

from probml_tp.datasets.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    Corruption,
    corrupt,
    noise_images,
    rotated,
)
from probml_tp.datasets.embedded import embedded_digits, letters
from probml_tp.datasets.image_dataset import NORMALIZATION, ImageDataset
from probml_tp.datasets.images import (
    IMAGE_DATASETS,
    DataFallbackWarning,
    MissingDataError,
    default_root,
    load_images,
)
from probml_tp.datasets.toy import (
    blobs,
    linear_data,
    linear_data_with_hole,
    sine_data,
    two_moons,
)

__all__ = [
    "CORRUPTIONS",
    "IMAGE_DATASETS",
    "NORMALIZATION",
    "SEVERITIES",
    "Corruption",
    "DataFallbackWarning",
    "ImageDataset",
    "MissingDataError",
    "blobs",
    "corrupt",
    "default_root",
    "embedded_digits",
    "letters",
    "linear_data",
    "linear_data_with_hole",
    "load_images",
    "noise_images",
    "rotated",
    "sine_data",
    "two_moons",
]
