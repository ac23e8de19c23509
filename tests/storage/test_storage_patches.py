"""Patches of a store: what lies on the disk, what is read, what is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest

from compress_ssl.storage import SplitPlan, location, open_store
from compress_ssl.storage.errors import NotRepresentableError, StoreBusyError, StoreError, StoreIncompleteError
from compress_ssl.storage.schema import default_block_rows
from compress_ssl.storage.tools.verify import verify_store
from compress_ssl.storage.writer import StoreWriter, create_store, exclusive_writer
from tests.storage.conftest import BAD_ROW, parameters_of, patch_plan_of, patches_of, plan_of, values_of
from tests.storage.test_storage_commits import killed_writer
from tests.storage.test_storage_suspended import TAKEN, let_another_take

Array = np.ndarray[Any, Any]
Files = Callable[[Path], dict[str, bytes]]
Memory = Callable[[], int]


def write_embeddings(store: Path, block: int, view: int) -> None:
    rows = slice(5 * block, min(5 * block + 5, 22))
    StoreWriter(store).write_block("train", block, view, values_of(view, rows), parameters_of(view, rows))


@pytest.fixture
def unwritten(tmp_path: Path) -> Path:
    """A store with patches of the views 0 and 2, without blocks."""
    create_store(tmp_path / "store.zarr", {}, {"train": plan_of(patches=patch_plan_of())})
    return tmp_path / "store.zarr"


# ---------------------------------------------------------------- on the disk


def test_patches_are_laid_out_as_the_format_says(patched: Path) -> None:
    on_disk = {
        "patches": (["view", "sample", "position", "component"], [3, 22, 4, 3], [1, 5, 4, 3], "int8", 0),
        "patch_scale": (["view", "sample", "position"], [3, 22, 4], [1, 5, 4], "float16", "NaN"),
        "patch_mean": (["channel"], [6], [6], "float32", "NaN"),
        "patch_basis": (["component", "channel"], [3, 6], [3, 6], "float32", "NaN"),
    }
    for name, (dimensions, shape, chunks, dtype, fill) in on_disk.items():
        metadata = json.loads((patched / "train" / name / "zarr.json").read_text())
        assert [metadata[key] for key in ("dimension_names", "shape", "data_type", "fill_value")] == [
            *(dimensions, shape, dtype, fill)
        ]
        assert metadata["chunk_grid"]["configuration"]["chunk_shape"] == chunks
    assert json.loads((patched / "train/zarr.json").read_text())["attributes"]["patches"] == {
        "grid": 2,
        "components": 3,
        "channels": 6,
        "views": [0, 2],
        "explained_variance": 0.875,
        "fitted_on": 20,
        "reconstruction_cosine": 0.96875,
    }


def test_chunk_is_the_raw_codes_and_a_view_without_patches_has_none(patched: Path) -> None:
    content = (patched / "train/patches/c/2/3/0/0").read_bytes()
    assert content[:-4] == patches_of(2, slice(15, 20))[0].tobytes()
    assert content[-4:] == google_crc32c.value(content[:-4]).to_bytes(4, "little")
    assert (patched / "train/patch_scale/c/2/3/0").read_bytes()[:-4] == patches_of(2, slice(15, 20))[1].tobytes()
    assert sorted(path.name for path in (patched / "train/patches/c").iterdir()) == ["0", "2"]


def test_store_differs_from_one_without_patches_by_their_files_and_the_headers_only(
    patched: Path, complete: Path, files: Files
) -> None:
    with_patches, without = files(patched), files(complete)
    assert without.keys() <= with_patches.keys()
    more = {"train/" + name.split("/")[1] for name in with_patches.keys() - without.keys()}
    assert more == {f"train/{name}" for name in ("patches", "patch_scale", "patch_mean", "patch_basis", "embeddings")}
    records = {name for name in with_patches.keys() - without.keys() if name.startswith("train/embeddings/")}
    assert records == {f"train/embeddings/commits/{unit}.json" for unit in ("patch-basis", "patches-0", "patches-2")}
    changed = {name for name, content in without.items() if with_patches[name] != content}
    assert changed == {"zarr.json", "train/zarr.json"}


def test_blocks_are_smaller_where_patches_are_larger_than_embeddings() -> None:
    assert default_block_rows(1_281_167, 2048, 7 * 7 * 128) == 2048
    assert default_block_rows(1_281_167, 2048, 7 * 7 * 64) == 4096
    assert 2048 * 7 * 7 * 128 <= 16 * 2**20


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("view", [0, 2])
def test_patches_are_read_as_they_were_written(patched: Path, view: int) -> None:
    train = open_store(patched)["train"]
    wanted, wanted_scale = patches_of(view, slice(0, 22))
    wanted[BAD_ROW], wanted_scale[BAD_ROW] = 0, np.nan
    out = np.empty((22, 4, 3), np.int8), np.empty((22, 4), np.float16)
    whole = [train.patch_view(view), train.patch_view(view, out=out)]
    whole.append(tuple(map(np.concatenate, zip(*(run[1:] for run in train.patch_blocks(view)), strict=True))))
    whole.append(tuple(map(np.concatenate, zip(*(train.patch_block(view, n) for n in range(5)), strict=True))))
    for codes, scale in whole:
        np.testing.assert_array_equal(codes, wanted)
        np.testing.assert_array_equal(scale, wanted_scale)
    assert whole[1][0] is out[0]
    assert train.complete_patch_views == [0, 2]


def test_basis_is_read_as_it_was_planned(patched: Path) -> None:
    train, plan = open_store(patched)["train"], patch_plan_of()
    assert train.patches is not None
    assert train.patches.attribute() == plan.attribute()
    np.testing.assert_array_equal(train.patch_basis[0], plan.mean)
    np.testing.assert_array_equal(train.patch_basis[1], plan.basis)


def test_split_without_patches_has_none(patched: Path) -> None:
    val = open_store(patched)["val"]
    assert (val.patches, val.complete_patch_views) == (None, [])
    for read in (lambda: val.patch_view(0), lambda: val.patch_basis, lambda: list(val.patch_blocks(0))):
        with pytest.raises(StoreError, match=r"Split val of '.*' has no patches; embed its images with --patches"):
            read()
    with pytest.raises(StoreError, match=r"has no patches of view 1; those of the views 0, 2 are there"):
        open_store(patched)["train"].patch_view(1)


def test_memory_of_another_form_is_refused(patched: Path) -> None:
    train = open_store(patched)["train"]
    codes, scale = np.empty((22, 4, 3), np.int8), np.empty((22, 4), np.float16)
    for out in ((codes[:21], scale), (codes, scale.astype(np.float32)), (codes[::-1], scale), (codes.T.T, scale.T)):
        with pytest.raises(
            StoreError, match=r"out must be two contiguous, writable arrays: int8 of shape \(22, 4, 3\)"
        ):
            train.patch_view(0, out=out)


# ---------------------------------------------------------------- writing


def test_view_is_pending_until_its_embeddings_and_its_patches_are_written(unwritten: Path) -> None:
    for block in range(5):
        for view in range(3):
            write_embeddings(unwritten, block, view)
    writer = StoreWriter(unwritten)
    writer.write_patches("train", 1, 0, *patches_of(0, slice(5, 10)))
    assert writer.pending_blocks("train") == {0: [0, 2], 1: [2], 2: [0, 2], 3: [0, 2], 4: [0, 2]}
    writer.finish()
    store = open_store(unwritten)
    assert not store.is_complete
    assert (store["train"].complete_views, store["train"].complete_patch_views) == ([0, 1, 2], [])
    assert "consolidated_metadata" not in json.loads((unwritten / "zarr.json").read_text())
    with pytest.raises(StoreIncompleteError, match=r"The patch grid of view 0 of split train .* \(1 of 5 blocks\)"):
        store["train"].patch_view(0)
    assert verify_store(store).missing == [
        "train, the patch grid of view 0: 1 of 5 blocks are committed",
        "train, the patch grid of view 2: 0 of 5 blocks are committed",
    ]


def test_store_of_writers_killed_at_any_moment_has_the_bytes_of_an_uninterrupted_one(
    tmp_path: Path, plan: Callable[..., SplitPlan], files: Files
) -> None:
    killed, whole = tmp_path / "killed.zarr", tmp_path / "whole.zarr"
    create_store(killed, {}, {"train": plan(24, 3, block_rows=2, patches=patch_plan_of())})
    shutil.copytree(killed, whole)
    killed_writer(whole, "whole")
    story = json.loads(killed_writer(killed, "2"))
    assert story["killed"] >= 4
    assert story["progressed"] >= 2
    assert story["rewritten"] == 0
    assert files(killed) == files(whole)
    assert verify_store(open_store(killed)).ok


def test_store_killed_between_embeddings_and_patches_goes_on_to_the_same_bytes(
    unwritten: Path, fill: Callable[[Path], None], tmp_path: Path, files: Files
) -> None:
    whole = Path(shutil.copytree(unwritten, tmp_path / "whole.zarr"))
    fill(whole)
    write_embeddings(unwritten, 3, 2)
    (unwritten / "train/patches/c/2/3/0").mkdir(parents=True)
    (unwritten / "train/patches/c/2/3/0/0").write_bytes(b"half of it, without a record")
    fill(unwritten)
    assert files(unwritten) == files(whole)


def test_committed_patches_are_left_as_they_are(unwritten: Path, files: Files) -> None:
    writer = StoreWriter(unwritten)
    writer.write_patches("train", 0, 2, *patches_of(2, slice(0, 5)))
    before = files(unwritten)
    writer.write_patches("train", 0, 2, *patches_of(0, slice(0, 5)))
    assert files(unwritten) == before


def test_patches_of_a_writer_whose_lease_was_taken_do_not_get_into_the_store(unwritten: Path) -> None:
    place = location(unwritten)
    with pytest.raises(StoreBusyError, match=TAKEN), exclusive_writer(place):  # noqa: PT012
        writer = StoreWriter(place)
        let_another_take(place)
        writer.write_patches("train", 0, 0, *patches_of(0, slice(0, 5)))
    assert not (unwritten / "train/patches/c/0/0/0/0").exists()
    assert open_store(unwritten)["train"].committed("patches-0") == {}


@pytest.mark.parametrize("value", [np.inf, np.nan, -0.5])
def test_scale_that_is_not_finite_is_refused_by_row_path_and_view(unwritten: Path, files: Files, value: float) -> None:
    before = files(unwritten)
    codes, scale = patches_of(2, slice(10, 15))
    scale[3, 1] = value
    with pytest.raises(NotRepresentableError, match=r"'b/13\.jpg' \(split train, row 13, view 2\) has patches with a"):
        StoreWriter(unwritten).write_patches("train", 2, 2, codes, scale)
    assert files(unwritten) == before


def test_patches_that_the_split_does_not_take_are_refused(unwritten: Path, files: Files) -> None:
    before, writer = files(unwritten), StoreWriter(unwritten)
    codes, scale = patches_of(0, slice(0, 5))
    with pytest.raises(StoreError, match="has no patches of view 1"):
        writer.write_patches("train", 0, 1, codes, scale)
    with pytest.raises(StoreError, match="has no view 0, block 5"):
        writer.write_patches("train", 5, 0, codes, scale)
    others = [(codes[:4], scale[:4]), (codes.astype(int), scale), (codes, scale.astype("f4")), (codes[:, :1], scale)]
    for wrong in others:
        with pytest.raises(StoreError, match="takes codes and scale of types and shapes"):
            writer.write_patches("train", 0, 0, *wrong)
    assert files(unwritten) == before


WRONG_PLANS: dict[str, tuple[dict[str, Any], str]] = {
    "another mean": ({"mean": np.zeros(1, np.float32)}, r"has the shapes \(1,\) and \(3, 6\) instead of \(6,\)"),
    "rows that are not orthonormal": ({"basis": np.ones((3, 6), np.float32)}, "has rows that are not orthonormal"),
    "NaN": ({"mean": np.full(6, np.nan, np.float32)}, "is not finite"),
    "a share above one": ({"explained_variance": 1.001}, r"has an explained variance of 1\.001"),
}


@pytest.mark.parametrize("fault", WRONG_PLANS)
def test_basis_that_is_none_is_not_written(tmp_path: Path, fault: str) -> None:
    change, sentence = WRONG_PLANS[fault]
    patches = type(patch_plan_of())(**vars(patch_plan_of()) | change)
    with pytest.raises(StoreError, match=rf"The patch basis of split train {sentence}.* was not created"):
        create_store(tmp_path / "store.zarr", {}, {"train": plan_of(patches=patches)})
    assert list(tmp_path.iterdir()) == []
