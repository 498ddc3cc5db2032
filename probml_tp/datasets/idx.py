"""Reading the IDX files of the MNIST family, with errors that say what is wrong and what to do.

Torchvision's dataset classes ask for all four files of a data set; its readers, which parse the
format here, take one file at a time. So a single split that is present is enough.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from torch import Tensor
from torchvision.datasets.mnist import read_image_file, read_label_file

__all__ = ["idx_files", "missing_files", "read_split"]

_UNREADABLE = (
    AssertionError,
    EOFError,
    IndexError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
    gzip.BadGzipFile,
    zlib.error,
)
"""What torchvision and gzip raise on a file that is not what its name says."""

_REMEDY = "Delete it and download it again, or restore a good copy."


def idx_files(split: str) -> tuple[str, str]:
    """The names of the image file and the label file of a split.

    Args:
        split: ``"train"`` or ``"test"``.

    Returns:
        The two names, without ``.gz``.

    Example:
        >>> idx_files("test")
        ('t10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte')
    """
    prefix = "train" if split == "train" else "t10k"
    return f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"


def missing_files(raw: Path, split: str) -> list[str]:
    """The files of a split that are in ``raw`` neither as they are nor with ``.gz``.

    Args:
        raw: torchvision's folder for a data set, ``<root>/MNIST/raw``.
        split: ``"train"`` or ``"test"``.

    Returns:
        Their names, without ``.gz``; empty if the split is there.

    Example:
        >>> missing_files(Path("no-such-folder"), "test")
        ['t10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte']
    """
    return [name for name in idx_files(split) if _find(raw, name) is None]


def read_split(raw: Path, split: str, *, num_classes: int = 10) -> tuple[Tensor, Tensor]:
    """Read and check the images and labels of a split.

    Args:
        raw: torchvision's folder for a data set, ``<root>/MNIST/raw``; it may be read-only.
        split: ``"train"`` or ``"test"``.
        num_classes: the number of classes; labels run from 0 to one less.

    Returns:
        Images, ``uint8`` of shape ``(N, 28, 28)``, and labels, ``int64`` of shape ``(N,)``.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is truncated, corrupt or may not be read, the images are not 28 x 28,
            the counts of images and labels differ, or a label is out of range.

    Example:
        >>> header = bytes([0, 0, 8, 3]) + b"".join(d.to_bytes(4, "big") for d in (1, 28, 28))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name, data in zip(
        ...         idx_files("test"),
        ...         (header + bytes(784), bytes([0, 0, 8, 1, 0, 0, 0, 1, 7])),
        ...         strict=True,
        ...     ):
        ...         _ = Path(folder, name).write_bytes(data)
        ...     images, labels = read_split(Path(folder), "test")
        >>> images.shape, labels
        (torch.Size([1, 28, 28]), tensor([7]))
    """
    image_path, label_path = (_existing(raw, name) for name in idx_files(split))
    images = _read(image_path, read_image_file, "images, starting with bytes 00 00 08 03")
    labels = _read(label_path, read_label_file, "labels, starting with bytes 00 00 08 01")
    _check_size(images, image_path)
    _check_count(images, image_path, labels, label_path)
    _check_range(labels, label_path, num_classes)
    return images, labels


def _find(raw: Path, name: str) -> Path | None:
    """The file as it is, else gzipped, else nothing."""
    return next((path for path in (raw / name, raw / f"{name}.gz") if path.is_file()), None)


def _existing(raw: Path, name: str) -> Path:
    """The file, or an error that names it."""
    path = _find(raw, name)
    if path is None:
        raise FileNotFoundError(f"{raw / name} must exist, as it is or with .gz; neither does.")
    return path


def _read(path: Path, reader: Callable[[str], Tensor], content: str) -> Tensor:
    """Apply torchvision's reader, and explain a failure."""
    try:
        if path.suffix == ".gz":
            return _read_gzipped(path, reader)
        return reader(str(path))
    except _UNREADABLE as error:
        raise ValueError(
            f"{path} must be a complete IDX file of {content}{_gzip_note(path)}; got "
            f"{_summary(path)}, which cannot be read ({type(error).__name__}: {error}). {_REMEDY}"
        ) from error
    except OSError as error:
        raise ValueError(
            f"{path} must be readable; it is not ({error.strerror or error}). Change its "
            "permissions, or name another data folder."
        ) from error


def _read_gzipped(path: Path, reader: Callable[[str], Tensor]) -> Tensor:
    """Unpack to a temporary file, for the reader takes a path and the folder may be read-only."""
    with tempfile.TemporaryDirectory(prefix="probml_tp-") as folder:
        plain = Path(folder, path.stem)
        with gzip.open(path, "rb") as packed, plain.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
        return reader(str(plain))


def _gzip_note(path: Path) -> str:
    """What the rule adds for a compressed file."""
    return ", gzipped (1f 8b)" if path.suffix == ".gz" else ""


def _summary(path: Path) -> str:
    """Size and first bytes of a file: enough to tell truncation from an error page."""
    with path.open("rb") as file:
        head = file.read(4).hex(" ")
    return f"{path.stat().st_size:,} bytes starting with {head or 'nothing'}"


def _check_size(images: Tensor, path: Path) -> None:
    """Refuse images that are not 28 x 28."""
    if images.shape[1:] != (28, 28):
        raise ValueError(
            f"{path} must hold images of 28 x 28 pixels; got {tuple(images.shape)}. {_REMEDY}"
        )


def _check_count(images: Tensor, image_path: Path, labels: Tensor, label_path: Path) -> None:
    """Refuse images and labels that differ in number."""
    if len(images) != len(labels):
        raise ValueError(
            f"{image_path} and {label_path} must hold as many images as labels; got "
            f"{len(images):,} images and {len(labels):,} labels. Delete both and download them "
            "again, or restore good copies."
        )


def _check_range(labels: Tensor, path: Path, num_classes: int) -> None:
    """Refuse labels beyond the classes."""
    highest = int(labels.max())
    if highest >= num_classes:
        raise ValueError(
            f"{path} must hold labels in 0 ... {num_classes - 1}; got {highest}. {_REMEDY}"
        )
