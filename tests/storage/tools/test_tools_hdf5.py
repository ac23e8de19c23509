"""A store to one HDF5 file and back: nothing is lost, and a file that was cut or changed never becomes a store."""

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from compress_ssl.storage import RemotePath, Samples, SplitPlan, location, open_store
from compress_ssl.storage.errors import (
    DiskSpaceError,
    StoreDamagedError,
    StoreError,
    StoreExistsError,
    StoreIncompleteError,
    StoreNotFoundError,
)
from compress_ssl.storage.schema import SAMPLE_ARRAYS, VIEW_ARRAYS
from compress_ssl.storage.tools.copy import copy_store, plan_copy
from compress_ssl.storage.tools.hdf5 import export_hdf5, import_hdf5
from compress_ssl.storage.tools.hdf5_file import create_hdf5
from compress_ssl.storage.tools.verify import verify_store
from compress_ssl.storage.writer import StoreWriter, create_store

Array = np.ndarray[Any, Any]
Files = Callable[[Path], dict[str, bytes]]

ODD = {
    "canaries": {"train": [{"row": 1, "picture": "x" * 90_000}]},
    "seed": 2**64 - 1,
    "looks_like_json": '{"a": 1}',
    "nothing": None,
    "true": True,
    "number": 0.1,
    "ünicode": "é\n",
}


def ignore(amount: int) -> None:
    del amount


def export(store: Path, file: Path, **options: bool) -> Path:
    export_hdf5(open_store(store), file, ignore, **options)
    return file


@pytest.fixture
def exported(complete: Path, tmp_path: Path) -> Path:
    return export(complete, tmp_path / "store.h5")


def test_exported_and_imported_store_has_the_same_files_byte_for_byte(
    exported: Path, complete: Path, tmp_path: Path, files: Files
) -> None:
    import_hdf5(exported, tmp_path / "again.zarr", ignore)
    assert files(tmp_path / "again.zarr") == files(complete)
    assert verify_store(open_store(tmp_path / "again.zarr")).ok
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.zarr", "store.h5", "store.zarr"]


def test_attributes_of_any_kind_come_back(
    tmp_path: Path, plan: Callable[..., SplitPlan], fill: Callable[[Path], None], files: Files
) -> None:
    paths = [f"{'ab'[row % 2]}/é{'x' * row}.jpg" for row in range(22)]
    create_store(tmp_path / "odd.zarr", ODD, {"train": plan(paths=paths, block_rows=30)})
    fill(tmp_path / "odd.zarr")
    import_hdf5(export(tmp_path / "odd.zarr", tmp_path / "odd.h5"), tmp_path / "again.zarr", ignore)
    assert files(tmp_path / "again.zarr") == files(tmp_path / "odd.zarr")
    attributes = open_store(tmp_path / "again.zarr").attributes
    assert {name: attributes[name] for name in ODD} == ODD


def test_split_keeps_attributes_that_this_release_does_not_know(complete: Path, tmp_path: Path, files: Files) -> None:
    metadata = complete / "train" / "zarr.json"
    content = json.loads(metadata.read_text())
    content["attributes"]["of a later release"] = [1, 2]
    metadata.write_text(json.dumps(content))
    import_hdf5(export(complete, tmp_path / "store.h5"), tmp_path / "again.zarr", ignore)
    assert open_store(tmp_path / "again.zarr")["train"].attributes == open_store(complete)["train"].attributes


def test_exported_file_is_plain_hdf5_of_the_same_names(exported: Path, values: Callable[..., Array]) -> None:
    with h5py.File(exported) as root:
        assert root.attrs["format"] == "compress-ssl-embeddings"
        assert json.loads(root.attrs["teacher"])["name"] == "random"
        assert set(root["train"]) == VIEW_ARRAYS.keys() | SAMPLE_ARRAYS.keys()
        embeddings = root["train/embeddings"]
        assert (embeddings.chunks, embeddings.fletcher32, embeddings.dtype) == ((1, 5, 4), True, np.float16)
        np.testing.assert_array_equal(embeddings[2, 3:9], values(2, slice(3, 9)).astype(np.float16))
        assert root["train/sample_path"].asstr()[3] == "b/03.jpg"


def test_incomplete_store_is_not_exported(empty: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreIncompleteError, match=r"View 0 of split train of '.*' is not complete; finish it with"):
        export(empty, tmp_path / "store.h5")
    assert not (tmp_path / "store.h5").exists()


def test_damaged_store_is_not_exported(complete: Path, tmp_path: Path) -> None:
    """The chunk is another's: it has a right checksum of its own, and only the record tells."""
    chunks = complete / "train" / "embeddings" / "c" / "1"
    (chunks / "2" / "0").write_bytes((chunks / "1" / "0").read_bytes())
    with pytest.raises(StoreDamagedError, match=r"c/1/2/0' has other content than was committed"):
        export(complete, tmp_path / "store.h5")
    assert not list(tmp_path.glob("store.h5*"))


def test_file_that_exists_is_replaced_only_when_asked_and_only_an_exported_store(
    exported: Path, complete: Path
) -> None:
    with pytest.raises(StoreExistsError, match="exists already; use --overwrite"):
        export(complete, exported)
    export(complete, exported, overwrite=True)
    with h5py.File(exported, "w") as other:
        other["precious"] = 1
    with pytest.raises(StoreExistsError, match="is not an exported store and is not replaced"):
        export(complete, exported, overwrite=True)


def test_cut_file_is_never_a_store(exported: Path, tmp_path: Path) -> None:
    content = exported.read_bytes()
    for length in np.linspace(0, len(content) - 1, 40, dtype=int):
        exported.write_bytes(content[:length])
        with pytest.raises(StoreDamagedError, match="is cut short or damaged"):
            import_hdf5(exported, tmp_path / "again.zarr", ignore)
        assert not list(tmp_path.glob("again*"))


def test_file_with_a_flipped_byte_is_refused_or_gives_the_same_store(
    tmp_path: Path, plan: Callable[..., SplitPlan], fill: Callable[[Path], None], files: Files
) -> None:
    small = tmp_path / "small.zarr"
    create_store(small, {}, {"train": plan(4, views=1)})
    fill(small)
    exported = export(small, tmp_path / "store.h5")
    content, generator = exported.read_bytes(), np.random.default_rng(0)
    refused = 0
    for position in generator.integers(0, len(content), 50):
        changed = bytearray(content)
        changed[position] ^= int(generator.integers(1, 256))
        exported.write_bytes(changed)
        try:
            import_hdf5(exported, tmp_path / "again.zarr", ignore)
        except StoreError:
            refused += 1
        else:
            assert files(tmp_path / "again.zarr") == files(small), position
            shutil.rmtree(tmp_path / "again.zarr")
        assert not list(tmp_path.glob("again*"))
    assert refused > 5  # the rest is room that HDF5 left free


def change_a_value(root: h5py.File) -> None:
    root["train/embeddings"][1, 3, 2] += 1


def change_a_path(root: h5py.File) -> None:
    root["train/sample_path"][3] = b"b/04.jpg"


def change_an_attribute(root: h5py.File) -> None:
    root["train"].attrs["folder"] = "elsewhere"


def link_to_another_file(root: h5py.File) -> None:
    del root["train/label"]
    root["train/label"] = h5py.ExternalLink("/etc/other.h5", "label")


def claim_to_be_huge(root: h5py.File) -> None:
    del root["train/embeddings"]
    root["train"].create_dataset("embeddings", (3, 22, 2**30), np.float16, chunks=(1, 5, 4), fletcher32=True)


def compress(root: h5py.File) -> None:
    del root["train/augmentation"]
    root["train"].create_dataset("augmentation", (3, 22, 2), np.float32, chunks=(1, 5, 2), compression="gzip")


def lead_out_of_the_store(root: h5py.File) -> None:
    root.attrs["splits"] = '["../other", "train", "val"]'


@pytest.mark.parametrize(
    "change",
    [change_a_value, change_a_path, change_an_attribute, link_to_another_file, claim_to_be_huge, compress,
     lead_out_of_the_store],
)  # fmt: skip
def test_file_changed_by_hand_is_refused(exported: Path, tmp_path: Path, change: Callable[[h5py.File], None]) -> None:
    with h5py.File(exported, "r+") as root:
        change(root)
    with pytest.raises(StoreDamagedError, match=r"'.*store\.h5' is cut short or damaged \(.*copy it again, or export"):
        import_hdf5(exported, tmp_path / "again.zarr", ignore)
    assert not list(tmp_path.glob("again*"))


def test_what_is_no_exported_store_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["a"] = 1
    with pytest.raises(StoreNotFoundError, match=r"'.*other\.h5' is not a file of 'compress-ssl store export'"):
        import_hdf5(tmp_path / "other.h5", tmp_path / "again.zarr", ignore)
    with pytest.raises(StoreNotFoundError, match=r"'.*none\.h5' is not a file"):
        import_hdf5(tmp_path / "none.h5", tmp_path / "again.zarr", ignore)


def test_import_leaves_what_is_there(exported: Path, complete: Path, files: Files) -> None:
    before = files(complete)
    with pytest.raises(StoreExistsError, match="exists already; use --overwrite to replace it, or another path"):
        import_hdf5(exported, complete, ignore)
    assert files(complete) == before


def test_export_reads_a_block_at_a_time(
    tmp_path: Path, samples: Callable[..., Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 24 blocks of 128 KiB, less than half are in memory at once."""
    import tracemalloc

    plan = SplitPlan(samples(24 * 64), "images", [{"size": 8}], ("row", "column"), 1024, 64)
    create_store(tmp_path / "big.zarr", {}, {"train": plan})
    writer = StoreWriter(tmp_path / "big.zarr")
    for block in range(24):
        writer.write_block("train", block, 0, np.ones((64, 1024)), np.zeros((64, 2), np.float32))
    writer.finish()
    store = open_store(tmp_path / "big.zarr")
    assert len(store["train"].samples) == 24 * 64
    tracemalloc.start()
    export_hdf5(store, tmp_path / "big.h5", ignore)
    import_hdf5(tmp_path / "big.h5", tmp_path / "again.zarr", ignore)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "big.h5").stat().st_size > 24 * 64 * 1024 * 2
    assert peak < 24 * 64 * 1024 * 2 / 2


def test_store_in_a_bucket_is_exported_and_imported_as_one_on_a_disk(
    bucket: str, complete: Path, tmp_path: Path, files: Files
) -> None:
    place, again = (location(f"{bucket}/hdf5/{name}.zarr") for name in ("store", "again"))
    assert isinstance(again, RemotePath)
    copy_store(plan_copy(complete), place, ignore)
    export_hdf5(open_store(place), tmp_path / "store.h5", ignore)
    import_hdf5(tmp_path / "store.h5", again, ignore)
    assert {path.relative_to(again).as_posix(): path.read_bytes() for path in again.files()} == files(complete)


def test_export_that_does_not_fit_the_disk_is_refused_before_it_begins(
    complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is the real one, as full as it would have to be."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=100))
    with pytest.raises(DiskSpaceError, match=r"store\.h5' needs 0\.0 MiB, '.*' has 0\.0 MiB left; free some space"):
        export(complete, tmp_path / "store.h5")
    assert not list(tmp_path.glob("store.h5*"))


def write_and_read(file: Path) -> None:
    with create_hdf5(file) as (root, check):
        for number in range(200):
            root.create_dataset(f"group/{number}", data=np.full(1000, number), chunks=(100,), fletcher32=True)
        root.flush()
        for number in range(200):
            root[f"group/{number}"].refresh()
            np.testing.assert_array_equal(root[f"group/{number}"][:], number)
        check()


def test_hdf5_reads_what_it_could_not_write(tmp_path: Path) -> None:
    """The file may not grow beyond 16 KiB; HDF5 is not told before its piece is done, and reads it meanwhile."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large"):
            write_and_read(tmp_path / "new.h5")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "new.h5").exists()
