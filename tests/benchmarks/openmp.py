"""Idle OpenMP threads.

Wall seconds of two epochs of a small student, start included, with both values of `OMP_WAIT_POLICY`: alone, and beside
as many busy processes as there are cores. The commands set PASSIVE.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from tests.benchmarks.measure import print_table, run, write_photographs

LIMIT_SECONDS = 60


def seconds(folder: Path, policy: str, batch: int) -> float:
    """Return the wall seconds of a distillation under this wait policy; the limit if it does not end."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "compress_ssl", "distill", folder / "store.zarr", folder / "data"]
        options = ["--student", "conv4-32", "--epochs", "2", "--batch-size", str(batch), "--bank-size", "128"]
        environment = {**os.environ, "OMP_WAIT_POLICY": policy}
        begun = time.perf_counter()
        try:
            subprocess.run([*command, f"{scratch}/run", *options], env=environment, check=True, capture_output=True,
                           timeout=LIMIT_SECONDS)  # fmt: skip
        except subprocess.TimeoutExpired:
            return LIMIT_SECONDS
        return time.perf_counter() - begun


def main(toy: bool) -> None:
    """Print the seconds on idle cores, then beside busy ones."""
    images, batch = (16, 8) if toy else (640, 64)
    policies = ("PASSIVE",) if toy else ("PASSIVE", "ACTIVE")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        print(f"{images} {write_photographs(folder / 'data', images)} at 32 pixels.\n")
        teacher = {"teacher": "random/conv4-16", "split": ("train",), "views": 2, "size": 32, "resize": 32}
        embed(EmbedSettings(data=folder / "data", store=folder / "store.zarr", device="cpu", **teacher), Silent())
        rows = []
        for count in (0,) if toy else (0, len(os.sched_getaffinity(0))):
            busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
            try:
                rows.append((count, *(f"{seconds(folder, policy, batch):.1f}" for policy in policies)))
            finally:
                for process in busy:
                    process.kill()
    print_table(("busy processes", *(f"{policy}, s" for policy in policies)), rows)


if __name__ == "__main__":
    run(main)
