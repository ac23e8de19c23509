"""WebDataset's tar files (shards): members with an image's extension, labelled by ``.cls`` members.

A sample's key is its member's name up to the first dot of the last part; ``KEY.cls`` holds a class name or a number.
Images are named SHARD/MEMBER and ordered by shard, then by position in the shard.
"""

import io
import json
import logging
import posixpath
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.sources.archive import ArchiveSource, Members, read_range
from compress_ssl.pipeline.images.sources.source import Listing, check_name, is_image
from compress_ssl.pipeline.images.sources.text import make_listing
from compress_ssl.storage.places.durable import write_durably

LABEL_EXTENSION = ".cls"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TarSource(ArchiveSource):
    """The images of some uncompressed tar files; either every image has a ``.cls`` member or none has.

    ``archives`` are the shards, sorted; all are in one folder.
    """

    cache: Path | None = None
    """File that caches where the members are; valid while the shards keep their sizes and modification times."""

    def describe(self, path: str) -> str:
        """Return the member's path, as if its shard were a folder."""
        return str(self.archives[0].parent / path)

    def load_members(self) -> Members:
        """Read the table of members from the cache if that is valid, else from the shards."""
        stamp = json.dumps([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self.archives])
        if self.cache is not None and (cached := _read_cache(self.cache, stamp)) is not None:
            return cached
        logger.info("Indexing %d tar files of '%s'.", len(self.archives), self.location)
        paths: list[str] = []
        classes: list[str] = []
        rows: list[tuple[int, int, int]] = []  # shard, offset, size
        for number, shard in enumerate(self.archives):
            images, class_of = _read_shard(shard)
            for name, (offset, size) in images.items():
                paths.append(f"{shard.name}/{name}")
                classes.append(class_of.get(_key(name), ""))
                rows.append((number, offset, size))
        if not paths:
            raise InputError(f"The tar files of '{self.location}' hold no images; check the path.")
        if any(classes) and not all(classes):
            bare = paths[classes.index("")]
            raise InputError(f"'{bare}' of '{self.location}' has no {LABEL_EXTENSION} member, others have one; add it.")
        shards, offsets, sizes = np.array(rows, np.int64).T
        members = Members(make_listing(paths, classes), shards.astype(np.int32), offsets, sizes)
        if self.cache is not None:
            _write_cache(self.cache, stamp, members)
        return members


def _read_shard(shard: Path) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Return offset and size of each image of a shard, and the class of each key that has one."""
    images: dict[str, tuple[int, int]] = {}
    classes: dict[str, str] = {}
    end = 0
    try:
        with tarfile.open(shard, "r:", encoding="utf-8") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                name = posixpath.normpath(member.name)
                if is_image(name) and not member.isfile():
                    raise InputError(f"'{name}' in tar file '{shard}' is not a regular file; write it again as one.")
                if name.lower().endswith(LABEL_EXTENSION):
                    classes[_key(name)] = _read_class(shard, member)
                elif is_image(name):
                    if name in images:
                        raise InputError(f"The tar file '{shard}' holds '{name}' twice; write it again without one.")
                    check_name(name, shard)
                    images[name] = member.offset_data, member.size
                tar.members.clear()  # type: ignore[attr-defined]  # or the TarFile keeps them all, a kilobyte each
        whole = read_range(shard, end, tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
    except tarfile.TarError as error:
        # Raised for the first member only; a broken later one looks like the end of the file.
        what = "is cut short" if "unexpected end" in str(error) else "is not an uncompressed tar file"
        raise InputError(f"'{shard}' {what}; copy it again, or make it again.") from error
    except OSError:
        whole = False
    if not whole:
        raise InputError(f"'{shard}' is cut short: it has no end mark; copy it again, or make it again.")
    return images, classes


def _key(name: str) -> str:
    folder, _, last = name.rpartition("/")
    return f"{folder}/{last.partition('.')[0]}"


def _read_class(shard: Path, member: tarfile.TarInfo) -> str:
    where = f"{shard}/{posixpath.normpath(member.name)}"
    try:
        name = read_range(shard, member.offset_data, member.size).decode().strip()
    except UnicodeDecodeError as error:
        raise InputError(f"The class in '{where}' is not UTF-8 text; write it again.") from error
    if not name:
        raise InputError(f"The class in '{where}' is empty; write a name or a number.")
    return name


def _read_cache(cache: Path, stamp: str) -> Members | None:
    try:
        with np.load(io.BytesIO(cache.read_bytes()), allow_pickle=False) as table:
            if table["stamp"].tobytes().decode() != stamp:
                return None
            paths, class_names = (table[name].tobytes().decode().split("\0") for name in ("path", "class_name"))
            listing = Listing(paths, table["label"], tuple(filter(None, class_names)))  # "" if there are none
            return Members(listing, table["shard"], table["offset"], table["size"])
    except Exception:  # noqa: BLE001 missing, or damaged, for which zipfile raises many types: read the shards again
        return None


def _write_cache(cache: Path, stamp: str, members: Members) -> None:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        stamp=_joined([stamp]),
        path=_joined(members.listing.paths),
        class_name=_joined(members.listing.class_names),
        label=members.listing.labels,
        shard=members.file,
        offset=members.offset,
        size=members.size,
    )
    write_durably(cache, buffer.getvalue())


def _joined(texts: Sequence[str]) -> npt.NDArray[np.uint8]:
    return np.frombuffer("\0".join(texts).encode(), np.uint8)
