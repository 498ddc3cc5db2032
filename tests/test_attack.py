"""The quick size of the attack: nothing taken silently, no raw traceback, nothing lost.

The wrong calls of the API are in ``test_wrong_calls.py``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_quick_attack_harms_nothing(checkout: Path) -> None:
    """In a process of its own, which forks: no threads are running in it."""
    kinds = [f"--only={kind}" for kind in ("files", "fits", "writers", "signals", "disks")]
    command = [sys.executable, "-W", "ignore", "benchmarks/attack.py", "--quick", *kinds]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| **All** |" in done.stdout
