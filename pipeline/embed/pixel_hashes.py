"""A log of what the teacher really saw: hashes of rendered views, to check later that a replay gives the same pixels."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.canaries import pixel_hash
from compress_ssl.storage import RemotePath

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor

    from compress_ssl.storage import EmbeddingStore, Place

SCATTER = 2654435761  # Knuth's multiplicative hash: spreads the logged views over images and views


def pixel_hash_path(store: Place) -> Path:
    """Where the log of a store lies: beside it, one JSON object a line.

    Raises
    ------
    InputError
        If the store is not on a disk.
    """
    if isinstance(store, RemotePath):
        raise InputError(f"--pixel-hashes writes a file beside the store, and '{store}' is on no disk; leave it out.")
    return store.with_name(f"{store.name}.pixel-hashes.jsonl")


def forget_pixel_hashes(store: Place) -> None:
    """Delete the log of a store that was at this place before."""
    if not isinstance(store, RemotePath):
        pixel_hash_path(store).unlink(missing_ok=True)


@contextlib.contextmanager
def pixel_hash_log(store: EmbeddingStore, count: int) -> Iterator[Callable[[str, int, int, Tensor], None]]:
    """Open the log; the function given back takes (split, view, row, pixels) and logs about ``count`` views in all."""
    splits = [store[name] for name in store.split_names]
    total = sum(len(split) * len(split.views) for split in splits)
    share = min(1.0, count / total) * 2**32
    first = {}
    position = 0
    for split in splits:
        first[split.name] = position
        position += len(split) * len(split.views)
    # Line by line, so that a killed run leaves whole lines; what it had not committed is logged again, with the same hash.
    with pixel_hash_path(store.path).open("a", buffering=1, encoding="utf-8") as file:

        def log(split: str, view: int, row: int, image: Tensor) -> None:
            number = first[split] + row * len(store[split].views) + view
            if number * SCATTER % 2**32 < share:
                line = {"split": split, "view": view, "row": row, "xxh3_128": pixel_hash(image)}
                file.write(json.dumps(line) + "\n")

        yield log
