"""Checkpoints: a fit that is killed goes on where it was, to the same result."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch

from probml_tp.files import atomic_write

__all__ = ["load_checkpoint", "save_checkpoint"]

FORMAT = "probml_tp checkpoint 1"


def save_checkpoint(
    path: str | Path, *, identity: Mapping[str, Any], state: Mapping[str, Any]
) -> None:
    """Write a checkpoint; an interruption leaves the previous one.

    Args:
        path: the file.
        identity: what the fit is (model, guide, data, options); compared on resuming.
        state: tensors and plain values.

    Raises:
        ValueError: the folder cannot be written.
    """
    with atomic_write(path) as temporary:
        torch.save(
            {"format": FORMAT, "identity": json.dumps(identity), "state": dict(state)}, temporary
        )


def load_checkpoint(path: str | Path, *, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Read a checkpoint's state (tensors and plain values only: no code is run).

    Raises:
        ValueError: the file is damaged or not a checkpoint, or belongs to another fit.
    """
    try:
        content = torch.load(path, weights_only=True)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        saved, state = json.loads(content["identity"]), content["state"]
    except (RuntimeError, OSError, EOFError, KeyError, TypeError, ValueError,
            BadZipFile, pickle.UnpicklingError) as error:  # fmt: skip
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"a checkpoint must be a whole file written by fit; {path} is not ({reason}). "
            f"Delete it to start the fit anew."
        ) from error
    here = json.loads(json.dumps(identity))
    differing = [k for k in here if saved.get(k) != here[k]]
    if differing:
        key = differing[0]
        raise ValueError(
            f"a checkpoint must belong to the same fit; {path} differs in {', '.join(differing)}: "
            f"{saved.get(key)!r} there, {here[key]!r} here. Use another path, or delete it."
        )
    result: dict[str, Any] = state
    return result
