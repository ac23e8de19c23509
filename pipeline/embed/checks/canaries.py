"""Canaries of a new store, their check when a store is resumed, and the log of pixel hashes.

Letters: K canaries, V views, P parameters, S side in pixels.
"""

import contextlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from compress_ssl.pipeline.embed.block import OnPixels, Sources, render_job
from compress_ssl.pipeline.embed.embedder import Embedder
from compress_ssl.pipeline.embed.plan import EmbedPlan
from compress_ssl.pipeline.images.canaries import check_canaries, choose_canaries, make_canaries, pixel_hash
from compress_ssl.pipeline.images.mixing import draw_view
from compress_ssl.pipeline.images.rendering import Renderer
from compress_ssl.pipeline.images.sources.source import ImageSource
from compress_ssl.storage import EmbeddingStore, Place, SplitPlan, open_store

KNUTH = 2654435761  # multiplicative hash (Knuth): spreads the logged views evenly over images and views


def plan_canaries(embedder: Embedder, plan: EmbedPlan) -> dict[str, list[dict[str, Any]]]:
    """Render the canaries of every split, and return them as the store's attributes keep them.

    Raises:
        InputError: If an image is missing or has changed since it was indexed.
        RunError: If rendering fails.
    """
    return {
        name: canaries_of(split, plan.indexes[name].source, embedder.renderer) for name, split in plan.splits.items()
    }


def check_all_canaries(embedder: Embedder, place: Place, sources: Sources) -> None:
    """Check every split of a store by ``check_canaries``: new views must have the pixels of the stored ones."""
    store = open_store(place)
    for name, source in sources.items():
        check_canaries(store, name, source, embedder.renderer, embedder.batch_size)


def canaries_of(split: SplitPlan, source: ImageSource, renderer: Renderer, first: int = 0) -> list[dict[str, Any]]:
    """Render canaries of a split's views from number ``first`` on."""
    views = range(first, len(split.views))
    chosen = choose_canaries(split.samples.good, len(views))
    rows = np.array([row for row, _ in chosen], np.int64)
    job = render_job(split, source, rows, {view: draw_view(split, view, rows) for view in views})
    canaries = make_canaries(renderer, job, chosen)
    return [{**canary, "view": first + canary["view"]} for canary in canaries]


def pixel_hash_file(store: Place) -> Path:
    """Path of a store's log of pixel hashes."""
    return Path(f"{store}.pixel-hashes.jsonl")


@contextlib.contextmanager
def log_pixel_hashes(store: EmbeddingStore, count: int) -> Iterator[OnPixels]:
    """Open the log of ``--pixel-hashes``, which holds one JSON object per line: split, view, row and XXH3-128.

    Yields a function of (split, view, row, pixels (S, S, 3)) that logs about ``count`` of all views. A killed run
    leaves whole lines; views that it had not committed are logged again, with the same hash.
    """
    splits = [store[name] for name in store.split_names]
    totals = [len(split) * len(split.views) for split in splits]
    offsets = dict(zip(store.split_names, itertools.accumulate(totals, initial=0), strict=False))
    threshold = min(1.0, count / sum(totals)) * 2**32
    with pixel_hash_file(store.path).open("a", buffering=1, encoding="utf-8") as file:

        def log(split: str, view: int, row: int, pixels: Tensor) -> None:
            number = offsets[split] + row * len(store[split].views) + view
            if number * KNUTH % 2**32 < threshold:
                line = {"split": split, "view": view, "row": row, "xxh3_128": pixel_hash(pixels)}
                file.write(json.dumps(line) + "\n")

        yield log
