"""A writer that was taken for gone, because it was suspended, wakes up: nothing it still does gets into the store."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress_ssl.storage import LocalPath, Place, RemotePath, SplitPlan, location, open_store
from compress_ssl.storage.commits import commit_block, is_committed, read_records
from compress_ssl.storage.errors import StoreBusyError, StoreError
from compress_ssl.storage.places.lease import Lease
from compress_ssl.storage.places.place import writer_lease
from compress_ssl.storage.schema import unit_keys
from compress_ssl.storage.tools.verify import verify_store
from compress_ssl.storage.writer import StoreWriter, create_store, exclusive_writer, open_root
from tests.storage.conftest import ATTRIBUTES

TAKEN = "was taken over by another writer"
Write = Callable[[StoreWriter, int, list[int]], None]


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, plan: Callable[..., SplitPlan]) -> Place:
    """A store without blocks."""
    on_disk = request.param == "local"
    place = location(tmp_path / "lab" / "store.zarr" if on_disk else f"{request.getfixturevalue('bucket')}/store.zarr")
    create_store(place, ATTRIBUTES, {"train": plan(), "val": plan(6, 1)})
    return place


@pytest.fixture
def write(values: Any, parameters: Any) -> Write:
    """Write some blocks of one view of train."""

    def some(writer: StoreWriter, view: int, blocks: list[int]) -> None:
        for block in blocks:
            rows = writer.store["train"].block_slice(block)
            writer.write_block("train", block, view, values(view, rows), parameters(view, rows))

    return some


def let_another_take(place: Place) -> None:
    """Take the lease as another writer does that counts its holder as gone."""
    slot = place.lease_slot()
    other = {"machine": "elsewhere b p", "process": 1, "started": "1", "heartbeat": time.time(), "holder": "other"}
    assert slot.put(json.dumps(other).encode(), slot.read()[1])


def contents(place: Place) -> dict[str, bytes]:
    return {file.relative_to(place).as_posix(): file.read_bytes() for file in place.files()}


def wake_up_late(place: Place, holder: str, block: int) -> None:
    """Put the record of a block of view 0 that a suspended writer had begun to put."""
    part = {"size": 1, "xxh3_64": "0" * 16, "writer": holder}
    record = dict.fromkeys(unit_keys("0", block), part)
    (place / f"train/embeddings/commits/0/{block}.json").write_durably(json.dumps(record).encode())


def test_writer_whose_lease_was_taken_writes_nothing_more(place: Place, write: Write) -> None:
    with pytest.raises(StoreBusyError, match=TAKEN), exclusive_writer(place):  # noqa: PT012
        writer = StoreWriter(place)
        write(writer, 0, [0, 1, 2, 3, 4])
        before = contents(place)
        let_another_take(place)
        changes: list[Callable[[], object]] = [
            lambda: write(writer, 1, [0]),
            lambda: commit_block(place / "train", "1", 0, {}, None),
            writer.finish,
            (place / "zarr.json").unlink if isinstance(place, RemotePath) else place.remove_tree,
            lambda: open_root(place).attrs.put({}),
            lambda: create_store(place, {"other": 1}, {"train": writer.store["train"]}, overwrite=True),  # type: ignore[dict-item]
        ]
        for change in changes:
            with pytest.raises(StoreBusyError, match=TAKEN):
                change()
            assert contents(place) == before
        raise ValueError("whatever an error a writer meets where another one writes")


def test_of_two_writers_who_resume_only_the_seconds_records_count(
    place: Place, write: Write, made: Path, fill: Callable[[Place], None]
) -> None:
    with writer_lease(place) as first:
        write(StoreWriter(place), 0, [0, 1])
    with writer_lease(place):
        writer = StoreWriter(place)
        wake_up_late(place, first.holder, 2)
        wake_up_late(place, first.holder, 0)
        assert list(read_records(place / "train", "0")) == [0, 1]
        assert [is_committed(place / "train", "0", block) for block in range(4)] == [True, True, False, False]
        assert writer.pending_blocks("train")[2] == [0, 1, 2]
        write(writer, 0, [2])
        assert open_store(place)["train"].committed_blocks(0) == 3
        fill(place)
    assert contents(place) == contents(LocalPath(made / "complete.zarr"))
    wake_up_late(place, first.holder, 3)
    assert not verify_store(open_store(place)).damaged


def test_writer_without_the_lease_that_a_store_was_begun_under_is_refused(place: Place, write: Write) -> None:
    with writer_lease(place):
        write(StoreWriter(place), 0, [0])
    with pytest.raises(StoreError, match="is only written under its lease"):  # its records would not count
        StoreWriter(place)


def test_store_that_was_overwritten_counts_no_record_of_before(
    place: Place, plan: Callable[..., SplitPlan], write: Write
) -> None:
    with writer_lease(place) as first:
        write(StoreWriter(place), 0, [0, 1])
    with writer_lease(place):
        create_store(place, ATTRIBUTES, {"train": plan()}, overwrite=True)
        writer = StoreWriter(place)
        wake_up_late(place, first.holder, 0)
        assert writer.pending_blocks("train")[0] == [0, 1, 2]
        write(writer, 0, [0, 1, 2, 3, 4])
        assert not verify_store(open_store(place)).damaged


def test_store_of_an_earlier_release_goes_on_and_is_fenced(empty: Path, write: Write) -> None:
    place = LocalPath(empty)
    write(StoreWriter(place), 0, [0, 1])  # without a lease: records as they were before
    with writer_lease(place):
        writer = StoreWriter(place)
        wake_up_late(place, "of another", 3)
        assert list(read_records(place / "train", "0")) == [0, 1]
        write(writer, 0, [2])
        assert sorted(read_records(place / "train", "0")) == [0, 1, 2]


def test_committed_part_that_has_gone_is_written_again(place: Place, write: Write, values: Any) -> None:
    with exclusive_writer(place):
        write(StoreWriter(place), 0, [0, 1, 2, 3, 4])
    (place / "train/embeddings/c/0/1/0").unlink()
    (place / "train/augmentation/c/0/3/0").write_durably(b"cut short")
    with exclusive_writer(place):
        writer = StoreWriter(place)
        assert [block for block, views in writer.pending_blocks("train").items() if 0 in views] == [1, 3]
        write(writer, 0, [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(open_store(place)["train"].view(0), values(0, slice(0, 22)))


@pytest.mark.parametrize("before", [None, b"what was there"])
def test_put_that_was_under_way_does_not_replace_what_the_next_writer_has_put(
    bucket: str, before: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = location(f"{bucket}/store.zarr")
    chunk, look = place / "train/c/0", Lease.check

    assert isinstance(chunk, RemotePath)
    looks = [] if before is None else [None]  # what is there is noticed first

    def suspended_after_looking(lease: Lease) -> None:
        look(lease)
        if looks:
            looks.pop()
        else:
            let_another_take(place)
            chunk.write_bytes(b"the other's")

    if before is not None:
        chunk.write_durably(before)
    with pytest.raises(StoreBusyError, match=TAKEN), writer_lease(place):  # noqa: PT012
        monkeypatch.setattr(Lease, "check", suspended_after_looking)
        chunk.write_durably(b"the sleeper's")
    assert chunk.read_bytes() == b"the other's"


def test_process_that_writes_for_two_runs_writes_each_under_its_own_lease(empty: Path, write: Write) -> None:
    """As a Dask worker that still has a task of a run whose client is gone."""
    place = LocalPath(empty)
    with writer_lease(place) as lease:
        first = StoreWriter(place)
        write(first, 0, [0])
        replace(lease, holder="gone").join()
        write(first, 0, [1])
        let_another_take(place)
        replace(lease, holder="other").join()
        second = StoreWriter(place)
        with pytest.raises(StoreBusyError, match=TAKEN):
            write(first, 0, [2])
        write(second, 0, [3])
        assert sorted(read_records(place / "train", "0")) == [0, 1, 3]


def test_record_has_the_hash_of_what_was_to_be_written(
    empty: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, key = LocalPath(empty), "train/embeddings/c/0/0/0"
    write_durably = LocalPath.write_durably

    def gone_wrong(path: LocalPath, data: bytes) -> None:
        write_durably(path, bytes(len(data)) if path == place / key else data)

    monkeypatch.setattr(LocalPath, "write_durably", gone_wrong)  # as a disk may
    write(StoreWriter(place), 0, [0])
    damaged = verify_store(open_store(place)).damaged
    assert [sentence.partition("' ")[0] for sentence in damaged] == [f"'{place}/{key}"]
