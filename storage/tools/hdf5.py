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
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import xxhash

from compress_ssl.storage import schema
from compress_ssl.storage.errors import StoreDamagedError, StoreError, StoreNotFoundError, StoreVersionError

JSON, COMMIT, COMMITS = "json", "commit", "commits"
LAYOUT = ("v110", "v110")  # HDF5's first file layout whose whole structure has checksums

UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)
"""Raised by h5py where a file is damaged, or is of another form."""


class _GuardedFile(io.FileIO):
    """A file for HDF5 to write, which keeps its first error: HDF5 crashes the process where a write fails."""

    error: OSError | None = None

    def write(self, content: Any) -> int:
        """Write all of the content, or nothing after an error."""
        left = memoryview(content).cast("B")
        try:
            while len(left) and self.error is None:
                left = left[super().write(left) :]
        except OSError as error:
            error.filename = str(self.name)
            self.error = error
        return len(content)

    def truncate(self, size: int | None = None) -> int:
        """Set the file's length; does nothing after an error."""
        return size or 0 if self.error else super().truncate(size)

    def check(self) -> None:
        """Raise the first error that a write has met."""
        if self.error is not None:
            raise self.error


@contextlib.contextmanager
def create_hdf5(file: Path, **options: Any) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Create an HDF5 file and flush it to the disk; leave none if that fails.

    Yields:
        root (h5py.File)
        check (callable): Raises the OSError of a write that has failed; to be called after each piece that is written.
    """
    try:
        with _GuardedFile(file, "w+") as guarded:
            with h5py.File(guarded, "w", **options) as root:
                yield root, guarded.check
            guarded.check()
            os.fsync(guarded.fileno())
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def write_attributes(group: h5py.Group, attributes: Mapping[str, Any]) -> None:
    """Write the attributes of a root or a split, in their order."""
    as_json = [name for name, value in attributes.items() if not _is_plain(value)]
    for name, value in attributes.items():
        group.attrs[name] = json.dumps(value) if name in as_json else value
    group.attrs[JSON] = json.dumps(as_json)


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) or (type(value) is int and abs(value) < 2**63)


def read_attributes(group: h5py.Group) -> dict[str, Any]:
    """Return the attributes of a root or a split, as they were in the store."""
    as_json = json.loads(group.attrs[JSON])
    values = {name: value for name, value in group.attrs.items() if name not in (JSON, COMMIT)}
    return {name: json.loads(value) if name in as_json else _plain(value) for name, value in values.items()}


def _plain(value: Any) -> str | int:
    return value if isinstance(value, str) else int(value)


def commit_of(root: h5py.File) -> str:
    """Return the XXH3-128 of all attributes and commit records, in hexadecimal."""
    digest = xxhash.xxh3_128(json.dumps(read_attributes(root)).encode())
    for name in split_names(root):
        columns = list(map(str, root[name]["augmentation"].attrs["columns"]))
        digest.update(json.dumps([read_attributes(root[name]), columns]).encode())
        for unit in sorted(root[COMMITS][name]):
            digest.update(f"{name} {unit} ".encode() + root[COMMITS][name][unit][:].tobytes())
    return digest.hexdigest()


def split_names(root: h5py.File) -> list[str]:
    """Return the names of the splits; ValueError for one that leads out of a store."""
    names = read_attributes(root)["splits"]
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise ValueError(f"'{name}' is no name of a split")
    return list(names)


def array_in(group: h5py.Group, name: str) -> h5py.Dataset:
    """Return a dataset that is stored in this file and that HDF5 reads with no filter but its own checksum."""
    is_own = isinstance(group.get(name, getlink=True), h5py.HardLink)  # another link's target would be opened
    array = group[name] if is_own else None
    if not isinstance(array, h5py.Dataset):
        raise TypeError(f"'{name}' is not a dataset of this file")
    filters = array.id.get_create_plist()
    known = {filters.get_filter(number)[0] for number in range(filters.get_nfilters())} <= {h5py.h5z.FILTER_FLETCHER32}
    # Its chunks are not compressed: one that claims to be larger than the file is forged.
    if array.is_virtual or array.external or not known or array.nbytes > array.file.id.get_filesize():
        raise TypeError(f"'{array.name}' is stored in a way that no export uses")
    return array


def is_exported(file: Path) -> bool:
    """Return whether a file is an exported store, of whatever version, whole or not."""
    try:
        with h5py.File(file, "r", locking=False) as root:
            return bool(root.attrs.get("format") == schema.FORMAT_NAME)
    except OSError:
        return False


@contextlib.contextmanager
def opened_hdf5(file: Path) -> Iterator[h5py.File]:
    """Open an exported store, and check its attributes and records.

    Raises:
        StoreNotFoundError: If there is no such file, or it is no exported store.
        StoreVersionError: If its format is not the one this release reads.
        StoreDamagedError: If it is not whole.
    """
    if not file.is_file():
        raise StoreNotFoundError(f"'{file}' is not a file; give one that 'compress-ssl store export' wrote.")
    try:
        root = h5py.File(file, "r", locking=False)  # it never changes
    except OSError as error:
        raise damaged(file, error) from error
    with root:
        with reading(file):
            _check_whole(root, file)
        yield root


def _check_whole(root: h5py.File, file: Path) -> None:
    if root.attrs.get("format") != schema.FORMAT_NAME:
        raise StoreNotFoundError(f"'{file}' is not a store that 'compress-ssl store export' wrote; check the path.")
    if root.attrs.get("version") != schema.FORMAT_VERSION:
        raise StoreVersionError(
            f"'{file}' has format version {root.attrs.get('version')}, but this release reads version "
            f"{schema.FORMAT_VERSION}; upgrade compress-ssl, or export again."
        )
    if root.attrs.get(COMMIT) != commit_of(root):
        raise damaged(file, "its attributes or records are not those it was written with")


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn errors while reading a file into ``StoreDamagedError``."""
    try:
        yield
    except StoreError:
        raise
    except UNREADABLE as error:
        raise damaged(file, error) from error


def damaged(file: Path, why: object) -> StoreDamagedError:
    """Return the error for a file that is not as it was written."""
    return StoreDamagedError(f"'{file}' is cut short or damaged ({why}); copy it again, or export the store again.")
