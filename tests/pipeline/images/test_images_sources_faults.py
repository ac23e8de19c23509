"""What is wrong with a list, a label file, a tar or a folder is named; and which kind is chosen."""

from pathlib import Path

import numpy as np
import pytest

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.sources.files import FolderSource, ListSource
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.pipeline.images.sources.source import Listing
from compress_ssl.pipeline.images.sources.tar import TarSource
from compress_ssl.pipeline.images.sources.text import add_labels, number_classes, split_line
from compress_ssl.storage.errors import StoreError
from tests.pipeline.images.tar_files import picture, write_tar

# ---- lists


def test_a_line_is_a_name_and_perhaps_a_class() -> None:
    for line, expected in [
        ("a.jpg", ("a.jpg", "")),
        ("my photo.jpg", ("my photo.jpg", "")),
        ("a.jpg cat", ("a.jpg", "cat")),
        ("my photo.jpg  3", ("my photo.jpg", "3")),
        ("my photo.jpg\tgolden retriever", ("my photo.jpg", "golden retriever")),
        ("a.jpg\t", ("a.jpg", "")),
        ("stem cat", ("stem", "cat")),
    ]:
        assert split_line(line) == expected


def test_classes_are_numbered_in_their_order() -> None:
    for names, labels, classes in [
        (["pear", "apple", "pear"], [1, 0, 1], ("apple", "pear")),
        (["10", "9", "10"], [0, 1, 0], ("10", "9")),  # as ImageFolder has it
        (["10", "9", "nine"], [0, 1, 2], ("10", "9", "nine")),
        ([], [], ()),
    ]:
        found, class_names = number_classes(names)
        assert (found.tolist(), class_names) == (labels, classes)


def test_a_line_of_a_list_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    for content, sentence in [
        (
            b"a.jpg\n\n/data/b.jpg\n",
            r"Line 3 of '.*train\.txt', '/data/b\.jpg', leads out of the list's folder; put the",
        ),
        (b"../b.jpg\n", r"Line 1 of '.*', '\.\./b\.jpg', leads out"),
        (b"sub/../../b.jpg\n", r"leads out"),
        (b"a.jpg\nb.gif\n", r"Line 2 of '.*', 'b\.gif', is not the name of an image \(\.jpg,"),
        (b"a.jpg cat\nb.jpg\n", r"Line 2 of '.*' has no class, other lines have one"),
        (b"a.jpg cat\nc.jpg dog\n./a.jpg dog\n", r"Line 3 of '.*', '\./a\.jpg', is there already"),
        (b"caf\xe9.jpg\n", r"'.*train\.txt' is not UTF-8 text \(byte 3\); save it as UTF-8"),
        (b"a.jpg\nb\0.jpg\n", r"list of images '.*train\.txt' holds NUL characters, which no name has; save it"),
        (b"\n  \n", r"'.*train\.txt' is empty"),
    ]:
        (tmp_path / "train.txt").write_bytes(content)
        with pytest.raises((InputError, StoreError), match=sentence):
            ListSource(tmp_path / "train.txt").listing()


def test_a_list_is_read_as_it_is_written(tmp_path: Path) -> None:
    text = "\ufeffb/2.jpg\r\nb/1.jpg\r\n\r\nodd\u2028name.jpg\n"
    (tmp_path / "train.txt").write_bytes(text.encode())
    paths, labels, classes = ListSource(tmp_path / "train.txt").listing()
    assert paths == ["b/2.jpg", "b/1.jpg", "odd\u2028name.jpg"]
    assert labels.tolist() == [-1, -1, -1]
    assert classes == ()


# ---- label files


def flat(*paths: str) -> Listing:
    return Listing(list(paths), np.full(len(paths), -1, np.int32), ())


def labelled(tmp_path: Path, text: str | bytes, name: str = "labels.txt", **listings: Listing) -> dict[str, Listing]:
    file = tmp_path / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return add_labels(listings or {"val": flat("1.JPEG", "2.JPEG", "3.JPEG")}, file)


def test_a_label_file_gives_a_flat_split_its_classes(tmp_path: Path) -> None:
    for text, name in [
        ("1.JPEG n02\n2.JPEG n01\n3.JPEG n02\n", "labels.txt"),
        ("3 n02\n\n1 n02\n2\tn01\n", "labels.txt"),
        ("val/1.JPEG n02\nval/2 n01\n3 n02\n", "labels.txt"),
        ("ImageId,PredictionString\n1,n02 85 1 499 272 n02 1 2 3 4 \n2,n01 1 2 3 4\n3,n02 0 0 9 9\n", "solution.csv"),
        ('file,"what, it is"\n1.JPEG,n02\n2.JPEG,n01\n3.JPEG,n02\n', "labels.csv"),
    ]:
        found = labelled(tmp_path, text, name)["val"]
        assert found.labels.tolist() == [1, 0, 1]
        assert found.class_names == ("n01", "n02")


def test_a_split_with_classes_of_its_own_keeps_them(tmp_path: Path) -> None:
    train = Listing(["b/1.jpg"], np.zeros(1, np.int32), ("b",))
    found = labelled(tmp_path, "1 pear\n", train=train, val=flat("1.jpg"))
    assert found["train"] is train
    assert found["val"].class_names == ("pear",)
    assert list(found) == ["train", "val"]


def test_two_flat_splits_get_the_same_class_numbers(tmp_path: Path) -> None:
    found = labelled(tmp_path, "train/1 pear\nval/1 fig\n", train=flat("1.jpg"), val=flat("1.jpg"))
    assert found["train"].class_names == found["val"].class_names == ("fig", "pear")
    assert (found["train"].labels.tolist(), found["val"].labels.tolist()) == ([1], [0])


def test_a_csv_class_may_be_of_several_words(tmp_path: Path) -> None:
    found = labelled(tmp_path, "file,class\n1.jpg,golden retriever\n", "labels.csv", val=flat("1.jpg"))
    assert found["val"].class_names == ("golden retriever",)


def test_a_label_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    for text, sentence in [
        ("1 a\n2 a\n", r"'3\.JPEG' in val has no line in '.*labels\.txt' \(1 of 3 have none\); add it"),
        ("1 a\n2 a\n3 b\n4 b\n", r"'4', in line 4 of '.*labels\.txt', is not an image of val; correct the line"),
        ("1 a\n2 a\n3 b\n1.JPEG b\n", r"'1\.JPEG', in line 4 of '.*', is in an earlier line too"),
        ("1 a\n2\n", r"Line 2 of '.*' has no class: numbers alone, as in ILSVRC's ground truth, follow a numbering of"),
        ("1 a\n2.JPEG\n", r"Line 2 of '.*' has no class; write NAME CLASS on each line"),
        (b"1 caf\xe9\n", r"labels\.txt' is not UTF-8 text"),
        ("", r"The label file '.*' is empty"),
    ]:
        with pytest.raises((InputError, StoreError), match=sentence):
            labelled(tmp_path, text)


def test_a_csv_line_without_a_class_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Line 3 of '.*labels\.csv' has no class; its first two columns"):
        labelled(tmp_path, "file,class\n1,a\n2\n", "labels.csv")
    with pytest.raises(InputError, match=r"Line 1 of '.*labels\.csv' is an image, not a header; write one above it"):
        labelled(tmp_path, "1.JPEG,a\n2.JPEG,b\n3.JPEG,b\n", "labels.csv")


def test_a_name_that_two_images_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'1', in line 1 of '.*', is several images of val"):
        labelled(tmp_path, "1 a\n", val=flat("1.jpg", "1.png"))
    found = labelled(tmp_path, "1.jpg a\n1.png b\n", val=flat("1.jpg", "1.png"))
    assert found["val"].labels.tolist() == [0, 1]


def test_labels_that_nobody_needs_are_refused(tmp_path: Path) -> None:
    train = Listing(["b/1.jpg"], np.zeros(1, np.int32), ("b",))
    with pytest.raises(InputError, match=r"is for images without labels, but train have labels of their own"):
        labelled(tmp_path, "1 a\n", train=train)


def test_a_missing_label_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"The label file '.*nothing\.txt' is not a file"):
        add_labels({"val": flat("1.jpg")}, tmp_path / "nothing.txt")


# ---- which kind


def write_images(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "1.png").write_bytes(picture())


def test_the_kind_is_chosen_by_what_is_there(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "a")
    (tmp_path / "train.txt").write_text("train/a/1.png\n")
    write_tar(tmp_path / "train" / "old.tar", "1.png")
    write_tar(tmp_path / "val" / "b.tar", "1.png")
    write_tar(tmp_path / "val" / "a.tar", "1.png")
    write_tar(tmp_path / "test-000001.tar", "1.png")
    write_tar(tmp_path / "test-000000.tar", "1.png")
    write_tar(tmp_path / "test-extra-000000.tar", "1.png")
    write_tar(tmp_path / "single.tar", "1.png")
    (tmp_path / "few.txt").write_text("train/a/1.png\n")
    assert isinstance(open_source(tmp_path, "train"), FolderSource)
    assert isinstance(open_source(tmp_path, "train.txt"), ListSource)
    assert isinstance(open_source(tmp_path, "few"), ListSource)
    for split, shards in (
        ("val", ["a.tar", "b.tar"]),
        ("test", ["test-000000.tar", "test-000001.tar"]),
        ("single", ["single.tar"]),
        ("single.tar", ["single.tar"]),
        ("test-000001.tar", ["test-000001.tar"]),
    ):
        source = open_source(tmp_path, split)
        assert isinstance(source, TarSource)
        assert [shard.name for shard in source.archives] == shards
    whole = open_source(tmp_path / "val", ".")
    assert isinstance(whole, TarSource)
    assert whole.listing().paths == ["a.tar/1.png", "b.tar/1.png"]


def test_what_is_no_split_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("text")
    with pytest.raises(
        InputError, match=r"has no folder 'dev' \(nor dev\.txt, dev\.tar, dev-000000\.tar\); check the path"
    ):
        open_source(tmp_path, "dev")
    with pytest.raises(InputError, match=r"'.*notes\.md' is a file, but neither a list \(\.txt\) nor a tar"):
        open_source(tmp_path, "notes.md")
    with pytest.raises(InputError, match=r"has no folder 'no/such'"):
        open_source(tmp_path, "no/such")
