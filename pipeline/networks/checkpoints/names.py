"""Names of weights that differ from torchvision's and timm's, recognised by their keys, and how they are converted.

A layout (``layouts.py``) says where in a file the backbone is; these say what its weights are called there.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from torch import Tensor

from compress_ssl.pipeline.networks.checkpoints import efficientnet_pytorch, hugging_face, meta_dino


class Names(NamedTuple):
    """One project's names."""

    source: str  # repository, file and commit or release of the code that has them
    marks: tuple[str, ...]  # regular expressions, each of which must match the start of some key
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    """From the project's names to those of timm, or of torchvision for a ResNet."""
    one_preprocessing: bool = False  # True if the published weights have the preprocessing that timm lists


LUKEMELAS = "lukemelas/EfficientNet-PyTorch, efficientnet_pytorch/model.py, commit 020d4e6"
HUGGING_FACE = "huggingface/transformers, release 5.24.0, src/transformers/models"

NAMES: dict[str, Names] = {
    "efficientnet-pytorch": Names(
        LUKEMELAS, (r"_conv_stem\.", r"_blocks\.\d+\._se_reduce\."), efficientnet_pytorch.efficientnet_to_timm
    ),
    "efficientnet-lite-pytorch": Names(
        "ml-illustrated/EfficientNet-Lite-PyTorch, efficientnet_lite_pytorch/model.py, commit 1213079; its README says "
        "nothing of preprocessing. tensorflow/tpu, models/official/efficientnet/lite/efficientnet_lite_builder.py, "
        "commit 22d5cab, subtracts 127 and divides by 128; timm's mean and deviation of 0.5 are 127.5 of 255",
        (r"_conv_stem\.", r"_blocks\."),
        efficientnet_pytorch.efficientnet_to_timm,
        one_preprocessing=True,
    ),
    "hugging-face-resnet": Names(
        f"{HUGGING_FACE}/resnet/modeling_resnet.py",
        (r"(resnet\.)?embedder\.embedder\.convolution\.", r"(resnet\.)?encoder\.stages\."),
        hugging_face.resnet_to_torchvision,
    ),
    "hugging-face-dinov3": Names(
        f"{HUGGING_FACE}/dinov3_vit/modeling_dinov3_vit.py",
        (r"(dinov3_vit\.)?embeddings\.register_tokens", r"(dinov3_vit\.)?embeddings\.patch_embeddings\.weight"),
        hugging_face.dinov3_to_timm,
    ),
    "hugging-face-vit": Names(
        f"{HUGGING_FACE}/vit/modeling_vit.py, dinov2/modeling_dinov2.py and "
        "dinov2_with_registers/modeling_dinov2_with_registers.py",
        (
            r"((vit|deit|dinov2|dinov2_with_registers)\.)?embeddings\.patch_embeddings\.projection\.",
            r"((vit|deit|dinov2|dinov2_with_registers)\.)?embeddings\.position_embeddings",
        ),
        hugging_face.vit_to_timm,
    ),
    "meta-dinov3": Names(
        "facebookresearch/dinov3, dinov3/models/vision_transformer.py, commit 583c867",
        (r"storage_tokens", r"blocks\.(\d+\.)?\d+\.attn\.qkv\."),
        meta_dino.dinov3_to_timm,
    ),
    "meta-dinov2-chunked": Names(
        "facebookresearch/dinov2, dinov2/models/vision_transformer.py, commit 027a9ac (block_chunks)",
        (r"blocks\.\d+\.\d+\.attn\.qkv\.", r"blocks\.\d+\.\d+\.ls1\."),
        meta_dino.unchunked,
    ),
}  # in order of precedence


def names_of(keys: Collection[str]) -> str | None:
    """Return which of ``NAMES`` the keys are, if any."""
    return next(
        (
            name
            for name, names in NAMES.items()
            if all(any(re.match(mark, key) for key in keys) for mark in names.marks)
        ),
        None,
    )
