"""Networks of the same names and shapes that compute something else: built right, or it is said what was assumed."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision import models

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.networks.architectures import build_backbone
from compress_ssl.pipeline.networks.network import Network, load_network
from compress_ssl.pipeline.networks.preprocessing import Preprocessing
from compress_ssl.pipeline.networks.torchvision_models import preprocessing_of_torchvision_file

State = dict[str, Tensor]


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def solo_learn(classes: int) -> tuple[nn.Module, State]:
    """A network as solo/methods/base.py builds it for CIFAR, and what Lightning writes of it."""
    torch.manual_seed(classes)
    network = models.resnet18()
    network.fc = nn.Identity()
    network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=2, bias=False)
    network.maxpool = nn.Identity()
    head = {"classifier.weight": torch.ones(classes, 512), "classifier.bias": torch.ones(classes)}
    return network.eval(), under("backbone.", network.state_dict()) | head


def assert_same_features(network: Network, theirs: nn.Module, size: int) -> None:
    images = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    network.module.eval()
    with torch.no_grad():
        expected = theirs(network.preprocessing.normalize(images))
        torch.testing.assert_close(network.features(images), expected, rtol=0, atol=0)


def saved(content: Any, folder: Path) -> Path:
    torch.save(content, folder / "lab.ckpt")
    return folder / "lab.ckpt"


def test_solo_learn_s_networks_for_cifar_pad_by_two(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for classes, mean in ((10, (0.4914, 0.4822, 0.4465)), (100, (0.5071, 0.4865, 0.4409))):
        theirs, state = solo_learn(classes)
        network = load_network(f"resnet18-32px:{saved({'state_dict': state}, tmp_path)}")
        assert network.architecture == "resnet18-32px-solo-learn"
        assert (network.preprocessing.mean, network.preprocessing.size) == (mean, 32)
        assert_same_features(network, theirs, 32)
    assert not caplog.records


def test_the_padding_of_a_network_for_small_images_that_is_not_told_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs, state = solo_learn(10)
    file = saved({key.removeprefix("backbone."): value for key, value in state.items()}, tmp_path)
    assert load_network(f"resnet18-32px:{file}").architecture == "resnet18-32px"
    assert "padded: by 1 is assumed. solo-learn's" in caplog.messages[0]
    assert "give resnet18-32px-solo-learn:PATH" in caplog.messages[0]
    caplog.clear()
    assert_same_features(load_network(f"resnet18-32px-solo-learn:{file}"), theirs, 32)
    assert not caplog.records


def test_moco_v3_s_small_transformers_have_twelve_heads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("vit_tiny_patch16_224", num_heads=12, num_classes=0).eval()
    theirs.pos_embed.data[:, 0] = 0  # they are sine and cosine, zero for the class token
    moco = {"state_dict": under("module.base_encoder.", theirs.state_dict())}
    for reference in ("", "timm/vit_tiny_patch16_224:"):
        network = load_network(f"{reference}{saved(moco, tmp_path)}")
        assert (network.architecture, network.preprocessing) == ("vit_tiny_patch16-12heads", Preprocessing())
        assert_same_features(network, theirs, 224)
    solo = under("backbone.", theirs.state_dict()) | {"classifier.weight": torch.ones(10, 192)}
    assert load_network(f"timm/vit_tiny_patch16_224:{saved({'state_dict': solo}, tmp_path)}").architecture == (
        "vit_tiny_patch16-12heads"
    )
    assert not caplog.records
    assert load_network(f"timm/vit_tiny_patch16_224:{saved(theirs.state_dict(), tmp_path)}").feature_dim == 192
    assert "MoCo v3 have 12: for one of them give vit_tiny_patch16-12heads:PATH" in caplog.messages[0]


@pytest.fixture(scope="module")
def efficientnet() -> State:
    return build_backbone("timm/efficientnet_b0").module.state_dict()


def test_a_file_that_names_another_of_timm_s_networks_is_refused(
    efficientnet: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """TensorFlow's padding and epsilon are in no shape."""
    file = saved({"arch": "tf_efficientnet_b0", "state_dict": efficientnet}, tmp_path)
    with pytest.raises(InputError, match=r"is a tf_efficientnet_b0 by its own account, not a efficientnet_b0; give"):
        load_network(f"timm/efficientnet_b0:{file}")
    assert load_network(f"timm/tf_efficientnet_b0:{file}").architecture == "timm/tf_efficientnet_b0"
    assert not [message for message in caplog.messages if "same shapes" in message]
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "tf_efficientnet_b0"}))
    with pytest.raises(InputError, match="is a tf_efficientnet_b0 by its own account"):
        load_network(f"timm/efficientnet_b0:{saved(efficientnet, tmp_path)}")


def test_a_twin_in_shape_of_a_file_that_names_nothing_is_said(
    efficientnet: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = saved(efficientnet, tmp_path)
    for config in (None, "[" * 10_000, '{"architecture": 3}'):
        if config is not None:
            (tmp_path / "config.json").write_text(config)
        caplog.clear()
        load_network(f"timm/efficientnet_b0.ra_in1k:{file}")
        assert len(caplog.messages) == 1
        assert (
            "timm/tf_efficientnet_b0 has the same shapes as timm/efficientnet_b0, but another padding"
            in (caplog.messages[0])
        )


def test_normalization_that_differs_between_a_network_s_weights_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """DINO's files have the keys and shapes of timm's ViTs, whose images are normalized with 0.5."""
    with torch.device("meta"):
        state = build_backbone("timm/vit_small_patch16_224").module.state_dict()
    file = saved({key: torch.ones(value.shape) for key, value in state.items()}, tmp_path)
    assert load_network(f"timm/vit_small_patch16_224:{file}").preprocessing.mean == (0.5, 0.5, 0.5)
    assert "with mean (0.5, 0.5, 0.5)" in caplog.messages[0]
    assert "give timm/vit_small_patch16_224.dino:PATH" in caplog.messages[0]
    caplog.clear()
    assert load_network(f"timm/vit_small_patch16_224.dino:{file}").preprocessing.mean == (0.485, 0.456, 0.406)
    assert not caplog.records


def test_a_layout_s_normalization_is_not_replaced_by_a_teacher_s(tmp_path: Path) -> None:
    """VISSL normalizes with ImageNet's mean, also for SimCLR."""
    state = {f"_feature_blocks.{key}": torch.ones(1).expand(3) for key in ("conv1.weight", "bn1.bias")}
    trunk = {"classy_state_dict": {"base_model": {"model": {"trunk": state}}}}
    with pytest.raises(
        InputError, match=r"layout vissl, whose images are normalized .* simclr-resnet50's; give resnet"
    ):
        load_network(f"simclr-resnet50:{saved(trunk, tmp_path)}")


def test_torchvision_s_files_are_known_by_their_hash(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """``resnet50-0676ba61.pth`` and ``resnet50-11ad3fa6.pth`` were evaluated differently."""
    first, second = (
        preprocessing_of_torchvision_file("resnet50", f"{hash}{'0' * 56}") for hash in ("0676ba61", "11ad3fa6")
    )
    assert first is not None
    assert second is not None
    assert (first.resize, second.resize) == (256, 232)
    file = saved(models.resnet18().state_dict(), tmp_path)
    with pytest.raises(
        InputError, match=r"is none of torchvision's files of resnet18, by its SHA-256; give resnet18:P"
    ):
        load_network(f"torchvision/resnet18:{file}")
