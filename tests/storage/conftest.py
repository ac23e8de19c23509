"""Small stores on the disk, of numbers that float16 holds exactly.

22 samples in blocks of 5 (five blocks, the last of 2 rows), 4 features, 2 parameters; row 7 is a bad image. Those with
patches have 2 x 2 of them, of 3 components of 6 channels, in views 0 and 2.
"""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress_ssl.storage import PatchPlan, Samples, SplitPlan, Status, location
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


def patches_of(view: int, rows: slice) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Codes (R, 4, 3) from -127 to 127 and scales (R, 4), other ones in every row and view."""
    numbers = np.arange(rows.start * 12, rows.stop * 12).reshape(-1, 4, 3)
    codes = ((numbers * 7 + view * 13) % 255 - 127).astype(np.int8)
    return codes, ((numbers[..., 0] % 64 + view) / 32).astype(np.float16)


def patch_plan_of(views: tuple[int, ...] = (0, 2)) -> PatchPlan:
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 3)))[0].T.astype(np.float32)
    sizes = {"grid": 2, "components": 3, "channels": 6, "fitted_on": 20}
    measured = {"explained_variance": 0.875, "reconstruction_cosine": 0.96875}
    return PatchPlan(**sizes, **measured, views=views, mean=np.arange(6, dtype=np.float32), basis=basis)


def plan_of(
    count: int = 22,
    views: int = 3,
    paths: list[str] | None = None,
    block_rows: int = 5,
    patches: PatchPlan | None = None,
) -> SplitPlan:
    described = [{"policy": {"name": "some", "strength": 0.5}, "seed": view, "size": 8} for view in range(views)]
    return SplitPlan(samples_of(count, paths), "images", described, ("row", "column"), 4, block_rows, patches)


def write_all(path: Path) -> None:
    with contextlib.nullcontext() if lease_over(location(path)) else exclusive_writer(path):
        writer = StoreWriter(path)
        for split in writer.store.split_names:
            for block, views in writer.pending_blocks(split).items():
                rows = writer.store[split].block_slice(block)
                for view in views:
                    writer.write_block(split, block, view, values_of(view, rows), parameters_of(view, rows))
                    if (patches := writer.store[split].patches) and view in patches.views:
                        writer.write_patches(split, block, view, *patches_of(view, rows))
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
    create_store(folder / "patched.zarr", ATTRIBUTES, {"train": plan_of(patches=patch_plan_of()), "val": plan_of(6, 1)})
    write_all(folder / "patched.zarr")
    return folder


@pytest.fixture
def empty(made: Path, tmp_path: Path) -> Path:
    """A store whose only split, train, has no block yet."""
    return _copied(made / "empty.zarr", tmp_path / "store.zarr")


@pytest.fixture
def complete(made: Path, tmp_path: Path) -> Path:
    """A finished store: train of three views, val of one."""
    return _copied(made / "complete.zarr", tmp_path / "store.zarr")


@pytest.fixture
def patched(made: Path, tmp_path: Path) -> Path:
    """A finished store as the one before, with patches of train."""
    return _copied(made / "patched.zarr", tmp_path / "patched.zarr")


def _copied(store: Path, target: Path) -> Path:
    """A copy that is not read-only, so that tests can damage it."""
    return Path(shutil.copytree(store, target, copy_function=shutil.copyfile))


@pytest.fixture
def files() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder, by its path."""
    return lambda folder: {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
