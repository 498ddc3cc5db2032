"""Experiments run and saved, several at once: each in a process of its own, on one thread.

Those that share fits run one after the other in one process. What a process has to say of its
progress it writes to a file that this one reads, so that nothing has to be open between the two.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, TextIO

from probml_tp.harness.config import ExperimentConfig, Size
from probml_tp.harness.experiment import SAVING, Experiment, Progress, Results, run_experiment
from probml_tp.harness.progress import RunProgress, Timeline, ToldProgress, show_progress
from probml_tp.harness.results import read_results, require_writable, write_results
from probml_tp.harness.timings import foretold
from probml_tp.storage.staging import recover

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Job", "Track", "run_all"]

SAVING_SECONDS = 2.0
"""What saving takes where no record says it."""

START_SECONDS = 6.0
"""What a process takes to start: it imports torch."""

OFTEN = 0.2
"""Seconds from one look at what processes tell to the next, and from one step told to the next."""


@dataclass(frozen=True)
class Job:
    """An experiment to run.

    Attributes:
        experiment: which one.
        size: the preset that its options are of.
        config: its options.
    """

    experiment: Experiment[Any]
    size: Size
    config: ExperimentConfig


Track = Sequence[Job]
"""What runs one after the other in one process."""


def run_all(
    tracks: Sequence[Track],
    folder: Path,
    *,
    console: Console,
    done: Callable[[Results[Any]], None],
    jobs: int | None = None,
    visible: bool = True,
) -> None:
    """Run experiments, the longest first by the record, and save each as it is done.

    Args:
        tracks: what runs one after the other; tracks run at once.
        folder: that of all results.
        console: where the progress is shown.
        done: called with what was saved of a track, or of each experiment in this process.
        jobs: the processes; one a track and at most one a core by default. With 1 all run in this
            process, where chains and members of ensembles take the other cores.
        visible: whether to show the progress.

    Raises:
        ChildProcessError: a process was killed.
        ValueError: ``folder`` cannot be written, or an experiment refuses its options.
    """
    from probml_tp.inference.parallel import number_of_jobs, run_tasks, single_thread

    jobs = min(number_of_jobs(jobs, len(tracks)), len(tracks))
    require_writable(folder)
    plan = _plan([job for track in tracks for job in track], folder)
    tracks = sorted(tracks, key=lambda track: -sum(sum(plan[n].values()) for n in _names(track)))
    start = START_SECONDS if jobs > 1 else 0.0
    timeline = Timeline(plan, tracks=[_names(track) for track in tracks], jobs=jobs, start=start)
    with show_progress(timeline, console=console, visible=visible) as progress:
        if jobs == 1:
            with single_thread(keep_cores=True):
                for job in (job for track in tracks for job in track):
                    path = _run(job, folder, progress.experiment(job.experiment.name))
                    done(read_results(path))
            return
        with _heard(progress) as told:
            tasks = [partial(_run_apart, track, folder.resolve(), told) for track in tracks]
            try:
                run_tasks(tasks, jobs=jobs, done=partial(_read_all, done))
            except BaseException:
                recover(folder)  # what processes that were ended had not saved whole
                raise


def _names(track: Track) -> list[str]:
    return [job.experiment.name for job in track]


def _plan(jobs: Sequence[Job], folder: Path) -> dict[str, dict[str, float]]:
    """What each stage is expected to take, saving included."""
    known = foretold(
        [(job.experiment.name, job.size, job.config.describe()) for job in jobs], folder
    )
    return {
        name: {**stages, SAVING: stages.get(SAVING, SAVING_SECONDS)}
        for name, stages in known.items()
    }


def _run(job: Job, folder: Path, progress: Progress) -> Path:
    results = run_experiment(job.experiment, job.config, progress=progress)
    with progress.stage(SAVING):
        return write_results(results, job.experiment, folder)


def _read_all(done: Callable[[Results[Any]], None], paths: Sequence[Path]) -> None:
    for path in paths:
        done(read_results(path))


# --------------------------------------------------------------------- in processes of their own


def _run_apart(track: Track, folder: Path, told: Path) -> list[Path]:
    from probml_tp.inference.parallel import single_thread

    def run(job: Job, to: TextIO) -> Path:
        return _run(job, folder, ToldProgress(_Teller(job.experiment.name, to)))

    name = track[0].experiment.name
    with single_thread(), open(told / f"{name}.jsonl", "w", encoding="utf-8") as to:
        return [run(job, to) for job in track]


class _Teller:
    """Writes what an experiment tells of its progress, steps not too often, a line each."""

    def __init__(self, experiment: str, to: TextIO) -> None:
        self._experiment, self._to, self._last = experiment, to, 0.0

    def __call__(self, stage: str, share: float | None, message: str) -> None:
        now = time.monotonic()
        if share in (None, 1.0) or now - self._last >= OFTEN:
            self._last = now
            self._to.write(json.dumps([self._experiment, stage, share, message]) + "\n")
            self._to.flush()


@contextmanager
def _heard(progress: RunProgress) -> Iterator[Path]:
    """Give a folder for what processes tell, and pass it on as it comes."""
    over = Event()
    with tempfile.TemporaryDirectory(prefix="probml-tp-", ignore_cleanup_errors=True) as folder:
        thread = Thread(target=_hear, args=(Path(folder), progress, over), daemon=True)
        thread.start()
        try:
            yield Path(folder)
        finally:
            over.set()
            thread.join()


def _hear(folder: Path, progress: RunProgress, over: Event) -> None:
    at: dict[Path, int] = {}
    while True:
        last = over.wait(OFTEN)
        for path in folder.iterdir():
            with open(path, "rb") as file:
                file.seek(at.get(path, 0))
                whole = file.read().rpartition(b"\n")[0]
            at[path] = at.get(path, 0) + len(whole) + (1 if whole else 0)
            for line in whole.splitlines():
                progress.take(*json.loads(line))
        if last:
            return
