"""Commit records: the proof that a block's bytes are on the disk, and what they were.

A *unit* is what is committed block by block: a view (``"0"``, ``"1"``, ...) or the per-sample arrays
(``"samples"``). Each finished block of a unit has a record of its own, so writers share nothing:

    train/embeddings/commits/3/17.json   view 3, block 17: size and XXH3-64 of every part
    train/embeddings/commits/3.json      view 3, all blocks: written once the view is complete

They lie inside the ``embeddings`` array's own prefix because zarr never lists an array's inside: any
other place makes zarr and xarray warn of objects they do not know.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, TypedDict

import xxhash

from storage.durable import write_json_durably
from storage.errors import StoreDamagedError

if TYPE_CHECKING:
    from pathlib import Path

SAMPLES_UNIT = "samples"


class Part(TypedDict):
    """One object of a block: its size in bytes and the XXH3-64 of its bytes, in hexadecimal."""

    size: int
    xxh3_64: str


Record = dict[str, Part]
"""The parts of one block, by key relative to the split."""


def _folder(split: Path) -> Path:
    return split / "embeddings" / "commits"


def checksum(path: Path) -> str:
    """XXH3-64 of a file's bytes, in hexadecimal."""
    return xxhash.xxh3_64_hexdigest(path.read_bytes())


def commit_block(split: Path, unit: str, block: int, keys: list[str]) -> None:
    """Record that these objects of a block are on the disk, with the bytes they now have."""
    record = {key: Part(size=(split / key).stat().st_size, xxh3_64=checksum(split / key)) for key in keys}
    write_json_durably(_folder(split) / unit / f"{block}.json", record)


def read_records(split: Path, unit: str) -> dict[int, Record]:
    """All records of a unit, by block; empty where nothing is committed."""
    manifest = _folder(split) / f"{unit}.json"
    try:
        if manifest.is_file():
            return {int(block): record for block, record in json.loads(manifest.read_bytes()).items()}
        files = sorted((_folder(split) / unit).glob("*.json"))
        return {int(file.stem): json.loads(file.read_bytes()) for file in files}
    except (ValueError, AttributeError) as error:
        raise StoreDamagedError(
            f"The commit records of '{split}' (unit {unit}) cannot be read ({error}); "
            "restore the store from a copy, or embed again with --overwrite."
        ) from error


def fold_records(split: Path, unit: str) -> None:
    """Replace a complete unit's records by one manifest, so that opening it costs one read."""
    manifest = _folder(split) / f"{unit}.json"
    if not manifest.is_file():
        records = read_records(split, unit)
        write_json_durably(manifest, {str(block): records[block] for block in sorted(records)})
    shutil.rmtree(_folder(split) / unit, ignore_errors=True)


def check_sizes(split: Path, records: dict[int, Record]) -> None:
    """Check that every committed object is there with its size.

    Raises
    ------
    StoreDamagedError
        Naming the first object that is missing or has another size.
    """
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
