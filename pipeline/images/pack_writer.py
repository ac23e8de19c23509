"""Pack a dataset: write the encoded images of its splits, unchanged, into one HDF5 file.

The file is written under a temporary name and renamed. Bytes are streamed, so memory grows only with the images'
names and offsets. ``sources/pack.py`` reads packs.

Letters: N images of a split.
"""

import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise

import h5py
import numpy as np
import numpy.typing as npt
import xxhash

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.images.data_set import list_data_set
from compress_ssl.pipeline.images.pack_settings import PackSettings
from compress_ssl.pipeline.images.sources.pack import FORMAT_NAME, FORMAT_VERSION, is_pack
from compress_ssl.pipeline.images.sources.source import ImageSource, Listing, read_ahead, read_image, read_stamp
from compress_ssl.storage.errors import DiskSpaceError
from compress_ssl.storage.places.durable import make_directory_durably
from compress_ssl.storage.places.local import replaced_file
from compress_ssl.storage.tools.hdf5_file import create_hdf5

BATCH_BYTES = 16 * 2**20
BATCH_IMAGES = 4096  # largest batch that is read and written at once, in bytes (or one image) and in images
READ_THREADS = 8  # A disk or a network serves several reads at once


def pack(settings: PackSettings, progress: Progress) -> dict[str, int]:
    """Pack a dataset.

    Returns:
        images (dict from split to its number of images).

    Raises:
        InputError: If the dataset cannot be read or changes meanwhile, or the file exists or is being written.
        DiskSpaceError: If the pack does not fit on the disk.
    """
    file = settings.file
    if file.is_dir() or (file.exists() and not settings.overwrite):
        advice = "give a file." if file.is_dir() else "use --overwrite to replace it, or another path."
        raise InputError(f"'{file}' exists already; {advice}")
    if file.exists() and not is_pack(file):
        raise InputError(f"'{file}' is not a pack, and stays; give another path.")
    if file.exists() and settings.data.exists() and file.samefile(settings.data):
        raise InputError(f"'{file}' cannot be packed into itself; give another path.")
    listed = list_data_set(settings.data, settings.split, file.parent / "index", settings.labels)
    sizes = {
        split: np.fromiter((read_stamp(source, path)[0] for path in listing.paths), np.int64, len(listing.paths))
        for split, (source, listing) in listed.items()
    }
    make_directory_durably(file.parent)
    needed, free = sum(int(size.sum()) for size in sizes.values()), shutil.disk_usage(file.parent).free
    if needed > free:
        raise DiskSpaceError(
            f"The pack needs {needed / 2**30:,.1f} GiB, '{file.parent}' has {free / 2**30:,.1f} GiB left; free some "
            "space, or give another path."
        )
    with replaced_file(file) as partial, create_hdf5(partial) as (root, check_written):
        root.attrs.update(format=FORMAT_NAME, version=FORMAT_VERSION)
        for split, (source, listing) in listed.items():
            _write_split(root.require_group(split), source, listing, sizes[split], progress, check_written)
    return {split: len(listing.paths) for split, (_, listing) in listed.items()}


def _write_split(
    group: h5py.Group,
    source: ImageSource,
    listing: Listing,
    size: npt.NDArray[np.int64],
    progress: Progress,
    check_written: Callable[[], None],
) -> None:
    def read(row: int) -> bytes:
        content = read_image(source, listing.paths[row])
        if len(content) != size[row]:
            where = source.describe(listing.paths[row])
            raise InputError(f"The image '{where}' changed while it was packed; pack again.")
        return content

    offset = np.concatenate([[0], np.cumsum(size)])
    group["offset"] = offset
    group["label"] = listing.labels
    _write_texts(group, "path", listing.paths)
    _write_texts(group, "class_name", listing.class_names)
    data = group.create_dataset("data", (offset[-1],), np.uint8, fill_time="never")
    content_hash = np.empty(len(size), np.uint64)
    batches = _batches(offset)
    with progress.track(f"pack {source.location.name}", len(size)) as advance:
        for rows, contents in zip(batches, read_ahead(batches, read, threads=READ_THREADS, depth=2), strict=True):
            data[offset[rows.start] : offset[rows.stop]] = np.frombuffer(b"".join(contents), np.uint8)
            check_written()
            content_hash[rows.start : rows.stop] = list(map(xxhash.xxh3_64_intdigest, contents))
            advance(len(contents))
    group["content_hash"] = content_hash


def _batches(offset: npt.NDArray[np.int64]) -> list[range]:
    """Return consecutive batches of rows of at most ``BATCH_BYTES`` (or one image) and ``BATCH_IMAGES`` each."""
    starts, count = [0], len(offset) - 1
    while (start := starts[-1]) < count:
        by_bytes = int(np.searchsorted(offset, offset[start] + BATCH_BYTES, "right")) - 1
        starts.append(min(max(start + 1, by_bytes), start + BATCH_IMAGES))
    return [range(start, stop) for start, stop in pairwise(starts)]


def _write_texts(group: h5py.Group, name: str, texts: Sequence[str]) -> None:
    """Write UTF-8 strings of fixed length: a million are one piece of the file, and every HDF5 reader knows them."""
    encoded = [text.encode() for text in texts]
    length = max(map(len, encoded), default=1)
    group[name] = np.array(encoded, h5py.string_dtype("utf-8", length))
