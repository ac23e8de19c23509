"""The names of Hugging Face transformers to those of timm (ViT, DINOv2, DINOv3) and torchvision (ResNet).

Files have the names of transformers 4, which release 5 still writes; its modules in memory have others. Both are read.
What has no counterpart keeps a name inside the part it was in, so that it is noticed as unexpected.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

VIT = {
    r"(vit|deit|dinov2|dinov2_with_registers|dinov3_vit)\.": "",
    r"embeddings\.(cls_token)": r"\1",
    r"embeddings\.distillation_token": "dist_token",
    r"embeddings\.register_tokens": "reg_token",
    r"embeddings\.position_embeddings": "pos_embed",
    r"embeddings\.patch_embeddings\.(projection\.)?": "patch_embed.proj.",
    r"embeddings\.(?!mask_token)": "patch_embed.",
    r"(encoder\.layer|model\.layer|layers?)\.(\d+)\.": r"blocks.\2.",
    r"(blocks\.\d+)\.attention\.(attention\.)?(query|key|value)\.": r"\1.attn.\3.",
    r"(blocks\.\d+)\.attention\.q_proj\.": r"\1.attn.query.",
    r"(blocks\.\d+)\.attention\.k_proj\.": r"\1.attn.key.",
    r"(blocks\.\d+)\.attention\.v_proj\.": r"\1.attn.value.",
    r"(blocks\.\d+)\.attention\.(output\.dense|o_proj)\.": r"\1.attn.proj.",
    r"(blocks\.\d+)\.layernorm_before\.": r"\1.norm1.",
    r"(blocks\.\d+)\.layernorm_after\.": r"\1.norm2.",
    r"(blocks\.\d+)\.(intermediate\.dense|mlp\.weights_in)\.": r"\1.mlp.fc1.",
    r"(blocks\.\d+)\.(output\.dense|mlp\.weights_out|mlp\.down_proj)\.": r"\1.mlp.fc2.",
    r"(blocks\.\d+)\.layer_scale(\d)\.lambda1": r"\1.ls\2.gamma",
    r"layernorm\.": "norm.",
}
"""Regular expressions for the start of a name, to its replacement; all are applied, in this order."""

RESNET = {
    r"resnet\.": "",
    r"embedder\.embedder\.convolution\.": "conv1.",
    r"embedder\.embedder\.normalization\.": "bn1.",
    r"encoder\.stages\.0\.layers\.": "layer1.",
    r"encoder\.stages\.1\.layers\.": "layer2.",
    r"encoder\.stages\.2\.layers\.": "layer3.",
    r"encoder\.stages\.3\.layers\.": "layer4.",
    r"(layer\d\.\d+)\.shortcut\.convolution\.": r"\1.downsample.0.",
    r"(layer\d\.\d+)\.shortcut\.normalization\.": r"\1.downsample.1.",
    r"(layer\d\.\d+)\.layer\.0\.convolution\.": r"\1.conv1.",
    r"(layer\d\.\d+)\.layer\.0\.normalization\.": r"\1.bn1.",
    r"(layer\d\.\d+)\.layer\.1\.convolution\.": r"\1.conv2.",
    r"(layer\d\.\d+)\.layer\.1\.normalization\.": r"\1.bn2.",
    r"(layer\d\.\d+)\.layer\.2\.convolution\.": r"\1.conv3.",
    r"(layer\d\.\d+)\.layer\.2\.normalization\.": r"\1.bn3.",
    r"classifier\.1\.": "fc.",
}


def vit_to_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a ViT, DeiT, MAE or DINOv2 by timm's names; those of a SwiGLU are joined as in its files.

    With registers, timm's DINOv2 has no position for its class token: it is added to the token.
    """
    ours = _with_joined_qkv(_renamed(state, VIT))
    for key in [key for key in ours if ".mlp.gate_proj." in key]:
        parts = (ours.pop(key), ours.pop(key.replace("gate_proj", "up_proj")))
        ours[key.replace("gate_proj", "fc1")] = torch.cat(parts)
    if "reg_token" in ours and "pos_embed" in ours:
        ours["cls_token"] = ours["cls_token"] + ours["pos_embed"][:, :1]
        ours["pos_embed"] = ours["pos_embed"][:, 1:]
    return ours


def dinov3_to_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a DINOv3 ViT by timm's names; its keys have no bias."""
    gated = any(".mlp.gate_proj." in key for key in state)
    swaps = {".ls1.gamma": ".gamma_1", ".ls2.gamma": ".gamma_2", ".attn.query.bias": ".attn.q_bias"}
    swaps |= {".attn.value.bias": ".attn.v_bias", ".mlp.gate_proj.": ".mlp.fc1_g."}
    swaps[".mlp.up_proj."] = ".mlp.fc1_x." if gated else ".mlp.fc1."
    ours = _renamed(state, VIT)
    for theirs, name in swaps.items():
        ours = {key.replace(theirs, name): tensor for key, tensor in ours.items()}
    return _with_joined_qkv(ours)


def resnet_to_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a ResNet by torchvision's names."""
    return _renamed(state, RESNET)


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for key, tensor in state.items():
        for theirs, ours in names.items():
            key = re.sub(rf"^{theirs}", ours, key)
        renamed[key] = tensor
    return renamed


def _with_joined_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for key in [key for key in state if ".attn.query." in key]:
        three = [key.replace("query", name) for name in ("query", "key", "value")]
        if all(name in state for name in three):
            state[key.replace("query", "qkv")] = torch.cat([state.pop(name) for name in three])
    return state
