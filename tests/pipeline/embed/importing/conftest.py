"""A small dataset, and its embeddings as our own stage one makes them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.storage import EmbeddingStore

SIZES = {"size": 16, "resize": 20}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images in ``train``, 8 in ``val``, in two classes a split; read it, never change it."""
    generator = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("import") / "data"
    for split, count in (("train", 24), ("val", 8)):
        for number in range(count):
            folder = root / split / ("apple", "pear")[2 * number // count]
            folder.mkdir(parents=True, exist_ok=True)
            noise = Image.fromarray(generator.integers(0, 255, (5, 6, 3), dtype=np.uint8))
            noise.resize((24, 20)).save(folder / f"{number:03d}.{('png', 'jpg')[number % 2]}")
    return root


@pytest.fixture(scope="session")
def ours(data: Path) -> EmbeddingStore:
    """View 0 of both splits through an untrained network."""
    settings = {"teacher": "random/conv4-16", "split": ("train:0", "val:0"), "threads": 1, "block_rows": 6, **SIZES}
    return embed(EmbedSettings(data=data, store=data.parent / "ours.zarr", **settings), Silent())
