"""Is this the data set that a store was made from? Checked before a student trains on it, or a store is evaluated with it.

Every good image of the split has to be there, by its path. Of ``SAMPLE`` of them, evenly spaced over the store's order from
the first to the last, the content is compared too (its XXH3-64, and with it its size); of all of them if that is asked for.
Whatever is rendered later is compared when it is read.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.common.rows import evenly_spaced
from compress_ssl.pipeline.images.index import decode

if TYPE_CHECKING:
    from compress_ssl.pipeline.common.progress import Progress
    from compress_ssl.pipeline.common.settings import ContentCheck
    from compress_ssl.pipeline.images.sources.source import ImageSource
    from compress_ssl.storage import Split

SAMPLE = 256


def check_same_images(split: Split, source: ImageSource, check: ContentCheck, threads: int, progress: Progress) -> None:
    """Check that a data set holds the good images of a split.

    Parameters
    ----------
    split : Split
    source : ImageSource
        Has the split's images.
    check : str
        Compare the content of a ``sample`` of the images, or of ``all``.
    threads : int
        To read with.
    progress : Progress
        Shown where all are read.

    Raises
    ------
    InputError
        Naming the first row whose image is missing or another.
    """
    rows = np.flatnonzero(split.samples.good)
    for row in rows:
        _check_there(split, source, int(row))
    compared, shown = (rows, progress) if check == "all" else (evenly_spaced(rows, SAMPLE, endpoint=True), Silent())
    with ThreadPoolExecutor(threads) as pool, shown.track(f"check {split.name}", len(compared)) as advance:
        for start in range(0, len(compared), SAMPLE):
            part = compared[start : start + SAMPLE]
            for fault in pool.map(lambda row: _difference(split, source, int(row)), part):
                if fault is not None:
                    raise InputError(f"{fault}; give the data set the store was made from, or embed this one.")
            advance(len(part))


def _check_there(split: Split, source: ImageSource, row: int) -> None:
    path = split.samples.sample_path[row]
    try:
        source.stamp(path)
    except OSError as error:
        raise InputError(
            f"The store was made from other images: row {row} of split {split.name}, '{path}', is not in "
            f"'{source.location}'; give the data set the store was made from."
        ) from error


def _difference(split: Split, source: ImageSource, row: int) -> str | None:
    """What tells an image from that of the store; None if nothing does."""
    samples, path = split.samples, split.samples.sample_path[row]
    try:
        content = source.read(path)
    except OSError as error:
        return f"The image '{source.describe(path)}' cannot be read ({error.strerror})"
    if xxhash.xxh3_64_intdigest(content) == int(samples.content_hash[row]):
        return None
    height, width = map(int, samples.image_size[row])
    found = _size(content)
    seen = f"row {row} of split {split.name}, '{path}'"
    if found == (height, width):
        return f"The store was made from other images: {seen}, has other content in '{source.location}'"
    now = f"{found[1]} x {found[0]} pixels" if found else "no image"
    return f"The store was made from other images: {seen}, was {width} x {height} pixels and is {now} in '{source.location}'"


def _size(content: bytes) -> tuple[int, int] | None:
    """Height and width of an image; None if it is none."""
    try:
        width, height = decode(content).size
    except Exception:  # noqa: BLE001 Pillow's plugins raise whatever a broken file makes them raise
        return None
    return height, width
