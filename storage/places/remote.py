"""Places of stores: a folder, or a URL. ``RemotePath`` has of pathlib's methods those that the storage code calls.

``s3://`` and ``gs://`` are read and written, ``https://`` and ``http://`` are read only, and cannot be listed: a web server
shows what is asked for by its name.
"""

from __future__ import annotations

import errno
import io
import os
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast
from urllib.parse import urlsplit

from compress_ssl.storage.errors import StoreError
from compress_ssl.storage.places.connection import client, object_name, reaching, without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from obstore import PutMode, UpdateVersion

WRITABLE = ("s3", "gs")
READ_ONLY = ("https", "http")


Version: TypeAlias = "UpdateVersion"
"""Tells an object from what was under its name before and will be after: its ETag, its generation, or both."""


class ObjectStat(NamedTuple):
    """What a server says of an object."""

    st_size: int
    """In bytes, by the name that os.stat has for it."""
    version: Version
    changed: datetime


@dataclass(frozen=True, order=True)
class RemotePath:
    """An object behind a URL, or the folder of objects whose names begin with it."""

    root: str
    """Scheme and bucket or host: ``s3://bucket``."""
    key: str
    """The rest, without a slash at either end."""

    def __str__(self) -> str:
        return f"{self.root}/{self.key}" if self.key else self.root

    def __truediv__(self, below: str) -> RemotePath:
        return RemotePath(self.root, f"{self.key}/{below}".strip("/"))

    @property
    def name(self) -> str:
        """Last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> RemotePath:
        """The folder that it is in."""
        return RemotePath(self.root, self.key.rpartition("/")[0])

    @property
    def is_writable(self) -> bool:
        """Whether its scheme can be written to."""
        return self.root.partition(":")[0] in WRITABLE

    def with_name(self, name: str) -> RemotePath:
        """Its sibling of another name."""
        return self.parent / name

    def relative_to(self, folder: RemotePath) -> PurePosixPath:
        """The way to it from a folder that it is in."""
        return PurePosixPath(self.key).relative_to(folder.key)

    def resolve(self) -> RemotePath:
        """Itself: there are no links."""
        return self

    def read_bytes(self) -> bytes:
        """The object's bytes; FileNotFoundError if there is none."""
        with reaching(self):
            return bytes(client(self.root).get(object_name(self)).bytes())

    def open(self, mode: str = "rb") -> io.BytesIO:
        """The object's bytes as an open file."""
        del mode
        return io.BytesIO(self.read_bytes())

    def write_bytes(self, data: bytes | bytearray | memoryview, mode: PutMode = "overwrite") -> Version:
        """Write the object, whole or not at all; returns its version.

        Raises
        ------
        obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError
            If ``mode`` forbids it.
        """
        check_writable(self)
        with reaching(self):
            # In one request, whatever its size: an upload in parts that is broken off is paid for, and unseen.
            result = client(self.root).put(object_name(self), bytes(data), mode=mode, use_multipart=False)
        return _version(result)

    def stat(self) -> ObjectStat:
        """Size and version; FileNotFoundError if there is no such object."""
        with reaching(self):
            meta = client(self.root).head(object_name(self))
        return ObjectStat(meta["size"], _version(meta), meta["last_modified"])

    def is_file(self) -> bool:
        """Whether there is such an object."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether there are objects below; never so behind https."""
        return next(self.iterdir(), None) is not None

    def exists(self) -> bool:
        """Whether there is anything."""
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator[RemotePath]:
        """Objects and folders directly below; none behind https."""
        if not self.is_writable:
            return
        with reaching(self):
            below = client(self.root).list_with_delimiter(f"{self.key}/" if self.key else None)
        keys = [*below["common_prefixes"], *(meta["path"] for meta in below["objects"])]
        yield from (RemotePath(self.root, key.strip("/")) for key in sorted(keys) if key.strip("/") != self.key)

    def folders(self) -> Iterator[RemotePath]:
        """Folders directly below; none behind https."""
        if self.is_writable:
            with reaching(self):
                below = client(self.root).list_with_delimiter(f"{self.key}/" if self.key else None)
            yield from (RemotePath(self.root, key.strip("/")) for key in sorted(below["common_prefixes"]))

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """What matches a pattern, as pathlib's without ``**``."""
        first, _, rest = pattern.partition("/")
        found: Iterator[RemotePath]
        if any(sign in first for sign in "*?["):
            found = (path for path in self.iterdir() if fnmatchcase(path.name, first))
        else:
            found = iter([self / first] if rest or (self / first).exists() else [])
        for path in found:
            if rest:
                yield from path.glob(rest)
            else:
                yield path

    def walk(self) -> Iterator[RemotePath]:
        """All objects below."""
        with reaching(self):
            for metas in client(self.root).list(f"{self.key}/" if self.key else None):
                yield from (RemotePath(self.root, meta["path"]) for meta in metas)

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object."""
        check_writable(self)
        if not missing_ok and not self.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        try:
            with reaching(self):
                client(self.root).delete(object_name(self))
        except FileNotFoundError:  # some servers say so, others do not
            pass

    def remove_tree(self) -> None:
        """Delete all objects below."""
        for path in list(self.walk()):
            path.unlink(missing_ok=True)


Place: TypeAlias = Path | RemotePath
"""Where a store is."""


def _version(answer: Any) -> Version:
    known = {key: answer[key] for key in ("e_tag", "version") if answer[key]}
    return cast("Version", known)


def check_writable(place: Place) -> None:
    """Check that a place is of a kind that can be written.

    Raises
    ------
    StoreError
        If it is a web server's, or a whole bucket.
    """
    if isinstance(place, RemotePath) and not (place.is_writable and place.key):
        what = "is a whole bucket" if place.is_writable else "can only be read"
        raise StoreError(f"'{place}' {what}; write to a folder, or to {' or '.join(WRITABLE)}://BUCKET/NAME.")


def location(text: str | Path | RemotePath) -> Place:
    """The place that a user means: a URL where the text begins as one, else a path.

    Raises
    ------
    StoreError
        If it is no URL that a store can have; says it without the secrets that it may hold.
    """
    if isinstance(text, RemotePath):
        return text
    scheme, colon, rest = str(text).partition(":")
    known = scheme.lower() in (*WRITABLE, *READ_ONLY)
    if not colon or not (rest.startswith("//") or (known and rest.startswith("/"))) or not scheme.isalnum():
        return Path(text)
    shown = without_secrets(str(text))
    if not known or not rest.startswith("//"):
        raise StoreError(
            f"'{shown}' is no place for a store; give a folder, or a URL as s3://BUCKET/NAME, gs://, https://."
        )
    parts = urlsplit(str(text))
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise StoreError(
            f"'{shown}' was given with a password, a signature or other settings, which would end up in records; leave them "
            "out: they are taken from the environment, ~/.aws, GOOGLE_APPLICATION_CREDENTIALS or ~/.netrc."
        )
    key = re.sub("/+", "/", parts.path).strip("/")
    if not parts.netloc or ".." in key.split("/"):
        raise StoreError(f"'{shown}' names no bucket or host, or leaves it by '..'; give {scheme}://BUCKET/NAME.")
    return RemotePath(f"{scheme.lower()}://{parts.netloc}", key)
