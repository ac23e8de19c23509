"""Creating a store and writing its blocks: what lies on the disk, and what is refused."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress_ssl.storage import SplitPlan, open_store
from compress_ssl.storage.errors import NotRepresentableError, StoreError, StoreExistsError
from compress_ssl.storage.schema import default_block_rows
from compress_ssl.storage.writer import StoreWriter, create_store

Array = np.ndarray[Any, Any]
Files = Callable[[Path], dict[str, bytes]]

ON_DISK = {
    "embeddings": (["view", "sample", "feature"], [3, 22, 4], [1, 5, 4], "float16", "NaN"),
    "augmentation": (["view", "sample", "parameter"], [3, 22, 2], [1, 5, 2], "float32", "NaN"),
    "sample_path": (["sample"], [22], [5], "string", ""),
    "label": (["sample"], [22], [5], "int32", -1),
    "image_size": (["sample", "side"], [22, 2], [5, 2], "int32", 0),
    "content_hash": (["sample"], [22], [5], "uint64", 0),
    "status": (["sample"], [22], [5], "uint8", 2),
}


def test_arrays_are_laid_out_as_the_format_says(made: Path) -> None:
    for name, layout in ON_DISK.items():
        metadata = json.loads((made / "empty.zarr/train" / name / "zarr.json").read_text())
        chunks = metadata["chunk_grid"]["configuration"]["chunk_shape"]
        found = tuple(metadata[key] for key in ("dimension_names", "shape", "data_type", "fill_value"))
        assert (found[0], found[1], chunks, *found[2:]) == layout, name


def test_arrays_are_not_compressed_and_end_in_a_checksum(made: Path) -> None:
    for name in ON_DISK:
        codecs = json.loads((made / "empty.zarr/train" / name / "zarr.json").read_text())["codecs"]
        assert [codec["name"] for codec in codecs] == ["vlen-utf8" if name == "sample_path" else "bytes", "crc32c"]


def test_chunk_is_the_raw_rows_then_four_bytes_of_checksum(complete: Path, values: Callable[..., Array]) -> None:
    content = (complete / "train" / "embeddings" / "c" / "2" / "3" / "0").read_bytes()
    assert content[:-4] == values(2, slice(15, 20)).astype("<f2").tobytes()
    assert len(content) == 5 * 4 * 2 + 4


def test_last_chunk_is_padded_with_nan(complete: Path, values: Callable[..., Array]) -> None:
    content = (complete / "train" / "embeddings" / "c" / "0" / "4" / "0").read_bytes()
    rows = np.frombuffer(content[:-4], "<f2").reshape(5, 4)
    np.testing.assert_array_equal(rows[:2], values(0, slice(20, 22)))
    assert np.isnan(rows[2:]).all()


def test_root_names_the_format_its_version_and_the_splits(complete: Path) -> None:
    attributes = json.loads((complete / "zarr.json").read_text())["attributes"]
    assert attributes["format"] == "compress-ssl-embeddings"
    assert attributes["version"] == 1
    assert attributes["splits"] == ["train", "val"]
    assert attributes["teacher"]["name"] == "random"


@pytest.mark.parametrize(("features", "rows"), [(512, 16384), (2048, 4096), (8192, 1024)])
def test_blocks_of_big_data_are_sixteen_mebibytes(features: int, rows: int) -> None:
    assert default_block_rows(1_281_167, features) == rows
    assert rows * features * 2 == 16 * 2**20


@pytest.mark.parametrize(("samples", "rows"), [(1_297, 128), (9_469, 256), (50_000, 1024), (100_000, 2048)])
def test_blocks_of_smaller_data_are_at_least_thirty_two_or_a_batch(samples: int, rows: int) -> None:
    assert default_block_rows(samples, 512) == rows


def test_blocks_of_any_width_are_filled_by_batches() -> None:
    assert {default_block_rows(1_281_167, features) for features in range(1025, 2049)} == {4096}
    assert default_block_rows(1_281_167, 1280) % 1024 == 0


def test_few_samples_are_one_block() -> None:
    assert default_block_rows(3, 512) == 3
    assert default_block_rows(0, 512) == 1


def test_a_feature_wider_than_a_chunk_still_gets_a_row() -> None:
    assert default_block_rows(1_000, 2**24) == 1


def test_value_that_float16_cannot_hold_is_refused_by_row_path_and_view(
    empty: Path, values: Callable[..., Array], parameters: Callable[..., Array], files: Files
) -> None:
    before, writer = files(empty), StoreWriter(empty)
    for value, shown in ((70000.0, "70000"), (np.inf, "inf"), (-np.inf, "-inf"), (np.nan, "nan")):
        embeddings = values(1, slice(10, 15))
        embeddings[2, 3] = value
        with pytest.raises(NotRepresentableError, match=rf"'a/12\.jpg' \(split train, row 12, view 1\) holds {shown},"):
            writer.write_block("train", 2, 1, embeddings, parameters(1, slice(10, 15)))
    assert files(empty) == before


def test_row_that_float16_would_round_away_is_refused(
    empty: Path, values: Callable[..., Array], parameters: Callable[..., Array], files: Files
) -> None:
    before = files(empty)
    embeddings = values(1, slice(10, 15))
    embeddings[2] *= 1e-9
    with pytest.raises(NotRepresentableError, match=r"row 12, view 1\) holds nothing larger than .*e-0.*--normalise\."):
        StoreWriter(empty).write_block("train", 2, 1, embeddings, parameters(1, slice(10, 15)))
    assert files(empty) == before


def test_row_of_zeros_is_accepted(empty: Path, parameters: Callable[..., Array]) -> None:
    StoreWriter(empty).write_block("train", 0, 0, np.zeros((5, 4)), parameters(0, slice(0, 5)))
    assert (empty / "train/embeddings/c/0/0/0").read_bytes()[:-4] == bytes(40)


@pytest.mark.parametrize("value", [65504.0, 65519.0])
def test_the_largest_float16_is_accepted(empty: Path, parameters: Callable[..., Array], value: float) -> None:
    StoreWriter(empty).write_block("train", 0, 0, np.full((5, 4), value), parameters(0, slice(0, 5)))
    content = (empty / "train/embeddings/c/0/0/0").read_bytes()
    assert content[:-4] == b"\xff\x7b" * 20


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.0])
def test_row_of_a_bad_image_is_kept_as_nan(
    empty: Path, values: Callable[..., Array], parameters: Callable[..., Array], value: float
) -> None:
    embeddings = values(0, slice(5, 10))
    embeddings[2] = value
    StoreWriter(empty).write_block("train", 1, 0, embeddings, parameters(0, slice(5, 10)))
    content = np.frombuffer((empty / "train/embeddings/c/0/1/0").read_bytes()[:-4], "<f2").reshape(5, 4)
    np.testing.assert_array_equal(content, values(0, slice(5, 10)))


def test_block_that_is_not_there_is_refused(
    empty: Path, values: Callable[..., Array], parameters: Callable[..., Array]
) -> None:
    writer = StoreWriter(empty)
    for block, view in ((5, 0), (-1, 0), (0, 3), (0, -1)):
        with pytest.raises(StoreError, match=f"has no view {view}, block {block}"):
            writer.write_block("train", block, view, values(0, slice(0, 5)), parameters(0, slice(0, 5)))


def test_embeddings_of_another_shape_are_never_stretched(
    empty: Path, parameters: Callable[..., Array], files: Files
) -> None:
    before, writer = files(empty), StoreWriter(empty)
    for shape in ((1, 4), (4, 4), (5, 1), (5, 8)):
        with pytest.raises(
            StoreError, match=r"takes embeddings of shape \(5, 4\) and parameters of shape \(5, 2\), got"
        ):
            writer.write_block("train", 0, 0, np.ones(shape), parameters(0, slice(0, 5)))
    assert files(empty) == before


def test_existing_store_is_not_replaced_unasked(complete: Path, plan: Callable[..., SplitPlan], files: Files) -> None:
    before = files(complete)
    with pytest.raises(StoreExistsError, match=r"'.*store\.zarr' exists already; use --resume .* or --overwrite"):
        create_store(complete, {}, {"train": plan()})
    assert files(complete) == before


def test_overwrite_replaces_a_store_and_says_so(
    complete: Path, plan: Callable[..., SplitPlan], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        create_store(complete, {}, {"other": plan()}, overwrite=True)
    assert open_store(complete).split_names == ["other"]
    assert [path.name for path in complete.parent.iterdir()] == ["store.zarr"]
    assert f"Deleting the embedding store '{complete}'" in caplog.text


@pytest.mark.parametrize("damaged", ["zarr.json", "train/zarr.json"])
def test_overwrite_replaces_a_damaged_store(complete: Path, plan: Callable[..., SplitPlan], damaged: str) -> None:
    (complete / damaged).write_bytes(b'{"attri')
    create_store(complete, {}, {"train": plan()}, overwrite=True)
    assert open_store(complete)["train"].complete_views == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_that_is_not_a_store_is_left_alone(
    tmp_path: Path, plan: Callable[..., SplitPlan], files: Files, overwrite: bool
) -> None:
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "1.jpg").write_bytes(b"picture")
    before = files(tmp_path)
    with pytest.raises(
        StoreExistsError, match=r"'.*photographs' is not empty and not an embedding store; give another"
    ):
        create_store(tmp_path / "photographs", {}, {"train": plan()}, overwrite=overwrite)
    assert files(tmp_path) == before


def test_store_may_be_put_into_an_empty_folder(tmp_path: Path, plan: Callable[..., SplitPlan]) -> None:
    (tmp_path / "store.zarr").mkdir()
    create_store(tmp_path / "store.zarr", {}, {"train": plan()})
    assert len(open_store(tmp_path / "store.zarr")["train"]) == 22


def test_file_is_left_alone(tmp_path: Path, plan: Callable[..., SplitPlan]) -> None:
    (tmp_path / "notes").write_text("important")
    with pytest.raises(StoreExistsError, match=r"'.*notes' is a file"):
        create_store(tmp_path / "notes", {}, {"train": plan()}, overwrite=True)
    assert (tmp_path / "notes").read_text() == "important"


def test_creation_that_fails_leaves_the_old_store_and_nothing_else(
    complete: Path, plan: Callable[..., SplitPlan], files: Files
) -> None:
    before = files(complete.parent)
    with pytest.raises(UnicodeEncodeError):
        create_store(complete, {}, {"train": plan(1, paths=["caf\udce9.jpg"])}, overwrite=True)
    assert files(complete.parent) == before
