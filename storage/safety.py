"""Safe to open: a store may come from anybody, so what it says of itself is checked before it is acted on.

No code runs: an array is opened only if its type, its codecs and its layout are those that a store is written with. No
memory is taken on a header's word: what is committed has to have the size that the header claims, and is on the disk with
that size (``compress_ssl.storage.commits``). No file is read outside: ``compress_ssl.storage.places.names``.
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import TYPE_CHECKING, Any

from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from compress_ssl.storage import schema
from compress_ssl.storage.errors import StoreUnsafeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from zarr.abc.store import Store

    from compress_ssl.storage.commits import Record
    from compress_ssl.storage.places.remote import Place

MOST = 2**48
"""Of rows, views, features: more than any store can have, and their product is still a number that numpy can hold."""

MOST_PIXELS = 2**14
"""Of a view's side: memory for a batch of views is taken by it."""

CHECKSUM_BYTES = 4
COUNT_BYTES = 4
"""With which a chunk of texts begins: their number."""


def array_metadata(path: Place, content: bytes) -> dict[str, Any]:
    """The metadata in an array's ``zarr.json``, if it is one that a store has.

    Parameters
    ----------
    path : Path or RemotePath
        Of the array.
    content : bytes
        Of its ``zarr.json``.

    Raises
    ------
    StoreUnsafeError
        If its type, codecs, layout or sizes are others.
    ValueError, KeyError, TypeError, AttributeError
        If it is not an array's.
    """
    metadata: dict[str, Any] = json.loads(content)
    spec = (schema.VIEW_ARRAYS | schema.SAMPLE_ARRAYS)[path.name]
    codecs = ["vlen-utf8" if spec.dtype == "string" else "bytes", "crc32c"]
    shape, grid = metadata["shape"], metadata["chunk_grid"]
    chunks = grid["configuration"]["chunk_shape"]
    order = [codec.get("configuration", {}).get("endian", "little") for codec in metadata["codecs"]]
    dimensions = len(spec.dimensions)
    expected = {
        "node_type": (metadata["node_type"], "array"),
        "format": (metadata["zarr_format"], 3),
        "type": (metadata["data_type"], spec.dtype),
        "codecs": ([codec["name"] for codec in metadata["codecs"]], codecs),
        "byte order": (order, ["little"] * len(codecs)),
        "chunk grid": (grid["name"], "regular"),
        "names of chunks": (metadata["chunk_key_encoding"], {"name": "default", "configuration": {"separator": "/"}}),
        "storage transformers": (metadata.get("storage_transformers", []), []),
        "sizes": ((shape, chunks), (_sizes(shape, dimensions, 0), _sizes(chunks, dimensions, 1))),
    }
    for what, (found, wanted) in expected.items():
        if found != wanted:
            raise StoreUnsafeError(
                f"'{path}/zarr.json' says {what} {found!r}, which no embedding store has; it was not opened: get the store "
                "from whoever made it, or embed again."
            )
    return metadata


def _sizes(found: Sequence[Any], count: int, least: int) -> list[int] | None:
    """The sizes found, if they are so many that a shape can have."""
    good = len(found) == count and all(type(size) is int and least <= size < MOST for size in found)
    return list(found) if good else None


def check_views(views: Any) -> None:
    """Check that views are described by tables, and are of a size that can be rendered; it need not be said.

    Raises
    ------
    ValueError
        Naming the first that is not.
    """
    for number, view in enumerate(views):
        size = view.get("size", 1)
        if type(size) is not int or not 1 <= size <= MOST_PIXELS:
            raise ValueError(f"view {number} has the size {size!r}")


def check_committed_sizes(path: Place, chunks: Mapping[str, schema.Shape], records: Iterable[Record]) -> None:
    """Check that what is committed is as large as the headers of the arrays say, so that reading it takes no more memory.

    Parameters
    ----------
    path : Path or RemotePath
        Of the split.
    chunks : mapping from array name to shape
    records : iterable of Record

    Raises
    ------
    StoreUnsafeError
        Naming the first part that is not.
    """
    specs = schema.VIEW_ARRAYS | schema.SAMPLE_ARRAYS
    for record in records:
        for key, part in record.items():
            name = key.partition("/")[0]
            size = schema.item_size(specs[name]) * math.prod(chunks[name]) + CHECKSUM_BYTES
            if size != part["size"] and specs[name].dtype != "string":
                raise StoreUnsafeError(
                    f"'{path / name}/zarr.json' says chunks of {size:,} bytes, but '{key}' was committed with "
                    f"{part['size']:,}; get the store from whoever made it, or embed again."
                )


def check_text_counts(path: Place, store: Store, keys: Sequence[str], count: int) -> None:
    """Check that chunks of texts say to hold as many as a block has: their decoder takes memory for what they say.

    Parameters
    ----------
    path : Path or RemotePath
        Of the split.
    store : zarr Store
        That the split is in.
    keys : sequence of str
        Of the chunks, relative to the split.
    count : int

    Raises
    ------
    StoreUnsafeError
        Naming the first chunk that says something else.
    """
    for key, head in zip(keys, sync(_heads(store, [f"{path.name}/{key}" for key in keys])), strict=True):
        if int.from_bytes(head, "little") != count:
            raise StoreUnsafeError(
                f"'{path / key}' says that it holds {int.from_bytes(head, 'little'):,} texts, where {count:,} belong; get "
                "the store from whoever made it, or embed again."
            )


async def _heads(store: Store, keys: Sequence[str]) -> list[bytes]:
    prototype, first = default_buffer_prototype(), RangeByteRequest(0, COUNT_BYTES)
    buffers = await asyncio.gather(*(store.get(key, prototype, first) for key in keys))
    return [buffer.to_bytes() if buffer is not None else b"" for buffer in buffers]
