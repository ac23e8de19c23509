"""Executor protocol: what computes blocks, this process (``in_process.py``) or Dask workers (``on_dask.py``)."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.embed.block import Block, ComputeInfo
from compress_ssl.pipeline.images.sources.source import ImageSource
from compress_ssl.pipeline.networks.network import Network
from compress_ssl.storage.writer import StoreWriter

Answer = TypeVar("Answer")


class Executor(Protocol):
    """One or several processes, each with an ``Embedder``, that run the same ``embed_block``."""

    network: Network  # for its preprocessing and identity
    compute: ComputeInfo
    progress: Progress  # to pass to functions that are called

    def call(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """Return ``function(embedder, *arguments)``, computed by one of the processes."""
        ...

    def embed_blocks(
        self,
        writer: StoreWriter,
        sources: Mapping[str, ImageSource],
        blocks: Iterable[Block],
        advance: Callable[[int], None],
    ) -> None:
        """Compute blocks and write them; all are committed on return.

        Args:
            sources (mapping from split name to ImageSource)
            advance: Called with the number of views done since its last call.
        """
        ...
