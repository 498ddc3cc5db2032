"""Folders written whole: filled beside their place, and moved there when they are complete.

A staging folder belongs to the process that has a lock on it. What a process left that was killed
is removed by the next one, having put the results in place whose move it cut short.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from probml_tp.storage.files import claim, release, sync

__all__ = ["put_in_place", "recover", "staging"]

PREFIX = ".probml-tp-"
FRESH, EARLIER = "fresh", "earlier"


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Give a temporary folder inside ``folder``, on the same file system.

    Args:
        folder: an existing folder; what killed processes left in it is tidied up first.

    Yields:
        The temporary folder; it and what is left in it are gone afterwards.
    """
    recover(folder)
    path, lock = _new(folder)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        release(lock)


def put_in_place(temporary: Path, target: Path) -> None:
    """Move the folder ``fresh`` of a staging folder to ``target``, in place of what is there.

    Everything is on the disk before it moves. Between the two moves, of the earlier folder away and
    of the fresh one in, ``target`` is missing; :func:`recover` mends that.

    Args:
        temporary: a folder that :func:`staging` gave, with a folder ``fresh`` in it.
        target: where it goes.

    Raises:
        OSError: it cannot be moved; the earlier one is back then.
    """
    fresh, earlier = temporary / FRESH, temporary / EARLIER / target.name
    for folder, _, names in os.walk(fresh):
        for name in names:
            sync(Path(folder, name))
        sync(Path(folder))
    lock = claim(target.parent, wait=True)  # two that move to one target do so one by one
    try:
        if target.exists():
            earlier.parent.mkdir()
            sync(temporary)
            target.rename(earlier)
        try:
            fresh.rename(target)
            sync(target.parent)
        except BaseException:
            if earlier.exists() and not target.exists():
                earlier.rename(target)
            raise
    finally:
        release(lock)


def recover(folder: Path) -> None:
    """Remove staging folders of dead processes; finish a move that was cut short.

    Args:
        folder: that of all results; it may be missing or read-only.
    """
    for path in folder.glob(f"{PREFIX}*"):
        if (lock := claim(path)) is None:
            continue
        with suppress(OSError):
            for earlier in (path / EARLIER).glob("*"):
                target, fresh = folder / earlier.name, path / FRESH
                if not target.exists():
                    (fresh if fresh.exists() else earlier).rename(target)
            shutil.rmtree(path)
        release(lock)


def _new(folder: Path) -> tuple[Path, int | None]:
    """An empty staging folder, and the lock on it."""
    while True:
        path = Path(tempfile.mkdtemp(dir=folder, prefix=PREFIX))
        lock = claim(path, wait=True)
        if path.exists():
            return path, lock
        release(lock)  # another process took it for abandoned, before it was locked
