"""The names of EfficientNet-PyTorch, whose blocks are numbered in one row, to those of timm, which numbers stages."""

import re
from collections.abc import Mapping
from itertools import groupby

from torch import Tensor

OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}

IN_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}

IN_FIRST_STAGE = IN_BLOCK | {"_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""A block that does not expand has one convolution less, and timm numbers what it has."""

BLOCK = re.compile(r"_blocks\.(\d+)\.(\w+)\.(.+)")


def efficientnet_to_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights by the names of timm's ``tf_efficientnet_*``.

    A stage begins where the number of output channels changes: all blocks of a stage have the same, and neighbouring
    stages of every published width have others.
    """
    outputs = {
        int(match[1]): len(tensor)
        for key, tensor in state.items()
        if (match := BLOCK.fullmatch(key)) and match[2] == "_project_conv"
    }
    stages = [list(group) for _, group in groupby(sorted(outputs), key=outputs.__getitem__)]
    places = {block: (stage, at) for stage, blocks in enumerate(stages) for at, block in enumerate(blocks)}
    renamed = {}
    for key, tensor in state.items():
        part, _, rest = key.partition(".")
        ours = f"{OUTSIDE.get(part, part)}.{rest}"
        if (match := BLOCK.fullmatch(key)) and (number := int(match[1])) in places:
            expands = f"_blocks.{number}._expand_conv.weight" in state
            layer = (IN_BLOCK if expands else IN_FIRST_STAGE).get(match[2], match[2])
            ours = f"blocks.{'.'.join(map(str, places[number]))}.{layer}.{match[3]}"
        renamed[ours] = tensor
    return renamed
