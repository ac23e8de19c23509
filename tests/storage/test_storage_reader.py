"""Reading a store: the right numbers, and a typed sentence for whatever is wrong with it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from compress_ssl.storage import Samples, SplitPlan, describe, open_store
from compress_ssl.storage.errors import (
    StoreDamagedError,
    StoreError,
    StoreIncompleteError,
    StoreNotFoundError,
    StoreVersionError,
)
from compress_ssl.storage.tools.identity import check_same, check_same_samples
from compress_ssl.storage.writer import StoreWriter, create_store

Array = np.ndarray[Any, Any]


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("view", [0, 1, 2])
def test_view_is_what_was_written(complete: Path, values: Callable[..., Array], view: int) -> None:
    read = open_store(complete)["train"].view(view)
    assert read.dtype == np.float16
    np.testing.assert_array_equal(read, values(view, slice(0, 22)))


def test_runs_of_blocks_make_up_the_view(tmp_path: Path, plan: Callable[..., SplitPlan], fill: Any) -> None:
    create_store(tmp_path / "store.zarr", {}, {"train": plan(41, 1, block_rows=2)})
    fill(tmp_path / "store.zarr")
    split = open_store(tmp_path / "store.zarr")["train"]
    runs = list(split.blocks(0))
    assert [(rows.start, rows.stop) for rows, _ in runs] == [(0, 32), (32, 41)]
    np.testing.assert_array_equal(np.concatenate([embeddings for _, embeddings in runs]), split.view(0))


def test_augmentation_is_what_was_written(complete: Path, parameters: Callable[..., Array]) -> None:
    split = open_store(complete)["train"]
    assert split.columns == ("row", "column")
    np.testing.assert_array_equal(split.augmentation(2), parameters(2, slice(0, 22)))


def test_rows_come_in_the_order_asked_for(complete: Path, values: Callable[..., Array]) -> None:
    split = open_store(complete)["train"]
    for rows in ([0], [21, 3, 3, 0], [], list(range(22))):
        np.testing.assert_array_equal(split.rows(1, rows), values(1, slice(0, 22))[np.array(rows, int)])


def test_row_that_is_not_there_is_named(complete: Path) -> None:
    split = open_store(complete)["train"]
    for rows, wrong in (([22], 22), ([0, -1], -1), (np.array([5, 400]), 400)):
        with pytest.raises(StoreError, match=rf"has no row {wrong}; it has rows 0 to 21"):
            split.rows(0, rows)


def test_what_is_no_list_of_rows_is_refused(complete: Path) -> None:
    split, no_rows = open_store(complete)["train"], ([True, False], [0.5], [[0, 1]], 3)
    for rows in no_rows:
        with pytest.raises(StoreError, match="rows must be a list of row numbers"):
            split.rows(0, rows)  # type: ignore[arg-type]


def test_samples_are_what_was_written(complete: Path, samples: Callable[..., Samples]) -> None:
    read, written = open_store(complete)["train"].samples, samples(22)
    assert read.sample_path == written.sample_path
    assert read.class_names == ("a", "b")
    for name in ("label", "image_size", "content_hash", "status"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
        assert getattr(read, name).dtype == getattr(written, name).dtype


def test_bad_image_is_not_good(complete: Path) -> None:
    assert np.flatnonzero(~open_store(complete)["train"].samples.good).tolist() == [7]


def test_paths_of_any_script_survive(tmp_path: Path, plan: Callable[..., SplitPlan]) -> None:
    paths = ["Äpfel/grün 1.jpg", "林檎/写真.png", "яблоко/ё.jpg", "🍎/e\u0301.jpg", "a/" + "x" * 300]
    create_store(tmp_path / "ß 店.zarr", {}, {"train": plan(5, paths=paths)})
    assert open_store(tmp_path / "ß 店.zarr")["train"].samples.sample_path == paths


@pytest.mark.parametrize("view", [-1, 3])
def test_view_that_is_not_there_is_named(complete: Path, view: int) -> None:
    with pytest.raises(StoreError, match=rf"has no view {view}; it has views 0 to 2"):
        open_store(complete)["train"].view(view)


def test_split_that_is_not_there_is_named(complete: Path) -> None:
    with pytest.raises(StoreError, match=r"has no split 'test'; it has train, val\."):
        open_store(complete)["test"]
    with pytest.raises(StoreError, match=r"it has train, val\. Did you mean 'train'\?"):
        open_store(complete)["trian"]


@pytest.mark.parametrize("read", [lambda split: split.view(0), lambda split: split.augmentation(0)])
def test_incomplete_view_is_refused_with_its_progress(
    empty: Path, values: Callable[..., Array], parameters: Callable[..., Array], read: Callable[..., Array]
) -> None:
    for block in (0, 3):
        rows = slice(5 * block, 5 * block + 5)
        StoreWriter(empty).write_block("train", block, 0, values(0, rows), parameters(0, rows))
    with pytest.raises(StoreIncompleteError, match=r"View 0 .* is not complete \(2 of 5 blocks\); finish it with"):
        read(open_store(empty)["train"])


def test_nothing_at_the_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match=r"^'.*nowhere' does not exist; make one with 'compress-ssl embed"):
        open_store(tmp_path / "nowhere")


def test_empty_folder_is_not_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="is not an embedding store"):
        open_store(tmp_path)


def test_other_zarr_group_is_not_a_store(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "other.zarr", attributes={"format": "something"})
    with pytest.raises(StoreNotFoundError, match="is a zarr group, but not an embedding store"):
        open_store(tmp_path / "other.zarr")


def test_zarr_array_is_not_a_store(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "array.zarr", shape=(3,), dtype="int32")
    with pytest.raises(StoreNotFoundError, match="is a zarr array, not an embedding store"):
        open_store(tmp_path / "array.zarr")


def test_unknown_version_is_refused(complete: Path) -> None:
    for version in (0, 3, None):
        edit(complete / "zarr.json", lambda content, version=version: content["attributes"].update(version=version))
        with pytest.raises(
            StoreVersionError, match=rf"has format version {version}, but this release reads versions 1 and 2"
        ):
            open_store(complete)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


DAMAGE = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut short": cut_short,
    "binary": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "a list": lambda path: path.write_text("[]"),
    "an empty object": lambda path: path.write_text("{}"),
}


@pytest.mark.parametrize("name", ["", "train/", "train/embeddings/", "train/status/"])
def test_damaged_metadata_are_named(complete: Path, name: str) -> None:
    metadata = complete / f"{name}zarr.json"
    content = metadata.read_bytes()
    for damage in DAMAGE.values():
        damage(metadata)
        with pytest.raises(StoreDamagedError, match=rf"^'[^\n]*store\.zarr/{name.rstrip('/')}[^\n]*embed again\.$"):
            open_store(complete)
        metadata.write_bytes(content)


@pytest.mark.parametrize("key", ["folder", "views", "class_names", "block_rows"])
def test_attribute_that_is_missing_is_named(complete: Path, key: str) -> None:
    edit(complete / "train" / "zarr.json", lambda content: content["attributes"].pop(key))
    with pytest.raises(StoreDamagedError, match=rf"train/zarr\.json' lacks '{key}'; restore"):
        open_store(complete)


def test_arrays_of_different_lengths_are_refused(complete: Path) -> None:
    edit(complete / "train" / "status" / "zarr.json", lambda content: content.update(shape=[21]))
    with pytest.raises(StoreDamagedError, match=r"train/status' has shape \(21,\) .* where \(22,\)"):
        open_store(complete)


def test_views_that_are_described_but_not_there_are_refused(complete: Path) -> None:
    edit(complete / "train" / "zarr.json", lambda content: content["attributes"]["views"].pop())
    with pytest.raises(StoreDamagedError, match=r"train/embeddings' has shape \(3, 22, 4\)"):
        open_store(complete)


def test_description_counts_what_is_there(complete: Path) -> None:
    found = describe(open_store(complete))
    assert json.loads(json.dumps(found)) == found
    assert found["version"] == 1
    train = found["splits"]["train"]
    assert (train["samples"], train["bad_images"], train["classes"], train["feature_dim"]) == (22, 1, 2, 4)
    assert (train["views_complete"], train["blocks"], train["blocks_committed"]) == (3, 5, [5, 5, 5])
    assert train["bytes"] == 3 * 22 * 4 * 2


def test_first_sample_that_differs_is_named(samples: Callable[..., Samples]) -> None:
    other = samples(22, [f"{'ab'[row % 2]}/{row + (row > 4):02d}.jpg" for row in range(22)])
    with pytest.raises(StoreError, match=r"row 5 of split train is 'b/05\.jpg' in the store and 'b/06\.jpg' in the"):
        check_same_samples("train", samples(22), other)


def test_sample_of_other_content_is_named(samples: Callable[..., Samples]) -> None:
    other = samples(22)
    other.content_hash[3] += np.uint64(1)
    with pytest.raises(StoreError, match=r"row 3 of split train is 'b/03\.jpg' with other content"):
        check_same_samples("train", samples(22), other)


def test_splits_of_different_lengths_differ(samples: Callable[..., Samples]) -> None:
    with pytest.raises(StoreError, match=r"has 22 rows in the store and 20 in the data \(the first 20 agree\)"):
        check_same_samples("train", samples(22), samples(20))


def test_setting_that_differs_is_named() -> None:
    with pytest.raises(StoreError, match=r"'s\.zarr' was made with size = 16, now it is 8; use the settings"):
        check_same(Path("s.zarr"), {"seed": 1, "size": 16}, {"seed": 1, "size": 8})
