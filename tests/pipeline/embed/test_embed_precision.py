"""What half precision costs: the divergence against a naive loop, and what ``embed`` says and keeps of it."""

import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from compress_ssl.pipeline.common.device import choose_precision
from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.embed.checks.precision import anchor_divergence, without_tf32
from compress_ssl.pipeline.networks.network import load_network, save_network
from compress_ssl.storage import EmbeddingStore, open_store

Embedded = Callable[..., EmbeddingStore]
ATTRIBUTE = "precision_against_float32"

needs_bfloat16, needs_float16 = (
    pytest.mark.skipif(choose_precision(each, torch.device("cpu")) != each, reason=f"This CPU only emulates {each}.")
    for each in ("bfloat16", "float16")
)


def naive_divergences(
    reference: npt.NDArray[np.floating], other: npt.NDArray[np.floating], temperature: float
) -> list[float]:
    """KL of each image, term by term in Python floats."""

    def distribution(rows: npt.NDArray[np.floating], query: int) -> dict[int, float]:
        weights = {
            anchor: math.exp(
                sum(float(a) * float(b) for a, b in zip(rows[query], rows[anchor], strict=True)) / temperature
            )
            for anchor in range(len(rows))
            if anchor != query
        }
        return {anchor: weight / sum(weights.values()) for anchor, weight in weights.items()}

    found = []
    for query in range(len(reference)):
        p, q = distribution(reference, query), distribution(other, query)
        found.append(sum(p[anchor] * math.log(p[anchor] / q[anchor]) for anchor in p))
    return found


def unit_rows(generator: np.random.Generator, count: int, dim: int) -> npt.NDArray[np.float64]:
    rows = generator.normal(size=(count, dim))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(("count", "temperature"), [(2, 0.04), (3, 0.04), (17, 0.04), (17, 1.0)])
def test_divergence_is_that_of_a_naive_loop(count: int, temperature: float) -> None:
    generator = np.random.default_rng(count)
    reference, other = unit_rows(generator, count, 5), unit_rows(generator, count, 5)
    expected = naive_divergences(reference, other, temperature)
    mean, largest = anchor_divergence(reference, other, temperature)
    assert mean == pytest.approx(np.mean(expected), rel=1e-9, abs=1e-12)
    assert largest == pytest.approx(max(expected), rel=1e-9, abs=1e-12)


def test_divergence_of_the_same_is_zero_and_grows_with_the_rounding() -> None:
    exact = unit_rows(np.random.default_rng(0), 50, 32).astype(np.float32)
    rounded = {kind: torch.from_numpy(exact).to(kind).float().numpy() for kind in (torch.float16, torch.bfloat16)}
    assert anchor_divergence(exact, exact) == (0, 0)
    half, brain = (anchor_divergence(exact, rounded[kind])[0] for kind in (torch.float16, torch.bfloat16))
    assert 0 < half < brain < 1e-2


@pytest.mark.parametrize("products", ["high", "highest"])
@pytest.mark.parametrize("convolutions", [True, False])
def test_the_reference_is_float32_whatever_the_run_allows(products: str, convolutions: bool) -> None:
    """Read by torch's other interface; torch refuses to answer if the two contradict each other."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions
    try:
        with without_tf32():
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
            assert torch.backends.cudnn.conv.fp32_precision in ("ieee", "none")
            assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == products
        assert torch.backends.cudnn.allow_tf32 == convolutions
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@needs_bfloat16
def test_bfloat16_teacher_says_and_keeps_how_far_it_is_from_float32(
    data: Path, tmp_path: Path, embedded: Embedded, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "compress_ssl.pipeline.embed.checks.precision"):
        half = embedded(data, tmp_path / "half.zarr", precision="bfloat16")
    kept = half.attributes[ATTRIBUTE]
    assert {key: kept[key] for key in ("split", "images", "temperature")} == {
        "split": "train", "images": 36, "temperature": 0.04
    }  # fmt: skip
    single = embedded(data, tmp_path / "single.zarr", precision="float32")
    normalised = (
        nn.functional.normalize(torch.from_numpy(each["train"].view(0)).float()).numpy() for each in (single, half)
    )
    # Of what the stores hold, which is rounded to float16 too.
    expected = naive_divergences(*normalised, 0.04)
    assert kept["kl_mean_nats"] == pytest.approx(np.mean(expected), rel=0.1)
    assert kept["kl_max_nats"] == pytest.approx(max(expected), rel=0.2)
    (line,) = (message for message in caplog.messages if "float32" in message)
    assert line.startswith("The teacher in bfloat16 against float32, on 36 images of split train: KL divergence")
    assert f"{kept['kl_mean_nats']:.2g} nats in the mean, {kept['kl_max_nats']:.2g} at most" in line


@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_half_precision_that_the_cpu_only_emulates_is_replaced_by_float32_with_a_warning(
    data: Path, tmp_path: Path, precision: str
) -> None:
    place = tmp_path / "store.zarr"
    done = subprocess.run(
        [sys.executable, "-m", "compress_ssl", "embed", data, place, "--teacher", "random/conv4-16", "--size", "16",
         "--resize", "18", "--views", "1", "--split", "train", "--precision", precision],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    sentence = f"This CPU only emulates {precision}, which is slower than float32; float32 is used instead."
    assert done.stderr.count(sentence) == 1
    assert open_store(place).attributes["teacher"]["precision"] == "float32"


def test_float32_has_nothing_to_say(data: Path, tmp_path: Path, embedded: Embedded) -> None:
    assert ATTRIBUTE not in embedded(data, tmp_path / "store.zarr", precision="float32").attributes


@needs_bfloat16
def test_resumed_run_neither_measures_again_nor_compares(
    data: Path, tmp_path: Path, embedded: Embedded, caplog: pytest.LogCaptureFixture
) -> None:
    metadata = embedded(data, tmp_path / "store.zarr", precision="bfloat16").path / "zarr.json"
    content = json.loads(metadata.read_text())
    content["attributes"][ATTRIBUTE]["kl_mean_nats"] = 7.0
    metadata.write_text(json.dumps(content))
    caplog.clear()
    with caplog.at_level(logging.INFO):
        again = embedded(data, tmp_path / "store.zarr", precision="bfloat16", resume=True)
    assert again.attributes[ATTRIBUTE]["kl_mean_nats"] == 7.0
    assert not [message for message in caplog.messages if "float32" in message]


@needs_float16
def test_output_that_overflows_in_float16_is_named_before_anything_is_written(
    data: Path, tmp_path: Path, embedded: Embedded
) -> None:
    network = load_network("random/conv4-16")
    with torch.no_grad():
        network.module.get_submodule("12").weight.mul_(1e8)  # a convolution that batch norm would scale back
    save_network(tmp_path / "steep.safetensors", network)
    with pytest.raises(InputError, match=r"train/apple/000\.png' is not a number in float16; use --precision float32"):
        embedded(data, tmp_path / "store.zarr", teacher=str(tmp_path / "steep.safetensors"), precision="float16")
    assert not (tmp_path / "store.zarr").exists()
