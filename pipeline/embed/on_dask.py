"""Executor on a Dask cluster: one task per block, the network loaded once per worker."""

# mypy: untyped-calls-exclude="distributed"

import contextlib
import functools
import logging
import os
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from distributed import Client, Future

from compress_ssl.pipeline.common.device import choose_precision, device_kind, library_versions, prepare_device
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress, Silent
from compress_ssl.pipeline.common.settings import Device
from compress_ssl.pipeline.dask.cluster import run_tasks
from compress_ssl.pipeline.embed.block import (
    Advance,
    Block,
    ComputeInfo,
    Sources,
    embed_blocks,
    good_images,
    write_views,
)
from compress_ssl.pipeline.embed.embedder import Embedder, load_embedder
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.networks.network import load_network, weights_sha256
from compress_ssl.storage.commits import is_committed
from compress_ssl.storage.errors import StoreError, StoreNotFoundError
from compress_ssl.storage.places.lease import Lease, lease_over
from compress_ssl.storage.writer import StoreWriter

Answer = TypeVar("Answer")

COMPUTE_LOCK = threading.Lock()  # held by the task of a worker that computes; its other task may write meanwhile

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunInfo:
    """Inputs from which a worker loads the embedder of a run; sent with every task."""

    id: str
    settings: EmbedSettings = field(compare=False)  # Resolved: device, precision and threads are set
    device_kind: str = field(compare=False)
    weights_sha256: str = field(compare=False)
    versions: dict[str, str] = field(compare=False)


class _WorkerInfo(NamedTuple):
    host: str
    device: Device
    device_kind: str
    cores: int


class DaskExecutor:
    """Implements ``Executor`` in the client's process."""

    def __init__(self, client: Client, settings: EmbedSettings) -> None:
        """Inspect the workers.

        Raises:
            InputError: If some of them have a GPU and others have none.
        """
        workers = _inspect_workers(client, settings.device)
        hosts = {worker.device: worker.host for worker in workers}
        if len(hosts) > 1:
            raise InputError(
                f"The worker on {hosts['cuda']} has a GPU, the one on {hosts['cpu']} has none, and they do not compute "
                "the same bytes; leave one of them out, or give --device cpu."
            )
        if settings.workers:
            threads = max(1, settings.thread_count // settings.workers)
        else:  # on an existing cluster: each worker's share of its host's cores, unless --threads is given
            on_host = Counter(worker.host for worker in workers)
            threads = settings.threads or min(max(1, worker.cores // on_host[worker.host]) for worker in workers)
        device, kind = workers[0].device, workers[0].device_kind
        precision = settings.precision
        if precision == "auto" or device == "cpu":  # this machine may have no GPU; a worker checks its own
            precision = choose_precision(precision, torch.device(device))
        resolved = settings.model_copy(update={"device": device, "precision": precision, "threads": threads})
        self.network = load_network(settings.teacher, settings.seed, settings.pool)
        self.compute = ComputeInfo(kind, precision, threads)
        self.progress: Progress = Silent()
        self._client = client
        self._run = RunInfo(uuid.uuid4().hex, resolved, kind, weights_sha256(self.network.module), library_versions())

    def call(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """Call the function on one of the workers."""
        answer: Answer
        ((_, answer),) = run_tasks(self._client, partial(_call, self._run), [_Call(function, arguments)])
        return answer

    def embed_blocks(self, writer: StoreWriter, sources: Sources, blocks: Iterable[Block], advance: Advance) -> None:
        """Compute and write blocks on the workers."""
        task = partial(_write_block, self._run, lease_over(writer.path), sources)
        for block, _ in run_tasks(self._client, task, blocks):
            advance(len(block.views) * good_images(writer.store, block))
        writer.path.sweep_partial_files()  # of killed workers


def _inspect_workers(client: Client, device: Device) -> list[_WorkerInfo]:
    """Ask every connected worker for its host and device; do not wait for one that is lost before it answers."""
    asked: dict[str, Future[_WorkerInfo]] = {}
    while True:
        present = client.nthreads()
        for address in asked.keys() - present.keys():
            asked.pop(address).cancel()
        for address in present.keys() - asked.keys():
            asked[address] = client.submit(_inspect_worker, device, workers=[address], pure=False)
        if asked and all(future.done() for future in asked.values()):
            return [future.result() for future in asked.values()]
        time.sleep(0.1)


# The functions below run on the workers.


def _inspect_worker(device: Device) -> _WorkerInfo:
    chosen = prepare_device(device, 1)
    kind: Device = "cuda" if chosen.type == "cuda" else "cpu"
    return _WorkerInfo(socket.gethostname(), kind, device_kind(chosen), len(os.sched_getaffinity(0)))


class _Call(NamedTuple):
    """A function to call on a worker, with its arguments."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def __str__(self) -> str:
        return self.function.__name__


def _call(run: RunInfo, call: _Call) -> Any:
    with COMPUTE_LOCK, _naming_this_host(run):
        return call.function(embedder_of(run), *call.arguments)


def _write_block(run: RunInfo, lease: Lease | None, sources: Sources, block: Block) -> None:
    with _naming_this_host(run):
        with COMPUTE_LOCK:
            embedder, writer = embedder_of(run), writer_of(run, lease)
            split = writer.store[block.split]
            # A task runs again if its worker is lost before it has reported the result.
            missing = tuple(
                view
                for view in block.views
                if not all(is_committed(split.path, unit, block.number) for unit in split.units_of(view))
            )
            if not missing:
                return
            alone = [block._replace(views=missing)]
            ((block, embedded),) = embed_blocks(embedder, writer.store, sources, alone, lambda views: None)
        write_views(writer, block, embedded)


@functools.lru_cache(maxsize=1)
def embedder_of(run: RunInfo) -> Embedder:
    """Load a run's embedder, once per worker.

    Raises:
        InputError: If the worker has other library versions or other weights than the client, or would compute in
            another precision.
    """
    logging.getLogger("compress_ssl").setLevel(logging.INFO)  # forwarded to the client
    for library, wanted in run.versions.items():
        if (found := library_versions().get(library)) != wanted:
            raise InputError(f"it has {library} {found}, the client {wanted}; install the same version.")
    settings = run.settings
    embedder = load_embedder(settings.teacher, settings, settings.precision, settings.normalise, settings.pool)
    if embedder.precision != settings.precision:
        raise InputError(f"it only emulates {settings.precision}; leave it out, or give --precision float32.")
    if weights_sha256(embedder.network.module) != run.weights_sha256:
        raise InputError(f"'{settings.teacher}' has other weights here than where the client runs; copy the client's.")
    kind = device_kind(embedder.renderer.device)
    if kind != run.device_kind:
        logger.warning(
            "The worker on %s computes on %s, others on %s: the embeddings agree up to rounding only.",
            socket.gethostname(), kind, run.device_kind,
        )  # fmt: skip
    return embedder


@functools.lru_cache(maxsize=1)
def writer_of(run: RunInfo, lease: Lease | None) -> StoreWriter:
    """Open a run's store for writing, once per worker.

    Args:
        lease: The client's.

    Raises:
        InputError: If the worker does not see the store.
        StoreBusyError: If the client does not, or no longer, hold the lease of the store that the worker sees.
    """
    place = run.settings.store
    try:
        if lease and place.exists():  # here perhaps by another way than at the client, as links lead
            replace(lease, slot=place.lease_slot()).join()
        return StoreWriter(place)
    except StoreNotFoundError as error:
        raise InputError(f"'{place}' does not exist here; put the store where all workers see it.") from error


@contextlib.contextmanager
def _naming_this_host(run: RunInfo) -> Iterator[None]:
    """On a cluster of other machines, let errors name the worker's host."""
    try:
        yield
    except (InputError, StoreError) as error:
        if run.settings.scheduler is None:
            raise
        raise type(error)(f"The worker on {socket.gethostname()}: {error}") from error
