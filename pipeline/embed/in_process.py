"""Who computes: this process (here), or the processes of a cluster (``cluster.py``). Both do blocks by the same function."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from compress_ssl.pipeline.common.device import device_kind
from compress_ssl.pipeline.embed.block import embed_block, load_worker, write_views
from compress_ssl.pipeline.embed.pixel_hashes import pixel_hash_log
from compress_ssl.pipeline.networks.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from concurrent.futures import Future

    from compress_ssl.pipeline.common.progress import Progress
    from compress_ssl.pipeline.common.settings import Precision
    from compress_ssl.pipeline.embed.block import Block
    from compress_ssl.pipeline.embed.settings import EmbedSettings
    from compress_ssl.pipeline.images.sources.source import ImageSource
    from compress_ssl.pipeline.networks.network import Network
    from compress_ssl.storage.writer import StoreWriter

Answer = TypeVar("Answer")


class Machine(NamedTuple):
    """What a process computes with: the store says it."""

    device_kind: str
    precision: Precision
    threads: int


class Executor(Protocol):
    """One or many processes that each have the network and a renderer."""

    network: Network
    """To ask what it wants and who it is."""
    machine: Machine
    """That of each process."""
    progress: Progress
    """For functions that are called."""

    def call(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """Call a function with one process's ``Embedder`` before the arguments."""
        ...

    def embed_blocks(
        self,
        writer: StoreWriter,
        sources: Mapping[str, ImageSource],
        blocks: Iterable[Block],
        advance: Callable[[int], None],
    ) -> None:
        """Compute blocks and write them; all are committed when it returns.

        Parameters
        ----------
        sources : mapping from split name to ImageSource
        advance : callable
            Told how many views are done.
        """
        ...


def seen_from_anywhere(settings: EmbedSettings) -> EmbedSettings:
    """The same settings with absolute paths: the workers of a cluster have working folders of their own."""
    _, name, path = parse_reference(settings.teacher)
    folders = {"data": settings.data, "store": settings.store, "index_folder": settings.index_folder}
    absolute: dict[str, Any] = {key: path.absolute() for key, path in folders.items() if isinstance(path, Path)}
    if path is not None:
        absolute["teacher"] = f"{name}:{path.absolute()}" if name else str(path.absolute())
    return settings.model_copy(update=absolute)


@contextlib.contextmanager
def open_workforce(settings: EmbedSettings, progress: Progress) -> Iterator[Executor]:
    """Give the workforce that the settings ask for.

    Raises
    ------
    InputError
        If the network, the device or the cluster cannot be used.
    """
    if settings.is_shared:
        from compress_ssl.pipeline.embed.on_dask import open_embedding_cluster

        with open_embedding_cluster(settings) as cluster:
            yield cluster
    else:
        yield InProcess(settings, progress)


class InProcess:
    """The process itself: it writes each block while it computes the next."""

    def __init__(self, settings: EmbedSettings, progress: Progress) -> None:
        self._settings = settings
        self._worker = load_worker(settings)
        self.network = self._worker.network
        self.machine = Machine(device_kind(self._worker.renderer.device), self._worker.precision, settings.thread_count)
        self.progress = progress

    def call(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """Call a function with the worker."""
        return function(self._worker, *arguments)

    def embed_blocks(
        self,
        writer: StoreWriter,
        sources: Mapping[str, ImageSource],
        blocks: Iterable[Block],
        advance: Callable[[int], None],
    ) -> None:
        """Compute blocks and write them."""
        done: Future[None] | None = None
        with contextlib.ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(1))
            on_pixels = None
            if self._settings.pixel_hashes:
                on_pixels = stack.enter_context(pixel_hash_log(writer.store, self._settings.pixel_hashes))
            for block in blocks:
                split = writer.store[block.split]
                embedded = embed_block(self._worker, split, sources[block.split], block, advance, on_pixels)
                if done is not None:
                    done.result()
                done = pool.submit(write_views, writer, block, embedded)
            if done is not None:
                done.result()
