"""Connecting to a Dask cluster: local workers started for one command, or a scheduler that is already running."""

# mypy: untyped-calls-exclude="distributed"

import contextlib
import importlib.metadata
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import dask
from distributed import Client, Nanny, Scheduler, SpecCluster
from distributed.comm.core import CommClosedError

from compress_ssl.pipeline.common.errors import InputError, RunError, missing_extra
from compress_ssl.pipeline.dask.settings import DaskSettings

PACKAGE = "compress-ssl"
THREADS_PER_WORKER = 2  # concurrent tasks of a local worker: one computes while the other writes its results
CONNECT_SECONDS = 10
NO_WORKER_SECONDS = 60.0
"""After so long without a worker a local cluster is given up.

For a remote one a warning is logged, and waiting goes on.
"""

CONFIG = {
    # The image paths go to each worker with its first task: 80 MB for ImageNet, once.
    "distributed.admin.large-graph-warning-threshold": "1 GB",
    "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS} s",
    # By default Dask makes malloc return memory at once (MALLOC_TRIM_THRESHOLD_), which costs networks system time.
    "distributed.nanny.pre-spawn-environ": {},
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
        wait_for_worker(client)
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


def wait_for_worker(client: Client) -> None:
    """Block until the cluster has a worker; log a warning now and then.

    Raises:
        RunError: If the workers of a local cluster do not come back.
    """
    since = time.monotonic()
    while not client.nthreads():
        time.sleep(0.2)
        if time.monotonic() - since > NO_WORKER_SECONDS:
            if client.cluster is not None:
                raise RunError("All worker processes have died and do not start again; see their last messages above.")
            logger.warning("No worker is connected to %s; waiting for one.", _address(client))
            since = time.monotonic()


def dask_setup(worker: object) -> None:
    """Ignore SIGINT in a local worker (Dask calls this at its start): a terminal sends Ctrl-C to the client too."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _local_cluster(workers: int, *, gpus: bool) -> Iterator[SpecCluster]:
    visible = _visible_gpus() if gpus else []
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


def _visible_gpus() -> list[str]:
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (named.split(",") if named else [str(number) for number in range(count)])[:count]


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
                f"same release."
            )


def _address(client: Client) -> str:
    return str(client.scheduler.address) if client.scheduler else "its address"
