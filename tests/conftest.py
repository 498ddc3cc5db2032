"""What all tests share: the data, the browser, one thread a worker, a small experiment."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
DATA_BESIDE_CHECKOUT = CHECKOUT.parent / "shared" / "data"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

if DATA_BESIDE_CHECKOUT.is_dir():
    os.environ.setdefault("PROBML_TP_DATA", str(DATA_BESIDE_CHECKOUT))
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the checkout."""
    return CHECKOUT


@pytest.fixture(scope="session")
def browser() -> str:
    """A Chromium to open pages with; PROBML_TP_REQUIRE_BROWSER=1 makes its absence an error."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    if os.environ.get("PROBML_TP_REQUIRE_BROWSER"):
        pytest.fail(f"No browser on the PATH; install one of {', '.join(BROWSERS)}.")
    pytest.skip(f"No browser on the PATH ({', '.join(BROWSERS)}).")
