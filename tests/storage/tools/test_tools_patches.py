"""What is done with whole stores that have patches: copied, merged, exported, grown, measured, described."""

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from compress_ssl.cli.stores.info import command as info
from compress_ssl.storage import SplitPlan, describe, location, open_store
from compress_ssl.storage.errors import StoreDamagedError, StoreError, StoreExistsError, StoreMismatchError
from compress_ssl.storage.tools.card import store_card
from compress_ssl.storage.tools.catalogue import catalogue
from compress_ssl.storage.tools.copy import copy_store, plan_copy
from compress_ssl.storage.tools.growth import SplitGrowth, grow_store
from compress_ssl.storage.tools.hdf5 import export_hdf5, import_hdf5
from compress_ssl.storage.tools.merge import merge_stores, plan_merge
from compress_ssl.storage.tools.size import block_size, samples_size, size_on_disk, views_size
from compress_ssl.storage.tools.verify import verify_store
from compress_ssl.storage.writer import StoreWriter, create_store
from tests.storage.conftest import ATTRIBUTES, parameters_of, patch_plan_of, patches_of, plan_of, values_of
from tests.storage.growing_writer import VIEW, new_samples

Files = Callable[[Path], dict[str, bytes]]
Fill = Callable[[Path], None]


def ignore(amount: int) -> None:
    del amount


def merge(*stores: Path, into: Path) -> list[str]:
    return merge_stores(plan_merge([open_store(store) for store in stores]), into, ignore)


def part_of_store(path: Path, have: Callable[[int, str], bool], plan: SplitPlan | None = None) -> Path:
    """A store of some of its (block, unit) pairs."""
    create_store(path, ATTRIBUTES, {"train": plan or plan_of(patches=patch_plan_of())})
    writer = StoreWriter(path)
    split = writer.store["train"]
    for block, unit in itertools.product(range(split.block_count), split.view_units):
        rows, view = split.block_slice(block), int(unit[-1])
        if have(block, unit) and unit.startswith("patches"):
            writer.write_patches("train", block, view, *patches_of(view, rows))
        elif have(block, unit):
            writer.write_block("train", block, view, values_of(view, rows), parameters_of(view, rows))
    writer.finish()
    return path


def everything(block: int, unit: str) -> bool:
    del block, unit
    return True


# ---------------------------------------------------------------- copy


def test_copy_and_hdf5_file_give_the_same_files(patched: Path, tmp_path: Path, files: Files) -> None:
    copy_store(plan_copy(patched), tmp_path / "copy.zarr", ignore)
    export_hdf5(open_store(patched), tmp_path / "store.h5", ignore)
    import_hdf5(tmp_path / "store.h5", tmp_path / "imported.zarr", ignore)
    assert files(tmp_path / "copy.zarr") == files(tmp_path / "imported.zarr") == files(patched)
    assert verify_store(open_store(tmp_path / "imported.zarr")).ok


def test_store_in_a_bucket_is_read_from_there(patched: Path, bucket: str) -> None:
    place = location(f"{bucket}/patched.zarr")
    copy_store(plan_copy(patched), place, ignore)
    there, here = open_store(place)["train"], open_store(patched)["train"]
    for ours, theirs in zip(
        (*here.patch_view(2), *here.patch_basis), (*there.patch_view(2), *there.patch_basis), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_copy_of_an_unfinished_store_goes_on_to_the_same_bytes(tmp_path: Path, fill: Fill, files: Files) -> None:
    """As machines do that embed parts by one basis."""
    part = part_of_store(tmp_path / "part.zarr", lambda block, unit: block == 1)
    copy_store(plan_copy(part), tmp_path / "copy.zarr", ignore)
    fill(tmp_path / "copy.zarr")
    assert files(tmp_path / "copy.zarr") == files(part_of_store(tmp_path / "whole.zarr", everything))


# ---------------------------------------------------------------- merge


def test_parts_of_three_machines_make_the_bytes_of_one_run(tmp_path: Path, files: Files) -> None:
    """Machine three has embeddings without patches of its blocks, and machine two those patches."""
    have: list[Callable[[int, str], bool]] = [
        lambda block, unit: block % 3 == 0,
        lambda block, unit: block % 3 == 1 or unit.startswith("patches"),
        lambda block, unit: block % 3 == 2 and not unit.startswith("patches"),
    ]
    parts = [part_of_store(tmp_path / f"{number}.zarr", each) for number, each in enumerate(have)]
    assert merge(*parts, into=tmp_path / "all.zarr") == []
    whole = part_of_store(tmp_path / "whole.zarr", everything)
    assert files(tmp_path / "all.zarr") == files(whole)
    assert merge(*parts, into=tmp_path / "all.zarr") == []  # the same merge again changes nothing


def test_patches_that_are_in_no_part_are_named(tmp_path: Path) -> None:
    part = part_of_store(tmp_path / "part.zarr", lambda block, unit: (block, unit) != (3, "patches-2"))
    assert merge(part, into=tmp_path / "all.zarr") == [
        "train, the patch grid of view 2: 1 of 5 blocks are in no store (3)"
    ]


def test_parts_of_different_patches_are_refused_by_what_differs(tmp_path: Path) -> None:
    one = part_of_store(tmp_path / "one.zarr", everything)
    plan = patch_plan_of()
    turned = np.linalg.qr(np.random.default_rng(2).normal(size=(6, 3)))[0].T.astype(np.float32)
    others = {
        r"they have different patch bases, which machines of different kinds compute": replace(plan, basis=turned),
        r"their patches\.views is \[0, 2\] and \[0\]": replace(plan, views=(0,)),
        r"their patches\.fitted_on is 20 and 30": replace(plan, fitted_on=30),
        r"their patches\.grid is 2 and None": None,
    }
    for number, (sentence, patches) in enumerate(others.items()):
        other = part_of_store(tmp_path / f"{number}.zarr", lambda block, unit: False, plan_of(patches=patches))
        with pytest.raises(StoreMismatchError, match=sentence):
            merge(one, other, into=tmp_path / "all.zarr")


def test_splits_with_and_without_patches_are_merged(tmp_path: Path) -> None:
    train = part_of_store(tmp_path / "train.zarr", everything)
    create_store(tmp_path / "val.zarr", ATTRIBUTES, {"val": plan_of(6, 1)})
    merge(train, tmp_path / "val.zarr", into=tmp_path / "all.zarr")
    merge(tmp_path / "val.zarr", train, into=tmp_path / "other.zarr")
    for path in (tmp_path / "all.zarr", tmp_path / "other.zarr"):
        store = open_store(path)
        assert store.attributes["version"] == 2
        assert (store["train"].complete_patch_views, store["val"].patches) == ([0, 2], None)


def test_measured_shares_may_differ_and_the_first_ones_are_kept(tmp_path: Path) -> None:
    rounded = replace(patch_plan_of(), explained_variance=0.8750001, reconstruction_cosine=0.9687)
    one = part_of_store(tmp_path / "one.zarr", lambda block, unit: block < 2)
    two = part_of_store(tmp_path / "two.zarr", lambda block, unit: block >= 2, plan_of(patches=rounded))
    assert merge(one, two, into=tmp_path / "all.zarr") == []
    patches = open_store(tmp_path / "all.zarr")["train"].patches
    assert patches is not None
    assert patches.explained_variance == 0.875


# ---------------------------------------------------------------- HDF5


def test_file_of_one_patched_view_of_many_is_imported(tmp_path: Path, fill: Fill, files: Files) -> None:
    """The array claims more bytes than the file has, as most of its views are not stored."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(32, 32)))[0].astype(np.float32)
    sizes = {"grid": 16, "components": 32, "channels": 32, "fitted_on": 1}
    patches = type(patch_plan_of())(
        **sizes, views=(1,), explained_variance=1.0, reconstruction_cosine=1.0, mean=basis[0], basis=basis
    )
    store = tmp_path / "store.zarr"
    create_store(store, {}, {"train": plan_of(6, 5, patches=patches)})
    writer = StoreWriter(store)
    for block, views in writer.pending_blocks("train").items():
        rows = writer.store["train"].block_slice(block)
        for view in views:
            writer.write_block("train", block, view, values_of(view, rows), parameters_of(view, rows))
        codes = rng.integers(-127, 128, (rows.stop - rows.start, 256, 32)).astype(np.int8)
        writer.write_patches("train", block, 1, codes, np.ones(codes.shape[:2], np.float16))
    writer.finish()
    export_hdf5(open_store(store), tmp_path / "store.h5", ignore)
    with h5py.File(tmp_path / "store.h5") as root:
        assert root["train/patches"].nbytes > (tmp_path / "store.h5").stat().st_size
        assert root["train/patches"].chunks == (1, 5, 256, 32)
    import_hdf5(tmp_path / "store.h5", tmp_path / "again.zarr", ignore)
    assert files(tmp_path / "again.zarr") == files(store)


def test_file_with_other_codes_or_basis_never_becomes_a_store(patched: Path, tmp_path: Path) -> None:
    export_hdf5(open_store(patched), tmp_path / "store.h5", ignore)
    for name in ("patches", "patch_scale", "patch_mean"):
        file = Path(shutil.copyfile(tmp_path / "store.h5", tmp_path / f"{name}.h5"))
        with h5py.File(file, "r+") as root:
            root["train"][name][..., 0] = 1
        with pytest.raises(StoreDamagedError, match=r"is not what was exported"):
            import_hdf5(file, tmp_path / "again.zarr", ignore)
        assert not (tmp_path / "again.zarr").exists()


# ---------------------------------------------------------------- growth


def test_new_images_get_patches_of_the_views_that_have_some(patched: Path, fill: Fill, files: Files) -> None:
    before = files(patched / "train/patches/c") | files(patched / "train/patch_scale/c")
    grow_store(patched, {"train": SplitGrowth([], new_samples())}, {})
    assert StoreWriter(patched).pending_blocks("train") == {5: [0, 1, 2], 6: [0, 1, 2]}
    fill(patched)
    train = open_store(patched)["train"]
    codes, scale = train.patch_view(2)
    assert codes.shape == (32, 4, 3)
    assert np.flatnonzero(np.isnan(scale).any(axis=1)).tolist() == [7, 22, 23, 24, 28]  # bad, padding, padding, ...
    np.testing.assert_array_equal(codes[25:28], patches_of(2, slice(25, 28))[0])
    assert verify_store(open_store(patched)).ok
    after = files(patched / "train/patches/c") | files(patched / "train/patch_scale/c")
    assert before.items() <= after.items()


def test_new_views_have_patches_only_where_they_are_named(patched: Path, tmp_path: Path, fill: Fill) -> None:
    copy_store(plan_copy(patched), tmp_path / "older.zarr", ignore)
    grow_store(patched, {"train": SplitGrowth([VIEW, VIEW], patch_views=(4, 1))}, {})
    assert StoreWriter(patched).pending_blocks("train") == {block: [1, 3, 4] for block in range(5)}
    fill(patched)
    store = open_store(patched)
    assert (store["train"].complete_views, store["train"].complete_patch_views) == ([0, 1, 2, 3, 4], [0, 1, 2, 4])
    assert verify_store(store).ok
    assert np.isfinite(store["train"].patch_view(1)[1][0]).all()
    with pytest.raises(StoreExistsError, match="is an older copy"):
        copy_store(plan_copy(patched), tmp_path / "older.zarr", ignore)
    copy_store(plan_copy(patched), tmp_path / "older.zarr", ignore, update=True)
    assert open_store(tmp_path / "older.zarr")["train"].complete_patch_views == [0, 1, 2, 4]
    assert verify_store(open_store(tmp_path / "older.zarr")).ok


def test_views_that_cannot_have_patches_are_refused(patched: Path, files: Files) -> None:
    before = files(patched)
    with pytest.raises(StoreError, match=r"Split val of '.*' was made without patches, so view 1 gets none"):
        grow_store(patched, {"val": SplitGrowth([VIEW], patch_views=(1,))}, {})
    with pytest.raises(StoreError, match=r"Split train of '.*' will have 4 views, so view 4 gets none"):
        grow_store(patched, {"train": SplitGrowth([VIEW], patch_views=(4,))}, {})
    assert files(patched) == before


# ---------------------------------------------------------------- size and description


def test_size_is_predicted_with_patches(tmp_path: Path) -> None:
    plan = plan_of(patches=patch_plan_of())
    store = part_of_store(tmp_path / "store.zarr", everything)
    metadata = [path.stat().st_size for path in store.rglob("zarr.json")]
    predicted = views_size(plan).plus(samples_size(plan))
    assert size_on_disk(store) == (predicted.bytes + sum(metadata), predicted.files + len(metadata))
    split = open_store(store)["train"]
    for view in range(3):
        parts = [part for unit in split.units_of(view) for part in split.committed(unit)[0].values()]
        assert block_size(plan, view) == block_size(split, view) == (sum(part["size"] for part in parts), len(parts))


def test_description_list_and_card_name_the_patches(
    patched: Path, capsys: pytest.CaptureFixture[str], files: Files
) -> None:
    description = describe(open_store(patched))
    found = description["splits"]["train"]["patches"]
    assert found["bytes"] == 2 * 22 * (4 * 3 + 4 * 2)
    assert description["splits"]["val"]["patches"] is None
    assert description["version"] == 2
    info.main([str(patched)], standalone_mode=False)
    assert (
        "patches    of train: 2 x 2 of 3 of 6 components, in 2 views (0, 2), 0.0 MiB, 87.5 % of the variance, "
        "reconstruction cosine 0.969"
    ) in capsys.readouterr().out
    (entry,) = catalogue(patched.parent)
    assert entry.found["patches"]["grid"] == 2
    card = store_card("patched.zarr", description)
    assert "## Patches" in card
    assert "| train | 2 x 2 | 3 of 6 | 0, 2 | 0.875 | 0.969 |" in card


def test_a_split_is_not_described_as_complete_without_its_patches(tmp_path: Path) -> None:
    part = part_of_store(tmp_path / "part.zarr", lambda block, unit: (block, unit) != (3, "patches-2"))
    found = describe(open_store(part))
    assert not found["complete"]
    assert found["splits"]["train"]["blocks_committed"] == [5, 5, 4]


def test_metadata_of_a_complete_store_are_consolidated(patched: Path) -> None:
    consolidated: dict[str, Any] = json.loads((patched / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
    assert {name for name in consolidated if "patch" in name} == {
        f"train/{name}" for name in ("patches", "patch_scale", "patch_mean", "patch_basis")
    }
