"""Checks that make a store safe to open: it may come from anybody, so its metadata is checked before it is acted on.

No code runs: an array is opened only if its type, codecs and layout are those that a store is written with. No memory
is taken on a header's word: what is committed must have the size that the header claims, and is on the disk with that
size (``compress_ssl.storage.commits``). No file outside is read: ``compress_ssl.storage.places.names``.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from compress_ssl.storage import schema
from compress_ssl.storage.attributes import OTHERWISE, SIZE_LIMIT
from compress_ssl.storage.errors import StoreUnsafeError
from compress_ssl.storage.places.place import Place
from compress_ssl.storage.typed_json import parse_json


def array_metadata(path: Place, content: bytes) -> dict[str, Any]:
    """Return the metadata in the ``zarr.json`` of the array at ``path``, if it is one that a store has.

    Raises:
        StoreUnsafeError: If its type, codecs, layout or sizes are others.
        ValueError, KeyError, TypeError, AttributeError: If it is not an array's.
    """
    metadata = parse_json(f"{path}/zarr.json", content, dict[str, Any], otherwise=OTHERWISE)
    spec = schema.ARRAYS[path.name]
    codecs = ["vlen-utf8" if spec.dtype == "string" else "bytes", "crc32c"]
    shape, grid = metadata["shape"], metadata["chunk_grid"]
    chunks = grid["configuration"]["chunk_shape"]
    order = [codec.get("configuration", {}).get("endian", "little") for codec in metadata["codecs"]]
    sizes_fit = all(
        len(sizes) == len(spec.dimensions) and all(type(size) is int and least <= size < SIZE_LIMIT for size in sizes)
        for sizes, least in ((shape, 0), (chunks, 1))
    )
    expected = {
        "node_type": (metadata["node_type"], "array"),
        "format": (metadata["zarr_format"], 3),
        "type": (metadata["data_type"], spec.dtype),
        "codecs": ([codec["name"] for codec in metadata["codecs"]], codecs),
        "byte order": (order, ["little"] * len(codecs)),
        "chunk grid": (grid["name"], "regular"),
        "names of chunks": (metadata["chunk_key_encoding"], {"name": "default", "configuration": {"separator": "/"}}),
        "storage transformers": (metadata.get("storage_transformers", []), []),
        "sizes": ((shape, chunks), (shape, chunks) if sizes_fit else None),
    }
    for what, (found, wanted) in expected.items():
        if found != wanted:
            raise StoreUnsafeError(
                f"'{path}/zarr.json' has {what} {found!r:.200}, which no embedding store has; it was not opened: "
                "compare it with the original, or embed again."
            )
    return metadata


def check_committed_sizes(split: Place, chunks: Mapping[str, schema.Shape], records: Iterable[schema.Record]) -> None:
    """Check that what is committed is as large as the arrays' headers claim, so that reading takes no more memory.

    Args:
        chunks (mapping from array name to chunk shape)

    Raises:
        StoreUnsafeError: Naming the first part that is not.
    """
    for record in records:
        for key, part in record.items():
            name = key.partition("/")[0]
            spec = schema.ARRAYS[name]
            size = schema.chunk_bytes(spec, chunks[name])
            if size != part["size"] and spec.dtype != "string":
                raise StoreUnsafeError(
                    f"'{split / name}/zarr.json' claims chunks of {size:,} bytes, but '{key}' was committed with "
                    f"{part['size']:,}; compare it with the original, or embed again."
                )
