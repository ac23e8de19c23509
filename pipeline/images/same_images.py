"""Check that a dataset is the one a store was made from, before training on it or evaluating with it.

Every good image of the split must exist under its path. The content (XXH3-64, and with it the size) is compared for
``SAMPLE`` of them, evenly spaced over the store's order with both ends, or for all on request. Whatever is rendered
later is compared when it is read.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import xxhash

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress, Silent
from compress_ssl.pipeline.common.rows import evenly_spaced
from compress_ssl.pipeline.common.settings import ContentCheck
from compress_ssl.pipeline.images.decode import decode
from compress_ssl.pipeline.images.sources.source import ImageSource, composed_otherwise, read_image
from compress_ssl.storage import Split

SAMPLE = 256

ADVICE = "give the dataset the store was made from"


def check_same_images(split: Split, source: ImageSource, check: ContentCheck, threads: int, progress: Progress) -> None:
    """Check that a dataset holds the good images of a split.

    ``check`` is ``sample`` or ``all``: the images whose content is compared. Progress is shown for ``all`` only.

    Raises:
        InputError: Naming the first row whose image is missing or differs.
    """
    rows = np.flatnonzero(split.samples.good)
    for row in rows:
        path = split.samples.sample_path[row]
        try:
            source.stamp(path)
        except OSError as error:
            form = composed_otherwise(path, partial(_is_there, source))
            raise InputError(
                f"The store was made from other images: row {row} of split {split.name}, '{path}', is not in "
                f"'{source.location}'{form}; {ADVICE}."
            ) from error
    compared, shown = (rows, progress) if check == "all" else (evenly_spaced(rows, SAMPLE, endpoint=True), Silent())
    with ThreadPoolExecutor(threads) as pool, shown.track(f"check {split.name}", len(compared)) as advance:
        for start in range(0, len(compared), SAMPLE):
            part = compared[start : start + SAMPLE].tolist()
            for _ in pool.map(partial(_check_content, split, source), part):
                pass
            advance(len(part))


def _is_there(source: ImageSource, path: str) -> bool:
    try:
        source.stamp(path)
    except OSError:
        return False
    return True


def _check_content(split: Split, source: ImageSource, row: int) -> None:
    samples, path = split.samples, split.samples.sample_path[row]
    content = read_image(source, path, f"{ADVICE}, or embed this one.")
    if xxhash.xxh3_64_intdigest(content) == int(samples.content_hash[row]):
        return
    old_height, old_width = map(int, samples.image_size[row])
    try:
        width, height = decode(content).size
    except Exception:  # noqa: BLE001 Pillow's plugins raise anything on a broken file
        now = "no image"
    else:
        now = f"{width} x {height} pixels"
    was = f"{old_width} x {old_height} pixels"
    difference = "has other content" if now == was else f"was {was} and is {now}"
    raise InputError(
        f"The store was made from other images: row {row} of split {split.name}, '{path}', {difference} in "
        f"'{source.location}'; {ADVICE}, or embed this one."
    )
