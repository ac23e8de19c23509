"""Copying a store from any place to any place: resumed where it was broken off, every part checked by its record.

The records and the root's ``zarr.json`` are written last, so that what is not whole looks like no store: on a disk the
copy grows in ``NAME.copying`` beside its place, on an object store as a store that is being created (``compress_ssl.storage.publish``).
"""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress_ssl.storage.commits import SAMPLES_UNIT, check_sizes, parse_records, read_records, record_files
from compress_ssl.storage.errors import StoreError, StoreExistsError
from compress_ssl.storage.places.cache import fetch, is_part
from compress_ssl.storage.places.durable import flush_directory, make_read_only, write_durably
from compress_ssl.storage.places.remote import check_writable
from compress_ssl.storage.publish import ROOT, creating, is_there
from compress_ssl.storage.reader import is_store, open_store
from compress_ssl.storage.schema import SAMPLE_ARRAYS, VIEW_ARRAYS
from compress_ssl.storage.writer import check_place, exclusive_writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from compress_ssl.storage.commits import Part
    from compress_ssl.storage.places.remote import Place
    from compress_ssl.storage.reader import EmbeddingStore

COPIES = 8
"""Parts that are copied side by side: about 256 MiB of memory."""


@dataclass(frozen=True)
class CopyPlan:
    """All that a store consists of, by key relative to it, as it was when the plan was made."""

    source: EmbeddingStore
    parts: dict[str, Part]
    metadata: dict[str, bytes]
    """Every ``zarr.json`` but the root's."""
    records: dict[str, bytes]
    root: bytes

    @property
    def bytes(self) -> int:
        """Size of all parts."""
        return sum(part["size"] for part in self.parts.values())


def plan_copy(source: Place) -> CopyPlan:
    """List what is to be copied: all that is committed.

    Raises
    ------
    StoreError
        If there is no store, it cannot be reached, or a part of it is missing or has another size.
    """
    store = open_store(source)
    parts: dict[str, Part] = {}
    records: dict[str, bytes] = {}
    for name, unit in _units(store):
        split = store[name].path
        files = record_files(split, unit)
        committed = parse_records(split, unit, files)
        check_sizes(split, committed)
        records |= {f"{name}/{key}": content for key, content in files.items()}
        parts |= {f"{name}/{key}": part for record in committed.values() for key, part in record.items()}
    groups = [name for split in store.split_names for name in (split, *_arrays_of(split))]
    metadata = {f"{name}/zarr.json": (store.path / f"{name}/zarr.json").read_bytes() for name in groups}
    return CopyPlan(store, parts, metadata, records, (store.path / ROOT).read_bytes())


def copy_store(plan: CopyPlan, target: Place, advance: Callable[[int], None]) -> int:
    """Copy a store; what is there with the recorded size and hash is not copied again.

    Parameters
    ----------
    target : Path or RemotePath
        A place where nothing is, or where an earlier copy of the same store is, whole or broken off.
    advance : callable
        Told of every part that is done.

    Returns
    -------
    copied : int
        Number of parts that were not there.

    Raises
    ------
    StoreExistsError
        If something else is at the target.
    StoreDamagedError
        If a part of the source has other bytes than were committed; there is no store at the target then.
    """
    check_writable(target)
    with exclusive_writer(target):
        is_repair = _is_copy(plan, target)
        with contextlib.nullcontext(target) if is_repair else _copying(target) as folder:
            copied = _copy_parts(plan, folder, advance)
            if not is_repair:
                _sweep(folder, {*plan.parts, *plan.metadata, *plan.records})
            for key, content in {**plan.metadata, **plan.records, ROOT: plan.root}.items():
                write_durably(folder / key, content)
        if isinstance(target, Path) and _is_complete(plan.source):
            make_read_only(target)
    return copied


def _units(store: EmbeddingStore) -> Iterator[tuple[str, str]]:
    for name in store.split_names:
        yield name, SAMPLES_UNIT
        yield from ((name, str(view)) for view in range(len(store[name].views)))


def _arrays_of(split: str) -> Iterator[str]:
    yield from (f"{split}/{name}" for name in VIEW_ARRAYS | SAMPLE_ARRAYS)


def _is_complete(store: EmbeddingStore) -> bool:
    return all(len(store[name].complete_views) == len(store[name].views) for name in store.split_names)


def _copy_parts(plan: CopyPlan, folder: Place, advance: Callable[[int], None]) -> int:
    def copy(key: str) -> bool:
        part = plan.parts[key]
        if _is_whole(folder / key, part):
            return False
        write_durably(folder / key, fetch(plan.source.path / key, part))
        if not _is_whole(folder / key, part):
            raise StoreError(f"'{folder / key}' does not hold what was written to it; check the disk or the server.")
        return True

    copied = 0
    pool = ThreadPoolExecutor(COPIES)
    try:
        for is_new in pool.map(copy, plan.parts):
            copied += is_new
            advance(1)
    finally:
        pool.shutdown(cancel_futures=True)
    return copied


def _is_whole(path: Place, part: Part) -> bool:
    try:
        return path.stat().st_size == part["size"] and is_part(path.read_bytes(), part)
    except FileNotFoundError:
        return False


def _is_copy(plan: CopyPlan, target: Place) -> bool:
    """Whether the target is a copy of this store already, with no more in it.

    Raises
    ------
    StoreExistsError
        If it is something else.
    """
    if not is_there(target) or not is_store(target):
        check_place(target, overwrite=False)
        return False
    if _attributes(target, plan) != _attributes(plan.source.path, plan) or not all(
        read_records(target / name, unit).items() <= read_records(plan.source.path / name, unit).items()
        for name, unit in _units(plan.source)
    ):
        raise StoreExistsError(f"'{target}' is there and is not a copy of '{plan.source.path}'; give another place.")
    return True


def _attributes(place: Place, plan: CopyPlan) -> list[Any]:
    """What the store and its splits say of themselves, without the consolidated metadata that come with the last view."""
    files = [place / ROOT, *(place / f"{name}/zarr.json" for name in plan.source.split_names)]
    return [json.loads(file.read_bytes())["attributes"] if file.is_file() else None for file in files]


@contextlib.contextmanager
def _copying(target: Place) -> Iterator[Place]:
    """A place that looks like no store until the block has ended well."""
    if not isinstance(target, Path):
        with creating(target):
            yield target
        return
    place = target.resolve()
    growing = place.with_name(f"{place.name}.copying")
    growing.mkdir(parents=True, exist_ok=True)
    yield growing
    growing.rename(place)
    flush_directory(place.parent)


def _sweep(folder: Place, wanted: set[str]) -> None:
    """Delete what an earlier copy of something else left."""
    files: Iterator[Any] = folder.rglob("*") if isinstance(folder, Path) else folder.walk()
    for file in list(files):
        if file.is_file() and str(file).removeprefix(f"{folder}/") not in wanted:
            file.unlink()
