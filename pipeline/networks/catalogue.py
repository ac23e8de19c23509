"""Features, parameters and operations of networks, for ``compress-ssl models``; built on torch's meta device."""

import fnmatch
import functools
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from compress_ssl.pipeline.common.errors import InputError, unknown_name
from compress_ssl.pipeline.networks.architectures import (
    LISTED_BY,
    TIMM,
    architecture_names,
    build_backbone,
    check_torchvision,
    default_preprocessing,
)
from compress_ssl.pipeline.networks.network import load_network
from compress_ssl.pipeline.networks.preprocessing import Preprocessing
from compress_ssl.pipeline.networks.reference import parse_reference
from compress_ssl.pipeline.networks.teachers import TEACHERS
from compress_ssl.pipeline.networks.timm_models import timm_names
from compress_ssl.pipeline.networks.torchvision_models import torchvision_preprocessing
from compress_ssl.pipeline.networks.user_networks import entry_points_by_name, package_of

STUDENTS: dict[str, str] = {
    "alexnet": "the paper's: fc7 after its ReLU, no dropout, no batch norm",
    "resnet18": "the paper's",
    "resnet34": "between the paper's two ResNets",
    "resnet50": "the paper's for SimCLR's ResNet-50x4",
    "mobilenet_v2": "the paper's",
    "mobilenet_v3_small": "fewest operations at 224 pixels",
    "mobilenet_v3_large": "a quarter fewer operations than MobileNet-V2",
    "efficientnet_b0": "the smallest EfficientNet",
    "timm/vit_tiny_patch16_224": "ViT-Ti/16",
    "timm/vit_small_patch16_224": "ViT-S/16",
    "alexnet-32px": "3 x 3 first convolution, no third max-pool",
    "resnet18-32px": "3 x 3 first convolution, no max-pool",
    "mobilenet_v2-32px": "first convolution of stride 1",
    "resnet18-narrow-32px": "half the channels, first convolution of stride 2: trains on a CPU",
    "resnet18-quarter-32px": "a quarter of the channels, the same first convolution: trains on a CPU in minutes",
}  # remarks on recommended students by architecture; any architecture can be one


class OfPackage(NamedTuple):
    """A network that an installed package has; it is not built for this."""

    name: str
    package: str
    function: str


@dataclass(frozen=True)
class Description:
    """A network without its classifier, in numbers."""

    name: str
    architecture: str
    feature_dim: int
    parameters: int
    flops: int  # per image at the network's own size: convolutions and matrix products, two per multiply-add
    preprocessing: Preprocessing
    note: str  # citation of a teacher, remark on a student
    weights: str | None  # source of a teacher's published file


def describe_student(name: str) -> Description:
    """Describe a student of ``STUDENTS``; students are trained with ImageNet's mean and standard deviation."""
    default = default_preprocessing(name)
    return _describe(name, name, Preprocessing(size=default.size, resize=default.resize), STUDENTS[name])


def describe_network(name: str) -> Description:
    """Describe a teacher, an architecture with its default preprocessing, or ``torchvision/NAME`` with its weights'.

    A user's network is built for it.

    Raises:
        InputError: If there is no such network; names the nearest.
    """
    reference = parse_reference(name)
    if reference.kind == "user":
        return _describe_users(name)
    architecture = reference.name or name
    if architecture in TEACHERS:
        teacher = TEACHERS[architecture]
        return _describe(architecture, teacher.architecture, teacher.preprocessing, teacher.citation, teacher.weights)
    if reference.kind == "torchvision":
        check_torchvision(architecture)
        return _describe(name, architecture, torchvision_preprocessing(architecture))
    if not architecture.startswith(TIMM) and architecture not in architecture_names():
        raise unknown_name("network", name, [*TEACHERS, *architecture_names()], listed_by=LISTED_BY)
    return _describe(name, architecture, default_preprocessing(architecture), STUDENTS.get(architecture, ""))


def _describe(
    name: str, architecture: str, preprocessing: Preprocessing, note: str = "", weights: str | None = None
) -> Description:
    numbers = _feature_dim_parameters_flops(architecture, preprocessing.size)
    return Description(name, architecture, *numbers, preprocessing, note, weights)


def _describe_users(name: str) -> Description:
    network = load_network(name)
    parameters = sum(parameter.numel() for parameter in network.module.parameters())
    flops = count_flops(network.module, network.preprocessing.size)
    numbers = network.feature_dim, parameters, flops
    return Description(name, network.architecture, *numbers, network.preprocessing, "", None)


@functools.cache
def _feature_dim_parameters_flops(architecture: str, size: int) -> tuple[int, int, int]:
    try:
        with torch.device("meta"):
            module, feature_dim = build_backbone(architecture, seed=None)
    except NotImplementedError:  # RegNet reads values of tensors in its constructor
        module, feature_dim = build_backbone(architecture, seed=None)
        module.to("meta")
    return feature_dim, sum(parameter.numel() for parameter in module.parameters()), count_flops(module, size)


def count_flops(network: nn.Module, size: int) -> int:
    """Count the operations of one image of ``size`` pixels: convolutions and matrix products, two per multiply-add.

    On the device of the network, such as the meta device.
    """
    device = next(network.parameters()).device
    counter = FlopCounterMode(display=False)
    # With gradients: without, torch fuses a transformer's layers into operations that are not counted.
    with counter, torch.enable_grad():
        network.eval()(torch.zeros(1, 3, size, size, device=device))
    return int(counter.get_total_flops())


def networks_of_packages() -> list[OfPackage]:
    """Return the networks of installed packages, by name."""
    points = sorted(entry_points_by_name().items())
    return [OfPackage(name, package_of(point), point.value) for name, point in points]


def matching_names(pattern: str) -> list[str]:
    """Return the names that match a pattern with ``*`` and ``?``, or a name as it is; ``InputError`` if none."""
    if not {"*", "?"} & set(pattern):
        return [pattern]
    timm = [f"{TIMM}{name}" for name in timm_names()] if pattern.startswith(TIMM) else []
    names = fnmatch.filter(timm or [*TEACHERS, *architecture_names()], pattern)
    if not names:
        raise InputError(f"No name of a network matches '{pattern}'; the names of timm start with {TIMM}.")
    return names
