"""Packing a data set: the encoded images of its splits, unchanged, into one HDF5 file.

The file is written beside its place and renamed into it. Bytes stream through: memory grows with the number of
images by their names and offsets alone. ``sources/pack.py`` reads it.

Letters: N images of a split.
"""

from __future__ import annotations

import shutil
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import h5py
import numpy as np
import xxhash

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.data_set import list_data_set
from compress_ssl.pipeline.images.sources.pack import (
    CLASS_NAME,
    CONTENT_HASH,
    DATA,
    FORMAT_NAME,
    FORMAT_VERSION,
    LABEL,
    OFFSET,
    PATH,
    is_pack,
)
from compress_ssl.storage.errors import DiskSpaceError
from compress_ssl.storage.places.durable import PARTIAL_SUFFIX, flush_directory, make_directory_durably
from compress_ssl.storage.places.lease import writer_lease
from compress_ssl.storage.tools.hdf5 import create_hdf5

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from compress_ssl.pipeline.common.progress import Progress
    from compress_ssl.pipeline.images.pack_settings import PackSettings
    from compress_ssl.pipeline.images.sources.source import ImageSource, Listing

BATCH_BYTES = 16 * 2**20
BATCH_IMAGES = 4096
"""Most bytes (or one image) and most images that are read and written together."""
READ_THREADS = 8
"""Reads in flight: a disk or a network answers several at once."""


def pack(settings: PackSettings, progress: Progress) -> dict[str, int]:
    """Pack a data set.

    Returns
    -------
    images : dict from split to its number of images

    Raises
    ------
    InputError
        If the data set cannot be read or changes meanwhile, the file exists, or is being written.
    DiskSpaceError
        If the pack does not fit on the disk.
    """
    file = settings.file
    if file.is_dir() or (file.exists() and not settings.overwrite):
        wish = "give a file." if file.is_dir() else "use --overwrite to replace it, or another path."
        raise InputError(f"'{file}' exists already; {wish}")
    if file.exists() and not is_pack(file):
        raise InputError(f"'{file}' is not a pack, and stays; give another path.")
    if file.exists() and settings.data.exists() and file.samefile(settings.data):
        raise InputError(f"'{file}' cannot be packed into itself; give another path.")
    listed = list_data_set(settings.data, settings.split, file.parent / "index", settings.labels)
    sizes = {split: _sizes(source, listing.paths) for split, (source, listing) in listed.items()}
    make_directory_durably(file.parent)
    _check_space(file.parent, sum(int(size.sum()) for size in sizes.values()))
    partial = file.with_name(f"{file.name}{PARTIAL_SUFFIX}")
    with writer_lease(file):
        with create_hdf5(partial) as (root, check):
            root.attrs.update(format=FORMAT_NAME, version=FORMAT_VERSION)
            for split, (source, listing) in listed.items():
                _write_split(root.require_group(split), source, listing, sizes[split], progress, check)
        partial.replace(file)
        flush_directory(file.parent)
    return {split: len(listing.paths) for split, (_, listing) in listed.items()}


def _sizes(source: ImageSource, paths: Sequence[str]) -> npt.NDArray[np.int64]:
    """Bytes of each image, (N,)."""

    def size(path: str) -> int:
        try:
            return source.stamp(path)[0]
        except OSError as error:
            raise _unreadable(source, path, error) from error

    return np.fromiter(map(size, paths), np.int64, len(paths))


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskSpaceError(
            f"The pack needs {needed / 2**30:,.1f} GiB, '{folder}' has {free / 2**30:,.1f} GiB left; free some space, "
            "or give another path."
        )


def _write_split(
    group: h5py.Group,
    source: ImageSource,
    listing: Listing,
    size: npt.NDArray[np.int64],
    progress: Progress,
    check: Callable[[], None],
) -> None:
    offset = np.concatenate([[0], np.cumsum(size)])
    group[OFFSET] = offset
    group[LABEL] = listing.labels
    _write_texts(group, PATH, listing.paths)
    _write_texts(group, CLASS_NAME, listing.class_names)
    data = group.create_dataset(DATA, (offset[-1],), np.uint8, fill_time="never")
    content_hash = np.empty(len(size), np.uint64)
    with progress.track(f"pack {source.location.name}", len(size)) as advance:
        for rows, contents in _read_ahead(source, listing.paths, size, offset):
            data[offset[rows.start] : offset[rows.stop]] = np.frombuffer(b"".join(contents), np.uint8)
            check()
            content_hash[rows.start : rows.stop] = list(map(xxhash.xxh3_64_intdigest, contents))
            advance(len(contents))
    group[CONTENT_HASH] = content_hash


def _read_ahead(
    source: ImageSource, paths: Sequence[str], size: npt.NDArray[np.int64], offset: npt.NDArray[np.int64]
) -> Iterator[tuple[range, list[bytes]]]:
    """Yield each batch's rows and images, while the next batch is being read."""
    with ThreadPoolExecutor(READ_THREADS) as pool:
        ahead: deque[tuple[range, list[Future[bytes]]]] = deque()
        for rows in _batches(offset):
            ahead.append((rows, [pool.submit(_read, source, paths[row], int(size[row])) for row in rows]))
            if len(ahead) > 1:
                yield _finished(*ahead.popleft())
        if ahead:
            yield _finished(*ahead.popleft())


def _finished(rows: range, reading: list[Future[bytes]]) -> tuple[range, list[bytes]]:
    return rows, [future.result() for future in reading]


def _batches(offset: npt.NDArray[np.int64]) -> Iterator[range]:
    start, count = 0, len(offset) - 1
    while start < count:
        stop = max(start + 1, int(np.searchsorted(offset, offset[start] + BATCH_BYTES, "right")) - 1)
        stop = min(stop, start + BATCH_IMAGES)
        yield range(start, stop)
        start = stop


def _write_texts(group: h5py.Group, name: str, texts: Sequence[str]) -> None:
    """UTF-8 strings of one length: a million are one piece of the file, and any HDF5 reader knows them."""
    encoded = [text.encode() for text in texts]
    length = max(map(len, encoded), default=1)
    group[name] = np.array(encoded, h5py.string_dtype("utf-8", length))


def _read(source: ImageSource, path: str, size: int) -> bytes:
    try:
        content = source.read(path)
    except OSError as error:
        raise _unreadable(source, path, error) from error
    if len(content) != size:
        raise InputError(f"The image '{source.describe(path)}' changed while it was packed; pack again.")
    return content


def _unreadable(source: ImageSource, path: str, error: OSError) -> InputError:
    where = source.describe(path)
    return InputError(f"The image '{where}' cannot be read ({error.strerror}); restore it, or remove it.")
