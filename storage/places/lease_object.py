"""A writer's lease as an object of a server, which is changed by conditional puts."""

from __future__ import annotations

import contextlib
import logging
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress_ssl.storage.places.connection import PutRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from obstore import PutMode

    from compress_ssl.storage.places.connection import Version
    from compress_ssl.storage.places.remote import RemotePath

logger = logging.getLogger(__name__)


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
