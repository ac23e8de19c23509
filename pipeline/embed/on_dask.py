"""The stage on a cluster: a task a block, the network loaded once a process."""

# mypy: untyped-calls-exclude="distributed"

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch

from compress_ssl.pipeline.common.device import choose_precision, device_kind, library_versions, prepare_device
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.dask.cluster import open_cluster
from compress_ssl.pipeline.dask.tasks import run_tasks
from compress_ssl.pipeline.embed.block import Block, embed_block, good_images, load_worker, write_views
from compress_ssl.pipeline.embed.in_process import Machine
from compress_ssl.pipeline.networks.network import load_network, weights_sha256
from compress_ssl.storage.commits import is_committed
from compress_ssl.storage.errors import StoreBusyError, StoreError, StoreNotFoundError
from compress_ssl.storage.places.durable import sweep_partial_files
from compress_ssl.storage.publish import generation
from compress_ssl.storage.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from distributed import Client, Future

    from compress_ssl.pipeline.common.progress import Progress
    from compress_ssl.pipeline.common.settings import Device
    from compress_ssl.pipeline.embed.block import Embedder
    from compress_ssl.pipeline.embed.settings import EmbedSettings
    from compress_ssl.pipeline.images.sources.source import ImageSource

Answer = TypeVar("Answer")

COMPUTING = threading.Lock()
"""Held by the task of this process that computes; another one may write meanwhile."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What processes are told of a run, with every task."""

    name: str
    settings: EmbedSettings = field(compare=False)
    """With nothing left open: device, precision and threads are given."""
    device_kind: str = field(compare=False)
    weights_sha256: str = field(compare=False)
    versions: dict[str, str] = field(compare=False)


@dataclass(frozen=True)
class Target:
    """Where a run's blocks come from and go to."""

    run: Run
    generation: object = field(compare=False)
    """Tells the client's store from one that is put in its place."""
    sources: Mapping[str, ImageSource] = field(compare=False)


class Found(NamedTuple):
    """What a process of the cluster runs on."""

    host: str
    device: Device
    device_kind: str
    cores: int


@contextlib.contextmanager
def open_embedding_cluster(settings: EmbedSettings) -> Iterator[EmbeddingCluster]:
    """Open the cluster that the settings name, and look at what its processes run on.

    Raises
    ------
    InputError
        If the cluster cannot be used, or some of its processes have a GPU and others have none.
    """
    with open_cluster(settings, gpus=settings.device != "cpu") as client:
        found = look_around(client, settings.device)
        hosts = {each.device: each.host for each in found}
        if len(hosts) > 1:
            raise InputError(
                f"The worker on {hosts['cuda']} has a GPU, that on {hosts['cpu']} has none, and they do not give the same "
                "bytes; leave one of them out, or give --device cpu."
            )
        yield EmbeddingCluster(client, settings, found)


class EmbeddingCluster:
    """The processes of a cluster, seen from the client."""

    def __init__(self, client: Client, settings: EmbedSettings, found: list[Found]) -> None:
        device, kind = found[0].device, found[0].device_kind
        precision, threads = choose_precision(settings.precision, torch.device(device)), _threads(settings, found)
        resolved = settings.model_copy(update={"device": device, "precision": precision, "threads": threads})
        self.network = load_network(settings.teacher, settings.seed)
        self.machine = Machine(kind, precision, threads)
        self.progress: Progress = Silent()
        self._client = client
        self._run = Run(uuid.uuid4().hex, resolved, kind, weights_sha256(self.network.module), library_versions())

    def call(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """Call a function in one of the processes."""
        task = partial(_call, self._run, function)
        ((_, answer),) = run_tasks(self._client, task, [arguments])
        return answer

    def embed_blocks(
        self,
        writer: StoreWriter,
        sources: Mapping[str, ImageSource],
        blocks: Iterable[Block],
        advance: Callable[[int], None],
    ) -> None:
        """Have blocks computed and written."""
        task = partial(_do_block, Target(self._run, generation(writer.path), sources))
        for block, _ in run_tasks(self._client, task, blocks):
            advance(len(block.views) * good_images(writer.store, block))
        if isinstance(writer.path, Path):
            sweep_partial_files(writer.path)  # of workers that were killed


def look_around(client: Client, device: Device) -> list[Found]:
    """Ask every worker that there is; one that is lost before it has answered is not waited for."""
    asked: dict[str, Future[Found]] = {}
    while True:
        present = client.nthreads()
        for address in asked.keys() - present.keys():
            asked.pop(address).cancel()
        for address in present.keys() - asked.keys():
            asked[address] = client.submit(_look_around, device, workers=[address], pure=False)
        if asked and all(future.done() for future in asked.values()):
            return [future.result() for future in asked.values()]
        time.sleep(0.1)


def _threads(settings: EmbedSettings, found: list[Found]) -> int:
    """Threads of each process: its part of those asked for or, on another's cluster, of its machine's cores."""
    if settings.workers:
        return max(1, settings.thread_count // settings.workers)
    on_host = Counter(each.host for each in found)
    return settings.threads or min(max(1, each.cores // on_host[each.host]) for each in found)


# What follows is done by the processes of the cluster.


def _look_around(device: Device) -> Found:
    chosen = prepare_device(device, 1)
    kind: Device = "cuda" if chosen.type == "cuda" else "cpu"
    return Found(socket.gethostname(), kind, device_kind(chosen), len(os.sched_getaffinity(0)))


def _call(run: Run, function: Callable[..., Answer], arguments: tuple[Any, ...]) -> Answer:
    with COMPUTING, _naming_this_machine(run):
        return function(_load(run), *arguments)


def _do_block(target: Target, block: Block) -> None:
    with _naming_this_machine(target.run):
        with COMPUTING:
            worker, writer = _load(target.run), _open(target)
            split = writer.store[block.split]
            # A task is done again if its worker is lost before it has told that it is done.
            lacking = [view for view in block.views if not is_committed(split.path, str(view), block.number)]
            if not lacking:
                return
            block = block._replace(views=tuple(lacking))
            embedded = embed_block(worker, split, target.sources[block.split], block, lambda views: None)
        write_views(writer, block, embedded)


@functools.lru_cache(maxsize=1)
def _load(run: Run) -> Embedder:
    logging.getLogger("compress_ssl").setLevel(logging.INFO)  # the client hears it
    for library, wanted in run.versions.items():
        if (found := library_versions().get(library)) != wanted:
            raise InputError(f"it has {library} {found}, the client {wanted}; install the same.")
    worker = load_worker(run.settings)
    if weights_sha256(worker.network.module) != run.weights_sha256:
        raise InputError(
            f"'{run.settings.teacher}' has other weights here than where the client runs; copy the client's."
        )
    kind = device_kind(worker.renderer.device)
    if kind != run.device_kind:
        logger.warning(
            "The worker on %s computes on %s, others on %s: the embeddings are the same to rounding only.",
            socket.gethostname(), kind, run.device_kind,
        )  # fmt: skip
    return worker


@functools.lru_cache(maxsize=1)
def _open(target: Target) -> StoreWriter:
    place = target.run.settings.store
    try:
        writer = StoreWriter(place)
    except StoreNotFoundError as error:
        raise InputError(f"'{place}' does not exist here; put the store where all workers see it.") from error
    if generation(place) != target.generation:
        raise StoreBusyError(f"'{place}' is not, or no longer, the store that the client writes.")
    return writer


@contextlib.contextmanager
def _naming_this_machine(run: Run) -> Iterator[None]:
    try:
        yield
    except (InputError, StoreError) as error:
        if run.settings.scheduler is None:
            raise
        raise type(error)(f"The worker on {socket.gethostname()}: {error}") from error
