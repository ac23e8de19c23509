"""How the tokens of a network of timm are pooled to one feature vector: as its authors evaluate it, or by another pool.

``token`` is the class token, ``avg`` the mean of the patch tokens (without class and register tokens), ``token+avg``
both, one behind the other, ``map`` the network's own attention pooling. The final norm stays where the network has it:
before pooling, or after it.

Letters: B batch, S side in pixels, D width of a token, F features: D, or 2 D for ``token+avg``.
"""

import re
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from compress_ssl.pipeline.common.errors import InputError


class Pooling(NamedTuple):
    """A pool, and where the authors of a network use it."""

    pool: str
    source: str


AUTHORS: dict[str, Pooling] = {
    r"vit_\w+_dinov3(_qkvb)?(\.(lvd|sat)\w+)?": Pooling(
        "token",
        "facebookresearch/dinov3, eval/knn.py, commit 3039bd3 (the linear probe, eval/linear.py: token+avg); timm: "
        "avg (huggingface/pytorch-image-models#2681)",
    ),
    r"vit_\w+_dinov3_qkvb\.eupe_\w+": Pooling("token", "timm, models/eva.py: upstream uses the class token"),
    r"vit_\w+_dinov2(\.\w+)?": Pooling(
        "token",
        "facebookresearch/dinov2, models/vision_transformer.py, commit 027a9ac, which k-NN calls (the linear probe "
        "takes the better of token and token+avg: eval/linear.py, commit 05c66df)",
    ),
    r"vit_\w+\.dino": Pooling("token", "facebookresearch/dino, eval_knn.py"),
    r"vit_\w+\.mae": Pooling("token", "facebookresearch/mae, main_linprobe.py, commit 6a2ba40 (fine-tuning: avg)"),
    r"vit_\w+_siglip_\d+(\.\w+)?": Pooling(
        "map", "google-research/big_vision, SigLIP2_demo.ipynb, commit 3325653: pool_type map"
    ),
    r"vit_pe_core_\w+(\.\w+)?": Pooling(
        "map", "facebookresearch/perception_models, core/vision_encoder/config.py, commit 2b594fd: pool_type attn"
    ),
    r"(vit|eva)\w+_clip_\w+(\.\w+)?": Pooling("token", "Radford et al. 2021 (CLIP), section 2.4: the class token"),
}  # regular expression for timm's name to what the network's authors evaluate; all others are pooled as timm does


TRANSFORMERS = {"timm.models.vision_transformer.VisionTransformer", "timm.models.eva.Eva"}
"""Classes whose ``forward_features`` returns tokens, of which another pool can be taken; timm loads slowly."""


def authors_pool(architecture: str) -> str | None:
    """Return what the authors of a network evaluate; None if that is not known."""
    name = architecture.removeprefix("timm/")
    return next((known.pool for pattern, known in AUTHORS.items() if re.fullmatch(pattern, name)), None)


def forward_pool(network: nn.Module) -> str | None:
    """Return what a network's forward pass pools by; None for a network whose tokens cannot be pooled otherwise."""
    kind = type(network)  # not a subclass: DeiT's pools two tokens
    return str(network.global_pool) if f"{kind.__module__}.{kind.__qualname__}" in TRANSFORMERS else None


def pools_of(network: Any) -> list[str]:
    """Return the pools that a network offers; a CNN of timm that is averaged offers ``avg`` alone."""
    from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d

    own = forward_pool(network)
    if own is None:
        averages = (isinstance(layer, SelectAdaptivePool2d) and layer.pool_type == "avg" for layer in network.modules())
        return ["avg"] if any(averages) else []
    of_tokens = ["token", "avg", "token+avg"] if network.cls_token is not None else ["avg"]
    return list(dict.fromkeys((own, *of_tokens)))


def check_pool(network: nn.Module, name: str, pool: str) -> None:
    """Raise ``InputError``, with what it has, if the network called ``name`` does not have this pool."""
    offered = pools_of(network)
    if pool not in offered:
        has = f"it has {', '.join(offered)}" if offered else "no pool can be chosen for it"
        raise InputError(f"{name} has no pool '{pool}': {has}; take another one, or 'own'.")


def pooled_features(network: nn.Module, images: Tensor, pool: str | None) -> Tensor:
    """Return the features (B, F) of normalized images (B, 3, S, S); as the forward pass does it if ``pool`` is None."""
    if pool is None or pool == network.global_pool:
        features: Tensor = network(images)
        return features
    module: Any = network
    tokens = module.forward_features(images)  # (B, prefix tokens + patches, D)
    each = {"token": tokens[:, 0], "avg": tokens[:, module.num_prefix_tokens :].mean(dim=1)}  # (B, D)
    return torch.cat([module.fc_norm(each[part]) for part in pool.split("+")], dim=1)
