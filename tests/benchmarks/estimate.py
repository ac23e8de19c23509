"""Accuracy of `estimate`.

`estimate`, and directly after it the `embed` that it foretells: `random/resnet18` at 224 pixels, view 0 and three
random views of each image, one thread; once.
"""

import tempfile
import time
from pathlib import Path

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.embed.estimate import estimate
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.storage.tools.size import size_on_disk
from tests.benchmarks.measure import print_table, run, write_photographs


def main(toy: bool) -> None:
    """Print what was foretold, what it took, and the difference."""
    images, size, teacher = (16, 32, "random/conv4-16") if toy else (300, 224, "random/resnet18")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        print(f"{images} {write_photographs(folder / 'data', images)}.\n")
        settings = EmbedSettings.model_validate(
            {
                "data": folder / "data", "store": folder / "store.zarr", "teacher": teacher, "size": size, "views": 3,
                "split": ("train",), "threads": 1, "device": "cpu",
            }
        )  # fmt: skip
        foretold = estimate(settings, Silent())
        wall, cpu = time.perf_counter(), time.process_time()
        embed(settings, Silent())
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        made = size_on_disk(folder / "store.zarr")
    figures = {
        "bytes": (foretold.bytes, made.bytes),
        "files": (foretold.files, made.files),
        "CPU seconds": (3600 * foretold.device_hours, cpu),
        "wall seconds": (foretold.seconds, wall),
    }
    rows = [
        (name, f"{wanted:,.0f}", f"{found:,.0f}", f"{100 * (wanted / found - 1):+.1f} %")
        for name, (wanted, found) in figures.items()
    ]
    print_table(("", "estimate", "embed", "difference"), rows)


if __name__ == "__main__":
    run(main)
