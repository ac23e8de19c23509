"""Photographs to work on: made here, since the machine has none."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.gpu.run import Run

IMAGES, CLASSES = 1024, 10
COPIES = 15  # of every training image in ``many``: epochs of 52 steps
TURNED = Image.Exif()
TURNED[0x0112] = 6  # orientation, which ImageFolder ignores

ODD: dict[str, dict[str, Any]] = {
    "444": {"subsampling": 0},
    "422": {"subsampling": 1},
    "progressive": {"progressive": True},
    "quality-30": {"quality": 30},
    "grey": {"mode": "L"},
    "cmyk": {"mode": "CMYK"},
    "rgb": {"keep_rgb": True, "subsampling": 0},
    "turned": {"exif": TURNED},
    "large": {"size": (2400, 3200)},
}
"""JPEGs other than baseline 4:2:0."""


def data(run: Run) -> None:
    """Photographs of usual size, odd JPEGs, and many names of the photographs."""
    size = (100, 80) if run.toy else (500, 375)

    def make(number: int) -> int:
        split = "val" if number % 8 == 7 else "train"
        path = run.folder / "photos" / split / f"class{number // 8 % CLASSES}" / f"{number:05d}.jpg"
        width, height = size if number % 3 else size[::-1]
        return save(path, photograph(number, width, height))

    with ThreadPoolExecutor() as pool:
        sizes = list(pool.map(make, range(24 if run.toy else IMAGES)))
    for path in sorted((run.folder / "photos" / "train").glob("*/*.jpg")):
        for copy in range(1 if run.toy else COPIES):
            link = run.folder / "many" / "train" / path.parent.name / f"{path.stem}-{copy}.jpg"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            os.link(path, link)
    for name, how in ODD.items():
        how = {**how}
        image = photograph(1, *how.pop("size", (333, 251))).convert(how.pop("mode", "RGB"))
        save(run.folder / "odd" / "jpegs" / f"{name}.jpg", image, **how)
    run.measured("photographs", images=len(sizes), mean_bytes=float(np.mean(sizes)))


def photograph(seed: int, width: int, height: int) -> Image.Image:
    """Smooth shapes, edges and grain, whose JPEG is about as large as a photograph's."""
    generator = np.random.default_rng(seed)
    pixels = generator.normal(0, 3, (height, width, 3))
    for share, (rows, columns) in ((1.0, (6, 8)), (0.25, (height // 5, width // 5))):
        noise = Image.fromarray(generator.integers(0, 256, (rows, columns, 3), dtype=np.uint8))
        pixels += share * (np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC)) - 128.0)
    return Image.fromarray((pixels + 128).clip(0, 255).astype(np.uint8))


def save(path: Path, image: Image.Image, **how: Any) -> int:
    """Write a JPEG; return its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **{"quality": 92, **how})
    return path.stat().st_size
