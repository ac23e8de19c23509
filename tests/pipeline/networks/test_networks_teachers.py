"""Published teachers: each in each layout it is published in builds, loads and normalizes images as its authors do."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from compress_ssl.pipeline.networks.architectures import build_backbone
from compress_ssl.pipeline.networks.checkpoints.file import CheckpointFile
from compress_ssl.pipeline.networks.checkpoints.layouts import LAYOUTS, find_weights
from compress_ssl.pipeline.networks.checkpoints.load import mismatches
from compress_ssl.pipeline.networks.network import load_network
from compress_ssl.pipeline.networks.preprocessing import Preprocessing
from compress_ssl.pipeline.networks.teachers import TEACHERS

Writers = dict[str, Callable[[nn.Module], Any]]
GetNetwork = Callable[[str], nn.Module]

SIMCLR = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), size=224, resize=256, interpolation="bilinear")
IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224, 256, "bilinear")
DINO = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224, 256, "bicubic")

# Dimension of the feature and what it wants to see, from the papers and the published evaluation code.
EXPECTED = {
    "simclr-resnet50": (2048, SIMCLR),
    "simclr-resnet50-w2": (4096, SIMCLR),
    "simclr-resnet50-w4": (8192, SIMCLR),
    "simclr-resnet50-tf-same": (2048, SIMCLR),
    "simclr-resnet50-w2-tf-same": (4096, SIMCLR),
    "simclr-resnet50-w4-tf-same": (8192, SIMCLR),
    "moco-v1-resnet50": (2048, IMAGENET),
    "moco-v2-resnet50": (2048, IMAGENET),
    "moco-v3-resnet50": (2048, IMAGENET),
    "swav-resnet50": (2048, IMAGENET),
    "swav-resnet50-w2": (4096, IMAGENET),
    "swav-resnet50-w4": (8192, IMAGENET),
    "swav-resnet50-w5": (10240, IMAGENET),
    "dino-resnet50": (2048, DINO),
    "barlow-twins-resnet50": (2048, IMAGENET),
    "vicreg-resnet50": (2048, IMAGENET),
}

PUBLISHED = [(name, layout) for name, teacher in TEACHERS.items() for layout in teacher.layouts]
OF_USUAL_WIDTH = [(name, layout) for name, layout in PUBLISHED if EXPECTED[name][0] == 2048]


@pytest.fixture(scope="module")
def eight_images(photographs: Path) -> torch.Tensor:
    """Eight photographs at 64 pixels."""
    files = sorted((photographs / "train").rglob("*.jpg"))[::100][:8]
    return torch.from_numpy(np.stack([np.asarray(Image.open(file).convert("RGB").resize((64, 64))) for file in files]))


@functools.cache
def without_memory(architecture: str) -> tuple[nn.Module, int]:
    with torch.device("meta"):
        return build_backbone(architecture)


@functools.cache
def with_weights(architecture: str, theirs: nn.Module) -> nn.Module:
    module = build_backbone(architecture).module.eval()
    module.load_state_dict(theirs.state_dict(), strict=False)
    return module


def assert_different_features(features: torch.Tensor, dim: int) -> None:
    assert features.shape == (8, dim)
    assert torch.isfinite(features).all()
    assert torch.cdist(features, features)[~torch.eye(8, dtype=torch.bool)].min() > 0


@pytest.mark.parametrize(("name", "layout"), OF_USUAL_WIDTH)
def test_a_published_file_gives_the_network_s_features(
    name: str, layout: str, tmp_path: Path, writers: Writers, published_network: GetNetwork, eight_images: torch.Tensor
) -> None:
    theirs = published_network("resnet50")
    torch.save(writers[layout](theirs), tmp_path / "published.pth.tar")
    network = load_network(f"{name}:{tmp_path / 'published.pth.tar'}")
    dim, wants = EXPECTED[name]
    assert (network.name, network.feature_dim, network.preprocessing) == (name, dim, wants)
    network.module.eval()
    with torch.no_grad():
        features = network.features(eight_images)
    assert_different_features(features, dim)
    expected = with_weights(TEACHERS[name].architecture, theirs)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (wants.mean, wants.std))
    inputs = (eight_images.permute(0, 3, 1, 2).double() / 255 - mean) / std
    with torch.no_grad():
        torch.testing.assert_close(features, expected(inputs.float()), rtol=1e-3, atol=1e-4)


def test_every_teacher_fits_every_layout_it_is_published_in(writers: Writers) -> None:
    for name, layout in PUBLISHED:
        module, dim = without_memory(TEACHERS[name].architecture)
        content = writers[layout](module)
        weights = find_weights(CheckpointFile(Path("published.pth"), "0" * 64, content, {}))
        assert weights.layout == layout
        assert mismatches(module, weights.backbone) == []
        assert (dim, TEACHERS[name].preprocessing) == EXPECTED[name]


def small_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of these shapes that repeat one number an output channel, and take no place in a file."""
    generator = torch.Generator().manual_seed(0)
    small = {}
    for key, tensor in state.items():
        values = torch.ones(1)
        if tensor.ndim == 4:
            values = torch.randn(len(tensor), 1, 1, 1, generator=generator) / tensor[0].numel()
        elif key.endswith(("bias", "running_mean", "num_batches_tracked")):
            values = torch.zeros(())
        small[key] = values.to(tensor.dtype).expand(tensor.shape)
    return small


@pytest.mark.slow
def test_the_paper_s_teacher_embeds(tmp_path: Path, writers: Writers, eight_images: torch.Tensor) -> None:
    """SimCLR's ResNet-50x4 from a flat file that says what it is."""
    name = "simclr-resnet50-w4"
    content = writers["simclr-flat"](without_memory(TEACHERS[name].architecture)[0])
    content["state_dict"] = small_state(content["state_dict"])
    file = tmp_path / "resnet50x4.pth"
    torch.save(content, file)
    network = load_network(str(file))
    assert (network.name, network.feature_dim) == (name, 8192)
    assert sum(value.numel() for value in network.module.parameters()) == pytest.approx(375.4e6, rel=1e-3)
    network.module.eval()
    with torch.no_grad():
        assert_different_features(network.features(eight_images), 8192)


def test_the_table_is_complete() -> None:
    assert TEACHERS.keys() == EXPECTED.keys()
    for name, teacher in TEACHERS.items():
        assert re.search(r", (19|20)\d\d$|, \w+ 20\d\d$", teacher.citation), name
        assert re.match(r"https://|ResNet50_\dx of https://github.com/google-research/simclr", teacher.weights)
        for layout in teacher.layouts:
            assert LAYOUTS[layout].preprocessing in (None, teacher.preprocessing)


def test_every_layout_of_one_method_belongs_to_a_teacher_or_to_students() -> None:
    of_teachers = {layout for teacher in TEACHERS.values() for layout in teacher.layouts}
    told = {name for name, layout in LAYOUTS.items() if layout.preprocessing is not None}
    assert told - of_teachers == {"compress", "compress-alexnet", "vissl"}


def test_every_teacher_s_architecture_is_read_as_other_programs_write_it(writers: Writers) -> None:
    for architecture in {teacher.architecture for teacher in TEACHERS.values()}:
        module, _ = without_memory(architecture)
        for layout in ("plain", "lightly", "solo-learn", "backbone", "encoder", "model"):
            weights = find_weights(CheckpointFile(Path("retrained.ckpt"), "0" * 64, writers[layout](module), {}))
            assert weights.layout == layout
            assert mismatches(module, weights.backbone) == []
