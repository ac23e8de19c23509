"""A store of as many rows as ImageNet: what writing, opening and reading it take, beside a plain ``.npy`` file.

python -m tests.benchmarks.big_store FOLDER [ROWS [FEATURES]]

The rows are synthetic: view 0 and one random view. FOLDER needs three times a view's bytes, 16 GB for ImageNet's
1,281,167 rows of 2,048 features; what is made there is deleted. Each line is of a process of its own; MiB is its most
memory, of which MiB_before are libraries. "cold": the files were dropped from the system's cache.
"""

import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress_ssl.pipeline.distill.mapped_view import MappedView
from compress_ssl.storage import SplitPlan, describe, open_store
from compress_ssl.storage.schema import default_block_rows
from compress_ssl.storage.tools.size import size_on_disk
from compress_ssl.storage.tools.verify import verify_store
from compress_ssl.storage.writer import StoreWriter, create_store
from tests.benchmarks.store import COLUMNS, plan_of

VIEWS, BATCH, BATCHES, STORE_BATCHES = 2, 256, 50, 3

Taken = dict[str, Any]


def plan(rows: int, features: int) -> SplitPlan:
    """Samples with names like ImageNet's."""
    return plan_of(rows, features, default_block_rows(rows, features), VIEWS)


def blocks_of(view: int, rows: int, features: int) -> Iterator[npt.NDArray[np.float32]]:
    """A view's rows, block by block; no two are the same."""
    block_rows = default_block_rows(rows, features)
    noise = np.random.default_rng(0).standard_normal((block_rows, features), np.float32)
    for block, begin in enumerate(range(0, rows, block_rows)):
        yield np.roll(noise, 31 * block + view, axis=1)[: rows - begin]


def write_store(place: Path, rows: int, features: int) -> None:
    create_store(place, {"teacher": {"name": "synthetic", "feature_dim": features}}, {"train": plan(rows, features)})
    writer = StoreWriter(place)
    for view in range(VIEWS):
        for block, embeddings in enumerate(blocks_of(view, rows, features)):
            parameters = np.full((len(embeddings), len(COLUMNS)), block, np.float32)
            writer.write_block("train", block, view, embeddings, parameters)
    writer.finish()


def write_npy(file: Path, rows: int, features: int) -> None:
    """One view, converted and flushed as the store's."""
    with file.open("wb") as opened:
        np.lib.format.write_array_header_2_0(
            opened, {"descr": "<f2", "fortran_order": False, "shape": (rows, features)}
        )
        for block in blocks_of(0, rows, features):
            opened.write(block.astype(np.float16).data)
        os.fsync(opened.fileno())


def open_alone(place: Path) -> Taken:
    return {"rows": len(open_store(place)["train"])}


def info(place: Path) -> Taken:
    return {"objects": describe(open_store(place))["objects"]}


def read_blocks(place: Path) -> Taken:
    return {"rows": sum(len(block) for _, block in open_store(place)["train"].blocks(1))}


def read_npy_blocks(file: Path) -> Taken:
    """As many rows at a time as ``Split.blocks`` gives."""
    array = np.load(file, mmap_mode="r")
    step = 16 * default_block_rows(*array.shape)
    return {"rows": sum(len(np.array(array[begin : begin + step])) for begin in range(0, len(array), step))}


def read_view(place: Path) -> Taken:
    """One view at once, then random batches of it."""
    view = open_store(place)["train"].view(0)
    return {"rows": len(view), **gathered(view.take, len(view), BATCHES)}


def read_npy(file: Path) -> Taken:
    """The plain file at once, then random batches of it."""
    array = np.load(file)
    return {"rows": len(array), **gathered(array.take, len(array), BATCHES)}


def gather_mapped(place: Path, scratch: Path) -> Taken:
    """Random batches of a view that is mapped, as a student's teacher may be.

    The time to write its file is included.
    """
    view = MappedView(open_store(place)["train"], 0, scratch)
    begun = time.perf_counter()
    taken = gathered(lambda rows, axis: view.embeddings[rows].clone(), len(view.embeddings), BATCHES)
    view.close()
    return {**taken, "seconds_of_batches": round(time.perf_counter() - begun, 3)}


def gather_mapped_npy(file: Path) -> Taken:
    array = np.load(file, mmap_mode="r")
    return gathered(lambda rows, axis: np.array(array[rows]), len(array), BATCHES)


def gather_store(place: Path) -> Taken:
    """Random batches by ``Split.rows``, which reads every block that one of the rows lies in."""
    split = open_store(place)["train"]
    return gathered(lambda rows, axis: split.rows(0, rows), len(split), STORE_BATCHES)


def gathered(take: Callable[..., Any], rows: int, count: int) -> Taken:
    """Milliseconds of a random batch."""
    begun = time.perf_counter()
    for batch in np.random.default_rng(1).integers(0, rows, (count, BATCH)):
        take(batch, axis=0)
    return {"ms_a_batch": round(1000 * (time.perf_counter() - begun) / count, 2)}


def verify(place: Path) -> Taken:
    found = verify_store(open_store(place))
    return {"parts": found.parts, "ok": found.ok}


def compare(place: Path) -> Taken:
    """Every row of both views, by the public reader, with what was written."""
    split, wrong, count = open_store(place)["train"], 0, 0
    for view in range(VIEWS):
        truth = blocks_of(view, len(split), split.feature_dim)
        for _, found in split.blocks(view):
            for begin in range(0, len(found), split.block_rows):
                block = found[begin : begin + split.block_rows]
                wrong += int((block != next(truth).astype(np.float16)).any(axis=1).sum())
                count += len(block)
    return {"rows": count, "wrong": wrong}


def memory(field: str) -> int:
    """MiB of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) // 1024


def in_this_process(work: Callable[..., Taken | None], arguments: tuple[Any, ...]) -> Taken:
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back
    before, begun, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    found = work(*arguments) or {}
    taken = {"seconds": round(time.perf_counter() - begun, 3), "cpu": round(time.process_time() - cpu, 3)}
    return {**taken, "MiB": memory("VmHWM"), "MiB_before": before, **found}


def measured(work: Callable[..., Taken | None], *arguments: Any, name: str = "") -> None:
    """Print what some work takes, done by a process of its own."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        taken = pool.apply(in_this_process, (work, arguments))
    print(f"{name or work.__name__}: {json.dumps(taken)} load {os.getloadavg()[0]:.1f}", flush=True)


def forget(place: Path) -> None:
    """Drop files from the system's cache."""
    for path in [place, *place.rglob("*")]:
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def main(folder: Path, rows: int = 1_281_167, features: int = 2048) -> None:
    """Print a line a measurement."""
    small, store, file, scratch = (folder / name for name in ("small.zarr", "big.zarr", "view.npy", "scratch"))
    try:
        measured(write_store, small, rows // 10, features, name=f"write_store {rows // 10:,} rows")
        shutil.rmtree(small)
        measured(write_store, store, rows, features, name=f"write_store {rows:,} rows")
        measured(write_npy, file, rows, features)
        print(f"on disk: {size_on_disk(store)}", flush=True)
        for state in ("cold", "warm"):
            for work in (open_alone, info, read_blocks, read_npy_blocks, read_view, read_npy):
                place = file if "npy" in work.__name__ else store
                if state == "cold":
                    forget(place)
                measured(work, place, name=f"{work.__name__}, {state}")
        measured(gather_mapped_npy, file)
        file.unlink()
        measured(gather_mapped, store, scratch)
        measured(gather_store, store)
        measured(verify, store)
        measured(compare, store)
    finally:
        for path in (small, store, scratch):
            shutil.rmtree(path, ignore_errors=True)
        file.unlink(missing_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
