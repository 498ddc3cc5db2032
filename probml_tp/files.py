"""Writing files whole: an interruption leaves the old file or the new one, not half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

__all__ = ["atomic_write", "tensor_file"]


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it to ``path`` if the block succeeds.

    Args:
        path: the file to write; missing folders are made.

    Yields:
        The temporary path to write to.

    Raises:
        ValueError: the folder cannot be written.

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
        temporary = path.with_name(f".{path.name}.{uuid4().hex}.part")
        if path.is_dir():
            raise IsADirectoryError(0, "a folder has that name", str(path))
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
    except OSError as error:
        raise ValueError(
            f"the place of an output file must be writable; {path} is not ({error.strerror}). "
            f"Choose another folder or name."
        ) from error
    try:
        yield temporary
        temporary.chmod(mode)  # as the umask has it, whatever the writer did
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
