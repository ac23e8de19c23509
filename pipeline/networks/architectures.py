"""Networks by name, without their classifier: images (B, 3, S, S) in, features (B, F) out.

``NAME`` is torchvision's, ``timm/NAME`` timm's. ``NAME-32px`` is torchvision's network adapted to small images, with
the same parameter names. ``resnet50-wN`` has N times the channels; ``-tf-same`` pads its max-pool as TensorFlow does.
``resnet18-narrow-32px`` has half the channels and a first convolution of stride 2: a teacher that a CPU can train.
``conv4-W`` is the four-layer network of few-shot learning with W channels.
"""

from collections.abc import Callable
from functools import partial

import torch
from torchvision import models

from compress_ssl.pipeline.common.errors import unknown_name
from compress_ssl.pipeline.networks.backbone import Backbone, without_head
from compress_ssl.pipeline.networks.preprocessing import Preprocessing
from compress_ssl.pipeline.networks.small_images import conv4, narrow_resnet, small_image_stem
from compress_ssl.pipeline.networks.timm_models import timm_backbone, timm_names, timm_preprocessing
from compress_ssl.pipeline.networks.wide_resnet import wide_resnet50

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

WITHOUT_LINEAR_HEAD = ("googlenet", "inception_v3", "squeezenet1_0", "squeezenet1_1")
"""torchvision's classifiers that do not end in one linear layer on one feature vector."""


def architecture_names() -> list[str]:
    """Return every name that ``build_backbone`` takes, except timm's."""
    names = [name for name in models.list_models(module=models) if name not in WITHOUT_LINEAR_HEAD]
    return sorted([*names, *(f"{name}{SMALL_IMAGES}" for name in names if small_image_stem(name)), *OURS])


def check_architecture(name: str) -> None:
    """Raise ``InputError``, naming the nearest, if there is no architecture of this name."""
    if name.startswith(TIMM):
        model = name.removeprefix(TIMM)
        if model not in timm_names():
            raise unknown_name("timm network", model, timm_names(), listed_by=TIMM_LISTED_BY)
    elif name not in architecture_names():
        raise unknown_name("architecture", name, architecture_names(), listed_by=LISTED_BY)


def build_backbone(name: str, seed: int = 0) -> Backbone:
    """Return a network with the initial weights of a seed; torch's global generator is left unchanged.

    Raises:
        InputError: If there is no such architecture; names the nearest.
    """
    check_architecture(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in OURS:
            return OURS[name]()
        if name.startswith(TIMM):
            return timm_backbone(name.removeprefix(TIMM))
        base = name.removesuffix(SMALL_IMAGES)
        network = models.get_model(base, weights=None)
        if name != base and (adapt := small_image_stem(base)):
            adapt(network)
        return without_head(network)


def default_preprocessing(architecture: str) -> Preprocessing:
    """Return the preprocessing of an architecture whose weights have no other.

    timm lists it for its networks; all others have ImageNet's, those for small images at 32 pixels.
    """
    if architecture.startswith(TIMM):
        return timm_preprocessing(architecture.removeprefix(TIMM))
    return Preprocessing(size=32, resize=32) if architecture.endswith(SMALL_IMAGES) else Preprocessing()
