"""The ten fixed crops, against torchvision's TenCrop, from the parameters to a store."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import Resize, TenCrop

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.images.parameters import resized_parameters, ten_crop_parameters
from compress_ssl.pipeline.images.policies import CROPS, PolicySetting
from compress_ssl.pipeline.images.rendering import RenderJob
from compress_ssl.pipeline.networks.network import load_network

SIDES = [(40, 64), (64, 41), (33, 33), (57, 90), (36, 47)]
RESIZE = 37


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Smooth noise of several shapes."""
    generator = np.random.default_rng(0)
    for number, (height, width) in enumerate(SIDES):
        noise = Image.fromarray(generator.integers(0, 255, (6, 7, 3), dtype=np.uint8))
        (tmp_path / "train" / "apple").mkdir(parents=True, exist_ok=True)
        noise.resize((width, height)).save(tmp_path / "train" / "apple" / f"{number}.png")
    return sorted((tmp_path / "train" / "apple").iterdir())


def crops_by_torchvision(path: Path, size: int) -> list[Tensor]:
    crops = TenCrop(size)(Resize(RESIZE)(pil_loader(path)))
    return [torch.from_numpy(np.array(crop)) for crop in crops]


@pytest.mark.parametrize("size", [32, 31, RESIZE])
def test_crops_have_the_pixels_of_torchvision(
    pictures: list[Path], job_of: Callable[..., RenderJob], rendered: Callable[..., list[Tensor]], size: int
) -> None:
    sides = np.array(SIDES, np.int32)
    parameters = np.stack([ten_crop_parameters(sides, RESIZE, size, crop) for crop in range(CROPS)], axis=1)
    job = replace(job_of(pictures), parameters=parameters, sizes=(size,) * CROPS)
    ours, dali = rendered("torchvision", job), rendered("dali", job)
    for row, path in enumerate(pictures):
        for crop, theirs in enumerate(crops_by_torchvision(path, size)):
            assert torch.equal(ours[crop][row], theirs), (path, crop)
            assert (dali[crop][row].int() - theirs.int()).abs().max() <= 2


def test_a_store_of_ten_crops_holds_what_the_network_says_of_each(tmp_path: Path, pictures: list[Path]) -> None:
    store = embed(
        EmbedSettings(
            data=tmp_path, store=tmp_path / "crops.zarr", teacher="random/conv4-16", policy="ten-crop", views=CROPS,
            split=("train",), size=32, resize=RESIZE, device="cpu", threads=1, renderer="torchvision",
        ),
        Silent(),
    )  # fmt: skip
    network = load_network("random/conv4-16")
    network.module.eval()
    with torch.inference_mode():
        for row, path in enumerate(pictures):
            expected = network.features(torch.stack(crops_by_torchvision(path, 32))).numpy()
            stored = np.stack([store["train"].view(1 + crop)[row] for crop in range(CROPS)])
            np.testing.assert_allclose(stored, expected, rtol=2e-3, atol=1e-4)
    assert store["train"].views[10]["policy"] == {"name": "ten-crop", "resize": RESIZE}


def test_crops_are_all_or_none() -> None:
    given = {"data": "data", "store": "store", "teacher": "random/conv4-16", "policy": "ten-crop"}
    with pytest.raises(ValidationError, match="--policy ten-crop is 10 views; give --views 10"):
        EmbedSettings(**given)
    assert EmbedSettings(**given, views=10, split=("train:0", "val")).views == 10


def test_crops_are_no_policy_to_train_with() -> None:
    with pytest.raises((ValidationError, ValueError), match="There is no augmentation policy 'ten-crop'"):
        TypeAdapter(PolicySetting).validate_python("ten-crop")


def test_crops_seen_smaller_stay_inside_the_image() -> None:
    sides = np.array([[300, 400], [401, 299], [256, 256]], np.int32)
    for crop in range(CROPS):
        for side in (32, 56, 111, 224):
            smaller = resized_parameters(ten_crop_parameters(sides, 256, 224, crop), 224, side)
            assert (smaller[:, [6, 7]] >= 0).all()
            assert (smaller[:, [6, 7]] + side <= smaller[:, [4, 5]]).all()
