"""The chunks of a store's arrays, written and read without zarr, whose pipeline takes several times as long.

A chunk of numbers holds the rows of a block, filled up with the array's fill value, little-endian and not compressed,
then the crc32c of these bytes: what zarr writes, and what any zarr reader reads. A reader here compares the bytes with
the commit record instead. Zarr itself reads a missing chunk as fill values, and one in another's place as if it
belonged there (its checksum is right).

Letters: R rows of a block, N rows asked for.
"""

import contextlib
import errno
import io
import math
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import xxhash

from compress_ssl.storage import schema
from compress_ssl.storage.errors import StoreUnsafeError
from compress_ssl.storage.places.cache import ATTEMPTS, CHANGED, MISSING, ChunkCache, damaged, fetch
from compress_ssl.storage.places.place import Place
from compress_ssl.storage.schema import CHECKSUM_BYTES, COUNT_BYTES, HASH_DIGITS, LENGTH_BYTES, PIECE_BYTES, Part, Shape

STEP_BYTES = 2**19  # that a core's cache holds while they are read, hashed and looked at

Look = Callable[[npt.NDArray[Any]], object]


def encode(
    name: str,
    rows: npt.NDArray[Any],
    block_rows: int,
    without: npt.NDArray[np.bool_] | None = None,
    look: Look = lambda values: None,
) -> memoryview:
    """Return the chunk that holds these rows (up to R, ...) of an array of numbers, cast to its type.

    Args:
        without: True for the rows that are to hold the fill value.
        look: Called with the values of some rows after others, while they are in a core's cache.
    """
    spec, row = schema.ARRAYS[name], rows.shape[1:]
    chunk = np.empty(schema.chunk_bytes(spec, (block_rows, *row)), np.uint8)
    numbers, checksum = chunk[:-CHECKSUM_BYTES], chunk[-CHECKSUM_BYTES:].view("<u4")
    values = numbers.view(schema.stored_type(spec)).reshape(block_rows, *row)
    values[len(rows) :] = spec.fill_value
    step = max(1, STEP_BYTES // values[0].nbytes)
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        with np.errstate(over="ignore"):
            values[: len(rows)][some] = rows[some]
        if without is not None:
            values[: len(rows)][some][without[some]] = spec.fill_value
        look(values[: len(rows)][some])
    checksum[0] = google_crc32c.value(numbers)
    return chunk.data


class ChunkReader:
    """Reads chunks of one store, and compares them with their commit records; those of a server come from the cache.

    Every method raises StoreDamagedError if a chunk is missing or has other bytes than were committed, twice.
    """

    def __init__(self, store: Place) -> None:
        self._cache = None if store.is_local else ChunkCache()

    def bytes(self, path: Place, part: Part) -> bytes:
        """Return the bytes of a chunk."""
        return self._cache.read(path, part) if self._cache else fetch(path, part)

    def fill(self, path: Place, part: Part, rows: npt.NDArray[Any], look: Look = lambda values: None) -> None:
        """Fill a contiguous array (up to R, ...) with the first rows of a chunk.

        Args:
            look: Called with the values of some rows after others, while they are in a core's cache; before it is known
                whether they are what was committed.
        """
        values = rows.reshape(-1)
        rest = np.empty(part["size"] - values.nbytes, np.uint8)
        step = STEP_BYTES // values.itemsize
        for _ in range(ATTEMPTS):
            digest, read = xxhash.xxh3_64(), 0
            with self._reading(path, part) as file:
                for start in range(0, len(values), step):
                    some = values[start : start + step]
                    read += file.readinto(some.data)
                    digest.update(some.data)
                    look(some)
                read += file.readinto(rest.data)
                digest.update(rest.data)
            if read == part["size"] and digest.hexdigest() == part["xxh3_64"]:
                return
        raise damaged(path, CHANGED)

    def rows(
        self, path: Place, part: Part, wanted: npt.NDArray[np.intp], shape: Shape, dtype: np.dtype[Any]
    ) -> npt.NDArray[Any]:
        """Return some rows (N, ...) of a chunk, each of this shape and type; reads only the pieces that they are in.

        Without hashes of pieces, as an earlier release wrote, the chunk is one piece.
        """
        size, hashes = (PIECE_BYTES, part["pieces"]) if "pieces" in part else (part["size"], part["xxh3_64"])
        row_bytes = dtype.itemsize * math.prod(shape)
        first, last = wanted * row_bytes // size, ((wanted + 1) * row_bytes - 1) // size
        pieces = sorted(set[int]().union(*map(range, first.tolist(), (last + 1).tolist())))
        begins = wanted * row_bytes + (np.searchsorted(pieces, first) - first) * size  # among these pieces
        for _ in range(ATTEMPTS):
            with self._reading(path, part) as file:
                found = [_read(file, piece * size, size) for piece in pieces]
            if all(map(_is_piece, found, pieces, repeat(hashes))):
                content = np.frombuffer(b"".join(found), np.uint8)
                rows = np.stack([content[begin : begin + row_bytes] for begin in begins])
                return rows.view(dtype).reshape(len(wanted), *shape)
        raise damaged(path, CHANGED)

    @contextlib.contextmanager
    def _reading(self, path: Place, part: Part) -> Iterator[io.BufferedIOBase]:
        if self._cache:
            yield io.BytesIO(self._cache.read(path, part))
            return
        try:
            with path.reading(part["size"]) as file:
                yield file
        except FileNotFoundError as error:
            raise damaged(path, MISSING) from error
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            raise damaged(path, CHANGED) from error


def _read(file: io.BufferedIOBase, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)


def _is_piece(content: bytes, number: int, hashes: str) -> bool:
    return xxhash.xxh3_64_hexdigest(content) == hashes[HASH_DIGITS * number : HASH_DIGITS * (number + 1)]


def texts(path: Place, content: bytes, count: int) -> list[str]:
    """Return the texts of a chunk: their number, then the length in bytes of each and its UTF-8.

    Raises:
        StoreUnsafeError: If it claims to hold another number of texts than a block has.
        ValueError: If it is not of this form.
    """
    claimed = int.from_bytes(content[:COUNT_BYTES], "little")
    if claimed != count:
        raise StoreUnsafeError(
            f"'{path}' claims to hold {claimed:,} texts instead of {count:,}; get the store from whoever made it, or "
            "embed again."
        )
    found, end = [], COUNT_BYTES
    for _ in range(count):
        start = end + LENGTH_BYTES
        end = start + int.from_bytes(content[end:start], "little")
        found.append(str(content[start:end], "utf-8"))
    if end != len(content) - CHECKSUM_BYTES:
        raise ValueError(f"the texts of '{path}' end at byte {end:,} of {len(content):,}")
    return found
