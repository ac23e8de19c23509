"""Every recommended student, on photographs: it is built, trained for two steps, written and read again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compress_ssl.pipeline.common.progress import Silent
from compress_ssl.pipeline.distill.run import distill_together
from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.embed.run import embed
from compress_ssl.pipeline.embed.settings import EmbedSettings
from compress_ssl.pipeline.networks.architectures import build_backbone
from compress_ssl.pipeline.networks.catalogue import STUDENTS
from compress_ssl.pipeline.networks.network import load_network
from compress_ssl.pipeline.recipe.live_evaluation import live_evaluation
from tests.slow import with_slow

LARGE = {"alexnet", "resnet34", "resnet50", "timm/vit_small_patch16_224", "efficientnet_b0", "mobilenet_v3_large"}
OTHERS = ("timm/mobilenetv3_small_050", "timm/vit_tiny_patch16_dinov3_qkvb")
"""Students that nobody recommended."""


@pytest.fixture(scope="module")
def sixteen(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 16 photographs in two views of 64 pixels, beside them."""
    folder = tmp_path_factory.mktemp("students")
    (folder / "data").mkdir()
    (folder / "data" / "train").symlink_to(photographs / "train")
    settings = {"teacher": "random/conv4-16", "size": 64, "resize": 72, "views": 1, "limit": 16, "threads": 1}
    embed(
        EmbedSettings(data=folder / "data", store=folder / "teacher.zarr", split=["train"], device="cpu", **settings),
        Silent(),
    )
    return folder


@pytest.mark.parametrize("name", with_slow((*STUDENTS, *OTHERS), LARGE))
def test_student_trains_two_steps_and_is_read_again(name: str, sixteen: Path, tmp_path: Path) -> None:
    size = 32 if name.endswith("-32px") else 64
    settings = DistillSettings(
        store=sixteen / "teacher.zarr", data=sixteen / "data", run=tmp_path / "run", student=name, student_size=size,
        objective="compress-1q", epochs=1, batch_size=8, bank_size=16, threads=1, device="cpu",
    )  # fmt: skip
    distill_together([settings], Silent(), live_evaluation)
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 2
    student = load_network(str(tmp_path / "run"))
    before, feature_dim = build_backbone(name)
    assert (student.architecture, student.feature_dim, student.preprocessing.size) == (name, feature_dim, size)
    after = student.module.state_dict()
    assert list(after) == list(before.state_dict())
    moved = [key for key, value in before.named_parameters() if not torch.equal(value, after[key])]
    assert len(moved) > 0.9 * len(list(before.parameters()))
    files = sorted((sixteen / "data" / "train").rglob("*.jpg"))[:8]
    images = np.stack([np.asarray(Image.open(file).convert("RGB").resize((size, size))) for file in files])
    student.module.eval()
    with torch.no_grad():
        features = student.features(torch.from_numpy(images))
    assert features.shape == (8, feature_dim)
    assert torch.isfinite(features).all()
    assert features.std(dim=0).max() > 0
