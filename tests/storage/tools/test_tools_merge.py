"""Stores that have different blocks of one plan, joined: the bytes of one run, and nothing that does not fit."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress_ssl.storage import RemotePath, Samples, SplitPlan, location, open_store
from compress_ssl.storage.errors import StoreDamagedError, StoreExistsError, StoreMismatchError
from compress_ssl.storage.tools.copy import copy_store, plan_copy
from compress_ssl.storage.tools.growth import SplitGrowth, grow_store
from compress_ssl.storage.tools.merge import merge_stores, plan_merge
from compress_ssl.storage.tools.verify import verify_store
from compress_ssl.storage.writer import StoreWriter, create_store

Array = np.ndarray[Any, Any]
Files = Callable[[Path], dict[str, bytes]]
Write = Callable[..., Path]

ATTRIBUTES = {
    "teacher": {"name": "random", "feature_dim": 4},
    "data_set": {"name": "numbers", "images": 28, "fingerprint": {"train": "t", "val": "v"}},
    "rendering": {"renderer": "dali", "device_kind": "cpu"},
    "canaries": {"train": [1], "val": [2]},
}


def only(attributes: dict[str, Any], split: str, images: int) -> dict[str, Any]:
    data_set = {**attributes["data_set"], "images": images, "fingerprint": {split: split[0]}}
    return {**attributes, "data_set": data_set, "canaries": {split: attributes["canaries"][split]}}


@pytest.fixture
def write(
    tmp_path: Path, plan: Callable[..., SplitPlan], values: Callable[..., Array], parameters: Callable[..., Array]
) -> Write:
    """Make a store of some splits, with those of its (block, view) pairs for which ``have`` is true."""

    def make(
        name: str,
        have: Callable[[int, int], bool] = lambda block, view: True,
        attributes: dict[str, Any] = ATTRIBUTES,
        splits: Iterable[str] = ("train", "val"),
        **changed: SplitPlan,
    ) -> Path:
        plans = {"train": plan(), "val": plan(6, 1)} | changed
        create_store(tmp_path / name, attributes, {split: plans[split] for split in splits})
        writer = StoreWriter(tmp_path / name)
        for split in splits:
            for block, views in writer.pending_blocks(split).items():
                rows = writer.store[split].block_slice(block)
                for view in filter(lambda view: have(block, view), views):
                    writer.write_block(split, block, view, values(view, rows), parameters(view, rows))
        writer.finish()
        return tmp_path / name

    return make


def merge(*stores: Path, into: Path) -> list[str]:
    return merge_stores(plan_merge([open_store(store) for store in stores]), into, lambda amount: None)


def test_every_third_block_of_three_machines_makes_the_bytes_of_one_run(
    write: Write, tmp_path: Path, files: Files
) -> None:
    parts = [write(f"{part}.zarr", lambda block, view, part=part: block % 3 == part) for part in range(3)]
    assert merge(*parts, into=tmp_path / "all.zarr") == []
    assert files(tmp_path / "all.zarr") == files(write("whole.zarr"))
    assert verify_store(open_store(tmp_path / "all.zarr")).ok


def test_views_and_splits_made_apart_make_the_bytes_of_one_run(
    write: Write, tmp_path: Path, files: Files, plan: Callable[..., SplitPlan]
) -> None:
    """Machine one was planned with two views, two with three and made the third, three made the other split."""
    one = write("one.zarr", attributes=only(ATTRIBUTES, "train", 22), splits=["train"], train=plan(views=2))
    two = write("two.zarr", lambda block, view: view == 2, only(ATTRIBUTES, "train", 22), ["train"])
    three = write("three.zarr", attributes=only(ATTRIBUTES, "val", 6), splits=["val"])
    assert merge(one, two, three, into=tmp_path / "all.zarr") == []
    assert files(tmp_path / "all.zarr") == files(write("whole.zarr"))


def test_what_is_missing_is_said_and_can_be_embedded_afterwards(
    write: Write, tmp_path: Path, files: Files, fill: Callable[[Path], None]
) -> None:
    one = write("one.zarr", lambda block, view: (block, view) not in {(1, 1), (3, 1), (4, 2)})
    assert merge(one, into=tmp_path / "all.zarr") == [
        "train, view 1: 2 of 5 blocks are in no store (1, 3)",
        "train, view 2: 1 of 5 blocks are in no store (4)",
    ]
    assert open_store(tmp_path / "all.zarr")["train"].complete_views == [0]
    fill(tmp_path / "all.zarr")
    assert files(tmp_path / "all.zarr") == files(write("whole.zarr"))


def test_blocks_that_two_have_are_taken_once_if_they_are_the_same(write: Write, tmp_path: Path, files: Files) -> None:
    one, two = write("one.zarr", lambda block, view: block < 4), write("two.zarr", lambda block, view: block > 0)
    assert merge(one, two, into=tmp_path / "all.zarr") == []
    assert files(tmp_path / "all.zarr") == files(write("whole.zarr"))


def test_block_that_differs_is_refused_by_its_number_before_anything_is_written(
    write: Write, tmp_path: Path, parameters: Callable[..., Array]
) -> None:
    one, two = write("one.zarr"), write("two.zarr", lambda block, view: False)
    StoreWriter(two).write_block("train", 3, 2, np.ones((5, 4)), parameters(2, slice(15, 20)))
    with pytest.raises(
        StoreMismatchError, match=r"Block 3 of view 2 of split train is not the same in '.*one\.zarr/train'"
    ):
        merge(one, two, into=tmp_path / "all.zarr")
    assert not (tmp_path / "all.zarr").exists()


def test_other_teacher_is_named(write: Write, tmp_path: Path) -> None:
    other = {**ATTRIBUTES, "teacher": {"name": "random", "feature_dim": 4, "weights_sha256": "abc"}}
    with pytest.raises(
        StoreMismatchError, match=r"are not parts of one store: their teacher\.weights_sha256 is None and 'abc'"
    ):
        merge(write("one.zarr"), write("two.zarr", attributes=other), into=tmp_path / "all.zarr")


def test_other_seed_is_named(write: Write, tmp_path: Path, plan: Callable[..., SplitPlan]) -> None:
    other = plan()
    other.views[1] = {**other.views[1], "seed": 99}
    with pytest.raises(StoreMismatchError, match=r"their view 1 is \{.*'seed': 1.*\} and \{.*'seed': 99"):
        merge(write("one.zarr"), write("two.zarr", train=other), into=tmp_path / "all.zarr")


def test_other_block_rows_are_named(write: Write, tmp_path: Path, plan: Callable[..., SplitPlan]) -> None:
    with pytest.raises(StoreMismatchError, match="their block_rows is 5 and 4"):
        merge(write("one.zarr"), write("two.zarr", train=plan(block_rows=4)), into=tmp_path / "all.zarr")


def test_other_image_is_named(
    write: Write, tmp_path: Path, samples: Callable[..., Samples], plan: Callable[..., SplitPlan]
) -> None:
    other = plan()
    other.samples.content_hash[4] += np.uint64(1)
    with pytest.raises(StoreMismatchError, match=r"row 4 of split train is 'a/04\.jpg' with other content"):
        merge(write("one.zarr"), write("two.zarr", train=other), into=tmp_path / "all.zarr")


def test_other_device_is_a_warning(write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = {**ATTRIBUTES, "rendering": {"renderer": "dali", "device_kind": "NVIDIA H100"}}
    one = write("one.zarr", lambda block, view: block < 3)
    assert merge(one, write("two.zarr", lambda block, view: block >= 3, other), into=tmp_path / "all.zarr") == []
    assert "were made on different machines (rendering differs)" in caplog.text


def test_damaged_block_is_not_copied_and_the_same_call_goes_on(write: Write, tmp_path: Path, files: Files) -> None:
    one = write("one.zarr")
    chunk = one / "train" / "embeddings" / "c" / "1" / "2" / "0"
    content = chunk.read_bytes()
    chunk.chmod(0o644)
    chunk.write_bytes(content[:-1] + b"?")
    with pytest.raises(StoreDamagedError, match=r"c/1/2/0' has other content than was committed"):
        merge(one, into=tmp_path / "all.zarr")
    assert verify_store(open_store(tmp_path / "all.zarr")).damaged == []
    chunk.write_bytes(content)
    assert merge(one, into=tmp_path / "all.zarr") == []
    assert files(tmp_path / "all.zarr") == files(write("whole.zarr"))


def test_target_that_is_something_else_stays(
    write: Write, tmp_path: Path, files: Files, plan: Callable[..., SplitPlan]
) -> None:
    one, other = write("one.zarr"), write("other.zarr", splits=["val"])
    before = files(other)
    with pytest.raises(
        StoreExistsError, match=r"other\.zarr' exists already, and is not a merge of these stores; give"
    ):
        merge(one, into=other)
    assert files(other) == before


def test_parts_of_a_growth_make_the_bytes_of_a_growth_in_one_run(
    write: Write, tmp_path: Path, files: Files, fill: Callable[[Path], None], values: Callable[..., Array],
    parameters: Callable[..., Array],
) -> None:  # fmt: skip
    begun = write("begun.zarr")
    growth = SplitGrowth([open_store(begun)["train"].views[2]])
    halves = [shutil.copytree(begun, tmp_path / f"half-{part}.zarr") for part in range(2)]
    for path in (begun, *halves):
        grow_store(path, {"train": growth}, {})
    for part, path in enumerate(halves):
        writer = StoreWriter(path)
        for block in range(part, 5, 2):
            rows = writer.store["train"].block_slice(block)
            writer.write_block("train", block, 3, values(3, rows), parameters(3, rows))
        writer.finish()
    fill(begun)
    assert merge(*halves, into=tmp_path / "all.zarr") == []
    assert files(tmp_path / "all.zarr") == files(begun)


@pytest.mark.slow
def test_stores_in_a_bucket_merge_into_one_there_as_on_a_disk(
    bucket: str, write: Write, tmp_path: Path, files: Files
) -> None:
    parts, whole = [], location(f"{bucket}/merge/all.zarr")
    for part in range(2):
        path = write(f"{part}.zarr", lambda block, view, part=part: block % 2 == part)
        parts.append(location(f"{bucket}/merge/{part}.zarr"))
        copy_store(plan_copy(path), parts[-1], lambda amount: None)
    assert isinstance(whole, RemotePath)
    assert merge_stores(plan_merge([open_store(part) for part in parts]), whole, lambda amount: None) == []
    found = {path.relative_to(whole).as_posix(): path.read_bytes() for path in whole.files()}
    assert found == files(write("whole.zarr"))
