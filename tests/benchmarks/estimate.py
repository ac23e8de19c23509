"""What ``estimate`` foretells, and what ``embed`` then takes: bytes, files, seconds of both clocks.

python tests/benchmarks/estimate.py PHOTOGRAPHS [ROUNDS]
"""

import sys
import tempfile
import time
from pathlib import Path

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.embed.estimate import estimate
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.storage.tools.size import size_on_disk


def main(photographs: Path, rounds: int) -> None:
    """Print a line a round. Images are indexed before the first."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            settings = EmbedSettings.model_validate(
                {
                    "data": photographs,
                    "store": Path(folder) / f"{number}.zarr",
                    "teacher": "random/resnet18",
                    "size": 224,
                    "views": 3,
                    "split": ("train", "test:0"),
                    "threads": 1,
                    "device": "cpu",
                }
            )
            begun = time.perf_counter()
            foretold = estimate(settings, Silent())
            foretelling = time.perf_counter() - begun
            begun, cpu = time.perf_counter(), time.process_time()
            embed(settings, Silent())
            seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
            made = size_on_disk(Path(folder) / f"{number}.zarr")
            print(
                f"bytes {foretold.bytes} {made.bytes} {foretold.bytes / made.bytes - 1:+.4%}, "
                f"files {foretold.files} {made.files}, seconds {foretold.seconds:.1f} {seconds:.1f} "
                f"{foretold.seconds / seconds - 1:+.1%}, CPU seconds {3600 * foretold.device_hours:.1f} {cpu:.1f} "
                f"{3600 * foretold.device_hours / cpu - 1:+.1%}; estimate took {foretelling:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3)
