"""Networks whose names and shapes are another's, but which compute something else.

Where the layout tells which project wrote a file, its network is built as that project builds it. Where a file does not
tell, a warning says what was assumed and what to give instead.
"""

import contextlib
import functools
import logging
from collections.abc import Mapping

from typing_extensions import TypedDict

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.networks.architectures import TIMM, TWELVE_HEADS, default_preprocessing
from compress_ssl.pipeline.networks.backbone import SMALL_IMAGES, SOLO_LEARN
from compress_ssl.pipeline.networks.checkpoints.file import CheckpointFile
from compress_ssl.pipeline.networks.checkpoints.layouts import LAYOUTS, Weights
from compress_ssl.pipeline.networks.preprocessing import Preprocessing
from compress_ssl.pipeline.networks.timm_models import timm_names, timm_preprocessing
from compress_ssl.storage.errors import StoreError
from compress_ssl.storage.typed_files import read_json

CIFAR100 = Preprocessing((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), 32, 32)
"""As solo-learn's solo/data/pretrain_dataloader.py, commit 9187ea3."""

TWINS = {
    "tf_": "padding and epsilon of batch norm",  # TensorFlow's SAME padding and 1e-3
    "quickgelu_": "GELU",  # OpenAI's CLIP computes x sigmoid(1.702 x)
}  # parts of timm's names that change what a network computes, but no shape; and what they change

logger = logging.getLogger(__name__)


class _Config(TypedDict, total=False):
    architecture: str


def built_as(architecture: str, weights: Weights) -> str:
    """Return the architecture as the project builds it that wrote the weights.

    solo-learn pads the first convolution of its ResNets for CIFAR by 2 (solo/methods/base.py, commit 9187ea3). MoCo
    v3's ViTs have 12 heads at any width (facebookresearch/moco-v3, vits.py, commit 38aae44), and so has solo-learn's
    copy, known by its position embedding: it is not trained, and zero for the class token.
    """
    is_solo = weights.layout in ("solo-learn", "encoder") and "classifier.weight" in weights.others
    if is_solo and architecture.startswith("resnet") and architecture.endswith(SMALL_IMAGES):
        return f"{architecture.removesuffix(SMALL_IMAGES)}{SOLO_LEARN}"
    is_moco_v3 = weights.layout.startswith("moco-v3") or (is_solo and _has_fixed_positions(weights))
    return _with_twelve_heads(architecture) if is_moco_v3 else architecture


def preprocessing_of(architecture: str, weights: Weights) -> Preprocessing:
    """Return the preprocessing of a layout, else of an architecture, solo-learn's by its number of classes."""
    classes = weights.others.get("classifier.weight")
    if architecture.endswith(SOLO_LEARN) and classes is not None and len(classes) == 100:
        return CIFAR100
    return LAYOUTS[weights.layout].preprocessing or default_preprocessing(architecture)


def warn_of_variants(file: CheckpointFile, weights: Weights, architecture: str) -> None:
    """Warn of what the weights do not tell: another network, or preprocessing, may be meant.

    Raises:
        InputError: If the file names another of timm's networks.
    """
    if architecture.startswith("resnet") and architecture.endswith(SMALL_IMAGES):
        named = f"{architecture.removesuffix(SMALL_IMAGES)}{SOLO_LEARN}"
        logger.warning(
            "'%s' does not tell how its first convolution is padded: by 1 is assumed. solo-learn's networks for CIFAR "
            "pad by 2: for one of them give %s:PATH.", file.path, named,
        )  # fmt: skip
    if (heads := _with_twelve_heads(architecture)) != architecture and _has_fixed_positions(weights):
        logger.warning(
            "'%s' does not tell how many heads its attention has; those of MoCo v3 have 12: for one of them give "
            "%s:PATH.", file.path, heads,
        )  # fmt: skip
    if architecture.startswith(TIMM):
        _check_timm(file, weights, architecture.removeprefix(TIMM))


def _check_timm(file: CheckpointFile, weights: Weights, name: str) -> None:
    base, _, tag = name.partition(".")
    named = _named_in(file)
    if weights.names is not None and weights.names.startswith("efficientnet"):  # padded as in TensorFlow
        named = f"tf_{base.removeprefix('tf_')}"
    if named is not None and named != base:
        raise InputError(f"'{file.path}' is a {named} by its own account, not a {base}; give {TIMM}{named}:PATH.")
    if named is None:
        for twin, difference in _twins(base).items():
            logger.warning(
                "'%s' does not name its architecture; %s has the same shapes as %s, but another %s: make sure that "
                "it is none.", file.path, f"{TIMM}{twin}", f"{TIMM}{base}", difference,
            )  # fmt: skip
    if not tag and LAYOUTS[weights.layout].preprocessing is None:
        ours = timm_preprocessing(name)
        others = [each for each in _tagged(base) if timm_preprocessing(each).mean != ours.mean]
        if others:
            logger.warning(
                "Images for '%s' are normalized with mean %s and std %s. timm's %s differ in that: for such weights "
                "give %s%s:PATH.", file.path, ours.mean, ours.std, ", ".join(others), TIMM, others[0],
            )  # fmt: skip


def _named_in(file: CheckpointFile) -> str | None:
    """Return the network of timm that a file names: timm's ``arch``, or the hub's ``config.json`` beside it."""
    named = file.content.get("arch") if isinstance(file.content, Mapping) else None
    if not isinstance(named, str):
        with contextlib.suppress(OSError, StoreError):
            named = read_json(file.path.with_name("config.json"), _Config).get("architecture")
    base = named.partition(".")[0] if isinstance(named, str) else None
    return base if base in timm_names() else None


def _twins(name: str) -> dict[str, str]:
    """Return timm's networks of the same shapes, and what is different."""
    found = {}
    for mark, difference in TWINS.items():
        added = f"{mark}{name}" if mark == "tf_" else name.replace("_clip_", f"_clip_{mark}")
        found[name.replace(mark, "") if mark in name else added] = difference
    return {twin: difference for twin, difference in found.items() if twin != name and twin in timm_names()}


@functools.cache
def _tagged(base: str) -> list[str]:
    return [name for name in timm_names() if name.startswith(f"{base}.")]


def _has_fixed_positions(weights: Weights) -> bool:
    """Return True if a ViT's class token has position zero: its position embedding is sine and cosine, not trained."""
    positions = weights.backbone.get("pos_embed")
    return positions is not None and positions.ndim == 3 and positions.numel() > 0 and not positions[:, 0].any()


def _with_twelve_heads(architecture: str) -> str:
    return TWELVE_HEADS.get(architecture.partition(".")[0], architecture)
