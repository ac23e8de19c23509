"""``RemotePath``: an object, or a folder of objects, behind a URL, as a place of a store.

``s3://`` and ``gs://`` are read and written. ``https://`` and ``http://`` are only read and cannot be listed: a web
server shows only what is asked for by name.

An object store cannot rename. A store is replaced thus: the object ``NAME.creating`` is put beside it, the old root's
``zarr.json`` is deleted first, the new one is written last. Without it there is no store, and the object beside it
records that what is there may be deleted.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import tempfile
import uuid
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast
from urllib.parse import unquote

from compress_ssl.storage.errors import StoreBusyError, StoreError, StoreExistsError
from compress_ssl.storage.places.connection import ObjectStat, PutRefusedError, client
from compress_ssl.storage.places.lease import ATTEMPTS, LeaseSlot, lease_over
from compress_ssl.storage.places.local import LocalPath
from compress_ssl.storage.places.names import ROOT
from compress_ssl.storage.places.parallel import map_threads
from compress_ssl.storage.places.retries import ask
from compress_ssl.storage.places.urls import WRITABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from obstore import PutMode

    from compress_ssl.storage.places.connection import Version

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")


@dataclass(frozen=True, order=True)
class RemotePath:
    """An object behind a URL, or the folder of objects whose names begin with it; ``Place`` documents its methods."""

    root: str  # scheme and bucket or host: ``s3://bucket``
    key: str  # the rest, without a slash at either end

    is_local: ClassVar[bool] = False

    def __str__(self) -> str:
        return f"{self.root}/{self.key}" if self.key else self.root

    def __truediv__(self, below: str) -> RemotePath:
        return RemotePath(self.root, f"{self.key}/{below}".strip("/"))

    @property
    def name(self) -> str:
        """Last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        """The folder that it is in."""
        return RemotePath(self.root, self.key.rpartition("/")[0])

    @property
    def is_writable(self) -> bool:
        """True for the schemes that can be written to and listed."""
        return self.root.partition(":")[0] in WRITABLE

    def with_name(self, name: str) -> RemotePath:
        return self.parent / name

    def relative_to(self, folder: RemotePath) -> PurePosixPath:
        return PurePosixPath(self.key).relative_to(folder.key)

    def resolve(self) -> RemotePath:
        return self

    def absolute(self) -> RemotePath:
        return self

    def _ask(self, request: Callable[[Any], Answer]) -> Answer:
        """Return the answer to a request that is sent through the client of the server, again if it fails."""
        return ask(self, lambda: request(client(self.root)))

    @property
    def _object(self) -> str:
        """The key as the client wants it: without the percent signs of a web server's URL."""
        return self.key if self.is_writable else unquote(self.key)

    def read_bytes(self, limit: int | None = None) -> bytes:
        return self.read(limit)[0]

    @contextlib.contextmanager
    def reading(self, limit: int | None = None) -> Iterator[io.BufferedIOBase]:
        yield io.BytesIO(self.read_bytes(limit))

    def read(self, limit: int | None = None) -> tuple[bytes, Version]:
        """Return the content, and the version that has it."""

        def read(client: Any) -> tuple[bytes, Version]:
            answer = client.get(self._object)
            if limit is not None and answer.meta["size"] > limit:
                raise OSError(errno.EFBIG, f"Is larger than {limit:,} bytes", str(self))
            return bytes(answer.bytes()), _version(answer.meta)

        return self._ask(read)

    def write_bytes(self, data: bytes | bytearray | memoryview, mode: PutMode = "overwrite") -> Version:
        """Write the object, whole or not at all; returns its version.

        Raises:
            PutRefusedError: If ``mode`` forbids it.
        """
        self.check_writable()
        content = bytes(data)
        try:
            # In one request, whatever its size: an upload in parts that is broken off is paid for, and unseen.
            put = self._ask(lambda client: client.put(self._object, content, mode=mode, use_multipart=False))
        except PutRefusedError as refused:
            if refused.was_sent_before:
                with contextlib.suppress(FileNotFoundError):
                    found, version = self.read()
                    if found == content:  # an earlier attempt put it, and only its answer was lost
                        return version
            raise
        return _version(put)

    def write_durably(self, data: bytes | bytearray | memoryview) -> None:
        lease = lease_over(self)
        if lease is None:
            self.write_bytes(data)
            return
        # A put that was under way when its writer was suspended arrives later. It must not replace what the next writer
        # has put: so it is refused unless what is there is what was there before its writer looked at the lease.
        version: Version | None = None
        for _ in range(ATTEMPTS):
            lease.check()
            with contextlib.suppress(PutRefusedError, FileNotFoundError):
                self.write_bytes(data, version or "create")
                return
            version = self._version()
        raise StoreBusyError(f"'{self}' is written by several processes at once; stop all but one.")

    def _version(self) -> Version | None:
        try:
            return self.stat().version
        except FileNotFoundError:
            return None

    def stat(self) -> ObjectStat:
        """Return size and version; FileNotFoundError if there is no such object."""
        meta = self._ask(lambda client: client.head(self._object))
        return ObjectStat(meta["size"], _version(meta), meta["last_modified"])

    def size(self) -> int:
        return self.stat().bytes

    def is_file(self) -> bool:
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        return next(self.iterdir(), None) is not None

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator[RemotePath]:
        folders, objects = self._below()
        yield from sorted(folders + objects)

    def folders(self) -> list[RemotePath]:
        return sorted(self._below()[0])

    def _below(self) -> tuple[list[RemotePath], list[RemotePath]]:
        """Return the folders and the objects directly below; none behind https."""
        if not self.is_writable:
            return [], []
        below = self._ask(lambda client: client.list_with_delimiter(f"{self.key}/" if self.key else None))
        keys = below["common_prefixes"], [meta["path"] for meta in below["objects"]]
        folders, objects = (
            [RemotePath(self.root, key.strip("/")) for key in found if key.strip("/") != self.key] for found in keys
        )
        return folders, objects

    def glob(self, pattern: str) -> Iterator[RemotePath]:
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

    def files(self) -> Iterator[RemotePath]:
        return (RemotePath(self.root, key) for key in self._sizes())

    def unlink(self, missing_ok: bool = False) -> None:
        self.check_writable()
        if lease := lease_over(self):
            lease.check()
        if not missing_ok and not self.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        # Some servers answer a deletion of nothing with an error, others do not.
        with contextlib.suppress(FileNotFoundError):
            self._ask(lambda client: client.delete(self._object))

    def check_writable(self) -> None:
        if not (self.is_writable and self.key):
            what = "is a whole bucket" if self.is_writable else "can only be read"
            raise StoreError(f"'{self}' {what}; write to a folder, or to {' or '.join(WRITABLE)}://BUCKET/NAME.")

    def remove_tree(self) -> None:
        list(map_threads(lambda path: path.unlink(missing_ok=True), list(self.files())))

    def sweep_partial_files(self) -> int:
        return 0

    def make_read_only(self) -> None:
        """Do nothing: objects have no such mark."""

    def lease_slot(self) -> LeaseSlot:
        return LeaseObject(self.with_name(f"{self.name}.lease"))

    def inside(self, key: str) -> RemotePath:
        return self / key

    def sizes(self) -> dict[str, int]:
        return {key.removeprefix(f"{self.key}/"): size for key, size in self._sizes().items()}

    def _sizes(self) -> dict[str, int]:
        """Return the sizes of all objects below, by key."""
        pages = self._ask(lambda client: list(client.list(f"{self.key}/" if self.key else None)))
        return {meta["path"]: meta["size"] for metas in pages for meta in metas}

    @contextlib.contextmanager
    def replaced(self) -> Iterator[LocalPath]:
        with tempfile.TemporaryDirectory(prefix="compress-ssl-") as temporary:
            folder = LocalPath(temporary)
            yield folder
            with self.assembled(""):
                self.remove_tree()
                keys = {file.relative_to(folder).as_posix() for file in folder.files()} - {ROOT}
                list(map_threads(lambda key: (self / key).write_durably((folder / key).read_bytes()), keys))
                (self / ROOT).write_durably((folder / ROOT).read_bytes())

    @contextlib.contextmanager
    def assembled(self, whole: str) -> Iterator[RemotePath]:
        mark, sentence = self._creating
        if mark.is_file() and not self._is_marked():
            raise StoreExistsError(f"'{mark}' is needed and holds something else; move it away, or give another place.")
        mark.write_durably(sentence)
        (self / ROOT).unlink(missing_ok=True)
        yield self
        mark.unlink(missing_ok=True)

    @property
    def _creating(self) -> tuple[RemotePath, bytes]:
        """The object that marks a store as unfinished, and what it holds."""
        sentence = f"The store {self.name} is being created, or its creation was interrupted.\n"
        return self.with_name(f"{self.name}.creating"), sentence.encode()

    def _is_marked(self) -> bool:
        mark, sentence = self._creating
        with contextlib.suppress(FileNotFoundError):
            return mark.read_bytes() == sentence
        return False

    def is_half_created(self) -> bool:
        return self._is_marked() and not (self / ROOT).is_file()

    def existing_parent(self) -> RemotePath:
        return self.parent

    def free_bytes(self) -> int | None:
        return None

    @contextlib.contextmanager
    def scratch(self) -> Iterator[RemotePath]:
        place = self.with_name(f"{self.name}.{uuid.uuid4().hex}.estimate")
        try:
            yield place
        finally:
            place.remove_tree()


@dataclass(frozen=True)
class LeaseObject:
    """A lease on an object store; its version is the object's."""

    path: RemotePath

    def read(self) -> tuple[bytes, Version]:
        return self.path.read()

    def put(self, content: bytes, version: Version | None) -> Version | None:
        try:
            put = self.path.write_bytes(content, "create" if version is None else version)
        except (PutRefusedError, FileNotFoundError):
            return None
        if version is None:
            self._check_conditions(content)
        return put

    def _check_conditions(self, content: bytes) -> None:
        """Warn if the server puts the lease again though it is there, or though it is of another version."""
        conditions: tuple[PutMode, ...] = ("create", {"e_tag": '"0"', "version": "1"})
        for condition in conditions:
            try:
                self.path.write_bytes(content, condition)
            except PutRefusedError:
                continue
            logger.warning(
                "The server of '%s' ignores conditions of puts (If-None-Match, If-Match): a second writer would not "
                "be noticed. Write with one process at a time, or use another server.", self.path.parent,
            )  # fmt: skip
            return

    def remove(self, version: Version) -> None:
        self.path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def kept(self) -> Iterator[bytes]:
        content = b""
        with contextlib.suppress(FileNotFoundError):
            content = self.path.read_bytes()
        yield content

    def age(self) -> float:
        probe = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}")
        probe.write_bytes(b"")
        try:
            return (probe.stat().changed - self.path.stat().changed).total_seconds()
        finally:
            probe.unlink(missing_ok=True)


def _version(answer: Any) -> Version:
    known = {key: answer[key] for key in ("e_tag", "version") if answer[key]}
    return cast("Version", known)
