"""Creating a store and writing its blocks. Many processes may write at once: no two blocks share an object."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from storage import schema
from storage.commits import SAMPLES_UNIT, commit_block, fold_records, read_records
from storage.durable import DurableStore, flush_directory, sweep_partial_files
from storage.errors import (
    NotRepresentableError,
    StoreError,
    StoreExistsError,
)
from storage.lease import writer_lease
from storage.reader import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt


def create_store(
    path: Path, attributes: Mapping[str, Any], splits: Mapping[str, schema.SplitPlan], *, overwrite: bool = False
) -> None:
    """Create an empty store: groups, arrays and the committed per-sample arrays. Call under the writer's lease.

    It is built beside its place and renamed into it, so there is never half a store.

    Parameters
    ----------
    path : Path
        Folder of the store.
    attributes : mapping
        What made the embeddings (teacher, data set, renderer, versions); kept in the root's attributes.
    splits : mapping of split name to SplitPlan
    overwrite : bool
        Delete what is at ``path`` once the new store stands ready.

    Raises
    ------
    StoreExistsError
        If ``path`` exists and ``overwrite`` is false.
    """
    if path.exists() and not overwrite:
        raise StoreExistsError(
            f"'{path}' exists already; use --resume to finish it or --overwrite to delete it and begin again."
        )
    building, deleting = path.with_name(f"{path.name}.creating"), path.with_name(f"{path.name}.deleting")
    for leftover in (building, deleting):
        shutil.rmtree(leftover, ignore_errors=True)
    header = {"format": schema.FORMAT_NAME, "version": schema.FORMAT_VERSION}
    root = zarr.create_group(DurableStore(building), attributes={**attributes, **header})
    for name, plan in splits.items():
        _create_split(root, building / name, plan)
    if path.exists():
        path.rename(deleting)
    building.rename(path)
    flush_directory(path.parent)
    shutil.rmtree(deleting, ignore_errors=True)


def _create_split(root: zarr.Group, folder: Path, plan: schema.SplitPlan) -> None:
    samples = plan.samples
    group = root.create_group(
        folder.name,
        attributes={
            "folder": plan.folder,
            "class_names": list(samples.class_names),
            "views": plan.views,
            "block_rows": plan.block_rows,
        },
    )
    n, rows = len(samples), plan.block_rows
    shapes = {
        "embeddings": ((len(plan.views), n, plan.feature_dim), (1, rows, plan.feature_dim)),
        "augmentation": ((len(plan.views), n, len(plan.columns)), (1, rows, len(plan.columns))),
        "image_size": ((n, 2), (rows, 2)),
    }
    specs = schema.VIEW_ARRAYS | schema.SAMPLE_ARRAYS
    arrays = {}
    for name, spec in specs.items():
        shape, chunks = shapes.get(name, ((n,), (rows,)))
        arrays[name] = group.create_array(
            name,
            shape=shape,
            chunks=chunks,
            dtype=spec.dtype,
            compressors=[Crc32cCodec()],
            fill_value=spec.fill_value,
            dimension_names=spec.dimensions,
            # Never compare a chunk with the fill value: it is slow, and a part that is committed must exist.
            config={"write_empty_chunks": True},
            attributes={"columns": list(plan.columns)} if name == "augmentation" else {},
        )
    for name in schema.SAMPLE_ARRAYS:
        values = getattr(samples, name)
        arrays[name][...] = np.array(values, dtype=object) if name == "sample_path" else values
    for block in range(schema.block_count(n, rows)):
        keys = [f"{name}/c/{block}" + "/0" * (arrays[name].ndim - 1) for name in schema.SAMPLE_ARRAYS]
        commit_block(folder, SAMPLES_UNIT, block, keys)
    fold_records(folder, SAMPLES_UNIT)


class StoreWriter:
    """Writes blocks into an existing store; safe in any number of processes and threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = open_store(path)
        root = zarr.open_group(DurableStore(path), mode="r+", use_consolidated=False)
        self._arrays = {
            split: {
                name: _array(root, f"{split}/{name}").with_config({"write_empty_chunks": True})
                for name in schema.VIEW_ARRAYS
            }
            for split in self.store.split_names
        }

    def missing_views(self, split: str, block: int) -> list[int]:
        """Views of a block that have no commit record yet."""
        views = range(len(self.store[split].views))
        return [view for view in views if block not in self._committed(split, view)]

    def pending_blocks(self, split: str) -> dict[int, list[int]]:
        """For each unfinished block, the views that it lacks."""
        source = self.store[split]
        committed = [self._committed(split, view) for view in range(len(source.views))]
        lacking = {
            block: [view for view, blocks in enumerate(committed) if block not in blocks]
            for block in range(source.block_count)
        }
        return {block: views for block, views in lacking.items() if views}

    def write_block(
        self,
        split: str,
        block: int,
        view: int,
        embeddings: npt.NDArray[np.floating[Any]],
        augmentation: npt.NDArray[np.float32],
    ) -> None:
        """Write one view of one block, then its commit record. Writing it again gives the same bytes.

        Parameters
        ----------
        embeddings : float array of shape (rows of the block, D)
            NaN in the rows of bad images.
        augmentation : float32 array of shape (rows of the block, P)

        Raises
        ------
        NotRepresentableError
            If a good row has a value that is not finite as float16; names the row. Nothing is written.
        """
        rows = self.store[split].block_slice(block)
        with np.errstate(over="ignore"):
            half = embeddings.astype(np.float16)
        broken = ~np.isfinite(half).all(axis=1) & self.store[split].samples.good[rows]
        if broken.any():
            row = rows.start + int(np.flatnonzero(broken)[0])
            value = embeddings[row - rows.start]
            worst = value[~np.isfinite(half[row - rows.start])][0]
            raise NotRepresentableError(
                f"The embedding of '{self.store[split].samples.sample_path[row]}' (split {split}, row {row}, view "
                f"{view}) holds {worst:g}, which float16 cannot; check the teacher's weights and "
                "preprocessing, or run it with --precision float32."
            )
        self._arrays[split]["embeddings"][view, rows] = half
        self._arrays[split]["augmentation"][view, rows] = augmentation
        keys = [f"{name}/c/{view}/{block}/0" for name in schema.VIEW_ARRAYS]
        commit_block(self.path / split, str(view), block, keys)

    def finish(self) -> None:
        """Fold the records of complete views into manifests; consolidate the metadata once all is complete."""
        complete = True
        for split in self.store.split_names:
            for view in range(len(self.store[split].views)):
                if len(self._committed(split, view)) == self.store[split].block_count:
                    fold_records(self.path / split, str(view))
                else:
                    complete = False
        if complete:
            with warnings.catch_warnings():
                # Consolidated metadata is not yet in the v3 specification; zarr and xarray both read it.
                warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
                zarr.consolidate_metadata(DurableStore(self.path))

    def _committed(self, split: str, view: int) -> set[int]:
        return set(read_records(self.path / split, str(view)))


def _array(root: zarr.Group, key: str) -> zarr.Array[Any]:
    array = root[key]
    if not isinstance(array, zarr.Array):
        raise StoreError(f"'{key}' is not an array.")
    return array


@contextlib.contextmanager
def exclusive_writer(path: Path) -> Iterator[None]:
    """Hold the store's lease and sweep what killed writers left behind."""
    with writer_lease(path):
        if path.is_dir():
            sweep_partial_files(path)
        yield
