"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from probml_tp.storage.files import atomic_write, claim, release


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "file.txt"
    with atomic_write(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()
        assert temporary.parent == target.parent
        temporary.write_text("whole")
    assert target.read_text() == "whole"
    assert os.listdir(target.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")

    def interrupted() -> None:
        with atomic_write(target) as temporary:
            temporary.write_text("new, half of")
            raise error

    with pytest.raises(error):
        interrupted()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_two_writers_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    with atomic_write(target) as first, atomic_write(target) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert target.read_text() == "first"


def test_the_mode_is_that_of_any_new_file(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    target = tmp_path / "file"
    with atomic_write(target) as temporary:
        temporary.unlink()
        temporary.touch(mode=0o600)  # as a writer may that replaces the file by its own
    assert target.stat().st_mode == plain.stat().st_mode


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(
            ValueError, match=r"must be writable; .*file.* is not.*Choose another folder"
        ),
        atomic_write(tmp_path / "file" / "x.txt"),
    ):
        pass


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(ValueError, match="must be writable"), atomic_write(folder / "x.txt"):
        pass


def test_a_target_that_is_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(ValueError, match="taken"), atomic_write(tmp_path / "taken") as temporary:
        temporary.write_text("x")
    assert os.listdir(tmp_path) == ["taken"]


def test_the_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{descriptor}") if os.path.isdir("/proc") else "")
        fsync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        done.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    with atomic_write(tmp_path / "file.txt") as temporary:
        temporary.write_text("x")
    assert len(done) == 3
    assert done[1] == "replace"
    if done[0]:
        assert done == [str(temporary), "replace", str(tmp_path)]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("when", ["write", "sync", "rename"])
def test_a_disk_that_fails_is_named_and_the_old_file_kept(
    number: int, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(*{"sync": (os, "fsync"), "rename": (os, "replace")}.get(
        when, (Path, "write_text")), fail)  # fmt: skip
    with (
        pytest.raises(ValueError, match=rf"file\.txt could not be \({os.strerror(number)}\)"),
        atomic_write(target) as temporary,
    ):
        temporary.write_text("new")
    monkeypatch.undo()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


DEAD_AND_ALIVE = """
import os, sys
from probml_tp.storage.files import atomic_write
with atomic_write(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print(temporary, flush=True)
    if sys.stdin.readline() == "die":
        os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_what_a_dead_writer_left_is_removed_and_what_a_live_one_writes_is_not(
    tmp_path: Path, checkout: Path
) -> None:
    target = tmp_path / "file.txt"
    (tmp_path / ".file.txt.mine.part").write_text("of somebody else")
    command = [sys.executable, "-c", DEAD_AND_ALIVE, str(target)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": checkout}
    dead, alive = (subprocess.Popen(command, **pipes) for _ in range(2))  # type: ignore[call-overload]
    half, being_written = (Path(p.stdout.readline().strip()) for p in (dead, alive))
    dead.communicate("die")
    assert dead.returncode == -signal.SIGKILL
    assert half.exists()
    with atomic_write(tmp_path / "other.txt") as temporary:
        temporary.write_text("x")
    assert not half.exists()
    assert being_written.exists()
    alive.communicate("live\n")
    assert target.read_text() == "half"
    assert sorted(os.listdir(tmp_path)) == [".file.txt.mine.part", "file.txt", "other.txt"]


def test_a_claim_is_exclusive_until_it_is_released(tmp_path: Path) -> None:
    first = claim(tmp_path)
    assert claim(tmp_path) is None
    release(first)
    again = claim(tmp_path)
    assert (again is None) == (first is None)
    release(again)
    assert claim(tmp_path / "missing") is None
