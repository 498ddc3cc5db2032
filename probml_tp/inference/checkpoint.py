"""Checkpoints: a fit that is killed goes on where it was, to the same result."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probml_tp.digest import digest
from probml_tp.storage.files import atomic_write

__all__ = ["load_checkpoint", "save_checkpoint"]

FORMAT = "probml_tp checkpoint 2"


def save_checkpoint(
    path: str | Path, *, identity: Mapping[str, Any], state: Mapping[str, Any]
) -> None:
    """Write a checkpoint with its digest; an interruption leaves the previous one.

    Args:
        path: the file.
        identity: what the fit is (model, guide, data, options); compared on resuming.
        state: tensors and plain values.

    Raises:
        ValueError: the folder cannot be written, or the disk is full.
    """
    text, plain, content = json.dumps(identity), dict(state), io.BytesIO()
    record = {"format": FORMAT, "identity": text, "state": plain, "digest": _digest([text, plain])}
    torch.save(record, content)  # into memory: of a full disk torch does not say that it is full
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def load_checkpoint(path: str | Path, *, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Read a checkpoint's state (tensors and plain values only: no code is run).

    Raises:
        ValueError: the file is damaged (a bit has changed) or not a checkpoint, or belongs to
            another fit.
    """
    try:
        saved, state = _read(Path(path))
    except Exception as error:  # a damaged archive may raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"a checkpoint must be a whole file written by fit; {path} is not ({reason}). "
            f"Delete it to start the fit anew."
        ) from error
    here = json.loads(json.dumps(identity))
    differing = [k for k in {**here, **saved} if saved.get(k) != here.get(k)]
    if differing:
        key = differing[0]
        raise ValueError(
            f"a checkpoint must belong to the same fit; {path} differs in {', '.join(differing)}: "
            f"{saved.get(key)!r} there, {here.get(key)!r} here. Use another path, or delete it."
        )
    return state


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Identity and state of a checkpoint whose digest is right."""
    with path.open("rb") as file, warnings.catch_warnings(action="ignore"):
        record = torch.load(file, weights_only=True)  # an open file, whatever its name ends in
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT!r}")
    text, state = record["identity"], record["state"]
    if record["digest"] != _digest([text, state]):
        raise ValueError("its content does not agree with its digest")
    if not all(bool(state["guide"][name].isfinite().all()) for name in state["parameters"]):
        raise ValueError("the guide's parameters are not finite")
    return json.loads(text), state


def _digest(content: object) -> str:
    """Hash tensors and plain values, however they are nested."""
    state = hashlib.blake2b(digest_size=16)
    for leaf in _leaves(content):
        state.update((digest([leaf]) if isinstance(leaf, Tensor) else repr(leaf)).encode())
        state.update(b"\n")
    return state.hexdigest()


def _leaves(content: object) -> Iterator[object]:
    """What nested dicts and sequences hold in order, with the keys and the nesting."""
    if isinstance(content, Mapping):
        content = list(content.items())
    if isinstance(content, list | tuple):
        yield f"{len(content)} items"
        for item in content:
            yield from _leaves(item)
    else:
        yield content
