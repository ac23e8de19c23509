"""zarr stores over a place: one to write, which is durable, and one to open, which compares metadata with the format.

zarr makes the hierarchy, reads and writes its metadata, and writes the per-sample arrays; the chunks of the views are
written, and all chunks are read, by ``compress_ssl.storage.chunks``.
"""

import asyncio
import builtins
from collections.abc import AsyncIterator, Iterable
from typing import Self

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest

from compress_ssl.storage.commits import part_of
from compress_ssl.storage.errors import StoreError
from compress_ssl.storage.places.place import Place
from compress_ssl.storage.safety import array_metadata
from compress_ssl.storage.schema import ARRAYS, Part


class PlaceStore(Store):
    """A zarr store in a folder or behind a URL; every object is durable once it is written."""

    supports_writes = True
    supports_deletes = True
    supports_listing = True

    def __init__(self, place: Place, *, read_only: bool = False) -> None:
        super().__init__(read_only=read_only)
        self.place = place
        self.written: dict[str, Part] = {}
        """Size and hash of the objects that were written, as they were meant to be."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and other.place == self.place

    def __str__(self) -> str:
        return str(self.place)

    def with_read_only(self, read_only: bool = False) -> Self:
        """Return a store of the same place that is read-only, or not."""
        return type(self)(self.place, read_only=read_only)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read one object; None if there is none."""
        try:
            content = await asyncio.to_thread(self._read, key)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        match byte_range:
            case RangeByteRequest():
                content = content[byte_range.start : byte_range.end]
            case OffsetByteRequest():
                content = content[byte_range.offset :]
            case SuffixByteRequest():
                content = content[-byte_range.suffix :]
        return prototype.buffer.from_bytes(content)

    def _read(self, key: str) -> bytes:
        return self.place.inside(key).read_bytes()

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> builtins.list[Buffer | None]:
        """Read parts of objects."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        """Return whether there is an object."""
        return await asyncio.to_thread(self.place.inside(key).is_file)

    async def set(self, key: str, value: Buffer) -> None:
        """Write one object durably."""
        self._require_writable()
        content = value.as_buffer_like()
        await asyncio.to_thread(self.place.inside(key).write_durably, content)
        self.written[key] = part_of(content)

    async def delete(self, key: str) -> None:
        """Delete one object."""
        self._require_writable()
        await asyncio.to_thread(self.place.inside(key).unlink, missing_ok=True)

    def _require_writable(self) -> None:
        if self.read_only:
            raise StoreError(f"'{self.place}' was opened to be read only.")

    async def list(self) -> AsyncIterator[str]:
        """Yield all keys."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield all keys below a prefix."""
        files = await asyncio.to_thread(lambda: [*(self.place / prefix.rstrip("/")).files()])
        for file in files:
            yield file.relative_to(self.place).as_posix()

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names directly below a prefix."""
        folder = self.place / prefix.rstrip("/")
        for name in await asyncio.to_thread(lambda: [path.name for path in folder.iterdir()]):
            yield name


class CheckedStore(PlaceStore):
    """A store to open: the metadata of its arrays are checked; their chunks are read elsewhere."""

    supports_writes = False
    supports_deletes = False

    def __init__(self, place: Place, *, read_only: bool = True) -> None:
        super().__init__(place, read_only=read_only)

    def _read(self, key: str) -> bytes:
        content = super()._read(key)
        name = key.rpartition("/")[0].rpartition("/")[2]
        if name in ARRAYS and key.endswith(f"/{name}/zarr.json"):
            array_metadata(self.place / key.rpartition("/")[0], content)
        return content
