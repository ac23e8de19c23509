"""What benchmarks share: ways measured in turns, tables, verdicts."""

import argparse
import os
import statistics
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.gpu.parts.photographs import photograph, save

SIDES = (400, 533)  # of the photographs, in pixels


class Cost(NamedTuple):
    """Seconds of a call."""

    cpu: float  # of this process, all threads
    wall: float


def cost_of(way: Callable[[], object]) -> Cost:
    """Return the seconds of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    way()
    return Cost(time.process_time() - cpu, time.perf_counter() - wall)


def in_turns(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Cost]:
    """Return the median seconds of each way. All are called in turns, so that a busy machine slows them alike.

    The first turn warms up and does not count.
    """
    found: dict[str, list[Cost]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            found[name].append(cost_of(way))
    return {
        name: Cost(*(statistics.median(kind) for kind in zip(*costs[1:], strict=True))) for name, costs in found.items()
    }


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
            names = sorted(name for name in tar.getnames() if name.endswith(".jpg"))
            for number, name in enumerate(names[:count]):
                content = tar.extractfile(name)
                assert content is not None
                path = folder / "train" / name.split("/")[-2] / f"{number:05d}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
        if len(names) >= count:
            return "photographs of about 400 × 533 pixels"
    for number in range(count):
        save(folder / "train" / f"class{number % 10}" / f"{number:05d}.jpg", photograph(number, *SIDES))
    return "synthetic photographs of 400 × 533 pixels"


def run(benchmark: Callable[[bool], None]) -> None:
    """Run a benchmark as a script: ``--toy`` for sizes that only try it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--toy", action="store_true", help="tiny sizes, whose figures mean nothing")
    benchmark(parser.parse_args().toy)
