"""What is not read in a folder of images: hidden files, folders met twice, special files; and what is said of it."""

import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.images.index import ImageIndex, index_images
from compress_ssl.pipeline.images.sources.files import FolderSource, ListSource
from compress_ssl.storage.schema import Status

Log = pytest.LogCaptureFixture


def put(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(root / name, "PNG")
    return root


def indexed(source: FolderSource | ListSource, *, skip_bad: bool = False) -> ImageIndex:
    cache = source.location.parent / "index.npz"
    return index_images(source, source.listing(), cache, skip_bad=skip_bad, threads=1, progress=Silent())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of two images."""
    return put(tmp_path / "data" / "train", *(f"{name}/{number}.png" for name in "ab" for number in "12"))


PATHS = ["a/1.png", "a/2.png", "b/1.png", "b/2.png"]


def link(place: Path, target: Path | str) -> None:
    place.symlink_to(target, target_is_directory=True)


def test_no_folder_is_read_twice(root: Path, tmp_path: Path, caplog: Log) -> None:
    caplog.set_level(logging.INFO)
    link(root / "a" / "parent", "..")
    link(root / "a" / "grandparent", root.parent)
    link(root / "a" / "itself", ".")
    link(root / "a" / "sibling", root / "b")
    link(root / "c", "b")
    found = FolderSource(root).listing()
    assert (found.paths, found.labels.tolist(), found.class_names) == (PATHS, [0, 0, 1, 1], ("a", "b"))
    assert sorted(FolderSource(root).files()) == [root / path for path in PATHS]
    assert "5 linked to a folder that is read anyway ('c')" in caplog.text
    outside = put(tmp_path / "outside", "x.jfif", "deep/y.png")
    link(outside / "deep" / "loop", outside)
    link(root / "a" / "outside", outside)
    link(root / "b" / "outside", outside)
    assert FolderSource(root).listing().paths == [
        *("a/1.png", "a/2.png", "a/outside/x.jfif", "a/outside/deep/y.png", "b/1.png", "b/2.png")
    ]


def test_hidden_files_and_folders_are_left_out(root: Path, caplog: Log) -> None:
    caplog.set_level(logging.INFO)
    put(root, ".ipynb_checkpoints/1-checkpoint.png", ".git/x.png", "__MACOSX/a/1.png", "a/.thumbnails/1.png")
    (root / "a" / "._1.png").write_bytes(b"\0\5\x16\7")
    found = FolderSource(root).listing()
    assert (found.paths, found.class_names) == (PATHS, ("a", "b"))
    assert sorted(FolderSource(root).files()) == [root / path for path in PATHS]
    assert f"Left out of '{root}', with the first of each kind: 5 hidden ('.git')." in caplog.text
    link(root / "cats", root / ".git")  # what is kept hidden and linked to is read
    assert FolderSource(root).listing().class_names == ("a", "b", "cats")


def test_one_line_counts_what_is_left_out(root: Path, caplog: Log) -> None:
    caplog.set_level(logging.INFO)
    for name in ("a/1.HEIC", "b/2.heic", "b/x.avif", "b/x.gif", "README", "notes.txt", os.fsdecode(b"b/\xe9\x1b.gif")):
        (root / name).write_bytes(b"")
    put(root, "loose.png")
    assert FolderSource(root).listing().paths == PATHS
    (line,) = caplog.messages
    assert line == (
        f"Left out of '{root}', with the first of each kind: 1 .avif ('b/x.avif'), 2 .gif ('b/x.gif'), "
        "2 .heic ('a/1.HEIC'), 1 .txt ('notes.txt'), 1 beside the class folders ('loose.png'), "
        "1 without extension ('README')."
    )


def test_nothing_is_said_where_nothing_is_left_out(root: Path, caplog: Log) -> None:
    caplog.set_level(logging.INFO)
    assert FolderSource(root).listing().paths == PATHS
    assert not caplog.messages


def test_what_is_no_file_is_named_and_not_waited_for(root: Path) -> None:
    (root.parent / "train.txt").write_text("train/a/1.png\ntrain/b/3.png\n")
    place = root / "b" / "3.png"
    for make in (os.mkfifo, lambda path: os.mknod(path, stat.S_IFSOCK), lambda path: os.symlink("/dev/zero", path)):
        make(place)
        for source in (FolderSource(root), ListSource(root.parent / "train.txt")):
            with pytest.raises(InputError, match=r"The image '.*train/b/3\.png' cannot be read \(not a regular file\)"):
                indexed(source, skip_bad=True)
        place.unlink()


def test_folder_that_may_not_be_read_is_named(root: Path) -> None:
    (root / "a" / "deep").mkdir(mode=0)
    code = "import sys, pathlib; from compress_ssl.pipeline.images.sources.files import FolderSource as S; "
    code += "S(pathlib.Path(sys.argv[1])).listing()"
    # Root may read everything; without these capabilities it is the owner only.
    as_owner = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    done = subprocess.run([*as_owner, sys.executable, "-c", code, root], capture_output=True, text=True, check=False)
    assert f"InputError: The folder '{root}/a/deep' cannot be read (Permission denied)" in done.stderr


def test_a_file_too_large_for_an_image_is_bad_and_not_read(root: Path) -> None:
    os.truncate(put(root, "b/3.png") / "b/3.png", 2**40)
    with pytest.raises(InputError, match=r"'.*b/3\.png' cannot be decoded \(it has more than 1,073,741,824 bytes\)"):
        indexed(FolderSource(root))
    assert indexed(FolderSource(root), skip_bad=True).samples.status.tolist()[-1] == Status.BAD_IMAGE


def test_images_that_are_none_are_named_and_can_be_skipped(root: Path) -> None:
    whole = (root / "b/1.png").read_bytes()
    bomb = whole[:16] + (30_000).to_bytes(4) * 2 + whole[24:]  # 900 million pixels
    for content in (b"", whole[:40], bomb):
        (root / "b" / "3.png").write_bytes(content)
        with pytest.raises(InputError, match=r"'.*b/3\.png' cannot be decoded \(.+\); replace it, or leave bad images"):
            indexed(FolderSource(root))
        samples = indexed(FolderSource(root), skip_bad=True).samples
        assert samples.status.tolist() == [Status.GOOD] * 4 + [Status.BAD_IMAGE]
