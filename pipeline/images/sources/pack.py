"""A pack: the encoded images of a dataset in one HDF5 file, one group per split (format: docs/data.md).

Letters: N images of a split.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import h5py
import numpy as np

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.sources.archive import ArchiveSource, Members
from compress_ssl.pipeline.images.sources.source import Listing
from compress_ssl.storage.errors import did_you_mean
from compress_ssl.storage.places.names import first_outside
from compress_ssl.storage.tools.hdf5 import UNREADABLE, array_in

SIGNATURE = b"\x89HDF\r\n\x1a\n"
FORMAT_NAME = "compress-ssl-images"
FORMAT_VERSION = 1

KINDS = {  # the datasets of a split, and their dtypes
    "data": "u1",  # contiguous: all encoded images, end to end
    "offset": "i8",  # (N + 1): image i is data[offset[i] : offset[i + 1]]
    "path": "S",  # UTF-8 (N)
    "label": "i4",  # (N); -1 without a label
    "content_hash": "u8",  # (N): XXH3-64 of the image's bytes
    "class_name": "S",  # UTF-8, one per class; empty without labels
}


@dataclass(frozen=True)
class PackSource(ArchiveSource):
    """The images of one split of a pack, named as in the folder that was packed."""

    split: str

    def load_members(self) -> Members:
        """Read and check the split's table; InputError if it is damaged."""
        (file,) = self.archives
        damaged = InputError(
            f"Split '{self.split}' of the pack '{file}' is damaged; copy the file again, or pack the images again."
        )
        with opened_split(file, self.split) as group:
            try:
                offset, label, content_hash = (_array(group, name)[:] for name in ("offset", "label", "content_hash"))
                paths, class_names = (_array(group, name).asstr()[:].tolist() for name in ("path", "class_name"))
                start = _array(group, "data").id.get_offset()
            except UNREADABLE as error:
                raise damaged from error
        lengths = {len(offset) - 1, len(paths), len(label), len(content_hash)}
        size = np.diff(offset)
        if len(lengths) > 1 or start is None or offset[0] != 0 or (size < 0).any():
            raise damaged
        if start + int(offset[-1]) > file.stat().st_size:
            raise damaged
        if len(set(paths)) < len(paths) or len(set(class_names)) < len(class_names):
            raise damaged
        if len(label) and not -1 <= label.min() <= label.max() < len(class_names):
            raise damaged
        if (outside := first_outside(paths)) is not None:
            raise InputError(
                f"The pack '{file}' names {outside!r}, which leads out of its folder; get it from whoever made it."
            )
        listing = Listing(paths, label, tuple(class_names))
        return Members(listing, np.zeros(len(paths), np.int32), start + offset[:-1], size, content_hash)


@contextmanager
def opened_split(file: Path, split: str) -> Iterator[h5py.Group]:
    """Open a split of a pack for reading.

    Raises:
        InputError: If the file is no pack, is incomplete, or has no such split.
    """
    with file.open("rb") as opened_file:
        signature = opened_file.read(len(SIGNATURE))
    if signature != SIGNATURE:
        raise InputError(f"'{file}' is neither a folder nor a pack; make a pack with 'compress-ssl pack DATA {file}'.")
    try:
        opened = h5py.File(file, "r", locking=False)  # a pack never changes
    except OSError as error:
        what = f"cannot be opened ({os.strerror(error.errno)})" if error.errno else "is cut short or damaged"
        raise InputError(f"The pack '{file}' {what}; copy it again, or pack the images again.") from error
    with opened:
        try:
            group = _split_in(opened, file, split)
        except InputError:
            raise
        except UNREADABLE as error:
            raise InputError(f"The pack '{file}' is damaged; copy it again, or pack the images again.") from error
        yield group


def _split_in(opened: h5py.File, file: Path, split: str) -> h5py.Group:
    if opened.attrs.get("format") != FORMAT_NAME:
        raise InputError(f"The HDF5 file '{file}' is not a pack; make one with 'compress-ssl pack DATA FILE.h5'.")
    version = opened.attrs.get("version")
    if version != FORMAT_VERSION:
        raise InputError(
            f"The pack '{file}' has format version {version}, this release reads {FORMAT_VERSION}; pack the images "
            "again."
        )

    def is_split(item: object) -> bool:
        return isinstance(item, h5py.Group) and item.keys() >= KINDS.keys()

    # Every group on the way to the split must be stored in this file; an HDF5 link may lead to any other.
    above = accumulate(split.strip("/").split("/"), "{}/{}".format)
    own = all(name == "." or isinstance(opened.get(name, getlink=True), h5py.HardLink) for name in above)
    group = opened.get(split) if own else None
    if not is_split(group):
        splits = ["."] if is_split(opened) else []
        opened.visititems(lambda name, item: splits.append(name) if is_split(item) else None)
        raise InputError(
            f"The pack '{file}' has no split '{split}'; it has {', '.join(splits)}.{did_you_mean(split, splits)}"
        )
    return group


def _array(group: h5py.Group, name: str) -> h5py.Dataset:
    """Return an HDF5 dataset of a split, checked to need no filter plug-in and to be no larger than the file.

    Raises:
        TypeError: If it is not stored as a pack stores it.
    """
    array = array_in(group, name)
    kind = array.dtype.kind if array.dtype.kind == "S" else array.dtype.str[1:]
    if array.ndim != 1 or kind != KINDS[name]:
        raise TypeError(f"'{array.name}' has another type than in a pack")
    return array


def is_pack(file: Path) -> bool:
    """Return true if a file is a pack of any version, complete or not."""
    try:
        with h5py.File(file, "r") as opened:
            return bool(opened.attrs.get("format") == FORMAT_NAME)
    except OSError:
        return False
