"""Images of the quickstart: scikit-learn's digits, 1,797 real scans of 8x8 pixels, part of its wheel."""

import uuid
from pathlib import Path

import numpy as np

VALIDATION_IMAGES = 500


def write_digits(folder: Path) -> None:
    """Write the digits as PNGs, ``train/CLASS/`` and ``val/CLASS/``, unless the folder exists."""
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if folder.exists():
        return
    digits = load_digits()
    grey = np.rint(digits.images * 255 / 16).astype(np.uint8)
    rows = train_test_split(np.arange(len(grey)), test_size=VALIDATION_IMAGES, stratify=digits.target, random_state=0)
    building = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.creating")
    for split, chosen in zip(("train", "val"), rows, strict=True):
        for row in chosen:
            path = building / split / str(digits.target[row]) / f"{row:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(grey[row]).save(path)
    building.rename(folder)
