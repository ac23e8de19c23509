"""Copying a store from any place to any place: resumed where it was interrupted, every part checked by its record.

The records and the root's ``zarr.json`` are written last, so that a partial copy looks like no store: on a disk it
grows in ``NAME.HASH.copying`` beside its place, on an object store as a store that is being created
(``Place.assembled``).
"""

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from typing_extensions import TypedDict

from compress_ssl.storage.commits import COMMITS, check_sizes, is_part, parse_records, read_records, record_files
from compress_ssl.storage.errors import StoreError, StoreExistsError
from compress_ssl.storage.places.cache import fetch
from compress_ssl.storage.places.names import ROOT
from compress_ssl.storage.places.parallel import map_threads
from compress_ssl.storage.places.place import Place, PlaceLike, location
from compress_ssl.storage.publish import check_place, is_store, is_there
from compress_ssl.storage.reader import EmbeddingStore, open_store
from compress_ssl.storage.schema import GROWING, GROWTH, PATCHES, ROOM, Part
from compress_ssl.storage.split import Split
from compress_ssl.storage.typed_files import read_json
from compress_ssl.storage.writer import exclusive_writer, open_root

COPIES = 8  # parts that are copied side by side: about 256 MiB of memory


CHANGED_BY_GROWTH = {"splits", "version", "canaries", "data_set", GROWING, GROWTH}  # attributes of the root


@dataclass(frozen=True)
class CopyPlan:
    """The objects of a store, by key relative to it, as they were when the plan was made."""

    source: EmbeddingStore
    parts: dict[str, Part]
    metadata: dict[str, bytes]  # every ``zarr.json`` but the root's
    records: dict[str, bytes]
    root: bytes

    @property
    def bytes(self) -> int:
        """Size of all parts."""
        return sum(part["size"] for part in self.parts.values())


def plan_copy(source: PlaceLike) -> CopyPlan:
    """List what is to be copied: all that is committed.

    Raises:
        StoreError: If there is no store, it cannot be reached, or a part of it is missing or has another size.
    """
    store = open_store(source)
    parts: dict[str, Part] = {}
    records: dict[str, bytes] = {}
    for split, unit in store.units:
        files = record_files(split.path, unit)
        committed = parse_records(split.path, unit, files)
        check_sizes(split.path, committed)
        records |= {f"{split.name}/{key}": content for key, content in files.items()}
        parts |= {f"{split.name}/{key}": part for record in committed.values() for key, part in record.items()}
    nodes = [
        node for split in store.splits for node in (split.name, *(f"{split.name}/{array}" for array in split.chunks))
    ]
    metadata = {f"{node}/zarr.json": (store.path / f"{node}/zarr.json").read_bytes() for node in nodes}
    return CopyPlan(store, parts, metadata, records, (store.path / ROOT).read_bytes())


def copy_store(plan: CopyPlan, target: PlaceLike, advance: Callable[[int], None], *, update: bool = False) -> int:
    """Copy a store; parts that are there with the recorded size and hash are not copied again.

    Args:
        target (str, Path or Place): A place where nothing is, or where an earlier copy of the same store is, whole or
            interrupted.
        advance: Called with 1 after every part.
        update: An older copy at the target gets what the store has gained since: views, images, splits.

    Returns:
        copied: Number of parts that were not there.

    Raises:
        StoreExistsError: If something else is at the target.
        StoreDamagedError: If a part of the source has other bytes than were committed; there is no store at the target
            then.
    """
    place = location(target)
    with exclusive_writer(place):
        there = _there(plan, place, update=update)
        whole = json.dumps(_attributes(plan.source.path, plan))
        with place.assembled(whole) if there is None else contextlib.nullcontext(place) as folder:
            for split in there or ():
                _make_room(split, plan.source[split.name])

            def copy(key: str) -> bool:
                """Copy a part unless it is there; return whether it was copied."""
                part, path = plan.parts[key], folder.inside(key)
                if _is_whole(path, part):
                    return False
                path.write_durably(fetch(plan.source.path.inside(key), part))
                if not _is_whole(path, part):
                    raise StoreError(f"'{path}' does not hold what was written to it; check the disk or the server.")
                return True

            copied = 0
            for is_new in map_threads(copy, plan.parts, threads=COPIES):
                copied += is_new
                advance(1)
            # Arrays and records before the attributes of the split: a reader ignores what those do not count.
            arrays = {key: content for key, content in plan.metadata.items() if key.count("/") > 1}
            for key, content in {**arrays, **plan.records}.items():
                folder.inside(key).write_durably(content)
            wanted = {*plan.parts, *plan.metadata, *plan.records}
            for file in list(folder.files()):
                key = file.relative_to(folder).as_posix()
                # Records of the source's that were folded since, or what an earlier copy of something else left.
                if key not in wanted and (there is None or f"/{COMMITS}/" in key):
                    file.unlink()
            splits = {key: content for key, content in plan.metadata.items() if key not in arrays}
            for key, content in {**splits, ROOT: plan.root}.items():
                folder.inside(key).write_durably(content)
        if plan.source.is_complete:
            place.make_read_only()
    return copied


def _is_whole(path: Place, part: Part) -> bool:
    try:
        return path.size() == part["size"] and is_part(path.read_bytes(), part)
    except FileNotFoundError:
        return False


def _there(plan: CopyPlan, target: Place, *, update: bool) -> list[Split] | None:
    """Return the splits of an older copy of this store at the target: none of an equal one, None if nothing is there.

    Raises:
        StoreExistsError: If it is something else, or is older and ``update`` is not set.
    """
    if not is_there(target) or not is_store(target):
        check_place(target, overwrite=False)
        return None
    if _attributes(target, plan) == _attributes(plan.source.path, plan) and all(
        read_records(target / split.name, unit).items() <= read_records(split.path, unit).items()
        for split, unit in plan.source.units
    ):
        return []
    older = open_store(target)
    if not _is_older(older, plan.source):
        raise StoreExistsError(f"'{target}' is there and is not a copy of '{plan.source.path}'; give another place.")
    if not update:
        raise StoreExistsError(
            f"'{target}' is an older copy of '{plan.source.path}', which has grown since; bring it up to date with "
            "--update, or give another place."
        )
    return older.splits


def _is_older(copy: EmbeddingStore, store: EmbeddingStore) -> bool:
    """Return whether all that is in a copy is in the store too, in the same place."""
    kept = {key: value for key, value in copy.attributes.items() if key not in CHANGED_BY_GROWTH}
    return all(store.attributes.get(key) == value for key, value in kept.items()) and all(
        split.name in store.split_names and _begins(store[split.name], split) for split in copy.splits
    )


def _begins(split: Split, copy: Split) -> bool:
    """Return whether a split begins with all that a copy of it has."""
    grows = {"views", "samples", "class_names", PATCHES, ROOM}
    facts = [
        ({key: value for key, value in each.attributes.items() if key not in grows}, each.columns, each.feature_dim)
        for each in (split, copy)
    ]
    patches = [each.attributes.get(PATCHES, {}) for each in (split, copy)]
    return (
        facts[0] == facts[1]
        and {**patches[0], "views": None} == {**patches[1], "views": None}
        and {*patches[0].get("views", ())} >= {*patches[1].get("views", ())}
        and split.views[: len(copy.views)] == copy.views
        and split.class_names[: len(copy.class_names)] == copy.class_names
        and len(split) >= len(copy)
        and all(read_records(copy.path, unit).items() <= read_records(split.path, unit).items() for unit in copy.units)
    )


def _make_room(copy: Split, split: Split) -> None:
    """Allow the arrays of an older copy to be as large as the store's, while it still counts what it has."""
    room = {"views": len(split.views), "samples": len(split)}
    if room != {"views": len(copy.views), "samples": len(copy)}:
        attributes = {**copy.attributes, "samples": len(copy), ROOM: room}
        open_root(copy.path).attrs.put(attributes)


class _Group(TypedDict):
    attributes: dict[str, Any]


def _attributes(place: Place, plan: CopyPlan) -> list[Any]:
    """Return the attributes of a store and its splits, without consolidated metadata, which come with the last view."""
    files = [place / ROOT, *(place / f"{name}/zarr.json" for name in plan.source.split_names)]
    return [read_json(file, _Group)["attributes"] if file.is_file() else None for file in files]
