"""A tiny transformer like DINOv3's, registered in timm, for tests of whole commands."""

from typing import Any

from timm.models import register_model
from timm.models.eva import vit_small_patch16_dinov3
from torch import nn

from compress_ssl.pipeline.networks.timm_models import timm_names

TINY_DINOV3 = "timm/vit_nano_patch16_dinov3"
"""64 features, two layers, class token and four registers, patches of 16 pixels; timm averages its patches."""


@register_model
def vit_nano_patch16_dinov3(pretrained: bool = False, **options: Any) -> nn.Module:
    """Its name is one of those whose authors evaluate the class token."""
    network: nn.Module = vit_small_patch16_dinov3(**{"embed_dim": 64, "depth": 2, "num_heads": 2, **options})
    return network


timm_names.cache_clear()
