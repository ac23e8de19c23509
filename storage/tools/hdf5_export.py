"""``store export``: a complete store to one HDF5 file (storage/tools/hdf5.py)."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np

from compress_ssl.storage import schema
from compress_ssl.storage.commits import read_records
from compress_ssl.storage.errors import DiskSpaceError, StoreExistsError, StoreIncompleteError
from compress_ssl.storage.places.durable import PARTIAL_SUFFIX, flush_directory, make_directory_durably
from compress_ssl.storage.places.local import LocalPath
from compress_ssl.storage.reader import EmbeddingStore, Split
from compress_ssl.storage.tools.hdf5 import (
    COMMIT,
    COMMITS,
    LAYOUT,
    commit_of,
    create_hdf5,
    is_exported,
    write_attributes,
)

RECORDS_CHUNK = 2**20


def committed_size(store: EmbeddingStore) -> int:
    """Return the bytes of all that is committed, which an export has to read."""
    records = (read_records(split.path, unit) for split, unit in store.units)
    return sum(part["size"] for unit in records for record in unit.values() for part in record.values())


def export_hdf5(store: EmbeddingStore, file: Path, advance: Callable[[int], None], *, overwrite: bool = False) -> None:
    """Write a complete store as one HDF5 file, one block at a time, beside its place; then rename it into place.

    Args:
        advance: Called with the bytes of each block.
        overwrite: Replace ``file`` if it is an exported store.

    Raises:
        StoreIncompleteError: If a block is not committed.
        StoreDamagedError: If a part has other bytes than were committed.
        StoreExistsError: If ``file`` exists and may not be replaced.
        DiskSpaceError: If the disk has too little space.
        OSError: If the file cannot be written, or the disk fills up meanwhile.
    """
    _check_complete(store)
    _check_file(file, overwrite=overwrite)
    make_directory_durably(file.parent)
    _check_space(LocalPath(file), committed_size(store))
    partial = file.with_name(f"{file.name}{PARTIAL_SUFFIX}")
    with create_hdf5(partial, libver=LAYOUT, track_order=True) as (root, check):
        write_attributes(root, store.attributes)
        for split in store.splits:
            for size in _write_split(root, split):
                check()
                advance(size)
        root.attrs[COMMIT] = commit_of(root)
    partial.replace(file)
    flush_directory(file.parent)


def _check_complete(store: EmbeddingStore) -> None:
    for split in store.splits:
        lacking = set(range(len(split.views))).difference(split.complete_views)
        if lacking:
            raise StoreIncompleteError(
                f"View {min(lacking)} of split {split.name} of '{store.path}' is not complete; finish it with "
                "'compress-ssl embed --resume' before it is exported."
            )


def _check_file(file: Path, *, overwrite: bool) -> None:
    if file.is_dir():
        raise StoreExistsError(f"'{file}' is a folder; give a file.")
    if file.exists() and not overwrite:
        raise StoreExistsError(f"'{file}' exists already; use --overwrite to replace it, or another path.")
    if file.exists() and not is_exported(file):
        raise StoreExistsError(f"'{file}' is not an exported store and is not replaced; give another path.")


def _check_space(file: LocalPath, needed: int) -> None:
    free = file.free_bytes()
    if free is not None and needed > free:
        raise DiskSpaceError(
            f"'{file}' needs {needed / 2**30:,.2f} GiB, '{file.parent}' has {free / 2**30:,.2f} GiB left; free some "
            "space, or give another path."
        )


def _write_split(root: h5py.File, split: Split) -> Iterator[int]:
    """Write a split; yield the bytes of each block that is written."""
    group = root.create_group(split.name, track_order=True)
    write_attributes(group, split.attributes)
    shapes = schema.layout(len(split), len(split.views), split.feature_dim, len(split.columns), split.block_rows)
    for name, shape, chunks in shapes:
        _create_array(group, name, shape, chunks, split)
    for unit in split.units:
        records = read_records(split.path, unit)
        text = json.dumps({str(block): records[block] for block in range(split.block_count)}, sort_keys=True)
        content = np.frombuffer(text.encode(), np.uint8)
        chunk = (min(len(content), RECORDS_CHUNK),)
        root.create_dataset(f"{COMMITS}/{split.name}/{unit}", data=content, chunks=chunk, fletcher32=True)
        for block in range(split.block_count):
            _write_block(group, split, unit, block)
            yield sum(part["size"] for part in records[block].values())


def _create_array(group: h5py.Group, name: str, shape: schema.Shape, chunks: schema.Shape, split: Split) -> None:
    spec = schema.ARRAYS[name]
    # Strings of a fixed length are stored in the chunks, under their checksums; others are stored elsewhere.
    longest = max(1, *(len(path.encode()) for path in split.samples.sample_path)) if spec.dtype == "string" else 0
    array = group.create_dataset(
        name,
        shape,
        h5py.string_dtype("utf-8", longest) if longest else spec.dtype,
        chunks=tuple(map(min, shape, chunks)),
        fletcher32=True,
        fillvalue=None if longest else spec.fill_value,
    )
    array.attrs["dimension_names"] = list(spec.dimensions)
    if name == "augmentation":
        array.attrs["columns"] = list(split.columns)


def _write_block(group: h5py.Group, split: Split, unit: str, block: int) -> None:
    rows = split.block_slice(block)
    if unit == schema.SAMPLES_UNIT:
        for name in schema.SAMPLE_ARRAYS:
            values = getattr(split.samples, name)[rows]
            group[name][rows] = [path.encode() for path in values] if name == "sample_path" else values
    else:
        for name, values in split.block(int(unit), block).items():
            group[name][int(unit), rows] = values
