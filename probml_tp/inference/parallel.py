"""Independent runs over processes, each on one thread: of this machine, or of a Ray cluster."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from itertools import islice
from multiprocessing import resource_tracker
from typing import Any, Literal, TypeVar

import torch
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError

from probml_tp.checks.values import positive_integer

__all__ = ["number_of_jobs", "on_ray", "run_tasks", "single_thread"]

T = TypeVar("T")

Task = Callable[[], T]
"""A call without arguments that can be sent to another process."""

_RAY: ContextVar[Any] = ContextVar("probml_tp_ray", default=None)
"""Ray's module, within :func:`on_ray`."""

ATTEMPTS = 3
"""How often Ray starts a task again whose worker died, before that is an error."""


@contextmanager
def on_ray(address: str | None = None, **options: Any) -> Iterator[None]:
    """Within the block independent runs go to the workers of a Ray cluster.

    That holds for the members of :func:`~probml_tp.fit_ensemble`, the chains of
    :func:`~probml_tp.sample_nuts` and simulation-based calibration; results are those of this
    machine's own processes. A task whose worker dies is started again, elsewhere if need be. Every
    node needs this package and its dependencies. Ray itself is an extra:
    ``pip install 'probml_tp[ray]'``.

    Args:
        address: of the cluster, as ``ray.init`` takes it (``"auto"``: the one this machine is a
            node of); ``None``: one on this machine, for as long as the block lasts.
        **options: more that ``ray.init`` takes, such as ``num_cpus``.

    Raises:
        ImportError: Ray is not installed.
        ConnectionError: there is no cluster at this address.

    Example:
        >>> with on_ray(num_cpus=2):  # doctest: +SKIP
        ...     posterior = fit_ensemble(model, Delta, data, members=20)
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "on_ray needs Ray, which is not installed here. pip install 'probml_tp[ray]'"
        ) from error
    was_up = ray.is_initialized()
    if not was_up:
        ray.init(address, include_dashboard=False, log_to_driver=False, **options)
    token = _RAY.set(ray)
    try:
        yield
    finally:
        _RAY.reset(token)
        if not was_up:
            ray.shutdown()


def number_of_jobs(jobs: int | None, runs: int) -> int:
    """The processes for so many runs: as asked, else one a run and at most one a core.

    On Ray these are the cores of the cluster.

    Raises:
        ValueError: ``jobs`` is not an integer of at least 1.

    Example:
        >>> number_of_jobs(None, 1), number_of_jobs(3, 5)
        (1, 3)
    """
    if jobs is not None:
        return positive_integer("jobs", jobs)
    ray = _RAY.get()
    return min(runs, int(ray.cluster_resources()["CPU"]) if ray else torch.get_num_threads())


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
    if jobs > 1 and (ray := _RAY.get()):
        _run_on(ray, tasks, jobs=jobs, done=done, order=order)
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


def _run_on(
    ray: Any,
    tasks: Iterable[Task[T]],
    *,
    jobs: int,
    done: Callable[[T], None],
    order: Literal["any", "given"],
) -> None:
    """The same on Ray, with at most so many tasks there at a time."""
    start = ray.remote(max_retries=ATTEMPTS)(_call).remote
    left, running = iter(tasks), []
    try:
        while True:
            running += [start(task) for task in islice(left, jobs - len(running))]
            if not running:
                return
            first = running[0] if order == "given" else ray.wait(running)[0][0]
            running.remove(first)
            done(ray.get(first))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise ChildProcessError(
            f"workers must live until their work is done; one task lost {ATTEMPTS + 1} of them, "
            f"perhaps for lack of memory. Free memory, or use fewer processes."
        ) from error
    finally:
        for task in running:
            ray.cancel(task, force=True)


def _call(task: Task[T]) -> T:
    return task()


@contextmanager
def single_thread() -> Iterator[None]:
    """Within the block torch computes on one thread: the other cores have other runs.

    Sums do not depend on the number of threads then, so neither do results on ``jobs``.

    Example:
        >>> with single_thread():
        ...     torch.get_num_threads()
        1
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _end_with(parent: int) -> None:
    """This process ends once its parent is gone, at work or not."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    if os.getpid() != parent:  # not in threads, where one's own joblib settings ask for them
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
