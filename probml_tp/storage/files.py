"""Writing files whole: an interruption leaves the old file or the new one, not half of one.

What is being written stands beside its place under a temporary name. Its writer holds a lock on it,
which ends with the process, so that the next writer can tell what a dead one left behind, and
removes it. Where files cannot be locked (Windows, some network drives) it is left.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

if sys.platform != "win32":
    import fcntl

__all__ = ["atomic_write", "claim", "release", "sync", "write_errors"]

_PART = re.compile(r"\..+\.[0-9a-f]{32}\.part")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it to ``path`` if the block succeeds.

    The content is on the disk before the name is, so that a failure of power leaves a whole file
    too. What earlier writers to this folder left behind when they were killed is removed.

    Args:
        path: the file to write; missing folders are made.

    Yields:
        The temporary path to write to, an empty file.

    Raises:
        ValueError: the folder cannot be written, or the disk is full.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with atomic_write(f"{folder}/a.txt") as temporary:
        ...     _ = temporary.write_text("done")
        >>> os.listdir(folder)
        ['a.txt']
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder has that name", str(path))
        _remove_abandoned(path.parent)
        temporary, lock = _new_part(path)
    except OSError as error:
        raise ValueError(
            f"the place of an output file must be writable; {path} is not "
            f"({error.strerror or error}). Choose another folder or name."
        ) from error
    try:
        mode = temporary.stat().st_mode
        with write_errors(path):
            yield temporary
            sync(temporary)
            temporary.chmod(mode)  # as the umask has it, whatever the writer did
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        release(lock)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Say which output could not be written, why, and what to do.

    Args:
        path: the file or folder that the block writes.

    Raises:
        ValueError: the block raised an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"an output must be written whole; {path} could not be "
            f"({error.strerror or error}). What was there before is kept. Make room on the disk, "
            f"or choose another folder."
        ) from error


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk.

    Raises:
        OSError: they cannot be written there.
    """
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot wait
            raise
    finally:
        os.close(descriptor)


def claim(path: Path, *, wait: bool = False) -> int | None:
    """Lock a file or folder, as long as this process lives or until it is released.

    Args:
        path: what exists.
        wait: whether to wait for another process that has it.

    Returns:
        What :func:`release` takes; ``None`` if another process has it, it is gone, or cannot be
        locked here.
    """
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return descriptor
    except OSError:
        os.close(descriptor)
        return None


def release(lock: int | None) -> None:
    """Give up what :func:`claim` took."""
    if lock is not None:
        os.close(lock)


def _new_part(path: Path) -> tuple[Path, int | None]:
    """An empty temporary file, and the lock on it."""
    while True:
        temporary = path.with_name(f".{path.name}.{uuid4().hex}.part")
        temporary.touch(exist_ok=False)
        lock = claim(temporary, wait=True)
        if temporary.exists():
            return temporary, lock
        release(lock)  # another writer took it for abandoned, before it was locked


def _remove_abandoned(folder: Path) -> None:
    """Remove temporary files whose writers are dead."""
    for name in os.listdir(folder):
        if _PART.fullmatch(name) and (lock := claim(folder / name)) is not None:
            with suppress(OSError):
                (folder / name).unlink()
            release(lock)
