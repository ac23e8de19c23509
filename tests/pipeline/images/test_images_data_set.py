"""Indexing the splits of a dataset, and the list of images to take."""

import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.common.settings import ImageSelection
from compress_ssl.pipeline.images.data_set import index_data_set
from compress_ssl.pipeline.images.index import ImageIndex
from compress_ssl.pipeline.images.pack_settings import PackSettings
from compress_ssl.pipeline.images.pack_writer import pack
from compress_ssl.storage.errors import StoreError
from tests.pipeline.images.tar_files import write_tar


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("train/a/1.png", "train/a/2.png", "train/b/1.png", "val/a/1.png"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (len(name), 0, 0)).save(path)
    return tmp_path / "data"


def index(data: Path, *folders: str, **selection: object) -> dict[str, ImageIndex]:
    chosen = ImageSelection.model_validate(selection)
    return index_data_set(data, folders, data.parent / "out" / "run", chosen, threads=1, progress=Silent())


def test_a_split_of_which_the_subset_lists_none_is_taken_whole(data: Path, tmp_path: Path) -> None:
    subset = tmp_path / "subset.txt"
    subset.write_text("train/b/1.png\n\n  train/a/2.png \n")
    indexes = index(data, "train", "val", subset=subset)
    assert indexes["train"].samples.sample_path == ["a/2.png", "b/1.png"]
    assert indexes["val"].samples.sample_path == ["a/1.png"]


def test_the_data_set_itself_can_be_the_split(data: Path, tmp_path: Path) -> None:
    subset = tmp_path / "subset.txt"
    subset.write_text("a/2.png\n")
    assert index(data / "train", ".", subset=subset)["."].samples.sample_path == ["a/2.png"]


def test_a_subset_list_that_cannot_be_used_is_named(data: Path, tmp_path: Path) -> None:
    for content, message in [
        (b"a/1.png\n", r"'a/1\.png', listed in '.*subset\.txt', is in none of the folders train, val"),
        (b"train/a/9.png\n", r"'a/9\.png', one of the images asked for, is not an image"),
        (b"\n \n", r"'.*subset\.txt' is empty"),
        (b"\xff\xfea", r"'.*subset\.txt' is not UTF-8"),
        (None, r"'.*subset\.txt' is not a file"),
    ]:
        (tmp_path / "subset.txt").unlink(missing_ok=True)
        if content is not None:
            (tmp_path / "subset.txt").write_bytes(content)
        with pytest.raises((InputError, StoreError), match=message):
            index(data, "train", "val", subset=tmp_path / "subset.txt")


def test_a_missing_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'.*nothing' does not exist; give the folder or the pack that holds train"):
        index(tmp_path / "nothing", "train")


def test_the_index_is_kept_beside_the_output_or_where_it_is_told_to(data: Path, tmp_path: Path) -> None:
    index(data, "train")
    assert len(list((data.parent / "out" / "index").glob("train-*.npz"))) == 1
    index(data, "train", index_folder=tmp_path / "kept")
    assert len(list((tmp_path / "kept").glob("train-*.npz"))) == 1


def test_a_place_where_no_index_can_be_written_is_named_before_the_scan(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        InputError, match=r"Nothing can be written into '.*file/index' \(.+\); give another folder with --index-f"
    ):
        index(data, "train", index_folder=tmp_path / "file" / "index")


def test_a_split_that_is_nearly_one_is_asked_for(data: Path, tmp_path: Path) -> None:
    write_tar(data / "test-000000.tar", "1.png")
    (data / "dev.txt").write_text("train/a/1.png\n")
    packed = PackSettings(data=data, file=tmp_path / "p.h5", split=("train", "val"))
    pack(packed, Silent())
    for place, given, meant in (
        (data, "trian", "train"),
        (data, "tets-000000", "test-000000"),
        (data, "devv", "dev"),
        (packed.file, "trian", "train"),
    ):
        with pytest.raises(InputError, match=rf"has no (folder|split) '{given}'.* Did you mean '{meant}'\?"):
            index(place, given)
    with pytest.raises(InputError, match=r"check the path\.$"):
        index(data, "xyz")


def test_a_name_that_is_there_in_another_unicode_form_is_told_from_one_that_is_missing(
    data: Path, tmp_path: Path
) -> None:
    (data / "train/a/1.png").rename(data / "train/a" / unicodedata.normalize("NFD", "é.png"))
    (tmp_path / "subset.txt").write_text(unicodedata.normalize("NFC", "train/a/é.png\n"))
    with pytest.raises(
        InputError, match=r"is not an image in '.*', though it is in Unicode's other form, NFD: rename it"
    ):
        index(data, "train", subset=tmp_path / "subset.txt")
    for form in ("NFC", "NFD"):
        (data / "val" / unicodedata.normalize(form, "é")).mkdir()
        (data / "val" / unicodedata.normalize(form, "é") / "1.png").write_bytes((data / "val/a/1.png").read_bytes())
    with pytest.raises(InputError, match=r"Class '.+' is there in two Unicode forms, NFC and NFD; make one class of"):
        index(data, "val")
