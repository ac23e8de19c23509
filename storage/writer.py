"""Creating a store and writing its blocks. Many processes may write at once: no two blocks share an object."""

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec

from compress_ssl.storage import schema
from compress_ssl.storage.chunks import encode
from compress_ssl.storage.commits import (
    commit_block,
    counted_writers,
    fold_records,
    is_committed,
    is_folded,
    part_of,
    read_records,
    release,
    take_over,
    write_manifest,
)
from compress_ssl.storage.errors import NotRepresentableError, StoreError
from compress_ssl.storage.parameters import check_row_numbers
from compress_ssl.storage.patches import wrong_patches, wrong_plan
from compress_ssl.storage.places.lease import lease_over
from compress_ssl.storage.places.parallel import map_threads
from compress_ssl.storage.places.place import Place, PlaceLike, location, writer_lease
from compress_ssl.storage.publish import check_place, is_store, new_store
from compress_ssl.storage.reader import open_store
from compress_ssl.storage.split import Split
from compress_ssl.storage.values import NOT_FINITE, largest_bits
from compress_ssl.storage.version import format_version
from compress_ssl.storage.zarr_stores import PlaceStore

SMALLEST_NORMAL = 2.0**-14  # smallest number that float16 holds in full precision
SMALLEST_NORMAL_BITS = 0x0400  # of it as float16


def create_store(
    path: PlaceLike, attributes: Mapping[str, Any], splits: Mapping[str, schema.SplitPlan], *, overwrite: bool = False
) -> None:
    """Create an empty store: groups, arrays and the committed per-sample arrays. Call under the writer's lease.

    There is never half a store (``compress_ssl.storage.publish``).

    Args:
        attributes: What the embeddings were made from (teacher, dataset, renderer, versions): attributes of the root.
        overwrite: Delete the embedding store at ``path`` once the new one is ready; nothing else is ever deleted.

    Raises:
        StoreExistsError: If ``path`` exists, and either ``overwrite`` is false or it is not an embedding store.
        StoreError: If a split with mixed views has more rows than they can name.
    """
    check_place(path, overwrite=overwrite)
    for name, plan in splits.items():
        check_row_numbers(name, plan.columns, len(plan.samples))
        if plan.patches and (fault := wrong_plan(plan.patches)):
            raise StoreError(f"The patch basis of split {name} {fault}; '{path}' was not created.")
    header = {"format": schema.FORMAT_NAME, "version": format_version(attributes, splits), "splits": sorted(splits)}
    with new_store(path) as building:
        store = PlaceStore(building)
        root = zarr.create_group(store, attributes={**attributes, **header})
        for name, plan in splits.items():
            samples = plan.samples
            described = {
                "folder": plan.folder,
                "class_names": list(samples.class_names),
                "views": plan.views,
                "block_rows": plan.block_rows,
                "samples": len(samples),
                **({schema.PATCHES: plan.patches.attribute()} if plan.patches else {}),
            }
            group = root.create_group(name, attributes=described)
            row = (plan.feature_dim, len(plan.columns), plan.block_rows, plan.patches)
            created = {key: getattr(samples, key) for key in schema.SAMPLE_ARRAYS}
            if plan.patches:
                created |= {"patch_mean": plan.patches.mean, "patch_basis": plan.patches.basis}
            for key, shape, chunks in schema.layout(len(samples), len(plan.views), *row):
                spec = schema.ARRAYS[key]
                array = group.create_array(
                    key,
                    shape=shape,
                    chunks=chunks,
                    dtype=spec.dtype,
                    compressors=[Crc32cCodec()],
                    fill_value=spec.fill_value,
                    dimension_names=spec.dimensions,
                    # Never compare a chunk with the fill value: it is slow, and a part that is committed must exist.
                    config={"write_empty_chunks": True},
                    attributes={"columns": list(plan.columns)} if key == "augmentation" else {},
                )
                if key in created:
                    array[...] = np.array(created[key], dtype=object) if key == "sample_path" else created[key]
            blocks = range(schema.block_count(len(samples), plan.block_rows))
            units = {schema.SAMPLES_UNIT: blocks} | ({schema.BASIS_UNIT: range(1)} if plan.patches else {})
            for unit, numbers in units.items():
                write_manifest(building / name, unit, written_records(store, name, unit, numbers))


class StoreWriter:
    """Writes blocks into an existing store; safe in any number of processes and threads.

    Raises:
        StoreError: If another writer has begun the store under a lease, and this process has none.
    """

    def __init__(self, path: PlaceLike) -> None:
        self.path = location(path)
        self.path.check_writable()
        self.store = open_store(self.path)
        self._lease = lease_over(self.path)
        if self._lease and not self.store.is_complete:
            for source in self.store.splits:
                take_over(source.path, source.units, self._lease.holder)
        if not self._lease and any(counted_writers(source.path) != [None] for source in self.store.splits):
            raise StoreError(f"'{self.path}' is only written under its lease; open it inside exclusive_writer.")

    @property
    def holder(self) -> str | None:
        """The holder of the lease under which this writer was opened; None if there was none."""
        return self._lease.holder if self._lease else None

    def pending_blocks(self, split: str) -> dict[int, list[int]]:
        """Return the views that each unfinished block lacks, or lacks the patches of, by block."""
        source = self.store[split]
        committed = [
            set.intersection(*(set(read_records(source.path, unit)) for unit in source.units_of(view)))
            for view in range(len(source.views))
        ]
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
        """Write one view of one block, then its commit record. A committed block is left as it is.

        Args:
            embeddings (float array of shape (rows of the block, D)): The rows of bad images are stored as NaN.
            augmentation (float32 array of shape (rows of the block, P))

        Raises:
            NotRepresentableError: If a good row cannot be represented as float16 (``check_float16``); names the row.
                Nothing is written.
            StoreError: If there is no such view or block, or an array does not have the block's shape.
            StoreBusyError: If another writer has taken the lease under which this one writes.
        """
        source, rows = self._place_of(split, block, view)
        count = rows.stop - rows.start
        wanted = ((count, source.feature_dim), (count, len(source.columns)))
        if (found := (embeddings.shape, augmentation.shape)) != wanted:
            raise StoreError(
                f"Block {block} of split {split} of '{self.path}' takes embeddings of shape {wanted[0]} and parameters "
                f"of shape {wanted[1]}, got {found[0]} and {found[1]}; was the store made for another teacher?"
            )
        if is_committed(source.path, str(view), block):
            return
        bits: list[npt.NDArray[np.integer[Any]]] = []  # of the largest magnitude in each row
        good = source.samples.good[rows]
        chunks = {
            "embeddings": encode(
                "embeddings", embeddings, source.block_rows, ~good, lambda half: bits.append(largest_bits(half))
            ),
            "augmentation": encode("augmentation", augmentation, source.block_rows),
        }
        check_float16(source, rows, view, embeddings, np.concatenate(bits))
        self._commit(source, str(view), block, chunks)

    def write_patches(
        self, split: str, block: int, view: int, codes: npt.NDArray[np.int8], scale: npt.NDArray[np.float16]
    ) -> None:
        """Write the patches of one view of one block, then their commit record. Committed ones are left as they are.

        Args:
            codes (int8 array of shape (rows of the block, G * G, K)): As of ``patches.quantise``; the rows of bad
                images are stored as 0.
            scale (float16 array of shape (rows of the block, G * G)): The rows of bad images are stored as NaN.

        Raises:
            NotRepresentableError: If a good row has a scale that is not finite; names the row. Nothing is written.
            StoreError: If there is no such view or block, it has no patches, or an array has another shape or type.
            StoreBusyError: As ``write_block``.
        """
        source, rows = self._place_of(split, block, view)
        if source.patches is None or view not in source.patches.views:
            raise StoreError(f"Split {split} of '{self.path}' has no patches of view {view}.")
        shape = (rows.stop - rows.start, source.patches.positions, source.patches.components)
        wanted = [(np.dtype(np.int8), shape), (np.dtype(np.float16), shape[:-1])]
        if (found := [(array.dtype, array.shape) for array in (codes, scale)]) != wanted:
            raise StoreError(
                f"Block {block} of split {split} of '{self.path}' takes codes and scale of types and shapes {wanted}, "
                f"got {found}; was the store made for other patches?"
            )
        if is_committed(source.path, schema.patch_unit(view), block):
            return
        good = source.samples.good[rows]
        if fault := wrong_patches(codes, scale, good):
            row = rows.start + fault[0]
            raise NotRepresentableError(
                f"'{source.samples.sample_path[row]}' (split {split}, row {row}, view {view}) {fault[1]}; check the "
                "network's weights (did its training diverge?) and its preprocessing, or run it with --precision "
                "float32."
            )
        chunks = {
            "patches": encode("patches", codes, source.block_rows, ~good),
            "patch_scale": encode("patch_scale", scale, source.block_rows, ~good),
        }
        self._commit(source, schema.patch_unit(view), block, chunks)

    def _place_of(self, split: str, block: int, view: int) -> tuple[Split, slice]:
        """Return a split and the rows of one of its blocks."""
        source = self.store[split]
        if not (0 <= view < len(source.views) and 0 <= block < source.block_count):
            raise StoreError(f"Split {split} of '{self.path}' has no view {view}, block {block}.")
        return source, source.block_slice(block)

    def _commit(self, source: Split, unit: str, block: int, chunks: Mapping[str, memoryview]) -> None:
        """Write the chunks of a block, by array name, then its commit record."""
        if self._lease and lease_over(self.path) != self._lease:  # this process writes for a run before or after, too
            self._lease.check()
            self._lease.join()

        def write(name: str) -> tuple[str, schema.Part]:
            key = schema.part_key(name, unit, block)
            source.path.inside(key).write_durably(chunks[name])
            return key, part_of(chunks[name])

        # Side by side, for a disk flushes both at once.
        record = dict(map_threads(write, chunks, threads=len(chunks)))
        commit_block(source.path, unit, block, record, self.holder)

    def finish(self) -> None:
        """Fold the records of complete views into manifests; once all views are complete, consolidate the metadata.

        The files of a complete store are made read-only, and readable by their group.
        """
        units = [(split, unit) for split in self.store.splits for unit in split.view_units]
        whole = [(split, unit) for split, unit in units if len(read_records(split.path, unit)) == split.block_count]
        for split, unit in whole:
            if not is_folded(split.path, unit):
                fold_records(split.path, unit)
        if whole == units:
            for split in self.store.splits:
                release(split.path, split.units)
            root = open_root(self.path)
            if schema.GROWING in root.attrs:
                root.attrs.put({name: value for name, value in root.attrs.items() if name != schema.GROWING})
            consolidate(self.path)
            self.path.make_read_only()


def written_records(store: PlaceStore, split: str, unit: str, blocks: Iterable[int]) -> dict[int, schema.Record]:
    """Return the records of a unit's blocks that were written through a store of zarr's, which is to forget them."""
    return {
        block: {key: store.written.pop(f"{split}/{key}") for key in schema.unit_keys(unit, block)} for block in blocks
    }


def open_root(path: Place) -> zarr.Group:
    """Open the root of a store, or the group of a split, to write it through zarr."""
    return zarr.open_group(PlaceStore(path), mode="r+", use_consolidated=False)


def consolidate(path: Place) -> None:
    """Put all metadata into the root's, so that zarr's own readers fetch one object."""
    with warnings.catch_warnings():
        # Consolidated metadata is not yet in the v3 specification; zarr and xarray both read it.
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(PlaceStore(path))


def check_float16(
    source: Split, rows: slice, view: int, embeddings: npt.NDArray[np.floating[Any]], bits: npt.NDArray[np.integer[Any]]
) -> None:
    """Check what float16 made of the embeddings (R, D) of these rows.

    Args:
        bits: Those of the largest magnitude of each row (R,) in float16.

    Raises:
        NotRepresentableError: If a good row has a value that is not finite as float16, or is not zero but has no value
            that float16 holds in full precision; names the first such row.
    """
    small = bits <= SMALLEST_NORMAL_BITS  # after rounding
    largest = np.zeros(len(bits))
    largest[small] = np.abs(embeddings[small]).max(axis=1, initial=0)
    too_small = (largest > 0) & (largest < SMALLEST_NORMAL)
    broken = np.flatnonzero(((bits >= NOT_FINITE) | too_small) & source.samples.good[rows])
    if len(broken):
        first = int(broken[0])
        row = rows.start + first
        with np.errstate(over="ignore"):
            outside = embeddings[first][~np.isfinite(embeddings[first].astype(np.float16))]
        held = f"holds {outside[0]:g}" if len(outside) else f"holds nothing larger than {largest[first]:g}"
        raise NotRepresentableError(
            f"The embedding of '{source.samples.sample_path[row]}' (split {source.name}, row {row}, view {view}) "
            f"{held}, which float16 cannot; check the network's weights (did its training diverge?) and its "
            "preprocessing, run it with --precision float32, or keep directions alone with --normalise."
        )


@contextlib.contextmanager
def exclusive_writer(path: PlaceLike) -> Iterator[None]:
    """Hold the store's lease, and sweep what killed writers left behind."""
    place = location(path)
    place.check_writable()
    with writer_lease(place):
        if place.is_local and is_store(place):
            place.sweep_partial_files()
        yield
