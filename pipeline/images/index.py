"""The index of a data set: every file's class, size, content hash and validity, looked at once ever.

The order is torchvision's ImageFolder's: classes sorted, then folders, then names. A folder without class
folders is taken as one flat list without labels. The scan decodes every file fully with Pillow, because a
decoder that meets a broken file later may end the process, or return rubbish (docs/decisions.md). It is cached in
a file; an entry counts while the file's path, size and modification time are the same.
"""

from __future__ import annotations

import io
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xxhash
from PIL import Image

from pipeline.errors import InputError
from storage.durable import write_durably
from storage.schema import Samples, Status

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from pipeline.progress import Progress

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's
SCANS_PER_SAVE = 10_000
"""Files looked at before the cache is written: what a killed scan loses at most."""

# Odd EXIF blocks and palettes: the pixels are what counts. Not around each decode: filters are shared by all threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class ImageIndex:
    """The images of one folder; ``samples.sample_path`` is relative to ``root``."""

    root: Path
    samples: Samples

    def path(self, row: int) -> Path:
        """File of one sample."""
        return self.root / self.samples.sample_path[row]

    def fingerprint(self) -> str:
        """XXH3-128 of all paths and content hashes, in hexadecimal."""
        digest = xxhash.xxh3_128("\0".join(self.samples.sample_path).encode())
        digest.update(self.samples.content_hash.astype("<u8").tobytes())
        return digest.hexdigest()


class _Entry(NamedTuple):
    """What the scan finds in one file."""

    content_hash: int
    height: int
    width: int
    status: Status


def index_images(
    root: Path,
    cache: Path,
    *,
    only: Collection[str] | None = None,
    limit: int | None = None,
    skip_bad: bool = False,
    threads: int,
    progress: Progress,
) -> ImageIndex:
    """Index a folder of images.

    Parameters
    ----------
    root : Path
        ImageFolder (a folder a class), or a flat folder of images.
    cache : Path
        File to read earlier scans from and to write this one to.
    only : collection of str, optional
        Take only these images; relative paths.
    limit : int, optional
        Take only so many, evenly spaced, so that a few images of a sorted list still come from all classes.
    skip_bad : bool
        Record files that cannot be decoded instead of stopping at the first.

    Raises
    ------
    InputError
        If the folder is missing, empty or a file; a class has no image; a name is not UTF-8; a listed image is
        not there; a file cannot be decoded (unless bad ones are to be skipped); or all are bad.
    """
    paths, classes = list_images(root)
    if only is not None:
        paths = _listed_only(root, paths, only)
    if limit is not None and limit < len(paths):
        paths = [paths[i * len(paths) // limit] for i in range(limit)]
    entries = _scan(root, paths, cache, stop_at_bad=not skip_bad, threads=threads, progress=progress)
    number = {name: label for label, name in enumerate(classes)}
    samples = Samples(
        sample_path=paths,
        label=np.array([number.get(path.split("/")[0], -1) if classes else -1 for path in paths], np.int32),
        image_size=np.array([(entry.height, entry.width) for entry in entries], np.int32).reshape(-1, 2),
        content_hash=np.array([entry.content_hash for entry in entries], np.uint64),
        status=np.array([entry.status for entry in entries], np.uint8),
        class_names=classes,
    )
    if not samples.good.any():
        raise InputError(f"None of the {len(paths)} images in '{root}' can be decoded; check the folder.")
    return ImageIndex(root, samples)


def list_images(root: Path) -> tuple[list[str], tuple[str, ...]]:
    """Relative paths of all images, in torchvision's order, and the class names (none in a flat folder)."""
    if not root.exists():
        raise InputError(f"The image folder '{root}' does not exist; check the path.")
    if not root.is_dir():
        raise InputError(f"'{root}' is a file; give the folder that holds the images.")
    classes = tuple(sorted(entry.name for entry in os.scandir(root) if entry.is_dir()))
    for name in classes:
        _check_name(root, name)
    found = {name: list(_images_below(root, name)) for name in classes}
    if not any(found.values()):
        flat = sorted(entry.name for entry in os.scandir(root) if entry.is_file() and _is_image(entry.name))
        if not flat:
            raise InputError(
                f"'{root}' holds no images; give a folder with a sub-folder a class, or a flat folder, of "
                f"{', '.join(IMAGE_EXTENSIONS)} files."
            )
        for name in flat:
            _check_name(root, name)
        return flat, ()
    empty = [name for name, images in found.items() if not images]
    if empty:
        raise InputError(f"Class '{empty[0]}' in '{root}' has no image; remove the folder or fill it.")
    return [path for name in classes for path in found[name]], classes


def _images_below(root: Path, class_name: str) -> Iterator[str]:
    for folder, _, names in sorted(os.walk(root / class_name, followlinks=True)):
        relative = Path(folder).relative_to(root).as_posix()
        for name in sorted(names):
            if _is_image(name):
                _check_name(root, f"{relative}/{name}")
                yield f"{relative}/{name}"


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_EXTENSIONS)


def _check_name(root: Path, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(name).decode(errors="backslashreplace")
        raise InputError(f"The name '{shown}' in '{root}' is not UTF-8; rename it.") from None


def _listed_only(root: Path, paths: list[str], only: Collection[str]) -> list[str]:
    missing = sorted(set(only).difference(paths))
    if missing:
        raise InputError(
            f"'{missing[0]}', one of the images asked for, is not an image in '{root}' ({len(missing)} of "
            f"{len(only)} are not); correct the subset list."
        )
    wanted = set(only)
    return [path for path in paths if path in wanted]


def _scan(
    root: Path, paths: list[str], cache: Path, *, stop_at_bad: bool, threads: int, progress: Progress
) -> list[_Entry]:
    known = _read_cache(cache)
    stamps = {path: (path, *_size_and_time(root / path)) for path in paths}
    todo = [path for path in paths if stamps[path] not in known]
    if todo:
        with ThreadPoolExecutor(threads) as pool, progress.track(f"index {root.name}", len(todo)) as advance:
            for start in range(0, len(todo), SCANS_PER_SAVE):
                part = todo[start : start + SCANS_PER_SAVE]
                try:
                    for path, entry in zip(part, pool.map(lambda path: _look_at(root / path), part), strict=True):
                        if stop_at_bad and entry.status == Status.BAD_IMAGE:
                            raise _undecodable(root / path)
                        known[stamps[path]] = entry
                        advance(1)
                finally:
                    _write_cache(cache, known)
    for path in paths:
        if stop_at_bad and known[stamps[path]].status == Status.BAD_IMAGE:
            raise _undecodable(root / path)
    return [known[stamps[path]] for path in paths]


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return stat.st_size, stat.st_mtime_ns


def _look_at(path: Path) -> _Entry:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    content_hash = xxhash.xxh3_64_intdigest(content)
    try:
        width, height = decode(content).size
    except Exception:  # noqa: BLE001 Pillow's plugins raise whatever a broken file makes them raise
        return _Entry(content_hash, 0, 0, Status.BAD_IMAGE)
    return _Entry(content_hash, height, width, Status.GOOD)


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"The image '{path}' cannot be read ({error.strerror}); restore it, or remove it.")


def _undecodable(path: Path) -> InputError:
    reason = "it could not be decoded earlier"
    try:
        decode(path.read_bytes())
    except Exception as error:  # noqa: BLE001 as above
        reason = str(error).partition("<")[0].strip() or type(error).__name__
    return InputError(
        f"The image '{path}' cannot be decoded ({reason}); replace it, or leave bad images out with "
        "--on-bad-image skip."
    )


def decode(content: bytes) -> Image.Image:
    """Decode a file's bytes as torchvision's ImageFolder loader does: RGB, first frame, EXIF rotation ignored."""
    with Image.open(io.BytesIO(content)) as image:
        return image.convert("RGB")


def _read_cache(cache: Path) -> dict[tuple[str, int, int], _Entry]:
    try:
        with np.load(io.BytesIO(cache.read_bytes()), allow_pickle=False) as table:
            paths = table["path"].tobytes().decode().split("\0")
            stamps = zip(paths, table["bytes"].tolist(), table["mtime_ns"].tolist(), strict=True)
            columns = ("content_hash", "height", "width", "status")
            entries = zip(*(table[column].tolist() for column in columns), strict=True)
            return {
                stamp: _Entry(content_hash, height, width, Status(status))
                for stamp, (content_hash, height, width, status) in zip(stamps, entries, strict=True)
            }
    except Exception:  # noqa: BLE001 none yet, or damaged, which zipfile says in many ways: the files are looked at again
        return {}


def _write_cache(cache: Path, known: dict[tuple[str, int, int], _Entry]) -> None:
    def column(values: Iterable[int], dtype: type) -> np.ndarray[tuple[int], np.dtype[np.generic]]:
        return np.fromiter(values, dtype, len(known))

    buffer = io.BytesIO()
    np.savez(
        buffer,
        path=np.frombuffer("\0".join(stamp[0] for stamp in known).encode(), np.uint8),
        bytes=column((stamp[1] for stamp in known), np.int64),
        mtime_ns=column((stamp[2] for stamp in known), np.int64),
        content_hash=column((entry.content_hash for entry in known.values()), np.uint64),
        height=column((entry.height for entry in known.values()), np.int32),
        width=column((entry.width for entry in known.values()), np.int32),
        status=column((entry.status for entry in known.values()), np.uint8),
    )
    write_durably(cache, buffer.getvalue())
