"""The index against torchvision's ImageFolder, what it says of bad folders and files, and its cache."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from PIL import Image
from torchvision.datasets import ImageFolder

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.images.index import ImageIndex, index_images
from compress_ssl.pipeline.images.sources.files import FolderSource
from compress_ssl.storage.schema import Status


def picture(seed: int = 0, side: int = 64, kind: str = "JPEG") -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (side, side + 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def put(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(seed))
    return root


def index(root: Path, cache: Path | None = None, **selection: Any) -> ImageIndex:
    source = FolderSource(root)
    cache = cache or root.parent / "scan.npz"
    return index_images(source, source.listing(), cache, threads=2, progress=Silent(), **selection)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "images"


def test_classes_and_files_come_in_the_order_of_image_folder(root: Path) -> None:
    put(root, "b/2.jpg", "b/10.JPG", "b/sub/deep/x.PNG", "b/sub.jpg", "a/ä.jpeg", "a/Z.tiff", "a/z.webp", "B/1.bmp")
    put(root, "a/notes.txt", "a/movie.gif", "c/1.jpg", "loose.jpg", "../elsewhere/linked/l.jpg", "../d/1.jpg")
    (root / "c" / "link").symlink_to(root.parent / "elsewhere" / "linked", target_is_directory=True)
    (root / "a-link").symlink_to(root.parent / "d", target_is_directory=True)
    reference = ImageFolder(str(root))
    found = index(root)
    assert list(found.samples.class_names) == reference.classes
    assert [str(root / path) for path in found.samples.sample_path] == [path for path, _ in reference.samples]
    assert found.samples.label.tolist() == reference.targets
    assert "c/link/l.jpg" in found.samples.sample_path


def test_photographs_come_in_the_order_of_image_folder(photographs: Path) -> None:
    paths, _, classes = FolderSource(photographs / "train").listing()
    reference = ImageFolder(str(photographs / "train"))
    assert [str(photographs / "train" / path) for path in paths] == [path for path, _ in reference.samples]
    assert list(classes) == reference.classes


def test_each_sample_has_its_size_hash_and_status(root: Path) -> None:
    put(root, "a/1.jpg", "b/2.jpg")
    samples = index(root).samples
    assert samples.image_size.tolist() == [[64, 72], [64, 72]]
    assert samples.content_hash.tolist() == [xxhash.xxh3_64(picture(seed)).intdigest() for seed in (0, 1)]
    assert samples.status.tolist() == [Status.GOOD, Status.GOOD]


def test_a_flat_folder_has_no_labels(root: Path) -> None:
    put(root, "2.jpg", "1.jpg", "notes.txt")
    (root / "empty").mkdir()
    samples = index(root).samples
    assert samples.sample_path == ["1.jpg", "2.jpg"]
    assert samples.label.tolist() == [-1, -1]
    assert samples.class_names == ()


def test_a_missing_folder_is_named(root: Path) -> None:
    with pytest.raises(InputError, match=r"'.*images' does not exist"):
        index(root)


def test_a_file_where_a_folder_belongs_is_named(root: Path) -> None:
    root.write_bytes(picture())
    with pytest.raises(InputError, match=r"'.*images' is a file"):
        index(root)


def test_an_empty_folder_is_named(root: Path) -> None:
    root.mkdir()
    with pytest.raises(InputError, match=r"'.*images' holds no images"):
        index(root)


def test_an_empty_class_is_named(root: Path) -> None:
    put(root, "a/1.jpg", "hollow/notes.txt")
    with pytest.raises(InputError, match="Class 'hollow'"):
        index(root)


@pytest.mark.parametrize("name", [b"a/caf\xe9.jpg", b"caf\xe9/1.jpg", b"caf\xe9.jpg"])
def test_a_name_that_is_not_utf8_is_shown_and_refused(root: Path, name: bytes) -> None:
    put(root, os.fsdecode(name))
    with pytest.raises(InputError, match=r"caf\\xe9.* is not UTF-8"):
        index(root)


def test_a_broken_link_is_named(root: Path) -> None:
    put(root, "a/1.jpg")
    (root / "a" / "2.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(InputError, match=r"'.*/a/2\.jpg' cannot be read \(No such file"):
        index(root, skip_bad=True)


def test_listed_images_are_taken_in_the_order_of_the_folder(root: Path) -> None:
    put(root, "a/1.jpg", "a/2.jpg", "b/1.jpg", "c/1.jpg")
    samples = index(root, only=["c/1.jpg", "a/2.jpg"]).samples
    assert samples.sample_path == ["a/2.jpg", "c/1.jpg"]
    assert samples.label.tolist() == [0, 2]
    assert samples.class_names == ("a", "b", "c")


def test_a_listed_image_that_is_not_there_is_named(root: Path) -> None:
    put(root, "a/1.jpg")
    with pytest.raises(InputError, match=r"'a/9\.jpg', one of the images asked for, .*\(1 of 2 are not\)"):
        index(root, only=["a/1.jpg", "a/9.jpg"])


def test_a_limit_keeps_all_classes(root: Path) -> None:
    put(root, *(f"{name}/{number}.jpg" for name in "abcd" for number in range(5)))
    samples = index(root, limit=7).samples
    assert len(samples) == 7
    assert set(samples.label.tolist()) == {0, 1, 2, 3}
    assert samples.sample_path == sorted(set(samples.sample_path))


def test_a_limit_above_the_number_of_images_takes_all(root: Path) -> None:
    put(root, "a/1.jpg", "a/2.jpg")
    assert len(index(root, limit=10).samples) == 2


def corrupted_in_the_middle() -> bytes:
    content = bytearray(picture(side=256))
    middle = len(content) // 2
    content[middle : middle + 4] = b"\xff\xc4\x00\x05"  # a Huffman table where pixels belong
    return bytes(content)


BAD = {
    "text": b"this is not a picture",
    "empty": b"",
    "truncated": picture(side=256)[:-4000],
    "middle": corrupted_in_the_middle(),
    "header": picture()[:100],
    "no-start": picture()[40:],
    "png": picture(kind="PNG")[:-2000],
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_image_ends_the_run_by_name(root: Path, fault: str) -> None:
    put(root, "a/1.jpg", "a/3.jpg")
    (root / "a" / "2.jpg").write_bytes(BAD[fault])
    with pytest.raises(InputError, match=r"'.*/a/2\.jpg' cannot be decoded \([^<>]+\).*--on-bad-image skip"):
        index(root)


def test_bad_images_can_be_recorded_and_left_out(root: Path) -> None:
    put(root, "a/0.jpg")
    for name, content in BAD.items():
        (root / "a" / f"{name}.jpg").write_bytes(content)
    samples = index(root, skip_bad=True).samples
    assert samples.status.tolist() == [Status.GOOD] + [Status.BAD_IMAGE] * len(BAD)
    assert samples.image_size[1:].tolist() == [[0, 0]] * len(BAD)
    names = [Path(path).stem for path in samples.sample_path[1:]]
    assert samples.content_hash[1:].tolist() == [xxhash.xxh3_64_intdigest(BAD[name]) for name in names]


def test_a_bad_image_recorded_earlier_still_ends_a_run_that_wants_none(root: Path) -> None:
    put(root, "a/1.jpg")
    (root / "a" / "2.jpg").write_bytes(BAD["text"])
    index(root, skip_bad=True)
    with pytest.raises(InputError, match=r"a/2\.jpg' cannot be decoded"):
        index(root)


def test_a_folder_of_bad_images_only_is_refused(root: Path) -> None:
    (root / "a").mkdir(parents=True)
    (root / "a" / "1.jpg").write_bytes(b"text")
    with pytest.raises(InputError, match="None of the 1 images"):
        index(root, skip_bad=True)


def replace_keeping_the_stamp(path: Path, content: bytes) -> None:
    stat = path.stat()
    path.write_bytes(content)
    assert len(content) == stat.st_size
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_second_index_opens_no_file(root: Path) -> None:
    put(root, "a/1.jpg", "a/2.jpg")
    first = index(root).samples
    for name in ("1.jpg", "2.jpg"):
        replace_keeping_the_stamp(root / "a" / name, b"x" * (root / "a" / name).stat().st_size)
    second = index(root).samples
    assert second.content_hash.tolist() == first.content_hash.tolist()
    assert second.image_size.tolist() == first.image_size.tolist()


def test_a_file_of_another_time_is_looked_at_again(root: Path) -> None:
    put(root, "a/1.jpg", "a/2.jpg")
    (root / "a" / "1.jpg").write_bytes(picture(0, kind="BMP"))
    first = index(root).samples
    replace_keeping_the_stamp(root / "a" / "1.jpg", picture(5, kind="BMP"))
    os.utime(root / "a" / "1.jpg", ns=(1, 1))
    second = index(root).samples
    assert second.content_hash[0] != first.content_hash[0]
    assert second.content_hash[1] == first.content_hash[1]


def test_the_scan_of_a_subset_serves_the_whole_folder_too(root: Path) -> None:
    put(root, "a/1.jpg", "a/2.jpg", "a/3.jpg")
    first = index(root, limit=2).samples
    taken = root / first.sample_path[0]
    replace_keeping_the_stamp(taken, b"x" * taken.stat().st_size)
    assert index(root).samples.content_hash[0] == first.content_hash[0]


def test_scans_of_two_subsets_both_serve_the_whole_folder(root: Path) -> None:
    put(root, "a/1.jpg", "a/2.jpg")
    parts = [index(root, only=[name]).samples for name in ("a/2.jpg", "a/1.jpg")]
    for name in ("1.jpg", "2.jpg"):
        replace_keeping_the_stamp(root / "a" / name, b"x" * (root / "a" / name).stat().st_size)
    whole = index(root).samples
    assert whole.content_hash.tolist() == [parts[1].content_hash[0], parts[0].content_hash[0]]


def test_all_of_a_scan_with_many_saves_is_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SCANS_AT_ONCE", "SCANS_PER_SAVE"):
        monkeypatch.setattr(f"compress_ssl.pipeline.images.index.{name}", 2)
    names = [f"a/{number:02d}.jpg" for number in range(25)]
    first = index(put(root, *names)).samples
    for name in names:
        replace_keeping_the_stamp(root / name, b"x" * (root / name).stat().st_size)
    assert index(root).samples.content_hash.tolist() == first.content_hash.tolist()


def test_what_was_looked_at_before_a_bad_image_is_kept(root: Path) -> None:
    put(root, "a/1.jpg")
    (root / "a" / "2.jpg").write_bytes(BAD["text"])
    with pytest.raises(InputError):
        index(root)
    first = root / "a" / "1.jpg"
    replace_keeping_the_stamp(first, b"x" * first.stat().st_size)
    (root / "a" / "2.jpg").write_bytes(picture(1))
    assert index(root).samples.status.tolist() == [Status.GOOD, Status.GOOD]


@pytest.mark.parametrize("damage", ["text", "truncated", "flipped", "method", "array"])
def test_a_damaged_cache_is_ignored(root: Path, damage: str) -> None:
    cache = put(root, "a/1.jpg", "a/2.jpg").parent / "scan.npz"
    first = index(root, cache).samples
    content = bytearray(cache.read_bytes())
    if damage == "text":
        content = bytearray(b"not a cache")
    elif damage == "truncated":
        del content[len(content) // 2 :]
    elif damage == "flipped":
        content[content.index(b"a/1.jpg")] ^= 1
    elif damage == "method":
        content[content.index(b"PK\x01\x02") + 10] = 77  # an unknown way of compressing
    else:
        buffer = io.BytesIO()
        np.save(buffer, np.zeros(3))
        content = bytearray(buffer.getvalue())
    cache.write_bytes(content)
    assert index(root, cache).samples.content_hash.tolist() == first.content_hash.tolist()
