"""What others may have put into the scratch folder trains no student, and nothing outside of it is written."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.distill.mapped_view import MappedView, make_scratch_folder, scratch_folder, sweep_views
from compress_ssl.storage import Split, open_store

Prepare = Callable[[Path, Path], None]


@pytest.fixture
def split(store: Path) -> Split:
    return open_store(store)["train"]


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return scratch_folder(tmp_path / "scratch")


@pytest.fixture
def name(split: Split, tmp_path: Path) -> str:
    """The file's name, which anyone can find out who can read the store."""
    mapped = MappedView(split, 1, tmp_path / "elsewhere")
    (file,) = (tmp_path / "elsewhere").glob("*.float16")
    mapped.close()
    return file.stem


def check_mapped(split: Split, scratch: Path) -> None:
    """The view is that of the store, and so is what a second process maps."""
    first, second = MappedView(split, 1, scratch), MappedView(split, 1, scratch)
    for mapped in (first, second):
        np.testing.assert_array_equal(mapped.embeddings.numpy(), split.view(1))
    assert len({file.stat().st_ino for file in scratch.glob("*.float16")}) == 1
    assert stat.S_IMODE(scratch.stat().st_mode) == 0o700
    second.close()
    first.close()
    assert list(scratch.iterdir()) == []


def planted(file: Path, target: Path) -> None:
    file.write_bytes(target.read_bytes())


PLANTED: dict[str, Prepare] = {
    "a file": planted,
    "a link": lambda file, target: file.symlink_to(target),
    "another name of a file": lambda file, target: os.link(target, file),
    "a pipe": lambda file, _: os.mkfifo(file),
    "an empty file": lambda file, _: file.touch(),
}


@pytest.mark.parametrize("what", PLANTED)
@pytest.mark.parametrize("suffix", [".float16", ".partial"])
def test_planted_files_train_no_student_and_links_are_not_written_through(
    split: Split, scratch: Path, tmp_path: Path, name: str, what: str, suffix: str
) -> None:
    target = tmp_path / "target"
    target.write_bytes(np.full(len(split) * split.feature_dim + 8, 7, np.float16).tobytes())  # as long as a view's file
    before = target.read_bytes()
    scratch.mkdir(parents=True)
    PLANTED[what](scratch / f"{name}{suffix}", target)
    check_mapped(split, scratch)
    assert target.read_bytes() == before


@pytest.mark.parametrize("what", ["a link", "another name of a file", "a pipe"])
def test_a_planted_lock_is_named(split: Split, scratch: Path, tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "target").write_bytes(b"mine")
    scratch.mkdir(parents=True)
    PLANTED[what](scratch / f"{name}.lock", tmp_path / "target")
    sweep_views(scratch)
    with pytest.raises(
        InputError, match=r"The scratch folder '.*' cannot be written \(.+\); give another with --scratch"
    ):
        MappedView(split, 1, scratch)
    assert (tmp_path / "target").read_bytes() == b"mine"


def test_one_flipped_bit_is_noticed(split: Split, scratch: Path) -> None:
    held = MappedView(split, 1, scratch)
    (file,) = scratch.glob("*.float16")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    held.close()
    file.write_bytes(content)
    check_mapped(split, scratch)


def test_a_folder_of_anothers_or_a_link_is_refused(scratch: Path, tmp_path: Path) -> None:
    scratch.parent.mkdir()
    (tmp_path / "elsewhere").mkdir()
    scratch.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"'.*compress-ssl-views-\d+' is not a folder of yours, .* with --scratch\."):
        make_scratch_folder(scratch)
    scratch.unlink()
    if os.getuid() == 0:
        scratch.mkdir()
        os.chown(scratch, 65534, 65534)
        with pytest.raises(InputError, match="is not a folder of yours"):
            make_scratch_folder(scratch)


def test_a_folder_that_others_could_write_into_is_closed_to_them(scratch: Path) -> None:
    scratch.mkdir(parents=True)
    scratch.chmod(0o777)
    make_scratch_folder(scratch)
    assert stat.S_IMODE(scratch.stat().st_mode) == 0o700
