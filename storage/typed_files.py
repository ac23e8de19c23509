"""Reading small files that may come from anybody, or be damaged: JSON, TOML and text, bounded and typed.

A file is read only if it is a regular one and not larger than its bound; its JSON must fit a type (``typed_json``).
What does not is an ``UnreadableFileError``: one sentence that names the file and the first fault. A missing file stays
``FileNotFoundError``, a failing disk ``OSError``.
"""

from __future__ import annotations

import errno
import tomllib
from typing import TYPE_CHECKING, Any, TypeVar

from compress_ssl.storage.errors import UnreadableFileError
from compress_ssl.storage.places.place import location
from compress_ssl.storage.typed_json import OTHERWISE, parse_json

if TYPE_CHECKING:
    from compress_ssl.storage.places.place import PlaceLike

MAX_BYTES = 2**26  # of a JSON file: commit records of 100 million images are a tenth of it
MAX_TEXT_BYTES = 2**22  # of a TOML file or another that people write
MAX_DEPTH = 100  # of the tables in a TOML file

T = TypeVar("T")


def read_json(place: PlaceLike, model: type[T], *, otherwise: str = OTHERWISE, limit: int = MAX_BYTES) -> T:
    """Return what a JSON file holds, as ``model``: a pydantic model or any type that pydantic checks.

    Args:
        otherwise: What the user is to do if the file cannot be used; the end of the error's sentence.
        limit: Bytes that the file may have.

    Raises:
        UnreadableFileError: If it is no regular file, too large, no JSON, or does not fit the model.
        OSError: If it is missing, or cannot be read.
    """
    return parse_json(place, read_bounded(place, limit, otherwise=otherwise), model, otherwise=otherwise)


def read_toml(place: PlaceLike, *, otherwise: str = "correct it") -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        UnreadableFileError: If it is no regular file, larger than 4 MiB, no TOML, or nested deeper than 100 levels.
        OSError: If it is missing, or cannot be read.
    """
    text = read_text(place, otherwise=otherwise)
    try:
        tables = tomllib.loads(text)
    except ValueError as error:  # a TOMLDecodeError, or an integer of thousands of digits
        raise UnreadableFileError(place, f"is not valid TOML ({error})", otherwise) from error
    except RecursionError as error:
        raise UnreadableFileError(place, "is nested too deeply", otherwise) from error
    level: list[Any] = [tables]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    if level:
        raise UnreadableFileError(place, "is nested too deeply", otherwise)
    return tables


def read_text(place: PlaceLike, *, otherwise: str = OTHERWISE, limit: int = MAX_TEXT_BYTES) -> str:
    """Return the text of a UTF-8 file, without a byte order mark. Raises as ``read_json``."""
    try:
        return read_bounded(place, limit, otherwise=otherwise).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableFileError(place, f"is not UTF-8 text (byte {error.start})", otherwise) from error


def read_bounded(place: PlaceLike, limit: int, *, otherwise: str = OTHERWISE) -> bytes:
    """Return the bytes of a regular file that has at most ``limit`` of them. Raises as ``read_json``."""
    try:
        return location(place).read_bytes(limit)
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.EINVAL, errno.EFBIG):
            reason = str(error.strerror)
            raise UnreadableFileError(place, f"{reason[0].lower()}{reason[1:]}", otherwise) from error
        raise
