"""Small stores on the disk, of numbers that float16 holds exactly.

22 samples in blocks of 5 (five blocks, the last of 2 rows), 4 features, 2 parameters; row 7 is a bad image.
"""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress_ssl.storage import Samples, SplitPlan, Status, location
from compress_ssl.storage.places.lease import lease_over
from compress_ssl.storage.writer import StoreWriter, create_store, exclusive_writer

ATTRIBUTES = {"teacher": {"name": "random", "feature_dim": 4}, "data_set": {"name": "numbers", "images": 22}}
BAD_ROW = 7


def values_of(view: int, rows: slice, features: int = 4) -> np.ndarray[Any, Any]:
    """Embeddings of some rows: multiples of 1/8 below 256, other ones in every row and view; NaN for the bad image."""
    numbers = np.arange(rows.start * features, rows.stop * features).reshape(-1, features)
    embeddings = ((numbers * 7 + view * 13) % 2048 / 8).astype(np.float32)
    embeddings[np.arange(rows.start, rows.stop) == BAD_ROW] = np.nan
    return embeddings


def parameters_of(view: int, rows: slice) -> np.ndarray[Any, Any]:
    return np.stack([np.full(rows.stop - rows.start, view), np.arange(rows.start, rows.stop)], 1).astype(np.float32)


def samples_of(count: int, paths: list[str] | None = None) -> Samples:
    rows = np.arange(count)
    return Samples(
        sample_path=paths or [f"{'ab'[row % 2]}/{row:02d}.jpg" for row in rows],
        label=(rows % 2).astype(np.int32),
        image_size=np.stack([100 + rows, 200 + rows], 1).astype(np.int32),
        content_hash=(rows.astype(np.uint64) + np.uint64(2**63)),
        status=np.where(rows == BAD_ROW, Status.BAD_IMAGE, Status.GOOD).astype(np.uint8),
        class_names=("a", "b"),
    )


def plan_of(count: int = 22, views: int = 3, paths: list[str] | None = None, block_rows: int = 5) -> SplitPlan:
    described = [{"policy": {"name": "some", "strength": 0.5}, "seed": view, "size": 8} for view in range(views)]
    return SplitPlan(samples_of(count, paths), "images", described, ("row", "column"), 4, block_rows)


def write_all(path: Path) -> None:
    with contextlib.nullcontext() if lease_over(location(path)) else exclusive_writer(path):
        writer = StoreWriter(path)
        for split in writer.store.split_names:
            for block, views in writer.pending_blocks(split).items():
                rows = writer.store[split].block_slice(block)
                for view in views:
                    writer.write_block(split, block, view, values_of(view, rows), parameters_of(view, rows))
        writer.finish()


@pytest.fixture
def values() -> Callable[..., np.ndarray[Any, Any]]:
    return values_of


@pytest.fixture
def parameters() -> Callable[..., np.ndarray[Any, Any]]:
    return parameters_of


@pytest.fixture
def samples() -> Callable[..., Samples]:
    return samples_of


@pytest.fixture
def plan() -> Callable[..., SplitPlan]:
    return plan_of


@pytest.fixture
def fill() -> Callable[[Path], None]:
    """Write all blocks that a store lacks, and finish it."""
    return write_all


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stores below, made once; read them, never change them."""
    folder = tmp_path_factory.mktemp("stores")
    create_store(folder / "empty.zarr", ATTRIBUTES, {"train": plan_of()})
    create_store(folder / "complete.zarr", ATTRIBUTES, {"train": plan_of(), "val": plan_of(6, 1)})
    write_all(folder / "complete.zarr")
    return folder


@pytest.fixture
def empty(made: Path, tmp_path: Path) -> Path:
    """A store whose only split, train, has no block yet."""
    return _copied(made / "empty.zarr", tmp_path / "store.zarr")


@pytest.fixture
def complete(made: Path, tmp_path: Path) -> Path:
    """A finished store: train of three views, val of one."""
    return _copied(made / "complete.zarr", tmp_path / "store.zarr")


def _copied(store: Path, target: Path) -> Path:
    """A copy that is not read-only, so that tests can damage it."""
    return Path(shutil.copytree(store, target, copy_function=shutil.copyfile))


@pytest.fixture
def files() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder, by its path."""
    return lambda folder: {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
