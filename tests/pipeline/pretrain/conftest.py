"""Images that can be told apart."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """32 images in ``train``, each a coarse pattern of its own."""
    generator = np.random.default_rng(0)
    for number in range(32):
        folder = tmp_path / "data" / "train" / ("even", "odd")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pattern = generator.integers(0, 256, (3, 3, 3), dtype=np.uint8)
        Image.fromarray(pattern).resize((20, 20), Image.Resampling.NEAREST).save(folder / f"{number:02d}.png")
    return tmp_path / "data"
