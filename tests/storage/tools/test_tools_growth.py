"""Growing a store by views and samples: what was there keeps its bytes; a killed growth leaves a store that opens."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray

from compress_ssl.storage import LocalPath, RemotePath, SplitPlan, Status, describe, location, open_store
from compress_ssl.storage.errors import StoreDamagedError, StoreIncompleteError
from compress_ssl.storage.tools.copy import copy_store, plan_copy
from compress_ssl.storage.tools.growth import SplitGrowth, grow_store, is_growing, make_room
from compress_ssl.storage.tools.verify import verify_store
from compress_ssl.storage.writer import create_store, open_root
from tests.storage.growing_writer import VIEW, grow, new_samples

Array = np.ndarray[Any, Any]
Files = Callable[[Path], dict[str, bytes]]

COUNTED = {"train": (22, 3), "val": (6, 1)}
GROWN = {"train": (32, 5), "val": (6, 2)}  # 22 rows, 3 of padding, 7 new


@pytest.fixture
def grown(complete: Path) -> Path:
    grow(complete)
    return complete


def test_old_rows_keep_their_place_and_their_bytes(complete: Path, files: Files) -> None:
    before = open_store(complete)["train"]
    rows, samples, parts = [before.view(view) for view in range(3)], before.samples, files(complete / "train")
    grow(complete)
    after = open_store(complete)["train"]
    for view in range(3):
        np.testing.assert_array_equal(after.view(view)[:22], rows[view])
    assert after.samples.sample_path[:22] == samples.sample_path
    changed = {name for name, content in parts.items() if files(complete / "train")[name] != content}
    assert changed == {"zarr.json", *(f"{name}/zarr.json" for name in (
        "embeddings", "augmentation", "sample_path", "label", "image_size", "content_hash", "status"
    )), *(f"embeddings/commits/{unit}.json" for unit in ("samples", "0", "1", "2"))}  # fmt: skip


def test_new_rows_begin_with_a_new_block_after_padding(grown: Path) -> None:
    train = open_store(grown)["train"]
    samples = train.samples
    assert (len(train), train.block_count, train.class_names) == (32, 7, ("a", "b", "aa"))
    assert samples.status[22:].tolist() == [2, 2, 2, 0, 0, 0, 1, 0, 0, 0]
    assert samples.sample_path[22:27] == ["", "", "", "new/0.jpg", "new/1.jpg"]
    assert samples.label[25:].tolist() == [0, 1, 2, 2, 2, 1, 0]
    assert np.flatnonzero(~samples.good).tolist() == [7, 22, 23, 24, 28]
    assert train.views[3:] == [VIEW, VIEW]
    for view in range(5):
        assert np.isnan(train.view(view)[~samples.good]).all()
        assert np.isfinite(train.view(view)[samples.good]).all()


def test_grown_store_is_complete_verified_and_counts_images_without_padding(grown: Path) -> None:
    store = open_store(grown)
    assert verify_store(store).ok
    assert not is_growing(store.attributes)
    assert store.attributes["grown"] is True
    assert "room" not in store["train"].attributes
    found = describe(store)["splits"]["train"]
    assert (found["samples"], found["bad_images"], found["views_complete"]) == (29, 2, 5)
    other = xarray.open_zarr(grown, group="train", consolidated=False)
    assert dict(other.sizes) == {"view": 5, "sample": 32, "feature": 4, "parameter": 2, "side": 2}


def test_split_of_whole_blocks_grows_without_padding(
    tmp_path: Path, plan: Callable[..., SplitPlan], fill: Callable[[Path], None]
) -> None:
    create_store(tmp_path / "store.zarr", {}, {"train": plan(20)})
    fill(tmp_path / "store.zarr")
    grow_store(tmp_path / "store.zarr", {"train": SplitGrowth([], new_samples())}, {})
    train = open_store(tmp_path / "store.zarr")["train"]
    assert (len(train), (train.samples.status == Status.PADDING).any()) == (27, False)
    with pytest.raises(StoreIncompleteError, match=r"View 0 .* \(4 of 6 blocks\)"):
        train.view(0)


def test_a_store_grows_twice(grown: Path, fill: Callable[[Path], None]) -> None:
    grow_store(grown, {"val": SplitGrowth([VIEW])}, {})
    fill(grown)
    store = open_store(grown)
    assert {name: (len(store[name]), len(store[name].views)) for name in store.split_names} == GROWN | {"val": (6, 3)}
    assert verify_store(store).ok


def test_reader_that_is_open_meanwhile_goes_on_with_what_it_opened(
    complete: Path, values: Callable[..., Array]
) -> None:
    store = open_store(complete)
    assert store["val"].complete_views == [0]
    grow(complete)
    train = store["train"]
    assert (len(train), train.complete_views, len(train.samples)) == (22, [0, 1, 2], 22)
    np.testing.assert_array_equal(train.view(2), values(2, slice(0, 22)))
    np.testing.assert_array_equal(
        train.rows(1, [21, 0]), np.stack([values(1, slice(21, 22))[0], values(1, slice(0, 1))[0]])
    )
    assert [rows.stop for rows, _ in train.blocks(0)][-1] == 22


def test_store_from_before_it_said_its_number_of_samples_grows(complete: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.zarr"
    shutil.copytree(complete, old)
    for split in ("train", "val"):
        metadata = old / split / "zarr.json"
        metadata.chmod(0o644)
        content = json.loads(metadata.read_text())
        del content["attributes"]["samples"]
        metadata.write_text(json.dumps(content))
    assert len(open_store(old)["train"]) == len(open_store(complete)["train"])
    grow_store(old, {"train": SplitGrowth([VIEW])}, {})
    assert len(open_store(old)["train"].views) == len(open_store(complete)["train"].views) + 1


def test_arrays_larger_than_described_are_damage_unless_room_was_made(complete: Path) -> None:
    metadata = complete / "train" / "label" / "zarr.json"
    metadata.chmod(0o644)
    metadata.write_text(metadata.read_text().replace("22", "32"))
    with pytest.raises(StoreDamagedError, match=r"train/label' has shape \(32,\)"):
        open_store(complete)


@pytest.fixture(scope="module")
def killed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of the complete store, each grown by a process that was killed at another rename; the last one lived."""
    folder = tmp_path_factory.mktemp("killed")
    root = Path(__file__).parents[3]
    program = [sys.executable, "-W", "ignore", "-m", "tests.storage.growing_writer"]
    answer = subprocess.run(
        [*program, made / "complete.zarr", folder], cwd=root, capture_output=True, text=True, check=True
    )
    assert int(answer.stdout) == len(list(folder.glob("*.zarr"))) - 1
    assert int(answer.stdout) > 15
    return folder


def test_killed_at_a_rename_it_opens_and_goes_on_to_the_same_bytes(
    killed: Path, made: Path, values: Callable[..., Array], files: Files
) -> None:
    *stores, whole = sorted(killed.glob("*.zarr"), key=lambda path: int(path.stem))
    wanted, sizes, growing = files(whole), set(), 0
    for path in stores:
        store = open_store(path)
        for name, (rows, views) in COUNTED.items():
            split = store[name]
            sizes.add((name, len(split), len(split.views)))
            for view in range(views) if len(split) == rows else ():
                np.testing.assert_array_equal(split.view(view), values(view, slice(0, rows)))
            assert split.samples.sample_path[:rows] == open_store(made / "complete.zarr")[name].samples.sample_path
        assert verify_store(store).damaged == []
        growing += is_growing(store.attributes)
        grow(path)
        assert files(path) == wanted, path.name
    assert sizes == {(name, *size) for counts in (COUNTED, GROWN) for name, size in counts.items()}
    assert growing > 3


def test_growth_that_was_broken_off_before_it_counted_gives_way_to_another(
    complete: Path, fill: Callable[[Path], None], values: Callable[..., Array]
) -> None:
    """The samples of the first growth were written; the second has fewer, and one view more."""
    root = open_root(LocalPath(complete))
    make_room(root, open_store(complete)["train"], SplitGrowth([VIEW], new_samples()))
    assert len(open_store(complete)["train"]) == 22
    grow_store(complete, {"train": SplitGrowth([VIEW, VIEW])}, {})
    fill(complete)
    train = open_store(complete)["train"]
    assert (len(train), train.complete_views, len(train.samples)) == (22, [0, 1, 2, 3, 4], 22)
    np.testing.assert_array_equal(train.view(4), values(4, slice(0, 22)))
    assert verify_store(open_store(complete)).ok


@pytest.mark.slow
def test_store_in_a_bucket_grows_as_one_on_a_disk(bucket: str, made: Path, grown: Path, files: Files) -> None:
    place = location(f"{bucket}/growing/store.zarr")
    assert isinstance(place, RemotePath)
    copy_store(plan_copy(made / "complete.zarr"), place, lambda amount: None)
    grow(place)
    found = {path.relative_to(place).as_posix(): path.read_bytes() for path in place.files()}
    assert found == files(grown)
    assert verify_store(open_store(place)).ok
