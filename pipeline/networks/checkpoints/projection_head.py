"""Load the projection head that a self-supervised teacher was trained with from its checkpoint.

A head is a sequence of linear layers and batch norms, numbered as in ``nn.Sequential``; the numbers without weights are
its activations.

Letters: D dimension of the embedding, P of the projection.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.common.tensor_files import not_finite
from compress_ssl.pipeline.common.torch_errors import first_line
from compress_ssl.pipeline.networks.checkpoints.file import GET_AGAIN, read_checkpoint_file
from compress_ssl.pipeline.networks.checkpoints.state_dicts import take_state_dict
from compress_ssl.pipeline.networks.reference import file_and_part

HEADS: dict[str, type[nn.Module]] = {
    "encoder_q.fc": nn.ReLU,  # MoCo v2: facebookresearch/moco, moco/builder.py, commit 4397a04
    "base_encoder.fc": nn.ReLU,  # MoCo v3, ResNets: facebookresearch/moco-v3, moco/builder.py, commit 0c5d00a
    "base_encoder.head": nn.ReLU,  # MoCo v3, ViTs
    "head.mlp": nn.GELU,  # DINO, to its bottleneck: facebookresearch/dino, vision_transformer.py, commit 04c0ad9
    "projection_head": nn.ReLU,  # SwAV: facebookresearch/swav, src/resnet50.py, commit 04b8f43
    "projector": nn.ReLU,  # Barlow Twins: facebookresearch/barlowtwins, main.py, commit 046eec3; VICReg, solo-learn
}  # by what comes before the numbers of its layers, a head's activation; of other heads it is ReLU


class ProjectionHead(NamedTuple):
    """A teacher's projection head."""

    layers: nn.Sequential  # maps embeddings (., D) to projections (., P)
    identity: dict[str, str]  # what a run records of the file


def load_projection_head(reference: str) -> ProjectionHead:
    """Load the head in ``FILE``, the first of ``HEADS``, or in ``FILE#PREFIX``, what precedes its layers' numbers.

    Raises:
        InputError: If the file cannot be read, or has no head there of linear layers, batch norms and activations.
    """
    path, part = file_and_part(reference)
    file = read_checkpoint_file(path)
    taken = take_state_dict(file, part).tensors
    prefix = next((prefix for prefix in ("", *HEADS) if _numbers(_below(taken, prefix))), None)
    if prefix is None:
        raise InputError(
            f"'{reference}' has no projection head ({', '.join(HEADS)}); give FILE#PREFIX, with what comes before the "
            "numbers of the head's layers."
        )
    name = ".".join(filter(None, (part, prefix)))
    activation = next((HEADS[known] for known in HEADS if f".{name}".endswith(f".{known}")), nn.ReLU)
    tensors = _below(taken, prefix)
    numbers = _numbers(tensors)
    try:
        layers = nn.Sequential(
            *(
                _layer(_below(tensors, str(number))) if number in numbers else activation()
                for number in range(max(numbers) + 1)
            )
        ).eval()
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"'{name}' in '{path}' is no sequence of linear layers and batch norms ({first_line(error)}); give "
            "FILE#PREFIX of one that is."
        ) from error
    if wrong := not_finite(layers):
        raise InputError(f"The weights '{name}.{wrong}' in '{path}' are not finite; {GET_AGAIN}.")
    return ProjectionHead(layers, {"file_sha256": file.sha256, "part": name})


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with a prefix and a dot, without it; all for an empty one."""
    start = prefix and f"{prefix}."
    return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}


def _numbers(tensors: Mapping[str, Tensor]) -> set[int]:
    """Return the numbers of layers; none unless every name has one."""
    matches = [re.fullmatch(r"(\d{1,2})\.\w+", key) for key in tensors]
    return {int(match[1]) for match in matches if match} if all(matches) else set()


def _layer(tensors: dict[str, Tensor]) -> nn.Module:
    """Return the linear layer or batch norm with these weights; raise ValueError if they are another layer's."""
    names = tensors.keys() - {"num_batches_tracked"}
    layer: nn.Module
    if names | {"bias"} == {"weight", "bias"} and tensors["weight"].ndim == 2:
        outputs, inputs = tensors["weight"].shape
        layer = nn.Linear(inputs, outputs, bias="bias" in names)
    elif names | {"weight", "bias"} == {"weight", "bias", "running_mean", "running_var"}:
        layer = nn.BatchNorm1d(len(tensors["running_mean"]), affine="weight" in names)
    else:
        raise ValueError(f"a layer has {', '.join(sorted(names))}")
    layer.load_state_dict(tensors, strict=False)
    return layer
