"""Independent runs over processes, each on one thread: of this machine, or of a cluster."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from multiprocessing import resource_tracker
from typing import Any, Literal, Protocol, TypeVar

import torch
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError

from probml_tp.checks.values import positive_integer

__all__ = [
    "Cluster",
    "Task",
    "cluster",
    "number_of_jobs",
    "run_apart",
    "run_tasks",
    "single_thread",
]

T = TypeVar("T")

Task = Callable[[], T]
"""A call without arguments that can be sent to another process."""


class Cluster(Protocol):
    """Other machines that run tasks."""

    @property
    def cores(self) -> int:
        """How many tasks it can run at a time."""

    def run(
        self, tasks: Iterable[Task[T]], jobs: int, done: Callable[[T], None], *, in_order: bool
    ) -> None:
        """As :func:`run_tasks`, each task by way of :func:`run_apart`."""


cluster: ContextVar[Cluster | None] = ContextVar("cluster", default=None)
"""Where tasks run, if not on this machine."""

_cores: ContextVar[int | None] = ContextVar("cores", default=None)
"""The cores that runs may take for processes of their own; as torch has threads by default."""

_apart = False
"""Whether this process is one of those that :func:`run_tasks` starts: it starts none itself."""


def number_of_jobs(jobs: int | None, runs: int) -> int:
    """The processes for so many runs: as asked, else one a run and at most one a core.

    In a process of :func:`run_tasks` it is one, whatever is asked: the other cores have other work.

    Raises:
        ValueError: ``jobs`` is not an integer of at least 1.

    Example:
        >>> number_of_jobs(None, 1), number_of_jobs(3, 5)
        (1, 3)
    """
    asked = runs if jobs is None else positive_integer("jobs", jobs)
    if _apart:
        return 1
    if jobs is not None:
        return asked
    elsewhere = cluster.get()
    return min(runs, elsewhere.cores if elsewhere else _cores.get() or torch.get_num_threads())


def run_tasks(
    tasks: Iterable[Task[T]],
    *,
    jobs: int,
    done: Callable[[T], None],
    order: Literal["any", "given"] = "any",
    mmap_mode: Literal["r", "c"] = "r",
) -> None:
    """Run tasks in processes of their own, and take the results in this one.

    However this ends (an error, an interruption, the death of this process), the processes end too.

    Args:
        tasks: what to run.
        jobs: processes; 1 runs the tasks one by one here.
        done: called with each result.
        order: in which results come: as they are ready, or as the tasks are given.
        mmap_mode: how the processes share large arrays, as joblib has it.

    Raises:
        ChildProcessError: a process was killed.

    Example:
        >>> from functools import partial
        >>> found = []
        >>> run_tasks([partial(pow, 2, n) for n in (1, 2, 3)], jobs=1, done=found.append)
        >>> found
        [2, 4, 8]
    """
    elsewhere = cluster.get()
    if elsewhere is not None and jobs > 1:
        elsewhere.run(tasks, jobs, done, in_order=order == "given")
        return
    return_as = "generator" if order == "given" else "generator_unordered"
    start = {"initializer": _end_with, "initargs": (os.getpid(),)} if jobs > 1 else {}
    pool = Parallel(n_jobs=jobs, return_as=return_as, mmap_mode=mmap_mode, **start)
    results: Any = iter(())
    try:
        with _no_interruption_of_children() if jobs > 1 else nullcontext():
            results = pool(delayed(task)() for task in tasks)
        for result in results:
            done(result)
    except TerminatedWorkerError as error:
        raise ChildProcessError(
            f"processes must live until their work is done; one of {jobs} was killed, by hand or "
            f"for lack of memory. Free memory, or use fewer processes (jobs=1 needs none)."
        ) from error
    finally:
        with warnings.catch_warnings(action="ignore"):  # joblib counts what is left undone
            getattr(results, "close", lambda: None)()


def run_apart(task: Task[T]) -> T:
    """Run a task in a process that is a cluster's: on one thread, starting no other processes."""
    global _apart
    _apart = True
    with single_thread():
        return task()


@contextmanager
def single_thread(*, keep_cores: bool = False) -> Iterator[None]:
    """Within the block torch computes on one thread: the other cores have other runs.

    Sums do not depend on the number of threads then, so neither do results on ``jobs``.

    Args:
        keep_cores: whether chains and members within the block have them for their own processes.

    Example:
        >>> with single_thread():
        ...     torch.get_num_threads(), number_of_jobs(None, 9)
        (1, 1)
    """
    threads = torch.get_num_threads()
    token = _cores.set((_cores.get() or threads) if keep_cores else 1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _cores.reset(token)
        torch.set_num_threads(threads)


def _end_with(parent: int) -> None:
    """This process ends once its parent is gone, at work or not, and starts no others."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    global _apart
    if os.getpid() != parent:  # not in threads, where one's own joblib settings ask for them
        _apart = True
        threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _no_interruption_of_children() -> Iterator[None]:
    """Processes that are started in the block never see Ctrl-C: it is for their parent to end them.

    A terminal sends it to all of them, and Python prints a traceback of each that is starting. The
    parent's own is delivered after the block.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # when it starts, it unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
