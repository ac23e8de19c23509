"""Running tasks on a Dask cluster: a few in flight per worker, failed ones retried."""

# mypy: untyped-calls-exclude="distributed"

import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import CancelledError
from typing import Any, TypeVar

import distributed
from distributed import Client, Future, KilledWorker

from compress_ssl.pipeline.common.errors import InputError, RunError
from compress_ssl.pipeline.dask.cluster import wait_for_worker
from compress_ssl.storage.errors import StoreError, StoreUnreachableError

Task = TypeVar("Task")
Result = TypeVar("Result")

IN_FLIGHT = 2  # tasks per worker
GPU_RESOURCE = {"GPU": 0.5}
"""Resource that a task takes of a worker with a GPU: two share it, and take turns, one computing while one writes."""
MAX_ATTEMPTS = 3
"""Failures of a task before its error is raised. Losing its worker is not a failure, unless it happens four times."""
POLL_SECONDS = 1.0

logger = logging.getLogger(__name__)


def run_tasks(
    client: Client, function: Callable[[Task], Result], tasks: Iterable[Task]
) -> Iterator[tuple[Task, Result]]:
    """Yield each task with its result, in order of completion. Tasks are taken from the iterable as workers get free.

    Raises:
        concurrent.futures.CancelledError: If the scheduler is lost.
        RunError: If a task kills its worker again and again.
        Exception: The error of a task: at once if only the user can mend it, otherwise after ``MAX_ATTEMPTS`` failures.
    """
    waiting = iter(tasks)
    has_gpu = any("GPU" in worker["resources"] for worker in client.scheduler_info()["workers"].values())
    running: dict[Future[Any], tuple[Task, int]] = {}

    def submit(task: Task, attempt: int) -> None:
        future = client.submit(function, task, pure=False, resources=GPU_RESOURCE if has_gpu else None)
        running[future] = (task, attempt)

    while True:
        room = IN_FLIGHT * max(1, len(client.nthreads())) - len(running)
        for task in itertools.islice(waiting, max(0, room)):
            submit(task, 1)
        if not running:
            return
        for future in _finished(client, running):
            task, attempt = running.pop(future)
            error = future.exception()
            if error is None:
                yield task, future.result()
            elif attempt < MAX_ATTEMPTS and not _only_user_can_mend(error):
                logger.warning("%s failed and is tried again: %s", task, error)
                submit(task, attempt + 1)
            elif isinstance(error, KilledWorker):
                raise RunError(
                    f"{task} has killed its worker again and again; look at the worker's log, and at its memory."
                ) from error
            else:
                raise error


def _finished(client: Client, running: Collection[Future[Any]]) -> Collection[Future[Any]]:
    while True:
        try:
            waited = distributed.wait(list(running), timeout=POLL_SECONDS, return_when="FIRST_COMPLETED")
        except TimeoutError:
            if client.status != "running":
                raise CancelledError(client.status) from None
            wait_for_worker(client)
        else:
            done: Collection[Future[Any]] = waited.done
            return done


def _only_user_can_mend(error: BaseException) -> bool:
    mendable = isinstance(error, InputError | StoreError | PermissionError | ImportError)
    return mendable and not isinstance(error, StoreUnreachableError)
