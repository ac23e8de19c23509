"""Checkpoint layouts of the projects that publish weights, recognised by their keys.

``find_weights`` takes a state dict (``state_dicts.py``), and selects the backbone's keys by the first of ``LAYOUTS``
whose marks are all found.
"""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from compress_ssl.pipeline.common.errors import InputError
from compress_ssl.pipeline.networks.checkpoints.file import CheckpointFile
from compress_ssl.pipeline.networks.checkpoints.names import NAMES, names_of
from compress_ssl.pipeline.networks.checkpoints.state_dicts import StateDict, take_state_dict
from compress_ssl.pipeline.networks.preprocessing import Preprocessing

IMAGENET = Preprocessing()
UNIT_RANGE = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
"""Images in [0, 1], for SimCLR (as in its paper; CompRess, cache_feats.py, commit 6bd816a)."""
IMAGENET_BICUBIC = Preprocessing(interpolation="bicubic")
"""As DINO evaluates (facebookresearch/dino, eval_linear.py, commit 04c0ad9)."""


@dataclass(frozen=True)
class Layout:
    """One project's names for the parts of its networks."""

    source: str  # Repository, file and commit of the saving or loading code
    marks: tuple[str, ...] = ()  # regular expressions, each of which must match the start of some key, as the prefix
    container: str = ""
    """Regular expression of the required container, followed by ``module.`` if all keys must have that prefix."""
    prefix: str = ""  # prefix of the backbone's keys; all other keys are dropped
    names: dict[str, str] = field(default_factory=dict)
    """Prefixes of the backbone's keys to those of the architecture, where they differ."""
    preprocessing: Preprocessing | None = None
    """Of the project's networks; None for a layout that several methods share."""


def _flat_resnet50() -> dict[str, str]:
    """Return the names of a ResNet-50's layers numbered in TensorFlow's order, a block's shortcut first."""
    order = [("conv1", "bn1")]
    for layer, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            at = f"layer{layer}.{block}"
            if block == 0:
                order.append((f"{at}.downsample.0", f"{at}.downsample.1"))
            order += [(f"{at}.conv{number}", f"{at}.bn{number}") for number in (1, 2, 3)]
    return {
        f"{theirs}{f'_{number}' if number else ''}.": f"{ours}."
        for number, pair in enumerate(order)
        for theirs, ours in zip(("conv2d", "batch_normalization"), pair, strict=True)
    }


LAYOUTS: dict[str, Layout] = {
    "simclr-flat": Layout(
        source="UMBCvision/CompRess, models/resnet50x4.py, commit 8e30aca, loaded by cache_feats.py, commit 6bd816a",
        marks=(r"conv2d\.weight", r"batch_normalization_52\.weight"),
        names=_flat_resnet50(),
        preprocessing=UNIT_RANGE,
    ),
    "moco-v2": Layout(
        source="facebookresearch/moco, main_lincls.py, commit 010242b; moco/builder.py (mlp), commit 4397a04",
        marks=(r"encoder_q\.fc\.0\.",),
        prefix="encoder_q.",
        preprocessing=IMAGENET,
    ),
    "moco-v1": Layout(
        source="facebookresearch/moco, main_lincls.py, commit 010242b; moco/builder.py, commit 4397a04",
        marks=(r"encoder_q\.fc\.weight",),
        prefix="encoder_q.",
        preprocessing=IMAGENET,
    ),
    "moco": Layout(
        source="facebookresearch/moco, main_lincls.py, commit 010242b: no head, which tells version 1 from 2",
        prefix="encoder_q.",
        preprocessing=IMAGENET,
    ),
    "moco-v3": Layout(
        source="facebookresearch/moco-v3, main_lincls.py, commit 2877a78; moco/builder.py, commit 0c5d00a",
        prefix="base_encoder.",
        preprocessing=IMAGENET,
    ),
    "swav": Layout(
        source="facebookresearch/swav, hubconf.py, commit 2c4b00e; src/resnet50.py and eval_linear.py, commit 04b8f43",
        marks=(r"conv1\.", r"projection_head\."),
        preprocessing=IMAGENET,
    ),
    "dino": Layout(
        source="facebookresearch/dino, load_pretrained_weights in utils.py, commit 144f705; "
        "main_dino.py, commit 04c0ad9",
        marks=(r"head\.",),
        container="teacher|student",
        prefix="backbone.",
        preprocessing=IMAGENET_BICUBIC,
    ),
    "vissl": Layout(
        source="facebookresearch/vissl, vissl/models/trunks/resnext.py, commit 0e611ca, and "
        "extra_scripts/convert_vissl_to_torchvision.py, commit 0832020; all of its configurations normalise alike",
        prefix="_feature_blocks.",
        preprocessing=IMAGENET,
    ),
    "compress-alexnet": Layout(
        source="UMBCvision/CompRess, models/alexnet.py, commit 4dcb51a; train_student.py, commit cf33bab",
        marks=(r"features\.0\.", r"feats\.0\.", r"feats\.2\."),
        names={"feats.0.": "classifier.1.", "feats.2.": "classifier.4."},
        preprocessing=IMAGENET,
    ),
    "solo-learn": Layout(
        source="vturrisi/solo-learn, main_linear.py and solo/methods/base.py, commit 008f64f "
        "(later: backbone for encoder)",
        marks=(r"classifier\.",),
        prefix="backbone.",
    ),
    "lightly": Layout(
        source="lightly-ai/lightly, examples/pytorch_lightning/moco.py, commit 0e4125d: "
        "the children of a ResNet in a row",
        marks=(r"backbone\.0\.weight", r"backbone\.7\.0\."),
        prefix="backbone.",
        names={"0.": "conv1.", "1.": "bn1.", **{f"{layer + 3}.": f"layer{layer}." for layer in (1, 2, 3, 4)}},
    ),
    "barlow-twins": Layout(
        source="facebookresearch/barlowtwins, main.py, commit 046eec3 "
        "(whole checkpoint; the backbone alone is 'plain')",
        marks=(r"projector\.", r"bn\.running_mean"),
        prefix="backbone.",
        preprocessing=IMAGENET,
    ),
    "vicreg": Layout(
        source="facebookresearch/vicreg, evaluate.py, commit 7c44ca0; main_vicreg.py, commit 08c8c0c "
        "(whole checkpoint)",
        marks=(r"projector\.0\.bias",),
        prefix="backbone.",
        preprocessing=IMAGENET,
    ),
    "backbone": Layout(
        source="lightly-ai/lightly, benchmarks/imagenet/resnet50/simclr.py, commit 01f590f; Lightning modules alike",
        prefix="backbone.",
    ),
    "encoder": Layout(
        source="vturrisi/solo-learn, main_linear.py, commit 008f64f (early releases); Lightning modules alike",
        marks=(r"encoder\.(conv1|features|patch_embed|stem)\.",),
        prefix="encoder.",
    ),
    "model": Layout(source="Lightning modules that keep a network as self.model", prefix="model."),
    "moco-v3-momentum": Layout(
        source="facebookresearch/moco-v3, moco/builder.py, commit 0c5d00a: "
        "a file without the encoder that is evaluated",
        prefix="momentum_encoder.",
        preprocessing=IMAGENET,
    ),
    "compress": Layout(
        source="UMBCvision/CompRess, train_student.py, commit cf33bab, and train_student_one_queue.py, commit c5e57ed; "
        "models/resnet.py and models/mobilenet.py, commit 4dcb51a, loaded by eval_knn.py, commit 30a821b",
        container=r"model module\.",
        preprocessing=IMAGENET,
    ),
    "plain": Layout(
        source="the architecture's own keys: torchvision, timm; tonylins/simclr-converter, convert.py, commit 59bee34; "
        "facebookresearch/barlowtwins, hubconf.py, commit 046eec3; "
        "facebookresearch/vicreg, hubconf.py, commit 060db99; facebookresearch/dino, hubconf.py, commit 144f705"
    ),
}  # in order of precedence; ``plain`` matches every file

NOT_READ = {
    r"(.+\.)?(embeddings\.(cls_token|class_embedding|patch_embed|position_embed)|embedder\.|convolution\.)": "Hugging "
    "Face transformers, of which only ResNet, ViT, DeiT, MAE, DINOv2 and DINOv3 are read; give the same network as "
    "timm/NAME, or as MODULE:FUNCTION, a function that builds it",
    r"(backbone\.(bottom_up\.)?)?res[2-5]\.\d+\.": "Detectron2, whose names and BGR images are not read; give the file "
    "that it was trained from",
    r"(.+\.)?_?flat_param": "FSDP in shards; save the full state dict (StateDictType.FULL_STATE_DICT)",
}  # names of projects that cannot be read, to what to say; a regular expression that must match the start of some key


class Weights(NamedTuple):
    """The weights of a file, by its layout."""

    layout: str
    names: str | None  # which of ``NAMES`` its keys were; None for those of torchvision or timm
    backbone: dict[str, Tensor]  # by the architecture's keys; may include a head
    others: dict[str, Tensor]  # what the state dict holds outside the backbone: heads, momentum encoders, queues
    taken: StateDict


def find_weights(file: CheckpointFile, part: str | None = None) -> Weights:
    """Find the weights of a file and their layout.

    Args:
        part: Of the file, as in a reference; None for the usual one.

    Raises:
        InputError: If the file has no weights, or not the part, or is another project's that cannot be read.
    """
    taken = take_state_dict(file, part)
    keys = taken.tensors.keys()
    layout = "plain" if names_of(keys) else _layout_of(taken)
    prefix, theirs_to_ours = LAYOUTS[layout].prefix, LAYOUTS[layout].names
    backbone, others = {}, {}
    for key, value in taken.tensors.items():
        if not key.startswith(prefix):
            others[key] = value
            continue
        ours = key.removeprefix(prefix)
        theirs = next(filter(ours.startswith, theirs_to_ours), "")
        backbone[theirs_to_ours.get(theirs, "") + ours.removeprefix(theirs)] = value
    names = names_of(backbone)
    if names is not None:
        return Weights(layout, names, NAMES[names].convert(backbone), others, taken)
    for mark, advice in NOT_READ.items():
        if any(re.match(mark, key) for key in keys):
            raise InputError(f"'{file.path}' was written by {advice}.")
    return Weights(layout, None, backbone, others, taken)


def _layout_of(taken: StateDict) -> str:
    return next(
        name
        for name, layout in LAYOUTS.items()
        if re.match(layout.container, taken.container)
        and all(any(re.match(mark, key) for key in taken.tensors) for mark in (re.escape(layout.prefix), *layout.marks))
    )
