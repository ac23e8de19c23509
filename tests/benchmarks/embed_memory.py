"""The memory that ``embed`` takes at most, for datasets of several sizes.

python -m tests.benchmarks.embed_memory [IMAGES ...]
"""

import os
import sys
import tempfile
from pathlib import Path

from tests.pipeline.embed.conftest import write_images
from tests.reliability.forked import start_embed


def main(sizes: list[int]) -> None:
    """Print a line a size. Each run is a process forked from this one, whose libraries count."""
    for images in sizes:
        with tempfile.TemporaryDirectory() as folder:
            data = write_images(Path(folder) / "data", train=images, val=2)
            store = Path(folder) / "store" / "store.zarr"
            store.parent.mkdir()
            _, status, used = os.wait4(start_embed(data, store, "--block-rows", "256"), 0)
            print(f"{images:,} images: {used.ru_maxrss // 1024} MiB, exit code {status}", flush=True)


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [1_000, 4_000, 16_000])
