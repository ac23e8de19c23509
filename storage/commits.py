"""Commit records: the proof that a block's bytes are on the disk, and what they were.

A *unit* is what is committed block by block: a view (``"0"``, ``"1"``, ...) or the per-sample arrays (``"samples"``).
Each finished block of a unit has a record of its own, so writers share nothing:

    train/embeddings/commits/3/17.json     view 3, block 17: size and XXH3-64s of every part
    train/embeddings/commits/3.json        view 3, many blocks, once its records were folded
    train/embeddings/commits/writers.json  while the store is written: whose records count

They are inside the ``embeddings`` array's own prefix because zarr never lists an array's inside: in any other place
they make zarr and xarray warn of objects they do not know.

A writer that was taken for gone may wake up and write a record. So each part of a record names the lease under which it
was written (``writer``), and counts only if ``writers.json`` lists that. The records of a finished store name none.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import xxhash
from pydantic import Field

from compress_ssl.storage.errors import StoreDamagedError
from compress_ssl.storage.places.durable import json_bytes
from compress_ssl.storage.places.parallel import map_threads
from compress_ssl.storage.places.place import Place
from compress_ssl.storage.schema import HASH_DIGITS, PIECE_BYTES, Part, Record, piece_count, unit_keys
from compress_ssl.storage.typed_json import FileModel, parse_json

COMMITS = "embeddings/commits"
WRITERS = f"{COMMITS}/writers.json"


def part_of(content: bytes | bytearray | memoryview) -> Part:
    """Return the size and hashes of the bytes of a part."""
    view = memoryview(content)
    whole, pieces = xxhash.xxh3_64(), []
    for start in range(0, view.nbytes, PIECE_BYTES):
        piece = view[start : start + PIECE_BYTES]
        whole.update(piece)
        pieces.append(xxhash.xxh3_64_hexdigest(piece))
    part = Part(size=view.nbytes, xxh3_64=whole.hexdigest())
    if piece_count(view.nbytes):
        part["pieces"] = "".join(pieces)
    return part


def is_part(content: bytes, part: Part) -> bool:
    """Return whether these are the bytes that were committed."""
    if "pieces" not in part:
        return len(content) == part["size"] and xxhash.xxh3_64_hexdigest(content) == part["xxh3_64"]
    return part == part_of(content)


def without_pieces(record: Record) -> Record:
    """Return a record as an earlier release wrote it: those of the same bytes are equal."""
    return {key: Part(size=part["size"], xxh3_64=part["xxh3_64"]) for key, part in record.items()}


Writer = str | None  # the holder of a lease; None where there was none, or in a finished store


class _RecordedPart(FileModel):
    size: Annotated[int, Field(ge=0, lt=2**63)]
    xxh3_64: str
    pieces: str | None = None
    writer: Writer = None

    def part(self) -> Part:
        """Return what is recorded of the bytes; ValueError if the hashes of pieces are more or fewer than those."""
        part = Part(size=self.size, xxh3_64=self.xxh3_64)
        if self.pieces is not None:
            if len(self.pieces) != HASH_DIGITS * piece_count(self.size):
                raise ValueError(f"{len(self.pieces)} digits of hashes of pieces do not fit {self.size} bytes")
            part["pieces"] = self.pieces
        return part


def _stamped(record: Record, writer: Writer) -> dict[str, Any]:
    return {key: part if writer is None else {**part, "writer": writer} for key, part in record.items()}


def commit_block(split: Place, unit: str, block: int, record: Record, writer: Writer) -> None:
    """Record that the parts of a block are on the disk, and the bytes that were written."""
    split.inside(f"{COMMITS}/{unit}/{block}.json").write_durably(json_bytes(_stamped(record, writer)))


def write_manifest(split: Place, unit: str, records: Mapping[int, Record]) -> None:
    """Record blocks of a unit in its manifest, beside those that are recorded there already."""
    _write_manifest(split, unit, read_records(split, unit) | dict(records), counted_writers(split)[-1])


def _write_manifest(split: Place, unit: str, records: Mapping[int, Record], writer: Writer) -> None:
    content = json_bytes({str(block): _stamped(records[block], writer) for block in sorted(records)})
    split.inside(f"{COMMITS}/{unit}.json").write_durably(content)


def is_committed(split: Place, unit: str, block: int) -> bool:
    """Return whether a block has a record that counts, alone or in the unit's manifest."""
    files = _read(split, [f"{COMMITS}/{unit}/{block}.json", f"{COMMITS}/{unit}.json"])
    return bool(files) and block in parse_records(split, unit, files | _read(split, [WRITERS]))


def read_records(split: Place, unit: str) -> dict[int, Record]:
    """Return all records of a unit that count, by block; empty if nothing is committed.

    Raises:
        StoreDamagedError: If a record cannot be read or does not name the objects of its block.
    """
    seen: bytes | None = b""
    while True:
        files = record_files(split, unit)
        found = list(_parsed(split, unit, files))
        counted = {block: record for block, record, counts in found if counts}
        # A record that does not count may be of a writer that began or ended while they were read.
        if len(counted) == len(found) or files.get(WRITERS) == seen:
            return counted
        seen = files.get(WRITERS)


def record_files(split: Place, unit: str) -> dict[str, bytes]:
    """Return every object with records of a unit, by key relative to the split."""
    # Records first, then the manifest: a writer that folds them meanwhile writes it before it deletes them.
    keys: list[str] = []
    with contextlib.suppress(FileNotFoundError):  # the folder may go while it is listed
        folder = split.inside(f"{COMMITS}/{unit}")
        keys = sorted(file.relative_to(split).as_posix() for file in folder.glob("*.json"))
    manifest = f"{COMMITS}/{unit}.json"
    if split.is_writable:
        return _read(split, keys) | _read(split, [manifest, WRITERS])
    # Of a finished store nothing is asked that is not there: a bucket that may not be listed refuses that.
    files = _read(split, [manifest])
    return files | _read(split, [WRITERS]) if b'"writer"' in files.get(manifest, b"") else files


def _read(split: Place, keys: Sequence[str]) -> dict[str, bytes]:
    """Return the objects that are there, by key."""

    def read(key: str) -> bytes | None:
        with contextlib.suppress(FileNotFoundError):
            return split.inside(key).read_bytes()
        return None

    # Threads cost more time than two files of a disk.
    found = map(read, keys) if split.is_local and len(keys) <= 2 else map_threads(read, keys)
    return {key: content for key, content in zip(keys, found, strict=True) if content is not None}


def parse_records(split: Place, unit: str, files: Mapping[str, bytes]) -> dict[int, Record]:
    """Return the records that count in the objects that ``record_files`` returned. Raises as ``read_records``."""
    return {block: record for block, record, counts in _parsed(split, unit, files) if counts}


def _parsed(split: Place, unit: str, files: Mapping[str, bytes]) -> Iterator[tuple[int, Record, bool]]:
    """Yield block, record and whether it counts."""
    try:
        counted = _writers_in(files)
        for key, content in files.items():
            if key == WRITERS:
                continue
            if key == f"{COMMITS}/{unit}.json":
                blocks = parse_json(key, content, dict[str, dict[str, _RecordedPart]])
            else:
                name = key.rpartition("/")[2].removesuffix(".json")
                blocks = {name: parse_json(key, content, dict[str, _RecordedPart])}
            for name, parts in blocks.items():
                if parts.keys() != set(unit_keys(unit, int(name))):
                    raise ValueError(f"block {name} is recorded with other parts than it has")
                record = {key: part.part() for key, part in parts.items()}
                yield int(name), record, all(part.writer in counted for part in parts.values())
    except ValueError as error:
        raise StoreDamagedError(
            f"The commit records of '{split}' (unit {unit}) cannot be read ({error}); "
            "restore the store from a copy, or embed again with --overwrite."
        ) from error


def counted_writers(split: Place) -> list[Writer]:
    """Return whose records count; the last is the one that writes now."""
    return _writers_in(_read(split, [WRITERS]))


def _writers_in(files: Mapping[str, bytes]) -> list[Writer]:
    return parse_json(WRITERS, files.get(WRITERS, b"[null]"), list[Writer]) or [None]


def take_over(split: Place, units: Iterable[str], writer: str) -> None:
    """Let the records that are there count, and from now on those of this writer alone.

    Blocks whose parts have gone, or have another size, are written again. Call under the writer's lease.
    """
    before = counted_writers(split)
    if before == [writer]:
        return
    _fold_all(split, units, [*before, writer], split.sizes())
    split.inside(WRITERS).write_durably(json_bytes([writer]))


def release(split: Place, units: Iterable[str]) -> None:
    """Let records name no writer, as in a finished store. Call under the writer's lease."""
    before = counted_writers(split)
    if before != [None]:
        _fold_all(split, units, [*before, None])
        split.inside(WRITERS).unlink(missing_ok=True)


def _fold_all(
    split: Place, units: Iterable[str], writers: list[Writer], sizes: Mapping[str, int] | None = None
) -> None:
    """Let these writers' records count, and rewrite all in the name of the last; only what has these sizes."""
    split.inside(WRITERS).write_durably(json_bytes(writers))
    for unit in units:
        fold_records(split, unit, sizes)


def is_folded(split: Place, unit: str) -> bool:
    """Return whether all records of a unit are in its manifest."""
    return split.inside(f"{COMMITS}/{unit}.json").is_file() and not split.inside(f"{COMMITS}/{unit}").is_dir()


def fold_records(split: Place, unit: str, sizes: Mapping[str, int] | None = None) -> None:
    """Replace a unit's records by one manifest, so that opening it costs one read."""
    records = {
        block: record
        for block, record in read_records(split, unit).items()
        if sizes is None or all(sizes.get(key) == part["size"] for key, part in record.items())
    }
    if records:
        _write_manifest(split, unit, records, counted_writers(split)[-1])
    split.inside(f"{COMMITS}/{unit}").remove_tree()


def check_sizes(split: Place, records: Mapping[int, Record]) -> None:
    """Check that every committed file on a disk is there with its size; those of a server are checked when fetched.

    Raises:
        StoreDamagedError: Naming the first file that is missing or has another size.
    """
    if not split.is_local:
        return
    for record in records.values():
        for key, part in record.items():
            path = split.inside(key)
            size = path.size() if path.is_file() else None
            if size != part["size"]:
                found = "is missing" if size is None else f"has {size} bytes"
                raise StoreDamagedError(
                    f"'{path}' {found}, but {part['size']} bytes were committed; run 'compress-ssl "
                    "store verify' for all the damage, then restore a copy or embed again."
                )
