"""Run tasks on a Dask cluster: local workers started for one command, or a scheduler that is already running."""

# mypy: untyped-calls-exclude="distributed"

import contextlib
import importlib.metadata
import itertools
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from typing import Any, TypeVar

import dask
import distributed
from distributed import Client, Future, KilledWorker, Nanny, Scheduler, SpecCluster
from distributed.comm.core import CommClosedError

from compress_ssl.pipeline.common.errors import InputError, RunError, missing_extra
from compress_ssl.pipeline.dask.settings import DaskSettings
from compress_ssl.storage.errors import StoreError, StoreRefusedError, StoreUnreachableError
from compress_ssl.storage.signals import deferred_signals

Task = TypeVar("Task")
Result = TypeVar("Result")

PACKAGE = "compress-ssl"
THREADS_PER_WORKER = 2  # concurrent tasks of a local worker: one computes while the other writes its results
CONNECT_SECONDS = 10
NO_WORKER_SECONDS = 60.0  # without a worker, until a local cluster is given up, or a warning is logged of a remote one

IN_FLIGHT = 2  # tasks per worker
GPU_RESOURCE = {"GPU": 0.5}
"""Resource that a task takes of a worker with a GPU: two share it, and take turns, one computing while one writes."""
MAX_ATTEMPTS = 3
"""Failures of a task before its error is raised. Losing its worker is not a failure, unless it happens four times."""
POLL_SECONDS = 1.0

CONFIG = {
    # The image paths go to each worker with its first task: 80 MB for ImageNet, once.
    "distributed.admin.large-graph-warning-threshold": "1 GB",
    "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS} s",
    # glibc keeps the memory of freed tensors (common/allocator.py) only in its first arena, and threads have arenas of
    # their own. Dask's default makes it return memory at once.
    "distributed.nanny.pre-spawn-environ": {"MALLOC_ARENA_MAX": "1"},
}

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def open_client(settings: DaskSettings, *, gpus: bool = False) -> Iterator[Client]:
    """Connect a client to the cluster of the settings, and wait for its first worker.

    Args:
        gpus: Give each local worker a GPU of its own, if the machine has any.

    Raises:
        InputError: If no scheduler answers at the address, the cluster has another release of this package, or there
            are fewer GPUs than workers.
        RunError: If the local workers do not start, or the scheduler is lost inside the ``with`` block.
    """
    logging.getLogger("distributed").setLevel(logging.WARNING)
    logging.getLogger("tornado.application").addFilter(_is_not_of_an_interrupted_sync)
    with dask.config.set(CONFIG), contextlib.ExitStack() as stack:
        if settings.scheduler is None:
            cluster = stack.enter_context(_local_cluster(settings.workers or 1, gpus=gpus))
            client = stack.enter_context(Client(cluster))
        else:
            try:
                client = stack.enter_context(Client(settings.scheduler, timeout=CONNECT_SECONDS))
            except (OSError, ValueError) as error:
                raise InputError(
                    f"No dask scheduler answers at '{settings.scheduler}'; start one with 'dask scheduler', or correct "
                    "--scheduler."
                ) from error
            _check_release(client.run_on_scheduler, "The scheduler")
        if settings.scheduler is None and (missing := missing_extra("Dask's dashboard", "bokeh", extra="dashboard")):
            logger.info(missing)
        else:
            logger.info("Dashboard of the cluster: %s", client.dashboard_link)
        _wait_for_worker(client)
        _check_release(client.run, "A worker")
        client.forward_logging("compress_ssl")
        try:
            yield client
        except (CancelledError, OSError) as error:
            if isinstance(error, OSError) and not isinstance(error, CommClosedError) and client.status == "running":
                raise
            logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # it would log tracebacks
            raise RunError(
                f"The scheduler at {_address(client)} is gone; start it, and the command again, embed with --resume."
            ) from error


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

    # In the locks that Dask's threads share an exception would be lost, or leave one held for ever.
    with deferred_signals() as deliver_signals:
        while True:
            deliver_signals()
            room = IN_FLIGHT * max(1, len(client.nthreads())) - len(running)
            for task in itertools.islice(waiting, max(0, room)):
                submit(task, 1)
            if not running:
                return
            try:
                done = distributed.wait(list(running), timeout=POLL_SECONDS, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                if client.status != "running":
                    raise CancelledError(client.status) from None
                _wait_for_worker(client, deliver_signals)
                continue
            for future in done:
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


def _only_user_can_mend(error: BaseException) -> bool:
    if isinstance(error, StoreUnreachableError):
        return isinstance(error, StoreRefusedError)
    return isinstance(error, (InputError, StoreError, PermissionError, ImportError))


def _is_not_of_an_interrupted_sync(record: logging.LogRecord) -> bool:
    """Return whether tornado logs another error than Dask's NameError when Ctrl-C comes before a coroutine begins."""
    return record.exc_info is None or not isinstance(record.exc_info[1], NameError)


def _wait_for_worker(client: Client, deliver_signals: Callable[[], None] = lambda: None) -> None:
    """Block until the cluster has a worker; log a warning now and then, or raise RunError on a local cluster."""
    since = time.monotonic()
    while not client.nthreads():
        deliver_signals()
        time.sleep(0.2)
        if time.monotonic() - since > NO_WORKER_SECONDS:
            if client.cluster is not None:
                raise RunError("All worker processes have died and do not start again; see their last messages above.")
            logger.warning("No worker is connected to %s; waiting for one.", _address(client))
            since = time.monotonic()


def dask_setup(worker: object) -> None:
    """Prepare a local worker for the end of its client, which a terminal's Ctrl-C reaches too; Dask calls it."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("distributed.worker").addFilter(lambda record: "during heartbeat" not in record.getMessage())


@contextlib.contextmanager
def _local_cluster(workers: int, *, gpus: bool) -> Iterator[SpecCluster]:
    visible: list[str] = []  # GPUs
    if gpus:
        import torch

        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        count = torch.cuda.device_count()
        visible = (named.split(",") if named else [str(number) for number in range(count)])[:count]
    if visible and workers > len(visible):
        raise InputError(f"--workers {workers} is one worker per GPU, and this machine has {len(visible)}; give fewer.")
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}
    nannies = {
        number: {
            "cls": Nanny,
            "options": {
                "host": "127.0.0.1",
                "nthreads": THREADS_PER_WORKER,
                "memory_limit": 0,  # no limit: teachers take more than Dask's share per worker
                "resources": {"GPU": 1} if visible else {},
                "env": {"CUDA_VISIBLE_DEVICES": visible[number]} if visible else {},
                "preload": [__name__],
                "dashboard": False,
                "silence_logs": logging.WARNING,
            },
        }
        for number in range(workers)
    }
    with SpecCluster(nannies, scheduler=scheduler) as cluster:
        try:
            yield cluster
        finally:  # a worker with large libraries ends slowly; no warning about that
            logging.getLogger("distributed.nanny").setLevel(logging.ERROR)


def _check_release(run: Callable[..., Any], where: str) -> None:
    """Check the package's version on the scheduler or on all workers, which ``run`` calls a function on."""
    here = importlib.metadata.version(PACKAGE)
    try:
        answer = run(importlib.metadata.version, PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(f"{where} of the cluster has no {PACKAGE}; install {here} there.") from error
    for address, found in answer.items() if isinstance(answer, dict) else [("", answer)]:
        if found != here:
            raise InputError(
                f"{where} {address} of the cluster has {PACKAGE} {found}, this process {here}; install the "
                "same release."
            )


def _address(client: Client) -> str:
    return str(client.scheduler.address) if client.scheduler else "its address"
