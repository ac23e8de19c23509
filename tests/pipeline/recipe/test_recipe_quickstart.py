"""The quickstart's images."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from compress_ssl.pipeline.recipe.quickstart import write_digits


def test_digits_are_all_of_scikit_learns_and_a_users_files_beside_them_stay(tmp_path: Path) -> None:
    own = tmp_path / "digits.creating" / "thesis.tex"
    own.parent.mkdir()
    own.write_text("a year's work")
    write_digits(tmp_path / "digits")
    assert own.read_text() == "a year's work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits", "digits.creating"]
    digits = load_digits()
    files = list((tmp_path / "digits").glob("*/*/*.png"))
    assert sorted(int(path.stem) for path in files) == list(range(len(digits.images)))
    assert len([path for path in files if path.parts[-3] == "val"]) == 500
    for path in files:
        assert int(path.parent.name) == digits.target[int(path.stem)]
        assert np.abs(np.asarray(Image.open(path), float) * 16 / 255 - digits.images[int(path.stem)]).max() < 0.04
    before = path.stat().st_mtime_ns
    write_digits(tmp_path / "digits")
    assert path.stat().st_mtime_ns == before
