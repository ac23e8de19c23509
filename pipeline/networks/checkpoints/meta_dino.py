"""The names of Meta's DINOv2 and DINOv3 to those of timm, where they differ."""

import re
from collections.abc import Mapping

from torch import Tensor

from compress_ssl.pipeline.common.errors import InputError

DINOV3 = {
    r"^storage_tokens$": "reg_token",
    r"\.ls([12])\.gamma$": r".gamma_\1",
    r"\.mlp\.w1\.": ".mlp.fc1_g.",
    r"\.mlp\.w2\.": ".mlp.fc1_x.",
    r"\.mlp\.w3\.": ".mlp.fc2.",
}

FOR_TRAINING = re.compile(r"(mask_token$|rope_embed\.|local_cls_norm\.)|.*\.bias_mask$")
"""Tensors of a DINOv3 that affect no feature, or are computed from the image's size."""


def unchunked(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a network that was trained in chunks of blocks, ``blocks.CHUNK.NUMBER``, by block.

    A chunk is padded in front, so that the number is a block's number in the network.
    """
    return {re.sub(r"^blocks\.\d+\.(?=\d+\.)", "blocks.", key): tensor for key, tensor in state.items()}


def dinov3_to_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a DINOv3 ViT by timm's names, whose keys of attention have no bias.

    Raises:
        InputError: If the network has such a bias that is not masked, or a norm for the class token alone.
    """
    if "cls_norm.weight" in state:
        raise InputError(
            "This DINOv3 has a norm for its class token alone (untie_cls_and_patch_norms), which timm's has not; give "
            "it as MODULE:FUNCTION."
        )
    ours: dict[str, Tensor] = {}
    weights = unchunked(state)
    for key, tensor in weights.items():
        if key.endswith(".qkv.bias"):
            query, keys, value = (tensor * weights.get(f"{key}_mask", 1)).chunk(3)
            if keys.any():
                raise InputError(
                    f"This DINOv3 has a bias of its keys that is not masked ({key}), which timm's has not; give it as "
                    "MODULE:FUNCTION."
                )
            ours |= {key.replace("qkv.bias", "q_bias"): query, key.replace("qkv.bias", "v_bias"): value}
        elif not FOR_TRAINING.match(key):
            for theirs, name in DINOV3.items():
                key = re.sub(theirs, name, key)
            ours[key] = tensor
    return ours
