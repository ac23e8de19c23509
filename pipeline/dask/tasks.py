"""Doing tasks on a cluster: a few in flight, those of lost workers again, failures a few times again."""

# mypy: untyped-calls-exclude="distributed"

from __future__ import annotations

import itertools
import logging
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, TypeVar

import distributed
from distributed import KilledWorker

from compress_ssl.pipeline.common.errors import InputError, RunError
from compress_ssl.pipeline.dask.cluster import wait_for_worker
from compress_ssl.storage.errors import StoreError, StoreUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from distributed import Client, Future

Task = TypeVar("Task")
Result = TypeVar("Result")

IN_FLIGHT = 2
"""Tasks for each worker."""
GPU_SHARE = {"GPU": 0.5}
"""What a task takes of a worker that says it has a GPU: two have it, and see to it that one computes while one writes."""
ATTEMPTS = 3
"""How often a task may fail. That its worker is lost is no failure, unless it happens four times."""
POLL_SECONDS = 1.0

logger = logging.getLogger(__name__)


def run_tasks(
    client: Client, function: Callable[[Task], Result], tasks: Iterable[Task]
) -> Iterator[tuple[Task, Result]]:
    """Yield each task with its result, as they come. A task is taken from the iterable when there is a worker for it.

    Raises
    ------
    concurrent.futures.CancelledError
        If the scheduler is lost.
    RunError
        If a task ends its worker's process again and again.
    Exception
        What a task raises: at once where it is the user's to mend, else when it has failed a few times.
    """
    waiting, share = iter(tasks), _share(client)
    running: dict[Future[Any], tuple[Task, int]] = {}

    def submit(task: Task, attempt: int) -> None:
        future = client.submit(function, task, pure=False, resources=share)
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
            elif attempt == ATTEMPTS or _is_final(error):
                raise _explained(error, task)
            else:
                logger.warning("%s failed and is tried again: %s", task, error)
                submit(task, attempt + 1)


def _share(client: Client) -> dict[str, float] | None:
    """What a task takes of a worker's resources; None where no worker has a GPU."""
    workers = client.scheduler_info()["workers"].values()
    return GPU_SHARE if any("GPU" in worker["resources"] for worker in workers) else None


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


def _is_final(error: BaseException) -> bool:
    """Whether an error will be there the next time too: it is the user's to mend."""
    mendable = isinstance(error, InputError | StoreError | PermissionError | ImportError)
    return mendable and not isinstance(error, StoreUnreachableError)


def _explained(error: BaseException, task: object) -> BaseException:
    if isinstance(error, KilledWorker):
        return RunError(
            f"{task} has ended its worker's process again and again; look at the worker's log, and its memory."
        )
    return error
