"""What zarr reads and writes a store through: a folder, or an object store, which is read by way of a local cache.

Whatever is read, each chunk is compared with its commit record. zarr by itself reads a chunk that is missing as fill values,
and one that lies in another's place, its checksum being right, as if it belonged there.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import obstore
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore, ObjectStore

from compress_ssl.storage.commits import SAMPLES_UNIT, read_records
from compress_ssl.storage.errors import StoreDamagedError
from compress_ssl.storage.places.cache import ChunkCache, fetch
from compress_ssl.storage.places.connection import client, object_name, reaching
from compress_ssl.storage.places.durable import DurableStore
from compress_ssl.storage.places.remote import RemotePath
from compress_ssl.storage.schema import VIEW_ARRAYS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection
    from pathlib import Path

    from zarr.abc.store import ByteRequest, Store
    from zarr.core.buffer import Buffer, BufferPrototype

    from compress_ssl.storage.commits import Part, Record
    from compress_ssl.storage.places.remote import Place


def zarr_store(place: Place, *, writable: bool = False) -> Store:
    """The zarr store of a place."""
    if isinstance(place, RemotePath):
        return RemoteStore(place) if writable else CachedStore(place)
    return DurableStore(place) if writable else CheckedFolder(place)


class RemoteStore(ObjectStore[Any]):
    """zarr's store over obstore: failures are one sentence, and what is pickled holds no credentials."""

    def __init__(self, place: RemotePath, *, read_only: bool = False) -> None:
        with reaching(place):
            super().__init__(client(place.root, object_name(place)), read_only=read_only)
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.place, self.read_only)

    def with_read_only(self, read_only: bool = False) -> RemoteStore:
        """The same place, to read only or not."""
        return RemoteStore(self.place, read_only=read_only)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Fetch one object; None where there is none."""
        with reaching(self.place / key):
            return await super().get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer) -> None:
        """Write one object, in one request."""
        self._check_writable()
        with reaching(self.place / key):
            await obstore.put_async(self.store, key, bytes(value.as_buffer_like()), use_multipart=False)

    def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        """Names directly below."""
        return self._told(super().list_dir(prefix))

    async def _told(self, names: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
        with reaching(self.place):
            async for name in names:
                yield name


class CachedStore(RemoteStore):
    """A store on a server that is read; each chunk comes from the local cache and is compared with its commit record."""

    def __init__(self, place: RemotePath, *, read_only: bool = True) -> None:
        super().__init__(place, read_only=read_only)
        self._cache = ChunkCache()
        self.committed = Committed(place)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Take a chunk from the cache, and all else from the server."""
        if not _is_chunk(key) or byte_range is not None:
            return await super().get(key, prototype, byte_range)
        content = await asyncio.to_thread(lambda: self._cache.read(self.place / key, self.committed.part(key)))
        return prototype.buffer.from_bytes(content)


class CheckedFolder(LocalStore):
    """A store in a folder that is read; each chunk is compared with its commit record."""

    def __init__(self, root: Path, *, read_only: bool = True) -> None:
        super().__init__(root, read_only=read_only)
        self.committed = Committed(root)

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read one object; a chunk that is not as it was committed is an error."""
        if not _is_chunk(key) or byte_range is not None:
            return await super().get(key, prototype, byte_range)
        return await asyncio.to_thread(self._chunk, key, prototype)

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read one object; a chunk that is not as it was committed is an error."""
        if not _is_chunk(key) or byte_range is not None:
            return super().get_sync(key, prototype=prototype, byte_range=byte_range)
        return self._chunk(key, prototype)

    def _chunk(self, key: str, prototype: BufferPrototype | None) -> Buffer:
        buffer = (prototype or default_buffer_prototype()).buffer
        return buffer.from_bytes(fetch(self.root / key, self.committed.part(key)))


class Committed:
    """The commit records of a store, each unit's read once: they never change once they are there."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._records: dict[tuple[str, str], dict[int, Record]] = {}

    def records(self, split: str, unit: str, blocks: Collection[int]) -> dict[int, Record]:
        """As ``read_records``; they are read again where these blocks lack one."""
        known = self._records.get((split, unit), {})
        if not all(block in known for block in blocks):
            known = self._records[split, unit] = read_records(self._place / split, unit)
        return known

    def part(self, key: str) -> Part:
        """What was committed under a key: ``train/embeddings/c/VIEW/BLOCK/0``, or ``train/label/c/BLOCK``.

        Raises
        ------
        StoreDamagedError
            If nothing was.
        """
        split, name, _, *numbers = key.split("/")
        unit, block = (numbers[0], numbers[1]) if name in VIEW_ARRAYS else (SAMPLES_UNIT, numbers[0])
        part = self.records(split, unit, [int(block)]).get(int(block), {}).get(f"{name}/c/{'/'.join(numbers)}")
        if part is None:
            raise StoreDamagedError(f"'{self._place / key}' was never committed; finish the store with --resume.")
        return part


def _is_chunk(key: str) -> bool:
    return "/c/" in key


def _again(kind: type[RemoteStore], place: RemotePath, read_only: bool) -> RemoteStore:
    return kind(place, read_only=read_only)
