"""Attack the package: wrong calls, damaged files, kills, signals, full disks.

Every try ends in one of five ways. Three of them must not happen: other content is taken without a
word, a raw traceback, something lost (a file, a process that stays, a crash, a hang).

    python benchmarks/attack.py --quick            # a minute and a half
    python benchmarks/attack.py --full --write     # a quarter of an hour, into docs/reliability.md
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import click
import torch

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT / "benchmarks"), str(CHECKOUT / "tests" / "support")]

from attacks.calls import call_wrongly  # noqa: E402
from attacks.fuzz import fuzz  # noqa: E402
from attacks.kills import full_disks, kill_fits, kill_writers, send_signals  # noqa: E402
from attacks.outcomes import Tally, table  # noqa: E402
from report import machine, write_section  # noqa: E402

PAGE = CHECKOUT / "docs" / "reliability.md"


@dataclass(frozen=True)
class Size:
    """How often each kind is tried.

    Args:
        damages: of each kind of file.
        kills: of each fit, and of what writes files.
        signals: of each signal.
        disks: sizes at which the disk is full, for each writer.
    """

    damages: int
    kills: int
    signals: int
    disks: int


SIZES = {"quick": Size(30, 3, 1, 5), "full": Size(1000, 150, 10, 150)}
ATTACKS = ("calls", "files", "fits", "writers", "signals", "disks")


def attack(
    size: Size, seed: int, only: tuple[str, ...] = ATTACKS, seconds: dict[str, float] | None = None
) -> list[Tally]:
    """Run the attacks.

    Args:
        size: how often each kind is tried.
        seed: determines the damages, the moments of the kills and the sizes of the disks.
        only: which of ``ATTACKS``.
        seconds: where to note how long each took.
    """
    torch.set_num_threads(1)  # forked children must not wait for threads that they do not have
    found: list[Tally] = []
    with tempfile.TemporaryDirectory() as name:
        for number, kind in enumerate(ATTACKS):
            if kind in only:
                start = time.perf_counter()
                place = Path(name) / kind
                place.mkdir()
                found += _run(kind, size, Random(f"{seed} {number}"), place)
                (seconds if seconds is not None else {})[kind] = time.perf_counter() - start
    return found


def _run(kind: str, size: Size, random: Random, folder: Path) -> Iterator[Tally]:
    if kind == "calls":
        yield call_wrongly(folder)
    elif kind == "files":
        yield from fuzz(size.damages, random, folder)
    elif kind == "fits":
        yield kill_fits(size.kills, random, folder)
    elif kind == "writers":
        yield from kill_writers(size.kills, random, folder)
    elif kind == "signals":
        yield send_signals(size.signals, random, folder)
    else:
        yield full_disks(size.disks, random, folder)


@click.command()
@click.option("--quick", "size", flag_value="quick", default="quick", help="A minute and a half.")
@click.option("--full", "size", flag_value="full", help="A quarter of an hour.")
@click.option("--seed", default=0, show_default=True, help="Of damages, moments and sizes.")
@click.option("--only", multiple=True, type=click.Choice(ATTACKS), help="Some kinds only.")
@click.option("--write", is_flag=True, help="Put the table into docs/reliability.md.")
def main(size: str, seed: int, only: tuple[str, ...], write: bool) -> None:
    """Attack the package and print what happened."""
    seconds: dict[str, float] = {}
    tallies = attack(SIZES[size], seed, only or ATTACKS, seconds)
    parts = ", ".join(f"{kind} {took:.0f} s" for kind, took in seconds.items())
    text = f"{table(tallies)}\n\n{machine()}; `--{size} --seed {seed}`; {parts}."
    print(text)
    for tally in tallies:
        for example in tally.examples[:8]:
            print(f"  {tally.kind}: {example}", file=sys.stderr)
    if write:
        write_section("attack", text, PAGE)
    sys.exit(any(tally.bad for tally in tallies))


if __name__ == "__main__":
    main()
