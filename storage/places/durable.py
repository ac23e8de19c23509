"""Writing files so that a reader never sees half a file and a power cut takes back nothing committed.

Bytes go to a ``.partial`` file beside their place, are flushed to the disk (fsync) and renamed into place; then the
folder is flushed.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PARTIAL_SUFFIX = ".partial"

Held = Callable[[], AbstractContextManager[object]]
"""Returns a context under which a file gets its name: a writer's ``Lease.held``."""


def write_durably(path: Path, data: bytes | bytearray | memoryview, held: Held = contextlib.nullcontext) -> None:
    """Write ``data`` to a file: whole and on the disk, or not at all.

    Args:
        held: Of the writer of what the file is a part of.

    Raises:
        OSError: If the disk fails or is full; names the file.
    """
    make_directory_durably(path.parent)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    with naming(path):
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with held():
                partial.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        flush_directory(path.parent)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in an ``OSError`` of the block that names none, as those of write and fsync do not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def json_bytes(value: Any) -> bytes:
    """Return ``value`` as indented JSON; the same value gives the same bytes."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def write_json_durably(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON; the same value gives the same bytes."""
    write_durably(path, json_bytes(value))


def make_directory_durably(path: Path) -> None:
    """Create a folder and its parents, each flushed into the folder that holds it."""
    if path.is_dir():
        return
    make_directory_durably(path.parent)
    path.mkdir(exist_ok=True)
    flush_directory(path.parent)


def flush_directory(path: Path) -> None:
    """Flush a folder's entries (names, renames, removals) to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
