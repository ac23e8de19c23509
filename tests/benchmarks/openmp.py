"""What spinning OpenMP threads cost when the cores are shared: two epochs of the quickstart's student, both ways.

python tests/benchmarks/openmp.py QUICKSTART_FOLDER [BUSY_PROCESSES]        prints rows for docs/benchmarks.md
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_SECONDS = 120
OPTIONS = ["--student", "conv4-32", "--epochs", "2", "--batch-size", "64", "--bank-size", "512", "--optimizer", "adamw"]


def seconds(quickstart: Path, policy: str) -> float:
    """Wall seconds of a distillation under this OpenMP wait policy, start included; infinite if it does not end."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            sys.executable,
            "-m",
            "compress_ssl",
            "distill",
            quickstart / "embeddings.zarr",
            quickstart / "digits",
        ]
        begun = time.perf_counter()
        try:
            subprocess.run(
                [*command, f"{scratch}/run", *OPTIONS],
                env={**os.environ, "OMP_WAIT_POLICY": policy},
                check=True,
                capture_output=True,
                timeout=LIMIT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return float("inf")
        return time.perf_counter() - begun


def main() -> None:
    """Measure on idle cores, then beside busy ones."""
    quickstart = Path(sys.argv[1])
    busy_processes = int(sys.argv[2]) if len(sys.argv) > 2 else len(os.sched_getaffinity(0))
    print("| busy processes | PASSIVE, s | ACTIVE, s |\n| --- | --- | --- |")
    for count in (0, busy_processes):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
        try:
            row = [seconds(quickstart, policy) for policy in ("PASSIVE", "ACTIVE")]
        finally:
            for process in busy:
                process.kill()
        shown = [f"{value:.1f}" if value < LIMIT_SECONDS else f"not within {LIMIT_SECONDS}" for value in row]
        print(f"| {count} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
