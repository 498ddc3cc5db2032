"""Processes that are killed, stopped by signals, or run out of disk."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import demo_experiment as demo
import torch

from attacks.outcomes import Tally, in_children, judged
from attacks.subjects import CHECKPOINTED, fit_part, regressor, resumed, state_of
from probml_tp import Posterior
from probml_tp.harness.experiment import NullProgress
from probml_tp.harness.results import read_results, require_writable, write_results

__all__ = ["full_disks", "kill_fits", "kill_writers", "send_signals"]

LEFTOVERS = (".probml-tp-*", ".*.part")


# ------------------------------------------------------------------------------------------ kills


def _killed(work: Callable[[], object], seconds: float) -> bool:
    """Do some work in a forked child, and kill that after so long; whether it was still at it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def kill_fits(count: int, random: Random, folder: Path) -> Tally:
    """Fits with a checkpoint, killed up to three times each, then resumed: the same bit for bit."""
    tally = Tally("fits killed and resumed")
    for name in CHECKPOINTED:
        start = time.perf_counter()
        whole = resumed(name, folder / "whole")
        took = time.perf_counter() - start
        (folder / "whole").unlink()
        tries = [
            [random.uniform(0, took) for _ in range(random.randint(1, 3))] for _ in range(count)
        ]

        def judge(moments: list[float], name: str = name, whole: str = whole) -> str:
            checkpoint = folder / f"{os.getpid()}.ckpt"
            checkpoint.unlink(missing_ok=True)
            for moment in moments:
                _killed(lambda: resumed(name, checkpoint), moment)
            return judged(lambda: resumed(name, checkpoint), whole)

        for moments, outcome in zip(tries, in_children(tries, judge), strict=True):
            tally.add(f"{name}, killed at {moments}", outcome)
    return tally


@dataclass(frozen=True)
class Writer:
    """Something that is written in place of an earlier version of it.

    Args:
        name: in the table.
        write: writes a version, 0 or 1, to a folder.
        read: reads it back.
        recover: what the next start does first.
    """

    name: str
    write: Callable[[int, Path], object]
    read: Callable[[Path], str]
    recover: Callable[[Path], object] = lambda _: None


def writers() -> list[Writer]:
    """A posterior, a fit's checkpoint, a folder of results with a record."""
    model = regressor()
    posteriors = [fit_part(model), Posterior(fit_part(model).guide, seed=1)]
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)
    record = posteriors[0].to_inference_data(x, x[:, 0], num_samples=20)
    every = [demo.EXPERIMENT.run(demo.Config(seed=version), NullProgress()) for version in (0, 1)]
    for results in every:
        results.inference_data["record"] = record
    return [
        Writer(
            "posteriors",
            lambda version, place: posteriors[version].save(place / "p"),
            lambda place: (
                f"{(loaded := Posterior.load(place / 'p.safetensors', model)).seed}"
                + state_of(loaded)
            ),
        ),
        Writer(
            "folders of results",
            lambda version, place: write_results(every[version], demo.EXPERIMENT, place),
            _read_results,
            require_writable,
        ),
    ]


def _read_results(place: Path) -> str:
    import arviz as az

    saved = read_results(place / "demo", arrays=True)
    az.from_netcdf(place / "demo" / "posteriors" / "record.nc")
    arrays = {name: a.tobytes() for name, a in saved.arrays.items()}
    return repr((saved.all_tables, saved.config, sorted(arrays.items())))


def kill_writers(count: int, random: Random, folder: Path) -> Iterator[Tally]:
    """Writers killed at any moment: the old or the new version is there, whole."""
    for number, writer in enumerate(writers()):
        earlier, versions, took = _versions(writer, folder / str(number))
        tries = [random.uniform(0, 1.1 * took) for _ in range(4 * count)]

        def judge(
            moment: float, writer: Writer = writer, earlier: Path = earlier,
            versions: tuple[str, str] = versions,
        ) -> str:  # fmt: skip
            place = folder / f"try-{os.getpid()}"
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(earlier, place)
            _killed(lambda: writer.write(1, place), moment)
            writer.recover(place)
            outcome = judged(lambda: writer.read(place), *versions)
            writer.write(1, place)
            if left := [str(p) for pattern in LEFTOVERS for p in place.rglob(pattern)]:
                return f"lost: {left} stays behind"
            return f"lost: {outcome}" if outcome.startswith("refused") else outcome

        tally = Tally(f"killed while writing: {writer.name}")
        for moment, outcome in zip(tries, in_children(tries, judge), strict=True):
            tally.add(f"{writer.name}, killed at {moment:.4f}", outcome)
        yield tally


def _versions(writer: Writer, folder: Path) -> tuple[Path, tuple[str, str], float]:
    """A folder with the earlier version, what both versions read as, and the seconds of writing."""
    later, earlier = folder / "later", folder / "earlier"
    later.mkdir(parents=True), earlier.mkdir()
    writer.write(1, later)
    start = time.perf_counter()
    writer.write(0, earlier)
    took = time.perf_counter() - start
    return earlier, (writer.read(earlier), writer.read(later)), took


# ------------------------------------------------------------------------------------------ disks


def full_disks(count: int, random: Random, folder: Path) -> Tally:
    """No file may grow beyond some size: one line, and the earlier version is still there."""
    tally = Tally("full disks")
    for number, writer in enumerate(writers()):
        earlier, versions, _ = _versions(writer, folder / str(number))
        largest = max(p.stat().st_size for p in earlier.rglob("*") if p.is_file())
        tries = [random.randrange(largest) for _ in range(count)]

        def judge(
            size: int, writer: Writer = writer, earlier: Path = earlier,
            versions: tuple[str, str] = versions,
        ) -> str:  # fmt: skip
            place = folder / f"try-{os.getpid()}-{size}"
            shutil.copytree(earlier, place)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

            def write() -> str:
                writer.write(1, place)
                return "written"

            outcome = judged(write, "written")
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
            kept = judged(lambda: writer.read(place), versions[outcome == "intact"])
            return outcome if kept == "intact" else f"lost: {kept} after {outcome}"

        for size, outcome in zip(tries, in_children(tries, judge), strict=True):
            tally.add(f"{writer.name}, {size} bytes", outcome)
    return tally


# ---------------------------------------------------------------------------------------- signals

SIGNALS = {signal.SIGTERM: (143, -15), signal.SIGHUP: (129, -1), signal.SIGINT: (130, -2)}
"""Each with the ways to end that a shell understands."""


def send_signals(count: int, random: Random, folder: Path) -> Tally:
    """A run with worker processes gets a signal: it ends, with its workers, and tidies up."""
    tally = Tally("signals to a run with workers")
    runs = [(number, sent) for number in range(count) for sent in SIGNALS]
    for batch in range(0, len(runs), len(SIGNALS)):
        started = []
        for number, sent in runs[batch : batch + len(SIGNALS)]:
            place = folder / f"{sent.name}-{number}"
            place.mkdir()
            started.append((_start(place), sent, place, random.uniform(0, 0.5)))
        for run, sent, place, delay in started:
            tally.add(f"{sent.name} after {delay:.2f} s", _signalled(run, sent, place, delay))
    return tally


def _start(place: Path) -> subprocess.Popen[str]:
    with (place / "stderr").open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "attacks.long_run", str(place / "results")],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )


def _signalled(run: subprocess.Popen[str], sent: signal.Signals, place: Path, delay: float) -> str:
    try:
        workers = _wait_for_workers(run)
        if not workers:
            return f"lost: no workers; {(place / 'stderr').read_text()[-200:]}"
        time.sleep(delay)
        workers = _descendants(run.pid)
        run.send_signal(sent)
        code = run.wait(timeout=20)
        return _after(code, sent, workers, place)
    except subprocess.TimeoutExpired:
        return "lost: it goes on"
    finally:
        run.kill()
        run.wait()


def _after(code: int, sent: signal.Signals, workers: set[int], place: Path) -> str:
    deadline = time.monotonic() + 5
    while (alive := {pid for pid in workers if _is_alive(pid)}) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    errors = (place / "stderr").read_text()
    left = [path.name for pattern in LEFTOVERS for path in place.rglob(pattern)]
    if alive or left:
        return f"lost: {len(alive)} workers and {left} stay behind; it ended with {code}"
    if "Traceback" in errors:
        return f"traceback: {errors[-200:]!r}"
    return "refused" if code in SIGNALS[sent] else f"lost: it ended with {code}"


def _wait_for_workers(run: subprocess.Popen[str], seconds: float = 120) -> set[int]:
    """The processes of a run once it has two workers that compute."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and run.poll() is None:
        found = _descendants(run.pid)
        if len(found) >= 3:  # loky's resource tracker, and two workers
            return found
        time.sleep(0.1)
    return set()


def _descendants(pid: int) -> set[int]:
    """Everything that a process has started, from /proc."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
    found, new = set(), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"
