"""A pack: the encoded images of a data set in one HDF5 file, a group a split (docs/data.md has the format).

Letters: N images of a split.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import xxhash

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.sources.archive import LOADING, Parts, make_parts, read_part
from compress_ssl.pipeline.images.sources.source import Listing
from compress_ssl.storage.places.names import first_outside
from compress_ssl.storage.tools.hdf5 import array_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

SIGNATURE = b"\x89HDF\r\n\x1a\n"
FORMAT_NAME = "compress-ssl-images"
FORMAT_VERSION = 1

DATA = "data"  # uint8, contiguous: all encoded images, end to end
OFFSET = "offset"  # int64 (N + 1): image i is data[offset[i] : offset[i + 1]]
PATH = "path"  # UTF-8 (N)
LABEL = "label"  # int32 (N); -1 where there is none
CONTENT_HASH = "content_hash"  # uint64 (N): XXH3-64 of the image's bytes
CLASS_NAME = "class_name"  # UTF-8, one a class; empty where there are no labels
KINDS = {DATA: "u1", OFFSET: "i8", PATH: "S", LABEL: "i4", CONTENT_HASH: "u8", CLASS_NAME: "S"}
DATASETS = set(KINDS)


@dataclass(frozen=True)
class PackSource:
    """The images of one split of a pack; their names are those in the folder it was made from."""

    file: Path
    split: str

    @property
    def location(self) -> Path:
        """The split as if the pack were a folder."""
        return self.file / self.split

    def listing(self) -> Listing:
        """All images, in the order in which they were packed."""
        return self._table[0].listing

    def stamp(self, path: str) -> tuple[int, int]:
        """Size in bytes and content hash: a copy of the pack is the same."""
        parts, content_hash = self._table
        row = parts.row(path)
        return int(parts.size[row]), int(content_hash[row].view(np.int64))

    def read(self, path: str) -> bytes:
        """The image's bytes."""
        parts, content_hash = self._table
        row = parts.row(path)
        content = read_part(self.file, int(parts.offset[row]), int(parts.size[row]))
        if xxhash.xxh3_64_intdigest(content) != int(content_hash[row]):
            raise OSError(errno.EIO, f"its bytes in the pack '{self.file}' are damaged", str(self.file))
        return content

    def describe(self, path: str) -> str:
        """The image as if the pack were a folder."""
        return str(self.location / path)

    def files(self) -> Iterator[Path]:
        """The pack."""
        yield self.file

    def __getstate__(self) -> dict[str, Any]:
        """Without the table: another process reads its own."""
        return {"file": self.file, "split": self.split}

    @property
    def _table(self) -> tuple[Parts, npt.NDArray[np.uint64]]:
        with LOADING:
            return self._loaded

    @cached_property
    def _loaded(self) -> tuple[Parts, npt.NDArray[np.uint64]]:
        damaged = InputError(
            f"Split '{self.split}' of the pack '{self.file}' is damaged; copy the file again, or pack the images again."
        )
        with opened_split(self.file, self.split) as group:
            try:
                offset, label, content_hash = (_array(group, name)[:] for name in (OFFSET, LABEL, CONTENT_HASH))
                paths, class_names = (_array(group, name).asstr()[:].tolist() for name in (PATH, CLASS_NAME))
                begin = _array(group, DATA).id.get_offset()
            except (OSError, ValueError, TypeError) as error:
                raise damaged from error
        lengths = {len(offset) - 1, len(paths), len(label), len(content_hash)}
        size = np.diff(offset)
        if len(lengths) > 1 or begin is None or offset[0] != 0 or (size < 0).any():
            raise damaged
        if begin + int(offset[-1]) > self.file.stat().st_size:
            raise damaged
        if (outside := first_outside(paths)) is not None:
            raise InputError(
                f"The pack '{self.file}' names {outside!r}, which leads out of its folder; get it from whoever made it."
            )
        listing = Listing(paths, label, tuple(class_names))
        return make_parts(listing, np.zeros(len(paths), np.int32), begin + offset[:-1], size), content_hash


@contextmanager
def opened_split(file: Path, split: str) -> Iterator[h5py.Group]:
    """Open a split of a pack for reading, and check that the file is a whole pack.

    Raises
    ------
    InputError
        If it is not, or has no such split.
    """
    with file.open("rb") as begun:
        signature = begun.read(len(SIGNATURE))
    if signature != SIGNATURE:
        raise InputError(f"'{file}' is neither a folder nor a pack; make a pack with 'compress-ssl pack DATA {file}'.")
    try:
        opened = h5py.File(file, "r", locking=False)  # a pack never changes
    except OSError as error:
        what = f"cannot be opened ({os.strerror(error.errno)})" if error.errno else "is cut short or damaged"
        raise InputError(f"The pack '{file}' {what}; copy it again, or pack the images again.") from error
    with opened:
        if opened.attrs.get("format") != FORMAT_NAME:
            raise InputError(f"The HDF5 file '{file}' is not a pack; make one with 'compress-ssl pack DATA FILE.h5'.")
        version = opened.attrs.get("version")
        if version != FORMAT_VERSION:
            raise InputError(
                f"The pack '{file}' has format version {version}, this release reads {FORMAT_VERSION}; pack the images "
                "again."
            )
        group = opened.get(split) if _is_own(opened, split) else None
        if not isinstance(group, h5py.Group) or not group.keys() >= DATASETS:
            raise InputError(f"The pack '{file}' has no split '{split}'; it has {', '.join(_splits(opened))}.")
        yield group


def _is_own(opened: h5py.File, split: str) -> bool:
    """Whether a split lies in this file: a link of HDF5's may lead to any other."""
    parts = split.strip("/").split("/")
    above = ("/".join(parts[: number + 1]) for number in range(len(parts)))
    return all(name == "." or isinstance(opened.get(name, getlink=True), h5py.HardLink) for name in above)


def _array(group: h5py.Group, name: str) -> h5py.Dataset:
    """A data set of a split that is kept as a pack keeps it: by no filter that HDF5 would load, and no larger than the file.

    Raises
    ------
    TypeError
        If it is kept otherwise.
    """
    array = array_in(group, name)
    kind = array.dtype.kind if array.dtype.kind == "S" else array.dtype.str[1:]
    if array.ndim != 1 or kind != KINDS[name]:
        raise TypeError(f"'{array.name}' is of another type than a pack's")
    return array


def is_pack(file: Path) -> bool:
    """Whether a file is a pack, of whatever version, whole or not."""
    try:
        with h5py.File(file, "r") as opened:
            return bool(opened.attrs.get("format") == FORMAT_NAME)
    except OSError:
        return False


def _splits(opened: h5py.File) -> list[str]:
    found = ["."] if opened.keys() >= DATASETS else []
    opened.visititems(
        lambda name, item: found.append(name) if isinstance(item, h5py.Group) and item.keys() >= DATASETS else None
    )
    return found
