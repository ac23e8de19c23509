"""Commit records: the proof that a block's bytes are on the disk, and what they were.

A *unit* is what is committed block by block: a view (``"0"``, ``"1"``, ...) or the per-sample arrays (``"samples"``).
Each finished block of a unit has a record of its own, so writers share nothing:

    train/embeddings/commits/3/17.json   view 3, block 17: size and XXH3-64 of every part
    train/embeddings/commits/3.json      view 3, all blocks: written once the view is complete

They are inside the ``embeddings`` array's own prefix because zarr never lists an array's inside: in any other place
they make zarr and xarray warn of objects they do not know.
"""

import contextlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import xxhash

from compress_ssl.storage.errors import StoreDamagedError
from compress_ssl.storage.places.durable import json_bytes
from compress_ssl.storage.places.parallel import map_threads
from compress_ssl.storage.places.place import Place
from compress_ssl.storage.schema import Part, Record, unit_keys


def _manifest(split: Place, unit: str) -> Place:
    return split / "embeddings" / "commits" / f"{unit}.json"


def _single(split: Place, unit: str) -> Place:
    """Return the folder of a unit's single records."""
    return split / "embeddings" / "commits" / unit


def checksum(path: Place) -> str:
    """Return the XXH3-64 of a file's bytes, in hexadecimal."""
    return xxhash.xxh3_64_hexdigest(path.read_bytes())


def _record(split: Place, unit: str, block: int) -> Record:
    files = {key: split / key for key in unit_keys(unit, block)}
    return {key: Part(size=file.size(), xxh3_64=checksum(file)) for key, file in files.items()}


def commit_block(split: Place, unit: str, block: int) -> None:
    """Record that the objects of a block are on the disk, with the bytes they now have."""
    (_single(split, unit) / f"{block}.json").write_durably(json_bytes(_record(split, unit, block)))


def write_manifest(split: Place, unit: str, blocks: Iterable[int]) -> None:
    """Record blocks of a unit in its manifest, beside those that are recorded there already."""
    _write_manifest(split, unit, read_records(split, unit) | {block: _record(split, unit, block) for block in blocks})


def _write_manifest(split: Place, unit: str, records: Mapping[int, Record]) -> None:
    _manifest(split, unit).write_durably(json_bytes({str(block): records[block] for block in sorted(records)}))


def is_committed(split: Place, unit: str, block: int) -> bool:
    """Return whether a block has its record, alone or in the unit's manifest."""
    if (_single(split, unit) / f"{block}.json").is_file():
        return True
    return _manifest(split, unit).is_file() and block in read_records(split, unit)


def read_records(split: Place, unit: str) -> dict[int, Record]:
    """Return all records of a unit, by block; empty if nothing is committed.

    Raises:
        StoreDamagedError: If a record cannot be read or does not name the objects of its block.
    """
    return parse_records(split, unit, record_files(split, unit))


def record_files(split: Place, unit: str) -> dict[str, bytes]:
    """Return every object with records of a unit, by key relative to the split."""
    # Records first, then the manifest: a writer that folds them meanwhile writes it before it deletes them.
    found: dict[str, bytes] = {}
    for list_files in (lambda: _single(split, unit).glob("*.json"), lambda: [_manifest(split, unit)]):
        with contextlib.suppress(FileNotFoundError):  # the folder may go while it is listed
            keys = sorted(file.relative_to(split).as_posix() for file in list_files())
            found |= dict(zip(keys, map_threads(lambda key: (split / key).read_bytes(), keys), strict=True))
    return found


def parse_records(split: Place, unit: str, files: Mapping[str, bytes]) -> dict[int, Record]:
    """Return the records in the objects that ``record_files`` returned. Raises as ``read_records``."""
    try:
        content: dict[str, Any] = {}
        for key, text in files.items():
            read = json.loads(text)
            if not key.endswith(f"commits/{unit}.json"):
                read = {key.rpartition("/")[2].removesuffix(".json"): read}
            content.update({**read})  # whatever is not a dict is an error, an empty list too
        records: dict[int, Record] = {}
        for name, parts in content.items():
            keys = unit_keys(unit, int(name))
            if set(parts) != set(keys):
                raise ValueError(f"block {name} is recorded with other parts than it has")
            records[int(name)] = {
                key: Part(size=int(parts[key]["size"]), xxh3_64=str(parts[key]["xxh3_64"])) for key in keys
            }
        return records
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreDamagedError(
            f"The commit records of '{split}' (unit {unit}) cannot be read ({error}); "
            "restore the store from a copy, or embed again with --overwrite."
        ) from error


def fold_records(split: Place, unit: str) -> None:
    """Replace a complete unit's records by one manifest, so that opening it costs one read."""
    single = _single(split, unit)
    if single.is_dir() or not _manifest(split, unit).is_file():
        _write_manifest(split, unit, read_records(split, unit))
        single.remove_tree()


def check_sizes(split: Place, records: Mapping[int, Record]) -> None:
    """Check that every committed file on a disk is there with its size; those of a server are checked when fetched.

    Raises:
        StoreDamagedError: Naming the first file that is missing or has another size.
    """
    if not split.is_local:
        return
    for record in records.values():
        for key, part in record.items():
            path = split / key
            size = path.size() if path.is_file() else None
            if size != part["size"]:
                found = "is missing" if size is None else f"has {size} bytes"
                raise StoreDamagedError(
                    f"'{path}' {found}, but {part['size']} bytes were committed; run 'compress-ssl "
                    "store verify' for all the damage, then restore a copy or embed again."
                )
