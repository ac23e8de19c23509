"""Small files of unknown origin: what is read is of the type asked for, anything else is one sentence."""

import os
from pathlib import Path
from typing import Any

import pytest

from compress_ssl.storage.errors import StoreError, UnreadableFileError
from compress_ssl.storage.typed_files import MAX_TEXT_BYTES, read_json, read_text, read_toml
from compress_ssl.storage.typed_json import FileModel


class Lease(FileModel):
    process: int
    heartbeat: float
    machine: str = "unknown"


def test_a_file_is_returned_as_its_model_with_keys_of_other_releases(tmp_path: Path) -> None:
    file = tmp_path / "lease"
    file.write_text('{"process": 7, "heartbeat": 3, "token": [1]}')
    lease = read_json(file, Lease)
    assert (lease.process, lease.heartbeat, lease.machine) == (7, 3.0, "unknown")
    assert lease.model_dump()["token"] == [1]
    assert read_json(file, dict[str, Any]) == {"process": 7, "heartbeat": 3, "token": [1]}


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is not valid JSON (EOF while parsing a value at line 1 column 0)"),
        (b"\xff\xfe{}", "is not valid JSON"),
        (b'{"process": 7', "is not valid JSON"),
        (b'{"process": "\xc3"}', "is not valid JSON"),
        (b'{"process": ' + b"[" * 100_000, "is not valid JSON (recursion limit exceeded"),
        (b'{"process": ' + b"9" * 100_000 + b"}", "is not valid JSON (number out of range"),
        (b"[1]", "holds something else"),
        (b"{}", "lacks 'process'"),
        (b'{"process": "7", "heartbeat": 1}', "has a wrong process (Input should be a valid integer)"),
        (b'{"process": 1e999, "heartbeat": 1}', "has a wrong process"),
        (b'{"process": true, "heartbeat": 1}', "has a wrong process"),
        (b'{"process": 7, "heartbeat": null}', "has a wrong heartbeat"),
        (b" " * 2000, "is larger than 1,000 bytes"),
    ],
)
def test_any_other_content_is_one_sentence(tmp_path: Path, content: bytes, fault: str) -> None:
    file = tmp_path / "lease"
    file.write_bytes(content)
    with pytest.raises(UnreadableFileError) as caught:
        read_json(file, Lease, otherwise="delete it", limit=1000 if len(content) == 2000 else 2**26)
    assert str(caught.value).startswith(f"'{file}' {fault}")
    assert str(caught.value).endswith("; delete it.")
    assert "\n" not in str(caught.value)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for name, fault in (("folder", "is a directory"), ("fifo", "is not a regular file")):
        with pytest.raises(UnreadableFileError, match=fault):
            read_json(tmp_path / name, Lease)
    with pytest.raises(UnreadableFileError, match="is not a regular file"):
        read_text("/dev/zero")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none", Lease)


def test_a_file_of_many_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**36)
    with pytest.raises(UnreadableFileError, match="is larger than 67,108,864 bytes"):
        read_json(tmp_path / "large", Lease)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"a = ", "is not valid TOML"),
        (b"a = '\xff'", r"is not UTF-8 text \(byte 5\)"),
        (b"a = " + b"[" * 100_000, "is nested too deeply"),
        (b"a = " + b"[" * 150 + b"]" * 150, "is nested too deeply"),
        (b".".join([b"a"] * 200) + b" = 1", "is nested too deeply"),
        (b"a = " + b"9" * 5000, "is not valid TOML"),
        (b"#" * (MAX_TEXT_BYTES + 1), "is larger than"),
    ],
)
def test_toml_that_cannot_be_used_is_one_sentence(tmp_path: Path, content: bytes, fault: str) -> None:
    file = tmp_path / "recipe.toml"
    file.write_bytes(content)
    with pytest.raises(StoreError, match=fault):
        read_toml(file)


def test_toml_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_bytes(b'\xef\xbb\xbfa = "b"\n')
    assert read_toml(tmp_path / "recipe.toml") == {"a": "b"}
