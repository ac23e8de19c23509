"""A data set of two colours."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """30 images in ``train``, 12 in ``val``, of two classes; one is redder, so that a network can tell some of them."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 15), ("val", 6)):
        for name, redness in (("apple", 28), ("pear", 0)):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 200, (18, 24, 3)) + np.array([redness, 0, 0])
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02d}.png")
    return tmp_path / "data"
