"""What all tests share: the data, the browser, one thread a worker, a small experiment."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
DATA_BESIDE_CHECKOUT = CHECKOUT.parent / "shared" / "data"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

LONGEST_FIRST = (
    "tests/test_quality.py",
    "tests/guides/test_contract.py",
    "tests/test_attack.py",
    "tests/test_posterior.py",
    "tests/test_readme.py",
    "tests/test_records.py",
)
"""Files that take longest, in this order."""

if DATA_BESIDE_CHECKOUT.is_dir():
    os.environ.setdefault("PROBML_TP_DATA", str(DATA_BESIDE_CHECKOUT))
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where there are several workers, none is left with a long file when the others are done."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = {name: i for i, name in enumerate(LONGEST_FIRST)}
        items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))


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
