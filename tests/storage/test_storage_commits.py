"""What is committed stays: writers that are killed, that come back, that write at the same time."""

import json
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress_ssl.storage import LocalPath, SplitPlan, open_store
from compress_ssl.storage.commits import fold_records, read_records
from compress_ssl.storage.writer import StoreWriter, create_store, exclusive_writer

ROOT = Path(__file__).parents[2]
Array = np.ndarray[Any, Any]
Files = Callable[[Path], dict[str, bytes]]
Write = Callable[..., None]


def killed_writer(path: Path, how: str) -> str:
    command = [sys.executable, str(Path(__file__).with_name("killed_writer.py")), str(path), how]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def write(values: Callable[..., Array], parameters: Callable[..., Array]) -> Write:
    """Write some blocks of one view of train."""

    def some(path: Path, view: int, blocks: list[int]) -> None:
        writer = StoreWriter(path)
        for block in blocks:
            rows = writer.store["train"].block_slice(block)
            writer.write_block("train", block, view, values(view, rows), parameters(view, rows))

    return some


def test_store_of_writers_killed_at_any_moment_has_the_bytes_of_an_uninterrupted_one(
    tmp_path: Path, plan: Callable[..., SplitPlan], files: Files
) -> None:
    killed, whole = tmp_path / "killed.zarr", tmp_path / "whole.zarr"
    create_store(killed, {}, {"train": plan(60, 3, block_rows=2)})
    shutil.copytree(killed, whole)
    killed_writer(whole, "whole")
    story = json.loads(killed_writer(killed, "1"))
    assert story["killed"] >= 4
    assert story["progressed"] >= 2
    assert story["rewritten"] == 0
    assert files(killed) == files(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.zarr", "whole.zarr"]


def test_pending_blocks_are_those_without_a_record(empty: Path, write: Write) -> None:
    write(empty, 0, [0, 1, 4])
    write(empty, 2, [1])
    writer = StoreWriter(empty)
    assert writer.pending_blocks("train") == {0: [1, 2], 1: [1], 2: [0, 1, 2], 3: [0, 1, 2], 4: [1, 2]}


def test_finished_store_has_nothing_pending(complete: Path) -> None:
    writer = StoreWriter(complete)
    assert writer.pending_blocks("train") == writer.pending_blocks("val") == {}


def test_data_without_a_record_are_not_committed(empty: Path, write: Write) -> None:
    write(empty, 0, [2])
    (empty / "train/embeddings/commits/0/2.json").unlink()
    assert (empty / "train/embeddings/c/0/2/0").is_file()
    assert 0 in StoreWriter(empty).pending_blocks("train")[2]
    assert open_store(empty)["train"].committed_blocks(0) == 0


def test_damaged_data_without_a_record_are_written_over(
    empty: Path, write: Write, values: Callable[..., Array]
) -> None:
    write(empty, 0, [0, 1, 2, 3, 4])
    for block in (3, 4):
        (empty / f"train/embeddings/commits/0/{block}.json").unlink()
        (empty / f"train/embeddings/c/0/{block}/0").write_bytes(b"half")
    write(empty, 0, [3, 4])
    np.testing.assert_array_equal(open_store(empty)["train"].view(0), values(0, slice(0, 22)))


@pytest.mark.parametrize("folded", [False, True])
def test_committed_block_is_never_written_again(
    empty: Path, write: Write, parameters: Callable[..., Array], files: Files, folded: bool
) -> None:
    write(empty, 0, [0, 1, 2, 3, 4])
    if folded:
        StoreWriter(empty).finish()
    before = files(empty)
    StoreWriter(empty).write_block("train", 1, 0, np.zeros((5, 4)), parameters(0, slice(5, 10)))
    assert files(empty) == before


def test_order_of_writing_leaves_no_trace(empty: Path, write: Write, fill: Any, files: Files) -> None:
    in_order = shutil.copytree(empty, empty.with_name("in_order.zarr"))
    fill(in_order)
    write(empty, 2, [4, 1])
    write(empty, 0, [3])
    fill(empty)
    assert files(empty) == files(in_order)


def test_complete_view_is_folded_into_one_file_and_an_incomplete_one_is_not(empty: Path, write: Write) -> None:
    write(empty, 0, [0, 1, 2, 3, 4])
    write(empty, 1, [0, 1, 2, 3])
    StoreWriter(empty).finish()
    commits = empty / "train/embeddings/commits"
    assert sorted(path.relative_to(commits).as_posix() for path in commits.rglob("*.json")) == [
        "0.json",
        "1/0.json",
        "1/1.json",
        "1/2.json",
        "1/3.json",
        "samples.json",
    ]
    assert open_store(empty)["train"].complete_views == [0]


def test_folding_that_was_killed_half_way_is_finished(empty: Path, write: Write) -> None:
    write(empty, 0, [0, 1, 2, 3, 4])
    commits = empty / "train/embeddings/commits"
    shutil.copytree(commits / "0", commits / "kept")
    records = read_records(LocalPath(empty / "train"), "0")
    fold_records(LocalPath(empty / "train"), "0")
    (commits / "kept").rename(commits / "0")
    (commits / "0" / "3.json").unlink()
    StoreWriter(empty).finish()
    assert not (commits / "0").exists()
    assert read_records(LocalPath(empty / "train"), "0") == records


def test_records_are_never_seen_to_go_while_they_are_folded(empty: Path, write: Write) -> None:
    write(empty, 0, [0, 1, 2, 3, 4])
    with ThreadPoolExecutor(1) as pool:
        for trial in range(40):
            split = LocalPath(empty.with_name(f"split-{trial}"))
            shutil.copytree(empty / "train/embeddings/commits", split / "embeddings/commits")
            folding = pool.submit(fold_records, split, "0")
            while not folding.done():
                assert sorted(read_records(split, "0")) == [0, 1, 2, 3, 4]
            folding.result()


def test_threads_share_one_writer(
    complete: Path,
    plan: Callable[..., SplitPlan],
    values: Callable[..., Array],
    parameters: Callable[..., Array],
    files: Files,
) -> None:
    path = complete.with_name("threads.zarr")
    create_store(path, {}, {"train": plan()})
    writer = StoreWriter(path)

    def write_one(unit: int) -> None:
        block, view = divmod(unit, 3)
        rows = writer.store["train"].block_slice(block)
        writer.write_block("train", block, view, values(view, rows), parameters(view, rows))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write_one, range(15)))
    writer.finish()
    assert files(path / "train") == files(complete / "train")


WRITE_EVERY_OTHER = """
import sys, time
from pathlib import Path
import numpy as np
from compress_ssl.storage.writer import StoreWriter
path, first = Path(sys.argv[1]), int(sys.argv[2])
writer = StoreWriter(path)
path.with_name(f"ready-{first}").touch()
while not path.with_name("go").exists():
    time.sleep(0.002)
for block in range(first, writer.store["train"].block_count, 2):
    rows = writer.store["train"].block_slice(block)
    numbers = np.arange(rows.start, rows.stop)[:, None]
    writer.write_block("train", block, 0, np.repeat(numbers, 4, 1).astype("f4"), np.repeat(numbers, 2, 1).astype("f4"))
"""


def test_two_processes_write_disjoint_blocks_at_once(tmp_path: Path, plan: Callable[..., SplitPlan]) -> None:
    path = tmp_path / "store.zarr"
    create_store(path, {}, {"train": plan(41, 1, block_rows=2)})
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITE_EVERY_OTHER, str(path), str(first)], cwd=ROOT) for first in (0, 1)
    ]
    while not all((tmp_path / f"ready-{first}").exists() for first in (0, 1)):
        assert all(writer.poll() is None for writer in writers)
        time.sleep(0.01)
    (tmp_path / "go").touch()
    assert [writer.wait(30) for writer in writers] == [0, 0]
    StoreWriter(path).finish()
    expected = np.arange(41.0)
    expected[7] = np.nan
    np.testing.assert_array_equal(open_store(path)["train"].view(0), np.repeat(expected[:, None], 4, 1))


def test_leftovers_of_killed_writers_are_swept_under_the_lease(complete: Path, files: Files) -> None:
    before = files(complete)
    for name in ("zarr.json", "train/embeddings/c/0/9", "train/embeddings/commits/1"):
        (complete / f"{name}.{uuid.uuid4().hex}.partial").write_bytes(b"half")
    with exclusive_writer(complete):
        pass
    assert files(complete) == before


def test_nothing_is_swept_from_a_folder_that_is_not_a_store(tmp_path: Path) -> None:
    download = tmp_path / "photographs" / "holiday.partial"
    download.parent.mkdir()
    download.write_bytes(b"half")
    with exclusive_writer(download.parent):
        pass
    assert download.read_bytes() == b"half"
