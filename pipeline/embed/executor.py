"""Executors compute and write the blocks of a store: in this process, or on Dask workers (``on_dask.py``)."""

import contextlib
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from compress_ssl.pipeline.common.device import device_kind
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.embed.block import Advance, Block, ComputeInfo, Sources, embed_blocks, write_views
from compress_ssl.pipeline.embed.checks.canaries import log_pixel_hashes
from compress_ssl.pipeline.embed.embedder import load_embedder
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.networks.network import Network
from compress_ssl.storage.places.parallel import result_of
from compress_ssl.storage.writer import StoreWriter

Answer = TypeVar("Answer")


class Executor(Protocol):
    """One or several processes, each with an ``Embedder``, that run the same ``embed_blocks``."""

    network: Network  # for its preprocessing and identity
    compute: ComputeInfo
    progress: Progress  # to pass to functions that are called

    def call(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """Return ``function(embedder, *arguments)``, computed by one of the processes."""
        ...

    def embed_blocks(self, writer: StoreWriter, sources: Sources, blocks: Iterable[Block], advance: Advance) -> None:
        """Compute blocks and write them; all are committed on return."""
        ...


class InProcess:
    """Executor of this process: it writes each block while it computes the next."""

    def __init__(self, settings: EmbedSettings, progress: Progress) -> None:
        self._pixel_hashes = settings.pixel_hashes
        self._embedder = load_embedder(
            settings.teacher, settings, settings.precision, settings.normalise, settings.pool
        )
        self.network = self._embedder.network
        kind = device_kind(self._embedder.renderer.device)
        self.compute = ComputeInfo(kind, self._embedder.precision, settings.thread_count)
        self.progress = progress

    def call(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """Call the function here."""
        return function(self._embedder, *arguments)

    def embed_blocks(self, writer: StoreWriter, sources: Sources, blocks: Iterable[Block], advance: Advance) -> None:
        """Compute blocks as one stream.

        Held in memory: a block being computed, one being written, and batches read and decoded ahead.
        """
        written: Future[None] | None = None
        with contextlib.ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(1))
            log = None
            if self._pixel_hashes:
                log = stack.enter_context(log_pixel_hashes(writer.store, self._pixel_hashes))
            for block, embedded in embed_blocks(self._embedder, writer.store, sources, blocks, advance, log):
                if written is not None:
                    result_of(written)
                written = pool.submit(write_views, writer, block, embedded)
            if written is not None:
                result_of(written)
