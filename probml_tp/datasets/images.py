"""Images of the MNIST family: from files, else downloaded, else, loudly, what is at hand."""

from __future__ import annotations

import logging
import math
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from probml_tp.checks.arguments import checked
from probml_tp.checks.values import positive_integer
from probml_tp.datasets.embedded import embedded_digits, letters
from probml_tp.datasets.image_dataset import ImageDataset

__all__ = [
    "IMAGE_DATASETS",
    "DataFallbackWarning",
    "MissingDataError",
    "default_root",
    "load_images",
]

_LOG = logging.getLogger("probml_tp")


class DataFallbackWarning(UserWarning):
    """The data that were asked for could not be had; others, named in the message, are used."""


class MissingDataError(ValueError):
    """The data that were asked for could not be had, and nothing stands in for them.

    Whoever goes on without a data set catches this alone: a file that is there but damaged is
    another error.
    """


@dataclass(frozen=True)
class _Family:
    """A data set in the format of MNIST: its name in prose, torchvision's folder, its classes."""

    title: str
    folder: str
    classes: tuple[str, ...]


_DIGITS = tuple("0123456789")
_CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_KUZUSHIJI = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")

_FAMILIES = {
    "mnist": _Family("MNIST", "MNIST", _DIGITS),
    "fashion-mnist": _Family("Fashion-MNIST", "FashionMNIST", _CLOTHES),
    "kmnist": _Family("KMNIST", "KMNIST", _KUZUSHIJI),
}

_REMEDY = (
    "Put the files there, with or without .gz; or pass root= or set PROBML_TP_DATA to a folder "
    "that holds them in torchvision's layout. As out-of-distribution data, "
    "load_images('letters') needs no files."
)

IMAGE_DATASETS: tuple[str, ...] = (*_FAMILIES, "letters")
"""The names that :func:`load_images` knows."""


@checked()
def load_images(
    name: str,
    split: str = "train",
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool = True,
    max_size: int | None = None,
    seed: int = 0,
) -> ImageDataset:
    """Load a split of MNIST, Fashion-MNIST or KMNIST, or the rendered letters.

    The files are looked for in torchvision's layout, ``<root>/MNIST/raw/t10k-images-idx3-ubyte``
    and so on, as they are or with ``.gz``; those of the split asked for are enough. What is not
    there is downloaded into ``root``. If that fails too, MNIST falls back on the digits of
    :func:`~probml_tp.datasets.embedded_digits`: with a :class:`DataFallbackWarning`, a warning in
    the log ``probml_tp``, ``is_fallback`` and the ``source`` of the result set. The others have no
    fallback, nor has MNIST's test split beside its own training split, for the digits are among
    those. A file that is there but corrupt is an error, never a reason to fall back.

    The letters (:func:`~probml_tp.datasets.letters`) are rendered, so need no files: 10,000 a
    split, or ``max_size``.

    Args:
        name: ``"mnist"``, ``"fashion-mnist"``, ``"kmnist"`` or ``"letters"``.
        split: ``"train"`` or ``"test"``.
        root: the data folder; it may be read-only. By default :func:`default_root`.
        download: whether files that are missing may be downloaded.
        max_size: keep at most so many images, a stratified subset.
        seed: seed of that subset, and of the letters' fonts, rotations and scales.

    Returns:
        The images with their labels, in the order of the file unless ``max_size`` cuts them.

    Raises:
        ValueError: an argument is out of range, or a file is corrupt or may not be read.
        MissingDataError: the files are missing, cannot be downloaded, and there is no fallback.

    Example:
        >>> data = load_images("letters", "test", max_size=50)
        >>> data.images.shape, data.labels.bincount().tolist()
        (torch.Size([50, 28, 28]), [5, 5, 5, 5, 5, 5, 5, 5, 5, 5])
    """
    _one_of("name", name, IMAGE_DATASETS)
    _one_of("split", split, ("train", "test"))
    if max_size is not None:
        positive_integer("max_size", max_size)
    if name == "letters":
        data = _letters(split, max_size, seed)
    else:
        data = _from_files(_FAMILIES[name], name, split, _root(root), download)
    if data.is_fallback:
        _LOG.warning(data.source)
        warnings.warn(
            data.source, DataFallbackWarning, stacklevel=3
        )  # one for the check of arguments
    return data if max_size is None else data.subset(max_size, seed=seed)


def default_root() -> Path:
    """The data folder that is used when none is given.

    Returns:
        The environment variable ``PROBML_TP_DATA`` if it is set, else ``probml_tp`` in the user's
        cache folder: in ``XDG_CACHE_HOME`` if that is set, else in ``~/.cache``.

    Example:
        >>> isinstance(default_root(), Path)
        True
    """
    if chosen := os.environ.get("PROBML_TP_DATA"):
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "probml_tp"


def _root(root: str | os.PathLike[str] | None) -> Path:
    """The folder given, else the default."""
    return default_root() if root is None else Path(root).expanduser()


def _letters(split: str, max_size: int | None, seed: int) -> ImageDataset:
    """No more letters than needed: ``max_size`` rounded up to full alphabets."""
    if max_size is None:
        return letters(split=split, seed=seed)
    return letters(split=split, seed=seed, n_per_class=math.ceil(max_size / 10))


def _from_files(family: _Family, name: str, split: str, root: Path, download: bool) -> ImageDataset:
    """Read a split, after a download if need be; without either, fall back or give up."""
    # Torchvision takes longer to import than the rest of this package; only files need it.
    from probml_tp.datasets.idx import missing_files, read_split

    raw = root / family.folder / "raw"
    obstacle = _obstacle(family, split, raw, download)
    if obstacle is None:
        images, labels = read_split(raw, split, num_classes=len(family.classes))
        source = f"{family.title} {split} split, {len(images):,} real images, from {root}"
        return ImageDataset(images, labels, family.classes, name, split, source)
    if name != "mnist":
        raise MissingDataError(f"{obstacle}. {family.title} has no fallback. {_REMEDY}")
    if split == "test" and not missing_files(raw, "train"):
        raise MissingDataError(
            f"{obstacle}. The fallback for the test split consists of images of MNIST's training "
            f"split, which is there: they would test a model on what it was trained on. {_REMEDY}"
        )
    digits = embedded_digits(split=split)
    return replace(digits, source=f"FALLBACK: {digits.source}; {obstacle}", is_fallback=True)


def _obstacle(family: _Family, split: str, raw: Path, download: bool) -> str | None:
    """Make the files of a split be there; if that fails, say why."""
    from probml_tp.datasets.download import download_split
    from probml_tp.datasets.idx import missing_files

    missing = missing_files(raw, split)
    if not missing:
        return None
    absent = f"{family.title} could not be read at {raw} (missing: {', '.join(missing)})"
    if not download:
        return f"{absent}, and download=False"
    try:
        download_split(family.folder, split, raw=raw)
    except ConnectionError as error:
        return f"{absent} nor downloaded: {error}"
    return None


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a value that is not among the known ones."""
    if value not in known:
        raise ValueError(f"{what} must be one of {', '.join(map(repr, known))}; got {value!r}.")
