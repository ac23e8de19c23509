"""Preloaded into Dask workers under test: notes the blocks that they begin, in $NOTES/blocks.

They can be told to take longer over each ($NOTES/seconds), and once for each file to fail ($NOTES/failure-*) or to die
when they are inspected ($NOTES/fatal-*).
"""

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

from compress_ssl.pipeline.common import device
from compress_ssl.pipeline.embed import block, on_dask
from compress_ssl.pipeline.embed.block import Block, Sources
from compress_ssl.pipeline.embed.embedder import Embedder
from compress_ssl.storage import EmbeddingStore

NOTES = Path(os.environ["NOTES"])


def noted_embed_blocks(
    embedder: Embedder, store: EmbeddingStore, sources: Sources, blocks: list[Block], *more: Any
) -> Any:
    (begun,) = blocks
    with (NOTES / "blocks").open("a") as notes:
        notes.write(f"{os.getpid()} {begun.split} {begun.number}\n")
    with contextlib.suppress(FileNotFoundError):
        time.sleep(float((NOTES / "seconds").read_text()))
    for order in NOTES.glob("failure-*"):
        with contextlib.suppress(FileNotFoundError):
            order.unlink()
            raise OSError("a hiccup")
    return block.embed_blocks(embedder, store, sources, blocks, *more)


def fatal_prepare_device(*given: Any) -> Any:
    for order in NOTES.glob("fatal-*"):
        with contextlib.suppress(FileNotFoundError):
            order.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
    return device.prepare_device(*given)


on_dask.embed_blocks, on_dask.prepare_device = noted_embed_blocks, fatal_prepare_device
