"""Seconds, bytes, pace, and the peak of matrix products."""

import contextlib
import time
from collections.abc import Callable, Iterator

import torch

from compress_ssl.pipeline.common.progress import Silent

SKIPPED = 0.2  # share of the work before which a pace is not measured: caches and the allocator fill
MATRIX_SIDE = 8192


def seconds_of(function: Callable[[], object], device: str, repeats: int = 7) -> float:
    """Return the median seconds of a call, after two that warm up; of a GPU by its own clock."""
    for _ in range(2):
        function()
    found = []
    for _ in range(repeats):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            function()
            end.record()
            end.synchronize()
            found.append(begin.elapsed_time(end) / 1e3)
        else:
            begun = time.perf_counter()
            function()
            found.append(time.perf_counter() - begun)
    return sorted(found)[len(found) // 2]


def peak_bytes(function: Callable[[], object], device: str) -> int:
    """Return the most bytes that a call holds on a GPU above those before it; 0 on a CPU."""
    if device == "cpu":
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    return torch.cuda.max_memory_allocated() - before


def matrix_peak(dtype: torch.dtype, device: str) -> float:
    """Return the FLOP per second of a large square matrix product."""
    side = MATRIX_SIDE if device == "cuda" else 256
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: a @ b, device)


class Pace(Silent):
    """Progress that measures the pace of a stage's longest task, without the task's first fifth."""

    per_second = 0.0  # units
    cpu_seconds = 0.0  # per unit, up to the last one: the end of an epoch, with its checkpoint, does not count
    seconds = 0.0

    @contextlib.contextmanager
    def track(self, title: str, total: int, unit: str = "images") -> Iterator[Callable[[int], None]]:
        """Time the block from the moment when a fifth of its units are done to its end."""
        done = warm = 0
        begun = warm_at = time.perf_counter()
        cpu_warm = cpu_last = time.process_time()

        def advance(amount: int) -> None:
            nonlocal done, warm, warm_at, cpu_warm, cpu_last
            done += amount
            cpu_last = time.process_time()
            if not warm and done >= SKIPPED * total:
                warm, warm_at, cpu_warm = done, time.perf_counter(), cpu_last

        yield advance
        end = time.perf_counter()
        if end - begun > self.seconds and done > warm:
            self.seconds, self.per_second = end - begun, (done - warm) / (end - warm_at)
            self.cpu_seconds = (cpu_last - cpu_warm) / (done - warm)
