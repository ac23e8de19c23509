"""The index of a split: class, size, content hash and validity of every image, from one scan.

The scan decodes every image fully with Pillow, because a decoder that meets a broken file later may crash the
process or return garbage (docs/decisions.md). It is cached in a file; an entry is valid while the image's path and
stamp (size, and modification time or hash) are the same.
"""

import io
import logging
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Progress
from compress_ssl.pipeline.common.rows import evenly_spaced
from compress_ssl.pipeline.images.decode import DECODED_ANEW, Kind, decode, decode_with_kind
from compress_ssl.pipeline.images.sources.source import (
    MAX_CACHE_BYTES,
    ImageSource,
    Listing,
    composed_otherwise,
    read_image,
    read_stamp,
)
from compress_ssl.storage.places.durable import write_durably
from compress_ssl.storage.schema import Samples, Status
from compress_ssl.storage.typed_files import read_bounded

MAX_IMAGE_BYTES = 2**30  # of one encoded image; a larger one is not read, and bad

SCANS_PER_SAVE = 10_000
"""Images scanned between two writes of the cache: at most so many are lost if the scan is killed."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageIndex:
    """The images of one split; ``samples.sample_path`` are their names in ``source``."""

    source: ImageSource
    samples: Samples
    decoding_matters: bool = False  # True if there are images that the numbers of ``DECODING`` make another RGB of

    def fingerprint(self) -> str:
        """Return the XXH3-128 of all paths and content hashes, in hexadecimal."""
        digest = xxhash.xxh3_128("\0".join(self.samples.sample_path).encode())
        digest.update(self.samples.content_hash.astype("<u8").tobytes())
        return digest.hexdigest()


SAID_OF = {
    Kind.SIXTEEN_BITS: (logging.INFO, "%d of %d images have 16 bits ('%s' first); the high 8 are used."),
    Kind.DARK_SIXTEEN_BITS: (
        logging.WARNING,
        "%d of %d images have 16 bits, of which the high 8 are used, and reach 4,095 at most ('%s' first): scale them.",
    ),
    Kind.CUT_OFF: (
        logging.WARNING,
        "%d of %d images have 32 bits ('%s' first); what is below 0 or above 255 is cut off: save them with 8 bits.",
    ),
}


class _Entry(NamedTuple):
    """The scan's result for one image."""

    content_hash: int
    height: int
    width: int
    status: int  # a Status
    kind: int  # a Kind


def index_images(
    source: ImageSource,
    listing: Listing,
    cache: Path,
    *,
    only: Collection[str] | None = None,
    limit: int | None = None,
    skip_bad: bool = False,
    threads: int,
    progress: Progress,
) -> ImageIndex:
    """Index the images of a source.

    Args:
        listing: Of the source; its labels may come from elsewhere.
        cache: File that caches the results of all scans of the source.
        only (collection of str): Index only these images.
        limit: Index at most so many, evenly spaced.
        skip_bad: Record images that cannot be decoded instead of stopping at the first.

    Raises:
        InputError: If one of ``only`` is missing; an image cannot be decoded (without ``skip_bad``); or all are bad.
    """
    everything, labels, class_names = listing
    rows = np.arange(len(everything))
    if only is not None:
        wanted = set(only)
        if missing := sorted(wanted.difference(everything)):
            form = composed_otherwise(missing[0], set(everything).__contains__)
            raise InputError(
                f"'{missing[0]}', one of the images asked for, is not an image in '{source.location}'{form} "
                f"({len(missing)} of {len(only)} are not); correct the subset list."
            )
        rows = np.array([row for row, path in enumerate(everything) if path in wanted], np.int64)
    if limit is not None:
        rows = evenly_spaced(rows, limit)
    paths = [everything[row] for row in rows]
    entries = _scan(source, paths, cache, skip_bad=skip_bad, threads=threads, progress=progress)
    samples = Samples(
        sample_path=paths,
        label=labels[rows],
        image_size=np.array([(entry.height, entry.width) for entry in entries], np.int32).reshape(-1, 2),
        content_hash=np.array([entry.content_hash for entry in entries], np.uint64),
        status=np.array([entry.status for entry in entries], np.uint8),
        class_names=class_names,
    )
    of_kind = {kind: [row for row, entry in enumerate(entries) if entry.kind == kind] for kind in Kind}
    for kind, (level, sentence) in SAID_OF.items():
        if found := of_kind[kind]:
            logger.log(level, sentence, len(found), len(paths), source.describe(paths[found[0]]))
    if not samples.good.any():
        raise InputError(f"None of the {len(paths)} images in '{source.location}' can be decoded; check them.")
    return ImageIndex(source, samples, any(of_kind[kind] for kind in DECODED_ANEW))


def _scan(
    source: ImageSource, paths: list[str], cache: Path, *, skip_bad: bool, threads: int, progress: Progress
) -> list[_Entry]:
    known = _read_cache(cache)
    stamps = {path: (path, *read_stamp(source, path)) for path in paths}
    todo = [path for path in paths if stamps[path] not in known]
    if todo:
        with ThreadPoolExecutor(threads) as pool, progress.track(f"index {source.location.name}", len(todo)) as advance:
            for start in range(0, len(todo), SCANS_PER_SAVE):
                part = todo[start : start + SCANS_PER_SAVE]
                sizes = [stamps[path][1] for path in part]
                try:
                    for path, entry in zip(part, pool.map(partial(_scan_image, source), part, sizes), strict=True):
                        if not skip_bad and entry.status == Status.BAD_IMAGE:
                            raise _undecodable(source, path)
                        known[stamps[path]] = entry
                        advance(1)
                finally:
                    _write_cache(cache, known)
    for path in paths:
        if not skip_bad and known[stamps[path]].status == Status.BAD_IMAGE:
            raise _undecodable(source, path)
    return [known[stamps[path]] for path in paths]


def _scan_image(source: ImageSource, path: str, size: int) -> _Entry:
    if size > MAX_IMAGE_BYTES:
        return _Entry(0, 0, 0, Status.BAD_IMAGE, Kind.PLAIN)
    content = read_image(source, path)
    content_hash = xxhash.xxh3_64_intdigest(content)
    try:
        image, kind = decode_with_kind(content)
    except Exception:  # noqa: BLE001 Pillow's plugins raise anything on a broken file
        return _Entry(content_hash, 0, 0, Status.BAD_IMAGE, Kind.PLAIN)
    return _Entry(content_hash, image.height, image.width, Status.GOOD, kind)


def _undecodable(source: ImageSource, path: str) -> InputError:
    reason = "it could not be decoded earlier"  # and can be now
    try:
        if source.stamp(path)[0] > MAX_IMAGE_BYTES:
            reason = f"it has more than {MAX_IMAGE_BYTES:,} bytes"
        else:
            decode(source.read(path))
    except Exception as error:  # noqa: BLE001 as above
        reason = str(error).partition("<")[0].strip() or type(error).__name__
    return InputError(
        f"The image '{source.describe(path)}' cannot be decoded ({reason}); replace it, or leave bad images out with "
        "--on-bad-image skip."
    )


def _read_cache(cache: Path) -> dict[tuple[str, int, int], _Entry]:
    try:
        with np.load(io.BytesIO(read_bounded(cache, MAX_CACHE_BYTES)), allow_pickle=False) as table:
            paths = table["path"].tobytes().decode().split("\0")
            stamps = zip(paths, table["bytes"].tolist(), table["changed"].tolist(), strict=True)
            entries = zip(*(table[column].tolist() for column in _Entry._fields), strict=True)
            return dict(zip(stamps, map(_Entry._make, entries), strict=True))
    except Exception:  # noqa: BLE001 missing, or damaged, for which zipfile raises many types: scan the images again
        return {}


def _write_cache(cache: Path, known: dict[tuple[str, int, int], _Entry]) -> None:
    entries = known.values()
    buffer = io.BytesIO()
    np.savez(
        buffer,
        path=np.frombuffer("\0".join(stamp[0] for stamp in known).encode(), np.uint8),
        bytes=np.array([stamp[1] for stamp in known], np.int64),
        changed=np.array([stamp[2] for stamp in known], np.int64),
        content_hash=np.array([entry.content_hash for entry in entries], np.uint64),
        height=np.array([entry.height for entry in entries], np.int32),
        width=np.array([entry.width for entry in entries], np.int32),
        status=np.array([entry.status for entry in entries], np.uint8),
        kind=np.array([entry.kind for entry in entries], np.uint8),
    )
    write_durably(cache, buffer.getvalue())
