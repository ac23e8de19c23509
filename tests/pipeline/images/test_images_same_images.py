"""A dataset is the store's or it is not: the first image that tells is named, whatever tells it."""

import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.common.rows import evenly_spaced
from compress_ssl.pipeline.common.settings import ContentCheck
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.images import same_images
from compress_ssl.pipeline.images.same_images import check_same_images
from compress_ssl.pipeline.images.sources.files import FolderSource
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.storage import open_store

EMBED: dict[str, Any] = {
    "teacher": "random/conv4-16",
    "size": 16,
    "resize": 16,
    "views": 1,
    "split": ("train",),
    "threads": 1,
    "block_rows": 20,
}


def write_noise(path: Path, seed: int, size: tuple[int, int] = (20, 18)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data``, 40 images, of which number 5 is bad, and their store; read it, never change it."""
    folder = tmp_path_factory.mktemp("made")
    for number in range(40):
        write_noise(folder / "data/train" / "ab"[number // 20] / f"{number:02d}.png", number)
    (folder / "data/train/a/05.png").write_bytes(b"no image")
    settings = {**EMBED, "data": folder / "data", "store": folder / "s.zarr", "on_bad_image": "skip"}
    embed(EmbedSettings.model_validate(settings), Silent())
    return folder


@pytest.fixture
def images(made: Path, tmp_path: Path) -> Path:
    """A copy of the split's images, to do as one likes with."""
    return shutil.copytree(made / "data/train", tmp_path / "data/train")


def check(made: Path, images: Path, how: ContentCheck = "sample") -> None:
    check_same_images(open_store(made / "s.zarr")["train"], open_source(images.parent, "train"), how, 2, Silent())


@pytest.mark.parametrize("how", ["sample", "all"])
def test_a_copy_is_the_same_data_set(made: Path, images: Path, how: ContentCheck) -> None:
    check(made, images, how)


def test_more_images_than_the_store_has_are_no_matter(made: Path, images: Path) -> None:
    write_noise(images / "b/99.png", 99)
    check(made, images)


def test_a_bad_image_of_the_store_may_be_another_or_gone(made: Path, images: Path) -> None:
    (images / "a/05.png").unlink()
    check(made, images, "all")


def test_a_name_in_another_unicode_form_is_told_from_a_missing_one(made: Path, images: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))
    (images / "b/27.png").rename(images / "b" / decomposed)
    split = open_store(made / "s.zarr")["train"]
    split.samples.sample_path[27] = f"b/{composed}"
    with pytest.raises(InputError, match=r"is not in '.*', though it is in Unicode's other form, NFD: rename it, for"):
        check_same_images(split, FolderSource(images), "sample", 1, Silent())


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (
        lambda path: path.unlink(),
        r"row 27 of split train, 'b/27\.png', is not in '.*data/train'; give the dataset",
    ),
    "renamed": (lambda path: path.rename(path.with_name("x.png")), r"row 27 .* is not in"),
    "another of its size": (
        lambda path: write_noise(path, 99),
        r"row 27 of split train, 'b/27\.png', has other content in",
    ),
    "smaller": (
        lambda path: write_noise(path, 27, (10, 9)),
        r"'b/27\.png', was 20 x 18 pixels and is 10 x 9 pixels in",
    ),
    "no image": (lambda path: path.write_bytes(b"text"), r"'b/27\.png', was 20 x 18 pixels and is no image in"),
    "one bit": (
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x83"),
        r"'b/27\.png', has other content in '.*'; give the dataset the store was made from, or embed this one\.",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_image_that_is_another_is_named_by_what_tells(made: Path, images: Path, change: str) -> None:
    alter, sentence = CHANGES[change]
    alter(images / "b/27.png")
    with pytest.raises(InputError, match=sentence):
        check(made, images)


def test_the_first_of_many_is_named(made: Path, images: Path) -> None:
    for number in range(30, 8, -1):
        write_noise(images / "ab"[number // 20] / f"{number:02d}.png", 99)
    with pytest.raises(InputError, match="row 9 of"):
        check(made, images, "all")


def test_only_all_compares_those_that_are_not_in_the_sample(
    made: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(same_images, "SAMPLE", 4)
    rows = np.flatnonzero(open_store(made / "s.zarr")["train"].samples.good)
    other = next(int(row) for row in rows if row not in evenly_spaced(rows, 4, endpoint=True))
    write_noise(images / "ab"[other // 20] / f"{other:02d}.png", 99)
    check(made, images, "sample")
    with pytest.raises(InputError, match=f"row {other} of split train"):
        check(made, images, "all")


def test_a_sample_is_evenly_spaced_with_both_ends() -> None:
    for count in [1, 2, 255, 256, 257, 1000, 1_281_167]:
        rows = np.arange(7, 7 + count)
        chosen = evenly_spaced(rows, same_images.SAMPLE, endpoint=True)
        assert len(chosen) == min(count, 256)
        assert (chosen[0], chosen[-1]) == (rows[0], rows[-1])
        steps = np.diff(chosen)
        assert len(steps) == 0 or (steps.min() >= 1 and steps.max() - steps.min() <= 1)
