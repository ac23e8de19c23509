"""The lines of Python that load exported weights without this package."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import torch

from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.networks.architectures import SMALL_IMAGES, TIMM, default_preprocessing

if TYPE_CHECKING:
    from compress_ssl.pipeline.networks.network import Network

SMALL_STEMS: dict[str, tuple[str, ...]] = {
    r"(resnet|resnext|wide_resnet)\d+\w*": (
        "network.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)",
        "network.maxpool = torch.nn.Identity()",
    ),
    "mobilenet_v2": ("network.features[0][0].stride = (1, 1)",),
    "alexnet": (
        "network.features[0] = torch.nn.Conv2d(3, 64, 3, padding=1)",
        "network.features[12] = torch.nn.Identity()",
    ),
}
"""What makes torchvision's network the one for small images, by its name."""

IN_TIMM_TOO = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d"),
    *("resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
)
"""torchvision's networks that timm has by the same name, with the same parameter names, computing the same."""


class Loading(NamedTuple):
    """Lines that leave a network in the variable ``network``."""

    library: str
    code: str


def loading_lines(network: Network) -> list[Loading]:
    """How to load an exported network, in each library that has its architecture; else in this package."""
    name = network.architecture
    if name.startswith(TIMM):
        return [_timm(name.removeprefix(TIMM), network)]
    found = [_torchvision(name, network)] if _is_torchvisions(name) else []
    if name in IN_TIMM_TOO:
        found.append(_timm(name, network))
    return found or [_ours()]


def _is_torchvisions(name: str) -> bool:
    from torchvision import models

    base = name.removesuffix(SMALL_IMAGES)
    return base in models.list_models(module=models) and (name == base or _small_stem(base) is not None)


def _small_stem(base: str) -> tuple[str, ...] | None:
    return next((lines for pattern, lines in SMALL_STEMS.items() if re.fullmatch(pattern, base)), None)


def _torchvision(name: str, network: Network) -> Loading:
    base = name.removesuffix(SMALL_IMAGES)
    stem = () if name == base else _small_stem(base) or ()
    lines = (
        "import torch",
        "import torchvision",
        "from safetensors.torch import load_file",
        "",
        f"network = torchvision.models.{base}()",
        *stem,
        f"network{_head(base, network)} = torch.nn.Identity()",
        f'network.load_state_dict(load_file("{MODEL_FILE}"))',
    )
    return Loading("torchvision", "\n".join(lines))


def _head(base: str, network: Network) -> str:
    """Path of the layer that torchvision's network has and ours has not: ``.fc``, ``.classifier[6]``."""
    from torchvision import models

    with torch.device("meta"):
        whole = models.get_model(base, weights=None)
    (head,) = {key.rpartition(".")[0] for key in whole.state_dict().keys() - network.module.state_dict().keys()}
    return re.sub(r"\.(\d+)", r"[\1]", f".{head}")


def _timm(name: str, network: Network) -> Loading:
    is_transformer = hasattr(network.module, "pos_embed")
    is_resized = network.preprocessing.size != default_preprocessing(network.architecture).size
    option = ", dynamic_img_size=True" if is_transformer and is_resized else ""
    call = f'timm.create_model("{name}", num_classes=0, checkpoint_path="{MODEL_FILE}"{option})'
    return Loading("timm", f"import timm\n\nnetwork = {call}")


def _ours() -> Loading:
    lines = (
        "from compress_ssl.pipeline.networks.network import load_network",
        "",
        f'network = load_network("{MODEL_FILE}").module',
    )
    return Loading("compress-ssl", "\n".join(lines))
