"""A store of an adversary, whose checksums fit: what no store holds is named before a student learns from it."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from compress_ssl.cli.main import main
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.images.renderers import make_renderer
from compress_ssl.pipeline.images.rendering import RenderJob, render
from compress_ssl.pipeline.images.sources.open_source import open_source
from compress_ssl.storage import open_store
from compress_ssl.storage.errors import StoreUnsafeError
from compress_ssl.storage.parameters import COLUMN
from tests.reliability.hostile_augmentation import describe, forge

NAN = float("nan")
CROP, WINDOW, HUE, BLUR = (COLUMN[name] for name in ("crop_width", "window_left", "hue", "blur_sigma"))


@pytest.fixture
def hostile(store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store, tmp_path / "hostile.zarr"))


def said(*words: object) -> tuple[int, str]:
    answer = CliRunner().invoke(main, list(map(str, words)))
    assert answer.exception is None or isinstance(answer.exception, SystemExit), answer.exception
    return answer.exit_code, " ".join(answer.output.split())


def is_named(place: Path, data: Path, tmp_path: Path, sentence: str) -> None:
    """By ``store verify`` and by ``distill``."""
    code, verified = said("store", "verify", place)
    assert (code, sentence in verified) == (1, True), verified
    words = ("--student", "conv4-16", "--batch-size", "8", "--bank-size", "16", "--threads", "1", "--epochs", "2")
    code, trained = said("distill", place, data, tmp_path / "run", *words)
    assert (code, sentence in trained) == (2, True), trained


@pytest.mark.parametrize(
    ("array", "index", "value", "sentence"),
    [
        ("augmentation", (2, 5, CROP), 1e9, "crop_width = 1e+09, which is not a whole number from 1 to 26"),
        ("augmentation", (1, 28, WINDOW), -1e9, "window_left = -1e+09, which is not a whole number from 0 to 0"),
        ("augmentation", (1, 0, HUE), NAN, "hue = nan, which is not from -0.5 to 0.5"),
        ("embeddings", (1, 13, 0), NAN, "Row 13 of view 1 of split train of"),
        ("label", (7,), 2, "Row 7 of split train of"),
        ("image_size", (7,), [10**9, 10**9], "has the image_size [1000000000, 1000000000]"),
        ("status", (7,), 3, "has the status 3"),
    ],
)
def test_values_that_no_store_has(
    hostile: Path, data: Path, tmp_path: Path, array: str, index: tuple[int, ...], value: Any, sentence: str
) -> None:
    forge(hostile, array, index, value)
    is_named(hostile, data, tmp_path, sentence)


@pytest.mark.parametrize(
    ("view", "name", "value", "sentence"),
    [
        (0, "size", 7, "The canaries of split train of"),
        (2, "seed", -1, "View 2 of split train of"),
        (1, "policy.hue", 1e9, "has a policy whose hue: input should be less than or equal to 0.5"),
        (1, "policy.name", "of tomorrow", "has the policy 'of tomorrow', which this release cannot render"),
        (0, "policy.resize", 15, "has size 16 and resize 15"),
        (1, "interpolation", "nearest", "has the interpolation 'nearest'"),
        (1, "shrink", 4, "has another scaled decoding than view 0"),
    ],
)
def test_views_that_are_described_as_none_is(
    hostile: Path, data: Path, tmp_path: Path, view: int, name: str, value: Any, sentence: str
) -> None:
    describe(hostile, view, name, value)
    is_named(hostile, data, tmp_path, sentence)


def test_rows_and_blocks_are_checked_as_whole_views_are(hostile: Path) -> None:
    forge(hostile, "embeddings", (1, 13, 0), float("inf"))
    forge(hostile, "augmentation", (1, 14, BLUR), 17)
    split = open_store(hostile)["train"]
    assert split.rows(1, [12, 14]).shape == (2, split.feature_dim)
    for read in (lambda: split.rows(1, [14, 13]), lambda: list(split.blocks(1)), lambda: split.block(1, 3)):
        with pytest.raises(StoreUnsafeError, match=r"Row 13 of view 1 .* not finite"):
            read()
    with pytest.raises(StoreUnsafeError, match=r"Row 14 of view 1 .* blur_sigma = 17, which is not from 0 to 16"):
        split.augmentation(1)


def test_box_outside_an_image_is_not_filled_up_with_black(hostile: Path, data: Path, tmp_path: Path) -> None:
    forge(hostile, "image_size", (slice(None),), np.array([[44, 52]] * 29))
    forge(hostile, "augmentation", (slice(None), slice(None), CROP), 40)
    forge(hostile, "augmentation", (slice(None), slice(None), COLUMN["crop_left"]), 0)
    words = ("--student", "conv4-16", "--batch-size", "8", "--bank-size", "16", "--threads", "1")
    for renderer, code, sentence in (
        ("dali", 1, "DALI failed on one of these images"),
        ("torchvision", 2, "An image of 26 x 22 pixels is to be cropped up to 40"),
    ):
        ended, output = said("distill", hostile, data, tmp_path / renderer, *words, "--renderer", renderer)
        assert (ended, sentence in output) == (code, True), output


def test_views_that_the_memory_cannot_hold_are_not_rendered(store: Path, data: Path) -> None:
    """As large as a view may be, 10,000 of them at once: 8 TB."""
    split = open_store(store)["train"]
    parameters = np.repeat(split.augmentation(0)[:1, None], 10_000, axis=0)
    parameters[..., [COLUMN["resize_width"], COLUMN["resize_height"]]] = 2**14
    source = open_source(data, split.folder)
    job = RenderJob.of(source, split.samples, np.zeros(10_000, int), parameters=parameters, sizes=(16,))
    with pytest.raises(InputError, match=r"10000 images of .* 16384 x 16384 pixels at most, take 7500\.0 GiB"):
        next(render(make_renderer("torchvision", torch.device("cpu"), 1), job, 10_000))
