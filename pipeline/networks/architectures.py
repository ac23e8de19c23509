"""Networks by name, without their classifier: images (B, 3, S, S) in, features (B, F) out.

``NAME`` is torchvision's name for it, ``timm/NAME`` is timm's. ``NAME-32px`` is the same network for small images, with
torchvision's own parameter names. ``resnet50-wN`` has N times the channels, ``-tf-same`` pools as TensorFlow does.
``resnet18-narrow-32px`` has half its channels and a first convolution of stride 2: a teacher that a CPU can train.
``conv4-W`` is the four-layer network of few-shot learning, W channels wide.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torchvision import models

from compress_ssl.pipeline.common.errors import unknown_name
from compress_ssl.pipeline.networks.backbone import Backbone, without_head
from compress_ssl.pipeline.networks.preprocessing import Preprocessing
from compress_ssl.pipeline.networks.small_images import conv4, narrow_resnet, small_image_stem
from compress_ssl.pipeline.networks.timm_models import timm_backbone, timm_names, timm_preprocessing
from compress_ssl.pipeline.networks.wide_resnet import wide_resnet50

if TYPE_CHECKING:
    from collections.abc import Callable

TIMM = "timm/"

SMALL_IMAGES = "-32px"

LISTED_BY, TIMM_LISTED_BY = "compress-ssl models '*PART-OF-NAME*'", "compress-ssl models 'timm/*PART-OF-NAME*'"

CONV4_WIDTHS = (16, 32, 64, 128)

OURS: dict[str, Callable[[], Backbone]] = {
    **{f"conv4-{width}": partial(conv4, width) for width in CONV4_WIDTHS},
    f"resnet18-narrow{SMALL_IMAGES}": narrow_resnet,
    "resnet50-w2": partial(wide_resnet50, 2),
    "resnet50-w4": partial(wide_resnet50, 4),
    "resnet50-w5": partial(wide_resnet50, 5),
    "resnet50-tf-same": partial(wide_resnet50, 1, tf_same=True),
    "resnet50-w2-tf-same": partial(wide_resnet50, 2, tf_same=True),
    "resnet50-w4-tf-same": partial(wide_resnet50, 4, tf_same=True),
}

# torchvision classifiers that do not end in one linear layer on one feature.
WITHOUT_LINEAR_HEAD = ("googlenet", "inception_v3", "squeezenet1_0", "squeezenet1_1")


def architecture_names() -> list[str]:
    """Every name that ``build_backbone`` takes, but for timm's."""
    names = [name for name in models.list_models(module=models) if name not in WITHOUT_LINEAR_HEAD]
    return sorted([*names, *(f"{name}{SMALL_IMAGES}" for name in names if small_image_stem(name)), *OURS])


def check_architecture(name: str) -> None:
    """Check that there is an architecture of this name.

    Raises
    ------
    InputError
        If there is none; names the nearest.
    """
    if name.startswith(TIMM):
        model = name.removeprefix(TIMM)
        if model not in timm_names():
            raise unknown_name("timm network", model, timm_names(), listed_by=TIMM_LISTED_BY)
    elif name not in architecture_names():
        raise unknown_name("architecture", name, architecture_names(), listed_by=LISTED_BY)


def build_backbone(name: str, seed: int = 0) -> Backbone:
    """Build a network with weights drawn from ``seed``.

    Raises
    ------
    InputError
        If there is no such architecture; names the nearest.
    """
    check_architecture(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in OURS:
            return OURS[name]()
        if name.startswith(TIMM):
            return timm_backbone(name.removeprefix(TIMM))
        return _torchvision_backbone(name)


def _torchvision_backbone(name: str) -> Backbone:
    base = name.removesuffix(SMALL_IMAGES)
    network = models.get_model(base, weights=None)
    if name != base:
        stem = small_image_stem(base)
        assert stem is not None
        stem(network)
    return without_head(network)


def default_preprocessing(architecture: str) -> Preprocessing:
    """What an architecture wants to see where nothing else is said.

    timm's networks say it themselves; all others see images as ImageNet's are seen, those for small images at 32 pixels.
    """
    if architecture.startswith(TIMM):
        return timm_preprocessing(architecture.removeprefix(TIMM))
    return Preprocessing(size=32, resize=32) if architecture.endswith(SMALL_IMAGES) else Preprocessing()
