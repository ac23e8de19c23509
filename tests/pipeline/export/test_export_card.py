"""What the card says; see also ``test_export_networks.py``, which runs its code."""

from collections.abc import Callable

import pytest
import torch
from torchvision import models

from compress_ssl.pipeline.distill.settings import DistillSettings
from compress_ssl.pipeline.export.card import IN_TIMM_TOO, loading_code
from compress_ssl.pipeline.export.origin import NOT_SHOWN
from compress_ssl.pipeline.networks.network import Network
from compress_ssl.pipeline.pretrain.settings import PretrainSettings

NetworkOf = Callable[[str, int], Network]


@pytest.mark.parametrize("name", ["resnet18-32px", "resnext50_32x4d-32px", "mobilenet_v2-32px", "alexnet-32px"])
def test_lines_for_small_images_build_the_same_network_of_torchvision(network_of: NetworkOf, name: str) -> None:
    network = network_of(name, 32)
    (code,) = loading_code(network).values()
    building, _, last = code.rpartition("\n")
    assert last == 'network.load_state_dict(load_file("model.safetensors"))'
    here: dict[str, torch.nn.Module] = {}
    exec(building, here)  # noqa: S102 (our own lines)
    here["network"].load_state_dict(network.module.state_dict())
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(here["network"].eval()(images), network.module(images), rtol=0, atol=0)


def test_timm_has_torchvisions_network_with_the_same_parameters() -> None:
    for name in IN_TIMM_TOO:
        import timm

        with torch.device("meta"):
            theirs, ours = timm.create_model(name, num_classes=1000), models.get_model(name)
        shapes = [{key: value.shape for key, value in network.state_dict().items()} for network in (theirs, ours)]
        assert shapes[0] == shapes[1]


def test_method_shows_no_path_or_runtime_option_of_any_training() -> None:
    for settings in (DistillSettings, PretrainSettings):
        assert settings.fields_with_role("path", "runtime") <= NOT_SHOWN
