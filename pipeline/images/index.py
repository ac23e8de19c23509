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
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
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

SCANS_AT_ONCE = 1000  # images given to the threads at a time; each waits with a kilobyte

SCANS_PER_SAVE = 10_000
"""Images scanned between two writes of the cache, or a quarter of those in it: no more are lost if it is killed."""

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


class _Found(NamedTuple):
    """What the scan found of one image."""

    content_hash: int
    height: int
    width: int
    status: int  # a Status
    kind: int  # a Kind


_STAMP = np.dtype([("bytes", "i8"), ("changed", "i8")])
_FOUND = np.dtype(list(zip(_Found._fields, ("u8", "i4", "i4", "u1", "u1"), strict=True)))
_ENTRY = np.dtype([("stamp", _STAMP), ("found", _FOUND)])  # a tenth of the memory of Python's objects


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
    found = _scan(source, paths, cache, skip_bad=skip_bad, threads=threads, progress=progress)
    samples = Samples(
        sample_path=paths,
        label=labels[rows],
        image_size=np.stack([found["height"], found["width"]], axis=1),
        content_hash=found["content_hash"].copy(),
        status=found["status"].copy(),
        class_names=class_names,
    )
    of_kind = {kind: np.flatnonzero(found["kind"] == kind) for kind in Kind}
    for kind, (level, sentence) in SAID_OF.items():
        if len(of_kind[kind]):
            logger.log(level, sentence, len(of_kind[kind]), len(paths), source.describe(paths[of_kind[kind][0]]))
    if not samples.good.any():
        raise InputError(f"None of the {len(paths)} images in '{source.location}' can be decoded; check them.")
    return ImageIndex(source, samples, any(len(of_kind[kind]) for kind in DECODED_ANEW))


def _scan(
    source: ImageSource, paths: list[str], cache: Path, *, skip_bad: bool, threads: int, progress: Progress
) -> npt.NDArray[np.void]:
    """Return what was found of each image (N,), by the names of ``_Found``."""
    known_paths, known = _read_cache(cache)
    entries = np.zeros(len(paths), _ENTRY)
    entries["stamp"] = np.fromiter((read_stamp(source, path) for path in paths), _STAMP, len(paths))
    others = {path: row for row, path in enumerate(known_paths)}
    before = np.fromiter((others.pop(path, -1) for path in paths), np.int64, len(paths))
    done = before >= 0
    done[done] = known["stamp"][before[done]] == entries["stamp"][done]
    entries[done] = known[before[done]]
    other_paths, other_entries = list(others), known[list(others.values())]

    def save() -> None:
        scanned = [path for path, is_done in zip(paths, done, strict=True) if is_done]
        _write_cache(cache, [*other_paths, *scanned], np.concatenate([other_entries, entries[done]]))

    todo = np.flatnonzero(~done).tolist()
    if todo:
        next_save = SCANS_PER_SAVE
        with ThreadPoolExecutor(threads) as pool, progress.track(f"index {source.location.name}", len(todo)) as advance:
            try:
                for start in range(0, len(todo), SCANS_AT_ONCE):
                    if start >= next_save:
                        save()
                        next_save = start + max(SCANS_PER_SAVE, (len(other_paths) + int(done.sum())) // 4)
                    part = todo[start : start + SCANS_AT_ONCE]
                    sizes = entries["stamp"]["bytes"][part].tolist()
                    scans = pool.map(partial(_scan_image, source), [paths[row] for row in part], sizes)
                    for row, found in zip(part, scans, strict=True):
                        if not skip_bad and found.status == Status.BAD_IMAGE:
                            raise _undecodable(source, paths[row])
                        entries["found"][row] = found
                        done[row] = True
                        advance(1)
            finally:
                save()
    bad = np.flatnonzero(entries["found"]["status"] == Status.BAD_IMAGE)
    if len(bad) and not skip_bad:
        raise _undecodable(source, paths[bad[0]])
    of_all: npt.NDArray[np.void] = entries["found"]
    return of_all


def _scan_image(source: ImageSource, path: str, size: int) -> _Found:
    if size > MAX_IMAGE_BYTES:
        return _Found(0, 0, 0, Status.BAD_IMAGE, Kind.PLAIN)
    content = read_image(source, path)
    content_hash = xxhash.xxh3_64_intdigest(content)
    try:
        image, kind = decode_with_kind(content)
    except Exception:  # noqa: BLE001 Pillow's plugins raise anything on a broken file
        return _Found(content_hash, 0, 0, Status.BAD_IMAGE, Kind.PLAIN)
    return _Found(content_hash, image.height, image.width, Status.GOOD, kind)


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


def _read_cache(cache: Path) -> tuple[list[str], npt.NDArray[np.void]]:
    """Return the images in the cache, and the entry of each; none if it cannot be read."""
    try:
        with np.load(io.BytesIO(read_bounded(cache, MAX_CACHE_BYTES)), allow_pickle=False) as table:
            paths = table["path"].tobytes().decode().split("\0")
            entries = np.empty(len(paths), _ENTRY)
            for part in ("stamp", "found"):
                for column in _ENTRY[part].names or ():
                    entries[part][column] = table[column].reshape(len(paths))
            return paths, entries
    except Exception:  # noqa: BLE001 missing, or damaged, for which zipfile raises many types: scan the images again
        return [], np.empty(0, _ENTRY)


def _write_cache(cache: Path, paths: list[str], entries: npt.NDArray[np.void]) -> None:
    columns: dict[str, Any] = {
        name: entries[part][name] for part in ("stamp", "found") for name in _ENTRY[part].names or ()
    }
    buffer = io.BytesIO()
    np.savez(buffer, path=np.frombuffer("\0".join(paths).encode(), np.uint8), **columns)
    write_durably(cache, buffer.getvalue())
