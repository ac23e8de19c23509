"""What benchmarks share: ways measured in turns, tables, verdicts."""

import argparse
import os
import statistics
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from compress_ssl.pipeline.common.allocator import keep_freed_memory
from tests.gpu.parts.photographs import photograph, save

SIDES = (400, 533)  # of the photographs, in pixels

Way = Callable[[], object]
"""What is measured; one that returns a float has measured its own CPU seconds."""


class Cost(NamedTuple):
    """Seconds of a call, or a process."""

    cpu: float  # of all threads
    wall: float


def cost_of(way: Way) -> Cost:
    """Return the seconds of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    own = way()
    return Cost(own if isinstance(own, float) else time.process_time() - cpu, time.perf_counter() - wall)


def turns_of(ways: Mapping[str, Way], rounds: int) -> list[dict[str, Cost]]:
    """Return the seconds of each way in each turn.

    All are called in turns, so that a busy machine slows them alike. The first turn warms up and does not count.
    """
    return [{name: cost_of(way) for name, way in ways.items()} for _ in range(rounds + 1)][1:]


def in_turns(ways: Mapping[str, Way], rounds: int) -> dict[str, Cost]:
    """Return the median seconds of each way."""
    turns = turns_of(ways, rounds)
    return {name: Cost(*map(statistics.median, zip(*(turn[name] for turn in turns), strict=True))) for name in ways}


def cpu_seconds(ways: Mapping[str, Way], rounds: int) -> dict[str, float]:
    """Return the median CPU seconds of each way."""
    return {name: cost.cpu for name, cost in in_turns(ways, rounds).items()}


def cpu_turns(ways: Mapping[str, Way], rounds: int) -> dict[str, npt.NDArray[np.float64]]:
    """Return the CPU seconds (rounds,) of each way; where the machine's speed drifts, compare them turn by turn."""
    turns = turns_of(ways, rounds)
    return {name: np.array([turn[name].cpu for turn in turns]) for name in ways}


def peak_memory(way: Callable[[], object]) -> int:
    """Return the bytes of this process that one call takes at most, above those before it."""
    keep_freed_memory()  # gives back what is kept already, which would not count
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # sets the peak back
    before = _largest_resident()
    way()
    return _largest_resident() - before


def _largest_resident() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table."""
    for row in (columns, ["---"] * len(columns), *rows):
        print("|", " | ".join(str(value) for value in row), "|")
    print(flush=True)


def print_verdict(what: str, measured: float, *, at_most: float | None = None, at_least: float | None = None) -> None:
    """Print whether a figure meets its target."""
    met = (at_most is None or round(measured, 2) <= at_most) and (at_least is None or round(measured, 2) >= at_least)
    bound = f"at most {at_most:g}" if at_most is not None else f"at least {at_least:g}"
    print(f"- {what}: {measured:.2f}; target {bound}: {'met' if met else '**missed**'}.", flush=True)


def write_photographs(folder: Path, count: int) -> str:
    """Write ``count`` photographs into ``train/CLASS`` of a folder; return what they are.

    Real ones if there are enough in ``$COMPRESS_SSL_TEST_DATA/clothing.tar``, synthetic ones otherwise.
    """
    archive = Path(os.environ.get("COMPRESS_SSL_TEST_DATA", "")) / "clothing.tar"
    if archive.is_file():
        with tarfile.open(archive) as tar:
            names = sorted(name for name in tar.getnames() if name.endswith(".jpg"))[:count]
            if len(names) == count:
                for number, name in enumerate(names):
                    content = tar.extractfile(name)
                    assert content is not None
                    path = folder / "train" / name.split("/")[-2] / f"{number:05d}.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content.read())
                return "photographs of about 400 x 533 pixels"
    for number in range(count):
        save(folder / "train" / f"class{number % 10}" / f"{number:05d}.jpg", photograph(number, *SIDES))
    return "synthetic photographs of 400 x 533 pixels"


def run(benchmark: Callable[[bool], None]) -> None:
    """Run a benchmark as a script: ``--toy`` for sizes that only try it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--toy", action="store_true", help="tiny sizes, whose figures mean nothing")
    benchmark(parser.parse_args().toy)
