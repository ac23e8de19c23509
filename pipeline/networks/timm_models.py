"""Networks of timm without their classifier: pooled features, timm's parameter names.

A name may carry the tag of published weights, as in ``vit_small_patch14_dinov2.lvd142m``, which decides preprocessing.
"""

import functools
import math
import re
from collections.abc import Sequence
from typing import Any

from compress_ssl.pipeline.networks.backbone import Backbone, disable_dropout
from compress_ssl.pipeline.networks.preprocessing import Preprocessing

SQUASHED = re.compile(r"vit_\w+_siglip_(gap_)?\d+(\.\w+)?")
"""SigLIP's and SigLIP 2's networks, whose authors squash images for zero-shot classification and retrieval.

google-research/big_vision, configs/proj/image_text/common.py, commit 3b36bb7; timm keeps the aspect ratio.
"""


@functools.cache
def timm_names() -> Sequence[str]:
    """Return all names of timm's image encoders, without and with a tag."""
    import timm

    names = {*timm.list_models(), *timm.list_models(include_tags=True)}
    # The encoders of multimodal models, *_enc, return many vectors per image.
    return tuple(sorted(name for name in names if not name.partition(".")[0].endswith("_enc")))


def timm_backbone(name: str, pretrained: bool = False, **options: Any) -> Backbone:
    """Return a network of timm.

    A transformer keeps the position embedding of its own image size and interpolates it to other sizes if timm can
    (ViT, DeiT, EVA and DINOv3, Swin); the others take images of one size only, as ``Network.check_size`` checks.

    Args:
        pretrained: Load the published weights, from the hub or its cache.
        options: Of timm's function of the network.
    """
    import timm
    from timm.layers.drop import DropPath

    create: Any = functools.partial(timm.create_model, name, num_classes=0, pretrained=pretrained, **options)
    config = timm.get_pretrained_cfg(name)
    if config and config.fixed_input_size:
        try:
            network = create(dynamic_img_size=True)
        except TypeError:  # the network has no such option
            network = create()
        else:
            patches = network.patch_embed
            if patches.img_size[0] % patches.patch_size[0]:  # SigLIP crops 384 pixels to patches of 14
                patches.strict_img_size = True
    else:
        network = create()
    disable_dropout(network)
    for layer in network.modules():
        if isinstance(layer, DropPath):
            layer.drop_prob = 0.0
        if isinstance(getattr(layer, "drop_rate", None), float):
            layer.drop_rate = 0.0
    return Backbone(network, network.head_hidden_size)


def timm_preprocessing(name: str) -> Preprocessing:
    """Return the preprocessing that the published weights of a network were evaluated with.

    The short side is resized to size / crop_pct as in timm's ``transforms_imagenet_eval``; both sides if ``crop_mode``
    is squash, and of ``SQUASHED``. Networks that were evaluated on images with borders (``crop_mode`` border) have the
    same sizes, without borders.
    """
    import timm

    config = timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    size = int(config.input_size[-1])
    return Preprocessing(
        mean=(config.mean[0], config.mean[1], config.mean[2]),
        std=(config.std[0], config.std[1], config.std[2]),
        size=size,
        resize=math.floor(size / config.crop_pct),
        interpolation="bilinear" if config.interpolation == "bilinear" else "bicubic",
        squash=config.crop_mode == "squash" or bool(SQUASHED.fullmatch(name)),
    )
