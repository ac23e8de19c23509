"""Chunks written and read without zarr: zarr's bytes, and rows of a chunk from the pieces that they are in."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from compress_ssl.storage import SplitPlan, location, open_store
from compress_ssl.storage.chunks import encode, texts
from compress_ssl.storage.commits import part_of, read_records
from compress_ssl.storage.errors import StoreDamagedError, StoreError, StoreUnsafeError
from compress_ssl.storage.schema import PIECE_BYTES
from compress_ssl.storage.tools.copy import copy_store, plan_copy
from compress_ssl.storage.tools.hdf5 import export_hdf5, import_hdf5
from compress_ssl.storage.tools.merge import merge_stores, plan_merge
from compress_ssl.storage.tools.size import samples_size, size_on_disk, views_size
from compress_ssl.storage.tools.verify import verify_store
from compress_ssl.storage.writer import StoreWriter, create_store
from tests.servers import Server
from tests.storage.conftest import samples_of

Array = np.ndarray[Any, Any]
Files = Callable[[Path], dict[str, bytes]]

FEATURES, BLOCK_ROWS, ROWS = 1000, 300, 450
ROW_BYTES = 2 * FEATURES  # some rows lie in two pieces; a block has three
CHUNK, MANIFEST = "train/embeddings/c/0/0/0", "train/embeddings/commits/0.json"


def embeddings_of(rows: slice) -> Array:
    return np.random.default_rng(0).standard_normal((ROWS, FEATURES), np.float32)[rows]


PLAN = SplitPlan(samples_of(ROWS), "images", [{"size": 8, "seed": None}], ("row", "column"), FEATURES, BLOCK_ROWS)


def write_store(path: Path, blocks: tuple[int, ...] = (0, 1)) -> Path:
    create_store(path, {}, {"train": PLAN})
    writer = StoreWriter(path)
    for block in blocks:
        rows = writer.store["train"].block_slice(block)
        writer.write_block("train", block, 0, embeddings_of(rows), np.zeros((rows.stop - rows.start, 2), np.float32))
    writer.finish()
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose embeddings are in chunks of several pieces; never change it."""
    return write_store(tmp_path_factory.mktemp("pieces") / "store.zarr")


@pytest.fixture
def large(written: Path, tmp_path: Path) -> Path:
    """A copy of it that can be damaged."""
    return Path(shutil.copytree(written, tmp_path / "large.zarr", copy_function=shutil.copyfile))


def flip(path: Path, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


def forget_pieces(store: Path) -> None:
    """Let every record be as an earlier release wrote it."""
    for manifest in (store / "train/embeddings/commits").rglob("*.json"):
        records = json.loads(manifest.read_text())
        for record in records.values():
            for part in record.values():
                part.pop("pieces", None)
        manifest.write_text(json.dumps(records, indent=1, sort_keys=True) + "\n")


def stored(rows: Any) -> Array:
    values = embeddings_of(slice(ROWS)).astype(np.float16)
    values[7] = np.nan  # the bad image
    return values[rows]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_chunks_have_the_bytes_that_zarr_writes(empty: Path, values: Any, parameters: Any, dtype: Any) -> None:
    by_zarr = shutil.copytree(empty, empty.with_name("zarr.zarr"))
    group: Any = zarr.open_group(str(by_zarr), mode="r+")["train"]
    writer = StoreWriter(empty)
    for block in range(5):
        rows = writer.store["train"].block_slice(block)
        noise = np.random.default_rng(block).standard_normal(values(0, rows).shape) + 0 * values(0, rows)
        writer.write_block("train", block, 0, noise.astype(dtype), parameters(0, rows))
        group["embeddings"][0, rows] = noise.astype(dtype).astype(np.float16)
        group["augmentation"][0, rows] = parameters(0, rows)
    for name in ("embeddings", "augmentation"):
        chunks = [path.relative_to(empty) for path in (empty / "train" / name / "c").rglob("0") if path.is_file()]
        assert len(chunks) == 5
        for chunk in chunks:
            assert (empty / chunk).read_bytes() == (by_zarr / chunk).read_bytes(), chunk


def test_rows_that_are_left_out_hold_the_fill_value() -> None:
    rows = np.ones((3, 2), np.float32)
    chunk = np.frombuffer(encode("embeddings", rows, 4, np.array([False, True, False])), "<f2", 8).reshape(4, 2)
    np.testing.assert_array_equal(chunk[:, 0], [1, np.nan, 1, np.nan])


def test_a_small_part_has_no_hashes_of_pieces_and_a_large_one_has() -> None:
    assert "pieces" not in part_of(bytes(PIECE_BYTES))
    part = part_of(bytes(PIECE_BYTES) + b"end")
    assert part["pieces"] == part_of(bytes(PIECE_BYTES))["xxh3_64"] + part_of(b"end")["xxh3_64"]


def test_rows_are_those_of_the_view_wherever_they_lie(large: Path) -> None:
    split = open_store(large)["train"]
    np.testing.assert_array_equal(split.view(0), stored(slice(ROWS)))
    first_of_two = PIECE_BYTES // ROW_BYTES
    for rows in ([first_of_two], [ROWS - 1, 0, 0, 7], range(ROWS), range(ROWS - 1, -1, -3)):
        np.testing.assert_array_equal(split.rows(0, list(rows)), stored(list(rows)))
    forget_pieces(large)
    np.testing.assert_array_equal(open_store(large)["train"].rows(0, [299, 131, 300]), stored([299, 131, 300]))


def test_only_the_pieces_of_the_rows_are_read(large: Path) -> None:
    """What is wrong elsewhere in the chunk is not noticed, so it was not read."""
    flip(large / CHUNK, PIECE_BYTES + 5)
    split = open_store(large)["train"]
    np.testing.assert_array_equal(split.rows(0, [3, 299, 400]), stored([3, 299, 400]))
    refused = pytest.raises(StoreDamagedError, match=rf"'{large}/{CHUNK}' has other content than was committed; run")
    for rows in ([140], [131], [3, 262]):
        with refused:
            split.rows(0, rows)
    with refused:
        split.view(0)
    forget_pieces(large)
    with refused:
        open_store(large)["train"].rows(0, [3])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "is missing"),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "has 600003 bytes, but 600004 bytes were"),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"x"), "has 600005 bytes, but 600004 bytes were"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "is missing"),
    "another block's": (lambda path: shutil.copyfile(path.parents[1] / "1/0", path), "has other content"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_chunk_is_refused_by_every_reader(large: Path, damage: str) -> None:
    harm, fault = DAMAGE[damage]
    harm(large / CHUNK)
    split = open_store(large)["train"]
    readers: list[Callable[[], object]] = [
        lambda: split.view(0),
        lambda: split.rows(0, [3]),
        lambda: list(split.blocks(0)),
        lambda: split.block(0, 0),
    ]
    for read in readers:
        with pytest.raises(StoreDamagedError, match=f"'{large}/{CHUNK}' {fault}"):
            read()
    np.testing.assert_array_equal(split.rows(0, [300]), stored([300]))
    np.testing.assert_array_equal(split.block(0, 1)["embeddings"], stored(slice(300, ROWS)))


def test_block_that_was_never_committed_is_refused(empty: Path) -> None:
    with pytest.raises(StoreDamagedError, match=r"embeddings/c/1/3/0' was never committed; finish the store"):
        open_store(empty)["train"].block(1, 3)


def test_rows_that_are_not_finite_are_refused(large: Path) -> None:
    """With checksums that fit, as a hostile store has."""
    content = bytearray((large / CHUNK).read_bytes())
    content[ROW_BYTES * 20 : ROW_BYTES * 20 + 2] = np.float16(-np.inf).tobytes()
    (large / CHUNK).write_bytes(content)
    records = json.loads((large / MANIFEST).read_text())
    records["0"]["embeddings/c/0/0/0"] = part_of(content)
    (large / MANIFEST).write_text(json.dumps(records))
    split = open_store(large)["train"]
    for read in (lambda: split.view(0), lambda: split.rows(0, [3, 20]), lambda: split.block(0, 0)):
        with pytest.raises(StoreUnsafeError, match=r"Row 20 of view 0 of split train .* not finite"):
            read()
    np.testing.assert_array_equal(split.rows(0, [7, 19]), stored([7, 19]))


def test_hashes_of_pieces_that_are_wrong_are_noticed(large: Path) -> None:
    records = json.loads((large / MANIFEST).read_text())
    part = records["0"]["embeddings/c/0/0/0"]
    pieces = part["pieces"]
    part["pieces"] = "0" * 16 + pieces[16:]
    (large / MANIFEST).write_text(json.dumps(records))
    with pytest.raises(StoreDamagedError, match="has other content"):
        open_store(large)["train"].rows(0, [3])
    assert len(verify_store(open_store(large)).damaged) == 1
    part["pieces"] = pieces[16:]
    (large / MANIFEST).write_text(json.dumps(records))
    with pytest.raises(StoreDamagedError, match="digits of hashes of pieces do not fit 600004 bytes"):
        open_store(large)["train"].view(0)


def test_view_is_read_into_memory_that_is_given(large: Path) -> None:
    split, memory = open_store(large)["train"], np.empty((ROWS, FEATURES), np.float16)
    assert split.view(0, memory) is memory
    np.testing.assert_array_equal(memory, stored(slice(ROWS)))
    fixed = memory.copy()
    fixed.flags.writeable = False
    for wrong in (memory[:-1], memory.astype(np.float32), np.empty((FEATURES, ROWS), np.float16).T, fixed):
        with pytest.raises(
            StoreError, match=r"out must be a contiguous, writable float16 array of shape \(450, 1000\)"
        ):
            split.view(0, wrong)


def test_rows_of_a_server_are_those_of_the_disk(large: Path, web: Server) -> None:
    large.rename(web.root / "large.zarr")
    split = open_store(f"{web.url}/large.zarr")["train"]
    np.testing.assert_array_equal(split.rows(0, [299, 131, 300, 7]), stored([299, 131, 300, 7]))
    np.testing.assert_array_equal(split.view(0), stored(slice(ROWS)))


def test_size_is_predicted_with_the_hashes_of_pieces(written: Path) -> None:
    metadata = [path.stat().st_size for path in written.rglob("zarr.json")]
    predicted = views_size(PLAN).plus(samples_size(PLAN))
    assert size_on_disk(written) == (predicted.bytes + sum(metadata), predicted.files + len(metadata))


def test_copy_and_hdf5_keep_the_hashes_of_pieces(large: Path, tmp_path: Path, files: Files) -> None:
    copy_store(plan_copy(large), tmp_path / "copy.zarr", lambda parts: None)
    export_hdf5(open_store(large), tmp_path / "store.h5", lambda size: None)
    import_hdf5(tmp_path / "store.h5", tmp_path / "imported.zarr", lambda size: None)
    assert files(tmp_path / "copy.zarr") == files(tmp_path / "imported.zarr") == files(large)


def test_part_of_an_earlier_release_is_merged_with_one_of_this(tmp_path: Path) -> None:
    """Both have the first block; only one record of it has hashes of pieces."""
    one, two = write_store(tmp_path / "one", (0,)), write_store(tmp_path / "two")
    record = one / "train/embeddings/commits/0/0.json"
    parts = json.loads(record.read_text())
    del parts["embeddings/c/0/0/0"]["pieces"]
    record.chmod(0o600)
    record.write_text(json.dumps(parts))
    merge_stores(plan_merge([open_store(one), open_store(two)]), tmp_path / "whole", lambda blocks: None)
    np.testing.assert_array_equal(open_store(tmp_path / "whole")["train"].view(0), stored(slice(ROWS)))
    records = read_records(location(tmp_path / "whole/train"), "0")
    assert ["pieces" in records[block][f"embeddings/c/0/{block}/0"] for block in (0, 1)] == [False, True]


def test_texts_that_are_cut_short_are_damage() -> None:
    path = location("chunk")
    content = b"\2\0\0\0" + b"\1\0\0\0a" + b"\3\0\0\0b" + b"\xc3\xa9" + b"crc."
    assert texts(path, content, 2) == ["a", "bé"]
    for wrong in (content[:-6] + b"crc.", content[:8] + b"\xff" + content[9:], content[:4] + b"\xff" + content[5:]):
        with pytest.raises(ValueError, match=r"texts of 'chunk' end at byte|codec can't decode"):
            texts(path, wrong, 2)
    with pytest.raises(StoreUnsafeError, match="claims to hold 2 texts instead of 3"):
        texts(path, content, 3)
