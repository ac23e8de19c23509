"""Commit records: the proof that a block's bytes are on the disk, and what they were.

A *unit* is what is committed block by block: a view (``"0"``, ``"1"``, ...) or the per-sample arrays
(``"samples"``). Each finished block of a unit has a record of its own, so writers share nothing:

    train/embeddings/commits/3/17.json   view 3, block 17: size and XXH3-64 of every part
    train/embeddings/commits/3.json      view 3, all blocks: written once the view is complete

They lie inside the ``embeddings`` array's own prefix because zarr never lists an array's inside: any
other place makes zarr and xarray warn of objects they do not know.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypedDict

import xxhash

from compress_ssl.storage import schema
from compress_ssl.storage.errors import StoreDamagedError
from compress_ssl.storage.places.durable import write_json_durably
from compress_ssl.storage.places.remote import RemotePath

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from compress_ssl.storage.places.remote import Place

SAMPLES_UNIT = "samples"

REQUESTS = 16
"""To an object store, side by side."""


class Part(TypedDict):
    """One object of a block: its size in bytes and the XXH3-64 of its bytes, in hexadecimal."""

    size: int
    xxh3_64: str


Record = dict[str, Part]
"""The parts of one block, by key relative to the split."""


def _folder(split: Place) -> Place:
    return split / "embeddings" / "commits"


def _manifest(split: Place, unit: str) -> Place:
    return _folder(split) / f"{unit}.json"


def _record_file(split: Place, unit: str, block: int) -> Place:
    return _folder(split) / unit / f"{block}.json"


def checksum(path: Place) -> str:
    """XXH3-64 of a file's bytes, in hexadecimal."""
    return xxhash.xxh3_64_hexdigest(path.read_bytes())


def _record(split: Place, keys: Sequence[str]) -> Record:
    return {key: Part(size=(split / key).stat().st_size, xxh3_64=checksum(split / key)) for key in keys}


def commit_block(split: Place, unit: str, block: int, keys: Sequence[str]) -> None:
    """Record that these objects of a block are on the disk, with the bytes they now have."""
    write_json_durably(_record_file(split, unit, block), _record(split, keys))


def write_manifest(split: Place, unit: str, keys: Mapping[int, Sequence[str]]) -> None:
    """Record all blocks of a unit at once, by block the objects that hold it."""
    write_json_durably(_manifest(split, unit), {str(block): _record(split, parts) for block, parts in keys.items()})


def extend_manifest(split: Place, unit: str, keys: Mapping[int, Sequence[str]]) -> None:
    """Record more blocks of a unit whose blocks are in one manifest; of one that is recorded already, anew."""
    records = read_records(split, unit) | {block: _record(split, parts) for block, parts in keys.items()}
    write_json_durably(_manifest(split, unit), {str(block): records[block] for block in sorted(records)})


def is_committed(split: Place, unit: str, block: int) -> bool:
    """Whether a block has its record, alone or in the unit's manifest."""
    if _record_file(split, unit, block).is_file():
        return True
    return _manifest(split, unit).is_file() and block in read_records(split, unit)


def read_records(split: Place, unit: str) -> dict[int, Record]:
    """All records of a unit, by block; empty where nothing is committed.

    Raises
    ------
    StoreDamagedError
        If a record cannot be read or does not name the objects of its block.
    """
    return parse_records(split, unit, record_files(split, unit))


def record_files(split: Place, unit: str) -> dict[str, bytes]:
    """Every object with records of a unit, by key relative to the split."""
    # Records first, the manifest after them: a writer that folds them meanwhile writes it before they go.
    found: dict[str, bytes] = {}
    for list_files in (lambda: sorted((_folder(split) / unit).glob("*.json")), lambda: [_manifest(split, unit)]):
        with contextlib.suppress(FileNotFoundError):  # the folder may go while it is listed
            found |= {file.relative_to(split).as_posix(): content for file, content in _contents(list_files())}
    return found


def _contents(files: Sequence[Any]) -> Iterator[tuple[Any, bytes]]:
    """Each file and its bytes; those of an object store are fetched side by side."""
    if not any(isinstance(file, RemotePath) for file in files):
        yield from ((file, file.read_bytes()) for file in files)
        return
    with ThreadPoolExecutor(REQUESTS) as pool:
        yield from zip(files, pool.map(RemotePath.read_bytes, files), strict=True)


def parse_records(split: Place, unit: str, files: Mapping[str, bytes]) -> dict[int, Record]:
    """The records in what ``record_files`` has found. Raises as ``read_records``."""
    manifest = _manifest(split, unit).name
    try:
        texts: dict[str, Any] = {}
        for key, content in files.items():
            read = json.loads(content)
            if not key.endswith(f"commits/{manifest}"):
                read = {key.rpartition("/")[2].removesuffix(".json"): read}
            texts.update({**read})  # what is no dict is an error, also an empty list
        return _parsed(unit, texts)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreDamagedError(
            f"The commit records of '{split}' (unit {unit}) cannot be read ({error}); "
            "restore the store from a copy, or embed again with --overwrite."
        ) from error


def _parsed(unit: str, content: dict[str, Any]) -> dict[int, Record]:
    records = {}
    for name, parts in content.items():
        block = int(name)
        keys = schema.sample_keys(block) if unit == SAMPLES_UNIT else schema.view_keys(int(unit), block)
        if set(parts) != set(keys):
            raise ValueError(f"block {block} is recorded with other parts than it has")
        records[block] = {key: Part(size=int(parts[key]["size"]), xxh3_64=str(parts[key]["xxh3_64"])) for key in keys}
    return records


def fold_records(split: Place, unit: str) -> None:
    """Replace a complete unit's records by one manifest, so that opening it costs one read."""
    single = _folder(split) / unit
    if single.is_dir() or not _manifest(split, unit).is_file():
        records = read_records(split, unit)
        write_json_durably(_manifest(split, unit), {str(block): records[block] for block in sorted(records)})
        if isinstance(single, RemotePath):
            single.remove_tree()
        else:
            shutil.rmtree(single, ignore_errors=True)


def check_sizes(split: Place, records: dict[int, Record]) -> None:
    """Check that every committed file is there with its size. An object's hash is checked when it is fetched.

    Raises
    ------
    StoreDamagedError
        Naming the first file that is missing or has another size.
    """
    if isinstance(split, RemotePath):
        return
    for record in records.values():
        for key, part in record.items():
            path = split / key
            size = path.stat().st_size if path.is_file() else None
            if size != part["size"]:
                found = "is missing" if size is None else f"has {size} bytes"
                raise StoreDamagedError(
                    f"'{path}' {found}, but {part['size']} bytes were committed; run 'compress-ssl "
                    "store verify' for all the damage, then restore a copy or embed again."
                )
