"""A complete store as one HDF5 file: the same names, attributes and chunks, and the commit records.

    /               the root's attributes
    /train          a split: its attributes, and its arrays by their names, a chunk a block
    /commits/train  the split's commit records, a data set a unit: the text of its manifest, as bytes

Texts and whole numbers are attributes of HDF5's own; all others are JSON texts, and the attribute ``json`` names those.
The last attribute, ``commit``, is the XXH3-128 of all attributes and records, and the records have the hash of every
block as it is in a store: what is cut off or changed is noticed when the file is imported, where HDF5's own checksums
(of its structure, and Fletcher-32 of every chunk) have not noticed it before.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from typing import TYPE_CHECKING, Any

import h5py
import xxhash

from compress_ssl.storage import schema
from compress_ssl.storage.errors import StoreDamagedError, StoreError, StoreNotFoundError, StoreVersionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from io import FileIO
    from pathlib import Path

JSON, COMMIT, COMMITS = "json", "commit", "commits"
LAYOUT = ("v110", "v110")
"""HDF5's first layout of files whose whole structure has checksums."""
UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)
"""What h5py raises where a file is damaged, or is of another form."""


class _GuardedFile:
    """A file for HDF5 to write, which keeps its first error: HDF5 crashes the process where a write fails."""

    def __init__(self, file: Path, opened: FileIO) -> None:
        self._file, self._opened = file, opened
        self._error: OSError | None = None
        self.read, self.readinto, self.seek, self.tell = opened.read, opened.readinto, opened.seek, opened.tell

    def write(self, content: memoryview) -> int:
        """Write all of it; nothing any more after an error."""
        left = memoryview(content).cast("B")
        try:
            while len(left) and self._error is None:
                left = left[self._opened.write(left) :]
        except OSError as error:
            self._error = error
        return len(content)

    def truncate(self, size: int) -> int:
        """Set the file's length."""
        return size if self._error else self._opened.truncate(size)

    def flush(self) -> None:
        """Do nothing: the file has no buffer."""

    def check(self) -> None:
        """Raise the first error that a write has met."""
        if self._error is not None:
            self._error.filename = str(self._file)
            raise self._error


@contextlib.contextmanager
def create_hdf5(file: Path, **options: Any) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Create an HDF5 file and flush it to the disk; leave none if that fails.

    Yields
    ------
    root : h5py.File
    check : callable
        Raises the OSError of a write that has failed; to be called after each piece that is written.
    """
    try:
        with file.open("w+b", buffering=0) as opened:
            guarded = _GuardedFile(file, opened)
            with h5py.File(guarded, "w", **options) as root:
                yield root, guarded.check
            guarded.check()
            os.fsync(opened.fileno())
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def write_attributes(group: h5py.Group, attributes: Mapping[str, Any]) -> None:
    """Keep the attributes of a root or a split, in their order."""
    as_json = [name for name, value in attributes.items() if not _is_plain(value)]
    for name, value in attributes.items():
        group.attrs[name] = json.dumps(value) if name in as_json else value
    group.attrs[JSON] = json.dumps(as_json)


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) or (type(value) is int and abs(value) < 2**63)


def read_attributes(group: h5py.Group) -> dict[str, Any]:
    """Attributes of a root or a split, as they were in the store."""
    as_json = json.loads(group.attrs[JSON])
    values = {name: value for name, value in group.attrs.items() if name not in (JSON, COMMIT)}
    return {name: json.loads(value) if name in as_json else _plain(value) for name, value in values.items()}


def _plain(value: Any) -> str | int:
    return value if isinstance(value, str) else int(value)


def commit_of(root: h5py.File) -> str:
    """XXH3-128 of all attributes and commit records, in hexadecimal."""
    digest = xxhash.xxh3_128(json.dumps(read_attributes(root)).encode())
    for name in split_names(root):
        columns = list(map(str, root[name]["augmentation"].attrs["columns"]))
        digest.update(json.dumps([read_attributes(root[name]), columns]).encode())
        for unit in sorted(root[COMMITS][name]):
            digest.update(f"{name} {unit} ".encode() + root[COMMITS][name][unit][:].tobytes())
    return digest.hexdigest()


def split_names(root: h5py.File) -> list[str]:
    """Names of the splits; none that leads out of a store."""
    names = read_attributes(root)["splits"]
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise ValueError(f"'{name}' is no name of a split")
    return list(names)


def array_in(group: h5py.Group, name: str) -> h5py.Dataset:
    """A data set that lies in this file and that HDF5 reads with nothing but its own checksum."""
    is_own = isinstance(group.get(name, getlink=True), h5py.HardLink)  # else what it leads to would be opened
    array = group[name] if is_own else None
    if not isinstance(array, h5py.Dataset):
        raise TypeError(f"'{name}' is not a data set of this file")
    filters = array.id.get_create_plist()
    known = {filters.get_filter(number)[0] for number in range(filters.get_nfilters())} <= {h5py.h5z.FILTER_FLETCHER32}
    # Its chunks are not compressed: one that claims to be larger than the file is made up.
    if array.is_virtual or array.external or not known or array.nbytes > array.file.id.get_filesize():
        raise TypeError(f"'{array.name}' is stored in a way that no export stores it")
    return array


def is_exported(file: Path) -> bool:
    """Whether a file is an exported store, of whatever version, whole or not."""
    try:
        with h5py.File(file, "r", locking=False) as root:
            return bool(root.attrs.get("format") == schema.FORMAT_NAME)
    except OSError:
        return False


@contextlib.contextmanager
def opened_hdf5(file: Path) -> Iterator[h5py.File]:
    """Open an exported store, and check its attributes and records.

    Raises
    ------
    StoreNotFoundError
        If the file is not there, or is none.
    StoreVersionError
        If its format is not the one this release reads.
    StoreDamagedError
        If it is not whole.
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
    """Say in one sentence that something of a file cannot be read."""
    try:
        yield
    except StoreError:
        raise
    except UNREADABLE as error:
        raise damaged(file, error) from error


def damaged(file: Path, why: object) -> StoreDamagedError:
    """The sentence for a file that is not as it was written."""
    return StoreDamagedError(f"'{file}' is cut short or damaged ({why}); copy it again, or export the store again.")
