"""Networks of timm, without their classifier: pooled features, timm's own parameter names.

A name may carry the tag of published weights, as in ``vit_small_patch14_dinov2.lvd142m``: it decides preprocessing.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

from compress_ssl.pipeline.networks.backbone import Backbone, disable_dropout
from compress_ssl.pipeline.networks.preprocessing import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn


# Encoders of multimodal models, which give many vectors an image.
UNPOOLED = "_enc"


@functools.cache
def timm_names() -> Sequence[str]:
    """All names of timm's image encoders, without and with a tag."""
    import timm

    names = {*timm.list_models(), *timm.list_models(include_tags=True)}
    return tuple(sorted(name for name in names if not name.partition(".")[0].endswith(UNPOOLED)))


def timm_backbone(name: str, pretrained: bool = False) -> Backbone:
    """Build a network of timm.

    A transformer keeps the position embedding of its own image size, and interpolates it to that of the images where timm can
    (ViT, DeiT, EVA and DINOv3, Swin); others take images of one size only, which ``Network.check_size`` finds.

    Parameters
    ----------
    pretrained : bool
        Read the published weights, from the hub or its cache.
    """
    network = _create(name, num_classes=0, pretrained=pretrained)
    _silence_dropout(network)
    return Backbone(network, network.head_hidden_size)


def _create(name: str, **options: Any) -> Any:
    import timm

    config = timm.get_pretrained_cfg(name)
    if not (config and config.fixed_input_size):
        return timm.create_model(name, **options)
    try:
        network = timm.create_model(name, dynamic_img_size=True, **options)
    except TypeError:  # it has no such option
        return timm.create_model(name, **options)
    patches: Any = network.patch_embed
    if patches.img_size[0] % patches.patch_size[0]:  # SigLIP cuts 384 pixels into patches of 14, and leaves the rest
        patches.strict_img_size = True
    return network


def timm_preprocessing(name: str) -> Preprocessing:
    """What the published weights of a network were evaluated with.

    The short side is resized to size / crop_pct as in timm's ``transforms_imagenet_eval``; networks that were evaluated on
    images squashed to a square (``crop_mode``) get the same sizes and keep the proportions.
    """
    import timm

    wants = timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    size = int(wants.input_size[-1])
    return Preprocessing(
        mean=(wants.mean[0], wants.mean[1], wants.mean[2]),
        std=(wants.std[0], wants.std[1], wants.std[2]),
        size=size,
        resize=math.floor(size / wants.crop_pct),
        interpolation="bilinear" if wants.interpolation == "bilinear" else "bicubic",
    )


def _silence_dropout(network: nn.Module) -> None:
    from timm.layers.drop import DropPath

    disable_dropout(network)
    for layer in network.modules():
        if isinstance(layer, DropPath):
            layer.drop_prob = 0.0
        if isinstance(getattr(layer, "drop_rate", None), float):
            layer.drop_rate = 0.0  # type: ignore[assignment]
