"""Writing whole files: never half of one under its name, and on the disk before it has it."""

import json
import os
import stat
import uuid
from pathlib import Path

import numpy as np
import pytest
import zarr

from compress_ssl.storage import LocalPath
from compress_ssl.storage.places.durable import write_durably, write_json_durably
from compress_ssl.storage.zarr_stores import PlaceStore


class Recorder:
    """Wraps the system calls that make a write durable, and notes their order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        fsync, replace = os.fsync, Path.replace

        def noted_fsync(descriptor: int) -> None:
            folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
            name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
            self.calls.append(f"flush folder {name}" if folder else f"flush {name.split('.')[0]}")
            fsync(descriptor)

        def noted_replace(source: Path, target: Path) -> Path:
            self.calls.append(f"rename to {target.name}")
            return replace(source, target)

        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(Path, "replace", noted_replace)


def test_file_is_flushed_then_renamed_then_its_folder_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    recorder = Recorder(monkeypatch)
    write_durably(tmp_path / "folder" / "file", b"content")
    assert recorder.calls == ["flush file", "rename to file", "flush folder folder"]


def test_new_folders_are_flushed_into_those_that_hold_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "top").mkdir()
    recorder = Recorder(monkeypatch)
    write_durably(tmp_path / "top" / "middle" / "low" / "file", b"content")
    assert recorder.calls[:2] == ["flush folder top", "flush folder middle"]
    assert recorder.calls[-1] == "flush folder low"


def test_every_object_that_zarr_writes_is_flushed_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    group = zarr.create_group(PlaceStore(LocalPath(tmp_path / "group.zarr")))
    array = group.create_array("sub/array", shape=(4,), chunks=(2,), dtype="int32")
    array[...] = np.arange(1, 5)
    array.update_attributes({"some": 1})
    objects = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert objects == ["0", "1", "zarr.json", "zarr.json", "zarr.json"]
    renames = [call for call in recorder.calls if call.startswith("rename")]
    flushes = [call for call in recorder.calls if call.startswith("flush") and "folder" not in call]
    assert len(renames) == len(flushes) >= len(objects)


def test_earlier_content_is_replaced(tmp_path: Path) -> None:
    write_durably(tmp_path / "file", b"a longer content")
    write_durably(tmp_path / "file", b"short")
    assert (tmp_path / "file").read_bytes() == b"short"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_failed_write_leaves_the_earlier_content_and_no_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_durably(tmp_path / "file", b"earlier")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_durably(tmp_path / "file", b"later")
    assert (tmp_path / "file").read_bytes() == b"earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_json_of_the_same_value_has_the_same_bytes(tmp_path: Path) -> None:
    write_json_durably(tmp_path / "1.json", {"b": [1, 2.5], "a": "ä"})
    write_json_durably(tmp_path / "2.json", {"a": "ä", "b": [1, 2.5]})
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()
    assert json.loads((tmp_path / "1.json").read_text()) == {"a": "ä", "b": [1, 2.5]}


def test_sweeping_takes_only_partial_files_and_counts_them(tmp_path: Path) -> None:
    (tmp_path / "deep" / "folder.partial").mkdir(parents=True)
    kept = ["zarr.json", "partial", "holiday.partial", "holiday.1f.partial", "deep/folder.partial/0"]
    swept = [f"{name}.{uuid.uuid4().hex}.partial" for name in ("zarr.json", "deep/0")]
    for name in kept + swept:
        (tmp_path / name).write_bytes(b"x")
    assert LocalPath(tmp_path).sweep_partial_files() == 2
    left = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(left) == sorted(kept)


def test_a_disk_that_fails_is_named_by_the_file() -> None:
    memory = LocalPath("/proc/self/mem")  # reading its first byte is an input/output error
    with pytest.raises(OSError, match="Input/output error: '/proc/self/mem'"):
        memory.read_bytes()


def test_links_in_a_circle_are_an_error_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OSError, match=r"Too many levels of symbolic links: '.*circle'"):
        LocalPath(tmp_path / "circle").resolve()
