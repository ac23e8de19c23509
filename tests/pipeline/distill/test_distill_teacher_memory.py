"""Where the teacher's view lies while it is in use, and the file that processes share."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill import teacher_views
from compress_ssl.pipeline.distill.mapped_view import MappedView, scratch_folder
from compress_ssl.pipeline.distill.run import distill
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.distill.teacher_views import TeacherViews, ViewSchedule
from compress_ssl.storage import Split, open_store
from compress_ssl.storage.errors import DiskSpaceError, StoreError
from tests.disks import small_disk
from tests.processes import wait_until

Students = Callable[..., DistillSettings]
Trained = Callable[..., dict[str, Tensor]]
ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")


@pytest.fixture
def split(store: Path) -> Split:
    return open_store(store)["train"]


@pytest.fixture
def make_bank(split: Split, student: Students, tmp_path: Path) -> Iterator[Callable[..., TeacherViews]]:
    banks = []

    def make(**given: Any) -> TeacherViews:
        settings = student(**{"scratch": tmp_path, **given})
        banks.append(TeacherViews(split, ViewSchedule(2), settings, CPU))
        return banks[-1]

    yield make
    for bank in banks:
        bank.close()


def files(scratch: Path) -> list[str]:
    return sorted(path.suffix for path in scratch_folder(scratch).iterdir())


def test_memory_makes_no_difference_to_what_is_learned(trained: Trained, assert_same: Any, tmp_path: Path) -> None:
    expected = trained("device", teacher_memory="device", bank_size=61, prefill=True)
    mapped = trained("mapped", teacher_memory="mapped", bank_size=61, prefill=True, scratch=tmp_path)
    assert_same(mapped, expected)
    assert files(tmp_path) == []


@pytest.mark.parametrize("memory", ["device", "host", "mapped"])
def test_view_is_that_of_the_store_and_the_next_is_read_ahead(
    make_bank: Callable[..., TeacherViews], split: Split, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, truth = list[int](), open_store(split.path.parent)["train"]
    blocks, whole = split.blocks, split.view
    monkeypatch.setattr(split, "blocks", lambda number: (read.append(number), blocks(number))[1])
    monkeypatch.setattr(split, "view", lambda number, out: (read.append(number), whole(number, out))[1])
    bank = make_bank(teacher_memory=memory)
    for epoch, number in enumerate((1, 2, 1)):
        view = bank.view_of_epoch(epoch)
        assert view.number == number
        np.testing.assert_array_equal(view.embeddings.numpy(), truth.view(number))
        np.testing.assert_array_equal(view.augmentation, truth.augmentation(number))
        rows = np.array([28, 0, 3, 3])
        wanted = torch.from_numpy(truth.view(number)[rows]).float()
        assert torch.equal(view.gather(rows, CPU), wanted)
        wait_until(lambda: len(read) >= 2, seconds=30)
        assert read == [1, 2]  # the view of the last epoch was held since the first
    with bank.reading(2), bank.reading(1):
        assert read == [1, 2, 2]  # no epoch needed view 2 any more
    assert bank.waited() > 0
    assert bank.waited() == 0


def test_other_views_than_an_epochs_are_let_go_of_once_read(
    make_bank: Callable[..., TeacherViews], tmp_path: Path, split: Split
) -> None:
    bank = make_bank(teacher_memory="mapped", epochs=1)
    bank.view_of_epoch(0)
    with bank.reading(2) as other, bank.reading(1) as held:
        np.testing.assert_array_equal(other.embeddings.numpy(), split.view(2))
        assert held is bank.view_of_epoch(0)
        assert files(tmp_path) == [".float16", ".float16", ".lock", ".lock"]
    assert files(tmp_path) == [".float16", ".lock"]
    bank.close()
    assert files(tmp_path) == []


def test_processes_share_one_file_which_the_last_deletes(store: Path, split: Split, tmp_path: Path) -> None:
    script, scratch = Path(__file__).with_name("view_holder.py"), scratch_folder(tmp_path)
    first, second = (
        subprocess.Popen(
            [sys.executable, script, store, scratch],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    )  # fmt: skip
    assert first.stdout is not None
    assert second.stdout is not None
    said = first.stdout.readline()
    assert second.stdout.readline() == said
    file, total = said.split()
    assert float(total) == split.view(1).astype(np.float64).sum()
    first.communicate("let go\n", timeout=60)
    assert first.returncode == 0
    assert files(tmp_path) == [".float16", ".lock"]
    second.kill()
    second.communicate(timeout=60)
    assert files(tmp_path) == [".float16", ".lock"]
    last = MappedView(split, 1, scratch)
    assert [path.stat().st_ino for path in scratch.glob("*.float16")] == [int(file)]
    np.testing.assert_array_equal(last.embeddings.numpy(), split.view(1))
    last.close()
    assert files(tmp_path) == []


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 KiB: a view of the store takes less, two blocks of pages do not fit."""
    with small_disk(tmp_path / "disk", "4k") as mounted:
        yield mounted


def test_full_scratch_folder_is_named_with_what_is_needed_and_free(
    student: Students, disk: Path, trained: Trained, assert_same: Any
) -> None:
    (disk / "other").write_bytes(b"x" * 4096)
    settings = student(teacher_memory="mapped", scratch=disk)
    with pytest.raises(DiskSpaceError) as raised:
        distill(settings, Silent())
    assert f"The scratch folder '{scratch_folder(disk)}' is full: view 1 takes 1.81 KiB, " in str(raised.value)
    assert "0 B are free; free some space, or give another folder with --scratch." in str(raised.value)
    assert list(scratch_folder(disk).iterdir()) == []
    (disk / "other").unlink()
    assert_same(trained(teacher_memory="device", resume=True), trained("other"))


def test_scratch_folder_that_cannot_be_made_is_named(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        InputError, match=r"scratch folder '.*file/compress-ssl-views-\d+' cannot be written .*--scratch"
    ):
        trained(teacher_memory="mapped", scratch=tmp_path / "file")


@pytest.mark.parametrize(("free_views", "memory"), [(4.01, "device"), (3.99, "mapped")])
def test_auto_maps_what_takes_more_than_half_of_the_free_memory(
    make_bank: Callable[..., TeacherViews],
    split: Split,
    monkeypatch: pytest.MonkeyPatch,
    free_views: float,
    memory: str,
) -> None:
    one_view = 2 * len(split) * 32  # two are in memory at a time
    monkeypatch.setattr(teacher_views, "available_memory", lambda: int(free_views * one_view))
    assert make_bank().memory == memory


@pytest.mark.parametrize("memory", ["device", "host", "mapped"])
def test_view_that_is_damaged_is_named(
    make_bank: Callable[..., TeacherViews], trained: Trained, store: Path, tmp_path: Path, memory: str
) -> None:
    shutil.copytree(store, tmp_path / "damaged.zarr")
    part = next(path for path in (tmp_path / "damaged.zarr/train/embeddings/c/2").rglob("*") if path.is_file())
    content = bytearray(part.read_bytes())
    content[9] ^= 1
    part.write_bytes(content)
    with pytest.raises(StoreError, match="store verify"):
        trained(store=tmp_path / "damaged.zarr", teacher_memory=memory, scratch=tmp_path)
    assert memory != "mapped" or files(tmp_path) == []
