"""What is not a store's own: links and FIFOs inside it are refused, a user's files beside it stay."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from compress_ssl.storage import SplitPlan, location, open_store
from compress_ssl.storage.errors import StoreError, StoreUnsafeError
from compress_ssl.storage.publish import is_store
from compress_ssl.storage.tools.copy import copy_store, plan_copy
from compress_ssl.storage.tools.verify import verify_store
from compress_ssl.storage.writer import StoreWriter, create_store, exclusive_writer
from tests.processes import Forked, run_as_nobody
from tests.storage.conftest import ATTRIBUTES

PARTS = (
    *("zarr.json", "train", "train/zarr.json", "train/label/zarr.json", "train/label", "train/label/c/0"),
    *("train/embeddings/commits", "train/embeddings/commits/0.json", "train/embeddings/commits/samples.json"),
    *("train/embeddings/c/0", "train/embeddings/c/0/1/0"),
)


def read_all(path: Path) -> None:
    split = open_store(path)["train"]
    assert len(split.samples) == 22
    split.view(0)


@pytest.mark.parametrize("part", PARTS)
def test_linked_parts_of_a_store_are_refused(complete: Path, tmp_path: Path, part: str) -> None:
    (complete / part).rename(tmp_path / "outside")
    (complete / part).symlink_to(tmp_path / "outside")
    with pytest.raises(StoreUnsafeError, match=rf"'.*store\.zarr/{part}' is a link, which no embedding store holds"):
        read_all(complete)


@pytest.mark.parametrize("part", [part for part in PARTS if part.rpartition("/")[2] in ("0", "zarr.json", "0.json")])
def test_a_fifo_in_a_store_is_refused_and_not_waited_for(complete: Path, part: str) -> None:
    if (complete / part).is_dir():
        shutil.rmtree(complete / part)
    else:
        (complete / part).unlink()
    os.mkfifo(complete / part)
    with pytest.raises(StoreError, match=rf"store\.zarr/{part}' is neither a file nor a folder"):
        read_all(complete)


def test_store_itself_may_be_a_link(complete: Path, tmp_path: Path) -> None:
    (tmp_path / "lab.zarr").symlink_to(complete)
    read_all(tmp_path / "lab.zarr")


def test_linked_chunk_is_damage(complete: Path, tmp_path: Path) -> None:
    chunk = complete / "train/embeddings/c/0/1/0"
    chunk.rename(tmp_path / "outside")
    chunk.symlink_to(tmp_path / "outside")
    assert [f"'{chunk}' is a link" in sentence for sentence in verify_store(open_store(complete)).damaged] == [True]
    with pytest.raises(StoreUnsafeError, match="is a link"):
        copy_store(plan_copy(complete), tmp_path / "copy.zarr", lambda parts: None)


@pytest.mark.parametrize("linked", ["train/embeddings/c", "train/embeddings/commits/0"])
def test_nothing_is_written_through_a_link(
    empty: Path, tmp_path: Path, linked: str, values: Any, parameters: Any
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (empty / linked).symlink_to(outside)
    with pytest.raises(StoreUnsafeError, match=rf"'.*{linked}' is a link"), exclusive_writer(empty):
        StoreWriter(empty).write_block("train", 0, 0, values(0, slice(0, 5)), parameters(0, slice(0, 5)))
    assert list(outside.iterdir()) == []


NAMES = ("creating", "deleting", "copying", "partial", "h5.partial", "0f.partial", "exporting", "estimate")


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_files_of_the_users_own_beside_a_store_stay(
    complete: Path, tmp_path: Path, plan: Callable[..., SplitPlan], kind: str
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("a year's work")
    copied = tmp_path / "copy.zarr"
    own = [place.with_name(f"{place.name}.{name}") for place in (complete, copied) for name in NAMES]
    for place in own:
        match kind:
            case "file":
                place.write_text("a year's work")
            case "folder":
                shutil.copytree(tmp_path / "thesis", place)
            case "link":
                place.symlink_to(tmp_path / "thesis")
    with exclusive_writer(complete):
        copy_store(plan_copy(complete), copied, lambda parts: None)
        create_store(complete, ATTRIBUTES, {"train": plan()}, overwrite=True)
    for place in own:
        assert (place if kind == "file" else place / "chapter.tex").read_text() == "a year's work"
    assert len(list(tmp_path.iterdir())) == 3 + len(own)


def test_object_of_the_users_own_is_no_mark_of_an_unfinished_store(bucket: str, plan: Callable[..., SplitPlan]) -> None:
    place, own, mark = (location(f"{bucket}/{name}") for name in ("x.zarr", "x.zarr/photo.jpg", "x.zarr.creating"))
    own.write_durably(b"picture")
    mark.write_durably(b"a song")
    with pytest.raises(StoreError, match="is not empty and not an embedding store"):
        create_store(place, ATTRIBUTES, {"train": plan()})
    own.unlink()
    with pytest.raises(StoreError, match=r"x\.zarr\.creating' is needed and holds something else"):
        create_store(place, ATTRIBUTES, {"train": plan()})
    assert mark.read_bytes() == b"a song"


def test_leftovers_of_killed_writers_are_swept(complete: Path) -> None:
    token = "0f" * 16
    for state in ("creating", "deleting"):
        shutil.copytree(complete, complete.with_name(f"store.zarr.{token}.{state}"))
    with exclusive_writer(complete):
        pass
    assert [path.name for path in complete.parent.iterdir()] == ["store.zarr"]


def test_store_that_may_not_be_deleted_stays_where_it_is(
    complete: Path, shared_folder: Path, plan: Callable[..., SplitPlan]
) -> None:
    store = shared_folder / "store.zarr"
    shutil.copytree(complete, store)
    for folder in (store, *(path for path in store.rglob("*") if path.is_dir())):
        folder.chmod(0o777)
    (store / "train").chmod(0o555)
    process = Forked(run_as_nobody, partial(create_store, overwrite=True), store, ATTRIBUTES, {"train": plan()})
    assert process.wait() == 2, process.errors
    assert f"cannot be replaced: you may not write to the folder '{store / 'train'}'" in process.output
    assert is_store(store)
    assert [path.name for path in shared_folder.iterdir()] == ["store.zarr"]
    read_all(store)
    (store / "train").chmod(0o755)
