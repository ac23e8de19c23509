"""Python code that loads exported weights without this package, for the model card."""

import re
from typing import NamedTuple

import torch

from compress_ssl.pipeline.common.run_files import MODEL_FILE
from compress_ssl.pipeline.networks.architectures import SMALL_IMAGES, TIMM, default_preprocessing
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
}  # code that adapts torchvision's network to small images, by pattern of its name

IN_TIMM_TOO = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d"),
    *("resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
)  # torchvision's networks that timm has under the same name, with equal parameter names and outputs


class Loading(NamedTuple):
    """Code that assigns a network to the variable ``network``."""

    library: str
    code: str


def loading_lines(network: Network) -> list[Loading]:
    """Return the code for each library that has the network's architecture, else for this package."""
    from torchvision import models

    name = network.architecture
    if name.startswith(TIMM):
        return [_timm(name.removeprefix(TIMM), network)]
    base = name.removesuffix(SMALL_IMAGES)
    stem = next((lines for pattern, lines in SMALL_STEMS.items() if re.fullmatch(pattern, base)), None)
    loadings = []
    if base in models.list_models(module=models) and (name == base or stem is not None):
        loadings.append(_torchvision(base, stem if name != base and stem else (), network))
    if name in IN_TIMM_TOO:
        loadings.append(_timm(name, network))
    ours = f'load_network("{MODEL_FILE}").module'
    imports = "from compress_ssl.pipeline.networks.network import load_network"
    return loadings or [Loading("compress-ssl", f"{imports}\n\nnetwork = {ours}")]


def _torchvision(base: str, stem: tuple[str, ...], network: Network) -> Loading:
    from torchvision import models

    with torch.device("meta"):
        whole = models.get_model(base, weights=None)
    (head,) = {key.rpartition(".")[0] for key in whole.state_dict().keys() - network.module.state_dict().keys()}
    path = re.sub(r"\.(\d+)", r"[\1]", f".{head}")  # .fc, .classifier[6]
    lines = (
        "import torch",
        "import torchvision",
        "from safetensors.torch import load_file",
        "",
        f"network = torchvision.models.{base}()",
        *stem,
        f"network{path} = torch.nn.Identity()",
        f'network.load_state_dict(load_file("{MODEL_FILE}"))',
    )
    return Loading("torchvision", "\n".join(lines))


def _timm(name: str, network: Network) -> Loading:
    is_transformer = hasattr(network.module, "pos_embed")
    is_resized = network.preprocessing.size != default_preprocessing(network.architecture).size
    option = ", dynamic_img_size=True" if is_transformer and is_resized else ""
    call = f'timm.create_model("{name}", num_classes=0, checkpoint_path="{MODEL_FILE}"{option})'
    return Loading("timm", f"import timm\n\nnetwork = {call}")
