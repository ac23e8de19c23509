"""How much the embeddings of a store differ: constant, zero and one-dimensional ones are told from others."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from compress_ssl.cli.main import main
from compress_ssl.storage import EmbeddingStore, SplitPlan, open_store
from compress_ssl.storage.tools.spread import IMAGES, embedding_spread
from compress_ssl.storage.writer import StoreWriter, create_store

Array = np.ndarray[Any, Any]
Stored = Callable[[Array], EmbeddingStore]

NORMAL = np.random.default_rng(0).normal(size=(60, 32))


@pytest.fixture
def stored(tmp_path: Path, plan: Callable[..., SplitPlan], parameters: Callable[[int, slice], Array]) -> Stored:
    """Write the rows of a matrix, of which the fixtures say that one is of a bad image, as view 0."""

    def write(matrix: Array) -> EmbeddingStore:
        path = tmp_path / "store.zarr"
        split = replace(plan(len(matrix), 1, block_rows=60), feature_dim=matrix.shape[1])
        create_store(path, {}, {"train": split}, overwrite=True)
        writer = StoreWriter(path)
        for block in writer.pending_blocks("train"):
            rows = writer.store["train"].block_slice(block)
            writer.write_block("train", block, 0, matrix[rows].astype(np.float32), parameters(0, rows))
        return open_store(path)

    return write


def rank_me(embeddings: Array) -> float:
    """As in the paper: from singular values, without its epsilon."""
    values = np.linalg.svd(embeddings, compute_uv=False)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0


def test_collapsed_embeddings_are_told_from_others(stored: Stored) -> None:
    for matrix, relative, is_collapsed in [
        (NORMAL, 1.0, False),
        (3 + NORMAL, 0.31, False),  # as of an untrained network
        (np.full_like(NORMAL, 0.1), 0.0, True),
        (np.zeros_like(NORMAL), 0.0, True),
        (7 + 0.1 * NORMAL, 0.014, True),
        (np.abs(NORMAL[:, :1]) * NORMAL[:1], 0.555, True),  # along one direction
        (np.eye(9)[:2], 0.71, False),  # two images have no higher rank
    ]:
        spread = embedding_spread(stored(matrix))
        assert spread is not None
        assert spread.relative == pytest.approx(relative, rel=0.05, abs=1e-3)
        good = np.delete(matrix, range(7, 8), axis=0) if len(matrix) > 7 else matrix
        assert spread.effective_rank == pytest.approx(rank_me(good), rel=0.01, abs=0.01)
        assert spread.is_collapsed is is_collapsed


def test_only_a_sample_is_read_and_bad_images_are_left_out(stored: Stored, tmp_path: Path) -> None:
    store = stored(np.tile(NORMAL, (6, 1)))
    for block in (2, 5):  # of six; the others are read
        (tmp_path / f"store.zarr/train/embeddings/c/0/{block}/0").unlink()
    spread = embedding_spread(store)
    assert spread is not None
    assert spread.images == 4 * 60 - 1 <= IMAGES
    spread = embedding_spread(stored(NORMAL[:14]))
    assert spread is not None
    assert spread.images == 13


def test_store_info_says_it_and_does_not_stumble_over_damage(complete: Path) -> None:
    answer = CliRunner().invoke(main, ["store", "info", str(complete)])
    assert re.search(
        r"features +spread 0\.\d+ of their length, effective rank \d\.\d+ \(21 images of split train\)", answer.output
    )
    (complete / "train/embeddings/c/0/0/0").write_bytes(b"x")
    answer = CliRunner().invoke(main, ["store", "info", str(complete)])
    assert answer.exit_code == 0
    assert "effective rank" not in answer.output
