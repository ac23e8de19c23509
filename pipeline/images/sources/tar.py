"""WebDataset's tar files (shards): the members with an image's extension, labelled by ``.cls`` members.

A sample's key is its member's name up to the first dot of the last part; ``KEY.cls`` holds a class name or a number.
An image's name is the shard's, ``/``, the member's. The order is the shards', then the members' in them.
"""

from __future__ import annotations

import io
import json
import logging
import posixpath
import tarfile
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.sources.archive import LOADING, Parts, make_parts, read_part
from compress_ssl.pipeline.images.sources.source import Listing, check_name, is_image
from compress_ssl.pipeline.images.sources.text import number_classes
from compress_ssl.storage.places.durable import write_durably

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

LABEL_EXTENSION = ".cls"
LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class TarSource:
    """The images of some uncompressed tar files."""

    location: Path
    shards: tuple[Path, ...]
    """Sorted; all in one folder."""
    cache: Path | None = None
    """File that keeps where the members are; it is used while the shards have the same sizes and times."""

    def listing(self) -> Listing:
        """All images; either every one has a ``.cls`` member or none has."""
        return self._parts.listing

    def stamp(self, path: str) -> tuple[int, int]:
        """Size in bytes, and the time of the shard in nanoseconds."""
        row = self._parts.row(path)
        return int(self._parts.size[row]), self.shards[self._parts.file[row]].stat().st_mtime_ns

    def read(self, path: str) -> bytes:
        """The member's bytes."""
        row = self._parts.row(path)
        return read_part(self.shards[self._parts.file[row]], int(self._parts.offset[row]), int(self._parts.size[row]))

    def describe(self, path: str) -> str:
        """The member as if its shard were a folder."""
        return str(self.shards[0].parent / path)

    def files(self) -> Iterator[Path]:
        """The shards."""
        yield from self.shards

    def __getstate__(self) -> dict[str, Any]:
        """Without the members: another process reads its own."""
        return {"location": self.location, "shards": self.shards, "cache": self.cache}

    @property
    def _parts(self) -> Parts:
        with LOADING:
            return self._loaded

    @cached_property
    def _loaded(self) -> Parts:
        stamp = json.dumps([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self.shards])
        parts = _read_cache(self.cache, stamp)
        if parts is None:
            parts = _look_into(self.location, self.shards)
            if self.cache is not None:
                _write_cache(self.cache, stamp, parts)
        return parts


class _Member(NamedTuple):
    """An image in a shard."""

    path: str
    class_name: str
    shard: int
    offset: int
    size: int


def _look_into(location: Path, shards: tuple[Path, ...]) -> Parts:
    LOGGER.info("Looking into %d tar files of '%s'.", len(shards), location)
    members = [member for number, shard in enumerate(shards) for member in _members(shard, number)]
    if not members:
        raise InputError(f"The tar files of '{location}' hold no images; check the path.")
    labelled = [member for member in members if member.class_name]
    if labelled and len(labelled) < len(members):
        bare = next(member.path for member in members if not member.class_name)
        raise InputError(f"'{bare}' of '{location}' has no {LABEL_EXTENSION} member, others have one; add it.")
    labels, class_names = number_classes(member.class_name for member in labelled)
    listing = Listing(
        [member.path for member in members], labels if labelled else np.full(len(members), -1, np.int32), class_names
    )
    return make_parts(
        listing,
        np.array([member.shard for member in members], np.int32),
        np.array([member.offset for member in members], np.int64),
        np.array([member.size for member in members], np.int64),
    )


def _members(shard: Path, number: int) -> list[_Member]:
    images: dict[str, tuple[int, int]] = {}  # offset and size
    classes: dict[str, str] = {}
    end = 0
    try:
        with tarfile.open(shard, "r:", encoding="utf-8") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                name = posixpath.normpath(member.name)
                if is_image(name) and not member.isfile():
                    raise InputError(f"'{name}' in the tar file '{shard}' is no plain file; write it again as one.")
                if name.lower().endswith(LABEL_EXTENSION):
                    content = read_part(shard, member.offset_data, member.size)
                    classes[_key(name)] = _class_name(content, f"{shard}/{name}")
                elif is_image(name):
                    if name in images:
                        raise InputError(f"The tar file '{shard}' holds '{name}' twice; write it again without one.")
                    check_name(name, shard)
                    images[name] = member.offset_data, member.size
                tar.members.clear()  # type: ignore[attr-defined]  # else it keeps them all, a kilobyte each
        whole = read_part(shard, end, tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
    except tarfile.TarError as error:
        # Raised for the first member only; a later one that is broken looks like the end.
        what = "is cut short" if "unexpected end" in str(error) else "is not an uncompressed tar file"
        raise InputError(f"'{shard}' {what}; copy it again, or make it again.") from error
    except OSError:
        whole = False
    if not whole:
        raise InputError(f"'{shard}' is cut short: it has no end mark; copy it again, or make it again.")
    return [
        _Member(f"{shard.name}/{name}", classes.get(_key(name), ""), number, offset, size)
        for name, (offset, size) in images.items()
    ]


def _key(name: str) -> str:
    folder, _, last = name.rpartition("/")
    return f"{folder}/{last.partition('.')[0]}"


def _class_name(content: bytes, where: str) -> str:
    try:
        name = content.decode().strip()
    except UnicodeDecodeError as error:
        raise InputError(f"The class in '{where}' is not UTF-8 text; write it again.") from error
    if not name:
        raise InputError(f"The class in '{where}' is empty; write a name or a number.")
    return name


def _read_cache(cache: Path | None, stamp: str) -> Parts | None:
    if cache is None:
        return None
    try:
        with np.load(io.BytesIO(cache.read_bytes()), allow_pickle=False) as table:
            if table["stamp"].tobytes().decode() != stamp:
                return None
            paths, class_names = (_split(table[name].tobytes()) for name in ("path", "class_name"))
            return make_parts(
                Listing(paths, table["label"], tuple(class_names)), table["shard"], table["offset"], table["size"]
            )
    except Exception:  # noqa: BLE001 none yet, or damaged, which zipfile says in many ways: the shards are read again
        return None


def _write_cache(cache: Path, stamp: str, parts: Parts) -> None:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        stamp=_joined([stamp]),
        path=_joined(parts.listing.paths),
        class_name=_joined(parts.listing.class_names),
        label=parts.listing.labels,
        shard=parts.file,
        offset=parts.offset,
        size=parts.size,
    )
    write_durably(cache, buffer.getvalue())


def _joined(texts: Sequence[str]) -> npt.NDArray[np.uint8]:
    return np.frombuffer("\0".join(texts).encode(), np.uint8)


def _split(text: bytes) -> list[str]:
    return text.decode().split("\0") if text else []
