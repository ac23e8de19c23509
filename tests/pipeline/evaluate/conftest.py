"""A dataset of two colours, and a teacher's store of it."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings


def write_images(folder: Path) -> Path:
    """Write 30 images in ``train``, 12 in ``val``, of two classes.

    One is redder, so that a network can tell some of them.
    """
    generator = np.random.default_rng(0)
    for split, count in (("train", 15), ("val", 6)):
        for name, redness in (("apple", 28), ("pear", 0)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 200, (18, 24, 3)) + np.array([redness, 0, 0])
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f"{number:02d}.png")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_images(tmp_path / "data")


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the store of ``teacher`` and the index of its images; not to be changed."""
    folder = tmp_path_factory.mktemp("embedded")
    given: dict[str, Any] = {
        "split": ("train", "val:0"), "views": 2, "block_rows": 30, "size": 16, "resize": 17, "device": "cpu",
        "threads": 1,
        "renderer": "torchvision", "teacher": "random/conv4-16",
    }  # fmt: skip
    embed(EmbedSettings(data=write_images(folder / "data"), store=folder / "teacher.zarr", **given), Silent())
    return folder


@pytest.fixture
def teacher(data: Path, embedded: Path) -> Path:
    """A store beside ``data``, in view 0 and, of ``train``, two random views; of an untrained conv4-16."""
    shutil.copytree(embedded / "index", data.parent / "index")
    return Path(shutil.copytree(embedded / "teacher.zarr", data.parent / "teacher.zarr"))
