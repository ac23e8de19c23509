"""zarr stores over a place: one to write, which is durable, and one to read, which checks all it reads.

zarr alone reads a missing chunk as fill values, and a chunk in another's place as if it belonged there (its checksum is
right). Here each chunk is compared with its commit record, and the metadata of arrays with the format.
"""

import asyncio
import builtins
from collections.abc import AsyncIterator, Collection, Iterable
from typing import Self

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest

from compress_ssl.storage.commits import part_of, read_records
from compress_ssl.storage.errors import StoreDamagedError, StoreError
from compress_ssl.storage.places.cache import ChunkCache, fetch
from compress_ssl.storage.places.place import Place
from compress_ssl.storage.safety import array_metadata, check_text_count
from compress_ssl.storage.schema import ARRAYS, SAMPLES_UNIT, VIEW_ARRAYS, Part, Record


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
    """A store to read; chunks of a server come through the local cache."""

    supports_writes = False
    supports_deletes = False

    def __init__(self, place: Place, *, read_only: bool = True) -> None:
        super().__init__(place, read_only=read_only)
        self._cache = None if place.is_local else ChunkCache()
        self._records: dict[tuple[str, str], dict[int, Record]] = {}
        self._block_rows: dict[str, int] = {}

    def _read(self, key: str) -> bytes:
        split, _, rest = key.partition("/")
        name = rest.partition("/")[0]
        if rest.startswith(f"{name}/c/"):
            # train/embeddings/c/VIEW/BLOCK/0, or train/label/c/BLOCK
            path, numbers = self.place.inside(key), rest.split("/")[2:]
            unit, block = (numbers[0], int(numbers[1])) if name in VIEW_ARRAYS else (SAMPLES_UNIT, int(numbers[0]))
            part = self.records(split, unit, [block]).get(block, {}).get(rest)
            if part is None:
                raise StoreDamagedError(f"'{path}' was never committed; finish the store with --resume.")
            content = self._cache.read(path, part) if self._cache else fetch(path, part)
            if ARRAYS[name].dtype == "string":
                check_text_count(path, content, self._block_rows[split])
            return content
        content = super()._read(key)
        if name in ARRAYS and rest == f"{name}/zarr.json":
            metadata = array_metadata(self.place / split / name, content)
            if ARRAYS[name].dtype == "string":
                self._block_rows[split] = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
        return content

    def records(self, split: str, unit: str, blocks: Collection[int]) -> dict[int, Record]:
        """Return the records of a unit, read once: they do not change. They are read again if these blocks lack one."""
        known = self._records.get((split, unit), {})
        if not all(block in known for block in blocks):
            known = self._records[split, unit] = read_records(self.place / split, unit)
        return known
