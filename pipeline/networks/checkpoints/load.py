"""Load the weights of a checkpoint file: every weight of the backbone must be there; dropped keys are logged."""

import functools
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.networks.architectures import build_backbone, check_architecture
from compress_ssl.pipeline.networks.backbone import Backbone
from compress_ssl.pipeline.networks.checkpoints.file import CheckpointFile
from compress_ssl.pipeline.networks.checkpoints.fit import fitted
from compress_ssl.pipeline.networks.checkpoints.layouts import LAYOUTS, Weights

KNOWN_BY_SHAPE = (
    *("resnet50", "resnet18", "resnet50-w2", "resnet50-w4", "resnet50-w5", "mobilenet_v2", "alexnet", "resnet34"),
    *("resnet101", "resnet152", "efficientnet_b0", "mobilenet_v3_large", "mobilenet_v3_small", "vit_b_16"),
    *("resnet18-32px", "resnet34-32px", "resnet50-32px", "timm/vit_tiny_patch16_224", "timm/vit_small_patch16_224"),
    *("timm/vit_small_patch8_224", "timm/vit_small_patch14_dinov2", "timm/vit_base_patch16_224"),
    *("timm/vit_base_patch8_224", "timm/vit_base_patch14_dinov2"),
    *(f"timm/vit_{size}_patch14_reg4_dinov2" for size in ("small", "base")),
    *(f"timm/vit_{size}_patch16_dinov3_qkvb" for size in ("small", "base")),
    *(f"timm/tf_efficientnet_lite{number}" for number in range(5)),
    *(f"timm/tf_efficientnet_b{number}" for number in range(4)),
)  # architectures that a file is recognised as, likely ones first; of those with equal shapes only one is listed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A record of loading a file."""

    path: Path
    file_sha256: str
    layout: str
    used: int  # number of tensors loaded
    left_out: tuple[str, ...]  # keys of the other tensors: heads, momentum encoders, queues
    missing: tuple[str, ...]  # keys that the file lacks: only batch norm's counters, which affect no output
    taken: str  # key of its state dict in the file, or what the names started with
    usual: str  # key that is taken if nothing is chosen and nothing is averaged
    beside: tuple[str, ...]  # keys of state dicts that could be taken instead

    def __str__(self) -> str:
        """Return one line for the log."""
        others = ", ".join(f"#{key}" for key in self.beside)
        choice = f"; taken: #{self.taken}, not {others} (choose as in FILE#{self.beside[0]})" if others else ""
        return (
            f"loaded {self.used} tensors of '{self.path}' (layout {self.layout}, SHA-256 {self.file_sha256[:16]})"
            f"{choice}; left out: {_by_part(self.left_out)}; missing: {_by_part(self.missing)}"
        )

    def identity(self) -> dict[str, str]:
        """Return what a store records of the file."""
        part = {} if self.taken == self.usual else {"part": self.taken}
        return {"file_sha256": self.file_sha256, "layout": self.layout, **part}


def load_weights(file: CheckpointFile, weights: Weights, architecture: str) -> tuple[Backbone, LoadedCheckpoint]:
    """Return a network with the weights of a file.

    Raises:
        InputError: If a weight of the backbone is missing or has another shape, the file has unexpected keys in the
            backbone, or its tensors are not dense.
    """
    backbone = build_backbone(architecture, seed=None)
    tensors = weights.backbone
    if mismatches(backbone.module, tensors):
        tensors = fitted(backbone.module, tensors)
        if wrong := mismatches(backbone.module, tensors):
            raise _does_not_fit(file, weights, architecture, wrong)
    wanted = backbone.module.state_dict().keys()
    used = {key: tensor for key, tensor in tensors.items() if key in wanted}
    try:
        backbone.module.load_state_dict(used, strict=False)
    except RuntimeError as error:
        raise InputError(
            f"'{file.path}' holds weights that are not dense tensors (quantised, sparse, or on the meta device); save "
            "its state dict as safetensors."
        ) from error
    taken = {tensor.untyped_storage().data_ptr() for tensor in used.values()}
    head = tuple(
        LAYOUTS[weights.layout].prefix + key
        for key, tensor in weights.backbone.items()
        if key not in wanted and (tensors is weights.backbone or tensor.untyped_storage().data_ptr() not in taken)
    )
    missing = tuple(key for key in wanted if key not in used)
    choice = weights.taken.part, weights.taken.usual, weights.taken.beside
    left_out = head + tuple(weights.others)
    layout = ", ".join(filter(None, (weights.layout, weights.names)))
    loaded = LoadedCheckpoint(file.path, file.sha256, layout, len(used), left_out, missing, *choice)
    logger.info("%s: %s", architecture, loaded)
    return backbone, loaded


def mismatches(module: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Return what keeps weights from fitting a network, one text per key; empty if they fit.

    Keys outside the network's top-level modules (heads) and in the place of its classifier are ignored.
    """
    wanted = module.state_dict()
    found = []
    for key, tensor in wanted.items():
        idle = key.endswith(".num_batches_tracked")  # affects no output; not in old files
        if key not in weights:
            found += [] if idle else [f"{key} is missing"]
        elif weights[key].shape != tensor.shape:
            found.append(f"{key} is {tuple(weights[key].shape)} instead of {tuple(tensor.shape)}")
        elif weights[key].is_floating_point() != tensor.is_floating_point() and not idle:
            found.append(f"{key} is {weights[key].dtype} instead of {tensor.dtype}")
    parts = {key.partition(".")[0] for key in wanted}
    identities = [name for name, layer in module.named_modules() if isinstance(layer, nn.Identity)]
    classifier = tuple(f"{name}." for name in identities[-1:])  # removed: the last module that is an identity
    found += [
        f"{key} is unexpected"
        for key in weights
        if key not in wanted and key.partition(".")[0] in parts and not key.startswith(classifier)
    ]
    return found


def architecture_of(weights: Mapping[str, Tensor]) -> str | None:
    """Return the first of ``KNOWN_BY_SHAPE`` with the keys and shapes of these weights."""
    return next((name for name in KNOWN_BY_SHAPE if not mismatches(_on_meta(name), weights)), None)


@functools.cache
def _on_meta(architecture: str) -> nn.Module:
    check_architecture(architecture)  # imports its library, whose own tensors belong to no meta device
    with torch.device("meta"):
        return build_backbone(architecture, seed=None).module


def _does_not_fit(file: CheckpointFile, weights: Weights, architecture: str, wrong: list[str]) -> InputError:
    fitting = architecture_of(weights.backbone)
    if fitting is None and not any(tensor.ndim == 4 for tensor in weights.backbone.values()):
        keys = list(weights.backbone) + list(weights.others)
        return InputError(
            f"'{file.path}' holds a head without its network ({', '.join(keys[:3])}); give the file of the network."
        )
    advice = f"{fitting} would fit: give {fitting}:PATH" if fitting else "give NAME:PATH with the architecture it has"
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return InputError(
        f"'{file.path}' (layout {weights.layout}) does not fit {architecture}: {', '.join(wrong[:3])}{more}; {advice}."
    )


def _by_part(keys: tuple[str, ...]) -> str:
    """Count keys by module, as in ``encoder_k (318), queue (1)``."""
    prefixes = sorted((layout.prefix for layout in LAYOUTS.values()), key=len, reverse=True)
    counts: Counter[str] = Counter()
    for key in keys:
        prefix = next(prefix for prefix in prefixes if key.startswith(prefix))
        counts[prefix + key.removeprefix(prefix).partition(".")[0]] += 1
    return ", ".join(f"{part} ({count})" for part, count in counts.items()) or "nothing"
