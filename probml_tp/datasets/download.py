"""Downloading one split with torchvision, whole or not at all, and without hanging offline."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from torchvision import datasets
from torchvision.datasets.utils import download_and_extract_archive

from probml_tp.datasets.idx import missing_files

__all__ = ["TIMEOUT", "download_split"]

TIMEOUT = 5.0
"""Seconds to wait for a mirror to answer, and then for each piece of data."""

_FAILURES = (OSError, RuntimeError, HTTPException)
"""What an absent network, a read-only folder and a wrong checksum raise."""


def download_split(folder: str, split: str, *, raw: Path) -> None:
    """Download what ``raw`` lacks of a split, from the mirrors that torchvision knows.

    The files are fetched into a temporary folder, checked against torchvision's checksums and
    unpacked there, and only then moved into place: an interrupted download leaves no file that
    could be taken for a good one. Each mirror gets :data:`TIMEOUT` seconds to answer. While the
    files come in, that is also the process's default socket timeout.

    Args:
        folder: torchvision's name of the data set: ``MNIST``, ``FashionMNIST`` or ``KMNIST``.
        split: ``"train"`` or ``"test"``.
        raw: where the files go, ``<root>/<folder>/raw``; made if it does not exist.

    Raises:
        ConnectionError: no mirror gave all files, or they could not be written; the message has
            the reason for each mirror.
    """
    source = getattr(datasets, folder)
    missing = missing_files(raw, split)
    resources = [(f, md5) for f, md5 in source.resources if f.removesuffix(".gz") in missing]
    reasons = []
    for mirror in source.mirrors:
        try:
            return _download_from(mirror, resources, raw)
        except _FAILURES as error:
            reasons.append(f"{mirror}: {error}")
            if isinstance(error, HTTPError):
                error.close()
    raise ConnectionError("; ".join(reasons))


def _download_from(mirror: str, resources: Sequence[tuple[str, str]], raw: Path) -> None:
    """Download files of one mirror, each with its MD5 sum."""
    _await_answer(mirror + resources[0][0])
    raw.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=raw) as staging, _socket_timeout():
        for filename, md5 in resources:
            download_and_extract_archive(mirror + filename, staging, md5=md5)
        for filename, _ in resources:
            name = filename.removesuffix(".gz")
            Path(staging, name).replace(raw / name)


def _await_answer(url: str) -> None:
    """Raise unless ``url`` answers in time, name resolution and every address included.

    A socket's own timeout covers neither: it counts for each address anew, and not for the
    resolver. Hence the thread, which is left behind if it hangs.
    """
    answer: Future[None] = Future()
    threading.Thread(target=_request, args=(url, answer), daemon=True).start()
    try:
        answer.result(TIMEOUT)
    except TimeoutError:
        raise TimeoutError(f"no answer within {TIMEOUT:g} s") from None


def _request(url: str, answer: Future[None]) -> None:
    """Open ``url`` and close it again; put the outcome into ``answer``."""
    try:
        with urlopen(Request(url, headers={"User-Agent": "probml_tp"}), timeout=TIMEOUT):
            answer.set_result(None)
    except _FAILURES as error:
        answer.set_exception(error)


@contextmanager
def _socket_timeout() -> Iterator[None]:
    """Set the default timeout of sockets, the only one that torchvision's downloads obey."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
