"""WebDataset's tars: what is read of them, and what is refused instead of being read wrong."""

import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.pipeline.images.sources.tar import TarSource
from tests.pipeline.images.tar_files import picture, write_tar


def tar_source(*shards: Path, cache: Path | None = None) -> TarSource:
    return TarSource(shards[0].parent, shards, cache)


def test_a_key_ends_at_the_first_dot_and_carries_the_label(tmp_path: Path) -> None:
    members = (
        "a.b/1.left.png",
        "a.b/1.right.png",
        ("a.b/1.cls", b" 10\n"),
        "2.jpg",
        ("2.CLS", b"9"),
        ("2.json", b"{}"),
    )
    paths, labels, classes = tar_source(write_tar(tmp_path / "s.tar", *members)).listing()
    assert paths == ["s.tar/a.b/1.left.png", "s.tar/a.b/1.right.png", "s.tar/2.jpg"]
    assert classes == ("10", "9")
    assert labels.tolist() == [0, 0, 1]


def test_shards_without_labels_have_none(tmp_path: Path) -> None:
    shards = [write_tar(tmp_path / f"{number}.tar", "1.png") for number in (0, 1)]
    paths, labels, classes = tar_source(*shards).listing()
    assert (paths, labels.tolist(), classes) == (["0.tar/1.png", "1.tar/1.png"], [-1, -1], ())


def test_a_tar_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    for members, sentence in [
        (("1.png", ("1.cls", b"a"), "2.png"), r"'s\.tar/2\.png' of '.*' has no \.cls member, others have one"),
        (("1.png", "./1.png"), r"The tar file '.*s\.tar' holds '1\.png' twice"),
        (("1.png", ("1.cls", b"\n")), r"The class in '.*s\.tar/1\.cls' is empty"),
        (("1.png", ("1.cls", b"\xff")), r"The class in '.*s\.tar/1\.cls' is not UTF-8"),
        ((("notes.txt", b"text"),), r"hold no images"),
        ((), r"hold no images"),
        (("caf\udce9.png",), r"The name 'caf\\xe9\.png' in '.*s\.tar' is not UTF-8"),
    ]:
        with pytest.raises(InputError, match=sentence):
            tar_source(write_tar(tmp_path / "s.tar", *members)).listing()


def test_a_link_in_a_tar_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(picture())
    (tmp_path / "2.png").symlink_to("1.png")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(tmp_path / "1.png", "1.png")
        tar.add(tmp_path / "2.png", "2.png")
    with pytest.raises(InputError, match=r"'2\.png' in tar file '.*s\.tar' is not a regular file"):
        tar_source(tmp_path / "s.tar").listing()


def test_a_tar_that_is_cut_anywhere_is_named(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", "1.png", ("1.cls", b"a"), ("2.png", picture() * 9), ("2.cls", b"b"))
    content = whole.read_bytes()
    with tarfile.open(whole) as tar:
        last = tar.getmembers()[-1]
    end = last.offset_data + tarfile.BLOCKSIZE  # what follows is the end mark, then padding
    assert len(tar_source(whole).listing().paths) == 2
    cut = tmp_path / "cut.tar"
    for size in [0, 1, 100, *range(511, end + 511, 256)]:
        cut.write_bytes(content[:size])
        with pytest.raises(InputError, match=r"'.*cut\.tar' is (cut short|not an uncompressed tar file)"):
            tar_source(cut).listing()


def test_what_is_no_tar_is_named(tmp_path: Path) -> None:
    for content in [b"", b"text" * 300]:
        (tmp_path / "s.tar").write_bytes(content)
        with pytest.raises(InputError, match=r"'.*s\.tar' is not an uncompressed tar file; copy it again"):
            tar_source(tmp_path / "s.tar").listing()


def test_a_compressed_tar_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w:gz"):
        pass
    with pytest.raises(InputError, match=r"'.*s\.tar' is not an uncompressed tar file"):
        tar_source(tmp_path / "s.tar").listing()


def test_members_are_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = write_tar(tmp_path / "s.tar", "b/ü 1.png", ("b/ü 1.cls", "ü".encode()))
    cache = tmp_path / "index" / "members.npz"
    first = tar_source(shard, cache=cache)
    expected, content = first.listing(), first.read("s.tar/b/ü 1.png")
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", lambda *_, **__: pytest.fail("a shard was looked into again"))
        again = tar_source(shard, cache=cache)
        found = again.listing()
        assert (found.paths, found.labels.tolist(), found.class_names) == (
            (expected.paths, expected.labels.tolist(), expected.class_names)
        )
        assert again.read("s.tar/b/ü 1.png") == content
    write_tar(shard, "other.png")
    assert tar_source(shard, cache=cache).listing().paths == ["s.tar/other.png"]
    cache.write_bytes(cache.read_bytes()[:200])
    assert tar_source(shard, cache=cache).listing().paths == ["s.tar/other.png"]


def test_a_key_of_two_labels_is_named(tmp_path: Path) -> None:
    dotted = [
        (f"photo.hat{number:02d}.{kind}", str(number).encode()) for number in range(24) for kind in ("jpg", "cls")
    ]
    for members, sentence in [
        (
            dotted,
            r"'photo\.hat00\.cls' and 'photo\.hat01\.cls' in tar file '.*' have the same key, 'photo' \(a name up to",
        ),
        (("a/1.png", ("a/1.cls", b"x"), ("a/1.CLS", b"y")), r"'a/1\.cls' and 'a/1\.CLS' in .* the same key, 'a/1'"),
        (("1.png", ("1.cls", b"x"), ("./1.cls", b"x")), r"holds '1\.cls' twice; write it again without one"),
        (
            ("1.a.png", ("1.a.cls", b"x"), "1.b.png"),
            r"'1\.a\.png' and '1\.b\.png' in .* have the same key, '1' .* dots",
        ),
    ]:
        with pytest.raises(InputError, match=sentence):
            tar_source(write_tar(tmp_path / "s.tar", *members)).listing()


def test_what_lies_behind_the_end_mark_is_named(tmp_path: Path) -> None:
    first = write_tar(tmp_path / "a.tar", "1.png").read_bytes()
    second = write_tar(tmp_path / "b.tar", "2.png").read_bytes()
    (tmp_path / "a.tar").write_bytes(first + bytes(20_000))
    assert tar_source(tmp_path / "a.tar").listing().paths == ["a.tar/1.png"]
    for more, lost in [
        (second, "'2.png' and what follows it"),
        (b"x", "1 bytes"),
        (bytes(512) + second, "'2.png' and"),
    ]:
        (tmp_path / "a.tar").write_bytes(first + more)
        with pytest.raises(InputError, match=rf"a\.tar' goes on behind its end mark, .*: {lost}.* would be left out"):
            tar_source(tmp_path / "a.tar").listing()


@pytest.mark.parametrize("name", ["2.png", "1.cls"])
def test_only_plain_bytes_are_images_and_labels(tmp_path: Path, name: str) -> None:
    link = {"linkname": "1.png"}
    kinds: list[dict[str, object]] = [
        *({"type": kind, **link} for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)),
        *({"type": kind} for kind in (tarfile.GNUTYPE_SPARSE, b"M", b"Z")),
        {"pax_headers": {"GNU.sparse.size": "9", "GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,4"}},
    ]
    for kind in kinds:
        shard = write_tar(tmp_path / "s.tar", "1.png", (name, bytes(4), kind), format=tarfile.PAX_FORMAT)
        with pytest.raises(InputError, match=rf"'{name}' in tar file '.*s\.tar' is not a regular file"):
            tar_source(shard).listing()
    headers = {"format": tarfile.PAX_FORMAT, "pax_headers": {"size": "1"}}  # the class would be 1
    with pytest.raises(InputError, match=r"'1\.cls' in tar file '.*' is not a regular file"):
        tar_source(write_tar(tmp_path / "s.tar", ("1.cls", b"10"), "1.png", **headers)).listing()


def test_headers_of_any_format_are_read_right(tmp_path: Path) -> None:
    name = f"{'ü' * 150}.png"
    folder = ("photos.png", b"", {"type": tarfile.DIRTYPE})
    for options in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        contiguous = ("2.png", b"two", {"type": tarfile.CONTTYPE})
        source = tar_source(write_tar(tmp_path / "s.tar", folder, (name, b"one"), contiguous, format=options))
        assert [source.read(path) for path in source.listing().paths] == [b"one", b"two"]
    sized = ("1.png", b"one", {"pax_headers": {"size": "3"}})
    assert tar_source(write_tar(tmp_path / "s.tar", sized, format=tarfile.PAX_FORMAT)).read("s.tar/1.png") == b"one"


def test_a_class_is_one_line_of_text(tmp_path: Path) -> None:
    for content in (b"cat\ndog", b"cat\0dog", b"c" * 5000, b"\x1b[31mcat"):
        with pytest.raises(InputError, match=r"The class in '.*s\.tar/1\.cls' is not one line of text"):
            tar_source(write_tar(tmp_path / "s.tar", "1.png", ("1.cls", content))).listing()


def test_a_shard_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train-000000.tar")
    with pytest.raises(InputError, match=r"'.*train-000000\.tar' is not a file"):
        open_source(tmp_path, "train").listing()


def test_what_an_earlier_release_remembers_of_a_shard_is_not_believed(tmp_path: Path) -> None:
    """It had not checked labels and end mark."""
    shard, cache = write_tar(tmp_path / "s.tar", "1.png"), tmp_path / "members.npz"
    tar_source(shard, cache=cache).listing()
    stat = shard.stat()
    stamp = json.dumps([(shard.name, stat.st_size, stat.st_mtime_ns)]).encode()
    with np.load(cache) as table:
        before = {**table, "stamp": np.frombuffer(stamp, np.uint8), "path": np.frombuffer(b"s.tar/old.png", np.uint8)}
    np.savez(cache, **before)
    assert tar_source(shard, cache=cache).listing().paths == ["s.tar/1.png"]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "index").write_text("in the way")
    source = tar_source(write_tar(tmp_path / "s.tar", "1.png"), cache=tmp_path / "index" / "members.npz")
    assert source.listing().paths == ["s.tar/1.png"]
    assert "members.npz' cannot be written" in caplog.text
