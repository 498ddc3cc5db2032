"""The environment that a result was computed in: versions, platform, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["describe_environment", "package_versions"]

PACKAGES = (
    "probml_tp",
    "torch",
    "torchvision",
    "pyro-ppl",
    "arviz",
    "numpy",
    "scikit-learn",
    "matplotlib",
    "safetensors",
)


def describe_environment() -> dict[str, Any]:
    """Describe where and when this process runs, importing nothing heavy.

    Returns:
        date (UTC, ISO 8601), python, platform, cpus, packages (name to version, None if it is
        not installed) and git_commit (None unless the package runs from a git checkout).

    Example:
        >>> sorted(describe_environment())
        ['cpus', 'date', 'git_commit', 'packages', 'platform', 'python']
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": package_versions(),
        "git_commit": _git_commit(Path(__file__).resolve()),
    }


def package_versions() -> dict[str, str | None]:
    """Give the versions of the packages that results depend on.

    Returns:
        Name to version, None for a package that is not installed.

    Example:
        >>> "torch" in package_versions()
        True
    """
    return {name: _version(name) for name in PACKAGES}


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit(source: Path) -> str | None:
    """Give the commit of the checkout that tracks ``source``, marked where it was changed."""
    try:
        _git(source.parent, "ls-files", "--error-unmatch", source.name)
        return _git(source.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
