"""Small data sets, and stage one run on them in this process."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.embed.run import embed
from pipeline.embed.settings import EmbedSettings
from pipeline.networks.network import load_network, save_network
from pipeline.progress import Silent
from storage import EmbeddingStore

TINY = {"teacher": "random/conv4-16", "size": 16, "resize": 20, "views": 2, "batch_size": 5, "threads": 1}


def write_images(root: Path, train: int = 36, val: int = 8) -> Path:
    """Images of blurred noise, 24 x 20 pixels, half of them JPEG, in two classes a split."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            folder = root / split / ("apple", "pear")[2 * number // count]
            folder.mkdir(parents=True, exist_ok=True)
            noise = Image.fromarray(generator.integers(0, 255, (5, 6, 3), dtype=np.uint8))
            noise.resize((24, 20)).save(folder / f"{number:03d}.{('png', 'jpg')[number % 2]}")
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """36 images in ``train``, 8 in ``val``."""
    return write_images(tmp_path / "data")


@pytest.fixture(scope="session")
def images() -> Callable[..., Path]:
    return write_images


@pytest.fixture(scope="session")
def embedded() -> Callable[..., EmbeddingStore]:
    """Run stage one, tiny unless the settings given say otherwise."""

    def run(data: Path, store: Path, **settings: Any) -> EmbeddingStore:
        given = {"split": ("train", "val:0"), **TINY, **settings}
        return embed(EmbedSettings(data=data, store=store, **given), Silent())

    return run


@pytest.fixture
def wanting(tmp_path: Path) -> Callable[[str], str]:
    """Write a tiny teacher that wants its images resized so; the reference of it."""

    def make(interpolation: str) -> str:
        network = load_network(TINY["teacher"])
        path = tmp_path / f"{interpolation}.safetensors"
        save_network(path, replace(network, preprocessing=replace(network.preprocessing, interpolation=interpolation)))
        return str(path)

    return make
