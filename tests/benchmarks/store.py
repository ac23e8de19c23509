"""Embedding store: writing and reading a view, beside a plain `.npy` file.

A view is 16 blocks of 16 MiB, float16 on the disk, in the system's cache when it is read. Everything that a store adds
is included: two checksums of every byte (crc32c for other readers, XXH3-64 for ours), the check that embeddings are
finite, augmentation parameters, and commit records. Both are given the float32 that a network returns, unless the table
says float16. A `.npy` file is flushed to the disk once, at its end; a store flushes every block before it is recorded,
so that a run may be killed at any time. It writes and reads four blocks side by side, as `embed` does with the views of
a block. A rate is the seconds of the `.npy` file divided by those of the store; that by CPU time does not count what
threads gain. Random rows are of a view of 200,000 samples and 2,048 features; the store is opened anew each time.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt

from compress_ssl.pipeline.distill.mapped_view import MappedView
from compress_ssl.pipeline.embed.block import WRITES_AT_ONCE
from compress_ssl.storage import Samples, SplitPlan, Status, open_store
from compress_ssl.storage.places.parallel import map_threads
from compress_ssl.storage.schema import block_count
from compress_ssl.storage.writer import StoreWriter, create_store
from tests.benchmarks.measure import Cost, in_turns, print_table, print_verdict, run

BLOCK_VALUES, BLOCKS, ROUNDS = 2**23, 16, 3
TOY_BLOCK_VALUES, TOY_BLOCKS, TOY_SAMPLES = 2**17, 2, 500
RANDOM_ROWS, SAMPLES, FEATURES = 256, 200_000, 2048
COLUMNS = tuple(f"parameter {number}" for number in range(20))

Floats = npt.NDArray[np.floating]


def plan_of(samples: int, features: int, block_rows: int, views: int = 1) -> SplitPlan:
    """Images with names like ImageNet's."""
    number = np.arange(samples)
    named = Samples(
        sample_path=[f"n{row // 1300:08d}/n{row // 1300:08d}_{row}.JPEG" for row in range(samples)],
        label=(number // 1300).astype(np.int32),
        image_size=np.full((samples, 2), 500, np.int32),
        content_hash=number.astype(np.uint64),
        status=np.full(samples, Status.GOOD, np.uint8),
        class_names=tuple(f"n{label:08d}" for label in range(samples // 1300 + 1)),
    )
    view = {"policy": {"name": "synthetic"}, "seed": None, "size": 224}
    return SplitPlan(named, "train", [view] * views, COLUMNS, features, block_rows)


def blocks_of(plan: SplitPlan, block: Floats) -> Iterator[Floats]:
    """As many blocks as a view has, of the same rows."""
    for number in range(block_count(len(plan.samples), plan.block_rows)):
        yield block[: len(plan.samples) - number * plan.block_rows]


def write_view(writer: StoreWriter, view: int, plan: SplitPlan, block: Floats) -> None:
    """Write one view of a store, and its manifest."""
    parameters = np.zeros((plan.block_rows, len(COLUMNS)), np.float32)

    def write(number: int, rows: Floats) -> None:
        writer.write_block("train", number, view, rows, parameters[: len(rows)])

    list(map_threads(lambda each: write(*each), enumerate(blocks_of(plan, block)), threads=WRITES_AT_ONCE))
    writer.finish()


def write_npy(file: Path, plan: SplitPlan, block: Floats) -> None:
    """Write what ``np.save`` does, without the whole view in memory."""
    with file.open("wb") as opened:
        header = {"descr": "<f2", "fortran_order": False, "shape": (len(plan.samples), plan.feature_dim)}
        np.lib.format.write_array_header_2_0(opened, header)
        for rows in blocks_of(plan, block):
            opened.write(rows.astype(np.float16, copy=False).data)
        opened.flush()
        os.fsync(opened.fileno())


def npy_blocks(file: Path, rows: int) -> Iterator[Floats]:
    """As many rows at a time as ``Split.blocks`` gives."""
    array = np.load(file, mmap_mode="r")
    for start in range(0, len(array), rows):
        yield np.array(array[start : start + rows])


def map_npy(file: Path, rows: int, target: Path) -> None:
    """Copy a view to a file that is mapped."""
    with target.open("wb") as opened:
        for block in npy_blocks(file, rows):
            opened.write(block.data)
    np.memmap(target, np.float16, mode="c")
    target.unlink()


def measure_view(folder: Path, block: Floats, blocks: int, rounds: int) -> dict[str, tuple[Cost, Cost]]:
    """Write a view, and read it in all ways: the costs of a ``.npy`` file and of a store."""
    plan = plan_of(blocks * len(block), block.shape[1], len(block), rounds + 1)
    store, file, scratch, step = folder / "view.zarr", folder / "0.npy", folder / "scratch", 16 * len(block)
    create_store(store, {}, {"train": plan})
    writer, files, views = StoreWriter(store), count(), count()
    split = writer.store["train"]
    ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "write": (
            lambda: write_npy(folder / f"{next(files)}.npy", plan, block),
            lambda: write_view(writer, next(views), plan, block),
        )
    }
    if block.dtype == np.float32:
        ways |= {
            "read whole": (lambda: np.load(file), lambda: split.view(0)),
            "read in blocks": (
                lambda: list(map(len, npy_blocks(file, step))),
                lambda: [len(rows) for _, rows in split.blocks(0)],
            ),
            "read into a memory map": (
                lambda: map_npy(file, step, folder / "map"),
                lambda: MappedView(split, 0, scratch).close(),
            ),
        }
    costs = {}
    for name, (npy, ours) in ways.items():
        found = in_turns({"npy": npy, "store": ours}, rounds)
        costs[name] = (found["npy"], found["store"])
    shutil.rmtree(store)
    for written in folder.glob("*.npy"):
        written.unlink()
    return costs


def measure_rows(folder: Path, samples: int, block: Floats, rounds: int) -> tuple[Cost, Cost]:
    """Read random rows of a view: the costs of a ``.npy`` file and of a store that is opened anew."""
    plan, store, file = plan_of(samples, block.shape[1], len(block)), folder / "rows.zarr", folder / "rows.npy"
    create_store(store, {}, {"train": plan})
    write_view(StoreWriter(store), 0, plan, block)
    write_npy(file, plan, block)
    rows = np.random.default_rng(1).integers(0, samples, RANDOM_ROWS)
    ways = {
        "npy": lambda: np.array(np.load(file, mmap_mode="r")[rows]),
        "store": lambda: open_store(store)["train"].rows(0, rows),
    }
    costs = in_turns(ways, 3 * rounds)
    shutil.rmtree(store)
    file.unlink()
    return costs["npy"], costs["store"]


def main(toy: bool) -> None:
    """Print the seconds of each way, and what a store reaches of a file's rate."""
    values, blocks, rounds, samples = BLOCK_VALUES, BLOCKS, ROUNDS, SAMPLES
    if toy:
        values, blocks, rounds, samples = TOY_BLOCK_VALUES, TOY_BLOCKS, 1, TOY_SAMPLES
    noise = np.random.default_rng(0).standard_normal(values, np.float32)
    rates: dict[str, list[float]] = {}
    table = []

    def add(features: int, what: str, npy: Cost, store: Cost) -> None:
        rates.setdefault(what, []).append(npy.wall / store.wall)
        seconds = (f"{cost.wall:.3f} ({cost.cpu:.3f})" for cost in (npy, store))
        table.append((features, what, *seconds, f"{npy.wall / store.wall:.2f}", f"{npy.cpu / store.cpu:.2f}"))

    with tempfile.TemporaryDirectory() as name:
        for features in (512, 2048, 8192):
            for what, costs in measure_view(Path(name), noise.reshape(-1, features), blocks, rounds).items():
                add(features, what, *costs)
        half = noise.reshape(-1, FEATURES).astype(np.float16)
        add(FEATURES, "write float16", *measure_view(Path(name), half, blocks, rounds)["write"])
        random = measure_rows(Path(name), samples, half, rounds)
        add(FEATURES, f"read {RANDOM_ROWS} random rows", *random)
    print(f"Views of {2 * blocks * values / 2**20:.0f} MiB; seconds, in brackets CPU seconds.\n")
    print_table(("features", "", "`.npy`", "store", "rate", "by CPU time"), table)
    for what in ("write", "read whole"):
        print_verdict(f"{what}: lowest rate", min(rates[what]), at_least=0.8)
    print_verdict(f"{RANDOM_ROWS} random rows: seconds", random[1].wall, at_most=0.3)


if __name__ == "__main__":
    run(main)
