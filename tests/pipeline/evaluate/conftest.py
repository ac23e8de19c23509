"""A data set of two colours, and torch left as it was."""

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
