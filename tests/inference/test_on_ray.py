"""Runs on the workers of a Ray cluster: two of them here."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import on_ray_runs
import pytest

pytest.importorskip("ray", reason="Ray is an extra")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of work on a cluster, in a process of its own."""
    command = [sys.executable, on_ray_runs.__file__, str(tmp_path_factory.mktemp("killed"))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return result


def test_one_job_a_core_of_the_cluster_and_none_within_a_job(found: dict[str, Any]) -> None:
    assert found["jobs"] == [2, 1, 1]


def test_a_killed_worker_loses_nothing(found: dict[str, Any]) -> None:
    assert found["killed"] == [0, 1, 2, 3, 4]


def test_what_kills_every_worker_is_an_error(found: dict[str, Any]) -> None:
    assert "a task lost 4 of them" in found["always killed"]


def test_errors_come_as_they_were_raised(found: dict[str, Any]) -> None:
    assert found["error"] == "rule broken"


def test_ensembles_and_chains_are_the_same_as_here(found: dict[str, Any]) -> None:
    assert found["ensemble"]
    assert found["chains"]
