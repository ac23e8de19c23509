"""A store of all that is new in version 2: pool, squash, mixed views and patches; read by others, and learnt."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill.run import distill
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.storage import EmbeddingStore
from compress_ssl.storage.parameters import COLUMNS, MIX_COLUMNS
from compress_ssl.storage.patches import dequantise
from compress_ssl.storage.tools.verify import verify_store
from tests.tiny_timm import TINY_DINOV3

Read = Callable[[Path, str], Any]


@pytest.fixture(scope="module")
def data_and_store(
    images: Callable[..., Path], embedded: Callable[..., EmbeddingStore], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, EmbeddingStore]:
    """Rendered by DALI."""
    root = tmp_path_factory.mktemp("format-2")
    data = images(root / "data")
    given: dict[str, Any] = {"teacher": f"random/{TINY_DINOV3}", "size": 64, "resize": 72, "pool": "token+avg"}
    more: dict[str, Any] = {"squash": True, "policy": "crop-flip+mixup", "patches": 8}
    return data, embedded(data, root / "store.zarr", **given, **more)


def by_zarr(store: Path, name: str) -> Any:
    return zarr.open_group(str(store), mode="r")["train"][name][...]


def by_xarray(store: Path, name: str) -> Any:
    return xarray.open_zarr(str(store), group="train")[name].values


@pytest.mark.parametrize("read", [by_zarr, by_xarray])
def test_other_readers_see_the_same_numbers(data_and_store: tuple[Path, EmbeddingStore], read: Read) -> None:
    store = data_and_store[1]
    split, path = store["train"], Path(str(store.path))
    assert split.columns == COLUMNS + MIX_COLUMNS
    (mean, basis), samples = split.patch_basis, split.samples
    wanted = {
        "embeddings": np.stack([split.view(view) for view in range(3)]),
        "augmentation": np.stack([split.augmentation(view) for view in range(3)]),
        "patches": np.stack([split.patch_view(view)[0] for view in range(3)]),
        "patch_scale": np.stack([split.patch_view(view)[1] for view in range(3)]),
        "patch_mean": mean,
        "patch_basis": basis,
        "label": samples.label,
        "content_hash": samples.content_hash,
    }
    for name, values in wanted.items():
        np.testing.assert_array_equal(read(path, name), values, err_msg=name)
    components = read(path, "patches")[1] * read(path, "patch_scale")[1].astype(np.float32)[..., None]
    channels = read(path, "patch_mean") + components @ read(path, "patch_basis")
    np.testing.assert_allclose(channels, mean + dequantise(*split.patch_view(1)) @ basis, atol=1e-5)


def test_attributes_name_all_choices(data_and_store: tuple[Path, EmbeddingStore]) -> None:
    store = data_and_store[1]
    root = zarr.open_group(str(store.path), mode="r")
    assert (root.attrs["version"], root.attrs["teacher"]["pool"]) == (2, "token+avg")
    assert root["train/embeddings"].shape == (3, 36, 128)
    assert root["train/patches"].shape == (3, 36, 16, 8)
    evaluation, mixed, _ = root["train"].attrs["views"]
    assert evaluation["policy"] == {"name": "evaluation", "resize": 72, "squash": True}
    assert mixed["policy"]["mixup"] == 1
    assert root["train"].attrs["patches"]["channels"] == 64
    assert verify_store(store).ok


def test_a_student_learns_its_embeddings_and_patches(
    data_and_store: tuple[Path, EmbeddingStore], tmp_path: Path
) -> None:
    data, store = data_and_store
    settings = DistillSettings(
        store=store.path, data=data, run=tmp_path / "run", student="conv4-16", objective="reg", patch_loss="smooth-l1",
        epochs=3, batch_size=12, learning_rate=0.005, threads=1, device="cpu",
    )  # fmt: skip
    distill(settings, Silent())
    metrics = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["patch_loss"] for line in metrics if "patch_loss" in line]
    assert losses[-1] < losses[0]
