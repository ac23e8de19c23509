"""Images that can be told apart, and torch left as it was."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    """The stages set torch's threads and determinism for their process, which here is the tests'."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


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
