"""Independent runs on the workers of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from probml_tp.checks.arguments import checked
from probml_tp.inference.parallel import Task, cluster, run_apart

__all__ = ["on_ray"]

T = TypeVar("T")

RESTARTS = 3
"""How often a task is started again whose worker died, before that is an error."""


@checked()
@contextmanager
def on_ray(address: str | None = None, **options: Any) -> Iterator[None]:
    """Within the block independent runs go to the workers of a Ray cluster.

    That holds for the members of :func:`~probml_tp.fit_ensemble`, the chains of
    :func:`~probml_tp.sample_nuts`, and the fits of simulation-based calibration and of the
    splits of cross-validation; results are those of this machine's own processes. A task whose
    worker dies is started again, elsewhere if need be. Every node needs this package. Ray itself
    is an extra: ``pip install 'probml_tp[ray]'``.

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
    token = cluster.set(_Ray(ray))
    try:
        yield
    finally:
        cluster.reset(token)
        if not was_up:
            ray.shutdown()


class _Ray:
    """A cluster that this process is connected to.

    Args:
        ray: the module.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._start = ray.remote(max_retries=RESTARTS)(run_apart).remote

    @property
    def cores(self) -> int:
        """Those of all nodes."""
        return int(self._ray.cluster_resources()["CPU"])

    def run(
        self, tasks: Iterable[Task[T]], jobs: int, done: Callable[[T], None], *, in_order: bool
    ) -> None:
        """Run tasks, at most ``jobs`` at a time, and take their results."""
        left, running, died = iter(tasks), list[Any](), self._ray.exceptions
        try:
            while True:
                running += map(self._start, islice(left, jobs - len(running)))
                if not running:
                    return
                first = running[0] if in_order else self._ray.wait(running)[0][0]
                result = self._ray.get(first)
                running.remove(first)
                done(result)
        except died.RayTaskError as error:
            raise error.cause from None
        except (died.WorkerCrashedError, died.OutOfMemoryError) as error:
            raise ChildProcessError(
                f"workers must live until their work is done; a task lost {RESTARTS + 1} of them, "
                f"perhaps for lack of memory. Use nodes with more, or fewer processes."
            ) from error
        finally:
            for task in running:
                self._ray.cancel(task, force=True)
