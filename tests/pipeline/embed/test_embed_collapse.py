"""A teacher whose embeddings are the same for all images: said at the end of ``embed`` and ``store import``."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from torch import nn

from compress_ssl.cli.main import main
from compress_ssl.pipeline.embed.checks.collapse import warn_if_collapsed
from compress_ssl.pipeline.networks.network import load_network, save_network
from compress_ssl.storage import EmbeddingStore, open_store


def test_a_constant_teacher_is_said_and_another_is_not(
    data: Path, tmp_path: Path, embedded: Callable[..., EmbeddingStore], caplog: pytest.LogCaptureFixture
) -> None:
    embedded(data, tmp_path / "healthy.zarr")
    assert not [message for message in caplog.messages if "hardly differ" in message]
    network = load_network("random/conv4-16")
    last = [layer for layer in network.module.modules() if isinstance(layer, nn.BatchNorm2d)][-1]
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, 0.3)
    save_network(tmp_path / "constant.safetensors", network)
    store = tmp_path / "constant.zarr"
    embedded(data, store, teacher=str(tmp_path / "constant.safetensors"))
    (said,) = [message for message in caplog.messages if "hardly differ" in message]
    assert said == (
        f"The embeddings in '{store}' hardly differ between images: spread 0 of their length, effective rank 1 (36 "
        "images of split train). Students cannot learn from them; check the teacher's weights and preprocessing."
    )

    chunk = store / "train/embeddings/c/0/0/0"
    chunk.chmod(0o600)
    chunk.write_bytes(b"damaged")
    warn_if_collapsed(open_store(store))
    assert "Whether the embeddings differ between images was not checked: '" in caplog.messages[-1]


def test_constant_embeddings_of_another_program_are_said(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    np.save(tmp_path / "zeros.npy", np.zeros((36, 16), np.float32))
    names = [str(file.relative_to(data / "train")) for file in sorted((data / "train").rglob("*.*"))]
    (tmp_path / "paths.txt").write_text("\n".join(names))
    words = ["store", "import", tmp_path / "zeros.npy", tmp_path / "theirs.zarr", "--paths", tmp_path / "paths.txt"]
    words += ["--data", data, "--teacher", "mine"]
    answer = CliRunner().invoke(main, [*map(str, words)])
    assert answer.exit_code == 0, answer.output
    assert any("spread 0 of their length, effective rank 0 (36 images of split train)" in m for m in caplog.messages)
