"""A program: copy a store and grow the copy, killed at its n-th rename; for larger and larger n until it survives.

Copies are ``FOLDER/n.zarr``. Prints how many were killed. Its processes are forked before zarr starts its threads.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np

from compress_ssl.storage import Samples, Status, open_store
from compress_ssl.storage.tools.growth import SplitGrowth, grow_store, is_growing, resume_growth
from compress_ssl.storage.writer import StoreWriter, exclusive_writer

MOMENTS = (*range(1, 27, 5), *range(27, 35), *range(36, 500, 25))
"""Renames to be killed at; the growth counts from the 28th on. All, over a hundred, were tried once."""

VIEW = {"policy": {"name": "some", "strength": 0.9}, "seed": 7, "size": 8}


def new_samples() -> Samples:
    rows = np.arange(7)
    return Samples(
        sample_path=[f"new/{row}.jpg" for row in rows],
        label=np.array([0, 1, 2, 2, 2, 1, 0], np.int32),
        image_size=np.stack([rows + 1, rows + 2], 1).astype(np.int32),
        content_hash=rows.astype(np.uint64),
        status=np.where(rows == 3, Status.BAD_IMAGE, Status.GOOD).astype(np.uint8),
        class_names=("a", "b", "aa"),
    )


def grow(path: Path) -> None:
    with exclusive_writer(path):
        attributes = open_store(path).attributes
        if is_growing(attributes):
            resume_growth(path)
        elif "grown" not in attributes:
            growths = {"train": SplitGrowth([VIEW, VIEW], new_samples()), "val": SplitGrowth([VIEW])}
            grow_store(path, growths, {"grown": True})
        writer = StoreWriter(path)
        for split in writer.store.split_names:
            for block, views in writer.pending_blocks(split).items():
                rows = writer.store[split].block_slice(block)
                numbers = np.arange(rows.start, rows.stop)
                for view in views:
                    embeddings = np.repeat(numbers[:, None] + view / 4, 4, axis=1)
                    writer.write_block(
                        split, block, view, embeddings, np.stack([numbers, numbers], 1).astype(np.float32)
                    )
        writer.finish()


def kill_at_rename(number: int) -> None:
    seen = 0

    def hook(event: str, _: object) -> None:
        nonlocal seen
        if event == "os.rename":
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def main(store: Path, folder: Path) -> None:
    for killed, number in enumerate(MOMENTS):
        path = folder / f"{number}.zarr"
        shutil.copytree(store, path)
        child = os.fork()
        if not child:
            kill_at_rename(number)
            grow(path)
            os._exit(0)
        if os.WIFEXITED(os.waitpid(child, 0)[1]):
            print(killed)
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
