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
from compress_ssl.pipeline.images.sources.source import MAX_CACHE_BYTES, Listing, check_name, is_image
from compress_ssl.pipeline.images.sources.text import make_listing
from compress_ssl.storage.places.durable import write_durably
from compress_ssl.storage.typed_files import read_bounded

LABEL_EXTENSION = ".cls"

MAX_CLASS_BYTES = 4096

FORMAT = 2
"""Of the cache; another one is older than the checks that a shard must pass."""

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
        if special := next((path for path in self.archives if not path.is_file()), None):
            raise InputError(f"'{special}' is not a file; take it away, or put the tar file there.")
        stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self.archives]
        stamp = json.dumps([FORMAT, stats])
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
                classes.append(class_of.get(name, ""))
                rows.append((number, offset, size))
        if not paths:
            raise InputError(f"The tar files of '{self.location}' hold no images; check the path.")
        if any(classes) and not all(classes):
            bare = paths[classes.index("")]
            raise InputError(f"'{bare}' of '{self.location}' has no {LABEL_EXTENSION} member, others have one; add it.")
        shards, offsets, sizes = np.array(rows, np.int64).T
        members = Members(make_listing(paths, classes), shards.astype(np.int32), offsets, sizes)
        try:
            if self.cache is not None:
                _write_cache(self.cache, stamp, members)
        except OSError as error:
            logger.warning("'%s' cannot be written (%s): the tar files are indexed anew.", self.cache, error.strerror)
        return members


def _read_shard(shard: Path) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Return offset and size of each image of a shard, and the class of each image that has one."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, str] = {}  # by key, the name of its label
    classes: dict[str, str] = {}  # by key
    size = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:", encoding="utf-8") as tar:
            for member in tar:
                tar.members.clear()  # type: ignore[attr-defined]  # or the TarFile keeps them all, a kilobyte each
                if tar.offset > size:
                    break
                name = posixpath.normpath(member.name)
                is_label = name.lower().endswith(LABEL_EXTENSION)
                if member.isdir() or not (is_label or is_image(name)):
                    continue
                _check_plain(shard, name, member, tar)
                if name in images or labels.get(_key(name)) == name:
                    raise InputError(f"The tar file '{shard}' holds '{name}' twice; write it again without one.")
                if is_label:
                    if (other := labels.setdefault(_key(name), name)) != name:
                        raise _of_one_key(shard, other, name)
                    classes[_key(name)] = _read_class(shard, member)
                else:
                    check_name(name, shard)
                    images[name] = member.offset_data, member.size
            end = tar.offset
    except tarfile.TarError as error:
        # Raised for the first member only; a broken later one looks like the end of the file.
        what = "is cut short" if "unexpected end" in str(error) else "is not an uncompressed tar file"
        raise InputError(f"'{shard}' {what}; copy it again, or make it again.") from error
    _check_end(shard, end)
    image_of: dict[str, str] = {}  # by key
    for name in images:
        label, other = labels.get(_key(name)), image_of.setdefault(_key(name), name)
        if label is not None and other is not name and _stem(label) != _key(name):
            raise _of_one_key(shard, other, name)
    return images, {name: classes[key] for name in images if (key := _key(name)) in classes}


def _check_plain(shard: Path, name: str, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
    """Check that a member is a file whose bytes are in the tar, as they are and as many as it says."""
    end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    whole = end == tar.offset and "size" not in tar.pax_headers  # where the next one is
    if not member.isreg() or member.issparse() or not whole:
        raise InputError(f"'{name}' in tar file '{shard}' is not a regular file; write it again as one.")


def _check_end(shard: Path, end: int) -> None:
    """Check that nothing but zeros, and a block of them, follows the last member that was found."""
    with shard.open("rb") as file:
        file.seek(end)
        mark = file.read(tarfile.BLOCKSIZE)
        if mark != bytes(tarfile.BLOCKSIZE):
            raise InputError(f"'{shard}' is cut short: it has no end mark; copy it again, or make it again.")
        while block := file.read(tarfile.RECORDSIZE):
            if any(block):
                break
        else:
            return
        at = file.tell() - len(block) + (len(block) - len(block.lstrip(b"\0")))
        at -= at % tarfile.BLOCKSIZE
        file.seek(at)
        header = file.read(tarfile.BLOCKSIZE)
    try:
        lost = f"'{tarfile.TarInfo.frombuf(header, 'utf-8', 'surrogateescape').name}' and what follows it"
    except tarfile.TarError:
        lost = f"{shard.stat().st_size - at:,} bytes"
    raise InputError(
        f"'{shard}' goes on behind its end mark, as after 'cat a.tar b.tar': {lost} would be left out; give its parts "
        "as shards, or join them with 'tar --concatenate'."
    )


def _of_one_key(shard: Path, one: str, other: str) -> InputError:
    return InputError(
        f"'{one}' and '{other}' in tar file '{shard}' have the same key, '{_key(one).lstrip('/')}' (a name up to its "
        "first dot), and so one class; write them again with other dots, such as photo-hat00.jpg."
    )


def _key(name: str) -> str:
    folder, _, last = name.rpartition("/")
    return f"{folder}/{last.partition('.')[0]}"


def _stem(label: str) -> str:
    """Return the key that a label's whole name stands for: without its last extension alone."""
    folder, _, last = label.rpartition("/")
    return f"{folder}/{last[: -len(LABEL_EXTENSION)]}"


def _read_class(shard: Path, member: tarfile.TarInfo) -> str:
    where = f"{shard}/{posixpath.normpath(member.name)}"
    try:
        name = read_range(shard, member.offset_data, min(member.size, MAX_CLASS_BYTES)).decode().strip()
    except UnicodeDecodeError as error:
        raise InputError(f"The class in '{where}' is not UTF-8 text; write it again.") from error
    if not name:
        raise InputError(f"The class in '{where}' is empty; write a name or a number.")
    if member.size > MAX_CLASS_BYTES or not name.isprintable():
        raise InputError(f"The class in '{where}' is not one line of text; write a name or a number.")
    return name


def _read_cache(cache: Path, stamp: str) -> Members | None:
    try:
        with np.load(io.BytesIO(read_bounded(cache, MAX_CACHE_BYTES)), allow_pickle=False) as table:
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
