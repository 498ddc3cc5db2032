"""What a command owes its shell: it ends in order on signals, and outlives whoever reads it."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TextIO, cast

__all__ = ["Ended", "as_a_command"]

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
READER_GONE = (errno.EPIPE, errno.EIO)
"""What writing raises when ``head`` has seen enough, or the terminal is closed."""


class Ended(BaseException):
    """A signal asks this process to end; blocks are left in order on its way up.

    Args:
        number: the signal's.

    Example:
        >>> Ended(15).exit_code, Ended(15).name
        (143, 'SIGTERM')
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.name = signal.Signals(number).name
        self.exit_code = 128 + number


@contextmanager
def as_a_command() -> Iterator[None]:
    """Within the block signals raise :class:`Ended`, and what cannot be written is dropped.

    Signals that the parent has set to be ignored (``nohup``) stay so. Nobody reading any more is no
    error; standard output on a full disk is.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    streams = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stdout = _outliving(sys.stdout or nowhere, ignore=READER_GONE)
        sys.stderr = _outliving(sys.stderr or nowhere, ignore=tuple(errno.errorcode))
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, _raise)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            with suppress(OSError):
                sys.stdout.flush()
            sys.stdout, sys.stderr = streams


def _raise(number: int, frame: FrameType | None) -> None:
    raise Ended(number)


def _outliving(stream: TextIO, *, ignore: tuple[int, ...]) -> TextIO:
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    return cast(TextIO, _Outliving(stream, ignore))


class _Outliving:
    """A stream that goes on, to nowhere, once it cannot be written to."""

    def __init__(self, stream: TextIO, ignore: tuple[int, ...]) -> None:
        self._stream, self._ignore = stream, ignore

    def write(self, text: str) -> int:
        """Write, or drop what cannot be written."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """Flush, or drop what cannot be written."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def _lose(self, error: OSError) -> None:
        """Send the rest nowhere, what is buffered too; raise what is an error."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        if error.errno not in self._ignore:
            raise error
