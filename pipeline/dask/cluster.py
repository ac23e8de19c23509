"""Opening a cluster: processes of this machine, or what is behind a scheduler's address."""

# mypy: untyped-calls-exclude="distributed"

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import signal
import time
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

import dask
from distributed import Client, Nanny, Scheduler, SpecCluster
from distributed.comm.core import CommClosedError

from compress_ssl.pipeline.common.errors import InputError, RunError, missing_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from compress_ssl.pipeline.dask.settings import DaskSettings

PACKAGE = "compress-ssl"
THREADS = 2
"""Tasks that a process here has at a time: one computes, the other writes what it has computed."""
CONNECT_SECONDS = 10
PATIENCE_SECONDS = 60.0
"""How long there may be no worker: then a cluster of processes here is given up, of another it is said that it is waited for."""

CONFIG = {
    # Images' names go to a worker with the first task: 80 MB for ImageNet, once.
    "distributed.admin.large-graph-warning-threshold": "1 GB",
    "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS} s",
    # Dask has malloc give memory back at once (MALLOC_TRIM_THRESHOLD_), which costs networks time in the system.
    "distributed.nanny.pre-spawn-environ": {},
}

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def open_cluster(settings: DaskSettings, *, gpus: bool = False) -> Iterator[Client]:
    """Give a client of the cluster that the settings name, which has a worker by then.

    Parameters
    ----------
    gpus : bool
        Give each process here a GPU of its own, where there are any.

    Raises
    ------
    InputError
        If there is no scheduler at the address, another release of this package is on the cluster, or there are fewer GPUs
        than processes.
    RunError
        If the processes do not start, or the scheduler is lost while the block runs.
    """
    logging.getLogger("distributed").setLevel(logging.WARNING)
    with dask.config.set(CONFIG), contextlib.ExitStack() as stack:
        if settings.scheduler is None:
            cluster = stack.enter_context(_processes(_environments(settings.workers or 1, gpus=gpus)))
            client = stack.enter_context(Client(cluster))
        else:
            client = stack.enter_context(_connected(settings.scheduler))
            _check_release(client.run_on_scheduler, "The scheduler")
        if settings.scheduler is None and (missing := missing_extra("Dask's dashboard", "bokeh", extra="dashboard")):
            logger.info(missing)
        else:
            logger.info("Dashboard of the cluster: %s", client.dashboard_link)
        wait_for_worker(client)
        _check_release(client.run, "A worker")
        client.forward_logging("compress_ssl")
        try:
            yield client
        except (CancelledError, OSError) as error:
            if isinstance(error, OSError) and not isinstance(error, CommClosedError) and client.status == "running":
                raise
            logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what it says of it is no sentence
            raise RunError(
                f"The scheduler at {address_of(client)} is gone; start it, and the command again, embed with --resume."
            ) from error


def address_of(client: Client) -> str:
    """Where the scheduler listens."""
    return str(client.scheduler.address) if client.scheduler else "its address"


def wait_for_worker(client: Client) -> None:
    """Wait until the cluster has a worker, and say so now and then.

    Raises
    ------
    RunError
        If it is a cluster of processes here, and none has come back.
    """
    said = time.monotonic()
    while not client.nthreads():
        time.sleep(0.2)
        if time.monotonic() - said > PATIENCE_SECONDS:
            if client.cluster is not None:
                raise RunError(
                    "The worker processes have all ended and do not start again; their last words are above."
                )
            logger.warning("No worker is connected to %s; waiting for one.", address_of(client))
            said = time.monotonic()


def _environments(workers: int, *, gpus: bool) -> list[dict[str, str]]:
    """What each process finds in its environment: the GPU that is its own."""
    visible = _visible_gpus() if gpus else []
    if not visible:
        return [{} for _ in range(workers)]
    if workers > len(visible):
        raise InputError(f"--workers {workers} is one process a GPU, and this machine has {len(visible)}; give fewer.")
    return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in visible[:workers]]


def _visible_gpus() -> list[str]:
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (named.split(",") if named else [str(number) for number in range(count)])[:count]


@contextlib.contextmanager
def _processes(environments: list[dict[str, str]]) -> Iterator[SpecCluster]:
    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    workers = {
        number: {
            "cls": Nanny,
            "options": {
                "host": "127.0.0.1",
                "nthreads": THREADS,
                "memory_limit": 0,  # none: a teacher is larger than Dask thinks
                "resources": {"GPU": 1} if environment else {},
                "env": environment,
                "preload": [__name__],
                "dashboard": False,
                "silence_logs": logging.WARNING,
            },
        }
        for number, environment in enumerate(environments)
    }
    with SpecCluster(workers, scheduler={"cls": Scheduler, "options": here}) as cluster:
        try:
            yield cluster
        finally:  # that a process with a large library is slow to end is nothing to tell
            logging.getLogger("distributed.nanny").setLevel(logging.ERROR)


def dask_setup(worker: object) -> None:
    """Leave Ctrl-C, which a terminal sends to every process, to the client. Dask calls this in each process here."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Client]:
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise InputError(
            f"No dask scheduler answers at '{address}'; start one with 'dask scheduler', or correct --scheduler."
        ) from error
    with client:
        yield client


def _check_release(ask: Callable[..., Any], who: str) -> None:
    """Check what ``ask`` finds where it calls a function: the scheduler, or every worker."""
    here = importlib.metadata.version(PACKAGE)
    try:
        answer = ask(importlib.metadata.version, PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(f"{who} of the cluster has no {PACKAGE}; install {here} where it runs.") from error
    for where, found in answer.items() if isinstance(answer, dict) else [("", answer)]:
        if found != here:
            raise InputError(
                f"{who} {where} of the cluster has {PACKAGE} {found}, this process {here}; install one of them."
            )
