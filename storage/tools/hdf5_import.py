"""``store import``: the store that an HDF5 file was exported from, byte for byte (storage/tools/hdf5.py)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy.typing as npt

from compress_ssl.storage import schema
from compress_ssl.storage.commits import read_records
from compress_ssl.storage.places.local import LocalPath
from compress_ssl.storage.places.place import PlaceLike
from compress_ssl.storage.publish import OVERWRITE, check_place, new_store
from compress_ssl.storage.schema import Samples, SplitPlan, unit_name
from compress_ssl.storage.tools.hdf5 import (
    COMMITS,
    array_in,
    damaged,
    opened_hdf5,
    read_attributes,
    reading,
    split_names,
)
from compress_ssl.storage.writer import StoreWriter, create_store, exclusive_writer, open_root


def import_hdf5(file: Path, place: PlaceLike, advance: Callable[[int], None], *, overwrite: bool = False) -> None:
    """Write the store that a file was exported from, one block at a time, beside its place; then rename it.

    Args:
        advance: Called with the bytes of each block of a view.
        overwrite: Replace the store at ``place``.

    Raises:
        StoreNotFoundError, StoreVersionError: If the file is no exported store, or one of another format.
        StoreDamagedError: If the file is cut short or changed anywhere.
        StoreExistsError: If something is at ``place`` that may not be replaced.
    """
    with opened_hdf5(file) as root, exclusive_writer(place):
        check_place(place, overwrite=overwrite, instead=OVERWRITE)
        with new_store(place) as folder:
            _write(file, root, folder, advance)


def _write(file: Path, root: h5py.File, folder: LocalPath, advance: Callable[[int], None]) -> None:
    with reading(file):
        attributes = read_attributes(root)
        plans = {name: _plan(root[name]) for name in split_names(root)}
    create_store(folder, attributes, plans)
    writer = StoreWriter(folder)
    for name in plans:
        _keep_attributes(file, root[name], folder)
        for block, views in writer.pending_blocks(name).items():
            for view in views:
                values = _read_block(file, root[name], view, writer.store[name].block_slice(block))
                writer.write_block(name, block, view, *values)
                advance(sum(array.nbytes for array in values))
        _compare(file, root[COMMITS][name], folder / name)
    writer.finish()


def _keep_attributes(file: Path, split: h5py.Group, folder: LocalPath) -> None:
    """Give a split the attributes that it had, even those that this release does not write."""
    group = open_root(folder / split.name.strip("/"))
    with reading(file):
        attributes = read_attributes(split)
    if dict(group.attrs) != attributes:
        group.attrs.put(attributes)


def _read_block(file: Path, split: h5py.Group, view: int, rows: slice) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    with reading(file):
        return array_in(split, "embeddings")[view, rows], array_in(split, "augmentation")[view, rows]


def _compare(file: Path, records: h5py.Group, split: LocalPath) -> None:
    """Check that every block of a split is committed with the bytes that it was exported with."""
    for unit in records:
        with reading(file):
            wanted = json.loads(array_in(records, unit)[:].tobytes())
        for block, record in read_records(split, unit).items():
            if record != wanted.get(str(block)):
                raise damaged(
                    file, f"block {block} of {unit_name(unit)} of split {split.name} is not what was exported"
                )


def _plan(group: h5py.Group) -> SplitPlan:
    attributes = read_attributes(group)
    arrays = {name: array_in(group, name) for name in schema.ARRAYS}
    (_, samples, features), columns = arrays["embeddings"].shape, arrays["augmentation"].attrs["columns"]
    row = (features, len(columns), attributes["block_rows"])
    for name, shape, _ in schema.layout(samples, len(attributes["views"]), *row):
        if arrays[name].shape != shape:
            raise ValueError(f"'{arrays[name].name}' has shape {arrays[name].shape} instead of {shape}")
    values = {name: arrays[name][:] for name in schema.SAMPLE_ARRAYS if name != "sample_path"}
    paths = arrays["sample_path"].asstr()[:].tolist()
    return SplitPlan(
        samples=Samples(sample_path=paths, **values, class_names=tuple(attributes["class_names"])),
        folder=attributes["folder"],
        views=attributes["views"],
        columns=tuple(map(str, columns)),
        feature_dim=features,
        block_rows=attributes["block_rows"],
    )
