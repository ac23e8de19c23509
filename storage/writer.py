"""Creating a store and writing its blocks. Many processes may write at once: no two blocks share an object."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from compress_ssl.storage import schema
from compress_ssl.storage.commits import (
    SAMPLES_UNIT,
    commit_block,
    fold_records,
    is_committed,
    read_records,
    write_manifest,
)
from compress_ssl.storage.errors import StoreBusyError, StoreError, StoreExistsError
from compress_ssl.storage.half import as_float16
from compress_ssl.storage.places.durable import DurableStore, make_read_only, sweep_partial_files
from compress_ssl.storage.places.lease import writer_lease
from compress_ssl.storage.places.remote import check_writable
from compress_ssl.storage.publish import generation, is_half_created, new_store
from compress_ssl.storage.reader import is_store, open_store
from compress_ssl.storage.tools.growth import end_growth
from compress_ssl.storage.zarr_stores import zarr_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from compress_ssl.storage.places.remote import Place
    from compress_ssl.storage.split import Split


def create_store(
    path: Place, attributes: Mapping[str, Any], splits: Mapping[str, schema.SplitPlan], *, overwrite: bool = False
) -> None:
    """Create an empty store: groups, arrays and the committed per-sample arrays. Call under the writer's lease.

    There is never half a store (``compress_ssl.storage.publish``).

    Parameters
    ----------
    path : Path or RemotePath
        Place of the store.
    attributes : mapping
        What made the embeddings (teacher, data set, renderer, versions); kept in the root's attributes.
    splits : mapping of split name to SplitPlan
    overwrite : bool
        Delete the embedding store at ``path`` once the new one stands ready; nothing else is ever deleted.

    Raises
    ------
    StoreExistsError
        If ``path`` exists, and either ``overwrite`` is false or it is not an embedding store.
    """
    check_place(path, overwrite=overwrite)
    header = {"format": schema.FORMAT_NAME, "version": schema.FORMAT_VERSION, "splits": sorted(splits)}
    with new_store(path) as building:
        root = zarr.create_group(DurableStore(building), attributes={**attributes, **header})
        for name, plan in splits.items():
            _create_split(root, building / name, plan)


RESUME_OR_OVERWRITE = "use --resume to finish it or --overwrite to delete it and begin again"
OVERWRITE = "use --overwrite to replace it, or another path"


def check_place(path: Place, *, overwrite: bool, instead: str = RESUME_OR_OVERWRITE) -> None:
    """Check that a new store may be written at ``path``; ``instead`` says what to do about a store that is there.

    Raises
    ------
    StoreExistsError
        If something is there: a store that may not be overwritten, or what is not a store.
    StoreError
        If it is a place that can only be read.
    """
    check_writable(path)
    if is_half_created(path):
        return
    if is_store(path):
        if not overwrite:
            raise StoreExistsError(f"'{path}' exists already; {instead}.")
    elif path.is_dir():
        if next(path.iterdir(), None) is not None:
            raise StoreExistsError(f"'{path}' is not empty and not an embedding store; give another path.")
    elif path.exists():
        raise StoreExistsError(f"'{path}' is a file; give another path for the store.")


def _create_split(root: zarr.Group, folder: Path, plan: schema.SplitPlan) -> None:
    samples = plan.samples
    group = root.create_group(
        folder.name,
        attributes={
            "folder": plan.folder,
            "class_names": list(samples.class_names),
            "views": plan.views,
            "block_rows": plan.block_rows,
            "samples": len(samples),
        },
    )
    n, rows = len(samples), plan.block_rows
    specs = schema.VIEW_ARRAYS | schema.SAMPLE_ARRAYS
    arrays = {}
    for name, shape, chunks in schema.layout(n, len(plan.views), plan.feature_dim, len(plan.columns), rows):
        spec = specs[name]
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
    blocks = range(schema.block_count(n, rows))
    write_manifest(folder, SAMPLES_UNIT, {block: schema.sample_keys(block) for block in blocks})


class StoreWriter:
    """Writes blocks into an existing store; safe in any number of processes and threads."""

    def __init__(self, path: Place) -> None:
        check_writable(path)
        self.path = path
        self._generation = generation(path)
        self.store = open_store(path)
        root = zarr.open_group(zarr_store(path, writable=True), mode="r+", use_consolidated=False)
        self._arrays = {
            split: {
                name: _array(root, f"{split}/{name}").with_config({"write_empty_chunks": True})
                for name in schema.VIEW_ARRAYS
            }
            for split in self.store.split_names
        }

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
        """Write one view of one block, then its commit record. What is committed already is left as it is.

        Parameters
        ----------
        embeddings : float array of shape (rows of the block, D)
            The rows of bad images are kept as NaN, whatever they hold.
        augmentation : float32 array of shape (rows of the block, P)

        Raises
        ------
        NotRepresentableError
            If a good row has a value that is not finite as float16; names the row. Nothing is written.
        StoreError
            If there is no such view or block, or an array has another shape than the block's.
        StoreBusyError
            If another writer has put a new store here since this one was opened.
        """
        source = self.store[split]
        _check_block(source, block, view, embeddings.shape, augmentation.shape)
        # A writer that slept past its lease wakes up to a store that may be another one's by now.
        if generation(self.path) != self._generation:
            raise StoreBusyError(f"Another writer has put a new store at '{self.path}'; stop one of the two.")
        if is_committed(source.path, str(view), block):
            return
        rows = source.block_slice(block)
        arrays = self._arrays[split]
        arrays["embeddings"][view, rows] = as_float16(source, rows, view, embeddings)
        arrays["augmentation"][view, rows] = augmentation
        commit_block(source.path, str(view), block, schema.view_keys(view, block))

    def finish(self) -> None:
        """Fold the records of complete views into manifests; once all is complete, consolidate the metadata.

        The files of a complete store are made read-only, and readable by their group.
        """
        complete = True
        for split in self.store.split_names:
            for view in range(len(self.store[split].views)):
                if len(self._committed(split, view)) == self.store[split].block_count:
                    fold_records(self.path / split, str(view))
                else:
                    complete = False
        if complete:
            end_growth(zarr.open_group(zarr_store(self.path, writable=True), mode="r+", use_consolidated=False))
            consolidate(self.path)
            if isinstance(self.path, Path):
                make_read_only(self.path)

    def _committed(self, split: str, view: int) -> set[int]:
        return set(read_records(self.path / split, str(view)))


def consolidate(path: Place) -> None:
    """Put all metadata into the root's, so that readers of zarr's own fetch one object."""
    with warnings.catch_warnings():
        # Consolidated metadata is not yet in the v3 specification; zarr and xarray both read it.
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(zarr_store(path, writable=True))


def _check_block(source: Split, block: int, view: int, *shapes: tuple[int, ...]) -> None:
    if not (0 <= view < len(source.views) and 0 <= block < source.block_count):
        raise StoreError(f"Split {source.name} of '{source.path.parent}' has no view {view}, block {block}.")
    rows = source.block_slice(block)
    wanted = ((rows.stop - rows.start, source.feature_dim), (rows.stop - rows.start, len(source.columns)))
    if shapes != wanted:
        raise StoreError(
            f"Block {block} of split {source.name} of '{source.path.parent}' takes embeddings of shape {wanted[0]} and "
            f"parameters of shape {wanted[1]}, got {shapes[0]} and {shapes[1]}; was the store made for another teacher?"
        )


def _array(root: zarr.Group, key: str) -> zarr.Array[Any]:
    array = root[key]
    if not isinstance(array, zarr.Array):
        raise StoreError(f"'{key}' is not an array.")
    return array


@contextlib.contextmanager
def exclusive_writer(path: Place) -> Iterator[None]:
    """Hold the store's lease and sweep what killed writers left behind."""
    check_writable(path)
    with writer_lease(path):
        if isinstance(path, Path) and is_store(path):
            sweep_partial_files(path)
        yield
