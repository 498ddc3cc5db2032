"""A grid of experiments, options and seeds: run over cores or a cluster, then one table.

Each point of the grid is saved in a results folder of its own, ``<folder>/<point>/<experiment>``,
whole or not at all; what is there already is not run again. So a sweep that was ended goes on
where it was, and one that grows runs what is new.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probml_tp.harness.config import ExperimentConfig, Size
from probml_tp.harness.experiment import Experiment, Results, run_experiment
from probml_tp.harness.results import read_results, require_writable, write_results
from probml_tp.harness.table import Table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Point", "grid", "run_points", "saved_points", "summary", "summary_tables"]

TABLE = "sweep.csv"
"""The file of the summary, beside the points' folders."""


@dataclass(frozen=True)
class Point:
    """One experiment with its options.

    Attributes:
        experiment: which one.
        config: its options.
        varied: those that the sweep varies, but for the seed, as text.
    """

    experiment: Experiment[Any]
    config: ExperimentConfig
    varied: Mapping[str, str]

    @property
    def label(self) -> str:
        """The name of its folder, such as "n=20,seed=3"."""
        text = ",".join(f"{k}={v}" for k, v in {**self.varied, "seed": self.config.seed}.items())
        plain = re.sub(r"[^\w.,=+-]", "-", text)
        digest = blake2b(text.encode(), digest_size=4).hexdigest()
        return plain if plain == text and len(plain) < 100 else f"{plain[:90]}-{digest}"

    def folder(self, results: Path) -> Path:
        """The folder of its results."""
        return results / self.label / self.experiment.name

    def saved(self, results: Path) -> Results[Any] | None:
        """Its results, if they are there, whole and with the same options."""
        try:
            found = read_results(self.folder(results))
        except (ValueError, OSError):
            return None
        return found if found.config == self.config.to_dict() else None


Saved = Sequence[tuple[Point, Results[Any]]]
"""Points that are done, each with its results."""


def grid(
    experiments: Sequence[Experiment[Any]],
    *,
    size: Size,
    seeds: Sequence[int],
    varied: Mapping[str, Sequence[tuple[str, object]]],
    fixed: Mapping[str, object],
) -> list[Point]:
    """The points of a sweep: every experiment with every combination of values and every seed.

    An experiment takes the options that it has.

    Args:
        experiments: which ones.
        size: the preset that other options have.
        seeds: of each combination.
        varied: option to its values, each as text and as the option takes it.
        fixed: option to its one value.

    Raises:
        ValueError: an option is none of any of the experiments, or a value breaks its rules.
    """
    known = {e.name: {option.name for option in e.config.options()} for e in experiments}
    if unknown := sorted({*varied, *fixed} - set().union(*known.values())):
        raise ValueError(
            f"Options of a sweep must be those of its experiments; got {', '.join(unknown)}. "
            f"'probml-tp run {experiments[0].name} --help' lists them."
        )
    points = []
    for experiment in experiments:
        own = known[experiment.name]
        axes = [[(n, *value) for value in values] for n, values in varied.items() if n in own]
        constant = {name: value for name, value in fixed.items() if name in own}
        for choice in itertools.product(*axes):
            texts = {name: text for name, text, _ in choice}
            values = constant | {name: value for name, _, value in choice}
            points += [
                Point(experiment, experiment.config.preset(size, **values, seed=seed), texts)
                for seed in seeds
            ]
    return points


def run_points(
    points: Iterable[Point],
    folder: Path,
    *,
    jobs: int | None,
    tell: Callable[[Point, str | None], None],
) -> None:
    """Run the points that are not done, each in a process of its own, and save each.

    Within :func:`~probml_tp.inference.on_ray` that is a worker of the cluster, whose nodes have to
    share the folder.

    Args:
        points: what to run.
        folder: that of the sweep.
        jobs: processes at a time; default: one a core.
        tell: called with each point as it ends, and what went wrong, if anything did: the others
            go on.

    Raises:
        ValueError: ``folder`` cannot be written.
        ChildProcessError: a process was killed; what was saved is kept.
    """
    from probml_tp.inference.parallel import number_of_jobs, run_tasks

    points = list(points)
    require_writable(folder)
    tasks = [partial(_run, index, point, folder.resolve()) for index, point in enumerate(points)]

    def done(result: tuple[int, str | None]) -> None:
        tell(points[result[0]], result[1])

    run_tasks(tasks, jobs=number_of_jobs(jobs, max(len(tasks), 1)), done=done)


def _run(index: int, point: Point, folder: Path) -> tuple[int, str | None]:
    """One point, in whatever process: its place and what went wrong."""
    from probml_tp.inference.parallel import single_thread

    try:
        with single_thread():
            results = run_experiment(point.experiment, point.config)
            write_results(results, point.experiment, point.folder(folder).parent)
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        return index, f"{type(error).__name__}: {' '.join(str(error).split())}"
    return index, None


def saved_points(points: Iterable[Point], folder: Path) -> Saved:
    """The points that are done, each with its results.

    Args:
        points: of the sweep.
        folder: that of the sweep.
    """
    found = ((point, point.saved(folder)) for point in points)
    return [(point, results) for point, results in found if results is not None]


def summary(saved: Saved, *, level: float = 0.95) -> pd.DataFrame:
    """The means over seeds of every number that the points have saved, with intervals.

    Args:
        saved: the points that are done.
        level: of Student's t intervals over seeds.

    Returns:
        A line a number: experiment, the varied options, table, row, metric, mean, low, high, seeds,
        unit. Without a second seed ``low`` and ``high`` are NaN.
    """
    import pandas as pd

    from probml_tp.metrics import mean_interval

    frames = [
        results.frame.assign(experiment=point.experiment.name, **point.varied)
        for point, results in saved
    ]
    options = list(dict.fromkeys(name for point, _ in saved for name in point.varied))
    keys = ["experiment", *options, "table", "row", "metric", "unit"]
    columns = [*keys[:-1], "mean", "low", "high", "seeds", "unit"]
    if not frames:
        return pd.DataFrame(columns=columns)
    lines = []
    for key, group in pd.concat(frames).groupby(keys, sort=False, dropna=False):
        found = mean_interval(group["value"], level)
        low, high = found.interval or (float("nan"),) * 2
        own = dict(zip(keys, key, strict=True))
        lines.append(own | {"mean": found.mean, "low": low, "high": high, "seeds": found.count})
    return pd.DataFrame(lines, columns=columns)


def summary_tables(saved: Saved, found: pd.DataFrame) -> list[Table]:
    """The main table of each experiment, a row for each of its rows and each combination.

    Args:
        saved: the points that are done.
        found: their :func:`summary`.
    """
    first: dict[str, tuple[Point, Results[Any]]] = {}
    for point, results in saved:
        first.setdefault(point.experiment.name, (point, results))
    tables = []
    for name, (point, results) in first.items():
        main = results.main
        table = Table(f"{name}: means over seeds", main.row_heading, columns=main.columns)
        lines = found[(found["experiment"] == name) & (found["table"] == main.title)]
        for line in lines.to_dict("records"):
            choice = ", ".join(f"{key}={line[key]}" for key in point.varied)
            row = f"{line['row']} ({choice})" if choice else str(line["row"])
            ends = {} if line["seeds"] < 2 else {line["metric"]: (line["low"], line["high"])}
            table.put(row, {line["metric"]: line["mean"]}, ends)
        tables.append(table)
    return tables
