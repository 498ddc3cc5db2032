"""The command ``probml-tp sweep``: experiments over options and seeds, on cores or on Ray."""

from __future__ import annotations

import difflib
import itertools
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from probml_tp import experiments
from probml_tp.harness.click_options import parsed

if TYPE_CHECKING:
    from probml_tp.harness.config import Option, Size
    from probml_tp.harness.sweep import Point

__all__ = ["sweep"]

LOCAL = "local"
MOST_SEEDS = 10_000


@click.command()
@click.argument("names", metavar="EXPERIMENT...", nargs=-1, required=True)
@click.option("--seeds", default="0-4", show_default=True, help="Such as 0-9, or 0,3,7.")
@click.option(
    "--vary",
    multiple=True,
    metavar="NAME=VALUE",
    help="An option and a value; give it again for each value. All combinations are run.",
)
@click.option(
    "--set", "fixed", multiple=True, metavar="NAME=VALUE", help="An option of all points."
)
@click.option("--quick", is_flag=True, help="Other options are those of a smoke test.")
@click.option("--full", is_flag=True, help="Other options are those of the published size.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes.  [default: one a core]")
@click.option(
    "--ray",
    metavar="ADDRESS",
    help=f"Run on a Ray cluster: 'auto', an address, or '{LOCAL}' for one on this machine.",
)
@click.option("--results", default="sweep", show_default=True, help="Folder of the sweep.")
def sweep(
    names: tuple[str, ...],
    seeds: str,
    vary: tuple[str, ...],
    fixed: tuple[str, ...],
    quick: bool,
    full: bool,
    jobs: int | None,
    ray: str | None,
    results: str,
) -> None:
    """Run experiments over options and seeds, and make one table with intervals over seeds.

    Each point of the grid is saved as it is done; what is there already is not run again.

    \b
    probml-tp sweep linear-regression --seeds 0-9 --vary n=20 --vary n=50
    probml-tp sweep two-moons tabular-regression --quick --ray auto
    """  # noqa: D301
    from probml_tp.harness.report import console_of, print_table
    from probml_tp.harness.sweep import (
        TABLE,
        grid,
        run_points,
        saved_points,
        summary,
        summary_tables,
    )

    if quick and full:
        raise click.UsageError("--quick and --full exclude each other; give one of them.")
    known = experiments.EXPERIMENTS
    chosen = _known(names)
    options = {o.name: o for name in reversed(chosen) for o in known.options(name)}
    axes: dict[str, list[tuple[str, object]]] = {}
    for name, text in map(_pair, vary):
        axes.setdefault(name, []).append((text, _value(options, name, text)))
    pairs = list(map(_pair, fixed))
    constant = {name: _value(options, name, text) for name, text in pairs}
    given = [*axes, *(name for name, _ in pairs), "seed"]
    if twice := sorted({name for name in given if given.count(name) > 1}):
        raise click.UsageError(f"{twice[0]} is given twice; seeds are what --seeds says.")
    size: Size = "quick" if quick else "full" if full else "default"
    numbers = _seeds(seeds)
    points = grid(
        [known[name] for name in chosen], size=size, seeds=numbers, varied=axes, fixed=constant
    )
    folder, failed = Path(results), list[str]()
    left = [point for point in points if point.saved(folder) is None]
    if len(left) < len(points):
        click.echo(f"{len(points) - len(left)} of {len(points)} are done already.", err=True)

    count = itertools.count(1)

    def tell(point: Point, error: str | None) -> None:
        state = f"failed: {error}" if error else "saved"
        where = f"{point.experiment.name} {point.label}"
        click.echo(f"[{next(count)}/{len(left)}] {where}: {state}", err=True)
        if error:
            failed.append(f"{where}: {error}")

    with _engine(ray):
        run_points(left, folder, jobs=jobs, tell=tell)
    saved = saved_points(points, folder)
    found = summary(saved)
    found.to_csv(folder / TABLE, index=False)
    for table in summary_tables(saved, found):
        print_table(table, console=console_of(sys.stdout))
    click.echo(f"All numbers: {(folder / TABLE).resolve()}")
    if failed:
        raise click.ClickException(f"{len(failed)} of {len(points)} failed; {failed[0]}")


def unknown_experiment(name: str) -> click.UsageError:
    """The error that there is no such experiment."""
    known = experiments.EXPERIMENTS
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]}?" if close else f"Known are: {', '.join(known)}."
    return click.UsageError(f"There is no experiment {name!r}. {hint}")


def _known(names: Iterable[str]) -> list[str]:
    for name in names:
        if name not in experiments.EXPERIMENTS:
            raise unknown_experiment(name)
    return list(dict.fromkeys(names))


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise click.UsageError(f"--vary and --set take NAME=VALUE; got {text!r}.")
    return name.replace("-", "_"), value


def _value(options: Mapping[str, Option], name: str, text: str) -> object:
    """As the option takes it; the grid refuses what is none."""
    return parsed(options[name], text) if name in options else text


def _seeds(text: str) -> list[int]:
    """Seeds from a text such as "0-4,7"."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = [first, last] if dash else [first, first]
        if not all(end.isascii() and end.isdigit() for end in ends):
            raise click.UsageError(f"--seeds must be such as 0-9 or 0,3,7; got {text!r}.")
        low, high = map(int, ends)
        if not low <= high < low + MOST_SEEDS:
            raise click.UsageError(
                f"--seeds must go from a lower to a higher one, at most {MOST_SEEDS:,} of them; "
                f"got {text!r}."
            )
        found += range(low, high + 1)
    return list(dict.fromkeys(found))


def _engine(ray: str | None) -> AbstractContextManager[Any]:
    if ray is None:
        return nullcontext()
    from probml_tp.inference import on_ray

    try:
        import ray as _  # noqa: F401 (whether it is there)
    except ImportError as error:
        raise click.UsageError("--ray needs Ray: pip install 'probml_tp[ray]'.") from error
    return on_ray(None if ray == LOCAL else ray)
