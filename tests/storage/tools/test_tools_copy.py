"""Copying stores: the same bytes at any place, gone on with after a kill, nothing whole-looking of a damaged source."""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress_ssl.storage import LocalPath, Place, PlaceLike, RemotePath, SplitPlan, location, open_store
from compress_ssl.storage.errors import StoreBusyError, StoreDamagedError, StoreExistsError, StoreNotFoundError
from compress_ssl.storage.places.place import writer_lease
from compress_ssl.storage.tools.copy import copy_store, plan_copy
from compress_ssl.storage.tools.verify import verify_store
from compress_ssl.storage.writer import StoreWriter, create_store
from tests.servers import Server
from tests.storage.conftest import ATTRIBUTES, plan_of
from tests.storage.growing_writer import grow

ROOT = Path(__file__).parents[3]
CHUNK = "train/embeddings/c/1/2/0"
Files = Callable[[Path], dict[str, bytes]]


def copy(source: Place, target: Place) -> int:
    return copy_store(plan_copy(source), target, lambda amount: None)


def contents(place: PlaceLike) -> dict[str, bytes]:
    """Every object of a store."""
    place = location(place)
    return {file.relative_to(place).as_posix(): file.read_bytes() for file in place.files()}


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place for a copy, on the disk and on S3."""
    if request.param == "local":
        return location(tmp_path / "copies" / "copy.zarr")
    return location(f"{request.getfixturevalue('bucket')}/copies/copy.zarr")


def test_copy_has_every_byte_and_nothing_else(complete: Path, target: Place) -> None:
    told: list[int] = []
    plan = plan_copy(complete)
    assert copy_store(plan, target, told.append) == len(plan.parts) == len(told) == 5 * (5 + 3 * 2) + 2 * (5 + 2)
    assert contents(target) == contents(complete)
    assert verify_store(open_store(target)).ok
    assert [path.name for path in target.parent.iterdir()] == ["copy.zarr"]


def test_copy_of_a_copy_is_the_store(complete: Path, bucket: str, tmp_path: Path) -> None:
    copy(complete, location(f"{bucket}/one.zarr"))
    copy(location(f"{bucket}/one.zarr"), location(f"{bucket}/two.zarr"))
    copy(location(f"{bucket}/two.zarr"), tmp_path / "back.zarr")
    assert contents(tmp_path / "back.zarr") == contents(complete)


def test_store_of_a_web_server_is_copied(complete: Path, web: Server, tmp_path: Path) -> None:
    before = contents(complete)
    complete.rename(web.root / "store.zarr")
    copy(location(f"{web.url}/store.zarr"), tmp_path / "copy.zarr")
    assert contents(tmp_path / "copy.zarr") == before


def test_store_that_is_not_complete_is_copied_and_gone_on_with(
    empty: Path, made: Path, target: Place, fill: Callable[[Place], None], values: Any, parameters: Any
) -> None:
    rows = slice(5, 10)
    StoreWriter(empty).write_block("train", 1, 2, values(2, rows), parameters(2, rows))
    copy(empty, target)
    assert contents(target) == contents(empty)
    fill(target)
    assert open_store(target)["train"].complete_views == [0, 1, 2]


@pytest.mark.parametrize("damage", ["flipped", "cut short", "missing"])
def test_damaged_source_is_refused_and_nothing_looks_complete(complete: Path, target: Place, damage: str) -> None:
    chunk = complete / CHUNK
    content = chunk.read_bytes()
    chunk.unlink()
    if damage != "missing":
        chunk.write_bytes(content[:-1] if damage == "cut short" else bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(StoreDamagedError, match=rf"'{chunk}' (is missing|has)"):
        copy(complete, target)
    with pytest.raises((StoreNotFoundError, StoreDamagedError)):
        open_store(target)
    chunk.unlink(missing_ok=True)
    chunk.write_bytes(content)
    copy(complete, target)
    assert contents(target) == contents(complete)


def test_broken_off_copy_goes_on_with_what_is_missing_or_wrong(complete: Path, target: Place) -> None:
    def stop(amount: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_store(plan_copy(complete), target, stop)
    growing = target if isinstance(target, RemotePath) else next(target.parent.glob("copy.zarr.*.copying"))
    parts = plan_copy(complete).parts
    there = set(contents(growing)) & parts.keys()
    assert there
    assert (growing == target) == target.is_half_created()
    wrong = min(there)
    (growing / wrong).write_bytes(b"x" * parts[wrong]["size"])
    (growing / "train" / "of-another-store").write_bytes(b"x")
    assert copy(complete, target) == len(parts) - len(there) + 1
    assert contents(target) == contents(complete)


def test_copy_again_mends_a_damaged_copy(complete: Path, target: Place) -> None:
    copy(complete, target)
    assert copy(complete, target) == 0
    (target / CHUNK).unlink()
    other = target / "train/label/c/0"
    content = bytes(len(other.read_bytes()))
    other.unlink()
    other.write_bytes(content)
    assert copy(complete, target) == 2
    assert contents(target) == contents(complete)


def test_another_store_is_not_overwritten(
    complete: Path, target: Place, plan: Callable[..., SplitPlan], fill: Callable[[Place], None]
) -> None:
    create_store(target, {"teacher": {"name": "another"}}, {"train": plan()})
    before = contents(target)
    with pytest.raises(
        StoreExistsError, match=r"copy\.zarr' is there and is not a copy of '.*store\.zarr'; give another"
    ):
        copy(complete, target)
    assert contents(target) == before


def test_copy_that_was_gone_on_with_is_not_set_back(empty: Path, target: Place, fill: Callable[[Place], None]) -> None:
    copy(empty, target)
    fill(target)
    before = contents(target)
    with pytest.raises(StoreExistsError, match="is not a copy of"):
        copy(empty, target)
    assert contents(target) == before


def test_older_copy_gets_what_the_store_has_gained(complete: Path, target: Place) -> None:
    copy(complete, target)
    before = contents(target)
    grow(complete)
    with pytest.raises(StoreExistsError, match=r"is an older copy of '.*', which has grown since; .* --update"):
        copy(complete, target)
    assert contents(target) == before
    plan = plan_copy(complete)
    gained = len(plan.parts) - len([key for key in before if "/c/" in key])
    assert copy_store(plan, target, lambda amount: None, update=True) == gained
    assert contents(target) == contents(complete)
    assert copy(complete, target) == 0
    with pytest.raises(StoreExistsError, match="is not a copy of"):  # what has more is not set back
        copy_store(plan_copy(older_than(complete)), target, lambda amount: None, update=True)


def test_update_that_is_broken_off_leaves_a_copy_that_opens_and_goes_on(complete: Path, tmp_path: Path) -> None:
    shutil.copytree(complete, tmp_path / "older.zarr")
    old = open_store(complete)["train"].view(2)
    grow(complete)
    wanted, plan = contents(complete), plan_copy(complete)
    for number in (2, 3, 40, 58, 66, 74):  # while room is made, parts, arrays, records, splits are written
        target = LocalPath(tmp_path / f"{number}.zarr")
        shutil.copytree(tmp_path / "older.zarr", target)
        with pytest.raises(OSError, match=r"\d\.zarr/"), stopped_at_write(number):
            copy_store(plan, target, lambda amount: None, update=True)
        assert verify_store(open_store(target)).damaged == []
        np.testing.assert_array_equal(open_store(target)["train"].view(2)[: len(old)], old)
        copy_store(plan, target, lambda amount: None, update=True)
        assert contents(target) == wanted, number


def older_than(complete: Path) -> Path:
    """A store of other views than the grown one."""
    place = complete.with_name("other.zarr")
    create_store(place, ATTRIBUTES, {"train": plan_of(22, 4), "val": plan_of(6, 1)})
    return place


@contextlib.contextmanager
def stopped_at_write(number: int) -> Iterator[None]:
    """Stop at the n-th file that is written, before it is in its place."""
    seen = 0

    def hook(event: str, _: object) -> None:
        nonlocal seen
        if event == "os.rename" and seen >= 0:
            seen += 1
            if seen == number:
                seen = -1
                raise OSError("stopped here")

    sys.addaudithook(hook)
    try:
        yield
    finally:
        seen = -1


def test_folder_that_is_no_store_is_left_alone(complete: Path, tmp_path: Path, files: Files) -> None:
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "1.jpg").write_bytes(b"picture")
    with pytest.raises(StoreExistsError, match="not empty and not an embedding store"):
        copy(complete, tmp_path / "photographs")
    assert files(tmp_path / "photographs") == {"1.jpg": b"picture"}


def test_place_that_is_being_written_is_refused(complete: Path, target: Place) -> None:
    with writer_lease(target), pytest.raises(StoreBusyError):
        copy(complete, target)


def test_copy_of_a_finished_store_is_read_only(complete: Path, tmp_path: Path) -> None:
    copy(complete, tmp_path / "copy.zarr")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "copy.zarr").rglob("*") if path.is_file()}
    assert {mode & 0o222 for mode in modes} == {0}


KILLED = """
import sys
from compress_ssl.storage import location
from compress_ssl.storage.tools.copy import copy_store, plan_copy
print("ready", flush=True)
copy_store(plan_copy(location(sys.argv[1])), location(sys.argv[2]), lambda amount: print(amount, flush=True))
"""


def test_killed_copy_goes_on(complete: Path, target: Place) -> None:
    for parts in (1, 20):
        command = [sys.executable, "-c", KILLED, str(complete), str(target)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(1 + parts):
                process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)
    copy(complete, target)
    assert contents(target) == contents(complete)
    assert [path.name for path in target.parent.iterdir()] == ["copy.zarr"]
