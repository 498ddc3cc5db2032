"""Tensors on disk, as safetensors files that are checked when they are read.

The header has a digest of each tensor and one of itself: a changed bit is noticed wherever it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from probml_tp.digest import digest
from probml_tp.storage.files import atomic_write

__all__ = ["read_tensors", "tensor_file", "write_tensors"]

DIGESTS, DIGEST = "digests", "digest"


def tensor_file(path: str | Path) -> Path:
    """The path of a safetensors file, with its ending appended if it has another or none.

    Args:
        path: as the user gave it.

    Returns:
        The path.

    Example:
        >>> str(tensor_file("run.1")), str(tensor_file("a.safetensors"))
        ('run.1.safetensors', 'a.safetensors')
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return path
    return path.with_name(path.name + ".safetensors")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write tensors and a header, with digests of both, whole or not at all.

    Args:
        path: the file.
        tensors: name to tensor, on any device.
        header: name to text; ``"digests"`` and ``"digest"`` are added.

    Raises:
        ValueError: a tensor is not finite, the folder cannot be written, or the disk is full.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if (name := _not_finite(plain)) is not None:
        raise ValueError(
            f"tensors to be saved must be finite; {name} has NaN or infinite entries, so {path} "
            f"was not written. Lower the learning rate and fit again."
        )
    digests = {name: digest([tensor]) for name, tensor in plain.items()}
    header = {**header, DIGESTS: json.dumps(digests)}
    content = save(plain, {**header, DIGEST: _header_digest(header)})
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def read_tensors(path: Path, what: str, *, form: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read back what :func:`write_tensors` wrote, and check all of it.

    Args:
        path: the file.
        what: what it holds, such as ``"posterior"``, for the message.
        form: the header's ``"format"``.

    Returns:
        The header and the tensors.

    Raises:
        ValueError: the file is missing, is not such a file, is of another format, or has changed
            since it was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, AttributeError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"a saved {what} must be a readable safetensors file; {path} is not "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}). "
            f"Save it again."
        ) from error
    if header.get("format") != form:
        raise ValueError(
            f"a saved {what} must have the format {form!r}; {path} has "
            f"{header.get('format')!r}. It was written by something else, or another version."
        )
    if (damage := _damage(header, tensors)) is not None:
        raise ValueError(
            f"a saved {what} must be as it was written; {path} is damaged ({damage}). Restore a "
            f"good copy, or save it again."
        )
    return header, tensors


def _damage(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str | None:
    """What has changed since the file was written, or what it should not hold."""
    rest = {name: text for name, text in header.items() if name != DIGEST}
    if header.get(DIGEST) != _header_digest(rest):
        return "its header does not agree with its digest"
    digests = json.loads(header[DIGESTS])
    if digests.keys() != tensors.keys():
        return f"its tensors are {sorted(tensors)}, should be {sorted(digests)}"
    for name, tensor in tensors.items():
        if digest([tensor]) != digests[name]:
            return f"tensor {name} does not agree with its digest"
    bad = _not_finite(tensors)
    return None if bad is None else f"tensor {bad} has NaN or infinite entries"


def _header_digest(header: Mapping[str, str]) -> str:
    text = json.dumps(dict(header), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The first tensor that has NaN or infinite entries."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None
