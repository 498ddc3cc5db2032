"""What the benchmarks' reports share: aims, the setting, and the page they are written to."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
from pathlib import Path
from types import ModuleType

import click
import torch
from setups import Digits

from probml_tp.environment import describe_environment

__all__ = ["PAGE", "machine", "peer", "setting", "verdict", "write_section"]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"


def verdict(finding: str, aim: str, ratio: float, limit: float) -> str:
    """One aim, met or missed."""
    return f"- {finding} (aim: {aim}): {'met' if ratio <= limit else '**missed**'}."


def setting(digits: Digits, rounds: str, packages: tuple[str, ...] = ()) -> str:
    """Where, with what and on what the figures were measured.

    Args:
        digits: the data.
        rounds: how often, in words.
        packages: peers, as distributions, whose versions are given too.
    """
    return f"{machine(packages)}; {rounds}. Digits: {digits.source}."


def machine(packages: tuple[str, ...] = ()) -> str:
    """Where and with what the figures were measured: the beginning of a sentence."""
    environment = describe_environment()
    own = environment["packages"]
    versions = "".join(f", {name} {importlib.metadata.version(name)}" for name in packages)
    return (
        f"Run on {environment['date'][:10]}: Python {environment['python']}, torch {own['torch']}, "
        f"pyro-ppl {own['pyro-ppl']}{versions}, {platform.machine()}, {environment['cpus']} CPUs, "
        f"{torch.get_num_threads()} threads"
    )


def write_section(name: str, text: str, page: Path = PAGE) -> None:
    """Put the figures between the page's markers of that name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = page.read_text("utf-8").split(begin)
    after = rest.split(end)[1]
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", "utf-8")


def peer(module: str) -> ModuleType:
    """Import a peer, or say how to install it.

    Raises:
        ClickException: it is not installed here.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"this benchmark measures against {module}, which cannot be imported ({error}). In an "
            f"environment of its own: pip install -e . -r benchmarks/requirements.txt"
        ) from error
