"""A complete store as one HDF5 file: the same names, attributes and chunks, and the commit records.

    /               the root's attributes
    /train          a split: its attributes, and its arrays by their names, one chunk per block
    /commits/train  the split's commit records, one dataset per unit: the text of its manifest, as bytes

Strings and integers are plain HDF5 attributes; all others are JSON strings, and the attribute ``json`` names those.
The last attribute, ``commit``, is the XXH3-128 of all attributes and records, and the records have the hash of every
block as it is in a store: truncation and changes are noticed on import, if HDF5's own checksums (of its structure,
and Fletcher-32 of every chunk) have not noticed them before.
"""

import contextlib
import errno
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash

from compress_ssl.storage import schema
from compress_ssl.storage.commits import read_records, without_pieces
from compress_ssl.storage.errors import (
    DiskSpaceError,
    StoreDamagedError,
    StoreError,
    StoreExistsError,
    StoreIncompleteError,
    StoreNotFoundError,
)
from compress_ssl.storage.places.durable import make_directory_durably
from compress_ssl.storage.places.local import LocalPath, replaced_file
from compress_ssl.storage.places.place import PlaceLike
from compress_ssl.storage.publish import OVERWRITE, check_place, new_store
from compress_ssl.storage.reader import EmbeddingStore
from compress_ssl.storage.split import Split
from compress_ssl.storage.tools.hdf5_file import create_hdf5
from compress_ssl.storage.typed_json import parse_json
from compress_ssl.storage.version import check_version
from compress_ssl.storage.writer import StoreWriter, create_store, exclusive_writer, open_root

SPLIT_NAME = re.compile(r"[A-Za-z0-9_-]+")

JSON, COMMIT, COMMITS = "json", "commit", "commits"
LAYOUT = ("v110", "v110")  # HDF5's first file layout whose whole structure has checksums
UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)
"""Raised by h5py where a file is damaged, or is of another form."""


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
        StoreBusyError: If another process writes it.
        DiskSpaceError: If the disk has too little space.
        OSError: If the file cannot be written, or the disk fills up meanwhile.
    """
    for split in store.splits:
        if not SPLIT_NAME.fullmatch(split.name):
            raise StoreError(
                f"'{split.path}' has a name that an HDF5 file cannot have here; only letters, digits, - and _ do."
            )
        if lacking := [unit for unit in split.view_units if not split.is_whole(unit)]:
            what = schema.unit_name(lacking[0])
            raise StoreIncompleteError(
                f"{what[0].upper()}{what[1:]} of split {split.name} of '{store.path}' is not complete; finish it with "
                "'compress-ssl embed --resume' before it is exported."
            )
    if file.is_dir():
        raise StoreExistsError(f"'{file}' is a folder; give a file.")
    if file.exists() and not overwrite:
        raise StoreExistsError(f"'{file}' exists already; use --overwrite to replace it, or another path.")
    if file.exists() and not is_exported(file):
        raise StoreExistsError(f"'{file}' is not an exported store and is not replaced; give another path.")
    make_directory_durably(file.parent)
    needed = committed_size(store)
    if needed > LocalPath(file).free_bytes():
        raise _no_space(file, needed)
    try:
        with replaced_file(file) as partial, create_hdf5(partial, libver=LAYOUT, track_order=True) as (root, check):
            _write_attributes(root, store.attributes)
            for split in store.splits:
                for size in _write_split(root, split):
                    check()
                    advance(size)
            root.attrs[COMMIT] = _commit_of(root)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(file, needed) from error
        raise


def _no_space(file: Path, needed: int) -> DiskSpaceError:
    free = LocalPath(file).free_bytes()
    return DiskSpaceError(
        f"'{file}' needs {needed / 2**20:,.1f} MiB, '{file.parent}' has {free / 2**20:,.1f} MiB left; free some space, "
        "or give another path."
    )


def _write_split(root: h5py.File, split: Split) -> Iterator[int]:
    """Write a split; yield the bytes of each block that is written."""
    group = root.create_group(split.name, track_order=True)
    _write_attributes(group, split.attributes)
    # Strings of a fixed length are stored in the chunks, under their checksums; others are stored elsewhere.
    texts = h5py.string_dtype("utf-8", max(1, *(len(path.encode()) for path in split.samples.sample_path)))
    row = (split.feature_dim, len(split.columns), split.block_rows, split.patches)
    for name, shape, chunks in schema.layout(len(split), len(split.views), *row):
        spec = schema.ARRAYS[name]
        dtype, fill_value = (texts, None) if spec.dtype == "string" else (spec.dtype, spec.fill_value)
        chunks = tuple(map(min, shape, chunks))
        array = group.create_dataset(name, shape, dtype, chunks=chunks, fletcher32=True, fillvalue=fill_value)
        array.attrs["dimension_names"] = list(spec.dimensions)
        if name == "augmentation":
            array.attrs["columns"] = list(split.columns)
    for unit in split.units:
        records = read_records(split.path, unit)
        kept = {str(block): without_pieces(records[block]) for block in range(split.unit_blocks(unit))}
        text = json.dumps(kept, sort_keys=True)
        content = np.frombuffer(text.encode(), np.uint8)
        chunk = (min(len(content), 2**20),)
        root.create_dataset(f"{COMMITS}/{split.name}/{unit}", data=content, chunks=chunk, fletcher32=True)
        for block in range(split.unit_blocks(unit)):
            for name, values in _block(split, unit, block).items():
                group[name][_where(split, unit, block)] = values
            yield sum(part["size"] for part in records[block].values())


def _where(split: Split, unit: str, block: int) -> tuple[Any, ...]:
    """Return the place of a block of a unit in its arrays."""
    if unit == schema.BASIS_UNIT:
        return (...,)
    view = schema.unit_view(unit)
    return (split.block_slice(block),) if view is None else (view, split.block_slice(block))


def _block(split: Split, unit: str, block: int) -> dict[str, Any]:
    """Return the rows of a block of a unit, by array name."""
    view = schema.unit_view(unit)
    if unit == schema.SAMPLES_UNIT:
        values = {name: getattr(split.samples, name)[split.block_slice(block)] for name in schema.SAMPLE_ARRAYS}
        return values | {"sample_path": [path.encode() for path in values["sample_path"]]}
    if view is None:
        return dict(zip(schema.BASIS_ARRAYS, split.patch_basis, strict=True))
    if unit == str(view):
        return split.block(view, block)
    return dict(zip(schema.PATCH_ARRAYS, split.patch_block(view, block), strict=True))


def import_hdf5(file: Path, place: PlaceLike, advance: Callable[[int], None], *, overwrite: bool = False) -> None:
    """Write the store that a file was exported from, byte for byte, one block at a time; then rename it into place.

    Args:
        advance: Called with the bytes of each block of a view.
        overwrite: Replace the store at ``place``.

    Raises:
        StoreNotFoundError, StoreVersionError: If the file is no exported store, or one of another format.
        StoreDamagedError: If the file is cut short or changed anywhere.
        StoreExistsError: If something is at ``place`` that may not be replaced.
    """
    with _opened(file) as root, exclusive_writer(place):
        check_place(place, overwrite=overwrite, instead=OVERWRITE)
        with new_store(place) as folder:
            with _reading(file):
                attributes = _read_attributes(root)
                plans = {name: _plan(root[name]) for name in _split_names(root)}
            create_store(folder, attributes, plans)
            writer = StoreWriter(folder)
            for name in plans:
                _import_split(file, root, writer, name, advance)
            writer.finish()


def _import_split(file: Path, root: h5py.File, writer: StoreWriter, name: str, advance: Callable[[int], None]) -> None:
    split, target = root[name], writer.store[name]
    group = open_root(target.path)
    with _reading(file):
        attributes = _read_attributes(split)
    if dict(group.attrs) != attributes:  # even those that this release does not write
        group.attrs.put(attributes)
    for block, views in writer.pending_blocks(name).items():
        rows = target.block_slice(block)
        for view in views:
            with _reading(file):
                values = [array_in(split, array)[view, rows] for array in schema.VIEW_ARRAYS]
            writer.write_block(name, block, view, *values)
            patches: list[Any] = []
            if target.patches and view in target.patches.views:
                stored = len(target.patches.views)
                with _reading(file):
                    patches = [array_in(split, array, stored)[view, rows] for array in schema.PATCH_ARRAYS]
                writer.write_patches(name, block, view, *patches)
            advance(sum(array.nbytes for array in (*values, *patches)))
    for unit in root[COMMITS][name]:  # every block must be committed with the bytes that it was exported with
        with _reading(file):
            wanted = parse_json(file, array_in(root[COMMITS][name], unit)[:].tobytes(), dict[str, Any])
        for block, record in read_records(target.path, unit).items():
            if without_pieces(record) != wanted.get(str(block)):
                what = f"block {block} of {schema.unit_name(unit)} of split {name}"
                raise _damaged(file, f"{what} is not what was exported")


def _plan(group: h5py.Group) -> schema.SplitPlan:
    attributes = _read_attributes(group)
    info = schema.PatchInfo.of(attributes[schema.PATCHES]) if schema.PATCHES in attributes else None
    arrays = {
        name: array_in(group, name, len(info.views) if info and name in schema.PATCH_ARRAYS else None)
        for name in schema.split_arrays(has_patches=info is not None)
    }
    (_, samples, features), columns = arrays["embeddings"].shape, arrays["augmentation"].attrs["columns"]
    row = (features, len(columns), attributes["block_rows"], info)
    for name, shape, _ in schema.layout(samples, len(attributes["views"]), *row):
        if arrays[name].shape != shape:
            raise ValueError(f"'{arrays[name].name}' has shape {arrays[name].shape} instead of {shape}")
    values = {name: arrays[name][:] for name in schema.SAMPLE_ARRAYS if name != "sample_path"}
    paths = arrays["sample_path"].asstr()[:].tolist()
    basis = {name.removeprefix("patch_"): arrays[name][:] for name in schema.BASIS_ARRAYS if info}
    patches = schema.PatchPlan(**vars(info), **basis) if info else None
    return schema.SplitPlan(
        samples=schema.Samples(sample_path=paths, **values, class_names=tuple(attributes["class_names"])),
        folder=attributes["folder"],
        views=attributes["views"],
        columns=tuple(map(str, columns)),
        feature_dim=features,
        block_rows=attributes["block_rows"],
        patches=patches,
    )


def _write_attributes(group: h5py.Group, attributes: Mapping[str, Any]) -> None:
    """Write the attributes of a root or a split, in their order."""
    as_json = [
        name
        for name, value in attributes.items()
        if not (isinstance(value, str) or (type(value) is int and abs(value) < 2**63))
    ]
    for name, value in attributes.items():
        group.attrs[name] = json.dumps(value) if name in as_json else value
    group.attrs[JSON] = json.dumps(as_json)


def _read_attributes(group: h5py.Group) -> dict[str, Any]:
    """Return the attributes of a root or a split, as they were in the store."""
    file = group.file.filename
    as_json = parse_json(file, group.attrs[JSON], list[str])
    values = {name: value for name, value in group.attrs.items() if name not in (JSON, COMMIT)}
    return {
        name: parse_json(file, value, Any) if name in as_json else value if isinstance(value, str) else int(value)
        for name, value in values.items()
    }


def _commit_of(root: h5py.File) -> str:
    """Return the XXH3-128 of all attributes and commit records, in hexadecimal."""
    digest = xxhash.xxh3_128(json.dumps(_read_attributes(root)).encode())
    for name in _split_names(root):
        columns = list(map(str, root[name]["augmentation"].attrs["columns"]))
        digest.update(json.dumps([_read_attributes(root[name]), columns]).encode())
        for unit in sorted(root[COMMITS][name]):
            digest.update(f"{name} {unit} ".encode() + root[COMMITS][name][unit][:].tobytes())
    return digest.hexdigest()


def _split_names(root: h5py.File) -> list[str]:
    """Return the names of the splits; ValueError for one that leads out of a store."""
    names = _read_attributes(root)["splits"]
    for name in names:
        if not isinstance(name, str) or not SPLIT_NAME.fullmatch(name):
            raise ValueError(f"'{name}' is no name of a split")
    return list(names)


def array_in(group: h5py.Group, name: str, views: int | None = None) -> h5py.Dataset:
    """Return a dataset that is stored in this file and that HDF5 reads with no filter but its own checksum.

    Args:
        views: Number of the views that are stored, of an array that does not store all.
    """
    is_own = isinstance(group.get(name, getlink=True), h5py.HardLink)  # another link's target would be opened
    array = group[name] if is_own else None
    if not isinstance(array, h5py.Dataset):
        raise TypeError(f"'{name}' is not a dataset of this file")
    filters = array.id.get_create_plist()
    known = {filters.get_filter(number)[0] for number in range(filters.get_nfilters())} <= {h5py.h5z.FILTER_FLETCHER32}
    # Its chunks are not compressed: one that claims to be larger than the file is forged.
    stored = array.nbytes if views is None else array.nbytes // max(1, array.shape[0]) * views
    if array.is_virtual or array.external or not known or stored > array.file.id.get_filesize():
        raise TypeError(f"'{array.name}' is stored in a way that no export uses")
    return array


def is_exported(file: Path) -> bool:
    """Return whether a file is an exported store, of whatever version, whole or not."""
    try:
        with h5py.File(file, "r", locking=False) as root:
            return bool(root.attrs.get("format") == schema.FORMAT_NAME)
    except UNREADABLE:
        return False


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[h5py.File]:
    """Open an exported store, and check its attributes and records."""
    if not file.is_file():
        raise StoreNotFoundError(f"'{file}' is not a file; give one that 'compress-ssl store export' wrote.")
    with contextlib.ExitStack() as stack:
        with _reading(file):
            root = stack.enter_context(h5py.File(file, "r", locking=False))  # it never changes
            if root.attrs.get("format") != schema.FORMAT_NAME:
                raise StoreNotFoundError(f"'{file}' is not a file of 'compress-ssl store export'; check the path.")
            check_version(file, root.attrs.get("version"), "export again")
            if root.attrs.get(COMMIT) != _commit_of(root):
                raise _damaged(file, "its attributes or records are not those it was written with")
        yield root


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn errors while reading a file into ``StoreDamagedError``."""
    try:
        yield
    except StoreError:
        raise
    except UNREADABLE as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, why: object) -> StoreDamagedError:
    """Return the error for a file that is not as it was written."""
    return StoreDamagedError(f"'{file}' is cut short or damaged ({why}); copy it again, or export the store again.")
