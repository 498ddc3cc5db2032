"""The record of versions, platform and commit."""

from __future__ import annotations

import platform
import shutil
import subprocess

import pytest

from probml_tp.environment import _git_commit, describe_environment


def test_versions_and_platform_are_recorded():
    record = describe_environment()
    assert record["python"] == platform.python_version()
    assert record["packages"]["numpy"].count(".") >= 1
    assert record["date"].endswith("+00:00")


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_the_commit_is_that_of_the_checkout_which_tracks_the_source(tmp_path):
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    source, other = tmp_path / "source.py", tmp_path / "untracked.py"
    assert _git_commit(source) is None
    git("init", "--quiet")
    source.write_text("x = 1\n")
    other.write_text("x = 1\n")
    git("add", "source.py")
    git("commit", "--quiet", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert _git_commit(source) == commit
    assert _git_commit(other) is None
    source.write_text("x = 2\n")
    assert _git_commit(source) == f"{commit}-dirty"
